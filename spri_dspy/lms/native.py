"""DSPy's native client (lm15) as an engine whose way is looked up once an LM, not once a call.

DSPy finds out for every call anew which provider a model string means, which client can carry it and what that
client can do. For one LM the answers stay the same, and finding them takes a third of the CPU time of a call. It
knows requests and answers of lm15; it knows no prompt, no retry and no limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast
from urllib.request import getproxies

import dspy
from dspy._vendor.lm15.transports._url import ParsedURL
from dspy.clients.backend_selection import CLIENT_KEYS, select_backend
from dspy.clients.call_result import CallResult, usage_dict
from dspy.clients.errors import error_boundary
from dspy.lm15 import (
    AsyncLMRouter,
    LMRouter,
    Message,
    Request,
    Response,
    RouterConfig,
    StreamEndEvent,
    UnsupportedFeatureError,
    registered_providers,
    request_from_openai_chat,
)

from spri_dspy.lms.http_transport import AsyncTransport, Connections, SyncTransport
from spri_dspy.lms.plain_calls import PlainForm, Said
from spri_dspy.lms.scope import POST, is_watched
from spri_dspy.lms.spec import CALL, note_finish
from spri_dspy.lms.streaming import room_in_stream

logger = logging.getLogger(__name__)

_Finished = TypeVar("_Finished", Response, StreamEndEvent)

MOST_CONNECTIONS = 10_000
"""More than any run has calls in flight: the limit on these is the run's own."""


@dataclass(frozen=True)
class Route:
    """The way to one model.

    Attributes:
        provider: as lm15 names it.
        model: what its server is told.
        config: address and key.
        connection: settings of the transport.
        lm_string: what the LM is made from again where a DSPy program is loaded that was saved with it.
    """

    provider: str
    model: str
    config: RouterConfig
    connection: Mapping[str, Any]
    lm_string: str

    def client(self, router: type[LMRouter | AsyncLMRouter], transport: type[Any]) -> Any:
        """A client of the provider, with connections of its own."""
        config = replace(self.config, transport=transport(**self.connection))
        return router(config).lm(f"{self.provider}:{self.model}")

    def finished(self, answer: _Finished) -> _Finished:
        """An answer, or the end of a streamed one: why it ended is noted, tokens are as DSPy counts this provider's.

        That is with cached input and thinking; DSPy itself counts so only for engines of its own.
        """
        note_finish(answer.finish_reason)
        usage = answer.usage
        if usage is None or not (
            usage.cache_read_tokens or usage.cache_write_tokens or usage.reasoning_tokens
        ):
            return answer
        told = usage_dict(cast(Response, answer), self.provider)  # which looks at `usage` alone
        tokens = {"input_tokens": told.get("prompt_tokens"), "output_tokens": told.get("completion_tokens")}
        return replace(answer, usage=replace(usage, **tokens, total_tokens=told.get("total_tokens")))

    def to_wire(self, request: Request) -> Request:
        """The request with the model's name as its server knows it."""
        return replace(request, model=self.model)


class NativeEngine:
    """Answers requests through lm15, one attempt each. Its copies share its connections.

    Attributes:
        supports_function_calling, supports_reasoning, supports_response_schema, supported_params: what DSPy asks.
    """

    def __init__(self, route: Route, capabilities: Mapping[str, Any]) -> None:
        self.route = route
        self.capabilities = dict(capabilities)
        self.__dict__.update(capabilities)
        self._client: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"route": self.route, "capabilities": self.capabilities}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        return self.route.finished(self._connected().complete(self.route.to_wire(request)))

    def stream(self, request: Request) -> Iterator[Any]:
        """Answer one request event by event."""
        with closing(self._connected().stream(self.route.to_wire(request))) as events:
            for event in events:
                yield self.route.finished(event) if event.type == "end" else event

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self.route.client(LMRouter, SyncTransport)
        return self._client

    def dump_state(self) -> dict[str, Any]:
        """The LM string."""
        return {"lm": self.route.lm_string}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Any:
        """The engine of the LM that the string names."""
        from spri_dspy.lms.spec import load_lm

        lm: Any = load_lm(state["lm"])
        return lm.engine if isinstance(lm.engine, cls) else lm._async_engine_spec


class _Template:
    """What the requests of one LM have in common.

    Attributes:
        settings: the LM's.
        request: as lm15 has it, with messages that nobody sends.
    """

    def __init__(self, settings: dict[str, Any], request: Request, route: Route) -> None:
        self.settings, self.request = settings, request
        self._to_wire, self._form, self._is_known = route.to_wire, None, False

    def form(self, client: Any) -> PlainForm | None:
        """Its requests' form, if they have one; see `PlainForm.of`."""
        if not self._is_known:
            self._form, self._is_known = PlainForm.of(client, self._to_wire(self.request)), True
        return self._form


class AsyncNativeEngine(NativeEngine):
    """The same without blocking; each event loop has connections of its own."""

    _is_short = True
    """Whether calls of plain text may go past `complete`."""

    def __init__(self, route: Route, capabilities: Mapping[str, Any]) -> None:
        super().__init__(route, capabilities)
        self._template: _Template | None = None
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        self._connections: dict[asyncio.AbstractEventLoop, Connections] = {}

    async def complete(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: Request
    ) -> Response:
        """Answer one request."""
        return self.route.finished(await self._connected().complete(self.route.to_wire(request)))

    async def stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: Request
    ) -> AsyncIterator[Any]:
        """Answer one request event by event."""
        async with aclosing(self._connected().stream(self.route.to_wire(request))) as events:
            async for event in events:
                yield self.route.finished(event) if event.type == "end" else event
        await room_in_stream()

    async def ask(
        self, lm: dspy.LM, messages: Sequence[Mapping[str, Any]], timeout: float | None = None
    ) -> list[Any] | None:
        """What `lm.acall(messages=messages)` gives, with nothing worked out that is the same for every call.

        That saves half of a call's CPU time; requests, errors, outputs and usage are those of DSPy's own `acall`.

        Args:
            lm: whose engine this is.
            messages: roles and texts.
            timeout: seconds after which the call fails, None for never.

        Returns:
            The outputs; None, and nothing was sent, if the call is more than plain text that nobody watches.

        Raises:
            TimeoutError: there was no answer in time.
            LMError: see DSPy.
        """
        if is_watched() or lm.callbacks or not all(map(_is_plain, messages)):
            return None
        template = self._template_for(lm)
        if template is None or messages[0]["role"] != "system":
            return None
        try:
            said = await self._said(template, messages, timeout)
        except TimeoutError:
            raise
        except Exception as error:
            with error_boundary(lm.model, unexpected=True):
                raise error
        if not note_finish(said.finish_reason) and said.finish_reason == "length":
            logger.warning("%s: an answer was cut off at max_tokens", getattr(lm, "_name", lm.model))
        tracker = CALL.get() or dspy.settings.usage_tracker
        if tracker:
            tracker.add_usage(lm.model, said.usage)
        return said.outputs

    async def _said(
        self, template: _Template, messages: Sequence[Mapping[str, Any]], timeout: float | None
    ) -> Said:
        client = self._connected()
        is_form = (
            self._is_short and POST.get() is None and all(turn["role"] != "system" for turn in messages[1:])
        )
        form = template.form(client) if is_form and not self.route.connection["trust_env"] else None
        if form is not None:
            answer = await form.ask(client, self._connections_to(form.url), messages, timeout)
            if isinstance(answer, Said):
                return answer
            response = self.route.finished(answer)
        else:
            made = tuple(_TURNS[turn["role"]](turn["content"]) for turn in messages[1:])
            request = replace(template.request, system=messages[0]["content"], messages=made)
            async with asyncio.timeout(timeout):
                response = await self.complete(request)
        result = CallResult.native(response)
        return Said(result.outputs, result.usage, response.finish_reason)

    def _template_for(self, lm: dspy.LM) -> _Template | None:
        """What the LM's requests have in common; None if they are more than text."""
        if self._template is None or self._template.settings != lm.kwargs:
            if not _PLAIN.issuperset(lm.kwargs):
                return None
            sent = {k: v for k, v in lm.kwargs.items() if k != "rollout_id" and v is not None}
            body = {"model": lm.model, "messages": [{"role": "user", "content": "?"}], **sent}
            self._template = _Template(dict(lm.kwargs), request_from_openai_chat(body), self.route)
        return self._template

    def _connections_to(self, url: ParsedURL) -> Connections:
        loop = asyncio.get_running_loop()
        found = self._connections.get(loop)
        if found is None:
            self._connections = {known: c for known, c in self._connections.items() if not known.is_closed()}
            found = self._connections[loop] = Connections(url)
        return found

    def _connected(self) -> Any:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            self._clients = {known: c for known, c in self._clients.items() if not known.is_closed()}
            client = self._clients[loop] = self.route.client(AsyncLMRouter, AsyncTransport)
        return client


def native_engines(lm: dspy.LM, lm_string: str) -> tuple[NativeEngine, AsyncNativeEngine] | None:
    """The engines that carry an LM's calls as DSPy would, None where DSPy would take LiteLLM.

    Args:
        lm: as DSPy makes it from a model string and its settings.
        lm_string: what the engines are made from again after saving.

    Raises:
        LM15Error: the LM is for the native client only, which cannot carry it.
    """
    selection = select_backend(lm)
    if not selection.native:
        return None
    resolution: Any = selection.resolution
    client = selection.clients
    address = client.get("api_base") or client.get("base_url")
    provider = resolution.provider
    config = RouterConfig(
        api_keys={provider: client["api_key"]} if "api_key" in client else None,
        base_urls={provider: address} if address else None,
        providers=tuple(known.definition for known in registered_providers()),
    )
    sent = {k: v for k, v in lm.kwargs.items() if k not in CLIENT_KEYS and v is not None}
    probe = {"model": f"{provider}:{resolution.model}", "messages": [{"role": "user", "content": "?"}]}
    try:
        LMRouter(config).plan(request_from_openai_chat(probe | sent, compat=resolution.compat))
    except UnsupportedFeatureError:
        if lm.engine == "lm15" or resolution.declared:
            raise
        return None
    capabilities = {name: getattr(lm, name) for name in _CAPABILITIES}
    seconds = client.get("timeout")
    connection = {
        "max_connections": MOST_CONNECTIONS,
        "pool_timeout": None,
        "trust_env": bool(
            getproxies()
        ),  # looked up here, for lm15 would read the whole environment at every call
        **({"read_timeout": seconds, "write_timeout": seconds} if seconds else {}),
    }
    route = Route(provider, resolution.model, config, connection, lm_string)
    return NativeEngine(route, capabilities), AsyncNativeEngine(route, capabilities)


_PLAIN = frozenset(
    (
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "top_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
    )
) | {"reasoning_effort", "rollout_id"}
_TURNS = {"system": Message.developer, "user": Message.user, "assistant": Message.assistant}


def _is_plain(message: Mapping[str, Any]) -> bool:
    """Whether it is a text that a server can be sent, and nothing else."""
    text = message.get("content")
    if len(message) != 2 or message["role"] not in _TURNS or not isinstance(text, str) or not text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which DSPy refuses with a reason
        return False
    return True


_CAPABILITIES = (
    "supports_function_calling",
    "supports_reasoning",
    "supports_response_schema",
    "supported_params",
)
