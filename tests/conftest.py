"""Shared set-up: servers as fixtures, no keys in the environment, and no network beyond this machine."""

import asyncio
import signal
import socket

import pytest

from spri_dspy.lms.spec import KEY_NAMES

pytest_plugins = ["tests.servers.fixtures"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts `pytest &` so, and Ctrl-C is tested
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in KEY_NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    """A name that is not this machine's is not even looked up."""
    if request.node.get_closest_marker("live"):
        return
    look_up = socket.getaddrinfo

    def guarded(host, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.startswith(_LOOPBACK):
            raise AssertionError(f"a test tried to reach {name}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)


@pytest.fixture
def loop_for_litellm():
    """LiteLLM makes an event loop when it is called without one, and never closes it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def endpoint(start_mock):
    """An endpoint of a mock: its address, its service, and the mock."""
    from tests.server_parts import listening, program

    mock = start_mock()
    with listening(program(mock)) as (url, service):
        yield url, service, mock
