"""What the machinery around LM calls costs: CPU time a call with an engine that answers at once.

`python -m benchmarks load --engine instant [--examples N] [--json]` runs SPRI over N generated inputs through
`run_bulk`, records, cache and all, and a bare `dspy.Predict` beside it with the same engine. CPU time is this
process's, so a busy machine disturbs it little; wall-clock time is not reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

import spri_dspy as spri
from spri_dspy.lms import CALL
from spri_dspy.lms.client import ScopedLM
from spri_dspy.tasks import Example

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
    posts = [example.inputs for example in task.examples()]
    return [
        Example(f"e{i}", {**posts[i % len(posts)], "post": f"{posts[i % len(posts)]['post']} (Day {i}.)"})
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
    inputs = [example.inputs for example in generated(4 * count)]

    async def run() -> float:
        start = time.process_time()
        with dspy.context(lm=lm, disable_history=True, trace=None):
            for begin in range(0, len(inputs), 64):
                await asyncio.gather(*(predict.acall(**row) for row in inputs[begin : begin + 64]))
        return time.process_time() - start

    return 1000 * asyncio.run(run()) / engine.calls


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks load", description=__doc__)
    parser.add_argument("--engine", choices=["instant"], default="instant")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    program_cpu_ms(20)
    pairs = [
        (program_cpu_ms(options.examples), bare_cpu_ms(options.examples)) for _ in range(options.repeats)
    ]
    program, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    found = {
        "engine": options.engine,
        "examples": options.examples,
        "repeats": options.repeats,
        "program_cpu_ms_per_call": round(program, 3),
        "bare_predict_cpu_ms_per_call": round(bare, 3),
        "ratio": round(statistics.median(p / b for p, b in pairs), 2),
    }
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.writelines(f"{name:30}{value}\n" for name, value in found.items())
    return 0
