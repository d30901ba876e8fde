"""An LM server on loopback that writes its answers slowly, piece by piece, to those who ask for a stream.

It counts streams that were begun, ended, and given up because the client left. It knows no fault; see `openai_mock`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.servers.answers import Author, prompt_digest

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class SlowWriter:
    """What the server does, and what it saw.

    Attributes:
        scores: of the critiques, in order; the last one holds on.
        seconds: between two pieces of six characters.
        words: of an answer's texts.
        streamed: whether each request asked for a stream.
        begun, ended, left: streamed answers.
        pieces: sent in all.
        breaks: streamed answers, from the first, that break off in their middle.
        answers: every text, in order.
    """

    scores: list[int] = field(default_factory=lambda: [4])
    seconds: float = 0.01
    words: int = 30
    streamed: list[bool] = field(default_factory=list)
    begun: int = 0
    ended: int = 0
    left: int = 0
    pieces: int = 0
    breaks: int = 0
    answers: list[str] = field(default_factory=list)
    base_url: str = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.json()
        text = self._text(body)
        self.answers.append(text)
        self.streamed.append(bool(body.get("stream")))
        about = {"id": "r", "model": "m", "created": 1}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            whole = {**about, "object": "chat.completion", "choices": [choice], "usage": USAGE}
            return web.json_response(whole)
        self.begun += 1
        try:
            return await self._stream(request, body, text, {**about, "object": "chat.completion.chunk"})
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise

    def _text(self, body: dict) -> str:
        messages = body["messages"]
        is_critique = any(mark in messages[-1]["content"] for mark in ("[[ ## score ## ]]", "`score`"))
        score = self.scores[0] if is_critique else 0
        if is_critique and len(self.scores) > 1:
            self.scores.pop(0)
        return Author(prompt_digest(messages), score, self.words).answer(messages, body)

    async def _stream(self, request, body, text, about) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def event(**parts) -> None:
            await response.write(f"data: {json.dumps({**about, **parts})}\n\n".encode())

        pieces = [text[n : n + 6] for n in range(0, len(text), 6)]
        for number, piece in enumerate(pieces):
            if self.breaks and number == len(pieces) // 2:
                self.breaks -= 1
                request.transport.close()
                return response
            await event(choices=[{"index": 0, "delta": {"content": piece}}])
            self.pieces += 1
            await asyncio.sleep(self.seconds)
        await event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if (body.get("stream_options") or {}).get("include_usage"):
            await event(choices=[], usage=USAGE)
        await response.write(b"data: [DONE]\n\n")
        self.ended += 1
        return response


@contextmanager
def slow_writer(**does) -> Iterator[SlowWriter]:
    """A server in a thread of its own, until the block ends."""
    writer = SlowWriter(**does)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        runner = web.ServerRunner(
            web.Server(writer.answer, handler_cancellation=True, access_log=None), shutdown_timeout=0.2
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
        writer.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop, stop = started.result(20)
    try:
        yield writer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
