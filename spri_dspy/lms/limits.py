"""How many calls may be in flight, and how much a run may spend.

Limiter holds one window an LM: it opens quickly while all goes well, halves when the server says "too many" and
then grows by one a round, so that a run finds each server's rate by itself. Budget counts what finished calls cost
and lets no further one begin once a limit is reached; what is in flight then is all that can overshoot.

It knows LMs by identity, outcomes and token counts; no prompt and no example.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.lms import Call, LMSpec

FIRST_WINDOW = 16
"""Calls in flight at the start, if the limit allows; doubled every round trip until the first refusal."""

LONGEST_PAUSE = 60.0
"""Cap in seconds on how long a server's Retry-After can hold an LM's calls back."""


class Window:
    """The calls in flight of one LM: slow start, additive increase, multiplicative decrease.

    Attributes:
        limit: how many may be in flight now.
        in_flight: how many are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(FIRST_WINDOW, most))
        self.in_flight = 0
        self._threshold = float(most)
        self._paused_until = 0.0
        self._lowered_at = -1.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place."""
        loop = asyncio.get_running_loop()
        while (pause := self._paused_until - loop.time()) > 0:
            await asyncio.sleep(pause)
        if self.in_flight < int(self.limit) and not self._waiting:
            self.in_flight += 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back, and hand free places to those who wait."""
        self.in_flight -= 1
        while self._waiting and self.in_flight < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)

    def succeeded(self) -> None:
        """One answer came: open the window, by one an answer at first, by one a round later."""
        step = 1.0 if self.limit < self._threshold else 1.0 / self.limit
        self.limit = min(float(self.most), self.limit + step)

    def refused(self, began: float, retry_after: float | None) -> None:
        """The server said "too many": halve the window, once a round trip, and wait as it asks.

        Args:
            began: when the refused call began; calls begun before the last halving say nothing new.
            retry_after: seconds that the server asks for.
        """
        now = asyncio.get_running_loop().time()
        if retry_after:
            self._paused_until = max(self._paused_until, now + min(retry_after, LONGEST_PAUSE))
        if began <= self._lowered_at:
            return
        self._lowered_at = now
        self.limit = self._threshold = max(1.0, self.limit / 2)


class Limiter:
    """A window for each LM.

    Args:
        concurrency: calls in flight at most, for each LM by itself.

    Raises:
        UsageError: concurrency is below 1.
    """

    def __init__(self, concurrency: int) -> None:
        if concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {concurrency}")
        self._concurrency = concurrency
        self._windows: dict[int, Window] = {}

    def window(self, lm: Any) -> Window:
        """The window of an LM."""
        found = self._windows.get(id(lm))
        if found is None:
            found = self._windows[id(lm)] = Window(self._concurrency)
        return found

    @asynccontextmanager
    async def slot(self, lm: Any) -> AsyncGenerator[None]:
        """Hold one place of this LM while its call is made, and learn from how it ends."""
        window = self.window(lm)
        await window.enter()
        began = asyncio.get_running_loop().time()
        try:
            yield
        except Exception as error:
            if is_refusal(error):
                window.refused(began, getattr(error, "retry_after", None))
            raise
        else:
            window.succeeded()
        finally:
            window.leave()


def is_refusal(error: BaseException) -> bool:
    """True if a server says that it has too much to do: 429, 503, 529."""
    return type(error).__name__ == "LMRateLimitError" or getattr(error, "status", None) in (429, 503, 529)


@dataclass
class Budget:
    """What a run may spend; None is no limit. Calls answered from the cache are free.

    Attributes:
        max_calls, max_tokens, max_usd: the limits.
        calls, tokens, usd: spent so far, failed attempts that were billed included.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_calls", "max_tokens", "max_usd"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {value}")

    def admit(self) -> None:
        """Let a call begin.

        Raises:
            BudgetSpent: a limit is reached.
        """
        for name, unit in (("calls", "LM calls"), ("tokens", "tokens"), ("usd", "dollars")):
            limit, spent = getattr(self, f"max_{name}"), getattr(self, name)
            if limit is not None and spent >= limit:
                shown = f"{spent:.4f}" if name == "usd" else f"{spent:,}"
                raise BudgetSpent(
                    f"the budget of {limit:,} {unit} is spent ({shown}); finished examples are kept, the same command "
                    f"with a larger --max-{name} goes on"
                )

    def resume(self, spent: Mapping[str, tuple[int, int, int]], lms: Iterable[Any]) -> None:
        """Count what earlier starts of the same run took.

        Args:
            spent: calls, input tokens and output tokens by model, from the run's cache.
            lms: the run's LMs, for their prices.
        """
        prices = {getattr(lm.spec, "model", lm.model): lm for lm in lms if hasattr(lm, "spec")}
        for model, (calls, tokens_in, tokens_out) in spent.items():
            self.calls += calls
            self.tokens += tokens_in + tokens_out
            if self.max_usd is not None and model in prices:
                price_in, price_out = price_of(prices[model])
                self.usd += tokens_in * price_in + tokens_out * price_out

    def spend(self, lm: Any, before: Call, after: Call) -> None:
        """Count what one attempt took, from the meter of its call before and after."""
        tokens_in = after.input_tokens - before.input_tokens
        tokens_out = after.output_tokens - before.output_tokens
        self.calls += 1
        self.tokens += tokens_in + tokens_out
        if self.max_usd is not None:
            price_in, price_out = price_of(lm)
            self.usd += tokens_in * price_in + tokens_out * price_out


def price_of(lm: Any) -> tuple[float, float]:
    """Dollars a token in and out: stated in the LM string per million (usd_in, usd_out), or known to DSPy.

    Args:
        lm: an LM, or its parsed string.

    Raises:
        UsageError: the price is not known.
    """
    spec = lm if isinstance(lm, LMSpec) else getattr(lm, "spec", None)
    options = spec.options if spec else {}
    if "usd_in" in options or "usd_out" in options:
        return options.get("usd_in", 0.0) / 1e6, options.get("usd_out", 0.0) / 1e6
    model = spec.model if spec else lm.model
    if model.split("/")[0] in ("offline", "replay"):
        return 0.0, 0.0
    from dspy.clients.model_metadata import model_info

    provider, _, name = model.partition("/")
    info = model_info(provider, name) or {}
    if "input_cost_per_token" not in info:
        raise UsageError(
            f"the price of {model} is not known; state it in its string: usd_in=0.15&usd_out=0.6"
        )
    return info["input_cost_per_token"], info.get("output_cost_per_token", 0.0)
