"""What the endpoint costs beside its program alone, and what clients that leave cost.

`python -m benchmarks serve [--json]` starts `spri serve` and an LM of fixed latency on loopback, both as processes.
The same number of clients asks the endpoint, then awaits the program itself, in turns: latencies (p50, p95) and their
ratio. Then streams with drafts: when the first token comes. Then clients that leave in the middle: the LM's server
counts calls that were begun, answered and cancelled, and the endpoint's /metrics say whether all places are free again.
Ratios within one run are what counts; the machine may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import dspy
import psutil

import spri_dspy as spri
from benchmarks.load import serving as lm_serving
from spri_dspy.lms.concurrency import Limiter
from spri_dspy.lms.scope import Scope, use_scope

TASK = "reappraisal"
POST = "I failed my exam and feel like a fraud, and my mother has not spoken to me since. #{}#"
CALLS = 4
"""LM calls of a request whose candidates are accepted at once, as all are here."""


@contextmanager
def endpoint(lm: str, clients: int) -> Iterator[tuple[str, int]]:
    """`spri serve` as a process of its own; its address, without /v1, and its id."""
    command = [sys.executable, "-c", "from spri_dspy.cli import main; main()", "serve", TASK, "--port", "0"]
    command += ["--lm", f"base={lm}", "--concurrency", str(clients), "--queue", str(clients)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"(http://\S+)/v1", said)):
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"spri serve did not start: {said}")
            said += line
        try:
            yield found[1], process.pid
        finally:
            process.terminate()
            process.stderr.read()


Ask = Callable[[str], Awaitable[None]]
"""One request for one post; raises if it gets no answer."""


async def load(ask: Ask, pid: int, offset: int, options: argparse.Namespace) -> dict[str, Any]:
    """Each client asks so often, one request after the other; they begin one by one over the time of a request.

    Args:
        ask: makes a request.
        pid: the process whose CPU time is counted.
        offset: the first post's number.
        options: how many clients and requests.

    Returns:
        p50 and p95 in seconds, CPU milliseconds a request, how many were answered and how many failed.
    """
    clients, requests = options.clients, options.requests
    took: list[float] = []
    errors: list[str] = []
    worker = psutil.Process(pid)
    spent = sum(worker.cpu_times()[:2])

    async def client(number: int) -> None:
        await asyncio.sleep(CALLS * options.latency * number / clients)
        for request in range(requests):
            began = time.perf_counter()
            try:
                await ask(POST.format(offset + number * requests + request))
            except Exception as error:  # whatever it was is what is counted here
                errors.append(f"{type(error).__name__}: {error}"[:200])
            else:
                took.append(time.perf_counter() - began)

    await asyncio.gather(*(client(number) for number in range(clients)))
    spent = sum(worker.cpu_times()[:2]) - spent
    cuts = statistics.quantiles(took, n=20) if len(took) > 1 else [float("nan")] * 19
    return {
        "p50": round(cuts[9], 4),
        "p95": round(cuts[18], 4),
        "cpu_ms": round(1000 * spent / (clients * requests), 2),
        "answered": len(took),
        "failed": len(errors),
        "errors": sorted(set(errors))[:3],
    }


class Clients:
    """Clients of the endpoint over plain HTTP, each with a connection of its own.

    Attributes:
        first: seconds until a streamed request had its first token.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, f"{url}/v1/chat/completions"
        self.first: list[float] = []

    async def whole(self, post: str) -> None:
        """A request whose answer comes at once."""
        async with self._session.post(self._url, json=body(post)) as answer:
            found = await answer.json()
            if answer.status != 200 or not found["choices"][0]["message"]["content"]:
                raise RuntimeError(f"{answer.status}: {found}")

    async def streamed(self, post: str) -> None:
        """A request for a stream with drafts."""
        began, is_first, text = time.perf_counter(), True, b""
        async with self._session.post(self._url, json=body(post, stream=True)) as answer:
            async for line in answer.content:
                if is_first and b"reasoning_content" in line:
                    is_first = False
                    self.first.append(time.perf_counter() - began)
                text = line if line.strip() else text
        if answer.status != 200 or text.strip() != b"data: [DONE]":
            raise RuntimeError(f"{answer.status}: {text!r}")

    async def leave(self, post: str, seconds: float, *, stream: bool) -> None:
        """A request whose client leaves after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await (self.streamed(post) if stream else self.whole(post))
        except TimeoutError:
            return
        raise RuntimeError("the answer came before the client left")


def body(post: str, **more: Any) -> dict[str, Any]:
    """A request's body."""
    drafts = {"spri": {"drafts": True}} if more else {}
    return {"model": f"spri/{TASK}", "messages": [{"role": "user", "content": post}], **drafts, **more}


def alone(lm: str, clients: int) -> tuple[Scope, Ask]:
    """The program in this process, with the endpoint's limit on calls in flight."""
    program = spri.SPRI(spri.load_task(TASK)).set_lms(base=lm)

    async def ask(post: str) -> None:
        with dspy.context(disable_history=True, trace=None):
            if not (await program.acall(post=post)).response:
                raise RuntimeError("no response")

    return Scope(slots=Limiter(clients)), ask


async def disconnect(clients: Clients, lm_url: str, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that leave at any time before their answer; every other one had asked for a stream."""
    await _get(f"{lm_url}/reset")
    before = await _metrics(url)
    rng, longest = random.Random(0), CALLS * options.latency
    await asyncio.gather(
        *(
            clients.leave(POST.format(900_000 + n), rng.uniform(0.1, 0.8) * longest, stream=n % 2 == 1)
            for n in range(options.leaving)
        )
    )
    began = time.perf_counter()
    while True:
        seen, now = await _get(f"{lm_url}/stats"), await _metrics(url)
        open_now = now["spri_requests_in_flight"] + now["spri_requests_waiting"] + seen["in_flight"]
        if not open_now or time.perf_counter() - began > 30:
            break
        await asyncio.sleep(0.02)
    settled = time.perf_counter() - began
    await asyncio.sleep(2 * options.latency)  # a request that was forgotten would make its next call now
    later = await _get(f"{lm_url}/stats")
    left = 'spri_requests_total{status="499"}'
    return {
        "clients": options.leaving,
        "counted_as_left": int((await _metrics(url)).get(left, 0) - before.get(left, 0)),
        "calls_begun": later["received"],
        "calls_answered": later["answered"],
        "calls_cancelled": later["cancelled"],
        "calls_in_flight": later["in_flight"],
        "calls_begun_afterwards": later["received"] - seen["received"],
        "places_taken": int(now["spri_requests_in_flight"] + now["spri_requests_waiting"]),
        "seconds_to_settle": round(settled, 3),
    }


async def _get(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.json()


async def _metrics(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def measure(lm_url: str, url: str, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    """All of it, against servers that run."""
    scope, ask = alone(f"hosted_vllm/m?api_base={lm_url}/v1", options.clients)
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(600)
    offsets = iter(range(0, 10**9, options.clients * options.requests))
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        clients = Clients(session, url)
        served, by_itself = (clients.whole, pid), (ask, os.getpid())
        with use_scope(scope):
            # Connections, and the windows of calls in flight, open up; whatever is loaded at first use is loaded.
            for sort in (served, (clients.streamed, pid), by_itself):
                await load(*sort, next(offsets), argparse.Namespace(**{**vars(options), "requests": 1}))
            pairs = [
                [await load(*sort, next(offsets), options) for sort in (served, by_itself)]
                for _ in range(options.repeats)
            ]
        clients.first.clear()
        streams = await load(clients.streamed, pid, next(offsets), options)
        left = await disconnect(clients, lm_url, url, options)
    return {
        "clients": options.clients,
        "requests": options.clients * options.requests,
        "lm_seconds": CALLS * options.latency,
        "runs": [{"endpoint": served, "alone": alone} for served, alone in pairs],
        **_compared(pairs),
        "streams": {**streams, "first_token_p50": round(statistics.median(clients.first), 4)},
        "leaving": left,
    }


def _compared(pairs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Of the several runs the best on each side, which other work on the machine disturbed least."""
    found: dict[str, Any] = {"failed": sum(side["failed"] for pair in pairs for side in pair)}
    for name in ("p50", "p95", "cpu_ms"):
        served, alone = (min(pair[side][name] for pair in pairs) for side in (0, 1))
        over = served - alone if name == "cpu_ms" else 1000 * (served - alone)
        found[name] = {
            "endpoint": served,
            "alone": alone,
            "ratio": round(served / alone, 3),
            "overhead_ms": round(over, 1),
        }
    return found


def main(argv: list[str]) -> int:
    """Measure and print; 1 if a request failed or a call was left behind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serve", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=2, help="a client, one after the other")
    parser.add_argument("--latency", type=float, default=2.0, help="seconds of an LM call")
    parser.add_argument("--leaving", type=int, default=50, help="clients that leave")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with (
        lm_serving({"latency": options.latency, "sigma": 0.0, "accept": 1.0}) as lm_url,
        endpoint(f"hosted_vllm/m?api_base={lm_url}/v1", options.clients) as (url, pid),
    ):
        found = asyncio.run(measure(lm_url, url, pid, options))
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            rows = value if isinstance(value, list) else [value]
            sys.stdout.writelines(f"{name:20}{row}\n" for row in rows)
    left = found["leaving"]
    is_clean = not (left["calls_in_flight"] or left["calls_begun_afterwards"] or left["places_taken"])
    return 0 if is_clean and not found["failed"] and not found["streams"]["failed"] else 1
