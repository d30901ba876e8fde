"""What a run in batches takes beside the same run live: wave-fronts, requests, dollars, CPU time and memory.

`python -m benchmarks batches [--api openai|anthropic] [--examples 2000] [--json]` runs SPRI in a process of its own
against batch APIs on loopback whose answers are known, once in batches and once live, and compares the records field by
field. A batch takes `--seconds` there; at a provider it takes minutes to hours, so the time says nothing, but the
number of waves does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import spri_dspy as spri
from spri_dspy.tasks import Example

USD = {"usd_in": 0.15, "usd_out": 0.6}
"""Dollars per million tokens: GPT-4o-mini's live price when this was written."""

LMS = {"openai": "openai/m", "anthropic": "anthropic/claude-3-5-haiku-20241022"}


def numbered(count: int) -> list[Example]:
    """Distinct inputs, each with the mark by which the server knows it."""
    task = spri.load_task("reappraisal")
    posts = [dict(example.input_values) for example in task.examples()]
    rows = (posts[i % len(posts)] for i in range(count))
    return [
        task.example_of(id=f"e{i}", post=f"{row['post']} (Day #{i}#.)", aim=row["aim"])
        for i, row in enumerate(rows)
    ]


def run_once(root: str, api: str, count: int, folder: Path, how: str, live_below: int = 0) -> dict[str, Any]:
    """One run, live or in batches; what this process took."""
    options = "&".join(f"{name}={value}" for name, value in USD.items())
    lm = f"{LMS[api]}?api_base={root}/v1&{options}"
    program = spri.SPRI(spri.load_task("reappraisal")).set_lms(base=lm)
    batch = None if how == "live" else f"{api}?settle=0.5&poll=0.2&live_below={live_below}"
    budget = spri.Budget(max_usd=1e9)
    examples, start, cpu = numbered(count), time.monotonic(), time.process_time()
    summary = spri.run_bulk(program, examples, folder, concurrency=64, budget=budget, batch=batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "done": summary.done,
        "failed": summary.failed,
        "calls": summary.usage.calls,
        "usd": round(budget.usd, 4),
        "seconds": round(time.monotonic() - start, 1),
        "cpu_ms_per_call": round(1000 * (time.process_time() - cpu) / summary.usage.calls, 2),
        "peak_mb": round(peak),
    }


def compare(api: str, count: int, seconds: float, live_below: int) -> dict[str, Any]:
    """The same run both ways."""
    found: dict[str, Any] = {"api": api, "examples": count, "live_below": live_below}
    with tempfile.TemporaryDirectory() as folder, serving({"seconds": seconds}) as root:
        kept: dict[str, dict[str, Any]] = {}
        for how in ("batches", "live"):
            path = Path(folder) / how
            command = [sys.executable, "-m", "benchmarks.batches", "--child", root, api, str(count)]
            environment = os.environ | {"OPENAI_API_KEY": "none-needed", "ANTHROPIC_API_KEY": "none-needed"}
            done = subprocess.run(
                [*command, str(path), how, str(live_below)],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            found[how] = json.loads(done.stdout.strip().splitlines()[-1])
            if how == "batches":
                seen = _get(f"{root}/stats")
                found["waves"] = seen["batches"]
                found["paid_in_batches"] = seen["paid"] - seen["live"]
                found["files"] = {name: seen[name] for name in ("uploads", "deletions", "files")}
            kept[how] = {
                record.id: record.to_json() | {"seconds": 0} for record in spri.RunDir.read(path).records()
            }
        after = _get(f"{root}/stats")
    found["distinct_bodies_both_ways"] = after["distinct"]
    found["same_records"] = kept["batches"] == kept["live"]
    found["price_of_live"] = round(found["batches"]["usd"] / found["live"]["usd"], 4)
    return found


@contextmanager
def serving(plan: dict[str, Any]) -> Iterator[str]:
    """The server of batches as a process of its own; its address."""
    command = [sys.executable, "-m", "benchmarks.batch_server", json.dumps(plan)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks batches", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--api", choices=list(LMS), default="openai", help="whose shape of a batch API")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a batch takes")
    parser.add_argument("--live-below", type=int, default=0, help="waves of fewer requests are made live")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        root, api, count, folder, how, live_below = options.child
        sys.stdout.write(
            json.dumps(run_once(root, api, int(count), Path(folder), how, int(live_below))) + "\n"
        )
        return 0
    found = compare(options.api, options.examples, options.seconds, options.live_below)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.writelines(f"{name:28}{value}\n" for name, value in found.items())
    return 0 if found["same_records"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
