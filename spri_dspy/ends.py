"""How each example of a run ended: its id, whether it went well, its stop reasons, and where its last record stands.

Of long runs this is kept on disk too, in records.index, so that nobody has to parse a million records to learn which
examples are finished: a line for each stretch of records, in their order, with a SHA-256 over that line and over the
records' bytes. A line is believed only while both are what they were; from the first that is not on, records are
parsed. So the file can say nothing that the records do not: cut, damaged, stale or gone, it costs time and no more.

It knows lines and records; it knows nothing of run directories.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from spri_dspy.id_table import IdTable
from spri_dspy.records import Record, is_record
from spri_dspy.strict_json import from_text, to_text

STRETCH_BYTES = 1 << 20
"""Records of at least so many bytes make a stretch; the fewer ones at the end are parsed."""

_VERSION = b"records.index 1\n"
"""Of what is kept of a record, and of what counts as one; hashed too, so that lines of another are not believed."""

_LONGEST = 1 << 26  # of a line of the index


Kind = tuple[bool, tuple[str, ...]]
"""How an example ended: whether it went well, and its stop reasons."""


class End(NamedTuple):
    """What a record says of how its example ended.

    Attributes:
        id: the example's.
        ok: False if it failed.
        stops: its stop reasons, such as "response accepted".
    """

    id: str
    ok: bool
    stops: tuple[str, ...]

    @classmethod
    def of(cls, record: Record) -> End:
        """What a record says."""
        return cls(record.id, record.ok, _stops(record.stop_reasons))

    @classmethod
    def read(cls, line: bytes) -> End | None:
        """What a record's line says; None of a line that no record can be read from."""
        try:
            value = from_text(line)
            if is_record(value):
                return cls(value["id"], value.get("error") is None, _stops(value.get("stop_reasons", {})))
        except (ValueError, TypeError, KeyError, RecursionError):  # what a broken line may raise
            pass
        return None


def _stops(reasons: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple([f"{stage} {reason}" for stage, reason in reasons.items()])


class _Line(NamedTuple):
    """What a line of the index says: of each record the id and the number of its kind, from 1; None and 0 of none."""

    end: int  # where the line ends in the index
    ids: Sequence[str | None]
    ends: Sequence[int]
    kinds: Sequence[Kind]


class Ends:
    """How each example ended, by its id; and of each line, whether it holds the last record of its example.

    Attributes:
        lines: by the example's id the number of its last record's line, from 1, negative if the example failed.
        n_lines: of the file.
        n_finished, n_failed: examples with a record, and those whose last one is a failure.
        unreadable: the numbers of whole lines that hold no record.
        stamp: of the file when it was read; None of the one who writes it.
    """

    def __init__(self, stamp: tuple[int, ...] | None) -> None:
        self.lines, self.n_lines, self.n_finished, self.n_failed = IdTable(), 0, 0, 0
        self.unreadable: list[int] = []
        self.stamp = stamp
        # The number of its stop reasons, negative if it failed, 0 if it holds no last record; no line has number 0.
        self._by_line = array("i", [0])
        self._stops: dict[tuple[str, ...], int] = {}
        self._stretch: _Stretch | None = None

    @classmethod
    def read(cls, records: Path, index: Path, stamp: tuple[int, ...] | None) -> Ends:
        """Read how the examples of a file of records ended, with the help of an index; without a stamp, keep that up.

        Args:
            records: the file; it need not be there.
            index: need not be there either; it is not written where it cannot be.
            stamp: None of the one who writes the records, and tells `add` of each.
        """
        ends, n_index = cls(stamp), 0
        if records.exists():
            with records.open("rb") as lines:
                for known in _believed(index, lines):
                    n_index = known.end
                    ends._add_known(known)
                if stamp is None:
                    ends._stretch = _Stretch(index, n_index)
                for line in lines:
                    ends.add(line, End.read(line))
        return ends

    def add(self, line: bytes, end: End | None) -> None:
        """The next line of the records, and what it says; None if it holds no record."""
        if end is not None:
            self._note(end.id, end.ok, self._number(end.stops))
        else:
            self._note(None, False, 0)
            if not line.endswith(b"\n"):
                self.unreadable.pop()  # it is being written
        if self._stretch is not None and not self._stretch.add(line, end):
            self._stretch = None

    def _add_known(self, line: _Line) -> None:
        kinds = [(False, 0), *((ok, self._number(stops)) for ok, stops in line.kinds)]
        for name, kind in zip(line.ids, line.ends, strict=True):
            self._note(name, *kinds[kind])

    def _number(self, stops: tuple[str, ...]) -> int:
        """The number of these stop reasons, from 1."""
        return self._stops.setdefault(stops, len(self._stops) + 1)

    def _note(self, name: str | None, ok: bool, stops: int) -> None:
        """The next line: an example's id, None if there is none, and how it ended."""
        self.n_lines += 1
        self._by_line.append(stops if ok else -stops)
        if name is None:
            self.unreadable.append(self.n_lines)
            return
        before = self.lines.replace(name, self.n_lines if ok else -self.n_lines)
        if before:
            self._by_line[abs(before)] = 0
        self.n_finished += before == 0
        self.n_failed += (not ok) - (before < 0)

    def is_last(self, number: int) -> bool:
        """Whether a line holds the last record of its example."""
        return number <= self.n_lines and self._by_line[number] != 0

    def is_failure(self, number: int) -> bool:
        """Whether a line holds the last record of an example that failed."""
        return number <= self.n_lines and self._by_line[number] < 0

    def stops(self) -> Counter[str]:
        """How many examples have each stop reason."""
        found: Counter[str] = Counter()
        counted = Counter(self._by_line)
        for stops, number in self._stops.items():
            for stop in stops:
                found[stop] += counted[number] + counted[-number]
        return +found


class _Stretch:
    """Lines of records that no line of the index covers yet; once they are many enough, it gets one."""

    def __init__(self, index: Path, size: int) -> None:
        self._index, self._size = index, size  # what lies behind that size is not believed
        self._clear()

    def _clear(self) -> None:
        self._hash, self._n_bytes = hashlib.sha256(_VERSION), 0
        self._ids: list[str | None] = []
        self._ends: list[int] = []
        self._kinds: dict[Kind, int] = {}

    def add(self, line: bytes, end: End | None) -> bool:
        """One more line; False if the index cannot be written, so that there is no use in more."""
        self._hash.update(line)
        self._n_bytes += len(line)
        self._ids.append(end and end.id)
        kind = 0 if end is None else self._kinds.setdefault((end.ok, end.stops), len(self._kinds) + 1)
        self._ends.append(kind)
        return self._n_bytes < STRETCH_BYTES or self._write()

    def _write(self) -> bool:
        parts = (self._n_bytes, self._ids, self._ends, list(self._kinds))
        said = to_text(parts, ascii_only=True).encode()
        self._hash.update(said)
        line = b"%s %s\n" % (self._hash.hexdigest().encode(), said)
        self._clear()
        try:
            out = os.open(self._index, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            try:
                os.ftruncate(out, self._size)
                self._size += os.pwrite(out, line, self._size)
            finally:
                os.close(out)
        except OSError:  # a folder, a pipe, a full disk: a restart takes longer, and that is all
            return False
        return True


def _believed(index: Path, records: BinaryIO) -> Iterator[_Line]:
    """The lines of an index that fit the records, which are left where the last of these ends.

    Yields:
        where a line ends in the index, and what it says.
    """
    start = size = 0
    if index.is_file():
        with contextlib.suppress(OSError), index.open("rb") as lines:
            while line := lines.readline(_LONGEST):
                found = _checked(line, records)
                if found is None:
                    break
                start, size = records.tell(), size + len(line)
                yield _Line(size, *found)
    records.seek(start)


def _checked(line: bytes, records: BinaryIO) -> tuple[Any, Any, Any] | None:
    """Ids, ends and kinds of a line of an index, if the next records are those that it was written of."""
    digest, _, said = line.rstrip(b"\n").partition(b" ")
    try:
        n_bytes, ids, ends, kinds = from_text(said)
        left, hashed = int(n_bytes), hashlib.sha256(_VERSION)
    except (ValueError, TypeError, RecursionError):
        return None
    while left > 0 and (piece := records.read(min(left, STRETCH_BYTES))):
        hashed.update(piece)
        left -= len(piece)
    hashed.update(said)
    if left or hashed.hexdigest().encode() != digest:
        return None
    return ids, ends, [(ok, tuple(stops)) for ok, stops in kinds]


class Finished(Set[str]):
    """Ids of examples that were finished at one moment: a set in little memory, that reads the records to list them."""

    def __init__(
        self, lines: Callable[[], Iterator[tuple[int, bytes]]], ends: Ends, *, retry_errors: bool
    ) -> None:
        self._lines, self._ends, self._retry_errors = lines, ends, retry_errors
        self._until = ends.n_lines
        self._n = ends.n_finished - (ends.n_failed if retry_errors else 0)

    def __contains__(self, name: object) -> bool:
        line = self._ends.lines.get(name) if isinstance(name, str) else 0
        return 0 < abs(line) <= self._until and (line > 0 or not self._retry_errors)

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines():
            end = End.read(line) if number <= self._until and self._ends.is_last(number) else None
            if end is not None and (end.ok or not self._retry_errors):
                yield end.id

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:  # of unions and differences
        return set(it)
