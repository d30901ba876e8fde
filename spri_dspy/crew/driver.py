"""The driver's side of a run by workers: which has room, and what runs again when one dies.

It knows workers by number and through a `Link`, whatever carries that; no program and no LM.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count, groupby, islice
from typing import Any, Protocol

from spri_dspy.bulk import Work, first_error, plain
from spri_dspy.crew.worker import Orders, Report, Seat
from spri_dspy.errors import BudgetSpent, PrerequisiteError
from spri_dspy.lms.leases import Treasury
from spri_dspy.records import Record
from spri_dspy.tasks.example import Example

logger = logging.getLogger(__name__)

TOGETHER = 8
"""Examples of one cluster that go to a worker together, at most: calls that they share are then made once."""

DEATHS = 2
"""Deaths of workers that an example may be near. Then it runs with a worker to itself, and if that dies too, it is a
record with an error."""

PAUSE, PAUSE_EACH = 0.1, 0.004
"""Seconds between two reports of a worker, at most: the first, or the second times the workers if that is more, so that
the driver is busy with a part of its time only."""


class WorkerDied(Exception):
    """A worker is dead or out of reach; the message says what is known of that."""


class Link(Protocol):
    """The way to one worker; see `worker.Worker`."""

    async def open(self) -> Report:
        """Have it make its program.

        Raises:
            WorkerDied: it is dead.
        """
        ...

    async def exchange(self, orders: Orders) -> Report:
        """Give orders, and wait for the report.

        Raises:
            WorkerDied: it is dead.
        """
        ...


Hire = Callable[[Seat], AbstractAsyncContextManager[Link]]
"""Starts a worker; the end of the block ends it, whatever it is doing."""


@dataclass
class _Hand:
    """A worker as the driver knows it: what it was given and has not finished, by group, then by id."""

    number: int
    is_apart: bool
    room: int
    open: dict[int, dict[str, Example]] = field(default_factory=dict)

    @property
    def n_open(self) -> int:
        return sum(map(len, self.open.values()))

    def finish(self, group: int, example: str) -> None:
        self.open[group].pop(example)
        if not self.open[group]:
            del self.open[group]


class Crew:
    """Workers of one run, and what they work on.

    Args:
        hire: starts a worker.
        seat: what each is made from.
        n_workers: how many.
        treasury: what they share.
        work: keeps records and counts.
        on_call: see `bulk.run_bulk`.
    """

    def __init__(
        self,
        hire: Hire,
        seat: Seat,
        n_workers: int,
        *,
        treasury: Treasury,
        work: Work,
        on_call: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._hire, self._seat, self._n_workers = hire, seat, n_workers
        self._treasury, self._work, self._on_call = treasury, work, on_call
        self._pause = max(PAUSE, PAUSE_EACH * n_workers)
        self._hands: dict[int, _Hand] = {}
        self._again: deque[dict[str, Example]] = deque()
        self._suspects: deque[dict[str, Example]] = deque()
        self._deaths: Counter[str] = Counter()
        self._numbers, self._stillborn = count(), 0
        self._is_last, self._over = False, asyncio.Event()
        self._told: set[str] = set()

    async def run(self, groups: Iterator[list[Example]]) -> None:
        """Run groups of examples until all are kept, or the budget is spent.

        Raises:
            SpriError: a failure that every example would meet, or workers that die before they begin.
        """
        self._groups = groups
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                attending = [tasks.create_task(self._attend()) for _ in range(self._n_workers)]
                await self._over.wait()
                for task in attending:
                    task.cancel()
        except* Exception as errors:
            raise first_error(errors) from None

    async def _attend(self, *, is_apart: bool = False) -> None:
        """Give a worker orders and keep what it finishes; if it dies, go on with another in its place.

        One that stands apart has a single group at a time, and goes when there is no suspect left.
        """
        while True:
            hand = _Hand(next(self._numbers), is_apart, 0)
            self._hands[hand.number] = hand
            self._treasury.join(hand.number)
            try:
                async with self._hire(self._seat._replace(is_apart=is_apart)) as link:
                    report = await link.open()
                    self._stillborn, hand.room = 0, report.room
                    while (orders := self._orders(hand, report)) is not None:
                        report = await link.exchange(orders)
                        self._take(hand, report)
                self._treasury.leave(hand.number)
                del self._hands[hand.number]
                return
            except WorkerDied as died:
                self._bury(hand, died)
            if is_apart:
                return

    def _take(self, hand: _Hand, report: Report) -> None:
        """Keep what a worker finished.

        Raises:
            SpriError: it met a failure that every example would meet, or too many failed.
        """
        for name, level, text in report.log:
            if level < logging.WARNING or text not in self._told:
                logging.getLogger(name).log(level, "%s", text)
                self._told.add(text)
        for call in report.calls if self._on_call else ():
            self._on_call(call)  # type: ignore[misc] # it is not None here
        for group, record in report.records:
            hand.finish(group, record.id)
            self._work.keep(record)
        for group, example in report.given_up:
            hand.finish(group, example)
        if report.error is not None:
            raise report.error

    def _orders(self, hand: _Hand, report: Report) -> Orders | None:
        """What a worker is to do next; None for one that stands apart and is not needed any more."""
        if report.error is not None:
            raise report.error
        n_open = hand.n_open
        groups: dict[int, list[Example]] = {}
        room = min(hand.room - n_open, hand.room // 3 + 1)  # neighbours get some of a short input too
        while room > 0 and (group := self._next(hand)):
            number = next(self._numbers)
            hand.open[number], groups[number] = group, list(group.values())
            room -= len(group)
        grant = self._treasury.grant(hand.number, report.use, hand.n_open)
        if grant.exhausted is not None and self._work.spent is None:
            self._work.spent = BudgetSpent(grant.exhausted)
        self._look_for_the_end()
        if hand.is_apart and not hand.open:
            return None
        return Orders(groups, grant, self._is_last, self._pause)

    def _next(self, hand: _Hand) -> dict[str, Example] | None:
        """The next group for a worker, None where there is none now."""
        if self._work.spent is not None:
            return None
        if hand.is_apart:
            return self._suspects.popleft() if self._suspects and not hand.open else None
        if self._again:
            return self._again.popleft()
        group = next(self._groups, None)
        self._is_last = group is None
        return {example.id: example for example in group} if group else None

    def _look_for_the_end(self) -> None:
        waiting = self._again or self._suspects or not self._is_last
        is_quiet = not any(hand.open for hand in self._hands.values())
        if is_quiet and (self._work.spent is not None or not waiting):
            self._over.set()

    def _bury(self, hand: _Hand, died: WorkerDied) -> None:
        """See to what a dead worker leaves: groups run again, run alone, or are recorded as deadly.

        Raises:
            PrerequisiteError: workers die before they begin.
        """
        del self._hands[hand.number]
        self._treasury.leave(hand.number)
        self._stillborn += not hand.room
        if self._stillborn > DEATHS:
            raise PrerequisiteError(f"workers die before they begin: {died}") from died
        logger.warning("a worker died; its examples run again in a new one")
        for group in hand.open.values():
            first = next(iter(group))
            self._deaths[first] += 1
            if hand.is_apart:
                for record in _failed(group.values()):
                    self._work.keep(record)
                self._again.extend(self._suspects)  # most likely they only were near this one
                self._suspects.clear()
            elif self._deaths[first] >= DEATHS:
                self._suspects.append(group)
            else:
                self._again.append(group)
        if self._suspects and not any(other.is_apart for other in self._hands.values()):
            self._tasks.create_task(self._attend(is_apart=True))
        self._look_for_the_end()


def grouped(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Neighbours of one cluster together, TOGETHER at most."""
    for _, neighbours in groupby(examples, key=lambda e: (e.cluster, e.cluster or e.id)):
        while group := list(islice(neighbours, TOGETHER)):
            yield group


def _failed(group: Iterable[Example]) -> Iterator[Record]:
    said = f"WorkerDied: {DEATHS + 1} workers died while they ran this example, the last one ran nothing else"
    for e in group:
        known = {"group": e.group, "cluster": e.cluster, "labels": plain(e.label_values)}
        yield Record(id=e.id, inputs=plain(e.input_values), error=said, **known)
