"""What the workers of one run share, calls in flight and what may be spent, lent to each in parts.

No call asks the driver: a worker goes on within what it was lent, tells every moment what it holds, uses and could use
(`Use`), and hears what it may hold from then on (`Grant`). Who is to hold less keeps what is in use until that ends,
and the rest is lent to others only after he has said so; so all together never hold more than there is. What a worker
that died had been lent of a budget counts as spent: how much of it was cannot be known.

It knows windows by name and budgets by limit; no worker's whereabouts and no example.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spri_dspy.errors import BudgetSpent
from spri_dspy.lms.budget import LIMITS, Budget
from spri_dspy.lms.concurrency import TURN, Limiter, Slot, standing

_UNIT = {"max_calls": 1, "max_tokens": 1, "max_usd": 10**9}
"""Parts in which a limit is lent: dollars in billionths."""

_AHEAD = 4
"""How much is lent of a budget: so many times what was used since the last report, if there is enough."""


class WindowUse(NamedTuple):
    """One window of a worker: how many calls it may have, has, and could have in flight."""

    lease: int
    in_flight: int
    wanted: int


class Use(NamedTuple):
    """What a worker holds and uses.

    Attributes:
        windows: by name.
        spent: since the worker began, by limit, for those that there are.
        ceilings: what `spent` may come to so far.
    """

    windows: dict[str, WindowUse]
    spent: dict[str, float]
    ceilings: dict[str, float]


class Grant(NamedTuple):
    """What a worker may hold from now on.

    Attributes:
        leases: calls in flight, by window.
        ceilings: what its spending may come to, by limit.
        exhausted: why no further call may begin; None while some may.
    """

    leases: dict[str, int]
    ceilings: dict[str, float]
    exhausted: str | None


class Pool:
    """A number of equal things that are lent to workers.

    Attributes:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: dict[int, int] = {}
        self._wants: dict[int, int] = {}

    def lend(self, worker: int, held: int, want: int, *, usual: Mapping[int, int]) -> int:
        """How many a worker may have from now on: what it wants if there is enough, else an even share.

        Args:
            worker: who asks.
            held: what it has now, and keeps until it has heard the answer.
            want: what it could use.
            usual: what each worker wants that has not asked yet.
        """
        self._held[worker], self._wants[worker] = held, want
        target = even_shares(self.total, {**usual, **self._wants})[worker]
        if target > held:
            target = min(target, held + max(0, self.total - sum(self._held.values())))
        self._held[worker] = max(held, target)
        return target

    def leave(self, worker: int) -> int:
        """Forget a worker; returns what it held."""
        self._wants.pop(worker, None)
        return self._held.pop(worker, 0)


def even_shares(total: int, wants: Mapping[int, int]) -> dict[int, int]:
    """What each gets of a total: what he wants, or as much as the others who want more; never more than the total."""
    left, found = max(0, total), dict[int, int]()
    for served, worker in enumerate(sorted(wants, key=lambda w: (wants[w], w))):
        found[worker] = min(wants[worker], left // (len(wants) - served))
        left -= found[worker]
    return found


@dataclass
class Treasury:
    """The driver's side: what there is, and who holds what.

    Attributes:
        concurrency: calls in flight, for each window by itself.
        share: of these, what a worker has when all are busy.
        budget: what all may spend; counts what workers report.
    """

    concurrency: int
    share: int
    budget: Budget | None
    _usual: dict[int, int] = field(default_factory=dict)
    _windows: dict[str, Pool] = field(default_factory=dict)
    _purses: dict[str, Pool] = field(default_factory=dict)
    _spent: dict[int, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limited = [name for name in LIMITS if getattr(self.budget, name, None) is not None]
        self._purses = {name: Pool(0) for name in self.limited}

    def join(self, worker: int) -> None:
        """Reckon with a worker that is about to begin."""
        self._usual[worker] = self.share
        self._spent[worker] = dict.fromkeys(self.limited, 0)

    def leave(self, worker: int) -> None:
        """Take back what a worker held that is dead or dismissed; see the module on its budget."""
        self._usual.pop(worker, None)
        self._spent.pop(worker, None)
        for pool in self._windows.values():
            pool.leave(worker)
        for name, pool in self._purses.items():
            self._count(name, _amount(name, pool.leave(worker)))

    def grant(self, worker: int, use: Use, n_open: int) -> Grant:
        """Take a worker's report, and say what it may hold from now on.

        Args:
            worker: whose report it is.
            use: what it holds and uses.
            n_open: examples that it has to work on.
        """
        leases = {}
        for name in {**self._windows, **use.windows}:
            pool = self._windows.setdefault(name, Pool(self.concurrency))
            window = use.windows.get(name)
            if window is None:  # it never called this LM
                pool.lend(worker, 0, 0, usual=self._usual)
                continue
            want = max(window.wanted, window.in_flight, min(self.share, n_open))
            held = max(window.lease, window.in_flight)
            leases[name] = pool.lend(worker, held, want, usual=self._usual)
        last, self._spent[worker] = self._spent[worker], use.spent
        for name in self.limited:
            self._count(name, use.spent[name] - last[name])
        ceilings = {name: self._ceiling(worker, name, use, last[name], n_open) for name in self.limited}
        exhausted = self.budget.exhausted if self.budget else None
        return Grant(leases, ceilings, str(exhausted) if exhausted else None)

    def _count(self, name: str, spent: float) -> None:
        counted = name.removeprefix("max_")
        setattr(self.budget, counted, getattr(self.budget, counted) + spent)

    def _ceiling(self, worker: int, name: str, use: Use, before: float, n_open: int) -> float:
        """What a worker's spending may come to: some more than it is, the less the nearer the limit."""
        unit, limit = _UNIT[name], getattr(self.budget, name)
        left = limit - getattr(self.budget, name.removeprefix("max_"))
        pool, spent = self._purses[name], use.spent[name]
        pool.total = max(int(left * unit), int(left > 0))
        usual = dict.fromkeys(self._usual, 0)
        least = _AHEAD * self.share if name == "max_calls" else int(limit * unit) // (50 * len(usual))
        want = min(max(least, int(_AHEAD * (spent - before) * unit)), pool.total // (2 * len(usual)))
        held = max(0, round((use.ceilings[name] - spent) * unit))
        lent = pool.lend(worker, held, max(1, want) if n_open else 0, usual=usual)
        return spent + _amount(name, lent)


def _amount(name: str, parts: int) -> float:
    """What so many parts of a limit are: whole calls and tokens, dollars."""
    return parts if _UNIT[name] == 1 else parts / _UNIT[name]


class LeasedSlots:
    """The worker's side, a `scope.Slots`: a place for a call where one was lent, and where the budget has room.

    Args:
        concurrency: calls in flight at most, per LM, if all were lent to this worker.
        limited: names of the limits that there are.
        on_short: called when a call waits for what is lent of the budget.

    Attributes:
        budget: counts what this worker spends, within what it was lent; for `Scope`. None without limits.
    """

    def __init__(self, concurrency: int, limited: list[str], on_short: Callable[[], None]) -> None:
        self._limiter = Limiter(concurrency, lease=0)
        self._limited, self._on_short = limited, on_short
        self._changed, self._exhausted = asyncio.Event(), None
        self.budget = Budget() if limited else None
        for name in limited:
            setattr(self.budget, name, 0)  # nothing was lent yet

    def slot(self, lm: Any) -> Any:
        """Hold one place of this LM while its call is made (`async with`)."""
        slot = self._limiter.slot(lm)
        return slot if self.budget is None else _PaidSlot(slot, self._credit)

    def window(self, lm: Any) -> None:
        """Make the window of an LM, so that it is lent something before its first call."""
        self._limiter.window(lm)

    def take(self, grant: Grant) -> None:
        """Hold from now on what was granted."""
        for name, lease in grant.leases.items():
            self._limiter.named[name].lend(lease)
        for name, ceiling in grant.ceilings.items():
            setattr(self.budget, name, max(ceiling, self._spent(name)))
        self._exhausted = grant.exhausted
        self._changed.set()  # for those who wait now
        self._changed.clear()

    def use(self) -> Use:
        """What is held and used now."""
        windows = {
            name: WindowUse(w.lease or 0, w.in_flight, min(w.in_flight + w.n_waiting, 2 * int(w.limit)))
            for name, w in self._limiter.named.items()
        }
        spent = {name: self._spent(name) for name in self._limited}
        return Use(windows, spent, {name: getattr(self.budget, name) for name in self._limited})

    def end(self) -> None:
        """No further example comes; see `concurrency.Window`."""
        self._limiter.end()

    def _spent(self, name: str) -> float:
        return getattr(self.budget, name.removeprefix("max_"))

    async def _credit(self) -> bool:
        """Return once a call may begin; True if that took a while.

        Raises:
            BudgetSpent: none may any more, in the whole run.
        """
        has_waited, turn = False, TURN.get()
        while self.budget is not None and self.budget.exhausted:
            if self._exhausted is not None:
                raise BudgetSpent(self._exhausted)
            self._on_short()
            with standing(turn.clock if turn else None):
                await self._changed.wait()
            has_waited = True
        return has_waited


class _PaidSlot:
    """A place that is of use once the budget has room for its call."""

    __slots__ = ("_credit", "_slot")

    def __init__(self, slot: Slot, credit: Callable[[], Any]) -> None:
        self._slot, self._credit = slot, credit

    async def __aenter__(self) -> None:
        await self._slot.__aenter__()
        try:
            if await self._credit():
                self._slot.begin_now()
        except BaseException as error:
            await self._slot.__aexit__(type(error), error, None)
            raise

    async def __aexit__(self, *error: Any) -> None:
        await self._slot.__aexit__(*error)
