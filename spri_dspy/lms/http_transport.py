"""HTTP as lm15 speaks it, with answers bounded, made sound and never redirected (`lms.bodies`).

    SyncTransport, AsyncTransport   lm15's own transports, for everything that it carries
    Connections                     the same protocol for calls that are answered whole, at a third of the CPU time:
                                    an answer is read as it arrives, without a stream, a task or a lock for each call

It knows bytes, status and headers; no JSON and no LM.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, cast

from dspy._vendor.lm15.transports import (
    AsyncTransportResponse,
    ConnectError,
    ConnectTimeout,
    ReadError,
    ReadTimeout,
    StdlibAsyncTransport,
    StdlibTransport,
    TransportRequest,
    TransportResponse,
)
from dspy._vendor.lm15.transports._http11 import NoBodyDecoder, ResponseHeadParser
from dspy._vendor.lm15.transports._limits import DEFAULT_CONNECT_TIMEOUT
from dspy._vendor.lm15.transports._url import ParsedURL

from spri_dspy.lms.bodies import Body, refuse_redirect, sound
from spri_dspy.lms.scope import POST


class Head(ResponseHeadParser):
    """The head of an answer, whose body is read within the limits of `lms.bodies`.

    Args:
        max_body: megabytes that the body may take; that of the call in progress by default.
    """

    def __init__(self, max_body: float | None = None) -> None:
        super().__init__()
        self.max_body = max_body

    def feed(self, data: bytes) -> None:
        """Take more bytes; what a server says before its answer (100 Continue) is passed over."""
        super().feed(data)
        if self.complete and self.status in (100, 102, 103):
            rest = self.leftover
            self.__init__(self.max_body)
            self.feed(rest)

    def body_decoder(self, request_method: str) -> Any:
        """Decodes the body."""
        refuse_redirect(self.status, self.header("location") or "")
        frames = self._framing_decoder(request_method)
        return frames if isinstance(frames, NoBodyDecoder) else _BodyDecoder(frames, self)


class _BodyDecoder:
    """lm15's interface of a decoder: what the frames hold, decoded."""

    def __init__(self, frames: Any, head: Head) -> None:
        self._frames, self._body = frames, Body(",".join(head.headers_all("content-encoding")), head.max_body)

    @property
    def complete(self) -> bool:
        return self._frames.complete

    @property
    def leftover(self) -> bytes:
        return self._frames.leftover

    def feed(self, data: bytes) -> Iterator[bytes]:
        for part in self._frames.feed(data):
            yield self._body.feed(part)

    def eof(self) -> None:
        self._frames.eof()

    def drain(self) -> bytes:
        return b""


class SyncTransport(StdlibTransport):
    """lm15's connections; an answer that is no stream is read whole, and made sound."""

    def stream(self, request: TransportRequest) -> TransportResponse:
        """Send a request and read its answer."""
        response = super().stream(request)
        if _is_stream(response):
            return response
        status, body = sound(response.status, response.read())
        return TransportResponse(
            status=status,
            reason=response.reason,
            headers=response.headers,
            http_version=response.http_version,
            chunks=iter([body]),
            release=lambda _: None,
        )

    def _read_head(self, conn: Any, *, read_timeout: float) -> ResponseHeadParser:
        head = Head()
        conn.sock.settimeout(read_timeout)
        while not head.complete:
            try:
                data = conn.sock.recv(_READ)
            except TimeoutError as error:
                raise ReadTimeout(f"no answer within {read_timeout:g} s") from error
            except OSError as error:
                raise ReadError(f"read failed: {error}") from error
            head.feed(_some(data))
        return head


class AsyncTransport(StdlibAsyncTransport):
    """The same without blocking."""

    async def _do_stream(self, request: TransportRequest) -> AsyncTransportResponse:
        if (post := POST.get()) is not None:
            head = {"reason": "", "headers": [], "http_version": "HTTP/1.1"}
            status, body = sound(*await post(request))
            return AsyncTransportResponse(status=status, chunks=_one(body), release=_release, **head)
        response = await super()._do_stream(request)
        if _is_stream(response):
            return response
        status, body = sound(response.status, await response.read())
        return AsyncTransportResponse(
            status=status,
            reason=response.reason,
            headers=response.headers,
            http_version=response.http_version,
            chunks=_one(body),
            release=_release,
        )

    async def _read_head(self, conn: Any, *, read_timeout: float) -> ResponseHeadParser:
        head = Head()
        while not head.complete:
            try:
                async with asyncio.timeout(read_timeout):
                    data = await conn.reader.read(_READ)
            except TimeoutError as error:
                raise ReadTimeout(f"no answer within {read_timeout:g} s") from error
            except OSError as error:
                raise ReadError(f"read failed: {error}") from error
            head.feed(_some(data))
        return head


_READ = 1 << 16


def _is_stream(response: TransportResponse | AsyncTransportResponse) -> bool:
    return "text/event-stream" in (response.header("content-type") or "")


def _some(data: bytes) -> bytes:
    if not data:
        raise ReadError("the server closed the connection before it answered")
    return data


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _release(body_consumed: bool) -> None:
    """Its connection was released when the body had been read."""


class Answer:
    """A whole answer; the body decoded.

    Attributes:
        status: of HTTP.
        body: without its framing.
    """

    __slots__ = ("_head", "body", "status")

    def __init__(self, status: int, head: Head | bytes, body: bytes) -> None:
        self.status, self._head, self.body = status, head, body

    @property
    def head(self) -> Head:
        """Its headers, read when they are asked for: of most answers nobody asks."""
        if isinstance(self._head, bytes):
            head = Head()
            head.feed(self._head)
            self._head = head
        return self._head


_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n")
_UNUSUAL = re.compile(
    rb"\r\n(?:transfer-encoding|content-encoding|connection)[ \t]*:(?![ \t]*keep-alive[ \t]*\r\n)|[^\r]\n"
)


def _whole(data: bytes, most: int) -> Answer | None:
    """What came at once, if that is an ordinary answer and nothing else: a 200 of a stated length, not encoded.

    Args:
        data: what came.
        most: bytes that the body may have.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4 or end > _READ or not data.startswith(b"HTTP/1.1 200 "):
        return None
    head = data[:end].lower()
    length = _LENGTH.search(head)
    if length is None or _LENGTH.search(head, length.end() - 2) or _UNUSUAL.search(head):
        return None
    n_bytes = int(length[1])
    return Answer(200, data[:end], data[end:]) if n_bytes == len(data) - end <= most else None


class Connections:
    """Connections to one server from one event loop, as many as there are calls at the same time.

    Args:
        url: where the server is.
    """

    def __init__(self, url: ParsedURL) -> None:
        self._url, self._tls = url, ssl.create_default_context() if url.is_tls else None
        self._idle: list[_Connection] = []
        weakref.finalize(self, _close_all, self._idle)

    async def post(self, request: bytes, max_body: float, timeout: float | None = None) -> Answer:
        """Send a request that is complete, and wait for its whole answer.

        Args:
            request: head and body, as they go over the wire.
            max_body: megabytes that the answer may take, decoded.
            timeout: seconds for it all, None for as long as it takes.

        Raises:
            TimeoutError: there was no whole answer in time.
            TransportError: no connection, or it broke.
            CallError: the answer is too long, or cannot be decoded.
            UsageError: the server sends calls elsewhere.
        """
        loop, ends = asyncio.get_running_loop(), None
        until = None if timeout is None else loop.time() + timeout
        connection = self._take()
        if connection is None:
            async with asyncio.timeout_at(until):
                connection = await self._open()
        try:
            if until is not None:
                ends = loop.call_at(until, connection.give_up)
            answer = await connection.ask(request, max_body)
        except BaseException:
            connection.close()
            raise
        finally:
            if ends is not None:
                ends.cancel()
        if connection.is_open:
            self._idle.append(connection)
        return answer

    def _take(self) -> _Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    async def _open(self) -> _Connection:
        host, port = self._url.host, self._url.port
        secured = {"ssl": self._tls, "server_hostname": host} if self._tls else {}
        try:
            async with asyncio.timeout(DEFAULT_CONNECT_TIMEOUT):
                made = await asyncio.get_running_loop().create_connection(_Connection, host, port, **secured)
        except TimeoutError as error:
            raise ConnectTimeout(f"timed out connecting to {host}:{port}") from error
        except OSError as error:
            raise ConnectError(f"failed to connect to {host}:{port}: {error}") from error
        return made[1]


class _Connection(asyncio.Protocol):
    """One connection, with one answer at a time read from it.

    Attributes:
        transport: asyncio's side of it.
        is_open: whether another request can be sent.
    """

    transport: asyncio.Transport
    is_open = False

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self._head: Head | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.is_open = transport, True  # pyright: ignore[reportAttributeAccessIssue]

    async def ask(self, request: bytes, max_body: float) -> Answer:
        self._max_body, self._head, self._decoder, self._parts = max_body, None, None, list[bytes]()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            return self.close()
        try:
            decoder = self._decoder
            if decoder is None:
                head = self._head
                if head is None:
                    if (whole := _whole(data, int(self._max_body * 1_000_000))) is not None:
                        return self._give(whole)
                    head = self._head = Head(self._max_body)
                while data and not head.complete:  # in pieces, for what is long is no head
                    head.feed(data[:_READ])
                    data = data[_READ:]
                if not head.complete:
                    return None
                decoder = self._decoder = head.body_decoder("POST")
                data = head.leftover + data
            self._parts += decoder.feed(data)
            if decoder.complete:
                self._finish(decoder)
        except Exception as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is None:
            return
        if self._decoder is None or exc is not None:
            why = f"read failed: {exc}" if exc else "the server closed the connection before it answered"
            return self._fail(ReadError(why))
        try:
            self._decoder.eof()
            self._finish(self._decoder)
        except Exception as error:
            self._fail(error)

    def give_up(self) -> None:
        """Let the call fail whose answer has not come in time."""
        if self._answer is not None:
            self._fail(TimeoutError())

    def _finish(self, decoder: Any) -> None:
        head = cast("Head", self._head)
        self._give(Answer(head.status, head, b"".join(self._parts)))
        if not head.keep_alive() or decoder.leftover:
            self.close()

    def _give(self, answer: Answer) -> None:
        asked, self._answer = self._answer, None
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        self.close()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def close(self) -> None:
        """Close it; what was not sent yet is not sent any more."""
        self.is_open, self._answer = False, None
        try:
            self.transport.abort()
        except RuntimeError:  # its event loop is gone, so the socket is closed here
            with suppress(Exception):
                getattr(self.transport, "_sock").close()  # noqa: B009 - asyncio's own name for it
                self.transport._sock = None  # pyright: ignore[reportAttributeAccessIssue]


def _close_all(idle: list[_Connection]) -> None:
    while idle:
        idle.pop().close()
