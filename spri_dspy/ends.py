"""How each example of a run ended: its id, whether it went well, its stop reasons, and where its last record stands.

Of long runs this is kept on disk too, in records.index, so that nobody has to parse a million records to learn which
examples are finished: a line for each stretch of records, in their order, with a hash over that line and over the
records' bytes. A line is believed only while both are what they were; from the first that is not on, records are
parsed. So by accident the file can say nothing that the records do not: cut, damaged, stale or gone, it costs time and
no more. The hash, XXH3, is no guard against forgery, nor would another be: who can write into a run directory can make
both files fit, and could as well write records. Such an index can hide examples or have them run again; no more.

It knows lines and records; it knows nothing of run directories.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import xxhash

from spri_dspy.id_table import IdTable
from spri_dspy.records import Record, is_record
from spri_dspy.strict_json import from_text, to_text

STRETCH_BYTES = 1 << 20
"""Records of at least so many bytes make a stretch; the fewer ones at the end are parsed."""

_VERSION = b"records.index 2\n"
"""Of what is kept of a record, and of what counts as one; hashed too, so that lines of another are not believed."""

_LONGEST = 1 << 26  # of a line of the index
_PIECE = 1 << 20  # of the records, in bytes, that is hashed at a time


Kind = tuple[bool, tuple[str, ...]]
"""How an example ended: whether it went well, and its stop reasons."""


class End(NamedTuple):
    """What a record says of how its example ended.

    Attributes:
        id: the example's.
        ok: False if it failed.
        stops: its stop reasons, such as "response accepted".
        inputs: their hash, see `hash_of_inputs`.
    """

    id: str
    ok: bool
    stops: tuple[str, ...]
    inputs: int

    @classmethod
    def of(cls, record: Record) -> End:
        """What a record says."""
        return cls(record.id, record.ok, _stops(record.stop_reasons), hash_of_inputs(record.inputs))

    @classmethod
    def read(cls, line: bytes) -> End | None:
        """What a record's line says; None of a line that no record can be read from."""
        try:
            value = from_text(line)
            if is_record(value):
                stops = _stops(value.get("stop_reasons", {}))
                return cls(value["id"], value.get("error") is None, stops, hash_of_inputs(value["inputs"]))
        except (ValueError, TypeError, KeyError, RecursionError):  # what a broken line may raise
            pass
        return None


def _stops(reasons: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple([f"{stage} {reason}" for stage, reason in reasons.items()])


def hash_of_inputs(inputs: Mapping[str, Any]) -> int:
    """64 bits of a hash of an example's inputs (JSON types), whatever their order; the same in every process."""
    try:
        text = orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half a surrogate pair, a huge number
        text = json.dumps(from_text(to_text(inputs)), sort_keys=True).encode()
    return xxhash.xxh3_64_intdigest(text)


class _Line(NamedTuple):
    """What a line of the index says of each record: its id, the number of its kind from 1, the hash of its inputs.

    Of a line that holds no record it is None, 0 and 0.
    """

    end: int  # where the line ends in the index
    ids: Sequence[str | None]
    ends: Sequence[int]
    inputs: array[int]
    kinds: Sequence[Kind]


class Ends:
    """How each example ended, by its id; and of each line, whether it holds the last record of its example.

    Attributes:
        lines: by the example's id the number of its last record's line, from 1, negative if the example failed.
        n_lines: of the file.
        n_failed: examples whose last record is a failure.
        unreadable: the numbers of whole lines that hold no record.
        stamp: of the file when it was read; None of the one who writes it.
    """

    def __init__(self, stamp: tuple[int, ...] | None) -> None:
        self.lines, self.n_lines, self.n_failed = IdTable(), 0, 0
        self.unreadable: list[int] = []
        self.stamp = stamp
        # The number of its stop reasons, negative if it failed, 0 if it holds no last record; no line has number 0.
        self._by_line = array("i", [0])
        self._inputs = array("Q", [0])  # by line too
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
            self._note([end.id], [self._kind(end.ok, end.stops)], [end.inputs])
        else:
            self._note([None], [0], [0])
            if not line.endswith(b"\n"):
                self.unreadable.pop()  # it is being written
        if self._stretch is not None and not self._stretch.add(line, end):
            self._stretch = None

    def _add_known(self, line: _Line) -> None:
        kinds = [0, *(self._kind(ok, stops) for ok, stops in line.kinds)]
        self._note(line.ids, [kinds[end] for end in line.ends], line.inputs)

    def _kind(self, ok: bool, stops: tuple[str, ...]) -> int:
        """The number of these stop reasons, from 1, negative for a failure."""
        number = self._stops.setdefault(stops, len(self._stops) + 1)
        return number if ok else -number

    def _note(self, ids: Sequence[str | None], kinds: Iterable[int], inputs: Iterable[int]) -> None:
        """The next lines: of each the example's id, how it ended and its inputs; None, 0 and 0 if it has no record."""
        by_line, replace, first = self._by_line, self.lines.replace, self.n_lines + 1
        by_line.extend(kinds)
        self._inputs.extend(inputs)
        self.n_lines += len(ids)
        for number, name in enumerate(ids, first):
            if name is None:
                self.unreadable.append(number)
                continue
            is_failure = by_line[number] < 0
            before = replace(name, -number if is_failure else number)
            if before or is_failure:
                by_line[abs(before)] = 0  # no line has number 0
                self.n_failed += is_failure - (before < 0)

    @property
    def n_finished(self) -> int:
        """Examples with a record."""
        return len(self.lines)

    def is_last(self, number: int) -> bool:
        """Whether a line holds the last record of its example."""
        return number <= self.n_lines and self._by_line[number] != 0

    def is_failure(self, number: int) -> bool:
        """Whether a line holds the last record of an example that failed."""
        return number <= self.n_lines and self._by_line[number] < 0

    def inputs_at(self, number: int) -> int:
        """The hash of the inputs of a line's record."""
        return self._inputs[number]

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
        self._hash, self._n_bytes = xxhash.xxh3_128(_VERSION), 0
        self._ids: list[str | None] = []
        self._ends: list[int] = []
        self._inputs: list[int] = []
        self._kinds: dict[Kind, int] = {}

    def add(self, line: bytes, end: End | None) -> bool:
        """One more line; False if the index cannot be written, so that there is no use in more."""
        self._hash.update(line)
        self._n_bytes += len(line)
        self._ids.append(end and end.id)
        kind = 0 if end is None else self._kinds.setdefault((end.ok, end.stops), len(self._kinds) + 1)
        self._ends.append(kind)
        self._inputs.append(0 if end is None else end.inputs)
        return self._n_bytes < STRETCH_BYTES or self._write()

    def _write(self) -> bool:
        parts = (self._n_bytes, self._ids, self._ends, self._inputs, list(self._kinds))
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


def _believed(index: Path, records: BufferedReader) -> Iterator[_Line]:
    """The lines of an index that fit the records, which are left where the last of these ends.

    Yields:
        what a line says.
    """
    start = size = 0
    piece = memoryview(bytearray(_PIECE))
    if index.is_file():
        with contextlib.suppress(OSError), index.open("rb") as lines:
            while line := lines.readline(_LONGEST):
                found = _checked(line, records, piece)
                if found is None:
                    break
                start, size = records.tell(), size + len(line)
                yield found._replace(end=size)
    records.seek(start)


def _checked(line: bytes, records: BufferedReader, piece: memoryview) -> _Line | None:
    """What a line of an index says, if the next records are those that it was written of.

    The memory is what these are read into.
    """
    digest, _, said = line.rstrip(b"\n").partition(b" ")
    try:
        left, ids, ends, inputs, kinds = from_text(said)
        hashed = xxhash.xxh3_128(_VERSION)
        while left > 0 and (n := records.readinto(piece[:left])):
            hashed.update(piece[:n])
            left -= n
        hashed.update(said)
        if left or hashed.hexdigest().encode() != digest:
            return None
        found = _Line(
            0, ids, array("I", ends), array("Q", inputs), [(ok, tuple(stops)) for ok, stops in kinds]
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    is_whole = len(ids) == len(found.ends) == len(found.inputs) and {*map(type, ids)} <= {str, type(None)}
    return found if is_whole and max(found.ends, default=0) <= len(found.kinds) else None


class Finished(Set[str]):
    """Ids of examples that were finished at one moment: a set in little memory, that reads the records to list them.

    Attributes:
        n_lines: of the records, at that moment.
    """

    def __init__(
        self, lines: Callable[[], Iterator[tuple[int, bytes]]], ends: Ends, *, retry_errors: bool
    ) -> None:
        self._lines, self._ends, self._retry_errors = lines, ends, retry_errors
        self._line_of, self.n_lines = ends.lines.get, ends.n_lines
        self._n = ends.n_finished - (ends.n_failed if retry_errors else 0)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.line(name) > 0

    def line(self, name: str) -> int:
        """The line of an example's record, from 1; 0 if it is not finished."""
        line = self._line_of(name)
        if line < 0:
            line = 0 if self._retry_errors else -line
        return line if line <= self.n_lines else 0

    def had_other_inputs(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether an example is finished, and had other inputs than these, in JSON types."""
        line = self.line(name)
        return line > 0 and self._ends.inputs_at(line) != hash_of_inputs(inputs)

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines():
            end = End.read(line) if number <= self.n_lines and self._ends.is_last(number) else None
            if end is not None and (end.ok or not self._retry_errors):
                yield end.id

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:  # of unions and differences
        return set(it)
