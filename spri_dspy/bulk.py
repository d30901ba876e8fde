"""Many examples through one program into one run, each on its own way, written when it is finished.

The limit is on LM calls in flight, per LM; enough examples are open to use every slot, in a bounded window. A
failing example is a record with an error; a failure that would hit every example (a wrong key, an unknown model,
many failures in a row) stops the run, resumably. Finished calls are cached, so a half-done example continues
where it was.

It knows programs only as things with `acall`, and runs only through RunDir.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from spri_dspy.errors import (
    BudgetSpent,
    CallError,
    PrerequisiteError,
    RunMismatchError,
    SpriError,
    UsageError,
)
from spri_dspy.event_loop import run_to_end
from spri_dspy.evidence import Evidence, collect
from spri_dspy.id_table import IdTable
from spri_dspy.lms.batches.collector import open_batches
from spri_dspy.lms.batches.settings import BatchSettings, check_batch
from spri_dspy.lms.budget import Budget, price_of
from spri_dspy.lms.cache import CallCache, take_over_shards
from spri_dspy.lms.concurrency import TURN, Limiter, Turn, openable
from spri_dspy.lms.failures import failure_kind
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.program import check_scorers, fingerprint, models_of, settings_of
from spri_dspy.progress import Progress
from spri_dspy.records import Record, Usage
from spri_dspy.redaction import error_line
from spri_dspy.runs import BATCHES, CACHE, CallLog, RunDir
from spri_dspy.screen import say
from spri_dspy.tasks.example import Example, as_examples

logger = logging.getLogger(__name__)

FUSE_SHARE, FUSE_LEAST, FUSE_WINDOW = 0.5, 20, 100
"""A run stops when at least this share of the last FUSE_WINDOW examples failed, FUSE_LEAST of them having ended."""

OPEN_PER_SLOT = 3
"""Open examples for each call that may be in flight: while one reads its answer, another fills its slot, and when the
input has ended, enough short ones are left to go beside the long ones. Source: simulated schedules of 2,000 examples.
"""

_META = ("trace", "usage", "stop_reasons")


@dataclass
class Summary:
    """What one call of `run_bulk` did.

    Attributes:
        done: examples run; of these `failed`.
        skipped: examples that were finished before.
        flags: of the examples run, how many were flagged as "truncated" or "degenerate", see `records.Record`.
        usage: calls and tokens of the examples run, all roles together.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)


def run_bulk(
    program: Any,
    examples: Iterable[Any],
    run: RunDir | str | Path,
    *,
    concurrency: int = 16,
    retry: Retry | None = None,
    retry_errors: bool = False,
    budget: Budget | None = None,
    deadline: float | None = None,
    batch: BatchSettings | str | None = None,
    cache_folder: Path | None = None,
    keep_calls: bool = False,
    progress: bool = False,
    on_record: Callable[[Record], None] | None = None,
    on_call: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[str], None] | None = None,
) -> Summary:
    """Run a program over examples into a run directory. Works inside a notebook's event loop too.

        spri.run_bulk(program, task.examples("posts.jsonl"), "runs/posts", concurrency=32)

    Args:
        program: a DSPy module with `acall(group=..., **inputs)`.
        examples: what `task.examples(FILE)` gives, dspy.Examples, dicts, or a datasets.Dataset; see `as_examples`.
            Read lazily; at most a window of them is open.
        run: a path, where a run of this very program with these LMs is started or resumed, or a RunDir that is open.
            Finished examples are skipped.
        concurrency: calls in flight at most, per LM; fewer while a server says that it has too much to do, or where
            the process may not open as many connections.
        retry: how transient failures of single calls are tried again.
        retry_errors: run examples that failed before once more.
        budget: what the run may spend; see `lms.budget.Budget`.
        deadline: seconds after which an example is given up, None for never; waiting for a place does not count.
        batch: make the calls through a provider's batch API, at a lower price and within a day: "openai", "anthropic"
            or a server's address, see `lms.batches.settings`. None takes the answers of batches that an earlier start
            sent, and makes all other calls live.
        cache_folder: where finished calls are kept, the run's own by default; runs that share one share calls.
        keep_calls: keep prompt and answer of every call in RUN/calls.jsonl; of LMs that `load_lm` made.
        progress: show on stderr how far it is, with calls per second, tokens, dollars and failures, and the totals
            at the end.
        on_record: called with each new record, after it is written.
        on_call: called with every call when it ended, cached ones included, as calls.jsonl has them.
        on_batch: told what is sent, what waits and what came back, a line each; by default these are logged.

    Raises:
        RunMismatchError: the path holds a run of another program, with other LMs, or of other inputs.
        BudgetSpent: the budget is spent; calls that were in flight then are finished and kept.
        UsageError: the base is real and the critic offline, the program has no aforward, concurrency is below 1 or no
            connection can be opened, a deadline is none, no batch carries an LM, two examples have one id, or the run
            cannot be written.
        PrerequisiteError: a failure that every example would meet; finished examples are kept.
    """
    check_scorers(program)  # before anything is written
    _check_program(program)
    batch = check_batch(batch, deadline, (getattr(lm, "spec", None) for lm in lms_of(program)))

    def into(directory: RunDir, given: Iterable[Any]) -> Summary:
        finished = len(directory.finished(retry_errors=retry_errors))
        total = len(examples) if isinstance(examples, Sized) else None
        bar = Progress(total, done=finished, prices=_prices(program)) if progress else None
        with bar or nullcontext():
            running = arun_bulk(
                program,
                given,
                directory,
                concurrency=concurrency,
                retry=retry,
                retry_errors=retry_errors,
                budget=budget,
                deadline=deadline,
                batch=batch,
                cache_folder=cache_folder,
                keep_calls=keep_calls,
                on_record=bar.telling(on_record) if bar else on_record,
                on_call=on_call,
                on_batch=on_batch or (say if progress else None),
            )
            summary = run_to_end(running)
        if bar is not None:
            say(f"{summary.done:,} done, {summary.failed:,} failed; {directory.path}", *bar.totals.lines())
        return summary

    if isinstance(run, RunDir):
        return into(run, examples)
    made = {
        "program": fingerprint(program),
        "settings": settings_of(program),
        "models": models_of(program),
    }
    with RunDir.create(run, made) as directory:
        return into(directory, _same_inputs(examples_for(program, examples), directory))


async def arun_bulk(
    program: Any,
    examples: Iterable[Any],
    run: RunDir,
    *,
    concurrency: int = 16,
    retry: Retry | None = None,
    retry_errors: bool = False,
    budget: Budget | None = None,
    deadline: float | None = None,
    batch: BatchSettings | str | None = None,
    cache_folder: Path | None = None,
    keep_calls: bool = False,
    on_record: Callable[[Record], None] | None = None,
    on_call: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[str], None] | None = None,
) -> Summary:
    """Run a program over examples into a run directory that is open; everything else as for `run_bulk`."""
    concurrency = openable(concurrency, lms_of(program))
    limiter = Limiter(concurrency)
    check_scorers(program)
    check_budget(program, budget)
    check_deadline(deadline)
    batch = check_batch(batch, deadline, (getattr(lm, "spec", None) for lm in lms_of(program)))
    folder = cache_folder or run.path / CACHE
    take_over_shards(folder)
    work = Work(program, run, run.finished(retry_errors=retry_errors), on_record, deadline)

    def queue() -> Iterator[Example]:
        yield from filter(work.take, examples_for(program, examples))
        if budget is None:  # or else it would be spent on many examples that are all half done
            limiter.end()

    line = queue()
    with ExitStack() as stack:
        cache = stack.enter_context(closing(CallCache(folder)))
        if budget is not None and cache_folder is None:
            budget.resume(cache.spent(), lms_of(program))
        calls = stack.enter_context(closing(CallLog(run.path))) if keep_calls else None
        told = [each for each in (calls, on_call) if each is not None]
        batches = open_batches(run.path / BATCHES, batch, cache, budget, lms_of(program), on_batch)
        scope = Scope(
            cache=cache,
            slots=limiter,
            retry=retry or Retry(),
            budget=budget,
            on_call=_all_of(told),
            batches=batches,
        )
        window = window_of(program, concurrency)
        if batch is not None and batches is not None:
            window = batches.window_of(program)
        try:
            with use_scope(scope), dspy.context(disable_history=True, trace=None):
                async with batches or nullcontext(), asyncio.TaskGroup() as group:
                    for _ in range(window):
                        group.create_task(work.drain(line))
        except* Exception as errors:
            run.check_there()  # what the first error says would be wrong: nothing is kept
            raise first_error(errors) from None
    run.check_there()
    if work.spent:
        raise BudgetSpent(f"{work.spent}; {work.summary.done} examples were finished now, in {run.path}")
    return work.summary


def _check_program(program: Any) -> None:
    """Refuse a DSPy module that cannot be awaited: each example would fail, saying no more than that."""
    if getattr(type(program), "acall", None) is dspy.Module.acall and not hasattr(type(program), "aforward"):
        raise UsageError(
            f"the program {type(program).__name__} has no aforward: define it, with acall in place of calls, so that "
            "many examples run at a time"
        )


@dataclass
class Work:
    """The state that the workers of one run share; `run` is None where records are kept by someone else."""

    program: Any
    run: RunDir | None
    finished: Set[str]
    on_record: Callable[[Record], None] | None
    deadline: float | None
    summary: Summary = field(default_factory=Summary)
    started: IdTable = field(default_factory=IdTable)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=FUSE_WINDOW))
    spent: BudgetSpent | None = None
    begun: int = 0

    def take(self, example: Example) -> bool:
        """Whether an example is to be run; False if it is finished already.

        Raises:
            UsageError: another example had its id.
        """
        name = example.id
        if name in self.finished:
            self.summary.skipped += 1
            return False
        if self.started.add(name, 1):
            raise UsageError(f"two examples have the id {name!r}; ids must be unique")
        return True

    async def drain(self, queue: Iterator[Example]) -> None:
        """Run examples from the queue until there is none left."""
        for example in queue:
            try:
                record = await self.run_one(example)
            except BudgetSpent as spent:
                self.spent = spent  # the others stop at their next call, so that none in flight is wasted
                return
            self.keep(record)
            # A program that never waits (all answers cached) would keep the loop to itself.
            await asyncio.sleep(0)

    async def run_one(self, example: Example) -> Record:
        """One example's record, whether the program finished or failed.

        Raises:
            PrerequisiteError: a failure that every example would meet.
            BudgetSpent: the budget is spent.
            UsageError: the program refuses its inputs.
        """
        start = time.monotonic()
        self.begun += 1
        common: dict[str, Any] = {
            "id": example.id,
            "inputs": plain(example.input_values),
            "group": example.group,
            "cluster": example.cluster,
            "labels": plain(example.label_values),
        }
        with collect(example.id) as evidence:
            try:
                async with asyncio.timeout(self.deadline) as clock:
                    TURN.set(Turn(self.begun, clock=clock))
                    prediction = await self.program.acall(group=example.group, **example.input_values)
                found = _kept(prediction, evidence)
            except Exception as error:  # one example's failure is a record, not the end of the run
                found = self._failed(error, evidence)
        seconds = round(time.monotonic() - start, 3)
        return Record(**common, **found, flags=tuple(evidence.flags), seconds=seconds)

    def _failed(self, error: Exception, evidence: Evidence) -> dict[str, Any]:
        """What a record says of an example that failed.

        Raises:
            SpriError: the failure would meet every example, or ends the run.
        """
        if isinstance(error, UsageError | BudgetSpent | PrerequisiteError):
            raise error
        if failure_kind(error) == "fatal":
            model = getattr(error, "model", None) or "the LM"
            raise PrerequisiteError(
                f"every example would fail: {error_line(error)}; check key, model and address of {model}, then start "
                "the same command again, finished examples are kept"
            ) from error
        if isinstance(error, TimeoutError) and self.deadline is not None:
            late = CallError(f"not finished within the deadline of {self.deadline} s")
            late.__cause__, error = error, late
        failure = evidence.failure(error)
        logger.info(
            "example %r failed at %s: %s", evidence.example, failure.stage or "no call", error_line(error)
        )
        return {
            "error": error_line(error),
            "failure": failure,
            "trace": tuple(evidence.trace),
            "usage": evidence.usage,
        }

    def keep(self, record: Record) -> None:
        """Write a record and count it.

        Raises:
            PrerequisiteError: too many of the last examples failed.
        """
        if self.run is not None:
            self.run.append(record)
        self.summary.done += 1
        if self.on_record:
            self.on_record(record)
        self._watch(record)

    def _watch(self, record: Record) -> None:
        self.recent.append(record.ok)
        self.summary.failed += not record.ok
        self.summary.flags.update({flag.partition(":")[0] for flag in record.flags})
        self.summary.usage = sum(record.usage.values(), self.summary.usage)
        failed = self.recent.count(False)
        if not record.ok and failed >= FUSE_LEAST and failed >= FUSE_SHARE * len(self.recent):
            raise PrerequisiteError(
                f"{failed} of the last {len(self.recent)} examples failed, the last with {record.error}; mend that and "
                "start the same command again with --retry-errors"
            )


def _kept(prediction: dspy.Prediction, evidence: Evidence) -> dict[str, Any]:
    """A prediction as the fields of a Record; usage and trace that it does not state are those collected."""
    outputs = {name: plain(value) for name, value in prediction.items() if name not in _META}
    stated = prediction.get("usage", {})
    usage = {role: used for role, used in stated.items() if isinstance(used, Usage)}
    return {
        "outputs": outputs,
        "stop_reasons": dict(prediction.get("stop_reasons", {})),
        "trace": tuple(prediction.get("trace", evidence.trace)),
        "usage": usage or evidence.usage,
    }


def plain(value: Any) -> Any:
    """A value in JSON types: typed outputs (a rubric) as the dict of their fields, anything else as text."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def window_of(program: Any, concurrency: int) -> int:
    """How many examples to have open, so that every slot of every LM, and of each of its addresses, is used."""
    addresses = sum(max(1, len(getattr(lm, "replicas", ()))) for lm in lms_of(program))
    return int(OPEN_PER_SLOT * concurrency * max(1, addresses)) + 2


def check_budget(program: Any, budget: Budget | None) -> None:
    """Refuse a budget that cannot be kept with a program's LMs, before anything is run.

    Raises:
        UsageError: dollars are limited and the price of an LM is not known.
    """
    if budget is not None:
        budget.check(lms_of(program))


def check_deadline(deadline: float | None) -> None:
    """Refuse a deadline that every example would miss.

    Raises:
        UsageError: it is not above 0.
    """
    if deadline is not None and not deadline > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline}")


def examples_for(program: Any, rows: Iterable[Any]) -> Iterator[Example]:
    """Rows of any kind as Examples with this program's inputs."""
    must = [*getattr(program, "inputs", ()), *getattr(program, "label_inputs", ())]
    if not must:
        predictors = getattr(program, "predictors", list)()
        must = list(predictors[0].signature.input_fields) if predictors else []
    optional, defaults = getattr(program, "optional", ()), getattr(program, "defaults", {})
    return as_examples(rows, must, optional=optional, defaults=defaults)


def _all_of(told: Sequence[Callable[[dict[str, Any]], None]]) -> Callable[[dict[str, Any]], None] | None:
    """One function that calls them all; None where there is none, so that nothing is put together for nobody."""
    if len(told) < 2:
        return next(iter(told), None)

    def tell(call: dict[str, Any]) -> None:
        for each in told:
            each(call)

    return tell


def _prices(program: Any) -> dict[str, tuple[float, float]]:
    """Dollars a token in and out by role, where they are known."""
    prices: dict[str, tuple[float, float]] = {}
    for predictor in _predictors(program):
        with suppress(UsageError):
            prices[getattr(predictor, "role", "base")] = price_of(predictor.lm)
    return prices


def _predictors(program: Any) -> list[Any]:
    """A program's predictors that hold an LM."""
    found = getattr(program, "named_predictors", list)()
    return [predictor for _, predictor in found if getattr(predictor, "lm", None) is not None]


def lms_of(program: Any) -> list[Any]:
    """The LMs that a program's predictors hold, each once, in their order."""
    return list({id(p.lm): p.lm for p in _predictors(program)}.values())


def first_error(errors: BaseExceptionGroup[Exception]) -> BaseException:
    """The error to show of a group: one raised on purpose if there is one."""
    found: list[BaseException] = []
    for error in errors.exceptions:
        found.append(first_error(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((e for e in found if isinstance(e, SpriError)), found[0])


def _same_inputs(examples: Iterable[Example], run: RunDir) -> Iterator[Example]:
    """The examples, if those that are finished had the inputs then that they have now.

    Raises:
        RunMismatchError: an example of this id was run with other inputs.
    """
    finished = run.finished()
    for example in examples:
        if finished.had_other_inputs(example.id, plain(example.input_values)):
            raise RunMismatchError(
                f"{run.path} holds another run: example {example.id!r} had other inputs there; name another directory, "
                "or give the examples ids of their own"
            )
        yield example
