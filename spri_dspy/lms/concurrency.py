"""How many calls may be in flight: one AIMD window an LM.

A window opens quickly while all goes well (slow start), narrows when the server has too much to do, and then grows by
one a round trip, so that a run finds each server's rate by itself. A refusal is a sign of load where more calls are in
flight than at any answer since the last narrowing, or where many of the latest calls were refused: a server that turns
a few calls away at random keeps its calls. It knows LMs by identity and outcomes; no prompt and no example.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import resource
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from spri_dspy.errors import UsageError
from spri_dspy.lms.spec import CALL

logger = logging.getLogger(__name__)

FIRST_WINDOW, FIRST_PART = 16, 4
"""Calls in flight at the start, if the limit allows, or that part of the limit if it is more; doubled every round trip
until the first refusal."""

LONGEST_PAUSE = 60.0
"""Cap in seconds on how long a server's Retry-After can hold an LM's calls back."""

RECENT = 20
"""The latest calls whose outcomes count, or as many as the window has places, if that is more."""

OVERLOADED, CLOSED = 0.25, 0.5
"""Shares of refusals: above the first a refusal is a sign of load; above the second, and from PAUSE_AFTER on, a
server's Retry-After holds all of an LM's calls back. The refused call itself always waits."""

PAUSE_AFTER = 3
"""Refusals before which nobody else is held back."""

_SLIGHTLY, _HALF = 0.8, 0.5
"""What is left of a window after a refusal among answers, and after one of many."""

_CAUTION = 0.1
"""Growth near the number of calls in flight at which the window was last narrowed, as a part of the usual."""


@dataclass
class Turn:
    """Where the calls of one example stand in line.

    Attributes:
        number: of the example, in the order in which they were begun.
        stages: kinds of calls that it has had a place for so far.
        clock: when the example is given up; it stands still while a call waits for its place.
    """

    number: int
    stages: set[str] = field(default_factory=set)
    clock: asyncio.Timeout | None = None


TURN: ContextVar[Turn | None] = ContextVar("spri_turn", default=None)


class _Waiting(NamedTuple):
    order: tuple[int, int]
    place: asyncio.Future[float]
    turn: Turn


class Window:
    """The calls in flight of one LM: slow start, additive increase, multiplicative decrease on signs of load.

    While more examples come, the oldest goes first: results come early, and what a budget pays for gets finished.
    Once none comes any more, whoever has the most before it goes first, so that all end at about the same time and no
    long one runs on alone.

    Attributes:
        most: how many may ever be in flight.
        limit: how many may be in flight now, between 1 and `most`.
        lease: how many of these are this process's, where several share them; None for all. See `lms.leases`.
        in_flight: how many are; never above what `limit` was when the last of them began.
    """

    def __init__(self, most: int, lease: int | None = None) -> None:
        self.most, self.lease = most, lease
        self.limit = float(min(most, max(FIRST_WINDOW, most // FIRST_PART)))
        self.in_flight = 0
        self._threshold = float(most)
        self._paused_until = 0.0
        self._lowered_at = -1.0
        self._round_trip = 0.0
        self._outcomes: deque[bool] = deque()  # of the latest calls: whether they were refused
        self._refused = 0
        self._proven = 0  # most calls in flight at an answer since the last narrowing
        self._ceiling = float("inf")  # calls in flight at the last narrowing
        self._waiting: list[_Waiting] = []
        self._arrivals = count()
        self._ending = False
        self._wake: asyncio.TimerHandle | None = None

    async def enter(self, turn: Turn | None = None) -> float:
        """Wait for a place. Returns when it was given, which a busy loop hears of later.

        Args:
            turn: where the call's example stands; without one, first come is first served.
        """
        place = asyncio.get_running_loop().create_future()
        arrival = next(self._arrivals)
        turn = turn or Turn(arrival)
        heapq.heappush(self._waiting, _Waiting((self._rank(turn), arrival), place, turn))
        self._fill()
        if place.done():
            return place.result()
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled():  # the place came in the same moment: somebody else may have it
                self.leave()
            raise

    def end(self) -> None:
        """No further example comes: from now on, whoever has the most before it goes first."""
        self._ending = True
        self._waiting = [w._replace(order=(self._rank(w.turn), w.order[1])) for w in self._waiting]
        heapq.heapify(self._waiting)

    def _rank(self, turn: Turn) -> int:
        return len(turn.stages) if self._ending else turn.number

    def leave(self) -> None:
        """Give the place back, and hand free places to those who wait."""
        self.in_flight -= 1
        self._fill()

    def succeeded(self, began: float | None = None) -> None:
        """One answer came: open the window, by one an answer at first, by one a round trip later.

        Args:
            began: when the call got its place.
        """
        self._note(is_refused=False)
        if began is not None:
            took = asyncio.get_running_loop().time() - began
            self._round_trip += (took - self._round_trip) / 8
        self._proven = max(self._proven, self.in_flight)
        step = 1.0 if self.limit < self._threshold else 1.0 / self.limit
        if self.limit > self._ceiling + 1:
            self._ceiling = float("inf")
        if self.limit >= self._ceiling - 1:
            step *= _CAUTION
        self.limit = min(float(self.most), self.limit + step)

    def refused(self, began: float, retry_after: float | None) -> None:
        """The server said "too many": narrow the window, once a round trip, if that is a sign of load; see the module.

        Args:
            began: when the refused call got its place; calls begun within a round trip of the last narrowing say
                nothing new, for refusals come at once and answers do not.
            retry_after: seconds that the server asks for. They hold back all calls where most are refused.
        """
        now = asyncio.get_running_loop().time()
        self._note(is_refused=True)
        share = self._refused / (len(self._outcomes) + max(0, self.in_flight - 1))
        if retry_after and share > CLOSED and self._refused >= PAUSE_AFTER:
            self._paused_until = max(self._paused_until, now + min(retry_after, LONGEST_PAUSE))
        if began <= self._lowered_at + self._round_trip and self._lowered_at >= 0:
            return
        if (not self._proven or self.in_flight <= self._proven + 1) and share <= OVERLOADED:
            return
        self._lowered_at, self._ceiling = now, float(self.in_flight)
        self._proven = min(self._proven, self.in_flight - 1)
        left = _HALF if share > OVERLOADED else _SLIGHTLY
        self.limit = self._threshold = max(1.0, self._places() * left)

    def _note(self, *, is_refused: bool) -> None:
        """Count the outcome of a call, and forget the oldest."""
        self._outcomes.append(is_refused)
        self._refused += is_refused
        while len(self._outcomes) > max(RECENT, self.limit):
            self._refused -= self._outcomes.popleft()

    @property
    def n_waiting(self) -> int:
        """Calls that wait for a place, some of them perhaps given up in the meantime."""
        return len(self._waiting)

    def lend(self, lease: int) -> None:
        """Have so many places from now on; calls beyond them are finished, not broken off."""
        self.lease = lease
        self._fill()

    def _places(self) -> float:
        return self.limit if self.lease is None else min(self.limit, self.lease)

    def _fill(self) -> None:
        """Hand free places to those who wait, or see to it that this happens when the pause is over."""
        now, places = asyncio.get_running_loop().time(), int(self._places())
        while self._waiting and self.in_flight < places:
            if now < self._paused_until:
                self._wake_up()
                return
            place = heapq.heappop(self._waiting).place
            if not place.done():
                self.in_flight += 1
                place.set_result(now)

    def _wake_up(self) -> None:
        """Hand out places once the server's pause is over."""
        if self._wake is None:
            self._wake = asyncio.get_running_loop().call_at(self._paused_until, self._end_pause)

    def _end_pause(self) -> None:
        self._wake = None
        self._fill()


def openable(concurrency: int, lms: Iterable[Any]) -> int:
    """The concurrency, or as much of it as this process may open connections for (`ulimit -n`), which a warning says.

    Args:
        concurrency: calls in flight at most, for each LM by itself.
        lms: the LMs that are asked; each address of one has connections of its own.

    Raises:
        UsageError: not one connection can be opened.
    """
    servers = [lm for lm in lms if getattr(getattr(lm, "spec", None), "prefix", None) not in _IN_PROCESS]
    n_addresses = sum(max(1, len(getattr(lm, "replicas", ()))) for lm in servers)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not n_addresses or most == resource.RLIM_INFINITY:
        return concurrency
    try:
        n_open = len(os.listdir("/proc/self/fd"))
    except OSError:  # no Linux
        n_open = _SPARE
    each = (most - n_open - _SPARE) // n_addresses
    if each >= concurrency:
        return concurrency
    said = f"this process may open {most} files (ulimit -n) and has {n_open} open"
    if each < 1:
        raise UsageError(f"{said}, too few for a single LM call: raise the limit with ulimit -n 4096")
    logger.warning(
        "%s: %d LM calls in flight at most, not %d; raise the limit with ulimit -n %d",
        *(said, each, concurrency, n_open + _SPARE + concurrency * n_addresses),
    )
    return each


_SPARE = 40
"""Files that a run opens beside its connections: records, caches, logs, data, and what libraries open for a moment."""

_IN_PROCESS = ("offline", "replay")
"""LMs without a connection."""


class Limiter:
    """A window for each LM.

    Args:
        concurrency: calls in flight at most, for each LM by itself.
        lease: of these, what a window has at first; see Window.

    Attributes:
        named: the windows by model, address and the order in which they were made: the same in every process that
            makes the same program.

    Raises:
        UsageError: concurrency is below 1.
    """

    def __init__(self, concurrency: int, lease: int | None = None) -> None:
        if concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {concurrency}")
        self._concurrency, self._lease = concurrency, lease
        self._windows: dict[int, Window] = {}
        self.named: dict[str, Window] = {}
        self._ending = False

    def window(self, lm: Any) -> Window:
        """The window of an LM."""
        found = self._windows.get(id(lm))
        if found is None:
            most = min(self._concurrency, getattr(lm, "most_calls", None) or self._concurrency)
            found = self._windows[id(lm)] = Window(most, self._lease)
            where = f"{getattr(lm, 'model', '')} {getattr(lm, 'address', '')}"
            self.named[f"{where} {sum(name.startswith(where) for name in self.named)}"] = found
            if self._ending:
                found.end()
        return found

    def end(self) -> None:
        """No further example comes; see Window."""
        self._ending = True
        for window in self._windows.values():
            window.end()

    def slot(self, lm: Any) -> Slot:
        """Hold one place of this LM while its call is made (`async with`), and learn from how it ends."""
        return Slot(self.window(lm))


class Slot:
    """One place in a window. A class, for a generator here would cost each call a hundredth of its time."""

    __slots__ = ("_began", "_window")

    def __init__(self, window: Window) -> None:
        self._window, self._began = window, 0.0

    async def __aenter__(self) -> None:
        turn, call = TURN.get(), CALL.get()
        if turn and turn.clock and turn.clock.when() is not None:
            with standing(turn.clock):
                self._began = await self._window.enter(turn)
        else:
            self._began = await self._window.enter(turn)
        if turn and call:
            turn.stages.add(call.stage)

    def begin_now(self) -> None:
        """Let the call begin now: what it waited for since it has its place was not the server."""
        self._began = asyncio.get_running_loop().time()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._window.succeeded(self._began)
            self._window.leave()
            return
        if is_refusal(error):
            self._window.refused(self._began, getattr(error, "retry_after", None))
        # One turn of the loop later: where this error ends the run, the next call is not begun.
        asyncio.get_running_loop().call_soon(self._window.leave)


@contextmanager
def standing(clock: asyncio.Timeout | None) -> Generator[None]:
    """Let a clock stand still for the length of the block."""
    until = clock.when() if clock else None
    if clock is None or until is None:
        yield
        return
    now = asyncio.get_running_loop().time
    left = until - now()
    with suppress(RuntimeError):  # it has run out, or its example has ended
        clock.reschedule(None)
    try:
        yield
    finally:
        with suppress(RuntimeError):
            clock.reschedule(now() + left)


def is_refusal(error: BaseException) -> bool:
    """True if a server says that it has too much to do: 429, 503, 529."""
    return type(error).__name__ == "LMRateLimitError" or getattr(error, "status", None) in (429, 503, 529)
