"""How close bulk generation comes to the speed limit, and what the machinery costs an LM call.

`python -m benchmarks load [--json]` races this engine against other ways of doing the same calls, over HTTP against a
loopback server whose latencies are known, so that the shortest possible makespan is known too. With `--engine
instant` it measures CPU time alone: SPRI through `run_bulk`, records, cache and all, beside a bare `dspy.Predict`
with the same engine. Ratios within one run are what counts; the machine may be busy.

`--workers 2` races this engine in one process and in two, `--lean` against a server of a quarter of the CPU time.
Few cores are shared with the server then; with `--core-share 0.4` each process has so much of a core for itself, as on
a machine with cores enough. `once_begun` is calls a second from the first call to the last: starting does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

import spri_dspy as spri
from benchmarks.load_contestants import CONTESTANTS
from spri_dspy.errors import UnknownNameError
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.spec import CALL
from spri_dspy.tasks import Example, make_example

_ANSWERS = {
    "generate": "[[ ## {0} ## ]]\nName what happened.\nOffer one next step.",
    "critique": "[[ ## feedback ## ]]\nClear and specific.\n\n[[ ## score ## ]]\n5",
}


class InstantEngine:
    """Answers the six stages at once and accepts everything; does no work worth measuring."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self) -> None:
        self.calls = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> InstantEngine:
        return self

    def complete(self, request: Request) -> Response:
        """The stage's fixed answer."""
        self.calls += 1
        call = CALL.get()
        kind, _, field = call.stage.partition("_") if call else ("generate", "", "principles")
        text = _ANSWERS[kind].format(field)
        message = Message.assistant([TextPart(text)])
        usage = Usage(input_tokens=400, output_tokens=20)
        return Response(id="i", model=request.model, message=message, finish_reason="stop", usage=usage)


class AsyncInstantEngine(InstantEngine):
    """The same, asynchronously; counts on the engine it was made from."""

    def __init__(self, engine: InstantEngine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The stage's fixed answer."""
        return self._engine.complete(request)


def instant_lm() -> tuple[ScopedLM, InstantEngine]:
    """An LM over a fresh instant engine, and that engine."""
    engine = InstantEngine()
    lm = ScopedLM(
        "instant/fixed",
        engine=engine,
        async_engine=AsyncInstantEngine(engine),
        cache=False,
        num_retries=0,
        temperature=0.7,
        max_tokens=512,
    )
    return lm, engine


def generated(count: int) -> list[Example]:
    """Distinct inputs of the length of a short post."""
    task = spri.load_task("reappraisal")
    posts = [example.input_values for example in task.examples()]
    return [
        make_example(
            f"e{i}", {**posts[i % len(posts)], "post": f"{posts[i % len(posts)]['post']} (Day {i}.)"}
        )
        for i in range(count)
    ]


def program_cpu_ms(count: int) -> float:
    """CPU milliseconds an LM call of SPRI in a run: prompts, parsing, loop, cache, record."""
    lm, engine = instant_lm()
    program = spri.SPRI(spri.load_task("reappraisal")).set_lms(base=lm)
    examples = generated(count)
    with (
        tempfile.TemporaryDirectory() as folder,
        spri.RunDir.create(Path(folder) / "run", {"task": "load"}) as run,
    ):
        start = time.process_time()
        spri.run_bulk(program, examples, run, concurrency=64)
        spent = time.process_time() - start
    return 1000 * spent / engine.calls


def bare_cpu_ms(count: int) -> float:
    """CPU milliseconds a call of a bare asynchronous dspy.Predict with the same signature, demos and engine."""
    lm, engine = instant_lm()
    trained = spri.SPRI(spri.load_task("reappraisal")).principles.generate
    predict = dspy.Predict(trained.signature)
    predict.demos = trained.demos[:1]
    inputs = [example.input_values for example in generated(4 * count)]

    async def run() -> float:
        start = time.process_time()
        with dspy.context(lm=lm, disable_history=True, trace=None):
            for begin in range(0, len(inputs), 64):
                await asyncio.gather(*(predict.acall(**row) for row in inputs[begin : begin + 64]))
        return time.process_time() - start

    return 1000 * asyncio.run(run()) / engine.calls


def race(
    names: list[str],
    examples: int,
    slots: int,
    load: dict[str, Any],
    *,
    workers: int = 1,
    lean: bool = False,
    core_share: float = 1.0,
) -> list[dict[str, Any]]:
    """Each contestant in its own process against the same server; lock-step on a tenth, it takes ten times as long.

    With several workers, this engine comes twice: in one process, and in so many.
    """
    rows: list[dict[str, Any]] = []
    entered = [(name, n) for name in names for n in sorted({1, workers if name == "engine" else 1})]
    with serving(load, lean=lean) as root:
        for name, n_workers in entered:
            count = max(24, examples // 10) if name == "lockstep" else examples
            _get(f"{root}/reset")
            command = [
                sys.executable,
                "-m",
                "benchmarks.load_contestants",
                name,
                f"{root}/v1",
                str(count),
                str(slots),
                str(n_workers),
                str(core_share),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                rows.append({"contestant": name, "examples": count, "failed": last[:200]})
                continue
            took, seen = json.loads(done.stdout.strip().splitlines()[-1]), _get(f"{root}/stats?slots={slots}")
            rows.append(_row(name if n_workers == 1 else f"{name} x{n_workers}", count, took, seen))
    return rows


def _row(name: str, count: int, took: dict[str, float], seen: dict[str, Any]) -> dict[str, Any]:
    return {
        "contestant": name,
        "examples": count,
        "calls": seen["answered"],
        "seconds": round(took["seconds"], 2),
        "over_lower_bound": round(took["seconds"] / seen["lower_bound_seconds"], 3),
        "calls_per_second": round(seen["answered"] / took["seconds"], 1),
        "once_begun": round(seen["answered"] / seen["asked_seconds"], 1),
        "cpu_ms_per_call": round(1000 * took["cpu_seconds"] / seen["answered"], 3),
        "peak_mb": round(took["peak_mb"]),
        "server_cpu_ms_per_call": round(1000 * seen["cpu_seconds"] / seen["answered"], 3),
        "most_in_flight": seen["most_in_flight"],
    }


@contextmanager
def serving(load: dict[str, Any], *, lean: bool = False) -> Iterator[str]:
    """The load server, or the lean one, as a process of its own; its address."""
    module = "benchmarks.lean_server" if lean else "benchmarks.load_server"
    command = [sys.executable, "-m", module, json.dumps(load)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()  # type: ignore[union-attr] # it is a pipe


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def _overhead(options: argparse.Namespace) -> dict[str, Any]:
    program_cpu_ms(20)
    examples = options.examples or 500
    pairs = [(program_cpu_ms(examples), bare_cpu_ms(examples)) for _ in range(options.repeats)]
    program, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "engine": "instant",
        "examples": examples,
        "repeats": options.repeats,
        "program_cpu_ms_per_call": round(program, 3),
        "bare_predict_cpu_ms_per_call": round(bare, 3),
        "ratio": round(statistics.median(p / b for p, b in pairs), 2),
    }


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks load", description=__doc__)
    parser.add_argument("--engine", choices=["http", "instant"], default="http")
    parser.add_argument("--examples", type=int, help="default: 2000 over HTTP, 500 with the instant engine")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument(
        "--faults", action="store_true", help="5 %% 500s, 2 %% cut, 1 %% garbage, bursts of 429"
    )
    parser.add_argument("--workers", type=int, default=1, help="race the engine with so many processes too")
    parser.add_argument(
        "--lean", action="store_true", help="a server of a quarter of the CPU time; no faults"
    )
    parser.add_argument(
        "--core-share", type=float, default=1.0, help="of a core for each process; needs root and cgroups"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.engine == "instant":
        return _print(_overhead(options), options.json)
    names = options.contestants.split(",")
    for name in names:
        if name not in CONTESTANTS:
            raise UnknownNameError("contestant", name, CONTESTANTS)
    load: dict[str, Any] = {"latency": options.latency}
    if options.faults:
        load |= {"error_rate": 0.05, "cut_rate": 0.02, "garbage_rate": 0.01, "bursts": [[5, 6], [12, 13]]}
    asked = (names, options.examples or 2000, options.slots, load)
    rows = race(*asked, workers=options.workers, lean=options.lean, core_share=options.core_share)
    return _print({"slots": options.slots, "load": load, "contestants": rows}, options.json)


def _print(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for name, value in found.items():
        if name != "contestants":
            sys.stdout.write(f"{name:30}{value}\n")
    rows = found.get("contestants", [])
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table if rows else []:
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        )
    return 0
