"""LiteLLM, made fit for long runs: loaded before the first call, silent, and with the limits of `lms.bodies`.

Loading it takes seconds, and its first call some more for the parts that it loads by then; both would count against
the timeout of a call. Import this module where an LM is made that LiteLLM carries; the rest follows from that. What
LiteLLM sends by the OpenAI client (every server of one's own, and most providers) is limited here; the clouds for which
it has clients of its own are not.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

for _name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
    logging.getLogger(_name).disabled = True  # it has handlers of its own, and logs keys among other things

import httpx  # noqa: E402
import litellm  # noqa: E402, TID253 - this module is imported only where LiteLLM is needed
import openai  # noqa: E402
from litellm.llms.custom_httpx.http_handler import (  # noqa: E402, TID253
    AsyncHTTPHandler,
    get_ssl_configuration,
)
from litellm.llms.openai.common_utils import BaseOpenAILLM  # noqa: E402, TID253

from spri_dspy.lms.bodies import Body, refuse_redirect, sound  # noqa: E402


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer that comes event by event, within the cap."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._body = response, Body(response.headers.get("Content-Encoding", ""))

    def __iter__(self) -> Iterator[bytes]:
        for data in self._response.iter_raw():
            yield self._body.feed(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._response.aiter_raw():
            yield self._body.feed(data)

    def close(self) -> None:
        self._response.close()

    async def aclose(self) -> None:
        await self._response.aclose()


def _bounded(response: httpx.Response, body: bytes | None) -> httpx.Response:
    """The answer without its encoding; `body` is None if it comes event by event."""
    headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in _ENCODING]
    if body is None:
        return httpx.Response(response.status_code, headers=headers, stream=_Stream(response))
    status, body = sound(response.status_code, body)
    return httpx.Response(status, headers=headers, content=body)


_ENCODING = ("content-encoding", "content-length", "transfer-encoding")


def _is_stream(response: httpx.Response) -> bool:
    refuse_redirect(response.status_code, response.headers.get("Location", ""))
    return "text/event-stream" in response.headers.get("Content-Type", "")


class _Transport(httpx.BaseTransport):
    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "identity"
        response = self._inner.handle_request(request)
        try:
            if _is_stream(response):
                return _bounded(response, None)
            return _bounded(response, b"".join(_Stream(response)))
        except BaseException:
            response.close()
            raise


class _AsyncTransport(httpx.AsyncBaseTransport):
    """The same without blocking. Each event loop has connections of its own, which end with it."""

    def __init__(self) -> None:
        self._opened: dict[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncBaseTransport, AsyncIterator[None]]
        ] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "identity"
        inner = await self._inner()
        response = await inner.handle_async_request(request)
        try:
            if _is_stream(response):
                return _bounded(response, None)
            return _bounded(response, b"".join([data async for data in _Stream(response)]))
        except BaseException:
            await response.aclose()
            raise

    async def _inner(self) -> httpx.AsyncBaseTransport:
        loop = asyncio.get_running_loop()
        if loop not in self._opened:
            secure = get_ssl_configuration()
            is_set = isinstance(secure, bool)
            inner: Any = AsyncHTTPHandler.create_async_transport(
                ssl_context=None if is_set else cast(ssl.SSLContext, secure),
                ssl_verify=secure if is_set else None,
            )
            until_the_end = self._hold(loop, inner)
            await anext(until_the_end)
            self._opened[loop] = inner, until_the_end
        return self._opened[loop][0]

    async def _hold(
        self, loop: asyncio.AbstractEventLoop, inner: httpx.AsyncBaseTransport
    ) -> AsyncIterator[None]:
        """Close the connections when the loop ends, for which it closes its generators."""
        try:
            yield
        finally:
            self._opened.pop(loop, None)
            await inner.aclose()


def _set_up() -> None:
    litellm.suppress_debug_info = True
    session: Any = BaseOpenAILLM._get_sync_http_client()
    litellm.client_session = session
    session._transport = _Transport(session._transport)  # a transport by argument would lose the proxies
    session._mounts = {pattern: each and _Transport(each) for pattern, each in session._mounts.items()}
    litellm.aclient_session = litellm.aclient_session or httpx.AsyncClient(transport=_AsyncTransport())


def _warm_up() -> None:
    """One call that goes nowhere: LiteLLM and the OpenAI client load what they use when they use it."""
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ready"}}
    nowhere = httpx.MockTransport(lambda _: httpx.Response(200, json=answer | {"choices": [choice]}))
    client = openai.OpenAI(api_key="none", http_client=httpx.Client(transport=nowhere))
    messages = [{"role": "user", "content": "ready?"}]
    loop = asyncio.new_event_loop()  # LiteLLM makes one where there is none, and would never close it
    asyncio.set_event_loop(loop)
    try:
        litellm.completion("openai/warm-up", messages, client=client, api_key="none", num_retries=0)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


_set_up()
_thread = threading.Thread(target=_warm_up, name="spri-litellm-warm-up")  # whose event loop is nobody else's
_thread.start()
_thread.join()
