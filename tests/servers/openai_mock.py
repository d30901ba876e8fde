"""A mock of the OpenAI chat completions API on loopback: known answers, planned faults, exact counts.

`python -m tests.servers.openai_mock --port 0 --config JSON` prints its address as one JSON line and serves
until SIGTERM; `fixtures` starts it in a thread or a process for tests. GET /stats and GET /reset stand beside
POST /v1/chat/completions. Every draw (acceptance, fault by rate, latency) depends only on the seed, the
prompt and how often it was asked before, never on the order of arrival: one seed, one history.

It does not know models, streaming, tools, logprobs or real token counts (a token is four characters here).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from aiohttp import web

from tests.servers.answers import Author, prompt_digest, uniform

Fault = Literal[
    "rate_limit",  # 429 with Retry-After, at once
    "unauthorized",  # 401, at once
    "no_model",  # 404, at once
    "server_error",  # 500
    "cut_before_headers",  # the connection is reset before anything was sent
    "cut_mid_body",  # headers and half of the body, then the connection is closed
    "hang",  # no answer until the client leaves
    "truncated_json",
    "empty_body",
    "bad_bytes",  # a body that is not UTF-8
    "no_choices",  # {"choices": []}
    "no_message",  # a choice without "message"
    "null_content",
    "unreadable",  # a sound completion whose text ignores the format that was asked for
]
"""What can go wrong with one request, on purpose."""

Reply = Callable[[list[dict[str, Any]], dict[str, Any]], str]
"""Answers one request from its messages and its whole body; runs in the server's thread, so be quick."""

_ERRORS: dict[str, tuple[int, str, str]] = {
    "rate_limit": (429, "rate_limit_exceeded", "Rate limit reached."),
    "unauthorized": (401, "invalid_api_key", "Incorrect API key provided."),
    "no_model": (404, "model_not_found", "The model does not exist."),
    "server_error": (500, "server_error", "The server had an error."),
    "bad_request": (400, "invalid_request_error", "This mock cannot answer that request."),
}
_IMMEDIATE = ("rate_limit", "unauthorized", "no_model", "bad_request")


@dataclass(frozen=True, slots=True, kw_only=True)
class MockConfig:
    """How the mock behaves; plain JSON in and out.

    Attributes:
        seed: of every draw.
        accept: share of prompts, in [0, 1], whose `score` is 5; the others get 3.
        text_words: length of every free-text field of an answer, about, in words.
        latency_seconds: mean of the lognormal latency; 0 answers at once.
        latency_sigma: standard deviation of the latency's logarithm; 0 makes it constant.
        script: faults (or "ok") of the first requests in order of arrival; after them `rates` hold.
        rates: probability of each fault, together at most 1; a prompt asked again is drawn again.
        bursts: windows (from, to) in seconds since the start or the last reset in which all get 429.
        retry_after_seconds: the Retry-After header of a 429; None sends none.
        api_key: the only key that is not answered with 401; None takes any.
        models: the only models that are not answered with 404; empty takes any.
    """

    seed: int = 0
    accept: float = 0.7
    text_words: int = 30
    latency_seconds: float = 0.0
    latency_sigma: float = 0.0
    script: Sequence[Fault | Literal["ok"]] = ()
    rates: Mapping[Fault, float] = field(default_factory=dict)
    bursts: Sequence[Sequence[float]] = ()
    retry_after_seconds: float | None = 1
    api_key: str | None = None
    models: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = get_args(Fault)
        unknown = {*self.script, *self.rates} - {*known, "ok"}
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(known)}")
        if sum(self.rates.values()) > 1:
            raise ValueError(f"rates {dict(self.rates)!r} add up to more than 1")

    def accepts(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the built-in answer to this prompt scores 5 (and not 3)."""
        return uniform(self.seed, "accept", prompt_digest(messages)) < self.accept

    def latency(self, key: str) -> float:
        """Seconds until the answer to one request; depends only on the settings and `key`."""
        if self.latency_seconds <= 0:
            return 0.0
        z = statistics.NormalDist().inv_cdf(uniform(self.seed, "latency", key))
        location = math.log(self.latency_seconds) - self.latency_sigma**2 / 2  # so that the mean is the mean
        return math.exp(location + self.latency_sigma * z)


@dataclass(slots=True)
class MockStats:
    """What the mock saw; received = finished + abandoned + cut faults + in_flight.

    Attributes:
        received: chat requests, whatever became of them.
        finished: answers fully handed to the network, errors included.
        abandoned: requests whose client was gone before the answer, `hang` included.
        in_flight: requests being answered now.
        max_in_flight: the most of them at any time.
        input_tokens, output_tokens: sums of the usage of the answers in `answered`.
        faults: how often each fault was drawn; "bad_request" counts requests the mock cannot read.
        answered: by "model digest" (see `prompt_digest`), how often it got a sound answer.
    """

    received: int = 0
    finished: int = 0
    abandoned: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    @property
    def n_answered(self) -> int:
        """Sound answers in all."""
        return self.answered.total()

    def to_json(self) -> dict[str, Any]:
        """What GET /stats answers."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MockStats:
        """Read what `to_json` wrote."""
        counters: dict[str, Any] = {name: Counter(value[name]) for name in ("faults", "answered")}
        return cls(**value | counters)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One readable request: its body, and what the draws depend on."""

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    digest: str
    attempt: int

    @property
    def prompt_key(self) -> str:
        return f"{self.body['model']} {self.digest}"

    @property
    def draw_key(self) -> str:
        return f"{self.prompt_key} {self.attempt}"


class OpenAIMock:
    """The server itself; one event loop only.

    Attributes:
        stats: counts since the start or the last reset.
        reply_error: the first exception of the `reply` function, None if none; its request got a 500.
    """

    def __init__(self, config: MockConfig | None = None, reply: Reply | None = None) -> None:
        self.config = config or MockConfig()
        self.stats = MockStats()
        self.reply_error: Exception | None = None
        self._reply = reply
        self._asked: Counter[str] = Counter()
        self._began = 0.0

    async def serve(self, port: int, ready: Callable[[str], None], stop: asyncio.Event) -> None:
        """Listen on 127.0.0.1 until `stop` is set; `ready` gets the base URL, ending in /v1."""
        self.reset()
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
            ready(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
            await stop.wait()
        finally:
            await runner.cleanup()

    def reset(self) -> None:
        """Forget all counts, start the script over and the clock of the bursts at 0."""
        self.stats = MockStats()
        self._asked.clear()
        self._began = asyncio.get_running_loop().time()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                return await self._count(request)
            case "GET", "/stats":
                return web.json_response(self.stats.to_json())
            case "GET", "/reset":
                self.reset()
                return web.json_response({})
        return web.json_response({"error": {"message": f"nothing at {request.path}"}}, status=404)

    async def _count(self, request: web.BaseRequest) -> web.StreamResponse:
        stats = self.stats  # after a reset, a request in flight still counts where it was received
        stats.received += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        try:
            return await self._answer(request, stats, stats.received)
        except (ConnectionError, asyncio.CancelledError):  # aiohttp cancels us when the client leaves
            stats.abandoned += 1
            raise
        finally:
            stats.in_flight -= 1

    async def _answer(self, request: web.BaseRequest, stats: MockStats, arrival: int) -> web.StreamResponse:
        ask = self._read(await request.read())
        fault = "bad_request" if ask is None else self._fault(request, ask, arrival)
        if fault:
            stats.faults[fault] += 1
        if ask is None or fault in _IMMEDIATE:
            return await _send(request, stats, self._error(fault or ""))
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        if self.config.latency_seconds > 0:
            await asyncio.sleep(self.config.latency(ask.draw_key))
        if fault in _ERRORS:
            return await _send(request, stats, self._error(fault or ""))
        try:
            completion = self._complete(ask, arrival, readable=fault != "unreadable")
        except Exception as error:  # whoever started the server raises it: a reply may hold a test's asserts
            self.reply_error = self.reply_error or error
            return await _send(request, stats, self._error("server_error"))
        body = _damage(completion, fault)
        if fault in ("cut_before_headers", "cut_mid_body"):
            return _cut(request, body if fault == "cut_mid_body" else b"")
        sent = await _send(request, stats, web.Response(body=body, content_type="application/json"))
        if fault is None:
            stats.answered[ask.prompt_key] += 1
            stats.input_tokens += completion["usage"]["prompt_tokens"]
            stats.output_tokens += completion["usage"]["completion_tokens"]
        return sent

    def _read(self, raw: bytes) -> _Ask | None:
        """The request, counted as asked; None if it is not one this mock can answer."""
        try:
            body = json.loads(raw)
            messages = body["messages"]
            key = f"{body['model']} {(digest := prompt_digest(messages))}"
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        if body.get("stream"):
            return None
        self._asked[key] += 1
        return _Ask(body, messages, digest, self._asked[key] - 1)

    def _fault(self, request: web.BaseRequest, ask: _Ask, arrival: int) -> Fault | None:
        config = self.config
        if config.api_key is not None and request.headers.get("Authorization") != f"Bearer {config.api_key}":
            return "unauthorized"
        if config.models and ask.body["model"] not in config.models:
            return "no_model"
        seconds = asyncio.get_running_loop().time() - self._began
        if any(start <= seconds < end for start, end in config.bursts):
            return "rate_limit"
        if arrival <= len(config.script):
            step = config.script[arrival - 1]
            return None if step == "ok" else step
        draw = uniform(config.seed, "fault", ask.draw_key) if config.rates else 1.0
        for fault, rate in config.rates.items():
            draw -= rate
            if draw < 0:
                return fault
        return None

    def _complete(self, ask: _Ask, arrival: int, *, readable: bool) -> dict[str, Any]:
        config, body = self.config, ask.body
        score = 5 if uniform(config.seed, "accept", ask.digest) < config.accept else 3
        reply = self._reply or Author(ask.digest, score, config.text_words).answer
        text = reply(ask.messages, body) if readable else f"Nothing of what was asked for. {ask.digest[:12]}"
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        finish = "stop"
        if limit and _n_tokens(text) > limit:
            text, finish = text[: limit * 4], "length"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        n_in = sum(_n_tokens(str(message.get("content"))) for message in ask.messages)
        n_choices = body.get("n") or 1
        n_out = _n_tokens(text) * n_choices
        return {
            "id": f"chatcmpl-{arrival}",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": index, **choice} for index in range(n_choices)],
            "usage": {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out},
        }

    def _error(self, kind: str) -> web.Response:
        status, code, message = _ERRORS[kind]
        wait = self.config.retry_after_seconds
        headers = {"Retry-After": f"{wait:g}"} if kind == "rate_limit" and wait is not None else None
        body = {"error": {"type": code, "code": code, "message": message}}
        return web.json_response(body, status=status, headers=headers)


def _n_tokens(text: str) -> int:
    return (len(text) + 3) // 4


def _damage(completion: dict[str, Any], fault: str | None) -> bytes:
    """The body to send: the completion as it is, or spoiled the way the fault says."""
    choice = completion["choices"][0]
    match fault:
        case "empty_body":
            return b""
        case "no_choices":
            completion = {"choices": []}
        case "no_message":
            completion = completion | {"choices": [{"index": 0, "finish_reason": "stop"}]}
        case "null_content":
            choice = choice | {"message": {"role": "assistant", "content": None}}
            completion = completion | {"choices": [choice]}
    body = json.dumps(completion).encode()
    if fault == "truncated_json":
        return body[: len(body) // 2]
    if fault == "bad_bytes":
        return body.replace(b'"content": "', b'"content": "\xff\xfe', 1)
    return body


async def _send(request: web.BaseRequest, stats: MockStats, response: web.Response) -> web.Response:
    await response.prepare(request)
    await response.write_eof()
    stats.finished += 1
    return response


def _cut(request: web.BaseRequest, body: bytes) -> web.Response:
    """Send half of `body` under headers that promise all of it, or nothing if it is empty, and hang up."""
    if request.transport is None:
        raise ConnectionResetError("the client left first")
    if body:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        request.transport.write(head.encode() + body[: len(body) // 2])
        request.transport.close()
    else:
        request.transport.abort()
    return web.Response()  # aiohttp wants one; there is nobody left to get it


async def _serve_process(config: MockConfig, port: int, *, watch_stdin: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if watch_stdin:  # readable at end of file: whoever started us is gone, even if it was killed
        loop.add_reader(sys.stdin.fileno(), stop.set)
    say = lambda url: print(json.dumps({"base_url": url, "pid": os.getpid()}), flush=True)  # noqa: E731
    await OpenAIMock(config).serve(port, say, stop)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then exit 0."""
    parser = argparse.ArgumentParser(description="Mock of the OpenAI chat completions API.")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument("--config", type=json.loads, default={}, help="MockConfig as a JSON object")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop at the end of standard input")
    options = parser.parse_args(arguments)
    config = MockConfig(**options.config)
    asyncio.run(_serve_process(config, options.port, watch_stdin=options.stop_with_stdin))


if __name__ == "__main__":
    main()
