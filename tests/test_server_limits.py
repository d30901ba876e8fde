"""What the endpoint takes on and what it gives up: sizes, seconds, places, clients that leave, an orderly stop."""

import asyncio
import json
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest

from spri_dspy.server import app as server_app
from tests.server_parts import (
    JSON,
    POST,
    address_of,
    ask,
    body,
    client_of,
    eventually,
    leaving,
    listening,
    program,
    serving,
)
from tests.servers.openai_mock import MockConfig


def test_too_large_and_too_slow_bodies_are_refused(monkeypatch):
    monkeypatch.setattr(server_app, "BODY_SECONDS", 0.2)
    with listening(program(), body_bytes=1000) as (url, _):
        stated = ask(url, messages=[{"role": "user", "content": "x" * 2000}])
        chunked = httpx.post(f"{url}/chat/completions", content=iter([b"x" * 600] * 3), headers=JSON)
        assert [stated.status_code, chunked.status_code] == [413, 413]
        assert stated.json()["error"]["type"] == "invalid_request_error"
        with socket.create_connection(address_of(url)) as slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_request_out_of_time_ends_with_its_call(start_mock):
    mock = start_mock(MockConfig(script=["ok", "hang", "ok", "hang"]))
    with listening(program(mock), seconds=0.5) as (url, service):
        found = ask(url)
        assert (found.status_code, found.json()["error"]["code"]) == (504, "timeout")
        assert '"code":"timeout"' in ask(url, stream=True).text
        eventually(lambda: mock.stats.in_flight == 0)
        assert mock.stats.received == 4
        assert service.in_flight == service.waiting == 0


def test_a_full_queue_says_when_to_come_again(start_mock):
    mock = start_mock(MockConfig(script=["hang"] * 9))
    with listening(program(mock), concurrency=1, queue=1) as (url, service):
        with leaving(url) as first, leaving(url) as second:
            eventually(lambda: (service.in_flight, service.waiting) == (1, 1))
            found = ask(url)
            assert found.status_code == 429
            assert 1 <= int(found.headers["retry-after"]) <= 60
            assert found.json()["error"]["code"] == "rate_limit_exceeded"
            with client_of(url) as client, pytest.raises(openai.RateLimitError):
                client.chat.completions.create(**body(), stream=True)
            assert first.fileno() != second.fileno()
        eventually(lambda: (service.in_flight, service.waiting) == (0, 0))
        assert mock.stats.received == 1


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_end_their_calls_and_give_their_places_back(start_mock, stream):
    mock = start_mock(MockConfig(script=["hang"] * 4))
    with listening(program(mock), concurrency=4, queue=8) as (url, service):
        served = [leaving(url, stream) for _ in range(4)]
        eventually(lambda: mock.stats.in_flight == 4)
        waiting = [leaving(url, stream) for _ in range(6)]
        eventually(lambda: service.waiting == 6)
        for client in waiting:  # first: else they are given the places of those who leave
            client.close()
        eventually(lambda: service.waiting == 0)
        for client in served:
            client.close()
        eventually(lambda: mock.stats.in_flight == 0 and service.in_flight == 0)
        assert (mock.stats.received, mock.stats.abandoned) == (4, 4)
        eventually(lambda: 'status="499"} 10' in service.meter.text(0, 0))
        assert ask(url).status_code == 200


async def test_two_hundred_clients_at_once(start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.02, accept=1))
    with listening(program(mock), concurrency=200) as (url, service):
        async with client_of(url, "AsyncOpenAI", timeout=120) as client:
            found = await asyncio.gather(
                *(client.chat.completions.create(**body(f"{POST} ({number})")) for number in range(200))
            )
        assert len({each.choices[0].message.content for each in found}) == 200
        assert mock.stats.received == mock.stats.finished == 800
        assert sum(each.usage.prompt_tokens for each in found) == mock.stats.input_tokens
        assert service.in_flight == service.waiting == 0


def test_stopping_finishes_what_is_open_and_refuses_what_is_new(start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.4, accept=1))
    with serving("--lm", f"base=hosted_vllm/m?api_base={mock.base_url}") as (process, url):
        with leaving(url) as open_one:
            eventually(lambda: mock.stats.in_flight == 1)
            process.terminate()
            eventually(lambda: httpx.get(f"{url.removesuffix('/v1')}/health").status_code == 503)
            refused = ask(url)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
            assert refused.headers["retry-after"] == "5"
            assert open_one.recv(100_000).startswith(b"HTTP/1.1 200")
        assert process.wait(10) == 0
        assert "no requests were given up" in process.stderr.read()
    assert mock.stats.received == 4


def test_stopping_ends_in_time_with_an_answer_to_everybody(start_mock):
    mock = start_mock(MockConfig(script=["hang"] * 9))
    with serving("--lm", f"base=hosted_vllm/m?api_base={mock.base_url}", "--drain", "0.3") as (process, url):
        with leaving(url) as whole, leaving(url, stream=True) as stream:
            eventually(lambda: mock.stats.in_flight == 2)
            process.terminate()
            assert whole.recv(100_000).startswith(b"HTTP/1.1 503")
            told = b""
            while part := stream.recv(100_000):
                told += part
            assert b'"code":"stopping"' in told
        assert process.wait(10) == 0
        assert "2 requests were given up" in process.stderr.read()


def test_a_second_signal_stops_at_once(start_mock):
    mock = start_mock(MockConfig(script=["hang"] * 9))
    with serving("--lm", f"base=hosted_vllm/m?api_base={mock.base_url}", "--drain", "60") as (process, url):
        with leaving(url):
            eventually(lambda: mock.stats.in_flight == 1)
            process.terminate()
            eventually(lambda: httpx.get(f"{url.removesuffix('/v1')}/health").status_code == 503)
            began = time.monotonic()
            process.terminate()
            process.wait(10)
        assert time.monotonic() - began < 10
        eventually(lambda: mock.stats.in_flight == 0)


@pytest.mark.slow
def test_the_benchmark_finds_no_error_and_no_call_left_behind():
    few = ["--clients", "8", "--requests", "1", "--latency", "0.05", "--repeats", "1", "--leaving", "6"]
    command = [sys.executable, "-m", "benchmarks", "serve", "--json", *few]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == found["streams"]["failed"] == 0
    left = found["leaving"]
    assert left["counted_as_left"] == 6
    assert left["calls_begun"] == left["calls_answered"] + left["calls_cancelled"] >= 6
    assert left["calls_in_flight"] == left["calls_begun_afterwards"] == left["places_taken"] == 0
