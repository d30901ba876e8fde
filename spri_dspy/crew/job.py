"""What a run by workers is asked, and its beginning and end, whatever carries the workers.

It knows the run directory and the limits; no process, no cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spri_dspy.bulk import Summary, Work, check_deadline, lms_of
from spri_dspy.crew.driver import Crew, Hire, grouped
from spri_dspy.crew.worker import Seat
from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.lms.batches.collector import open_batches
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.leases import Treasury
from spri_dspy.records import Record
from spri_dspy.runs import BATCHES, CACHE, RunDir
from spri_dspy.tasks.example import Example


@dataclass
class Job:
    """A run by workers; everything that is not said here is as for `bulk.run_bulk`.

    Attributes:
        make_program: makes the program with its LMs; pickled, called once a worker.
        run: from `RunDir.create`.
        concurrency: LM calls in flight over all workers, per LM.
        budget: for all workers together. Of a worker that dies, all that it was lent counts as spent until the next
            start, which counts finished calls.
        retry_errors, deadline, keep_calls, on_record, on_call: as for `bulk.run_bulk`.
    """

    make_program: Callable[[], Any]
    run: RunDir
    _: KW_ONLY
    concurrency: int = 16
    retry_errors: bool = False
    budget: Budget | None = None
    deadline: float | None = None
    keep_calls: bool = False
    on_record: Callable[[Record], None] | None = None
    on_call: Callable[[dict[str, Any]], None] | None = None

    @property
    def folder(self) -> Path:
        """Where finished calls are kept."""
        return (self.run.path / CACHE).resolve()

    def check(self, workers: int | None) -> None:
        """Refuse numbers that are out of range.

        Raises:
            UsageError: one is.
        """
        if self.concurrency < 1 or (workers is not None and workers < 1):
            raise UsageError(
                f"concurrency and workers must be at least 1, not {self.concurrency} and {workers}"
            )
        check_deadline(self.deadline)

    def begin(self, examples: Iterable[Example]) -> Iterator[list[Example]] | None:
        """Those that are not finished, neighbours of one cluster together; None if there are none.

        Raises:
            UsageError: dollars are limited and the price of an LM is not known, or an earlier start left calls in
                batches.
        """
        finished = self.run.finished(retry_errors=self.retry_errors)
        self.work = Work(None, self.run, finished, self.on_record, None)
        groups = grouped(filter(self.work.take, examples))
        first = next(groups, None)
        if first is None:
            return None
        with closing(CallCache(self.folder)) as cache:
            self._resume(cache)
        return chain([first], groups)

    def _resume(self, cache: CallCache) -> None:
        """Count what earlier starts took, and refuse to pay for calls that are under way in a batch."""
        lms = []
        if self.budget is not None:
            lms = lms_of(self.make_program()) if self.budget.max_usd is not None else []
            self.budget.check(lms)
            self.budget.resume(cache.spent(), lms)
        if open_batches(self.run.path / BATCHES, None, cache, self.budget, lms) is not None:
            raise UsageError(
                f"calls of an earlier start are under way in batches of {self.run.path}: finish it in one process, "
                "without --workers and --executor"
            )

    def carry_out(
        self, hire: Hire, groups: Iterator[list[Example]], workers: int, *, has_shards: bool = False
    ) -> Summary:
        """Run what `begin` gave; see `driver.Crew`.

        Args:
            hire: starts a worker.
            groups: of examples.
            workers: how many, if there is a call for each.
            has_shards: whether each writes a part of the cache that is its own.
        """
        workers = min(workers, self.concurrency)
        treasury = Treasury(self.concurrency, self.concurrency // workers, self.budget)
        seat = Seat(
            self.make_program,
            str(self.folder),
            has_shards,
            treasury.share,
            self.concurrency,
            treasury.limited,
            self.deadline,
            calls=str(self.run.path.resolve()) if self.keep_calls else None,
            is_telling=self.on_call is not None,
            log_level=logging.getLogger("spri_dspy").getEffectiveLevel(),
        )
        crew = Crew(hire, seat, workers, treasury=treasury, work=self.work, on_call=self.on_call)
        run_to_end(crew.run(groups))
        self.run.check_there()
        if self.work.spent:
            done = self.work.summary.done
            raise BudgetSpent(f"{self.work.spent}; {done} examples were finished now, in {self.run.path}")
        return self.work.summary
