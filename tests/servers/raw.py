"""A server that sends whatever bytes a test wants: no HTTP of its own, one request a connection, loopback only."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[[bytes], Iterable[bytes]]
"""Answers one request, head and body, piece by piece; runs in a thread of its own, and ends when the client leaves."""


@dataclass
class RawServer:
    """A server that listens.

    Attributes:
        base_url: ends in /v1.
        requests: the head and body of each request, as received.
        sent: bytes handed to the network.
    """

    base_url: str
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0


@contextmanager
def raw_server(answer: Answer) -> Iterator[RawServer]:
    """Serve in threads until the block ends."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                request = self._read()
                if not request:
                    return
                running.requests.append(request)
                for piece in answer(request):
                    self.wfile.write(piece)
                    running.sent += len(piece)
            except (ConnectionError, TimeoutError):  # the client has left
                return

        def _read(self) -> bytes:
            head = b"".join(iter(self.rfile.readline, b"\r\n"))
            length = next((v for k, v in _headers(head) if k == b"content-length"), b"0")
            return head + b"\r\n" + self.rfile.read(int(length)) if head else b""

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        running = RawServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join(10)


def header(request: bytes, name: str) -> str:
    """A header of a request, "" if it has none."""
    head = request.partition(b"\r\n\r\n")[0]
    return next((v.decode("latin-1") for k, v in _headers(head) if k == name.lower().encode()), "")


def http(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> list[bytes]:
    """A whole answer; its length is stated unless `headers` say something else about it."""
    stated = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
    if not {"Content-Length", "Transfer-Encoding"} & {*stated}:
        stated["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in stated.items())
    return [f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode(), body]


def _headers(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in head.splitlines()[1:]:
        name, _, value = line.partition(b":")
        yield name.strip().lower(), value.strip()
