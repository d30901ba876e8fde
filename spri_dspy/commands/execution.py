"""How planned work is carried out: what it may spend, how much of it goes on at once, and where."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from spri_dspy.bulk import Summary, check_deadline, run_bulk
from spri_dspy.commands.forecast import Forecast
from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.lms.batches.settings import BatchSettings, check_batch
from spri_dspy.lms.budget import Budget
from spri_dspy.records import Record
from spri_dspy.runs import RunDir
from spri_dspy.screen import say
from spri_dspy.tasks import Example


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How work is carried out. Nothing of it changes what comes out.

    Attributes:
        concurrency: LM calls in flight at most, per LM.
        retry_errors: run examples that failed before once more.
        keep_calls: keep prompt and answer of every call, in calls.jsonl.
        budget: what may be spent, None for no limit; plans that are executed with one budget share it.
        deadline: seconds of its own after which an example is given up; None for never.
        batch: what makes the calls in batches, see `lms.batches.settings`; None for live calls.
        executor: "local", "ray" (on this machine) or "ray:ADDRESS" (a running cluster).
        workers: processes of this machine, one by default; actors on Ray, one a CPU by default.
    """

    concurrency: int = 16
    retry_errors: bool = False
    keep_calls: bool = False
    budget: Budget | None = None
    deadline: float | None = None
    batch: BatchSettings | None = None
    executor: str = "local"
    workers: int | None = None

    def check(self, lms: Iterable[Any]) -> None:
        """Refuse what cannot be carried out, before anything is written.

        Args:
            lms: the LMs that are asked, or their parsed strings.

        Raises:
            UsageError: a number out of range, dollars limited where a price is unknown, an unknown executor, or a
                setting that the executor has not.
            PrerequisiteError: Ray is asked for and not installed.
        """
        if self.concurrency < 1:
            raise UsageError(f"--concurrency must be at least 1, not {self.concurrency}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}")
        check_deadline(self.deadline)
        if self.batch is not None and (self.executor != "local" or self.workers is not None):
            raise UsageError("--batch: one process puts a batch together; leave --executor and --workers out")
        lms = list(lms)
        check_batch(self.batch, self.deadline, (getattr(lm, "spec", lm) for lm in lms))
        if self.executor != "local":
            self._check_ray()
        elif self._is_spread:
            self._check_shareable(lms)
        if self.budget is not None:
            self.budget.check(lms)

    def _check_ray(self) -> None:
        if self.executor.partition(":")[0] != "ray":
            raise UnknownNameError("executor", self.executor, ["local", "ray", "ray:ADDRESS"])
        from spri_dspy.ray_executor import find_ray

        find_ray()

    def priced(self, forecast: Forecast) -> Forecast:
        """A forecast with what part of the prices is paid."""
        least = 0 if self.batch is None else self.batch.live_below
        return replace(
            forecast, share=self.price_share, live_below=least, live_part=_live_part(forecast, least)
        )

    @property
    def price_share(self) -> float:
        """What part of the LMs' prices is paid."""
        return 1.0 if self.batch is None else 1 - self.batch.discount

    @property
    def _is_spread(self) -> bool:
        return self.executor != "local" or (self.workers or 1) > 1

    def _check_shareable(self, lms: Iterable[Any]) -> None:
        """Refuse more processes than this machine bears, and an LM that lives in the process.

        Each worker would hold such an LM once more, for the same processors.
        """
        processors = os.cpu_count() or 1
        most = max(16, 4 * processors)
        if (self.workers or 1) > most:
            raise UsageError(
                f"--workers {self.workers}: this machine has {processors} processors, and each worker takes 200 MB; "
                f"{most} at most, and more than {processors} hardly help"
            )
        for lm in lms:
            if getattr(lm, "prefix", None) == "gguf":
                raise UsageError(
                    f"--workers {self.workers}: each would load {lm.model} for itself; leave it out, a model file on "
                    "this machine uses all processors by itself"
                )

    def run(
        self,
        program: Any,
        examples: Iterable[Example],
        directory: RunDir,
        *,
        on_record: Callable[[Record], None] | None = None,
        on_call: Callable[[dict[str, Any]], None] | None = None,
        make_program: Callable[[], Any] | None = None,
    ) -> Summary:
        """Run a program over examples; finished ones are skipped.

        Args:
            program: with its LMs.
            examples: read lazily.
            directory: open for writing.
            on_record: called with each new record, after it is written.
            on_call: called with every call when it ended.
            make_program: makes the program anew, for workers; needed for more than one, and on Ray.

        Raises:
            SpriError: as `check`, `bulk.arun_bulk` and `crew.driver.Crew.run` say.
        """
        settings: dict[str, Any] = {
            "concurrency": self.concurrency,
            "retry_errors": self.retry_errors,
            "budget": self.budget,
            "deadline": self.deadline,
            "keep_calls": self.keep_calls,
            "on_record": on_record,
            "on_call": on_call,
        }
        if not self._is_spread:
            settings |= {"batch": self.batch, "on_batch": say}
            return run_bulk(program, examples, directory, **settings)
        if make_program is None:
            raise UsageError("this runs in one process only; leave --workers and --executor out")
        from spri_dspy.crew.job import Job

        job = Job(make_program, directory, **settings)
        if self.executor == "local":
            from spri_dspy.crew.processes import run_in_processes

            return run_in_processes(job, examples, workers=self.workers or 1)
        from spri_dspy.ray_executor import run_on_ray

        return run_on_ray(
            job, examples, address=self.executor.partition(":")[2] or None, workers=self.workers
        )


def _live_part(forecast: Forecast, least: int) -> float:
    """What part of the calls stands in waves of fewer than `least` requests, at most.

    A wave is one round of calls: of each open example the next one. The first rounds have one of every example.
    """
    n = max(1, forecast.facts["examples"])
    if n < least:
        return 1.0
    n_small = math.ceil((forecast.calls["most"] - forecast.calls["fewest"]) / n)
    typical = forecast.calls.get("typical", forecast.calls["fewest"])
    return min(1.0, n_small * max(0, least - 1) / max(1, typical))


def batch_of(text: str | None) -> BatchSettings | None:
    """What `--batch` says.

    Raises:
        UsageError: it is no batch API, or has a setting that there is not.
    """
    return None if text is None else BatchSettings.parse(text)


def budget_of(
    max_calls: int | None = None, max_tokens: int | None = None, max_usd: float | None = None
) -> Budget | None:
    """A budget of these limits; None if there are none.

    Raises:
        UsageError: a limit is not above 0.
    """
    limits = (max_calls, max_tokens, max_usd)
    return Budget(*limits) if any(limit is not None for limit in limits) else None
