"""Pytest fixtures and context managers that start the test servers, all on loopback, on a free port.

`start_mock` (a factory) and `llama_url` are the fixtures; `mock_thread` and `mock_process` serve whoever is
no pytest test, such as the load benchmark. Nothing here knows what is being tested.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest

from tests.servers.answers import prompt_digest
from tests.servers.llama import llama_server
from tests.servers.openai_mock import MockConfig, MockStats, OpenAIMock, Reply

_REPOSITORY = Path(__file__).resolve().parents[2]
_START_SECONDS, _STOP_SECONDS = 20, 10


@dataclass(frozen=True, slots=True)
class RunningMock:
    """A mock that listens, in whichever thread or process; asks it over HTTP, so that counts are whole.

    Attributes:
        base_url: ends in /v1.
        config: how it behaves.
        pid: its process; this one's if it runs in a thread.
    """

    base_url: str
    config: MockConfig
    pid: int

    @property
    def stats(self) -> MockStats:
        """Counts as they are now."""
        return MockStats.from_json(self._get("/stats"))

    def reset(self) -> None:
        """Forget all counts, start the script over and the clock of the bursts at 0."""
        self._get("/reset")

    def accepts(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the built-in answer to this prompt scores 5 (and not 3)."""
        return self.config.accepts(messages)

    def times_answered(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """How often this prompt got a sound answer, whatever the model's name."""
        digest = prompt_digest(messages)
        return sum(n for key, n in self.stats.answered.items() if key.endswith(f" {digest}"))

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=_STOP_SECONDS)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def mock_thread(config: MockConfig | None = None, *, reply: Reply | None = None) -> Iterator[RunningMock]:
    """Run the mock in a daemon thread with its own event loop.

    Args:
        config: how it behaves; the default accepts 70 % of all prompts at once and commits no fault.
        reply: answers in place of the built-in author; called in the server's thread.

    Raises:
        Exception: at the end, the first one that `reply` raised.
    """
    mock = OpenAIMock(config, reply)
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        await mock.serve(0, lambda url: started.set_result((url, loop, stop)), stop)

    def run() -> None:
        try:
            asyncio.run(serve())
        except OSError as error:  # the address cannot be had: tell the starter instead of letting it wait
            started.set_exception(error)

    thread = threading.Thread(target=run, name="openai-mock", daemon=True)
    thread.start()
    url, loop, stop = started.result(_START_SECONDS)
    try:
        yield RunningMock(url, mock.config, os.getpid())
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_STOP_SECONDS)
    if mock.reply_error is not None:
        raise mock.reply_error


@contextmanager
def mock_process(config: MockConfig | None = None) -> Iterator[RunningMock]:
    """Run the mock as a process of its own, which ends with the context or with this process.

    Raises:
        RuntimeError: it did not start, or did not end by itself with exit code 0.
    """
    config = config or MockConfig()
    command = [sys.executable, "-m", "tests.servers.openai_mock", "--stop-with-stdin"]
    process = subprocess.Popen(
        [*command, "--config", json.dumps(asdict(config))],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:  # closes the pipes and waits
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the mock did not start; exit code {process.wait(_STOP_SECONDS)}")
        try:
            yield RunningMock(**json.loads(line), config=config)
        finally:
            process.terminate()
            try:
                code = process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if code != 0:
            raise RuntimeError(f"the mock ended with exit code {code}")


class StartMock(Protocol):
    """What the `start_mock` fixture is: call it as often as needed, each call is one more server."""

    def __call__(self, config: MockConfig | None = None, *, reply: Reply | None = None) -> RunningMock:
        """Start a mock in a thread; it stops when the test ends."""
        ...


@pytest.fixture
def start_mock() -> Iterator[StartMock]:
    """Start mocks in threads; all stop when the test ends."""
    with ExitStack() as running:

        def start(config: MockConfig | None = None, *, reply: Reply | None = None) -> RunningMock:
            return running.enter_context(mock_thread(config, reply=reply))

        yield start


@pytest.fixture(scope="session")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL, ending in /v1, of a llama.cpp server with a tiny random model, one for the whole session."""
    pytest.importorskip("xllamacpp", reason="llama.cpp server: pip install xllamacpp gguf numpy")
    with llama_server(tmp_path_factory.mktemp("llama")) as base_url:
        yield base_url
