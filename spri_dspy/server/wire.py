"""OpenAI's chat completions on the wire: what a request may hold, how an answer, a stream and an error look.

It knows shapes and bytes; it knows no program, no queue and no LM.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


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
        drafts: a stream has every candidate as it is written, as `reasoning_content`; None is what the server does.
    """

    model_config = ConfigDict(extra="forbid")

    inputs: dict[str, JsonValue] = {}
    trace: bool = False
    progress: bool = False
    drafts: bool | None = None


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


UNSUPPORTED = {
    "n": "a request gets one answer; send it again for another",
    "response_format": 'answers are text; ask without it, or with {"type": "text"}',
    "stop": "answers end where the program ends them; ask without it",
    "logprobs": "several LM calls make an answer, and none of their logprobs are its own; ask without it",
    "top_logprobs": "several LM calls make an answer, and none of their logprobs are its own; ask without it",
    "tools": "the program calls no tools; ask without them",
    "tool_choice": "the program calls no tools; ask without it",
    "functions": "the program calls no functions; ask without them",
    "function_call": "the program calls no functions; ask without it",
    "modalities": "answers are text alone",
}
"""Parameters that are refused unless they ask for what there is, and what a client is told."""


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
    await send({"type": "http.response.start", "status": status, "headers": raw_headers(headers)})
    await send({"type": "http.response.body", "body": body})


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI takes them."""
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]


@dataclass
class Reply:
    """The way back to one client: the whole answer at once.

    Attributes:
        model, system_fingerprint: as the answer names them.
        headers: sent with the answer.
        wants_drafts: candidates are sent as they are written; only a stream can.
    """

    send: Send
    model: str
    system_fingerprint: str
    headers: Mapping[str, str]
    wants_drafts: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Around the time until the answer is there."""
        yield

    async def progress(self, stage: str, role: str) -> None:
        """An LM is asked, for a stage of the program."""

    async def draft(self, stage: str, piece: str) -> None:
        """More of a candidate was written."""

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
