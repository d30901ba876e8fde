"""Listening on an address until told to stop, and stopping in good order. It knows uvicorn and nothing else of HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.server.app import is_loopback
from spri_dspy.server.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI  # pyright: ignore[reportMissingImports] - the extra [serve]


def serve(app: FastAPI, host: str, port: int, *, ready: Callable[[str], None] | None = None) -> int:
    """Listen until SIGTERM or Ctrl-C, then let what is in flight end; a second signal ends it at once.

    Args:
        app: from `create_app`.
        host: an address or name of this machine.
        port: 0 lets the system choose.
        ready: gets the address once connections are taken.

    Returns:
        How many requests were given up at the end.

    Raises:
        UsageError: the host is not loopback and the application wants no token.
        PrerequisiteError: uvicorn is missing, or the address cannot be had.
    """
    if app.state.token is None and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from elsewhere: name a token, --token-env NAME, or use 127.0.0.1"
        )
    try:
        import uvicorn  # pyright: ignore[reportMissingImports] - the extra [serve]
    except ImportError:
        raise PrerequisiteError('an endpoint needs uvicorn: pip install "spri-dspy[serve]"') from None
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # asyncio does so by itself only where a socket was made with its protocol's number; without it, what is sent
        # in two parts, as every answer is, waits 40 ms for the client's acknowledgement of the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        raise PrerequisiteError(f"cannot listen on {host}, port {port}: {error}") from None
    shown = f"[{host}]" if ":" in host else host
    service: Service = app.state.service
    given_up = 0

    class Server(uvicorn.Server):
        """Goes on listening while it drains, so that new requests are told why they are refused."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.loop = asyncio.get_running_loop()
            if ready:
                ready(f"http://{shown}:{listener.getsockname()[1]}")

        def handle_exit(self, sig: int, frame: Any) -> None:
            if service.is_stopping:
                self.should_exit = self.force_exit = True
            else:
                service.is_stopping = True
                self.loop.call_soon_threadsafe(
                    lambda: setattr(self, "draining", self.loop.create_task(self.drain()))
                )

        async def drain(self) -> None:
            nonlocal given_up
            given_up = await service.drain()
            self.should_exit = True

    # Idle connections are the client's to close: it may be sending on one that the server closes.
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        lifespan="off", ws="none", timeout_keep_alive=75, timeout_graceful_shutdown=5,
    )  # fmt: skip
    with listener:
        run_to_end(Server(config).serve([listener]))
    return given_up
