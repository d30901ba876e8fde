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
import time
from collections.abc import Generator, Mapping
from contextlib import nullcontext
from functools import partial
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

import dspy
from dspy.clients._deprecation import adapter_message_call
from dspy.utils.exceptions import LMProviderError

from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.lms.bodies import MAX_BODY, MAX_BODY_MB
from spri_dspy.lms.concurrency import is_refusal
from spri_dspy.lms.failures import failure_kind, name_model, no_connection, own_error
from spri_dspy.lms.health import Health
from spri_dspy.lms.native import AsyncNativeEngine
from spri_dspy.lms.scope import Scope, current_scope
from spri_dspy.lms.spec import CALL, CONNECTION, Call, note_finish
from spri_dspy.redaction import error_line, scrub
from spri_dspy.trampoline import adrive, drive

logger = logging.getLogger(__name__)


class ScopedLM(dspy.LM):
    """A DSPy LM that obeys the current scope. `lms.load_lm` makes them.

    Copies of a program share it, connections included, so an optimiser that copies programs by the hundred
    opens no new ones.

    Attributes:
        spec: the parsed LM string.
        prompt_style: a name in `adapters.STYLES`, None where the string states none.
        replicas: the same model at several addresses, this one first; calls go to the least busy that is well.
        max_body: megabytes that an answer may take, decoded.
        max_chars: how long a text may be that another field follows, in a JSON schema; None for no bound.
        timeout: seconds that one attempt may take, None for as long as it takes.
        most_calls: in flight at most, whatever a run allows; None for no limit of its own.
        address: where its server is, without user name and password; None for a provider's own.
        health: of this LM's own address.
    """

    spec: Any = None
    prompt_style: str | None = None
    max_body: float = MAX_BODY_MB
    max_chars: int | None = None
    timeout: float | None = None
    most_calls: int | None = None
    address: str | None = None
    replicas: tuple[ScopedLM, ...] = ()
    _settings: tuple[dict[str, Any], str] | None = None  # and what `_sampling` makes of them

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.health = Health()
        logging.getLogger("dspy.clients.lm").addFilter(_is_not_told_elsewhere)

    @property
    def supports_response_schema(self) -> bool:
        """True of every model server that states a bound: LiteLLM knows nothing of a model of one's own."""
        return self.max_chars is not None or super().supports_response_schema

    def __deepcopy__(self, memo: dict[int, Any]) -> ScopedLM:
        return self

    def copy(self, **kwargs: Any) -> ScopedLM:
        """A copy with other settings, of every address; see dspy.LM."""
        copied: ScopedLM = super().copy(**kwargs)
        others: list[Any] = [super(ScopedLM, other).copy(**kwargs) for other in self.replicas[1:]]
        copied.replicas = (copied, *others) if others else ()
        return copied

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a prompt; see dspy.LM."""
        scope = current_scope()

        def attempt() -> Any:
            if scope.batches is not None and scope.batches.collects:
                raise UsageError(
                    f"the program calls {self._name} synchronously, which no batch carries: use acall in its aforward, "
                    "or leave the batch out"
                )
            while True:
                lm, metered = self._well(), scope.budget.metered(self) if scope.budget else _FREE
                try:
                    with lm.health.watch(), metered, adapter_message_call(lm, messages):
                        MAX_BODY.set(lm.max_body)
                        return super(ScopedLM, lm).__call__(prompt, messages=messages, **kwargs)
                except Exception as failed:
                    if not self._leaves_out(lm, failed):
                        raise

        def perform(step: tuple[Any, ...]) -> Any:
            return time.sleep(step[1]) if step[0] == "wait" else attempt()

        return drive(self._plan(self._keys(messages, kwargs), messages), perform)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a prompt without blocking; a call that is being made already is waited for, not made again."""
        scope, keys = current_scope(), self._keys(messages, kwargs)
        if keys is None:
            return await self._alone(scope, keys, prompt, messages, kwargs)
        while (flight := scope.flights.get(keys.call)) is not None:
            await flight.wait()
        scope.flights[keys.call] = flight = asyncio.Event()
        try:
            return await self._alone(scope, keys, prompt, messages, kwargs)
        finally:
            del scope.flights[keys.call]
            flight.set()

    async def _alone(
        self, scope: Scope, keys: Keys | None, prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> Any:
        async def perform(step: tuple[Any, ...]) -> Any:
            if step[0] == "wait":
                return await asyncio.sleep(step[1])
            live = partial(self._attempt, scope, prompt, messages, kwargs)
            if scope.batches is None or keys is None:
                return await live()
            return await scope.batches.call(
                self, keys.call, partial(self._ask, prompt, messages, kwargs), live
            )

        return await adrive(self._plan(keys, messages), perform)

    async def _attempt(self, scope: Scope, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """One attempt at one address, within its slots, its timeout and the run's budget."""
        while True:
            lm, joined = self._well(), time.monotonic()
            try:
                with lm.health.watch():
                    async with scope.slots.slot(lm) if scope.slots else _FREE:
                        # It may have fallen ill while this call stood in its line.
                        if lm.health.has_trouble(joined) and self._well() is not lm:
                            raise _Elsewhere
                        with scope.budget.metered(self) if scope.budget else _FREE:
                            return await lm._ask(prompt, messages, kwargs, lm.timeout)
            except _Elsewhere:
                pass
            except Exception as failed:
                if not self._leaves_out(lm, failed):
                    raise

    def _leaves_out(self, lm: ScopedLM, failed: Exception) -> bool:
        """Leave one of several addresses out that has another model, another key or another path.

        Returns:
            Whether the others go on; False where that is no reason, or none is left.

        Raises:
            PrerequisiteError: nobody is at the address, as far as can be told.
        """
        unreachable = lm._unreachable(failed)
        error = unreachable or failed
        if failure_kind(error) != "fatal" or all(
            other.health.is_unfit for other in self.replicas if other is not lm
        ):
            if unreachable is None:
                return False
            raise unreachable from failed
        if not lm.health.is_unfit:
            logger.warning("the address %s is left out, the others go on: %s", lm.address, error_line(error))
        lm.health.is_unfit = True
        return True

    def _unreachable(self, error: Exception) -> PrerequisiteError | None:
        """What to say once the address is given up because nobody seems to be there."""
        reason = no_connection(error) if self.health.is_unreachable else None
        if reason is None:
            return None
        where, mend = f"the server of {self._name}", "look after this machine's network (proxy, DNS)"
        if self.address:
            where, mend = f"{self.address} for {self._name}", "start that server or mend the address"
        return PrerequisiteError(
            f"cannot reach {where}: {reason}; {mend}, then start the same command again, finished examples are kept"
        )

    async def _ask(
        self, prompt: Any, messages: Any, kwargs: dict[str, Any], timeout: float | None = None
    ) -> Any:
        MAX_BODY.set(self.max_body)
        engine = self._async_engine_spec
        if messages and not kwargs and isinstance(engine, AsyncNativeEngine):
            outputs = await engine.ask(self, messages, timeout)
            if outputs is not None:
                return outputs
        call = CALL.get()
        is_told = call is None or dspy.settings.usage_tracker is call
        async with asyncio.timeout(timeout):
            with _FREE if is_told else dspy.context(usage_tracker=call), adapter_message_call(self, messages):
                return await super().acall(prompt, messages=messages, **kwargs)

    def _well(self) -> ScopedLM:
        """The address to call: the least busy of those that are well, else the one whose rest ends first."""
        if not self.replicas:
            return self
        now = time.monotonic()
        return min(self.replicas, key=lambda lm: lm.health.rank(now))

    def _plan(self, keys: Keys | None, messages: Any) -> Generator[tuple[Any, ...], Any, Any]:
        """One plan for both ways of calling: yields ("call",) or ("wait", seconds), returns the outputs."""
        scope, call, begun = current_scope(), CALL.get() or Call("", ""), time.monotonic()
        cache = scope.cache if keys is not None else None
        outputs = None
        if keys is not None and cache is not None:
            call.keys.append(keys.call)
            outputs = cache.get(keys.call)
        stored = outputs is not None
        before = call.input_tokens, call.output_tokens, call.reused_tokens
        call.answer = call.finish_reason = None
        error: Exception | None = None
        try:
            if outputs is None:
                outputs = _with_finish((yield from self._attempts(scope)), call.finish_reason)
            else:
                call.cached += 1
            call.answer, call.finish_reason = _read(outputs, call.finish_reason)
        except Exception as failed:
            error = failed
            raise
        finally:
            took = (call.input_tokens - before[0], call.output_tokens - before[1])
            seconds = time.monotonic() - begun
            if logger.isEnabledFor(logging.DEBUG):
                told = f"{took[0]} tokens in, {took[1]} out, {1000 * seconds:.0f} ms"
                how = "from the cache" if stored else "given up" if call.answer is None else told
                logger.debug("%s: %s: %s", call, self._name, error_line(error) if error else how)
            if scope.on_call is not None and (call.answer is not None or error is not None):
                scope.on_call(
                    {
                        "example": call.example,
                        "stage": call.stage,
                        "role": call.role,
                        "attempt": call.rollout,
                        "lm": self._name,
                        "messages": messages,
                        "answer": call.answer,
                        "finish_reason": call.finish_reason,
                        "usage": {
                            "input_tokens": took[0],
                            "output_tokens": took[1],
                            "reused_tokens": call.reused_tokens - before[2],
                        },
                        "seconds": round(seconds, 3),
                        "cached": stored,
                        "error": error_line(error) if error else None,
                    }
                )
        if keys is not None and cache is not None and not stored:
            cache.put(keys.call, keys.prompt, outputs, self._name, *took)
        return outputs

    def _check_truncation(self, results: Any) -> None:
        """Note why LiteLLM's answers ended; DSPy warns of those that were cut off, where nobody notes it."""
        reasons = [getattr(choice, "finish_reason", None) for choice in getattr(results, "choices", ())]
        if not note_finish(next((r for r in reasons if r == "length"), *reasons[:1] or [None])):
            super()._check_truncation(results)

    @property
    def _name(self) -> str:
        """The model as the user wrote it; DSPy's name may stand for an address."""
        return self.spec.model if self.spec else self.model

    def _attempts(self, scope: Scope) -> Generator[tuple[Any, ...], Any, Any]:
        made = refused = 0
        waited = 0.0
        while True:
            try:
                outputs = yield ("call",)
                if not outputs:  # LiteLLM's way of saying that the server named no choice
                    raise LMProviderError("the answer holds no choice", model=self.model)
                return _repaired(outputs)
            except Exception as error:
                scrub(error)
                name_model(error, self._name)
                if (own := own_error(error)) is not None:
                    raise own from None
                patient = is_refusal(error) and waited < scope.retry.patience
                refused, made = refused + patient, made + (not patient)
                if isinstance(error, TimeoutError) and made >= scope.retry.attempts:
                    raise CallError(
                        f"no answer within the LM's timeout, {made + refused} attempt(s)"
                    ) from error
                if failure_kind(error) != "transient" or made >= scope.retry.attempts:
                    raise
                wait = scope.retry.wait_seconds(made + refused - 1, error, scope.rng)
                logger.debug(
                    "%s: %s: %s; once more in %.1f s",
                    CALL.get() or "a call",
                    self._name,
                    error_line(error),
                    wait,
                )
            waited += wait
            yield ("wait", wait)

    def _keys(self, messages: Any, kwargs: dict[str, Any]) -> Keys | None:
        """Keys of a call that can be stored; connection settings change neither. None where there is no cache."""
        if messages is None or current_scope().cache is None:
            return None
        call = CALL.get()
        if kwargs:
            shape = self._sampling(kwargs)
        elif self._settings is not None and self._settings[0] == self.kwargs:
            shape = self._settings[1]
        else:
            shape = self._sampling({})
            self._settings = dict(self.kwargs), shape
        prompt = prompt_key(messages, call.rollout if call else 0)
        return Keys(hashlib.sha256(f"{self._name} {shape} {prompt}".encode()).hexdigest(), prompt)

    def _sampling(self, kwargs: Mapping[str, Any]) -> str:
        """The settings that an answer depends on, with those of one call, as JSON."""
        sampling = {k: v for k, v in {**self.kwargs, **kwargs}.items() if k not in _CONNECTION}
        if "rollout_id" in self.kwargs:  # a copy that an optimiser made to get fresh samples
            sampling["copy"] = self.kwargs["rollout_id"]
        if self.spec:  # options that DSPy is not told of, such as the stand-in's knobs
            sampling["stated"] = {k: v for k, v in self.spec.options.items() if k not in _CONNECTION}
        return json.dumps(sampling, sort_keys=True, default=_type_name)


class _Elsewhere(Exception):
    """An address fell ill, so the call is to be made at another one."""


def _repaired(output: Any) -> Any:
    """Outputs without halves of surrogate pairs, such as a cut-off emoji leaves: no later call could carry them."""
    if isinstance(output, list):
        return [_repaired(part) for part in output]
    if isinstance(output, dict):
        return {name: _repaired(value) for name, value in output.items()}
    if not isinstance(output, str) or output.isascii():
        return output
    return output.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _with_finish(outputs: list[Any], reason: str | None) -> list[Any]:
    """Outputs that say so where they were cut off, in the cache and in replay too; adapters read the text alone."""
    if reason != "length":
        return outputs
    texts = (output if isinstance(output, dict) else {"text": output} for output in outputs)
    return [{**output, "finish_reason": reason} for output in texts]


def _read(outputs: list[Any], reason: str | None) -> tuple[str, str | None]:
    """The text of the first output, and why it ended."""
    first = outputs[0] if outputs else ""
    if not isinstance(first, dict):
        return str(first or ""), reason
    return str(first.get("text") or ""), first.get("finish_reason", reason)


def _is_not_told_elsewhere(record: logging.LogRecord) -> bool:
    """Whether DSPy's line on an answer that was cut off is news: a predictor flags and counts such answers itself."""
    return not record.getMessage().startswith("LM response was truncated") or not note_finish("length")


class Keys(NamedTuple):
    """What a call is stored under: with the LM and its sampling, and by its prompt alone."""

    call: str
    prompt: str


def prompt_key(messages: Any, rollout: int) -> str:
    """What a call is known by whichever LM answers it: its messages and its rollout."""
    return hashlib.sha256(_as_json(messages, rollout).encode()).hexdigest()


def _as_json(messages: Any, rollout: int) -> str:
    """`json.dumps([messages, rollout])`, in a third of the time where messages are a role and a text."""
    said = list[str]()
    for message in messages:
        if type(message) is not dict or message.keys() != {"role", "content"}:
            return json.dumps([messages, rollout])
        role, content = message["role"], message["content"]
        if type(role) is not str or type(content) is not str or next(iter(message)) != "role":
            return json.dumps([messages, rollout])
        said.append(f'{{"role": {quoted(role)}, "content": {quoted(content)}}}')
    return f"[[{', '.join(said)}], {rollout}]"


_CONNECTION = frozenset({"api_key", "api_base", "timeout", "rollout_id", *CONNECTION})


def _type_name(value: Any) -> str:
    """A response schema is a class; its name and JSON schema tell it apart."""
    schema = getattr(value, "model_json_schema", None)
    return json.dumps(schema(), sort_keys=True) if callable(schema) else repr(value)


_FREE: Any = nullcontext()
