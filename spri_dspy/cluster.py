"""The same program over Ray: many machines, or many processes of one, into one run directory.

The driver reads examples and writes records; workers are asynchronous actors of `ray.data`, each with the program
made anew from its recipe and a shard of the run's cache of its own. A worker that dies is replaced, and its examples
run again with its finished calls from its shard, so none is paid twice. On several machines the run directory must be
on a file system that all of them see; keys must be in the workers' environment.

It knows programs through a picklable maker, and runs through RunDir; Ray is imported when it is used.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from spri_dspy.bulk import BulkExample, Summary, Work
from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.lms.cache import FILE, CallCache
from spri_dspy.records import Record
from spri_dspy.runs import CACHE, RunDir

CHUNK = 50_000
"""Examples that are handed to Ray at once; the driver's memory does not grow with the input beyond them."""

_BATCH, _BATCHES_AHEAD = 8, 4


@dataclass(frozen=True)
class Shipped:
    """An example on its way to a worker."""

    id: str
    inputs: Mapping[str, Any]
    group: str | None
    cluster: str | None
    labels: Mapping[str, Any]


def run_on_ray(
    make_program: Callable[[], Any],
    examples: Iterable[BulkExample],
    run: RunDir,
    *,
    address: str | None = None,
    workers: int | None = None,
    concurrency: int = 16,
    retry_errors: bool = False,
    on_record: Callable[[Record], None] | None = None,
) -> Summary:
    """Run a program over examples into a run directory, by workers of a Ray cluster.

    Args:
        make_program: makes the program with its LMs; pickled, called once a worker.
        examples: read in pieces of CHUNK.
        run: from `RunDir.create`.
        address: of a running cluster; None starts Ray on this machine and stops it afterwards.
        workers: actors; one a CPU of the cluster by default.
        concurrency: LM calls in flight over all workers, per LM.
        retry_errors: run examples that failed before once more.
        on_record: called with each new record, after it is written.

    Raises:
        UsageError: concurrency or workers below 1.
        PrerequisiteError: Ray is not installed, or the cluster cannot be reached; or every example would fail.
    """
    ray = _ray()
    if concurrency < 1 or (workers is not None and workers < 1):
        raise UsageError(f"concurrency and workers must be at least 1, not {concurrency} and {workers}")
    _connect(ray, address)
    try:
        actors = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        finished = run.finished(retry_errors=retry_errors)
        work = Work(None, run, finished, on_record, None)
        pending = _pending(examples, finished, work.summary)
        settings = {"folder": str((run.path / CACHE).resolve()), "concurrency": -(-concurrency // actors)}
        while chunk := list(islice(pending, CHUNK)):
            for record in _records(chunk, make_program, settings, actors):
                work.keep(record)
        return work.summary
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise PrerequisiteError('Ray is not installed: pip install "spri-dspy[ray]"') from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        settings["object_store_memory"] = 200 * 2**20
    try:
        ray.init(address=address, ignore_reinit_error=True, **settings)
    except Exception as error:  # Ray raises unrelated types for a cluster that is not there
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise PrerequisiteError(f"no Ray cluster at {address or 'this machine'}: {said}") from error
    data = ray.data.DataContext.get_current()
    data.enable_progress_bars = False
    data.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _pending(
    examples: Iterable[BulkExample], finished: set[str], summary: Summary
) -> Iterator[dict[str, Any]]:
    for example in examples:
        if example.id in finished:
            summary.skipped += 1
            continue
        shipped = Shipped(
            example.id,
            dict(example.inputs),
            example.group,
            getattr(example, "cluster", None),
            dict(example.labels),
        )
        yield {"example": pickle.dumps(shipped)}


def _records(
    chunk: list[dict[str, Any]], make_program: Callable[[], Any], settings: Mapping[str, Any], actors: int
) -> Iterator[Record]:
    """Finished records of one chunk, in the order in which they finish."""
    import ray.data

    blocks = min(len(chunk), max(actors * _BATCHES_AHEAD, len(chunk) // _BATCH))
    done = ray.data.from_items(chunk, override_num_blocks=max(1, blocks)).map_batches(
        Worker,
        fn_constructor_args=(make_program, dict(settings)),
        batch_size=_BATCH,
        compute=ray.data.ActorPoolStrategy(
            size=actors,
            max_concurrent_calls_per_actor=_BATCHES_AHEAD,
            max_tasks_in_flight_per_actor=2 * _BATCHES_AHEAD,
        ),
        num_cpus=0.5,
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        for record in batch["record"]:
            yield Record.from_json(json.loads(record))


class Worker:
    """One actor: the program, its limiter and its shard of the cache."""

    def __init__(self, make_program: Callable[[], Any], settings: Mapping[str, Any]) -> None:
        from spri_dspy.lms.client import Scope
        from spri_dspy.lms.limits import Limiter

        self.program = make_program()
        self.scope = Scope(
            cache=ShardedCache(Path(settings["folder"])), slots=Limiter(settings["concurrency"])
        )

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Run a batch of examples; yields each record as it finishes."""
        import asyncio

        import dspy

        from spri_dspy.lms.client import use_scope

        work = Work(self.program, None, set(), None, None)
        with use_scope(self.scope), dspy.context(disable_history=True, trace=None):
            examples = [pickle.loads(example) for example in batch["example"]]
            for task in asyncio.as_completed([work.run_one(example) for example in examples]):
                record = await task
                yield {"record": [json.dumps(record.to_json())]}


class ShardedCache:
    """A cache whose writers each have a file of their own; every reader reads all of them.

    A worker takes the first shard that no living worker holds, so that one which replaces a dead worker goes on
    with that worker's shard.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        number = 0
        while (lock := _lock(folder / f"shard-{number}")) is None:
            number += 1
        self._held = lock
        self._own = CallCache(folder / f"shard-{number}")
        self._others: dict[str, CallCache] = {}

    def get(self, key: str) -> list[Any] | None:
        """The outputs of a call that any worker finished."""
        found = self._own.get(key)
        if found is not None:
            return found
        for other in self._readable():
            found = other.get(key)
            if found is not None:
                return found
        return None

    def _readable(self) -> Iterator[CallCache]:
        """The other shards, and the cache of a run on one machine that is now resumed here."""
        for shard in (self._folder, *sorted(self._folder.glob("shard-*"))):
            if shard == self._own.path.parent or not (shard / FILE).exists():
                continue
            if shard.name not in self._others:
                self._others[shard.name] = CallCache(shard)
            yield self._others[shard.name]

    def put(
        self, key: str, prompt_key: str, outputs: list[Any], model: str, tokens_in: int, tokens_out: int
    ) -> None:
        """Store a finished call in this worker's shard."""
        self._own.put(key, prompt_key, outputs, model, tokens_in, tokens_out)

    def forget(self, keys: Iterable[str]) -> None:
        """Let these calls be made again, as far as this worker made them."""
        self._own.forget(keys)


def _lock(folder: Path) -> int | None:
    """Hold a shard for the life of this process; None if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError):
            os.close(descriptor)
        return None
    return descriptor
