"""Rows of files and runs: where a judge's number stands, where people's stand, and which rows belong together.

A column is named as it stands, or by dots that lead into objects and lists: `human.overall`, `annotators.0`; a list
stands for one annotator an item. Numbers may be texts; a blank cell is a missing number; -1 in `human_score` is none,
as in every run. Of pairs a verdict is 1, 2, or 0 (or tie); a list of two numbers stands for the higher one's place.

A row's id is its `id`, else its number. Rows that share an id are told apart by their order, and are one cluster unless
a cluster is named. It knows rows and columns, and computes no statistic.
"""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from spri_dspy.errors import DataError, UsageError
from spri_dspy.lookup import lookup, where_raised
from spri_dspy.metrics.rated import FIRST, SECOND, TIE, Kind
from spri_dspy.report import figures
from spri_dspy.runs import MANIFEST, RunDir
from spri_dspy.tasks.fields import is_blank, names_of, place_of, read_rows, shown

NO_JUDGE = "none"
"""As a score: there is no judge, people are held against each other."""

_VERDICTS = {"1": FIRST, "2": SECOND, "0": TIE, "tie": TIE}
_MISSING = object()

Row = tuple[str, Mapping[str, Any]]
"""A row, and where it stands ("votes.csv, line 3, id 'b'")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreeColumns:
    """Where a row has what; see this module for how a column is named.

    Attributes:
        score: the judge's number or verdict: a column; of a judged run one of its criteria; `path/to/file.py:NAME` or
            a function that makes it from the row; "none" for no judge. None: `score`, of pairs `winner`, and of a run
            its only criterion.
        swapped: of pairs, the verdict with the responses in the other order, mapped back. None: the score's column
            with `_swapped`, where there is one.
        id: what names a row; several with commas between.
        group: for figures by group; a run has its own.
        cluster: rows that are resampled together; a run has its own.
        no_label: a number of people's that stands for none.
    """

    score: str | Callable[[Mapping[str, Any]], Any] | None = None
    swapped: str | None = None
    id: str = "id"
    group: str | None = None
    cluster: str | None = None
    no_label: float | None = None


@dataclass(frozen=True)
class Source:
    """Rows of one judge, or of people.

    Attributes:
        name: the judge's.
        rows: in order.
        columns: what is read of them.
        is_run: the rows come from a run directory.
    """

    name: str
    rows: Sequence[Row]
    columns: AgreeColumns
    is_run: bool = False

    def need(self, column: str, what: str) -> None:
        """Refuse a column that no row has.

        Raises:
            DataError: names the columns that are there.
        """
        if all(dig(row, column) is _MISSING for _, row in self.rows):
            place, row = self.rows[0]
            raise DataError(f"{place}: no row has the column {column!r} ({what}); it has {names_of(row)}")


class Keys(NamedTuple):
    """Of every row, in order: its key, unique here; its id as the data has it; its group; its cluster."""

    keys: list[str]
    ids: list[str]
    groups: list[str | None]
    clusters: list[str | None]


def sources(judges: Any, columns: AgreeColumns) -> list[Source]:
    """The rows of every judge: files, run directories, or rows by the judge's name.

    Raises:
        DataError: one cannot be read, or has no rows.
        UsageError: none is named, one twice, or the offline LM gave a run's scores.
    """
    if isinstance(judges, Mapping):
        found = [
            Source(name, [(f"{name}, row {n}", row) for n, row in enumerate(rows, 1)], columns)
            for name, rows in judges.items()
        ]
    else:
        given = [judges] if isinstance(judges, str | Path) else [*judges]
        found = [source for path in given for source in _read(path, columns)]
    if not found:
        raise UsageError("name at least one file or run of a judge")
    empty = next((each.name for each in found if not each.rows), None)
    if empty is not None:
        raise DataError(f"{empty} has no rows")
    twice = [name for name, n in Counter(each.name for each in found).items() if n > 1]
    if twice:
        raise UsageError(f"two judges have the name {twice[0]!r}; rename a file or directory")
    return found


def _read(path: str | Path, columns: AgreeColumns) -> Iterator[Source]:
    """One file or run; of a run that was judged, but holds no scores of its own, what its judges said."""
    where = Path(path)
    if not where.is_dir():
        rows = [(place_of(place, row), row) for place, _, row in read_rows(path)]
        yield Source(_stem(str(path)), rows, columns)
        return
    run = RunDir.read(where)
    if not figures.is_judged(run) and not figures.has_judgements(run):
        inner = sorted(each.parent for each in (where / "judged").glob(f"*/{MANIFEST}"))
        if inner:
            for each in inner:
                yield from _read(each, columns)
            return
    yield _run_source(run, columns)


def _run_source(run: RunDir, columns: AgreeColumns) -> Source:
    """A run's examples as rows: labels, inputs, and the judge's number as `score`."""
    if figures.is_scored_offline(run):
        raise UsageError(f"{run.path}: the offline LM gave these scores, so they make no figures; name an LM")
    if callable(columns.score) or (columns.score or "").rpartition(":")[0].endswith(".py"):
        criterion, score = None, columns.score
    else:
        criterion, score = (None if columns.score == NO_JUDGE else columns.score), "score"
    known = figures.criteria_of(run)
    scores = {s.id: s.value for s in figures.scores_of(run, criterion if score == "score" else known[0])}
    rows: list[Row] = []
    for record in run.records():
        if record.id in scores:
            own = {
                "id": record.id,
                "group": record.group,
                "cluster": record.cluster,
                "score": scores[record.id],
            }
            rows.append(
                (f"{run.path}, id {record.id!r}", {**record.inputs, **record.outputs, **record.labels, **own})
            )
    mine = replace(columns, score=score, group=columns.group or "group", cluster=columns.cluster or "cluster")
    name = (
        run.path.name if run.path.parent.name != "judged" else f"{run.path.parents[1].name}/{run.path.name}"
    )
    name = name if criterion is None else f"{name} {criterion}"
    return Source(name, rows, mine, is_run=True)


def _stem(path: str) -> str:
    """A file's name without its endings."""
    name = Path(path).name
    for ending in (".gz", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"):
        name = name.removesuffix(ending)
    return name or path


def dig(row: Mapping[str, Any], column: str) -> Any:
    """What a row has in a column; _MISSING if there is no such column."""
    if column in row:
        return row[column]
    found: Any = row
    for part in column.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list | tuple) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return _MISSING
    return found


class Reader:
    """Reads rows into Items, all judges by the same rules.

    Args:
        kind: scores or pairs.
        people: columns of what people said.
    """

    def __init__(self, kind: Kind, people: Sequence[str]) -> None:
        self.kind: Kind = kind
        self.columns = tuple(people)
        self.widths = dict.fromkeys(self.columns, 1)
        self.lists: set[str] = set()
        self.notes: dict[str, None] = {}

    def annotators(self) -> tuple[str, ...]:
        """Names of the annotators: the columns, those that hold lists with the item's number."""
        return tuple(
            f"{column}.{at}" if column in self.lists else column
            for column in self.columns
            for at in range(self.widths[column])
        )

    def people(self, source: Source) -> list[tuple[tuple[float | None, ...], ...]]:
        """What people said on every row, one tuple a column.

        Raises:
            DataError: a column is missing, or a cell is neither blank nor a number or verdict.
        """
        for column in self.columns:
            source.need(column, "--people")
        found: list[tuple[tuple[float | None, ...], ...]] = []
        for place, row in source.rows:
            cells = []
            for column in self.columns:
                cell = dig(row, column)
                if isinstance(cell, list | tuple):
                    self.lists.add(column)
                    self.widths[column] = max(self.widths[column], len(cell))
                items = cell if isinstance(cell, list | tuple) else [cell]
                what = f"{place}: the column {column!r}"
                none = source.columns.no_label
                if none is None and column == figures.LABEL and self.kind == "scores":
                    none = -1
                cells.append(tuple(self._labelled(item, what, none) for item in items))
            found.append(tuple(cells))
        return found

    def _labelled(self, cell: Any, what: str, none: float | None) -> float | None:
        number = None if self.kind == "pairs" and _is(cell, none) else self.number(cell, what)
        if number is not None and number == none and self.kind == "scores":
            self.notes[f"{none:g} among people's numbers is no label"] = None
            return None
        return number

    def judged(self, source: Source) -> tuple[list[tuple[float | None, float | None]], bool]:
        """What the judge said on every row, in one order or both, and whether it was asked in both.

        Raises:
            DataError: the column is missing, or a cell cannot be read.
            UnknownNameError: a file's function is not there.
        """
        given = source.columns.score
        if isinstance(given, str) and given.rpartition(":")[0].endswith(".py"):
            given = lookup("judge", given, "spri_dspy.judges", "judge")
        if callable(given):
            made = given
            return [(self._made(made, place, row), None) for place, row in source.rows], False
        column = given or ("winner" if self.kind == "pairs" and not source.is_run else "score")
        if column in (*self.columns, *self.annotators()):
            raise UsageError(
                f"the judge's column {column!r} is one of people's; leave it out of --people, or hold people against "
                f"each other with --score {NO_JUDGE}"
            )
        source.need(column, "the judge's; --score names another")
        swapped = source.columns.swapped if self.kind == "pairs" else None
        if swapped is not None:
            source.need(swapped, "--swapped")
        elif self.kind == "pairs" and any(f"{column}_swapped" in row for _, row in source.rows):
            swapped = f"{column}_swapped"
        said = []
        for place, row in source.rows:
            first = self.number(dig(row, column), f"{place}: the column {column!r}")
            second = self.number(dig(row, swapped), f"{place}: the column {swapped!r}") if swapped else None
            said.append((first, second))
        return said, swapped is not None

    def _made(self, function: Callable[..., Any], place: str, row: Mapping[str, Any]) -> float | None:
        try:
            value = function(row)
        except Exception as error:  # a user's own function: whatever it raises is theirs to see, in one line
            raise DataError(f"{place}: the judge failed: {where_raised(error, function)}") from error
        return self.number(value, f"{place}: what the judge says")

    def number(self, cell: Any, what: str) -> float | None:
        """A cell as a number or a verdict; None if it is blank.

        Raises:
            DataError: it is something else.
        """
        if cell is _MISSING or is_blank(cell):
            return None
        if self.kind == "scores":
            number = _number(cell)
            if number is None:
                raise DataError(f"{what} must be a number, not {shown(cell)}")
            return number
        if isinstance(cell, list | tuple) and len(cell) == 2:
            sides = [None if is_blank(each) else _number(each) for each in cell]
            if all(is_blank(each) or side is not None for each, side in zip(cell, sides, strict=True)):
                a, b = sides
                return None if a is None or b is None else float((a > b) - (a < b))
        number = _number(cell)
        key = str(cell).strip().lower() if number is None else f"{number:g}"
        if key not in _VERDICTS:
            raise DataError(f"{what} must be 1, 2, or 0 for a tie (or two numbers), not {shown(cell)}")
        return _VERDICTS[key]

    def keys(self, source: Source) -> Keys:
        """What names the rows and brings them together.

        Raises:
            DataError: a named column is missing.
        """
        columns = source.columns
        if columns.id != "id" or any("id" in row for _, row in source.rows):
            parts = [part.strip() for part in columns.id.split(",")]
            for part in parts:
                source.need(part, "--id")
            ids = [" ".join(_text(dig(row, part)) for part in parts) for _, row in source.rows]
        else:
            ids = [str(n) for n in range(1, len(source.rows) + 1)]
        seen: Counter[str] = Counter()
        keys: list[str] = []
        for name in ids:
            seen[name] += 1
            keys.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        if columns.cluster is None and max(seen.values()) > 1:
            self.notes["rows that share an id are resampled together, and told apart by their order"] = None
            return Keys(keys, ids, self._names(source, columns.group, "--group"), [*ids])
        clusters = self._names(source, columns.cluster, "--cluster")
        return Keys(keys, ids, self._names(source, columns.group, "--group"), clusters)

    def _names(self, source: Source, column: str | None, flag: str) -> list[str | None]:
        if column is None:
            return [None] * len(source.rows)
        if not source.is_run:  # a run's groups and clusters are its own, and may be none
            source.need(column, flag)
        cells = [dig(row, column) for _, row in source.rows]
        return [None if cell is _MISSING or is_blank(cell) else _text(cell) for cell in cells]


def _is(cell: Any, none: float | None) -> bool:
    return none is not None and _number(cell) == none


def _text(cell: Any) -> str:
    if cell is _MISSING:
        return ""
    return cell if isinstance(cell, str) else shown(cell)


def _number(cell: Any) -> float | None:
    """A finite number, of any of the libraries' types, or of a text; None for what is none."""
    if isinstance(cell, bool):
        return None
    try:
        number = float(cell) if isinstance(cell, str | numbers.Real) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
