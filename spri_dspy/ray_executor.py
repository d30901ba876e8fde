"""The same program over Ray: many machines, or many processes of one, into one run directory.

The driver reads examples and writes records; workers are asynchronous actors, each with the program made anew from
its recipe and a shard of the run's cache of its own. A worker that dies is replaced, and its examples run again with
its finished calls from its shard, so none is paid twice; examples that kill worker after worker become records with
an error. On several machines the run directory must be on a file system that all of them see; keys must be in the
workers' environment.

It knows programs through a picklable maker, and runs through RunDir; Ray is imported when it is used.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from spri_dspy.bulk import Summary, Work, plain, window_of
from spri_dspy.errors import PrerequisiteError, SpriError, UsageError
from spri_dspy.lms.cache import FILE, CallCache, ShardedCache, take_over_shards
from spri_dspy.records import Record
from spri_dspy.redaction import error_line
from spri_dspy.runs import CACHE, CallLog, RunDir
from spri_dspy.tasks.example import Example

logger = logging.getLogger(__name__)

TOGETHER = 8
"""Examples of one cluster that go to a worker together, at most: calls that they share are then made once."""

DEATHS = 2
"""Deaths of workers that an example may be near. Then it runs with a worker to itself, and if that dies too, it is a
record with an error."""


class Seat(NamedTuple):
    """What a worker is made from.

    Attributes:
        folder: of the run's cache.
        slots: LM calls in flight, per LM.
        calls: where prompts and answers are kept, None for nowhere.
    """

    make_program: Callable[[], Any]
    folder: str
    slots: int
    calls: str | None = None


def run_on_ray(
    make_program: Callable[[], Any],
    examples: Iterable[Example],
    run: RunDir,
    *,
    address: str | None = None,
    workers: int | None = None,
    concurrency: int = 16,
    retry_errors: bool = False,
    keep_calls: bool = False,
    on_record: Callable[[Record], None] | None = None,
) -> Summary:
    """Run a program over examples into a run directory, by workers of a Ray cluster.

    Args:
        make_program: makes the program with its LMs; pickled, called once a worker.
        examples: read lazily, as workers have room.
        run: from `RunDir.create`.
        address: of a running cluster; None starts Ray on this machine and stops it afterwards.
        workers: actors; one a CPU of the cluster by default, and no more than `concurrency`.
        concurrency: LM calls in flight over all workers, per LM.
        retry_errors: run examples that failed before once more.
        keep_calls: keep prompt and answer of every call in RUN/calls.jsonl.
        on_record: called with each new record, after it is written.

    Raises:
        UsageError: concurrency or workers below 1, or two examples of one id.
        PrerequisiteError: Ray is not installed, or the cluster cannot be reached; or every example would fail.
    """
    ray = find_ray()
    if concurrency < 1 or (workers is not None and workers < 1):
        raise UsageError(f"concurrency and workers must be at least 1, not {concurrency} and {workers}")
    folder = (run.path / CACHE).resolve()
    take_over_shards(folder)
    work = Work(None, run, run.finished(retry_errors=retry_errors), on_record, None)
    groups = _groups(filter(work.take, examples))
    first = next(groups, None)
    if first is None:
        return work.summary
    if (folder / FILE).exists():  # several machines are to read it
        CallCache(folder, "truncate").close()
    _connect(ray, address)
    try:
        wanted = workers or int(ray.cluster_resources().get("CPU", 1))
        calls = str(run.path.resolve()) if keep_calls else None
        shares = _shares(concurrency, max(1, wanted))
        seats = [Seat(make_program, str(folder), slots, calls) for slots in shares]
        for record in Crew(ray, seats).records(chain([first], groups)):
            work.keep(record)
        return work.summary
    finally:
        ray.shutdown()
        take_over_shards(folder)


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


def _shares(concurrency: int, workers: int) -> list[int]:
    """The slots of each worker: as equal as they can be, together `concurrency`, none without."""
    each, more = divmod(concurrency, workers)
    return [each + 1] * more + [each] * (workers - more if each else 0)


def _groups(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Neighbours of one cluster together."""
    for _, neighbours in groupby(examples, key=lambda e: (e.cluster, e.cluster or e.id)):
        while group := list(islice(neighbours, TOGETHER)):
            yield group


@dataclass
class Crew:
    """The driver's side: which worker has room, and what the others work on."""

    ray: Any
    seats: list[Seat]
    _room: deque[Any] = field(default_factory=deque)
    _busy: dict[Any, tuple[Any, list[Example]]] = field(default_factory=dict)
    _again: deque[list[Example]] = field(default_factory=deque)
    _suspects: deque[list[Example]] = field(default_factory=deque)
    _deaths: Counter[str] = field(default_factory=Counter)
    _alive: dict[Any, Seat] = field(default_factory=dict)
    _apart: Any = None
    _stillborn: int = 0

    def records(self, groups: Iterator[list[Example]]) -> Iterator[Record]:
        """Finished records, in the order in which they come.

        Raises:
            SpriError: a failure that every example would meet.
        """
        for seat in self.seats:
            self._hire(seat)
        while True:
            while self._room and (group := self._again.popleft() if self._again else next(groups, None)):
                self._send(self._room.popleft(), group)
            is_quiet = not any(group for _, group in self._busy.values())
            if self._suspects and self._apart is None:
                self._apart = self._hire(self.seats[0], num_cpus=0)
            elif self._room and is_quiet and not self._suspects:
                return
            yield from self._finished()

    def _hire(self, seat: Seat, num_cpus: float = 0.5) -> Any:
        """Start a worker; it has room once it is there and has made its program."""
        remote = self.ray.remote(num_cpus=num_cpus, max_restarts=0, max_concurrency=10 * seat.slots + 100)
        actor = remote(Worker).remote(seat)
        self._alive[actor] = seat
        self._busy[actor.open.remote()] = (actor, [])
        return actor

    def _send(self, actor: Any, group: list[Example]) -> None:
        self._busy[actor.run.remote(group)] = (actor, group)

    def _finished(self) -> Iterator[Record]:
        """Wait for something to finish; the records of all that has."""
        refs = list(self._busy)
        self.ray.wait(refs, num_returns=1)
        for ref in self.ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
            actor, group = self._busy.pop(ref)
            try:
                found = self.ray.get(ref)
            except self.ray.exceptions.RayActorError as error:
                yield from self._lost(actor, group, error)
                continue
            self._seat_again(actor, found if isinstance(found, int) else 1)
            for record in found if isinstance(found, list) else ():
                if isinstance(record, SpriError):
                    raise record
                yield record

    def _seat_again(self, actor: Any, places: int) -> None:
        """Give a worker its places back; the one that stands apart takes a single suspect."""
        if actor != self._apart:
            self._room.extend([actor] * places)
        elif self._suspects:
            self._send(actor, self._suspects.popleft())
        else:
            self._alive.pop(actor)
            self.ray.kill(actor)
            self._apart = None

    def _lost(self, actor: Any, group: list[Example], error: Exception) -> Iterator[Record]:
        """What to do about a group whose worker is dead: run it again, run it alone, or record that it kills.

        Raises:
            PrerequisiteError: workers die before they begin.
        """
        if not group:
            self._stillborn += 1
        if self._stillborn > DEATHS:
            raise PrerequisiteError(f"workers die before they begin: {error_line(error)}") from error
        was_alone = actor == self._apart
        self._bury(actor)
        if was_alone and group:
            yield from _failed(group)
            self._again.extend(self._suspects)  # most likely they only were near this one
            self._suspects.clear()
        elif group:
            self._deaths[group[0].id] += 1
            (self._suspects if self._deaths[group[0].id] >= DEATHS else self._again).append(group)

    def _bury(self, actor: Any) -> None:
        """Hire in a dead worker's place, once; each of its groups tells of its death."""
        seat = self._alive.pop(actor, None)
        if seat is None:
            return
        logger.warning("a worker died; its examples run again in a new one")
        self.ray.kill(actor)  # it may only be out of reach, and must let its shard go
        if actor == self._apart:
            self._apart = None
            return
        self._room = deque(other for other in self._room if other != actor)
        self._hire(seat)


def _failed(group: list[Example]) -> Iterator[Record]:
    said = f"WorkerDied: {DEATHS + 1} workers died while they ran this example, the last one ran nothing else"
    for e in group:
        known = {"group": e.group, "cluster": e.cluster, "labels": plain(e.label_values)}
        yield Record(id=e.id, inputs=plain(e.input_values), error=said, **known)


class Worker:
    """One actor: the program, its limiter and its shard of the cache, made when the first message comes."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._work: Work | None = None

    async def open(self) -> int | list[SpriError]:
        """How many groups of examples to send at a time, or why there will be none."""
        from spri_dspy.lms.concurrency import Limiter
        from spri_dspy.lms.scope import Scope

        try:
            program = self._seat.make_program()
            cache = ShardedCache(Path(self._seat.folder))
        except SpriError as error:
            return [_carried(error)]
        calls = CallLog(Path(self._seat.calls)) if self._seat.calls else None
        self._scope = Scope(cache=cache, slots=Limiter(self._seat.slots), on_call=calls)
        self._work = Work(program, None, set(), None, None)
        return window_of(program, self._seat.slots)

    async def run(self, examples: list[Example]) -> list[Record | SpriError]:
        """Run examples side by side: their records, or errors that every example would meet."""
        import asyncio

        import dspy

        from spri_dspy.lms.scope import use_scope

        assert self._work is not None, "a worker is opened before it runs"
        with use_scope(self._scope), dspy.context(disable_history=True, trace=None):
            tasks = [self._work.run_one(example) for example in examples]
            done = await asyncio.gather(*tasks, return_exceptions=True)
        found: list[Record | SpriError] = []
        for each in done:
            if isinstance(each, BaseException) and not isinstance(each, SpriError):
                raise each
            found.append(_carried(each) if isinstance(each, SpriError) else each)
        return sorted(found, key=lambda each: isinstance(each, SpriError))


def _carried(error: SpriError) -> SpriError:
    """An error that can be pickled: some are made from more than their message."""
    return (UsageError if isinstance(error, UsageError) else PrerequisiteError)(str(error))
