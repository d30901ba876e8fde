"""How a table of systems is written: which text stands in which cell, and the notes that explain it.

A value that cannot be given is never an empty cell: its reason stands there, or its number in the notes.
It knows what a Table has, and computes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from benchmarks.sections import Section, as_json, as_markdown, interval, number
from benchmarks.tables import NOT_TESTED, VIEWS
from spri_dspy.records import Estimate, StopReason

if TYPE_CHECKING:
    from benchmarks.tables import Entry, Measure, Table

STOP_REASONS = get_args(StopReason)

_SHORT = 16
"""Characters of a reason that stands in the table itself; a longer one becomes a numbered note."""

_MOST_LEAKS = 3

_VIEWS = {
    "responses": "also the response that is judged, or sample responses",
    "labels": "also what people or the data know of the answers",
}

SCHEMA = 2
"""Version of the JSON document. 2: tables of the offline stand-in hold counts only."""


class _Reasons:
    """Reasons as numbered notes, each once."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def cite(self, reason: str | None) -> str:
        if not reason:
            return ""
        return f"({self.known.setdefault(reason, len(self.known) + 1)})"

    def text(self, estimate: Estimate, digits: int, marks: str = "", *, ends: bool = True) -> str:
        """Value, marks and interval; the reason, or its number, where there is no value."""
        reason = estimate.reason or ""
        if math.isnan(estimate.value):
            return reason if 0 < len(reason) <= _SHORT else f"nan {self.cite(reason)}".strip()
        if not ends or math.isnan(estimate.low):  # the reason says why
            return f"{estimate.value:.{digits}f}{marks} {self.cite(reason)}".strip()
        return f"{interval(estimate, digits, marks)} {self.cite(reason)}".strip()

    def notes(self) -> list[str]:
        return [f"({number}) {reason}" for reason, number in self.known.items()]


def short_reason(estimate: Estimate) -> str:
    """Why there is no value, if that is short enough for a plot; else that there is none."""
    reason = estimate.reason or ""
    return reason if 0 < len(reason) <= _SHORT else "no value"


def sections(table: Table) -> list[Section]:
    """The main table, the one by group if there are groups, and the definition's further ones.

    Of a table in which the offline stand-in answered or judged: counts and stop reasons, and nothing else.
    """
    if table.is_offline:
        return [_counts(table)]
    further = table.definition.more(table) if table.definition.more else []
    return [_main(table), *([_by_group(table)] if _has_groups(table) else []), *further]


def markdown(table: Table) -> str:
    """The tables as Markdown."""
    return as_markdown(sections(table))


def json_document(table: Table) -> str:
    """One JSON document: what was asked, then every table by its name."""
    ask = table.grid.ask
    return as_json(
        sections(table),
        schema=SCHEMA,
        benchmark=table.definition.name,
        title=table.title,
        stand_ins=table.grid.stand_ins,
        is_marked_for_leaks=any(e.cell.leaks for e in table.entries),
        data=table.grid.data,
        limit=ask.limit,
        seed=ask.seed,
        paper=ask.paper,
        lms={"base": list(ask.bases), "critic": ask.critic, "judge": list(table.grid.judge_lms)},
    )


def for_width(table: Table, width: int) -> list[Section]:
    """The same for a terminal of so many columns: a table a measure where all of them side by side are too wide.

    Of an offline table, what ran and how its loops ended stand in a table each.
    """
    main, *others = sections(table)
    if _width(main) <= width:
        return [main, *others]
    parts: list[Section] = []
    for heading, start, end, n_last in _parts(table):
        title = heading + _remark(table) if parts else table.title
        part = Section(main.name, title, _cut(main.columns, start, end, n_last))
        part.rows.extend(_cut(row, start, end, n_last) for row in main.rows)
        parts.append(part)
    parts[-1].notes.extend(main.notes)
    return [*parts, *others]


def _parts(table: Table) -> Iterator[tuple[str, int, int, int]]:
    """Of each part of a table that is too wide: heading, its columns from start to end, and how many of the last."""
    start = 2
    if table.is_offline:
        yield "What ran", start, start + 2, 1
        yield "How the loops ended", start + 2, start + 2 + len(STOP_REASONS), 0
        return
    for measure in table.definition.measures:
        end = start + 1 + len(_beside(table, measure))
        yield measure.heading, start, end, len(table.definition.coverage)
        start = end


def _remark(table: Table) -> str:
    """What the table's title says of the stand-in and of leaks, for the titles of its parts."""
    return table.title.removeprefix(table.definition.title)


def _cut(cells: tuple[str, ...], start: int, end: int, n_last: int) -> tuple[str, ...]:
    """Base and system, the cells from start to end, and the last ones: of a measure its coverage."""
    return (*cells[:2], *cells[start:end], *cells[len(cells) - n_last :])


def _width(section: Section) -> int:
    """Columns of text that a section takes, its frame included."""
    lines = [section.columns, *section.rows]
    return 1 + sum(3 + max(len(line[n]) for line in lines) for n in range(len(section.columns)))


def _has_groups(table: Table) -> bool:
    """True if a group has a value."""
    return any(not math.isnan(e.value) for entry in table.entries for e in entry.groups.values())


def _main(table: Table) -> Section:
    definition, reasons = table.definition, _Reasons()
    headings: list[str] = []
    for measure in definition.measures:
        headings += [measure.heading, *_beside(table, measure)]
    section = Section(definition.name, table.title, ("base", "system", *headings, *definition.coverage))
    for entry in table.entries:
        cells: list[str] = []
        for measure in definition.measures:
            cells.append(
                reasons.text(entry.estimates[measure.name], measure.digits, entry.marks(measure.name))
            )
            cells += _beside(table, measure, entry).values()
        section.rows.append((*_heading(entry), *cells, *_coverage(table, entry)))
        section.results.append(entry.to_json())
    empty = _no_groups(table)
    section.notes.extend(
        [*reasons.notes(), *_run_notes(table), *_test_notes(table), *empty, *definition.notes]
    )
    return section


def _counts(table: Table) -> Section:
    """What an offline table can say: how many examples ran, how their loops ended, and what it took."""
    columns = ("base", "system", "examples", "failed", *STOP_REASONS, "LM calls")
    section = Section(table.definition.name, table.title, columns)
    for entry in table.entries:
        records = list(entry.cell.records())
        ends = Counter(reason for record in records for reason in record.stop_reasons.values())
        calls = sum(usage.calls + usage.cached for record in records for usage in record.usage.values())
        counts = {reason: ends[reason] for reason in STOP_REASONS}
        shown = [entry.asked, entry.failed, *counts.values(), calls]
        section.rows.append((*_heading(entry), *map(str, shown)))
        section.results.append(entry.cell_json() | {"stop_reasons": counts, "calls": calls})
    section.notes.extend(
        ["The offline stand-in is no language model: its answers and scores say nothing about a system."]
    )
    section.notes.extend(["With an LM, such as --lm base=openai/gpt-4o-mini, the figures stand here."])
    section.notes.extend(_run_notes(table))
    return section


def _no_groups(table: Table) -> list[str]:
    """Why there is no table by group, where there are groups and none has a value."""
    reasons = {e.reason: None for entry in table.entries for e in entry.groups.values()}
    if not table.groups or _has_groups(table):
        return []
    noun = (table.definition.grouped or ("", "", ""))[1]
    return [f"No {noun} has a value of its own: {'; '.join(map(str, reasons))}."]


def _heading(entry: Entry) -> tuple[str, str]:
    """Base and system, with what has to be known of the system before its figures are compared."""
    cell, leak = entry.cell, " [leak]" if entry.cell.leaks else ""
    return cell.base, cell.system + ("" if cell.sees == VIEWS[0] else f" [sees {cell.sees}]") + leak


def _beside(table: Table, measure: Measure, entry: Entry | None = None) -> dict[str, str]:
    """The columns beside a measure, with an entry's cells."""
    found: dict[str, str] = {}
    if any(measure.name in e.published for e in table.entries):
        found["published"] = _published(entry, measure) if entry else ""
    if _is_tested(table, measure):
        found["Holm"] = entry.holm_marks(measure.name) if entry else ""
    return found


def _is_tested(table: Table, measure: Measure) -> bool:
    """True if a comparison with a baseline has a p."""
    tests = (test for e in table.entries for test in e.tests.get(measure.name, ()))
    return any(not math.isnan(test.comparison.p) for test in tests)


def _published(entry: Entry, measure: Measure) -> str:
    figure = number(entry.published.get(measure.name), measure.digits)
    figure += entry.published.get(f"{measure.name}_marks", "")
    return figure if entry.is_same_model or figure == "-" else f"({figure})"


def _coverage(table: Table, entry: Entry) -> list[str]:
    """The fewest examples that one of a column's measures rests on, of those asked."""
    least = [min(entry.estimates[m].n for m in names) for names in table.definition.coverage.values()]
    return [f"{n} of {entry.asked}" for n in least]


def _run_notes(table: Table) -> list[str]:
    grid = table.grid
    judge = f"; judge {', '.join(grid.judge_lms)}" if grid.judge else ""
    critic = f"; critic {grid.ask.critic}" if grid.ask.critic else ""
    notes = [f"Data: {grid.data}{judge}{critic}; seed {grid.ask.seed}."]
    if grid.ask.paper:
        notes.append("Every system as published, faults included (--paper).")
    notes += [f"{system} is left out: {reason}" for system, reason in grid.left_out.items()]
    notes += [
        f"{e.cell.base} {e.cell.system}: {e.failed} of {e.asked} examples failed; --retry-errors runs them once more"
        for e in table.entries
        if e.failed
    ]
    if views := {e.cell.sees for e in table.entries} - {VIEWS[0]}:
        meant = "; ".join(f"[sees {view}] {_VIEWS[view]}" for view in VIEWS if view in views)
        notes.append(
            f"Rows stand together by what a system's criteria are made from, unmarked the input: {meant}."
        )
    leaks = {leak: None for e in table.entries for leak in e.cell.leaks}
    shown = "; ".join(list(leaks)[:_MOST_LEAKS])
    return notes + (
        [f"[leak]: evaluation inputs are among the system's seeds, such as {shown}"] if leaks else []
    )


def _test_notes(table: Table) -> list[str]:
    """What marks, intervals and published figures mean; only of those that are there."""
    definition, notes = table.definition, list[str]()
    tested = [m for m in definition.measures if _is_tested(table, m)]
    if tested:
        marks = ", ".join(f"{mark} than {baseline}" for baseline, mark in definition.baselines.items())
        notes.append(
            "Marks: two-sided paired permutation test of whole sources of examples, p < 0.05 and higher, "
            f"{marks}, on the examples that both have. (The published marks are those of a paired t-test.)"
        )
        notes.append(
            "Holm: marks that remain when p is corrected for all tests of a base and measure; ↓ is lower."
        )
    reasons = (t.comparison.reason or "" for e in table.entries for ts in e.tests.values() for t in ts)
    few = {r.removeprefix(NOT_TESTED) for r in reasons if r.startswith(NOT_TESTED)}
    notes += [f"No marks for want of examples: {reason}." for reason in sorted(few)]
    for base in dict.fromkeys(e.cell.base for e in table.entries):
        there = {e.cell.system for e in table.entries if e.cell.base == base}
        notes += [
            f"{base}: no {name}, so no {m}" for name, m in definition.baselines.items() if name not in there
        ]
    wilson = (
        "; of shares they are Wilson's"
        if any(m.statistic.name == "share" for m in definition.measures)
        else ""
    )
    notes.append(f"Intervals: 95 %, from leaving out whole sources of examples, one at a time{wilson}.")
    others = {e.cell.base: e.published_for for e in table.entries if e.published and not e.is_same_model}
    if others:
        named = ", ".join(others)
        notes.append(
            f"In brackets: published for {', '.join(set(others.values()))}; nothing is published for {named}."
        )
    return notes


def _by_group(table: Table) -> Section:
    assert table.definition.grouped
    name, noun, heading = table.definition.grouped
    measure, reasons = table.definition.measure(name), _Reasons()
    section = Section(f"by_{noun}", f"{heading} by {noun}", ("base", "system", *table.groups))
    section = Section(section.name, section.title + _remark(table), section.columns)
    for entry in table.entries:
        cells = [_group_text(reasons, entry.groups, group, measure.digits) for group in table.groups]
        section.rows.append((*_heading(entry), *cells))
    section.results.extend(_group_json(entry) for entry in table.entries)
    section.notes.extend(reasons.notes())
    return section


def _group_text(reasons: _Reasons, groups: Mapping[str, Estimate], name: str, digits: int) -> str:
    # Intervals of so few examples would fill the table; they are in the JSON document.
    return reasons.text(groups[name], digits, ends=False) if name in groups else "-"


def _group_json(entry: Entry) -> dict[str, Any]:
    groups = {name: e.to_json() for name, e in entry.groups.items()}
    return {"base": entry.cell.base, "system": entry.cell.system, "groups": groups}
