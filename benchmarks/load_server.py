"""The server of the load benchmark: an OpenAI chat endpoint on loopback whose every answer is known beforehand.

Which call of which example is being answered decides how long it takes and whether the critic accepts, so every
contestant faces the same work, and what the best possible schedule takes can be computed. `python -m
benchmarks.load_server CONFIG_JSON` prints its port and serves until its standard input closes. It counts what it
answered; it knows nothing of who asks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

_MARK = re.compile(rb"#(\d+)#")
_ASKED = re.compile(rb"\[\[ ## (\w+) ## \]\]`")
_FIELDS = ("principles", "improved_principles", "response", "improved_response", "feedback", "score")
_USAGE = {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460}

PIECES = 20
"""Pieces that a streamed answer comes in."""


@dataclass
class Load:
    """How the server behaves.

    Attributes:
        latency: mean seconds of an answer, lognormal.
        sigma: spread of the latency's logarithm.
        accept: probability that a critic's score is 5; it is 3 otherwise.
        error_rate, cut_rate, garbage_rate: shares of calls that get a 500, a cut connection, a senseless body.
        refuse_rate: share of calls that get a 429 at random.
        bursts: (from, to) seconds since the last reset in which every call gets a 429.
        retry_after: seconds in the 429's header.
    """

    seed: int = 0
    latency: float = 0.2
    sigma: float = 0.5
    accept: float = 0.72
    error_rate: float = 0.0
    cut_rate: float = 0.0
    garbage_rate: float = 0.0
    refuse_rate: float = 0.0
    bursts: list[list[float]] = field(default_factory=list)
    retry_after: float = 1.0

    def draw(self, example: int, step: int) -> tuple[float, int]:
        """Seconds and score of one call of one example."""
        rng = random.Random(f"{self.seed} {example} {step}")
        location = -(self.sigma**2) / 2
        seconds = (
            self.latency * (2.718281828459045 ** rng.gauss(location, self.sigma)) if self.latency else 0.0
        )
        return seconds, 5 if rng.random() < self.accept else 3


class Tally:
    """What a server of this load was asked and answered."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.steps: defaultdict[int, int] = defaultdict(int)
        self.chains: defaultdict[int, float] = defaultdict(float)
        self.received = self.answered = self.cancelled = self.in_flight = self.most_in_flight = 0
        self.cpu, self.first, self.last = time.process_time(), 0.0, 0.0

    def begin(self, body: bytes) -> tuple[int, int, float, int]:
        """Count a call that is to be answered: its example, which call of that it is, its seconds and its score."""
        self.last = time.monotonic()
        self.first = self.first or self.last
        marks = _MARK.findall(body)
        example = int(marks[-1]) if marks else 0
        step = self.steps[example]
        self.steps[example] = step + 1
        seconds, score = self.load.draw(example, step)
        self.chains[example] += seconds
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return example, step, seconds, score

    def stats(self, slots: int) -> dict[str, Any]:
        """What was answered, and the shortest possible makespan for it with so many slots."""
        total, longest = sum(self.chains.values()), max(self.chains.values(), default=0.0)
        return {
            "received": self.received,
            "answered": self.answered,
            "cancelled": self.cancelled,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "cpu_seconds": time.process_time() - self.cpu,
            "asked_seconds": self.last - self.first,
            "lower_bound_seconds": max(total / slots, longest),
        }


class Server(Tally):
    """Answers, and counts them."""

    def reset(self) -> None:
        """Forget everything and start the clock of the bursts."""
        super().reset()
        self.began = asyncio.get_running_loop().time()
        self.faults, self.refusals = random.Random(self.load.seed), random.Random(self.load.seed)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """One chat completion, or one fault."""
        body = await request.read()
        self.received += 1
        now = asyncio.get_running_loop().time() - self.began
        is_burst = any(begin <= now < end for begin, end in self.load.bursts)
        if is_burst or self.refusals.random() < self.load.refuse_rate:
            headers = {"Retry-After": str(self.load.retry_after)}
            return web.json_response(
                {"error": {"message": "too many", "type": "rate_limit"}}, status=429, headers=headers
            )
        fault = self._fault()
        if fault is not None:
            return await self._commit(fault, request)
        example, step, seconds, score = self.begin(body)
        try:
            text = answer_text(example, step, score, asked_of(body))
            if b'"stream":true' in body.replace(b" ", b""):
                return await self._stream(request, text, seconds)
            await asyncio.sleep(seconds)
        except (asyncio.CancelledError, ConnectionError):  # the client left
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        self.answered += 1
        return web.Response(body=answer_of(text), content_type="application/json")

    async def _stream(self, request: web.Request, text: str, seconds: float) -> web.StreamResponse:
        """The same answer in PIECES over the same time."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        size = -(-len(text) // PIECES)
        about = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
        choices = [{"index": 0, "delta": {"content": text[n : n + size]}} for n in range(0, len(text), size)]
        for choice in (*choices, {"index": 0, "delta": {}, "finish_reason": "stop"}):
            await response.write(f"data: {json.dumps({**about, 'choices': [choice]})}\n\n".encode())
            await asyncio.sleep(seconds / (len(choices) + 1))
        end = json.dumps({**about, "choices": [], "usage": _USAGE})
        await response.write(f"data: {end}\n\ndata: [DONE]\n\n".encode())
        self.answered += 1
        return response

    def _fault(self) -> str | None:
        draw = self.faults.random()
        for name in ("error", "cut", "garbage"):
            draw -= getattr(self.load, f"{name}_rate")
            if draw < 0:
                return name
        return None

    async def _commit(self, fault: str, request: web.Request) -> web.StreamResponse:
        if fault == "cut" and request.transport is not None:
            request.transport.close()
        if fault == "error":
            return web.json_response({"error": {"message": "broken", "type": "server_error"}}, status=500)
        return web.Response(body=b"\xff{not json", content_type="application/json")


def asked_of(body: bytes) -> tuple[str, ...]:
    """The fields that DSPy's chat prompt asks for at its end; all of them where it asks for none."""
    found = [name.decode() for name in _ASKED.findall(body, max(0, len(body) - 600))]
    return tuple(dict.fromkeys(name for name in found if name in _FIELDS)) or _FIELDS


def answer_text(example: int, step: int, score: int, asked: tuple[str, ...] = _FIELDS) -> str:
    """What a call of an example is answered: a section a field."""
    said = {"feedback": "Tie it closer to the case.", "score": str(score)}
    usual = f"Name what happened, then step {step} of case {example}."
    sections = [f"[[ ## {name} ## ]]\n{said.get(name, usual)}" for name in asked]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def answer_of(text: str) -> bytes:
    """A completion's body."""
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": "m", "choices": [message], "usage": _USAGE}
    ).encode()


async def serve(load: Load) -> None:
    """Serve until standard input closes."""
    server = Server(load)

    async def stats(request: web.Request) -> web.Response:
        return web.json_response(server.stats(int(request.query.get("slots", "64"))))

    async def reset(_: web.Request) -> web.Response:
        server.reset()
        return web.json_response({})

    logging.getLogger("aiohttp.server").setLevel(
        logging.CRITICAL
    )  # contestants that end leave connections behind
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/stats", stats)
    app.router.add_get("/reset", reset)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    port = runner.addresses[0][1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Load(**json.loads(sys.argv[1]))))
