"""How well judges agree with people, from files and runs: `spri agree`, and `spri.agree` in Python.

    found = spri.agree(["gpt-4.jsonl", "llama.jsonl"], "preferred", pairs=True)
    found.judges[0].figures["accuracy"]

Rows are read in `ratings`, figures are in `metrics.agreement`; this brings the rows of several judges together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from spri_dspy.commands.ratings import NO_JUDGE, AgreeColumns, Keys, Reader, Source, sources
from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics.agreement import Agreement, agreement
from spri_dspy.metrics.rated import TIE, AgreeSettings, Item, Kind, Ratings, Ties

Votes = tuple[tuple[float | None, ...], ...]
"""What people said of one row, one tuple a column."""

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by the judge's name."""


class _Judged(NamedTuple):
    """One judge's rows."""

    source: Source
    keys: Keys
    said: Sequence[tuple[float | None, float | None]]
    both_orders: bool


def agree(
    judges: str | Path | Sequence[str | Path] | Rows,
    people: str | Sequence[str],
    *,
    columns: AgreeColumns | None = None,
    people_from: str | Path | None = None,
    pairs: bool = False,
    ties: Ties | None = None,
    settings: AgreeSettings | None = None,
) -> Agreement:
    """Measure how well judges agree with people; see `metrics.agreement` for the figures.

    A missing number is missing, never zero: what a judge did not say, and what other judges' rows or people have and
    it has not, is counted as dropped.

    Args:
        judges: files (JSON lines, a JSON array, CSV, TSV, each also as .gz, or parquet), run directories with
            judgements, or rows by the judge's name.
        people: the column of what people said, or several, one an annotator; a column of lists has one an item.
        columns: where the judge's numbers, ids, groups and clusters stand.
        people_from: a file that holds people's columns, joined by id; None: each judge's file holds them.
        pairs: True if people and judges say which of two responses is better: 1, 2, or 0 for a tie.
        ties: what a judge's tie counts where people prefer one: "half" or "wrong". None: half where no annotator ever
            gives a tie, else wrong, since then a tie is an answer like the others.
        settings: resamples, seed, epsilon of the Alt-Test, level of alpha.

    Raises:
        DataError: a row cannot be used; names file, row and column.
        UsageError: what is asked makes no sense, or the offline LM gave a run's scores.
    """
    where, how = columns or AgreeColumns(), settings or AgreeSettings()
    _check(how)
    kind: Kind = "pairs" if pairs else "scores"
    names = [people] if isinstance(people, str) else [*people]
    if not names or len({*names}) < len(names):
        raise UsageError("--people names each column of people's numbers once")
    reader = Reader(kind, names)
    found = sources(judges, where)
    labelled = _people_of(reader, people_from, where) if people_from is not None else None
    votes: dict[str, Votes] = {}
    judged = [_judged(reader, source, labelled, votes, where.score == NO_JUDGE) for source in found]
    return _measure(reader, judged, votes, labelled, ties, how)


def _check(settings: AgreeSettings) -> None:
    if not 0 <= settings.epsilon < 1:
        raise UsageError(f"--epsilon must be from 0 to below 1, not {settings.epsilon:g}")
    if settings.resamples < 1:
        raise UsageError(f"--resamples must be at least 1, not {settings.resamples}")


class _People(NamedTuple):
    """What a file of people's says: rows and votes by id."""

    rows: Mapping[str, Mapping[str, Any]]
    votes: Mapping[str, Votes]
    keys: Keys


def _people_of(reader: Reader, path: str | Path, columns: AgreeColumns) -> _People:
    """Read a file of people's numbers."""
    own = replace(columns, score=None, group=None, cluster=None)
    source = sources(path, own)[0]
    keys = reader.keys(source)
    twice = next(
        (at for at, (key, name) in enumerate(zip(keys.keys, keys.ids, strict=True)) if key != name), None
    )
    if twice is not None:
        place, name = source.rows[twice][0], keys.ids[twice]
        raise DataError(f"{place}: the id {name!r} stands twice; --id COLUMN,COLUMN tells such rows apart")
    reader.notes.clear()
    votes = dict(zip(keys.ids, reader.people(source), strict=True))
    rows = {name: row for name, (_, row) in zip(keys.ids, source.rows, strict=True)}
    return _People(rows, votes, keys)


def _judged(
    reader: Reader, source: Source, people: _People | None, votes: dict[str, Votes], no_judge: bool
) -> _Judged:
    """Read one judge's rows, and put what people said of them into `votes`, by key."""
    given = reader.people(source) if people is None else []  # first: it tells the annotators of a list apart
    said, both = ([(None, None)] * len(source.rows), False) if no_judge else reader.judged(source)
    if people is None:
        keys = reader.keys(source)
        for key, row in zip(keys.keys, given, strict=True):
            votes.setdefault(key, row)
        return _Judged(source, keys, said, both)
    ids = reader.keys(replace(source, columns=replace(source.columns, group=None, cluster=None))).ids
    rows = [
        (place, {**people.rows.get(name, {}), **row})
        for name, (place, row) in zip(ids, source.rows, strict=True)
    ]
    keys = reader.keys(replace(source, rows=rows))
    for key, name in zip(keys.keys, keys.ids, strict=True):
        votes.setdefault(key, people.votes.get(name, ((),) * len(reader.columns)))
    unknown = sum(name not in people.votes for name in ids)
    if unknown == len(ids):
        raise DataError(
            f"{source.name}: none of its ids is among people's, such as {people.keys.ids[0]!r}; see --id"
        )
    if unknown:
        reader.notes[f"{source.name}: {unknown} rows that people have not rated"] = None
    return _Judged(source, keys, said, both)


def _measure(
    reader: Reader,
    judged: Sequence[_Judged],
    votes: dict[str, Votes],
    people: _People | None,
    ties: Ties | None,
    settings: AgreeSettings,
) -> Agreement:
    """Bring the rows together: every judge has all rows, those that it lacks without a number."""
    places: dict[str, tuple[str | None, str | None]] = {}
    for each in judged:
        for key, *place in zip(each.keys.keys, each.keys.groups, each.keys.clusters, strict=True):
            places.setdefault(key, (place[0], place[1]))
    for name in people.keys.ids if people else ():
        votes.setdefault(name, people.votes[name] if people else ())
        places.setdefault(name, (None, None))
    padded = {key: _padded(reader, given) for key, given in votes.items()}
    gives_ties = reader.kind == "pairs" and any(vote == TIE for given in padded.values() for vote in given)
    counted: Ties = "wrong" if ties == "wrong" or (ties is None and gives_ties) else "half"
    annotators = reader.annotators()
    ratings: list[Ratings] = []
    for each in judged:
        said = dict(zip(each.keys.keys, each.said, strict=True))
        own = zip(each.keys.keys, each.keys.groups, each.keys.clusters, strict=True)
        items = [Item(k, said[k][0], padded[k], g, c, said[k][1]) for k, g, c in own]
        lacking = [key for key in votes if key not in said]
        items += [Item(key, None, padded[key], *places[key]) for key in lacking]
        if lacking:
            reader.notes[f"{each.source.name}: {len(lacking)} rows missing that others have"] = None
        ratings.append(
            Ratings(each.source.name, tuple(items), annotators, reader.kind, each.both_orders, counted)
        )
    every = Ratings(
        "people",
        tuple(Item(key, None, padded[key], *places[key]) for key in votes),
        annotators,
        reader.kind,
        ties=counted,
    )
    has_judges = any(first is not None for each in judged for first, _ in each.said)
    found = agreement(ratings if has_judges else [], every, settings)
    return replace(found, notes=(*reader.notes, *_notes(every, ratings if has_judges else [])))


def _padded(reader: Reader, given: Votes) -> tuple[float | None, ...]:
    """One number an annotator; shorter lists have none at their end."""
    cells: list[float | None] = []
    for column, items in zip(reader.columns, given, strict=True):
        cells += [*items, *[None] * (reader.widths[column] - len(items))]
    return tuple(cells)


def _notes(every: Ratings, judges: Iterable[Ratings]) -> list[str]:
    """What has to be known to read the figures."""
    labels = [label for label in map(every.label, every.items) if label is not None]
    notes: list[str] = []
    if every.kind == "pairs":
        split = sum(any(v is not None for v in i.people) and every.label(i) is None for i in every.items)
        if split:
            notes.append(f"{split} pairs on which people are split have no label, and count for alpha alone")
        notes.append(f"a judge's tie counts {every.ties} where people prefer one response")
        if any(each.both_orders for each in judges):
            notes.append(
                "a pair counts where both orders were answered; a verdict that turns with the order is a tie "
                "for kappa and alpha"
            )
        return notes
    for each in judges:
        values = [i.value for i in each.items if i.value is not None]
        if values and labels and (min(values) < min(labels) - 1e-9 or max(values) > max(labels) + 1e-9):
            notes.append(
                f"{each.name}: its numbers ({min(values):g} to {max(values):g}) leave people's ({min(labels):g} to "
                f"{max(labels):g}); mae, kappa and alpha compare them as they are"
            )
    return notes
