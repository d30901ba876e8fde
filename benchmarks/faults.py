"""Whether bulk generation keeps its pace and loses nothing while its server fails in every way at once.

`python -m benchmarks faults [--json]` runs SPRI over generated inputs three times against a loopback server: without
faults, with 5 % errors, 2 % cut connections, 1 % senseless bodies and bursts of refusals, and without faults again.
The paces are compared within this one call, because the machine may be busy.

With `--refuse 0.1` it asks another question: a server that turns a tenth of the calls away at random, with Retry-After
1, is run over twice with our window and twice with a fixed one of all slots, in turns.

While a burst lasts the server takes no call, so no client can use that time; but calls begun before it are still
answered then. Both sides of that are shown: the pace as it is, which blames the client for the bursts, and the pace
with the bursts' seconds taken out of the run, which gives it those answers for nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import spri_dspy as spri
from benchmarks.load import _get as get
from benchmarks.load import serving
from benchmarks.load_contestants import examples_of, spri_at
from spri_dspy.commands.execution import Execution
from spri_dspy.lms import concurrency

RATES = {"error_rate": 0.05, "cut_rate": 0.02, "garbage_rate": 0.01}
SETTLED = ("accepted", "exhausted")


def run_once(root: str, count: int, slots: int, workers: int = 1) -> dict[str, Any]:
    """One run in a directory of its own: seconds, and what became of the examples."""
    make, how = partial(spri_at, f"{root}/v1"), Execution(concurrency=slots, workers=workers)
    with (
        tempfile.TemporaryDirectory() as folder,
        spri.RunDir.create(Path(folder) / "run", {"task": "faults"}) as run,
    ):
        get(f"{root}/reset")
        start = time.monotonic()
        how.run(make(), examples_of(count), run, make_program=make)
        seconds = time.monotonic() - start
        seen = get(f"{root}/stats?slots={slots}")
        lines = Counter(json.loads(line)["id"] for line in (run.path / "records.jsonl").open("rb"))
        settled = sum(r.ok and all(s in SETTLED for s in r.stop_reasons.values()) for r in run.records())
        failed = [r.error for r in run.records() if r.error]
    return {
        "seconds": round(seconds, 2),
        "examples_per_second": round(count / seconds, 1),
        "lost": count - len(lines),
        "twice": sum(times > 1 for times in lines.values()),
        "settled": settled,
        "failed": failed[:5],
        "requests": seen["received"],
        "answers": seen["answered"],
    }


def compare(
    examples: int, slots: int, latency: float, bursts: Sequence[Sequence[float]], *, workers: int = 1
) -> dict[str, Any]:
    """Runs without faults before and after one with all of them.

    Args:
        examples: in each run.
        slots: calls in flight at most.
        latency: mean seconds of an answer.
        bursts: (from, to) in seconds since the start of the run in which every call is refused.
        workers: processes of each run.
    """
    with serving({"latency": latency}) as root:
        run_once(root, 20, slots)  # so that nothing is made for the first time in a run that counts
        calm = [run_once(root, examples, slots, workers)]
        with serving({"latency": latency, **RATES, "bursts": bursts}) as bad:
            storm = run_once(bad, examples, slots, workers)
        calm.append(run_once(root, examples, slots, workers))
    burst_seconds = sum(max(0.0, min(end, storm["seconds"]) - begin) for begin, end in bursts)
    usual = statistics.mean(run["seconds"] for run in calm)
    return {
        "examples": examples,
        "slots": slots,
        "workers": workers,
        "latency": latency,
        **RATES,
        "bursts": bursts,
        "calm": calm,
        "storm": storm,
        "settled_share": round(storm["settled"] / examples, 4),
        "burst_seconds_in_run": round(burst_seconds, 2),
        "pace": round(usual / storm["seconds"], 3),
        "pace_without_bursts": round(usual / (storm["seconds"] - burst_seconds), 3),
    }


def refused_at_random(examples: int, slots: int, latency: float, share: float) -> dict[str, Any]:
    """Runs with our window and with one that learns nothing and has all slots from the start, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "fixed": []}
    with serving({"latency": latency, "refuse_rate": share}) as root:
        run_once(root, 20, slots)
        for _ in range(2):
            runs["ours"].append(run_once(root, examples, slots))
            with (
                patch.object(concurrency, "FIRST_WINDOW", slots),
                patch.object(concurrency.Window, "refused", lambda *_: None),
            ):
                runs["fixed"].append(run_once(root, examples, slots))
    pace = {
        name: statistics.mean(run["examples_per_second"] for run in found) for name, found in runs.items()
    }
    about = {"examples": examples, "slots": slots, "latency": latency, "refuse_rate": share}
    return {**about, **runs, "pace": round(pace["ours"] / pace["fixed"], 3)}


def main(argv: list[str]) -> int:
    """Measure and print; 1 if an example was lost or is there twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument(
        "--bursts", type=json.loads, default=[[5, 6], [12, 13]], help="default: [[5, 6], [12, 13]]"
    )
    parser.add_argument(
        "--refuse", type=float, help="share of calls that are refused at random, instead of all"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of each run; not with --refuse")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    asked = (options.examples, options.slots, options.latency)
    if options.refuse is None:
        found = compare(*asked, options.bursts, workers=options.workers)
        runs = [*found["calm"], found["storm"]]
    else:
        found = refused_at_random(*asked, options.refuse)
        runs = found["ours"] + found["fixed"]
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.writelines(f"{name:22}{value}\n" for name, value in found.items())
    return int(any(run["lost"] or run["twice"] for run in runs))
