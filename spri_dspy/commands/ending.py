"""What every command says at its end: what was done, what it took, what failed, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from spri_dspy.bulk import Summary
from spri_dspy.commands.execution import Execution
from spri_dspy.progress import Progress, Totals
from spri_dspy.records import Record
from spri_dspy.runs import RunDir

_LOOKED_AT = 100
"""Records among which one that was refined is looked for."""


@dataclass(frozen=True)
class Ending:
    """How the execution of a plan ended.

    Attributes:
        summary: examples that ran now, and those finished before.
        totals: what those that ran now took and came to.
        failed: examples whose last record is a failure, those of earlier starts included.
    """

    summary: Summary
    totals: Totals
    failed: int

    def lines(self) -> Iterator[str]:
        """The same for people, a line each."""
        ran, skipped = self.summary.done, self.summary.skipped
        done, failed = ran - self.summary.failed, self.summary.failed
        besides = f", {failed:,} failed" if failed else ""
        before = f"; {skipped:,} finished before" if skipped else ""
        yield f"{done:,} example{'' if done == 1 else 's'} done{besides}{before}"
        if ran:
            yield from self.totals.lines()
        if self.failed:
            yield f"{self.failed:,} failed; the same command with --retry-errors tries these once more"


class Watcher(Protocol):
    """Whoever is told of each call and each record beside the progress bar, such as a tracker."""

    def on_call(self, call: Mapping[str, Any]) -> None:
        """Take a call that ended."""
        ...

    def on_record(self, record: Record) -> None:
        """Take an example that ended."""
        ...


def execute_watched(
    plan: Any, directory: RunDir, how: Execution, *, by_call: bool = False, tracker: Watcher | None = None
) -> Ending:
    """Execute a run's or a judge's plan, with its progress on stderr; of small work, a line a call."""
    finished = directory.finished(retry_errors=how.retry_errors)
    share = how.price_share
    prices = {role: (share * given, share * got) for role, (given, got) in plan.prices.items()}
    with Progress(plan.total, done=min(len(finished), plan.total), prices=prices) as progress:

        def on_record(record: Record) -> None:
            progress.add(record)
            if tracker is not None:
                tracker.on_record(record)

        def on_call(call: dict[str, Any]) -> None:
            if by_call:
                progress.tell_call(call)
            if tracker is not None:
                tracker.on_call(call)

        told = on_call if by_call or tracker is not None else None
        summary = plan.execute(directory, how, on_record=on_record, on_call=told)
    return Ending(summary, progress.totals, directory.counts[1])


def show_command(directory: RunDir) -> list[str]:
    """The command that shows an example worth a look: one that failed, else one that was refined, else any."""
    if directory.counts[1]:
        chosen = next(directory.records(failed=True), None)
    else:
        looked_at = list(islice(directory.records(), _LOOKED_AT))
        refined = (record for record in looked_at if len(record.trace) > 2)
        chosen = next(refined, looked_at[0] if looked_at else None)
    return (
        [] if chosen is None else [f"spri show {shlex.quote(str(directory.path))} {shlex.quote(chosen.id)}"]
    )
