"""The offline stand-in: DSPy engines that answer any prompt by rules, with no key, no network and no model.

It reads the prompt that every LM would get (`offline_prompt`), does plain text work on it (`offline_text`)
and answers in its style (`offline_answer`): drafts principles from the input's salient words, measures what
a candidate leaves out, adds what a feedback names. What it answers is decided by the names and types of the
outputs that are asked for, never by a task. Any DSPy signature gets an answer that parses.

Answers depend on the prompt, on `seed`, on the request's own seed and on the rollout; on nothing else unless
a knob says so. It understands nothing and is no language model: see `WARNING`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import UsageError
from spri_dspy.lms.offline_answer import written
from spri_dspy.lms.offline_prompt import Prompt, divide
from spri_dspy.lms.offline_text import Reading, Roll

if TYPE_CHECKING:
    from dspy.lm15 import Request, Response

logger = logging.getLogger(__name__)

WARNING = "offline stand-in: rule-based text, not a language model; results say nothing about SPRI's quality"
"""The one line to show wherever the stand-in is used; it is also logged once a process."""


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """How the stand-in behaves; all of it is JSON and goes into a saved state.

    Attributes:
        latency: seconds that a call waits; the median if `jitter` is set.
        jitter: sigma of the logarithm of the wait (lognormal), 0 for the same wait every time.
        fail_rate: share of attempts that raise ServerError, in [0, 1]; drawn by prompt and attempt, so that
            asking again may succeed.
        unscored_rate: share of critiques and judgements without a readable number, in [0, 1].
        garbage_rate: share of answers that are empty, which no prompt style can read, in [0, 1].
        seed: changes every choice and draw.
        vary: answer equal requests differently each time. The answers then depend on the order of calls.
        response_schema: tell DSPy that this LM can be held to a JSON schema.
    """

    latency: float = 0.0
    jitter: float = 0.0
    fail_rate: float = 0.0
    unscored_rate: float = 0.0
    garbage_rate: float = 0.0
    seed: int = 0
    vary: bool = False
    response_schema: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a rate outside [0, 1], or a negative time.
        """
        for name in ("fail_rate", "unscored_rate", "garbage_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"{name} of the offline stand-in must lie in [0, 1], not {getattr(self, name)!r}"
                )
        for name in ("latency", "jitter"):
            if not 0 <= getattr(self, name) < 86_400:
                raise UsageError(
                    f"{name} of the offline stand-in must be 0 or more, not {getattr(self, name)!r}"
                )


class _Engine:
    """What DSPy asks of every engine here. Copies of a program share the engine."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class OfflineEngine(_Engine):
    """The stand-in for synchronous calls.

    Args:
        rollout: tells which sample of the same prompt is being asked for; 0 always if not given. It is not
            saved: a loaded engine has none.
        knobs: fields of `Knobs`.
    """

    def __init__(self, *, rollout: Callable[[], int] | None = None, **knobs: Any) -> None:
        self.knobs = Knobs(**knobs)
        self._rollout = rollout
        self._calls = itertools.count()
        self._attempts: Counter[bytes] = Counter()
        if self.knobs.response_schema:
            self.supports_response_schema, self.supported_params = True, ("response_format",)
        _warn_once()

    def complete(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            dspy.lm15.ServerError: as often as `fail_rate` says.
        """
        key = self.key(request)
        if self.knobs.latency:
            time.sleep(self.wait(key))
        return self.answer(request, key)

    def stream(self, request: Request) -> Iterator[Any]:
        """The same answer as events."""
        from dspy.lm15 import response_to_events

        yield from response_to_events(self.complete(request))

    def dump_state(self) -> dict[str, Any]:
        """The knobs."""
        return asdict(self.knobs)

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> OfflineEngine:
        """An engine with these knobs, without a rollout."""
        return cls(**state)

    def key(self, request: Request) -> bytes:
        """What the answer depends on, as a digest."""
        sample = [self.knobs.seed, request.config.seed, self._rollout() if self._rollout else 0]
        sample += [next(self._calls)] if self.knobs.vary else []
        digest = blake2b(repr(sample).encode(), digest_size=16)
        for text in (_system(request), *itertools.chain.from_iterable(_turns(request))):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return digest.digest()

    def wait(self, key: bytes) -> float:
        """Seconds that the call with this key takes."""
        return self.knobs.latency * random.Random(_roll(key)("wait")).lognormvariate(0.0, self.knobs.jitter)

    def answer(self, request: Request, key: bytes) -> Response:
        """The answer without the wait; raises as `complete` does."""
        roll, knobs = _roll(key), self.knobs
        if knobs.fail_rate:
            if len(self._attempts) > 100_000:
                self._attempts.clear()
            self._attempts[key] += 1
            if _share(roll, f"fail {self._attempts[key]}") < knobs.fail_rate:
                from dspy.lm15 import ServerError

                raise ServerError("the offline stand-in fails this attempt, as its fail_rate says")
        if knobs.garbage_rate and _share(roll, "garbage") < knobs.garbage_rate:
            return _response(request, "")
        unscored = bool(knobs.unscored_rate) and _share(roll, "unscored") < knobs.unscored_rate
        schema: Any = (request.config.response_format or {}).get("schema")
        return _response(
            request, written(Prompt(_system(request), _turns(request), schema, roll), unscored=unscored)
        )


class AsyncOfflineEngine(_Engine):
    """The stand-in for asynchronous calls, over a synchronous one: same knobs, answers and counters."""

    def __init__(self, engine: OfflineEngine | None = None) -> None:
        self.engine = engine or OfflineEngine()
        self.supports_response_schema = self.engine.supports_response_schema
        self.supported_params = self.engine.supported_params

    async def complete(self, request: Request) -> Response:
        """Answer one request; waiting lets others run.

        Raises:
            dspy.lm15.ServerError: as often as `fail_rate` says.
        """
        key = self.engine.key(request)
        if self.engine.knobs.latency:
            await asyncio.sleep(self.engine.wait(key))
        return self.engine.answer(request, key)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """The same answer as events."""
        from dspy.lm15 import response_to_events

        for event in response_to_events(await self.complete(request)):
            yield event

    def dump_state(self) -> dict[str, Any]:
        """The knobs."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncOfflineEngine:
        """An engine with these knobs, without a rollout."""
        return cls(OfflineEngine.load_state(state))


class InstantEngine(_Engine):
    """Answers with fixed text that parses and reads no input: what is left is the program's own cost.

    Args:
        score: what critics give, 1 to 5; other scales get the same share of their range.
    """

    def __init__(self, score: int = 5) -> None:
        self.score = score

    def complete(self, request: Request) -> Response:
        """The fixed answer for this request's outputs."""
        layout = divide(_turns(request)[-1][1])
        text = _instant(_system(request), layout.request, self.score)
        return _response(request, text)

    def stream(self, request: Request) -> Iterator[Any]:
        """The same answer as events."""
        from dspy.lm15 import response_to_events

        yield from response_to_events(self.complete(request))

    def dump_state(self) -> dict[str, Any]:
        """The score."""
        return {"score": self.score}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> InstantEngine:
        """An engine that gives this score."""
        return cls(**state)


class AsyncInstantEngine(_Engine):
    """The same for asynchronous calls."""

    def __init__(self, engine: InstantEngine | None = None) -> None:
        self.engine = engine or InstantEngine()

    async def complete(self, request: Request) -> Response:
        """The fixed answer for this request's outputs."""
        return self.engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """The same answer as events."""
        for event in self.engine.stream(request):
            yield event

    def dump_state(self) -> dict[str, Any]:
        """The score."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncInstantEngine:
        """An engine that gives this score."""
        return cls(InstantEngine.load_state(state))


@cache
def _warn_once() -> None:
    logger.warning(WARNING)


def _roll(key: bytes) -> Roll:
    return lambda name: int.from_bytes(blake2b(name.encode(), key=key, digest_size=8).digest())


def _share(roll: Roll, name: str) -> float:
    return roll(name) / 2**64


def _system(request: Request) -> str:
    system = request.system or ""
    return system if isinstance(system, str) else "\n".join(getattr(part, "text", "") for part in system)


def _turns(request: Request) -> list[tuple[str, str]]:
    """Role and text of each message; parts that are no text are left out."""
    return [(m.role, "\n".join(getattr(part, "text", "") for part in m.parts)) for m in request.messages]


def _response(request: Request, text: str) -> Response:
    from dspy.lm15 import Message, Response, TextPart, Usage

    words = [len(t.split()) for t in (_system(request), *(text for _, text in _turns(request)))]
    return Response(
        id="offline",
        model=request.model,
        message=Message.assistant([TextPart(text)]),
        finish_reason="stop",
        usage=Usage(input_tokens=sum(words) * 4 // 3, output_tokens=len(text.split()) * 4 // 3),
    )


@lru_cache(256)
def _instant(system: str, request: str, score: int) -> str:
    prompt = Prompt(system, [("user", request)], None, lambda name: 0)
    prompt.__dict__["reading"] = Reading((score - 1) / 4, "Nothing that matters is missing.")
    return written(prompt, unscored=False)
