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
        self._keys, self._values = array("q", bytes(8 * size)), array("q", bytes(8 * size))

    def __len__(self) -> int:
        return self._n

    def __contains__(self, name: str) -> bool:
        return self._keys[self._place(hash(name) or 1)] != 0

    def get(self, name: str, default: int = 0) -> int:
        """The number of an id, or the default."""
        place = self._place(hash(name) or 1)
        return self._values[place] if self._keys[place] else default

    def __setitem__(self, name: str, value: int) -> None:
        self.replace(name, value)

    def replace(self, name: str, value: int) -> int:
        """Set the number of an id; returns the one that it had, 0 if it had none."""
        key = hash(name) or 1
        place = self._place(key)
        if not self._keys[place]:
            return self._put(place, key, value)
        before, self._values[place] = self._values[place], value
        return before

    def add(self, name: str, value: int) -> int:
        """Give an id a number if it has none; returns the one that it had, 0 if it had none."""
        key = hash(name) or 1
        place = self._place(key)
        return self._values[place] if self._keys[place] else self._put(place, key, value)

    def _put(self, place: int, key: int, value: int) -> int:
        """A new id; 0, which is the number that it had."""
        self._keys[place], self._values[place] = key, value
        self._n += 1
        if 3 * self._n > 2 * len(self._keys):
            self._grow()
        return 0

    def _place(self, key: int) -> int:
        """Where a key is, or would be: probing goes to the next place while another key is there."""
        keys = self._keys
        last = len(keys) - 1
        place = key & last
        while (there := keys[place]) != key and there:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._make(2 * len(keys))
        new_keys, new_values, last = self._keys, self._values, len(self._keys) - 1
        for key, value in zip(keys, values, strict=True):
            if key:
                place = key & last
                while new_keys[place]:
                    place = (place + 1) & last
                new_keys[place], new_values[place] = key, value
