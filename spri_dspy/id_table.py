"""Whole numbers by id in 24 to 48 bytes an id, however long the ids are; a dict takes several times that.

An id is known by 64 bits of its hash: of a million ids, two are taken for one with a probability of 3 in 100 million.
A hash holds for one process only, so a table is never stored.
"""

from __future__ import annotations

from array import array

_FIRST = 1 << 10


class IdTable:
    """A table of whole numbers by id; ids cannot be listed, and none is ever removed."""

    def __init__(self) -> None:
        self._n = 0
        self._make(_FIRST)

    def _make(self, size: int) -> None:
        self._keys, self._values = array("Q", bytes(8 * size)), array("q", bytes(8 * size))

    def __len__(self) -> int:
        return self._n

    def __contains__(self, name: str) -> bool:
        return self._keys[self._place(_key(name))] != 0

    def get(self, name: str, default: int = 0) -> int:
        """The number of an id, or the default."""
        place = self._place(_key(name))
        return self._values[place] if self._keys[place] else default

    def __setitem__(self, name: str, value: int) -> None:
        self.replace(name, value)

    def replace(self, name: str, value: int) -> int:
        """Set the number of an id; returns the one that it had, 0 if it had none."""
        return self._put(name, value, keep=False)

    def add(self, name: str, value: int) -> int:
        """Give an id a number if it has none; returns the one that it had, 0 if it had none."""
        return self._put(name, value, keep=True)

    def _put(self, name: str, value: int, *, keep: bool) -> int:
        key = _key(name)
        place = self._place(key)
        if self._keys[place]:
            before = self._values[place]
            if not keep:
                self._values[place] = value
            return before
        self._keys[place], self._values[place] = key, value
        self._n += 1
        if 3 * self._n > 2 * len(self._keys):
            self._grow()
        return 0

    def _place(self, key: int) -> int:
        """Where a key is, or would be: probing goes to the next place while another key is there."""
        keys, last = self._keys, len(self._keys) - 1
        place = key & last
        while keys[place] not in (0, key):
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._make(2 * len(keys))
        for key, value in zip(keys, values, strict=True):
            if key:
                place = self._place(key)
                self._keys[place], self._values[place] = key, value


def _key(name: str) -> int:
    return (hash(name) & 0xFFFFFFFFFFFFFFFF) or 1
