"""Whether memory grows with the input: peak RSS at few and at many examples, and how long a restart takes.

`python -m benchmarks scale [--examples 100000] [--json]` runs SPRI with an LM that answers at once, in processes of
their own, from a generated file that is read as a user's file is. What is compared is peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import spri_dspy as spri
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.spec import CALL, note_finish


class InstantLM(ScopedLM):
    """Answers a stage at once and accepts everything; what is around a call is as ever, but for its way to a server."""

    n_calls = 0

    async def _ask(
        self, prompt: Any, messages: Any, kwargs: dict[str, Any], timeout: float | None = None
    ) -> list[str]:
        call = CALL.get()
        assert call is not None
        self.n_calls += 1
        note_finish("stop")
        call.add_usage(self.model, {"prompt_tokens": 400, "completion_tokens": 20})
        kind, _, field = call.stage.partition("_")
        if kind == "critique":
            return ["[[ ## feedback ## ]]\nClear and specific.\n\n[[ ## score ## ]]\n5"]
        return [f"[[ ## {field} ## ]]\nName what happened.\nOffer one next step."]


def write_inputs(path: Path, count: int) -> None:
    """A JSON-lines file of distinct posts."""
    posts = [dict(example.input_values) for example in spri.load_task("reappraisal").examples()]
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            post = posts[i % len(posts)]
            file.write(
                json.dumps({"id": f"e{i}", "post": f"{post['post']} (Day {i}.)", "aim": post["aim"]}) + "\n"
            )


def run_once(data: Path, folder: Path) -> dict[str, Any]:
    """Run or restart; what this process took."""
    lm = InstantLM("instant/fixed", temperature=0.7, max_tokens=512)
    task = spri.load_task("reappraisal")
    program = spri.SPRI(task).set_lms(base=lm)
    start = time.monotonic()
    with spri.RunDir.create(folder, {"task": "scale"}) as run:
        examples = task.examples(data, finished=run.finished())  # as the command reads data that it knows
        summary = spri.run_bulk(program, examples, run, concurrency=64)
        seconds = time.monotonic() - start
        finished, _ = run.counts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "done": summary.done,
        "skipped": summary.skipped,
        "finished": finished,
        "calls": lm.n_calls,
        "seconds": round(seconds, 2),
        "peak_mb": round(peak, 1),
    }


def _in_a_process(data: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", str(data), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        sys.stdout.write(json.dumps(run_once(Path(options.child[0]), Path(options.child[1]))) + "\n")
        return 0
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("few", 1000), ("many", options.examples)):
            data = Path(folder) / f"{name}.jsonl"
            write_inputs(data, count)
            found[name] = _in_a_process(data, Path(folder) / name)
        found["restart"] = _in_a_process(data, Path(folder) / "many")
    found["growth_mb"] = round(found["many"]["peak_mb"] - found["few"]["peak_mb"], 1)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.writelines(f"{name:10}{value}\n" for name, value in found.items())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
