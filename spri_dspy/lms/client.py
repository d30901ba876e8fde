"""The LM that a role holds: DSPy's LM plus what a long run needs around every call.

    cache     a finished call is stored before it is used, and never made twice (scope.cache)
    slots     at most so many calls of one LM in flight (scope.slots)
    retries   transient failures are tried again with jittered backoff; Retry-After is honoured up to a cap
    deadline  no attempt outlives the LM's own timeout

The surroundings come from the `Scope` that is current when the call is made; outside of any scope there is no
cache and no limit. It knows messages and answers; it knows no stage, task or example.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import dspy
from dspy.utils.exceptions import LMError, LMProviderError, LMUnexpectedError, is_retryable_lm_error

from spri_dspy.errors import CallError, SpriError
from spri_dspy.lms import CALL

logger = logging.getLogger(__name__)


class Cache(Protocol):
    """Finished calls by key; see `lms.cache.CallCache`."""

    def get(self, key: str) -> list[Any] | None:
        """The stored outputs, None if this call was never finished."""
        ...

    def put(self, key: str, prompt_key: str, outputs: list[Any]) -> None:
        """Store the outputs; returns when they survive the death of this process."""
        ...


class Slots(Protocol):
    """Permission to have one more call in flight."""

    def slot(self, lm: dspy.LM) -> AbstractAsyncContextManager[Any]:
        """Hold one slot of this LM for the length of the block."""
        ...


@dataclass(frozen=True)
class Retry:
    """How transient failures are tried again.

    Attributes:
        attempts: how often a call is made at most, 1 for never again.
        first_wait: seconds before the second attempt; doubles each time.
        longest_wait: cap in seconds on any wait, a server's Retry-After included.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 60.0

    def wait_seconds(self, attempt: int, error: BaseException, rng: random.Random) -> float:
        """Seconds to wait after the given attempt (0 is the first) failed."""
        asked = getattr(error, "retry_after", None)
        backoff = self.first_wait * 2**attempt * rng.uniform(0.5, 1.0)
        return min(self.longest_wait, max(backoff, asked or 0.0))


@dataclass
class Scope:
    """What surrounds the calls of one run. Set it with `use_scope`."""

    cache: Cache | None = None
    slots: Slots | None = None
    retry: Retry = field(default_factory=Retry)
    rng: random.Random = field(default_factory=random.Random)


_SCOPE: ContextVar[Scope] = ContextVar("spri_scope", default=Scope())  # noqa: B039 - shared default, never mutated


@contextmanager
def use_scope(scope: Scope) -> Generator[Scope]:
    """Make a scope current for the block and for every task that is started in it."""
    token = _SCOPE.set(scope)
    try:
        yield scope
    finally:
        _SCOPE.reset(token)


class ScopedLM(dspy.LM):
    """A DSPy LM that obeys the current scope. `lms.load_lm` makes them.

    Copies of a program share it, connections included, so an optimiser that copies programs by the hundred
    opens no new ones.

    Attributes:
        spec: the parsed LM string.
        prompt_style: a name in `adapters.STYLES`, None where the string states none.
    """

    spec: Any = None
    prompt_style: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ScopedLM:
        return self

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a prompt; see dspy.LM."""
        return _drive(self._plan(prompt, messages, kwargs), super().__call__, prompt, messages, kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a prompt without blocking; see dspy.LM."""
        scope, call = _SCOPE.get(), super().acall
        seconds = self.kwargs.get("timeout")
        plan, reply = self._plan(prompt, messages, kwargs), None
        try:
            step = next(plan)
            while True:
                if step[0] == "wait":
                    await asyncio.sleep(step[1])
                    step = plan.send(None)
                    continue
                try:
                    async with scope.slots.slot(self) if scope.slots else nullcontext():
                        async with asyncio.timeout(seconds):
                            reply = await call(prompt, messages=messages, **kwargs)
                except Exception as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(reply)
        except StopIteration as stop:
            return stop.value

    def _plan(
        self, prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> Generator[tuple[Any, ...], Any, Any]:
        """One plan for both ways of calling: yields ("call",) or ("wait", seconds), returns the outputs."""
        scope, key, prompt = _SCOPE.get(), "", ""
        if scope.cache is not None and messages is not None:
            key, prompt = self._keys(messages, kwargs)
            stored = scope.cache.get(key)
            if stored is not None:
                if call := CALL.get():
                    call.cached += 1
                return stored
        outputs = yield from self._attempts(scope)
        if key and scope.cache is not None:
            scope.cache.put(key, prompt, outputs)
        return outputs

    def _attempts(self, scope: Scope) -> Generator[tuple[Any, ...], Any, Any]:
        for attempt in range(scope.retry.attempts):
            try:
                return (yield ("call",))
            except Exception as error:
                if isinstance(error.__cause__, SpriError):
                    raise error.__cause__ from None
                if not _is_transient(error) or attempt + 1 == scope.retry.attempts:
                    raise _final(error, attempt + 1) from error
                wait = scope.retry.wait_seconds(attempt, error, scope.rng)
                logger.debug(
                    "%s: %s; attempt %d in %.1f s", self.model, type(error).__name__, attempt + 2, wait
                )
            yield ("wait", wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _keys(self, messages: Any, kwargs: dict[str, Any]) -> tuple[str, str]:
        """Keys of a call: with and without the LM. Connection settings change neither."""
        call = CALL.get()
        rollout = call.rollout if call else 0
        sampling = {k: v for k, v in (self.kwargs | kwargs).items() if k not in _CONNECTION}
        shape = json.dumps(sampling, sort_keys=True, default=_type_name)
        prompt = prompt_key(messages, rollout)
        return hashlib.sha256(f"{self.model} {shape} {prompt}".encode()).hexdigest(), prompt


def prompt_key(messages: Any, rollout: int) -> str:
    """What a call is known by whichever LM answers it: its messages and its rollout."""
    return hashlib.sha256(json.dumps([messages, rollout], ensure_ascii=True).encode()).hexdigest()


_CONNECTION = frozenset({"api_key", "api_base", "timeout", "rollout_id"})


def _type_name(value: Any) -> str:
    """A response schema is a class; its name and JSON schema tell it apart."""
    schema = getattr(value, "model_json_schema", None)
    return json.dumps(schema(), sort_keys=True) if callable(schema) else repr(value)


def _drive(
    plan: Generator[Any, Any, Any], call: Any, prompt: Any, messages: Any, kwargs: dict[str, Any]
) -> Any:
    try:
        step = next(plan)
        while True:
            if step[0] == "wait":
                time.sleep(step[1])
                step = plan.send(None)
                continue
            try:
                reply = call(prompt, messages=messages, **kwargs)
            except Exception as error:
                step = plan.throw(error)
            else:
                step = plan.send(reply)
    except StopIteration as stop:
        return stop.value


Failure = Literal["transient", "fatal", "call"]

_FATAL = {
    "LMAuthError",
    "LMBillingError",
    "LMNotConfiguredError",
    "LMConfigurationError",
    "LMUnsupportedModelError",
}


def failure_kind(error: BaseException) -> Failure:
    """What a failed call means: try again, stop the run, or fail this one example.

    A server that answers 404, or a client error about the model, will do so for every example, so it is fatal;
    a body that makes no sense may be a broken proxy, so it is transient.
    """
    if isinstance(error, TimeoutError):
        return "transient"
    if not isinstance(error, LMError):
        return "call"
    if type(error).__name__ in _FATAL or getattr(error, "status", None) in (401, 403, 404):
        return "fatal"
    if is_retryable_lm_error(error) or type(error) in (LMUnexpectedError, LMProviderError):
        return "transient"
    return "call"


def _is_transient(error: BaseException) -> bool:
    return failure_kind(error) == "transient"


def _final(error: Exception, attempts: int) -> Exception:
    """The error as the caller sees it: LM errors as they are, a missed deadline by its name."""
    if isinstance(error, TimeoutError):
        return CallError(f"no answer within the LM's timeout, {attempts} attempt(s)")
    return error
