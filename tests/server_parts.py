"""Endpoints to test: an application that listens in a thread, and `spri serve` as a process of its own."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

import spri_dspy as spri
from spri_dspy.event_loop import run_to_end
from spri_dspy.server import Limits, create_app
from tests.command import MAIN

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="the endpoint and its clients: make test-serve")

POST = "I failed my exam and feel like a fraud."
MODEL = "spri/reappraisal"


def program(mock=None, **lm_options):
    """SPRI on posts, asking a mock, or the offline stand-in."""
    options = "".join(f"&{name}={value}" for name, value in lm_options.items())
    base = "offline" if mock is None else f"hosted_vllm/m?api_base={mock.base_url}{options}"
    return spri.SPRI(spri.load_task("reappraisal")).set_lms(base=base)


@contextmanager
def listening(made, token=None, origins=(), drafts=False, **limits):
    """An application that listens on a free port of loopback: its address, ending in /v1, and its service."""
    import uvicorn

    app = create_app(made, limits=Limits(**limits), token=token, origins=origins, drafts=drafts)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    thread = threading.Thread(target=lambda: run_to_end(server.serve([listener])), daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", app.state.service
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def serving(*arguments):
    """`spri serve reappraisal` as a process: it and its address, ending in /v1."""
    command = [sys.executable, "-c", MAIN, "serve", "reappraisal", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            while not (found := re.search(r"http://\S+/v1", said)):
                line = process.stderr.readline()
                assert line, said
                said += line
            yield process, found[0]
        finally:
            process.kill()


def eventually(is_so, seconds=10):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to be so"
        time.sleep(0.01)


def body(text=POST, **more):
    """The body of a request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


JSON = {"content-type": "application/json"}


def client_of(url, kind="OpenAI", **options):
    """A client of the package openai, by its class."""
    import openai

    return getattr(openai, kind)(base_url=url, api_key="none", **{"max_retries": 0, "timeout": 30, **options})


def ask(url, **more):
    """The answer to one request, over plain HTTP."""
    return httpx.post(f"{url}/chat/completions", json=body(**more), timeout=30)


def leaving(url, stream=False):
    """A client that sends a request and leaves with the block."""
    content = json.dumps(body(stream=stream)).encode()
    connection = socket.create_connection(address_of(url))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    return connection


def address_of(url):
    """Host and port of an address."""
    parts = httpx.URL(url)
    return parts.host, parts.port
