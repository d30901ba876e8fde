"""How the requests of one server share a program: places, a queue, limits, counts, and an orderly end.

It knows programs and LM calls; it knows nothing of HTTP but what `wire` sends for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from spri_dspy.bulk import plain
from spri_dspy.errors import SpriError, UsageError
from spri_dspy.evidence import Evidence, collect
from spri_dspy.lms.concurrency import TURN, Limiter, Turn, openable
from spri_dspy.lms.scope import Scope, use_scope
from spri_dspy.lms.spec import CALL
from spri_dspy.program import Program, fingerprint
from spri_dspy.redaction import error_line, redact, scrub
from spri_dspy.server.drafts import Drafts
from spri_dspy.server.meter import Meter, Tally
from spri_dspy.server.wire import ChatRequest, Receive, Refusal, Reply
from spri_dspy.strict_json import to_text
from spri_dspy.tasks import Example, Task

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""The status under which a request is counted whose client left before the answer; nobody is sent it."""

STAND_IN = "offline-stand-in"
"""The system fingerprint where no language model answers."""

SECONDS_FOR_A_REFUSAL = 5.0
"""How long a client is waited for that does not take the error it is sent."""

LONGEST_RETRY_AFTER = 60
"""Seconds that a client is asked to wait at most."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes on.

    Attributes:
        concurrency: requests that are worked on at a time; each has one LM call in flight.
        queue: requests that wait for a place; one more is refused with 429.
        seconds: from a request's arrival to the end of its answer, the wait for a place included.
        body_bytes: of a request's body.
        drain_seconds: for what is in flight when the server is told to stop.

    Raises:
        UsageError: a limit that would let nothing through.
    """

    concurrency: int = 64
    queue: int = 256
    seconds: float = 300.0
    body_bytes: int = 1_000_000
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, lowest in (("concurrency", 1), ("queue", 0), ("body_bytes", 1), ("drain_seconds", 0)):
            if not getattr(self, name) >= lowest:
                raise UsageError(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if not self.seconds > 0:
            raise UsageError(f"seconds must be above 0, not {self.seconds}")


class Service:
    """A program at work for many clients.

    Attributes:
        model: the id that clients ask for.
        system_fingerprint: changes with prompts and demos; STAND_IN where the offline stand-in answers.
        is_stopping: new requests are refused.
        shows_drafts: streams have candidates as they are written, unless a request says otherwise.
        input_names: what `spri.inputs` may hold; empty for anything, of a task that does not say what it reads.
    """

    def __init__(self, program: Program, task: Task, limits: Limits, *, shows_drafts: bool = False) -> None:
        self.program, self.task, self.limits, self.shows_drafts = program, task, limits, shows_drafts
        self.model = f"spri/{task.name}"
        self.created = int(time.time())
        self.meter = Meter()
        names = [name for name in (*task.inputs, *task.columns) if name != "id"]
        self.input_names = tuple(dict.fromkeys(names)) if task.columns else ()
        self.is_stopping = False
        is_offline = any(_is_offline(predictor) for predictor in program.predictors())
        self.system_fingerprint = STAND_IN if is_offline else f"spri-{fingerprint(program)[:12]}"
        lms = {id(lm): lm for p in program.predictors() if (lm := p.lm or dspy.settings.lm) is not None}
        self._limiter = Limiter(openable(limits.concurrency, lms.values()))
        self._places = asyncio.Semaphore(limits.concurrency)
        self._open: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._numbers = count(1)

    def example(self, asked: ChatRequest) -> tuple[Example, list[str]]:
        """The example that a request asks about, and what of the request changes nothing.

        Raises:
            Refusal: another model is asked for, or the inputs are not the task's.
        """
        if asked.model != self.model:
            raise Refusal(
                404, f"the model {asked.model!r} does not exist; known: {self.model}", "model_not_found"
            )
        directions = {n: m.text for n, m in enumerate(asked.messages) if m.role in ("system", "developer")}
        turns = [n for n in range(len(asked.messages)) if n not in directions]
        if not turns or asked.messages[turns[-1]].role != "user":
            raise Refusal(400, "the last turn must be a user's: it is the task's input", param="messages")
        text, inputs = asked.messages[turns[-1]].text, asked.spri.inputs
        if not text.strip() and self.task.text_input not in inputs:
            raise Refusal(400, "the last user message is empty: it is the task's input", param="messages")
        others = [name for name in self.task.inputs if name != self.task.text_input]
        left_out = turns[:-1]
        if others and inputs:
            left_out, directions = sorted([*left_out, *directions]), {}
        direction = "\n\n".join(said for said in directions.values() if said.strip())
        row = {"id": "request", self.task.text_input: text}
        if direction and others:
            row[others[0]] = direction
        elif direction:
            row[self.task.text_input] = f"{direction}\n\n{text}"
        unknown = [name for name in inputs if self.input_names and name not in self.input_names]
        if unknown:
            raise Refusal(
                400,
                f"unknown spri.inputs {', '.join(map(repr, unknown))}; known: {', '.join(self.input_names)}",
                "unknown_parameter",
                param=f"spri.inputs.{unknown[0]}",
            )
        row |= inputs
        try:
            examples = list(self.task.examples([row]))
            if len(examples) != 1:
                raise UsageError(f"one request is one example, and these inputs are {len(examples)}")
            self.program.check(examples[0].input_values, examples[0].group)
        except UsageError as error:
            raise _wrong_inputs(error) from error
        return examples[0], [f"messages[{n}]" for n in left_out] + asked.ignored

    async def answer(
        self, example: Example, reply: Reply, receive: Receive, details: Mapping[str, Any] | None
    ) -> int:
        """Answer one request: wait for a place, run the program, send what came of it.

        A client that leaves ends its LM calls at once.

        Args:
            example: from `example`.
            reply: the way back.
            receive: where the client's leaving is heard of.
            details: what to put beside principles and trace under the `spri` key; None sends no such key.

        Returns:
            The status to count.
        """
        try:
            self._admit()
        except Refusal as refusal:
            await refusal.send(reply.send)
            return refusal.status
        work = asyncio.create_task(self._work(example, reply, details))
        leaving = asyncio.create_task(_left(receive))
        self._open.add(work)
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return CLIENT_LEFT
            refusal = self._refusal_of(work, reply.id)
            if refusal is not None:
                with suppress(TimeoutError):  # a client that reads nothing must not hold its place for good
                    async with asyncio.timeout(SECONDS_FOR_A_REFUSAL):
                        await reply.refuse(refusal)
            return refusal.status if refusal else 200
        finally:
            work.cancel()
            leaving.cancel()
            await asyncio.wait((work, leaving))
            self._open.discard(work)

    def _admit(self) -> None:
        if self.is_stopping:
            raise Refusal(503, "the server is stopping", "stopping", retry_after=5)
        limits, waiting = self.limits, self.waiting
        if len(self._open) >= limits.concurrency + limits.queue:
            seconds = math.ceil(self.meter.typical_seconds * (waiting + 1) / limits.concurrency)
            raise Refusal(
                429,
                f"{limits.concurrency} requests are worked on and {waiting} wait; try again later",
                "rate_limit_exceeded",
                retry_after=min(LONGEST_RETRY_AFTER, max(1, seconds)),
            )

    async def _work(self, example: Example, reply: Reply, details: Mapping[str, Any] | None) -> None:
        tally = Tally(self.meter)
        async with asyncio.timeout(self.limits.seconds):
            with collect(reply.id) as evidence:
                async with reply.opened(), self._place():
                    prediction = await self._run(example, tally, reply)
            shown = None if details is None else {**details, **_details(prediction, tally, evidence)}
            await reply.finish(_text(prediction), tally.tokens, shown)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        async with self._places:
            self._in_flight += 1
            try:
                yield
            finally:
                self._in_flight -= 1

    async def _run(self, example: Example, tally: Tally, reply: Reply) -> dspy.Prediction:
        TURN.set(Turn(next(self._numbers)))
        drafts = Drafts(self.program, reply.draft) if reply.wants_drafts else None
        # Without `track_usage`, LiteLLM does not ask a server for the tokens of an answer that it streams.
        streamed: dict[str, Any] = (
            {"send_stream": drafts, "stream_listeners": drafts.listeners, "track_usage": True}
            if drafts
            else {}
        )
        scope = Scope(slots=_Announced(self._limiter, reply, drafts))
        with (
            use_scope(scope),
            dspy.context(disable_history=True, trace=None, usage_tracker=tally, **streamed),
        ):
            return await self.program.acall(group=example.group, **example.input_values)

    def _refusal_of(self, work: asyncio.Task[None], request: str) -> Refusal | None:
        """What to tell the client of work that failed; None if it did not."""
        if work.cancelled():
            return Refusal(503, "the server stopped before the answer was there", "stopping", retry_after=5)
        error = work.exception()
        match error:
            case None:
                return None
            case TimeoutError():
                return Refusal(504, f"no answer within {self.limits.seconds:g} seconds", "timeout")
            case UsageError():
                return _wrong_inputs(error)
            case SpriError() | LMError():
                logger.warning("%s failed: %s", request, error_line(error))
                return Refusal(502, error_line(error), "lm_failed")
        scrub(error)  # a bug: its traceback is logged, and the client learns no more than that
        logger.error("%s failed", request, exc_info=error)
        return Refusal(500, "the server failed; its log says why", "internal_error")

    @property
    def in_flight(self) -> int:
        """Requests that have a place."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._open) - self._in_flight

    async def drain(self) -> int:
        """Refuse new requests, let the open ones end within `drain_seconds`, end the others; how many these were."""
        self.is_stopping = True
        if not self._open:
            return 0
        _, late = await asyncio.wait(self._open, timeout=self.limits.drain_seconds)
        for work in late:
            work.cancel()
        return len(late)


def _wrong_inputs(error: UsageError) -> Refusal:
    said = " ".join(str(error).split()).removeprefix("row 1, id 'request': ")
    return Refusal(400, redact(said), "invalid_inputs", param="messages")


class _Announced:
    """Slots of the limiter that tell, before each LM call, what it is for."""

    def __init__(self, limiter: Limiter, reply: Reply, drafts: Drafts | None) -> None:
        self._limiter, self._reply, self._drafts = limiter, reply, drafts

    @asynccontextmanager
    async def slot(self, lm: dspy.LM) -> AsyncIterator[None]:
        call = CALL.get()
        if self._drafts is not None:
            self._drafts.begin()
        if call is not None:
            await self._reply.progress(call.stage, call.role)
        async with self._limiter.slot(lm):
            yield


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_offline(predictor: Any) -> bool:
    lm = predictor.lm or dspy.settings.lm
    spec = getattr(lm, "spec", None)
    return lm is None or (spec is not None and spec.prefix == "offline")


def _text(prediction: dspy.Prediction) -> str:
    """The response as text; where a task ends after its principles, those. Typed ones, such as a rubric, as JSON."""
    value = plain(prediction.get("response", prediction.get("principles")))
    return value if isinstance(value, str) else to_text(value)


def _details(prediction: dspy.Prediction, tally: Tally, evidence: Evidence) -> dict[str, Any]:
    """Everything that is known of a prediction beside its response, in JSON types."""
    shown = {
        name: plain(value) for name, value in prediction.items() if name not in ("trace", "usage", "response")
    }
    trace = [asdict(each) for each in prediction.get("trace", ())]
    usage = {role: asdict(used) for role, used in tally.used.items()}
    return {**shown, "trace": trace, "flags": list(evidence.flags), "usage": usage}
