"""Many examples through one program into one run, each on its own way, written when it is finished.

The limit is on LM calls in flight, per LM; enough examples are open to use every slot, in a bounded window. A
failing example is a record with an error; a failure that would hit every example (a wrong key, an unknown model,
many failures in a row) stops the run, resumably. Finished calls are cached, so a half-done example continues
where it was.

It knows programs only as things with `acall`, and runs only through RunDir.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import dspy

from spri_dspy.errors import PrerequisiteError, SpriError, UsageError
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.client import Retry, Scope, failure_kind, use_scope
from spri_dspy.records import Record, Usage
from spri_dspy.runs import CACHE, RunDir

FAILURES_IN_A_ROW = 20
"""So many failed examples without a good one between them stop a run: something outside is broken."""

_META = ("trace", "usage", "stop_reasons")


class BulkExample(Protocol):
    """What bulk needs of an example; `tasks.Example` is one."""

    @property
    def id(self) -> str:
        """Unique in the data."""
        ...

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The program's inputs."""
        ...

    @property
    def group(self) -> str | None:
        """The example's group."""
        ...

    @property
    def labels(self) -> Mapping[str, Any]:
        """Kept in the record, not shown to the program."""
        ...


@dataclass
class Summary:
    """What one call of `run_bulk` did: examples run, of these failed, and examples skipped as finished before."""

    done: int = 0
    failed: int = 0
    skipped: int = 0


class LMSlots:
    """At most `concurrency` calls in flight, for each LM by itself."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._slots: dict[int, asyncio.Semaphore] = {}

    def slot(self, lm: dspy.LM) -> asyncio.Semaphore:
        """A slot of this LM, to be held while its call is in flight."""
        return self._slots.setdefault(id(lm), asyncio.Semaphore(self._concurrency))


def run_bulk(program: Any, examples: Iterable[BulkExample], run: RunDir, **settings: Any) -> Summary:
    """Run a program over examples; see `arun_bulk`. Works inside a notebook's event loop too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(arun_bulk(program, examples, run, **settings))
    return _in_a_thread(lambda: asyncio.run(arun_bulk(program, examples, run, **settings)))


async def arun_bulk(
    program: Any,
    examples: Iterable[BulkExample],
    run: RunDir,
    *,
    concurrency: int = 16,
    retry: Retry | None = None,
    retry_errors: bool = False,
    on_record: Callable[[Record], None] | None = None,
) -> Summary:
    """Run a program over examples into a run directory.

    Args:
        program: a DSPy module with `acall(group=..., **inputs)`.
        examples: read lazily; at most a window of them is open.
        run: from `RunDir.create`. Finished examples are skipped.
        concurrency: calls in flight, per LM.
        retry: how transient failures of single calls are tried again.
        retry_errors: run examples that failed before once more.
        on_record: called with each new record, after it is written.

    Raises:
        UsageError: concurrency below 1, or the run cannot be written.
        PrerequisiteError: a failure that every example would meet; finished examples are kept.
    """
    if concurrency < 1:
        raise UsageError(f"concurrency must be at least 1, not {concurrency}")
    cache = CallCache(run.path / CACHE)
    scope = Scope(cache=cache, slots=LMSlots(concurrency), retry=retry or Retry())
    work = _Work(program, run, run.finished(retry_errors=retry_errors), on_record)
    window = concurrency * max(1, _lm_count(program)) + 2
    queue = iter(examples)
    try:
        with use_scope(scope), dspy.context(disable_history=True, trace=None):
            async with asyncio.TaskGroup() as group:
                for _ in range(window):
                    group.create_task(work.drain(queue))
    except* Exception as errors:
        raise _first(errors) from None
    finally:
        cache.close()
    return work.summary


@dataclass
class _Work:
    """The state that the workers of one run share."""

    program: Any
    run: RunDir
    finished: set[str]
    on_record: Callable[[Record], None] | None
    summary: Summary = None  # type: ignore[assignment] # made below, one a run
    failures: int = 0

    def __post_init__(self) -> None:
        self.summary = Summary()

    async def drain(self, queue: Iterator[BulkExample]) -> None:
        for example in queue:
            if example.id in self.finished:
                self.summary.skipped += 1
                continue
            record = await self._run_one(example)
            self.run.append(record)
            self.summary.done += 1
            if self.on_record:
                self.on_record(record)
            self._watch(record)
            # A program that never waits (all answers cached) would keep the loop to itself.
            await asyncio.sleep(0)

    async def _run_one(self, example: BulkExample) -> Record:
        start = time.monotonic()
        common: dict[str, Any] = {
            "id": example.id,
            "inputs": dict(example.inputs),
            "group": example.group,
            "labels": dict(example.labels),
        }
        try:
            prediction = await self.program.acall(group=example.group, **example.inputs)
        except Exception as error:  # one example's failure is a record, not the end of the run
            if failure_kind(error) == "fatal":
                raise PrerequisiteError(f"every example would fail: {_said(error)}") from error
            if isinstance(error, UsageError):
                raise
            return Record(**common, error=_said(error), seconds=time.monotonic() - start)
        return Record(**common, **_kept(prediction), seconds=round(time.monotonic() - start, 3))

    def _watch(self, record: Record) -> None:
        self.failures = 0 if record.ok else self.failures + 1
        self.summary.failed += not record.ok
        if self.failures >= FAILURES_IN_A_ROW:
            raise PrerequisiteError(
                f"{self.failures} examples in a row failed, the last with {record.error}; mend that and start the "
                "same command again with --retry-errors"
            )


def _kept(prediction: dspy.Prediction) -> dict[str, Any]:
    """A prediction as the fields of a Record."""
    outputs = {name: plain(value) for name, value in prediction.items() if name not in _META}
    return {
        "outputs": outputs,
        "stop_reasons": dict(prediction.get("stop_reasons", {})),
        "trace": tuple(prediction.get("trace", ())),
        "usage": {
            role: used for role, used in prediction.get("usage", {}).items() if isinstance(used, Usage)
        },
    }


def plain(value: Any) -> Any:
    """A value in JSON types; typed outputs (a rubric) as the dict of their fields."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _said(error: BaseException) -> str:
    """Name and first line of an error, short: LM errors may hold whole prompts."""
    lines = str(getattr(error, "message", None) or error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _lm_count(program: Any) -> int:
    predictors = getattr(program, "named_predictors", list)()
    return len({id(p.lm) for _, p in predictors if getattr(p, "lm", None) is not None})


def _first(errors: BaseExceptionGroup[Exception]) -> BaseException:
    """The error to show of a group: one raised on purpose if there is one."""
    found: list[BaseException] = []
    for error in errors.exceptions:
        found.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((e for e in found if isinstance(e, SpriError)), found[0])


def _in_a_thread(work: Callable[[], Summary]) -> Summary:
    """Run an event loop of our own beside the caller's."""
    result: list[Summary] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            result.append(work())
        except BaseException as error:  # handed to the caller below
            failed.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), daemon=True)
    thread.start()
    with contextlib.suppress(RuntimeError):
        thread.join()
    if failed:
        raise failed[0]
    return result[0]
