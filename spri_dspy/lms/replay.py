"""Replay: an LM that answers from a recording and never makes anything up.

Two recordings, one engine:

    Script     outputs in the order in which they were given, each with the stage that it answered;
               replays one example's calls, whatever the prompts look like now
    Tape       the finished calls of a run directory, by exact prompt; replays whole runs

A prompt that the recording does not know is a ReplayMiss, never a call somewhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spri_dspy.errors import DataError, ReplayMiss
from spri_dspy.lms.cache import FILE, CallCache
from spri_dspy.lms.client import ScopedLM, prompt_key
from spri_dspy.lms.spec import CALL, current_rollout

if TYPE_CHECKING:
    from dspy.lm15 import Request, Response


class Recording(Protocol):
    """Something that knows the answer to a request."""

    def answer(self, request: Request) -> str:
        """The recorded output.

        Raises:
            ReplayMiss: there is none.
        """
        ...


class Script:
    """Recorded outputs of one example, in call order.

    Args:
        calls: (stage, output) pairs; stages such as "critique_principles".

    A request for another stage than the next one's is a ReplayMiss that names both: the program has left the
    recorded path. `left` tells how many outputs were not asked for.
    """

    def __init__(self, calls: Iterable[tuple[str, str]]) -> None:
        self._calls = list(calls)
        self._next = 0

    @property
    def left(self) -> int:
        """Outputs not yet given."""
        return len(self._calls) - self._next

    def answer(self, request: Request) -> str:
        """The next output, if it belongs to the stage that asks."""
        call = CALL.get()
        asked = call.stage if call else "an unnamed stage"
        if not self.left:
            raise ReplayMiss(f"the recording ends before {asked}")
        stage, output = self._calls[self._next]
        if stage != asked:
            raise ReplayMiss(f"the recording goes on with {stage}, the program asks for {asked}")
        self._next += 1
        return output


class Tape:
    """The finished calls of a run, by prompt. Every run can be replayed: `replay/RUN`.

    Args:
        run: a run directory, or its cache folder or file.

    Raises:
        DataError: there are no recorded calls.
    """

    def __init__(self, run: str | Path) -> None:
        path = Path(run)
        candidates = (path / "cache" / FILE, path / FILE, path)
        found = next((p for p in candidates if p.name == FILE and p.is_file()), None)
        if found is None:
            raise DataError(f"{str(run)!r} holds no recorded calls; name a run directory")
        self._path = path
        cache = CallCache(found.parent, read_only=True)
        self._outputs = cache.by_prompt()
        cache.close()

    def answer(self, request: Request) -> str:
        """The output recorded for exactly this prompt and rollout."""
        outputs = self._outputs.get(prompt_key(_messages(request), current_rollout()))
        if outputs is None:
            call = CALL.get()
            asked = f" ({call.stage})" if call else ""
            raise ReplayMiss(
                f"{self._path} has no answer for this prompt{asked}; run it again with a live LM"
            )
        first = outputs[0]
        return first if isinstance(first, str) else str(first.get("text", ""))


def _messages(request: Request) -> list[dict[str, str]]:
    """A request's messages in the shape in which they were recorded."""
    system = request.system or ""
    if not isinstance(system, str):
        system = "".join(getattr(part, "text", "") for part in system)
    turns = [{"role": m.role, "content": m.text} for m in request.messages]
    return [{"role": "system", "content": system}, *turns] if system else turns


class ReplayEngine:
    """A DSPy engine over a Recording. Copies of a program share it."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplayEngine:
        return self

    def complete(self, request: Request) -> Response:
        """One recorded answer."""
        return text_response(request, self.recording.answer(request))

    def stream(self, request: Request) -> Iterator[Any]:
        """The same answer as events."""
        from dspy.lm15 import response_to_events

        yield from response_to_events(self.complete(request))


class AsyncReplayEngine(ReplayEngine):
    """The same for asynchronous calls."""

    async def complete(self, request: Request) -> Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One recorded answer."""
        return text_response(request, self.recording.answer(request))

    async def stream(self, request: Request) -> AsyncIterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The same answer as events."""
        from dspy.lm15 import response_to_events

        for event in response_to_events(await self.complete(request)):
            yield event


def text_response(request: Request, text: str) -> Response:
    """A finished answer as DSPy's engines give it; token counts are words, no model's tokens."""
    from dspy.lm15 import Message, Response, TextPart, Usage

    words = sum(len((m.text or "").split()) for m in request.messages)
    return Response(
        id="recorded",
        model=request.model,
        message=Message.assistant([TextPart(text)]),
        finish_reason="stop",
        usage=Usage(input_tokens=words, output_tokens=len(text.split())),
    )


def replay_lm(recording: Recording | str | Path) -> ScopedLM:
    """An LM that answers from a recording: a Script, a Tape, or a run directory."""
    source = Tape(recording) if isinstance(recording, str | Path) else recording
    return ScopedLM(
        "replay/recorded",
        engine=ReplayEngine(source),
        async_engine=AsyncReplayEngine(source),
        cache=False,
        num_retries=0,
        temperature=0.0,
        max_tokens=2048,
    )


def script_of(calls: Iterable[Mapping[str, str]]) -> Script:
    """A Script from rows of {"stage", "output"}."""
    return Script((row["stage"], row["output"]) for row in calls)
