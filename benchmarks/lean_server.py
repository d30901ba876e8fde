"""The load server at a quarter of its price: the same draws and counts, answers put together beforehand, no faults.

Where several engine processes are measured on few cores, the server's own CPU time is part of the result; this one
takes little of it and says how much. `python -m benchmarks.lean_server CONFIG_JSON` prints its port and serves until
its standard input closes, as `benchmarks.load_server` does.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

from benchmarks.load_server import Load, Tally, answer_of, answer_text, asked_of

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


_EXAMPLE, _STEP = 1_000_000, 100  # added to the numbers in an answer, so that every one is as long


class LeanServer(Tally):
    """Answers, and counts them."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._answers: dict[tuple[int, tuple[str, ...]], list[bytes]] = {}

    def take(self, body: bytes, transport: asyncio.Transport) -> None:
        """Answer one call when its time has come."""
        self.received += 1
        example, step, seconds, score = self.begin(body)
        form = score, asked_of(body)
        if form not in self._answers:
            self._answers[form] = _http(answer_of(answer_text(_EXAMPLE, _STEP, *form))).split(_case(0, 0))
        answer = _case(example, step).join(self._answers[form])
        asyncio.get_running_loop().call_later(seconds, self._answer, transport, answer)

    def _answer(self, transport: asyncio.Transport, answer: bytes) -> None:
        self.in_flight -= 1
        if not transport.is_closing():
            self.answered += 1
            transport.write(answer)


def _case(example: int, step: int) -> bytes:
    return b"step %d of case %d" % (_STEP + step, _EXAMPLE + example)


class _Connection(asyncio.Protocol):
    """One connection of HTTP/1.1, one request after the other."""

    def __init__(self, server: LeanServer) -> None:
        self._server, self._read = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n") + 4) > 3:
            found = _LENGTH.search(self._read, 0, end)
            length = int(found[1]) if found else 0
            if len(self._read) < end + length:
                return
            head, body = self._read[:end], self._read[end : end + length]
            self._read = self._read[end + length :]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path.startswith("/stats"):
            slots = int(path.rpartition("slots=")[2] or 64)
            self._transport.write(_http(json.dumps(self._server.stats(slots)).encode()))
        elif path.startswith("/reset"):
            self._server.reset()
            self._transport.write(_http(b"{}"))
        else:
            self._server.take(body, self._transport)


def _http(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(load: Load) -> None:
    """Serve until standard input closes."""
    server = LeanServer(load)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{listening.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    listening.close()


if __name__ == "__main__":
    asyncio.run(serve(Load(**json.loads(sys.argv[1]))))
