"""What surrounds the calls of one run: the cache of finished calls, slots, retries, the budget, the log of calls.

A `Scope` is made current for a block with `use_scope`; outside of any there is no cache and no limit.
It knows no LM.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dspy.dsp.utils.settings import thread_local_overrides

from spri_dspy.lms.budget import Budget

if TYPE_CHECKING:
    import dspy


class Cache(Protocol):
    """Finished calls by key; see `lms.cache.CallCache`."""

    def get(self, key: str) -> list[Any] | None:
        """The stored outputs, None if this call was never finished."""
        ...

    def put(
        self, key: str, prompt_key: str, outputs: list[Any], model: str, tokens_in: int, tokens_out: int
    ) -> None:
        """Store the outputs and what they took; returns when they survive the death of this process."""
        ...

    def forget(self, keys: Iterable[str]) -> None:
        """Let these calls be made again."""
        ...


class Slots(Protocol):
    """Permission to have one more call in flight; see `lms.concurrency.Limiter`."""

    def slot(self, lm: dspy.LM) -> AbstractAsyncContextManager[Any]:
        """Hold one slot of this LM for the length of the block."""
        ...


@dataclass(frozen=True)
class Retry:
    """How transient failures are tried again.

    Attributes:
        attempts: how often a call is made at most, 1 for never again. Refusals for being too many do not count.
        patience: seconds of waiting after which refusals count too.
        first_wait: seconds before the second attempt; doubles each time.
        longest_wait: cap in seconds on any wait, a server's Retry-After included.
    """

    attempts: int = 6
    patience: float = 600.0
    first_wait: float = 0.25
    longest_wait: float = 60.0

    def wait_seconds(self, attempt: int, error: BaseException, rng: random.Random) -> float:
        """Seconds to wait after the given attempt (0 is the first) failed."""
        asked = getattr(error, "retry_after", None)
        backoff = self.first_wait * 2 ** min(attempt, 40) * rng.uniform(0.5, 1.0)
        return min(self.longest_wait, max(backoff, asked or 0.0))


class Batches(Protocol):
    """What makes calls in batches; see `lms.batches.collector.Batches`."""

    collects: bool

    async def call(
        self, lm: Any, key: str, ask: Callable[[], Awaitable[Any]], live: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Make one attempt at a call: in a batch by `ask`, or `live`."""
        ...


POST: ContextVar[Callable[[Any], Awaitable[tuple[int, bytes]]] | None] = ContextVar("spri_post", default=None)
"""What carries the native client's requests in place of a connection: gives an answer's status and body."""


@dataclass
class Scope:
    """What surrounds the calls of one run. Set it with `use_scope`.

    Attributes:
        flights: calls that are being made, by key; the same call again waits for its answer.
        batches: makes the calls that have a key in batches, without slots; None makes all of them live.
        on_call: told of every call with its messages and its answer, cached ones included; see `runs.CallLog`.
    """

    cache: Cache | None = None
    slots: Slots | None = None
    retry: Retry = field(default_factory=Retry)
    rng: random.Random = field(default_factory=random.Random)
    budget: Budget | None = None
    on_call: Callable[[dict[str, Any]], None] | None = None
    flights: dict[str, asyncio.Event] = field(default_factory=dict)
    batches: Batches | None = None


_SCOPE: ContextVar[Scope] = ContextVar("spri_scope", default=Scope())  # noqa: B039 - shared default, never mutated


@contextmanager
def use_scope(scope: Scope) -> Generator[Scope]:
    """Make a scope current for the block and for every task that is started in it."""
    token = _SCOPE.set(scope)
    try:
        yield scope
    finally:
        _SCOPE.reset(token)


def current_scope() -> Scope:
    """The scope of the innermost `use_scope`, or one without anything."""
    return _SCOPE.get()


def is_watched() -> bool:
    """Whether DSPy's callbacks, histories, streams or usage trackers want to hear of every call."""
    settings = thread_local_overrides.get()
    is_quiet = settings.get("disable_history", False) and not settings.get("track_usage")
    return not is_quiet or bool(settings.get("callbacks") or settings.get("send_stream"))


def forget(keys: Iterable[str]) -> None:
    """Let finished calls be made again, because their answers were of no use."""
    cache = current_scope().cache
    if cache is not None:
        cache.forget(keys)
