"""The same program over Ray: many machines, or many processes of one, into one run directory; see `crew`.

Workers are asynchronous actors, each with a shard of the run's cache of its own. On several machines the run directory
must be on a file system that all of them see; keys must be in the workers' environment. Ray is imported when it is
used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from spri_dspy.bulk import Summary
from spri_dspy.crew.driver import WorkerDied
from spri_dspy.crew.job import Job
from spri_dspy.crew.worker import Orders, Report, Seat, Worker
from spri_dspy.errors import PrerequisiteError
from spri_dspy.lms.cache import FILE, CallCache, take_over_shards
from spri_dspy.redaction import error_line
from spri_dspy.tasks.example import Example


def run_on_ray(
    job: Job, examples: Iterable[Example], *, address: str | None = None, workers: int | None = None
) -> Summary:
    """Run a job over examples by workers of a Ray cluster.

    Args:
        job: what is asked.
        examples: read lazily, as workers have room.
        address: of a running cluster; None starts Ray on this machine and stops it afterwards.
        workers: actors; one a CPU of the cluster by default, and no more than the job's concurrency.

    Raises:
        UsageError: concurrency or workers below 1, or two examples of one id.
        BudgetSpent: as for `bulk.run_bulk`.
        PrerequisiteError: Ray is not installed, or the cluster cannot be reached; or every example would fail.
    """
    ray = find_ray()
    job.check(workers)
    take_over_shards(job.folder)
    groups = job.begin(examples)
    if groups is None:
        return job.work.summary
    if (job.folder / FILE).exists():  # several machines are to read it
        CallCache(job.folder, "truncate").close()
    _connect(ray, address)
    try:
        wanted = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

        def hire(seat: Seat) -> AbstractAsyncContextManager[_Actor]:
            return _hire(ray, seat)

        return job.carry_out(hire, groups, wanted, has_shards=True)
    finally:
        ray.shutdown()
        take_over_shards(job.folder)


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
        ray.init(address=address, ignore_reinit_error=True, **settings)
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
