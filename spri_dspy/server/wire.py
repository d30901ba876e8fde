"""OpenAI's chat completions on the wire: what a request may hold, how an answer, a stream and an error look.

It knows shapes and bytes; it knows no program, no queue and no LM.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from spri_dspy.strict_json import to_text

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

SECONDS_BETWEEN_SIGNS = 10.0
"""A stream that waits for an LM says so this often, or proxies take it for dead."""

PIECE = 24
"""Characters of one piece of a streamed text, about."""


class TextPart(BaseModel):
    """A part of a message; images and sounds have no place in a task."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn. Other keys, such as a name, are left out."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class SpriOptions(BaseModel):
    """The `spri` key of a request.

    Attributes:
        inputs: further fields of a data row, as `spri run --data` takes them; they outrank the messages.
        trace: the answer has a `spri` key too, with principles, scores, stop reasons, trace and usage by role.
        progress: a stream tells each LM call in a chunk without choices, not only in a comment.
    """

    model_config = ConfigDict(extra="forbid")

    inputs: dict[str, JsonValue] = {}
    trace: bool = False
    progress: bool = False


class StreamOptions(BaseModel):
    """OpenAI's options of a stream; `include_usage` asks for a last chunk with the tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(BaseModel):
    """The only answer format there is."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


Ignored = Any
"""Of a parameter that changes nothing here, because the LMs and their sampling are the operator's."""


class ChatRequest(BaseModel):
    """A request for a chat completion. Unknown parameters are refused, as OpenAI does."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    spri: SpriOptions = SpriOptions()

    # Refused unless they ask for what there is: the caller would build on what does not come.
    n: Literal[1] | None = None
    response_format: TextFormat | None = None
    stop: list[str] | None = Field(None, max_length=0)
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    functions: list[Any] | None = Field(None, max_length=0)
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None

    temperature: Ignored = None
    top_p: Ignored = None
    max_tokens: Ignored = None
    max_completion_tokens: Ignored = None
    frequency_penalty: Ignored = None
    presence_penalty: Ignored = None
    logit_bias: Ignored = None
    seed: Ignored = None
    reasoning_effort: Ignored = None
    verbosity: Ignored = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    metadata: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None

    @property
    def ignored(self) -> list[str]:
        """The parameters of this request that change nothing."""
        annotations = ChatRequest.__annotations__
        return [n for n in annotations if annotations[n] == "Ignored" and getattr(self, n) is not None]


class Tokens(BaseModel):
    """Tokens of all LM calls that an answer took, drafts and critiques included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """What was answered."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: Literal["stop"] = "stop"


class Completion(BaseModel):
    """A whole answer. `system_fingerprint` is "offline-stand-in" where no language model answered."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Tokens
    spri: dict[str, Any] | None = None


class Model(BaseModel):
    """A model as /v1/models lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["spri-dspy"] = "spri-dspy"


class ModelList(BaseModel):
    """All models of a server."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorDetail


class Refusal(Exception):
    """A request that gets an error for an answer.

    Args:
        status: the HTTP status.
        message: one line, without secrets.
        code: what a program can tell errors apart by.
        param: the parameter that is wrong.
        retry_after: seconds after which to try again. Without it, a client that would try by itself is told not to:
            the calls would be paid once more.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, _sound(message), code
        self.param = param and _sound(param)
        self.headers = (
            {"x-should-retry": "false"} if retry_after is None else {"retry-after": str(retry_after)}
        )
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    @property
    def body(self) -> bytes:
        """The error as JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump_json().encode()

    async def send(self, send: Send) -> None:
        """Answer with it."""
        await respond(send, self.status, self.body, self.headers)


def _sound(text: str) -> str:
    """The text without halves of surrogate pairs, which a request may hold and no answer can carry."""
    return text.encode("utf-8", "replace").decode()


async def respond(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Send one JSON body."""
    headers = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": body})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]


@dataclass
class Reply:
    """The way back to one client: the whole answer at once.

    Attributes:
        model, system_fingerprint: as the answer names them.
        headers: sent with the answer.
    """

    send: Send
    model: str
    system_fingerprint: str
    headers: Mapping[str, str]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Around the time until the answer is there."""
        yield

    async def progress(self, stage: str, role: str) -> None:
        """An LM is asked, for a stage of the program."""

    async def finish(self, text: str, tokens: Tokens, details: dict[str, Any] | None) -> None:
        """Send the answer."""
        completion = Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=[Choice(message=AnswerMessage(content=text))],
            usage=tokens,
            spri=details,
        )
        body = completion.model_dump_json(exclude=None if details else {"spri"})
        await respond(self.send, 200, body.encode(), self.headers)

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error instead."""
        await refusal.send(self.send)


@dataclass
class StreamReply(Reply):
    """The answer as server-sent events: comments while LMs are asked, then the text piece by piece.

    Attributes:
        include_usage: a last chunk tells the tokens.
        tell_progress: chunks without choices tell what is asked of whom.
        has_begun: the head is gone, with its 200.
    """

    include_usage: bool = False
    tell_progress: bool = False
    has_begun: bool = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Send the head, and signs of life until the answer is there."""
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            **self.headers,
        }
        await self.send({"type": "http.response.start", "status": 200, "headers": _raw(headers)})
        self.has_begun = True
        await self._write(": accepted\n\n")
        signs = asyncio.create_task(self._signs())
        try:
            yield
        finally:
            signs.cancel()

    async def _signs(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_SIGNS)
            await self._write(": waiting\n\n")

    async def progress(self, stage: str, role: str) -> None:
        """A comment, which every client skips; a chunk too where it was asked for."""
        await self._write(f": {stage}\n\n")
        if self.tell_progress:
            await self._write(self._chunk(choices=[], spri={"stage": stage, "role": role}))

    async def finish(self, text: str, tokens: Tokens, details: dict[str, Any] | None) -> None:
        """Send the text in pieces, then why it ended, and the tokens where they were asked for."""
        none_yet: dict[str, Any] = {"usage": None} if self.include_usage else {}
        events = [self._chunk(choices=[_delta({"role": "assistant", "content": ""})], **none_yet)]
        events += [self._chunk(choices=[_delta({"content": piece})], **none_yet) for piece in pieces(text)]
        shown = {"spri": details} if details else {}
        events.append(self._chunk(choices=[_delta({}, "stop")], **none_yet, **shown))
        if self.include_usage:
            events.append(self._chunk(choices=[], usage=tokens.model_dump()))
        for event in events:
            await self._write(event)
        await self._write("data: [DONE]\n\n", more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error instead; once the head is gone, as an event, as OpenAI does."""
        if not self.has_begun:
            return await super().refuse(refusal)
        await self._write(f"data: {refusal.body.decode()}\n\n", more=False)

    def _chunk(self, **parts: Any) -> str:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            **parts,
        }
        return f"data: {to_text(chunk, ascii_only=True)}\n\n"

    async def _write(self, event: str, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": event.encode(), "more_body": more})


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def pieces(text: str) -> Iterator[str]:
    """A text cut after white space into pieces of about PIECE characters; together they are the text."""
    piece = ""
    for word in re.findall(r"\S*\s*", text):
        piece += word
        if len(piece) >= PIECE:
            yield piece
            piece = ""
    if piece:
        yield piece
