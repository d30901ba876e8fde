"""The same program over Ray: many machines, or many processes of one, into one run directory; see `crew`.

Workers are asynchronous actors, each with a shard of the run's cache of its own. On several machines the run directory
must be on a file system that all of them see; keys must be in the workers' environment. Ray is imported when it is
used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from spri_dspy.bulk import Summary, examples_for
from spri_dspy.crew.driver import WorkerDied
from spri_dspy.crew.job import Job
from spri_dspy.crew.worker import Orders, Report, Seat, Worker
from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.lms.cache import FILE, CallCache, take_over_shards
from spri_dspy.redaction import error_line
from spri_dspy.tasks.example import Example


def run_on_ray(
    job: Job,
    examples: Iterable[Example] | Any,
    *,
    address: str | None = None,
    workers: int | None = None,
    id_column: str | None = None,
) -> Summary:
    """Run a job over examples by workers of a Ray cluster.

        run_on_ray(Job(make_program, run), ray.data.read_parquet("posts"), id_column="uid")

    Args:
        job: what is asked.
        examples: read lazily, as workers have room; a `ray.data.Dataset` of rows with the program's inputs too.
        id_column: of a Dataset: the column that tells its rows apart, as in Ray Data's `CheckpointConfig`. Rows whose
            example is finished are passed over, in whatever order they come. "id" by default.
        address: of a running cluster; None starts Ray on this machine and stops it afterwards.
        workers: actors; one a CPU of the cluster by default, and no more than the job's concurrency.

    Raises:
        UsageError: concurrency or workers below 1, two examples of one id, or a Dataset without its `id_column`.
        BudgetSpent: as for `bulk.run_bulk`.
        PrerequisiteError: Ray is not installed, or the cluster cannot be reached; or every example would fail.
    """
    ray = find_ray()
    job.check(workers)
    if hasattr(examples, "iter_rows"):
        examples = dataset_examples(examples, job.make_program(), id_column or "id")
    elif id_column is not None:
        raise UsageError("id_column is for a ray.data.Dataset; these examples have ids of their own")
    take_over_shards(job.folder)
    groups = job.begin(examples)
    if groups is None:
        return job.work.summary
    if (job.folder / FILE).exists():  # several machines are to read it
        CallCache(job.folder, "truncate").close()
    is_guest = ray.is_initialized()
    if not is_guest:
        _connect(ray, address)
    try:
        wanted = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

        def hire(seat: Seat) -> AbstractAsyncContextManager[_Actor]:
            return _hire(ray, seat)

        return job.carry_out(hire, groups, wanted, has_shards=True)
    finally:
        if not is_guest:
            ray.shutdown()
        take_over_shards(job.folder)


def dataset_examples(dataset: Any, program: Any, id_column: str) -> Iterator[Example]:
    """The rows of a `ray.data.Dataset` as examples of a program; read block by block.

    Raises:
        UsageError: a row has no id, or none of the program's inputs.
    """
    columns = dataset.columns() or []
    if id_column not in columns:
        raise UsageError(
            f"the Dataset has no column {id_column!r}; id_column is one of {', '.join(columns)}, with a value of its "
            "own in every row"
        )
    return examples_for(program, (_row(row, id_column) for row in dataset.iter_rows()))


def _row(row: dict[str, Any], id_column: str) -> dict[str, Any]:
    """A row under the names that examples have."""
    if row[id_column] is None:
        raise UsageError(
            f"a row of the Dataset has nothing in its column {id_column!r}, which tells rows apart"
        )
    return {**{k: v for k, v in row.items() if k != id_column}, "id": row[id_column]}


def find_ray() -> Any:
    """The module.

    Raises:
        PrerequisiteError: it is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports] - the extra [ray]
    except ImportError as error:
        raise PrerequisiteError('Ray is not installed: pip install "spri-dspy[ray]"') from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        settings["object_store_memory"] = 200 * 2**20
        os.environ.setdefault(
            "RAY_USAGE_STATS_ENABLED", "0"
        )  # nothing is sent anywhere that was not asked for
    if address is not None:
        _knock(address)
    try:
        ray.init(address=address or "local", ignore_reinit_error=True, **settings)
    except Exception as error:  # Ray raises unrelated types for a cluster that is not there
        where = address or "this machine"
        raise PrerequisiteError(f"no Ray cluster at {where}: {error_line(error)}") from error


def _knock(address: str) -> None:
    """Find out quickly whether anybody listens at HOST:PORT; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise PrerequisiteError(f"no Ray cluster at {address}: {error.strerror or error}") from error


@asynccontextmanager
async def _hire(ray: Any, seat: Seat) -> AsyncGenerator[_Actor]:
    """A worker as an actor, for the length of the block."""
    remote = ray.remote(num_cpus=0.0 if seat.is_apart else 0.5, max_restarts=0, max_concurrency=4)
    actor = remote(Worker).remote(seat)
    try:
        yield _Actor(ray, actor)
    finally:
        ray.kill(actor)  # it may only be out of reach, and must let its shard go


class _Actor:
    """The way to a worker that is an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        known, self._actor = ray.exceptions, actor
        self._deadly = (known.RayActorError, known.ObjectLostError, known.OutOfMemoryError)

    async def open(self) -> Report:
        return await self._answer(self._actor.open)

    async def exchange(self, orders: Orders) -> Report:
        return await self._answer(self._actor.exchange, orders)

    async def _answer(self, method: Any, *arguments: Any) -> Report:
        try:
            return await method.remote(*arguments)
        except self._deadly as error:
            raise WorkerDied(error_line(error)) from error
