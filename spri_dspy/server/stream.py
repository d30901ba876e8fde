"""An answer as server-sent events, as OpenAI's clients read them.

It knows chunks and comments; it knows no program and no LM.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from spri_dspy.server.wire import Refusal, Reply, Tokens, raw_headers
from spri_dspy.strict_json import to_text

SECONDS_BETWEEN_SIGNS = 10.0
"""A stream that waits for an LM says so this often, or proxies take it for dead."""

PIECE = 24
"""Characters of one piece of a streamed text, about."""


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
    _is_introduced: bool = False
    _writes: str | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Send the head, and signs of life until the answer is there."""
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            **self.headers,
        }
        await self.send({"type": "http.response.start", "status": 200, "headers": raw_headers(headers)})
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
        self._writes = None
        await self._write(f": {stage}\n\n")
        if self.tell_progress:
            await self._write(self._chunk(choices=[], spri={"stage": stage, "role": role}))

    async def draft(self, stage: str, piece: str) -> None:
        """Send more of a candidate, under its stage's name, where clients show what a model thinks."""
        if self._writes != stage:
            gap = "" if not self._is_introduced else "\n\n"
            self._writes, piece = stage, f"{gap}**{stage}**\n\n{piece}"
        await self._deliver({"reasoning_content": piece}, spri={"stage": stage})

    async def finish(self, text: str, tokens: Tokens, details: dict[str, Any] | None) -> None:
        """Send the text in pieces, then why it ended, and the tokens where they were asked for."""
        for piece in pieces(text):
            await self._deliver({"content": piece})
        await self._deliver({}, "stop", **({"spri": details} if details else {}))
        if self.include_usage:
            await self._write(self._chunk(choices=[], usage=tokens.model_dump()))
        await self._write("data: [DONE]\n\n", more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error instead; once the head is gone, as an event, as OpenAI does."""
        if not self.has_begun:
            return await super().refuse(refusal)
        await self._write(f"data: {refusal.body.decode()}\n\n", more=False)

    async def _deliver(self, delta: dict[str, Any], finish_reason: str | None = None, **parts: Any) -> None:
        """Send a chunk of the answer; the first one says who speaks."""
        if self.include_usage:
            parts["usage"] = None
        if not self._is_introduced:
            self._is_introduced = True
            await self._deliver({"role": "assistant", "content": ""})
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        await self._write(self._chunk(choices=[choice], **parts))

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
