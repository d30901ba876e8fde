"""Cancelling the batches of a run, from what a user asks for to a line a batch.

LMs, addresses and keys are the user's, as for `commands.judge`: what the run directory says of them is shown and never
obeyed.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spri_dspy.commands.execution import batch_of
from spri_dspy.commands.judge import FOLDER
from spri_dspy.errors import UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.lms.batches.cancelling import Outcome, at_work, cancel_batches
from spri_dspy.lms.batches.settings import check_batch
from spri_dspy.lms.batches.store import BatchStore
from spri_dspy.lms.spec import check_roles, load_lm
from spri_dspy.report.figures import named_lms
from spri_dspy.runs import BATCHES, RunDir


@dataclass(frozen=True)
class Cancelled:
    """What became of a run's batches.

    Attributes:
        run: whose they are.
        outcomes: of each that was at work.
    """

    run: RunDir
    outcomes: list[Outcome]

    @property
    def exit_code(self) -> int:
        """0 if nothing is at work any more."""
        return max((outcome.exit_code for outcome in self.outcomes), default=0)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        rows = [
            {
                "batch": o.batch.number,
                "id": o.batch.batch_id,
                "model": o.batch.model,
                "state": o.state,
                "said": o.said,
            }
            for o in self.outcomes
        ]
        return {"run": str(self.run.path), "batches": rows}

    def lines(self) -> Iterator[str]:
        """A line for each batch that is not at work any more."""
        yield from (_line(outcome) for outcome in self.outcomes if not outcome.exit_code)

    def notes(self) -> Iterator[str]:
        """A line for each that is, and what to do next."""
        yield from (_line(outcome) for outcome in self.outcomes if outcome.exit_code)
        if self.outcomes and not self.exit_code:
            yield "next: the command of that run, with --batch or without; what has no answer is asked again"
        if self.outcomes:
            return
        yield f"{self.run.path} has no batch at work, so nothing was cancelled"
        judged = self.run.path.glob(f"{FOLDER}/*/{BATCHES}")
        yield from (f"next: spri cancel-batches {shlex.quote(str(path.parent))}" for path in sorted(judged))


def cancel(run: Path, lms: Mapping[str, str], batch: str | None = None) -> Cancelled:
    """Cancel every batch of a run that is at work; to do so again does what is left.

    Args:
        run: the run directory.
        lms: LM strings as the run was given, by any role; with none the run must have no batch at work.
        batch: what `--batch` was, needed where it was an address that is not the LM's own.

    Raises:
        DataError: there is no run, or a batch of it cannot be read.
        UsageError: the run goes on in another process, or no LM is named.
        PrerequisiteError: a key or an address is missing.
    """
    settings, specs = batch_of(batch), check_roles(lms)
    check_batch(settings, None, specs.values())
    directory = RunDir.read(run)
    if not (directory.path / BATCHES).is_dir():
        return Cancelled(directory, [])
    with RunDir.create(directory.path, directory.manifest) as held:
        store = BatchStore(held.path / BATCHES)
        if not at_work(store):
            return Cancelled(directory, [])
        if not specs:
            raise UsageError(_who(directory, len(at_work(store))))
        found = cancel_batches(store, [load_lm(spec) for spec in specs.values()], settings)
        return Cancelled(directory, run_to_end(_all(found)))


def _who(run: RunDir, n: int) -> str:
    roles = {text: role for role, text in reversed(named_lms(run).items())}
    named = " ".join(f"--lm {shlex.quote(f'{role}={text}')}" for text, role in roles.items())
    batches = "1 batch" if n == 1 else f"{n} batches"
    return (
        f"{run.path} has {batches} at work: name the LMs that it asks, as --lm base=PROVIDER/MODEL, and --batch where "
        f"that was an address; the run says that they are {named or 'of no name'}"
    )


async def _all(outcomes: AsyncIterator[Outcome]) -> list[Outcome]:
    return [outcome async for outcome in outcomes]


def _line(outcome: Outcome) -> str:
    return f"batch {outcome.batch.number} ({outcome.batch.model}): {outcome.said}"
