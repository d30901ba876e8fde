"""A worker's side of a run: the program made anew, its calls within what it was lent, its finished records.

Driver and worker exchange orders for a report, again and again; between these the worker goes on by itself. It knows
nothing of how the two reach each other.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import dspy

from spri_dspy.bulk import Work, lms_of, window_of
from spri_dspy.errors import BudgetSpent, PrerequisiteError, SpriError, UsageError
from spri_dspy.lms.cache import CallCache, ShardedCache
from spri_dspy.lms.concurrency import openable
from spri_dspy.lms.leases import Grant, LeasedSlots, Use
from spri_dspy.lms.scope import Scope, use_scope
from spri_dspy.records import Record
from spri_dspy.runs import CallLog
from spri_dspy.tasks.example import Example

LEAST_PAUSE = 0.02
"""Seconds between two reports, at least: an exchange costs about what an LM call costs."""


class Seat(NamedTuple):
    """What a worker is made from.

    Attributes:
        make_program: called once.
        folder: of the run's cache.
        has_shard: whether the worker writes a part of the cache that is its own, for file systems of many machines.
        share: LM calls in flight, per LM, when all workers are busy.
        concurrency: the same if all were lent to this one.
        limited: names of the budget's limits.
        deadline: see `bulk.run_bulk`.
        calls: the run directory where prompts and answers are kept, None for nowhere.
        is_telling: whether reports carry every call.
        log_level: of the package's log lines that reports carry.
        is_apart: whether it is beside the others, for examples near which workers died.
    """

    make_program: Callable[[], Any]
    folder: str
    has_shard: bool
    share: int
    concurrency: int
    limited: list[str]
    deadline: float | None = None
    calls: str | None = None
    is_telling: bool = False
    log_level: int = logging.WARNING
    is_apart: bool = False


class Orders(NamedTuple):
    """What the driver says.

    Attributes:
        groups: examples to begin with, by number of their group.
        grant: what may be held from now on.
        is_last: no further example comes, as far as can be told.
        pause: seconds after which to report at the latest.
    """

    groups: dict[int, list[Example]]
    grant: Grant
    is_last: bool
    pause: float


class Report(NamedTuple):
    """What a worker says.

    Attributes:
        use: what it holds and uses.
        records: finished since the last report, each with the number of its group.
        given_up: examples that ended without a record, for want of budget.
        error: a failure that every example would meet, or a bug.
        calls: that ended, if they are to be told.
        log: logger, level and text of log lines.
        room: examples to have open at a time, 0 before there is a program.
    """

    use: Use
    records: list[tuple[int, Record]]
    given_up: list[tuple[int, str]]
    error: Exception | None
    calls: list[dict[str, Any]]
    log: list[tuple[str, int, str]]
    room: int


class Worker:
    """Runs examples for a driver; made and used in one event loop."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._wanted = asyncio.Event()  # set where the driver is to hear of it soon
        self._running: set[asyncio.Task[None]] = set()
        self._window, self._is_last = 0, False
        self._error: Exception | None = None
        self._records: list[tuple[int, Record]] = []
        self._given_up: list[tuple[int, str]] = []
        self._calls: list[dict[str, Any]] = []
        self._log = _Log(seat.log_level)

    async def open(self) -> Report:
        """Make the program; the report says why that is not possible."""
        seat, folder = self._seat, Path(self._seat.folder)
        self._slots = LeasedSlots(seat.concurrency, seat.limited, self._wanted.set)
        try:
            program = seat.make_program()
            lms = lms_of(program)
            most = openable(seat.concurrency, lms)
            self._slots = LeasedSlots(most, seat.limited, self._wanted.set)
            cache = ShardedCache(folder) if seat.has_shard else CallCache(folder)
            calls = CallLog(Path(seat.calls)) if seat.calls else None
        except SpriError as error:
            self._error = _carried(error)
            return self._report()
        for lm in lms:
            for each in getattr(lm, "replicas", ()) or (lm,):
                self._slots.window(each)

        def on_call(call: dict[str, Any]) -> None:
            if calls is not None:
                calls(call)
            if seat.is_telling:
                self._calls.append(call)

        told = on_call if calls is not None or seat.is_telling else None
        self._scope = Scope(cache=cache, slots=self._slots, budget=self._slots.budget, on_call=told)
        self._work = Work(program, None, set(), None, seat.deadline)
        self._window = window_of(program, seat.share)
        return self._report()

    async def exchange(self, orders: Orders) -> Report:
        """Follow orders, work for a moment, and report: sooner where records wait for more examples or for budget."""
        self._wanted.clear()
        self._slots.take(orders.grant)
        if orders.is_last and not self._is_last and not self._seat.limited:
            self._slots.end()
        self._is_last = orders.is_last
        with use_scope(self._scope), dspy.context(disable_history=True, trace=None):
            for number, group in orders.groups.items():
                for example in group:
                    task = asyncio.create_task(self._run(number, example))
                    self._running.add(task)
                    task.add_done_callback(self._ended)
        await asyncio.sleep(LEAST_PAUSE)
        try:
            async with asyncio.timeout(orders.pause - LEAST_PAUSE):
                await self._wanted.wait()
        except TimeoutError:
            pass
        return self._report()

    async def _run(self, number: int, example: Example) -> None:
        try:
            record = await self._work.run_one(example)
            self._records.append((number, record))
        except BudgetSpent:
            self._given_up.append((number, example.id))
        except SpriError as error:
            self._error = self._error or _carried(error)
        except Exception as error:  # a bug of ours, which is to reach whoever looks at the driver
            self._error = self._error or RuntimeError("".join(traceback.format_exception(error)))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        is_short = not self._running or (not self._is_last and len(self._running) <= self._window // 2)
        if is_short or self._error is not None:
            self._wanted.set()

    def _report(self) -> Report:
        records, self._records = self._records, []
        given_up, self._given_up = self._given_up, []
        calls, self._calls = self._calls, []
        return Report(
            self._slots.use(), records, given_up, self._error, calls, self._log.taken(), self._window
        )


class _Log(logging.Handler):
    """Keeps this package's log lines for the next report, and shows nothing here."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._lines: list[tuple[str, int, str]] = []
        ours = logging.getLogger("spri_dspy")
        ours.setLevel(level)
        ours.propagate = False
        ours.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.name, record.levelno, record.getMessage()))

    def taken(self) -> list[tuple[str, int, str]]:
        """The lines since the last time."""
        lines, self._lines = self._lines, []
        return lines


def _carried(error: SpriError) -> SpriError:
    """An error that can be pickled: some are made from more than their message."""
    return (UsageError if isinstance(error, UsageError) else PrerequisiteError)(str(error))
