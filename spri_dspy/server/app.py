"""The ASGI application: its paths, its errors, and the door in front of them; `service` does the work."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.program import Program
from spri_dspy.server.service import Limits, Service
from spri_dspy.server.stream import StreamReply
from spri_dspy.server.wire import (
    UNSUPPORTED,
    ChatRequest,
    Completion,
    ErrorBody,
    Model,
    ModelList,
    Receive,
    Refusal,
    Reply,
    Send,
)
from spri_dspy.tasks import Task, load_task

if TYPE_CHECKING:
    from fastapi import FastAPI, Response  # pyright: ignore[reportMissingImports] - the extra [serve]

CHAT = "/v1/chat/completions"

BODY_SECONDS = 30.0
"""Seconds that a request's body may take to arrive."""

FAILURES: dict[int | str, dict[str, Any]] = {name: {"model": ErrorBody} for name in ("4XX", "5XX")}


def create_app(
    program: Program,
    task: Task | None = None,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    origins: Sequence[str] = (),
    drafts: bool = False,
) -> FastAPI:
    """The ASGI application that serves a program; its LMs are as they are set.

    Args:
        program: SPRI or another system.
        task: the program's, where `load_task` does not find it by the program's `task_name`.
        limits: what it takes on.
        token: what clients must bring as `Authorization: Bearer`; without one, `serve` listens on loopback only.
        origins: of web pages that may use the server from a browser, such as https://chat.example; "*" for any.
        drafts: streams have candidates as they are written, unless a request says otherwise.

    Raises:
        UsageError: an origin is none, or any page would be let in without a token.
        PrerequisiteError: FastAPI is missing.
    """
    _check_origins(origins, token)
    try:
        from fastapi import FastAPI  # pyright: ignore[reportMissingImports] - the extra [serve]
        from starlette.middleware.cors import CORSMiddleware  # pyright: ignore[reportMissingImports] - the same
    except ImportError:
        raise PrerequisiteError('an endpoint needs FastAPI: pip install "spri-dspy[serve]"') from None
    limits = limits or Limits()
    service = Service(program, task or load_task(program.task_name), limits, shows_drafts=drafts)
    app = FastAPI(title="spri", docs_url=None, redoc_url=None)
    app.state.service, app.state.token = service, token
    app.add_middleware(_Door, service=service, token=token)
    # Around the door: a browser asks first without its token, and has to be able to read a refusal.
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-spri-ignored", "retry-after"],
        )
    _add_chat(app, service)
    _add_models(app, Model(id=service.model, created=service.created))
    _add_state(app, service)
    _add_errors(app)
    return app


def _check_origins(origins: Sequence[str], token: str | None) -> None:
    for origin in origins:
        if origin == "*" and token is None:
            raise UsageError(
                "pages of any origin (*) could use this server without a token: name one, or the origin"
            )
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise UsageError(
                f"an origin is like https://chat.example or http://localhost:3000, not {origin!r}"
            )


_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?|https?://\[[0-9a-f:]+\](?::\d{1,5})?")


def _add_chat(app: FastAPI, service: Service) -> None:
    from fastapi import Response  # pyright: ignore[reportMissingImports] - the extra [serve]

    class Answer(Response):
        """Sends by itself: that the client has left is heard only while the answer is being made."""

        def __init__(self, asked: ChatRequest) -> None:
            self.asked, self.background = asked, None
            self.example, self.ignored = service.example(asked)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = {"x-spri-ignored": ", ".join(self.ignored)} if self.ignored else {}
            reply = _reply(self.asked, service, headers, send)
            details = {"ignored": self.ignored} if self.asked.spri.trace else None
            scope["spri.status"] = await service.answer(self.example, reply, receive, details)

    event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
    stream = {"content": {"text/event-stream": {"itemSchema": event}}}

    @app.post(CHAT, response_model=Completion, responses={**FAILURES, 200: stream})
    async def chat(asked: ChatRequest) -> Any:
        """Answer the last user message by the task's program."""
        return Answer(asked)


def _reply(asked: ChatRequest, service: Service, headers: dict[str, str], send: Send) -> Reply:
    if not asked.stream:
        return Reply(send, service.model, service.system_fingerprint, headers)
    options = asked.stream_options
    return StreamReply(
        send,
        service.model,
        service.system_fingerprint,
        headers,
        include_usage=bool(options and options.include_usage),
        tell_progress=asked.spri.progress,
        wants_drafts=service.shows_drafts if asked.spri.drafts is None else asked.spri.drafts,
    )


def _invalid(error: Any) -> Refusal:
    """What is wrong with a body, in OpenAI's words where it has some."""
    where = [str(part) for part in error["loc"] if part != "body"]
    name = where[0] if where else ""
    match error["type"]:
        case "json_invalid":
            return Refusal(400, "the body is not valid JSON")
        case "extra_forbidden":
            path = ".".join(where)
            return Refusal(
                400, f"Unrecognized request argument supplied: {path}", "unknown_parameter", param=path
            )
        case "missing" if len(where) == 1:
            return Refusal(400, f"the parameter {name} is missing", "missing_required_parameter", param=name)
    if not where:
        return Refusal(400, "the body must be a JSON object, sent as Content-Type: application/json")
    if name in UNSUPPORTED:
        return Refusal(400, f"{name}: {UNSUPPORTED[name]}", "unsupported_value", param=name)
    if where == ["messages"]:
        return Refusal(400, "messages must be a list of one message or more", param="messages")
    if name == "messages" and "content" in where:
        said = f"messages[{where[1]}].content must be text or parts of the type text; images, sounds and files are not"
        return Refusal(400, f"{said} supported", "unsupported_value", param="messages")
    return Refusal(400, f"{'.'.join(where)}: {error['msg']}", param=name)


def _add_models(app: FastAPI, model: Model) -> None:
    @app.get("/v1/models", responses=FAILURES)
    async def models() -> ModelList:
        """What can be asked for."""
        return ModelList(data=[model])

    @app.get("/v1/models/{name:path}", responses=FAILURES)
    async def retrieve(name: str) -> Model:
        """One model."""
        if name != model.id:
            raise Refusal(404, f"the model {name!r} does not exist; known: {model.id}", "model_not_found")
        return model


def _add_state(app: FastAPI, service: Service) -> None:
    from fastapi.responses import PlainTextResponse  # pyright: ignore[reportMissingImports] - the extra [serve]

    @app.get("/health", responses=FAILURES)
    async def health() -> dict[str, str]:
        """Whether requests are taken."""
        if service.is_stopping:
            raise Refusal(503, "the server is stopping", "stopping", retry_after=5)
        return {"status": "ok"}

    class Metrics(PlainTextResponse):
        media_type = "text/plain; version=0.0.4"

    @app.get("/metrics", response_class=Metrics, responses=FAILURES)
    async def metrics() -> str:
        """Counts in Prometheus's text format."""
        return service.meter.text(service.in_flight, service.waiting)


def _add_errors(app: FastAPI) -> None:
    from fastapi import Response  # pyright: ignore[reportMissingImports] - the extra [serve]
    from fastapi.exceptions import RequestValidationError  # pyright: ignore[reportMissingImports] - the same
    from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports] - the same
    from starlette.requests import Request  # pyright: ignore[reportMissingImports] - the same

    def shown(refusal: Refusal, headers: Any = None) -> Response:
        headers = {"content-type": "application/json", **refusal.headers, **(headers or {})}
        return Response(refusal.body, refusal.status, headers)

    @app.exception_handler(Refusal)
    async def refused(_: Any, refusal: Refusal) -> Response:
        return shown(refusal)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Any, error: RequestValidationError) -> Response:
        return shown(_invalid(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        said = str(error.detail)
        if error.status_code == 404:
            said = f"nothing at {request.url.path}; there are {CHAT}, /v1/models, /health and /metrics"
        return shown(Refusal(error.status_code, said), error.headers)


class _Door:
    """Who may come in, how long a body may take, and what is counted of every chat request."""

    def __init__(self, app: Any, service: Service, token: str | None) -> None:
        self._app, self._service, self._token = app, service, token

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def noted(event: MutableMapping[str, Any]) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                if self._service.is_stopping:
                    event["headers"] = [*event["headers"], (b"connection", b"close")]
            await send(event)

        try:
            refusal = self._refusal(dict(scope["headers"]))
            if refusal is not None:
                await refusal.send(noted)
            else:
                await self._app(scope, _bounded(receive, self._service.limits.body_bytes), noted)
        finally:
            if scope["path"] == CHAT:
                self._service.meter.count(scope.get("spri.status", status), time.monotonic() - began)

    def _refusal(self, headers: dict[bytes, bytes]) -> Refusal | None:
        if self._token is not None:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            is_known = hmac.compare_digest(given.strip(), self._token.encode())
            if kind.lower() == b"bearer" and is_known:
                return None
            return Refusal(401, "this server wants its token: Authorization: Bearer TOKEN", "invalid_api_key")
        name = headers.get(b"host", b"").decode("latin-1")
        if is_loopback(name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name):
            return None
        # A page in a browser can have its own name lead to this machine, and would be let in by it.
        return Refusal(403, "without a token this server answers to loopback names only, such as localhost")


def _bounded(receive: Receive, most_bytes: int) -> Receive:
    """The same, but a body that is too large or does not come to its end is refused."""
    from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports] - the extra [serve]

    deadline, n_bytes, is_whole = time.monotonic() + BODY_SECONDS, 0, False

    async def received() -> MutableMapping[str, Any]:
        nonlocal n_bytes, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                event = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
        n_bytes += len(event.get("body", b""))
        if n_bytes > most_bytes:
            raise HTTPException(413, f"the body is larger than {most_bytes:,} bytes")
        is_whole = not event.get("more_body", False)
        return event

    return received


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine and no other."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
