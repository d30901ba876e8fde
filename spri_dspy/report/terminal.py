"""What people look at: one example's trace, a run at a glance. Everything is drawn from a run directory.

It knows records and rich; it decides nothing and computes no statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError
from spri_dspy.progress import flagged, reused_share
from spri_dspy.records import Record, Round, Verdict
from spri_dspy.runs import RunDir
from spri_dspy.screen import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

_SHOWN = 20
"""Rows of a run shown at a glance; the run directory has them all."""


def pick(run: RunDir, example_id: str | None) -> Record:
    """The record of an id; the first one with a refinement in its trace if no id is given.

    Raises:
        DataError: the run has no such example, or none yet.
    """
    first: Record | None = None
    near: list[str] = []
    for record in run.records():
        if example_id is not None and record.id == example_id:
            return record
        if example_id is None and len(record.trace) > 2:
            return record
        first = first or record
        near.append(record.id) if len(near) < _SHOWN else None
    if example_id is not None:
        raise DataError(
            f"{run.path} has no finished example {example_id!r}; it has {', '.join(near) or 'none yet'}"
        )
    if first is None:
        raise DataError(f"{run.path} has no finished example yet")
    return first


def trace(record: Record) -> Iterator[RenderableType]:
    """One example as it went: inputs, then draft, verdict, refinement, verdict ... for each stage, then the end."""
    yield _title(record)
    for name, value in record.inputs.items():
        yield block(name, str(value), "cyan")
    yield from _rounds(record.trace)
    for name, value in _kept(record):
        yield block(f"{name}: kept", value, "green")
    for stage, reason in record.stop_reasons.items():
        yield as_text((stage, "bold"), f" ended: {reason}")
    if record.error:
        yield from _failure(record)
    for flag in record.flags:
        yield as_text(("an answer is ", "yellow"), (flagged(flag), "bold yellow"))
    yield as_text((_usage(record), "dim"))


def _rounds(steps: Iterable[Round]) -> Iterator[RenderableType]:
    """Each candidate, and what the critic said of it."""
    previous: Round | None = None
    for step in steps:
        if previous is None or previous.stage != step.stage:
            yield block(f"{step.stage}: draft", step.candidate, "green")
        elif step.candidate != previous.candidate:
            yield block(f"{step.stage}: refined", step.candidate, "green")
        elif not step.attempt:
            yield as_text((f"{step.stage}: refined into the same text", "green"))
        if step.verdict is not None:
            yield _verdict(step.verdict, step.attempt)
        previous = step


def _failure(record: Record) -> Iterator[RenderableType]:
    """Why an example failed: the error, where, the answer that could not be read, and what the error came from."""
    yield block("error", record.error or "", "red")
    failure = record.failure
    if failure is None:
        return
    if failure.stage:
        again = f", sample {failure.attempt + 1}" if failure.attempt else ""
        yield as_text(("failed at ", "red"), (f"{failure.stage}{again}", "bold red"))
    if failure.answer:
        yield block("answer as it came", failure.answer, "red")
    for number, cause in enumerate(failure.chain):
        yield as_text((f"{'raised from ' if number else ''}{cause}", "dim"))


def _kept(record: Record) -> Iterator[tuple[str, str]]:
    """Text outputs that the trace does not end with: an earlier and better candidate, or one never judged."""
    last = {step.stage: step.candidate for step in record.trace}
    for name, value in record.outputs.items():
        if isinstance(value, str) and value != last.get(name):
            yield name, value


def _shown(value: Any) -> str:
    """An output in one line; a judgement as its score and feedback, a rubric as its criteria."""
    if isinstance(value, Mapping) and "score" in value:
        return f"{value['score']}: {value.get('feedback', '')}"
    if isinstance(value, Mapping) and "criteria" in value:
        return str(value["criteria"])
    return str(value)


def _verdict(verdict: Verdict, attempt: int) -> RenderableType:
    score = "no readable score" if verdict.score is None else f"score {verdict.score}"
    again = f", asked again ({attempt})" if attempt else ""
    return block(f"critic: {score}{again}", verdict.feedback, "yellow")


def _title(record: Record) -> RenderableType:
    from rich.rule import Rule

    return Rule(as_text((record.id, "bold"), f" · {record.group}" if record.group else ""))


def block(title: str, text: str, colour: str) -> RenderableType:
    """Text in a frame, as it is."""
    from rich.panel import Panel

    return Panel(
        as_text(text), title=as_text((title, f"bold {colour}")), title_align="left", border_style=colour
    )


def as_text(*parts: str | tuple[str, str]) -> Text:
    """Text of others, as it is: parts, or (part, style)."""
    from rich.text import Text

    shown = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(part), style) for part, style in shown))


def _usage(record: Record) -> str:
    roles = [
        f"{role}: {u.calls} calls{f' + {u.cached} from the cache' if u.cached else ''}, "
        f"{u.input_tokens} tokens in{reused_share(u)}, {u.output_tokens} out"
        for role, u in record.usage.items()
    ]
    return " · ".join([*roles, f"{record.seconds:.2f} s"])


def answers(records: Iterable[Record]) -> Iterator[RenderableType]:
    """Inputs and outputs of a few examples in full."""
    for record in records:
        yield _title(record)
        for name, value in record.inputs.items():
            yield block(name, str(value), "cyan")
        for name, value in record.outputs.items():
            if isinstance(value, str):
                yield block(name, value, "green")
        yield block("error", record.error, "red") if record.error else as_text((_ends(record), "dim"))


def glance(of: RunDir | Iterable[Record]) -> Iterator[RenderableType]:
    """A run or records as a table: an example a row, how its loops ended, how its response begins; then counts."""
    if isinstance(of, RunDir):
        shown = list(islice(of.records(), _SHOWN))
        (total, failed), ends = of.counts, of.stops
    else:
        shown, total, failed, ends = list[Record](), 0, 0, Counter[str]()
        for record in of:
            total, failed = total + 1, failed + (not record.ok)
            ends.update(f"{stage} {reason}" for stage, reason in record.stop_reasons.items())
            if len(shown) < _SHOWN:
                shown.append(record)
    yield _Rows(shown)
    if total > _SHOWN:
        yield as_text((f"... and {total - _SHOWN:,} more", "dim"))
    counts = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
    yield as_text(f"{total - failed} done, {failed} failed" + (f": {counts}" if counts else ""))


class _Rows:
    """Records as a table, an example a row, in the width that there is: only answers are cut, groups are left out.

    An id is always whole, because `spri show RUN ID` needs it.
    """

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        stages = list(dict.fromkeys(stage for record in self._records for stage in record.stop_reasons))
        names = ["id", *(["group"] if any(record.group for record in self._records) else []), *stages]
        rows = [
            [
                record.id,
                *([record.group or ""] if "group" in names else []),
                *(_end(record, s) for s in stages),
            ]
            for record in self._records
        ]
        widths = [max(map(len, column)) + _GAP for column in zip(names, *rows, strict=True)]
        if "group" in names and sum(widths) + _LEAST > options.max_width:
            for row in (names, *rows):
                del row[1]
        yield _table(names, rows, self._records)


def _table(names: list[str], rows: list[list[str]], records: list[Record]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for name in names:
        table.add_column(as_text(name), no_wrap=True, max_width=_WIDEST)
    table.add_column("answer", min_width=_LEAST)
    for row, record in zip(rows, records, strict=True):
        answer = record.error or _shown(
            record.outputs.get("response") or next(iter(record.outputs.values()), "")
        )
        cells = [as_text(cell) for cell in (*row, " ".join(answer.split())[:_LONGEST])]
        for cell in cells:
            cell.no_wrap, cell.overflow = True, "ellipsis"
        cells[0].no_wrap, cells[0].overflow = False, "fold"
        table.add_row(*cells, style="red" if record.error else None)
    return table


_WIDEST, _LEAST, _GAP, _LONGEST = 32, 12, 2, 300
"""Columns: of a cell at most, of an answer at least, between two cells. Characters of an answer worth laying out."""


def _end(record: Record, stage: str) -> str:
    """Scores of a stage and how it ended: "3>4 accepted"; "" where it was not reached."""
    scores = [r.verdict.score for r in record.trace if r.stage == stage and r.verdict]
    shown = ">".join("?" if score is None else str(score) for score in scores)
    return f"{shown} {record.stop_reasons.get(stage, '')}".strip()


def _ends(record: Record) -> str:
    """The same of all stages: "principles 3>4 accepted, response 4 accepted"."""
    return ", ".join(f"{stage} {_end(record, stage)}" for stage in record.stop_reasons)
