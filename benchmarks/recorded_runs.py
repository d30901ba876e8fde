"""Recorded runs of the published loop as run directories, to show, report and export.

    python -m benchmarks recorded_runs --recordings DIR --out RUNS
    spri export RUNS/gpt-4o-mini__no_seeds --format dpo

Every file of reappraisal/traces becomes a run of `SPRI.paper` whose calls answer as recorded; no LM is asked. Posts and
aims are those of reappraisal/eval_30.jsonl beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

import spri_dspy as spri
from benchmarks.recordings import read_rows
from spri_dspy.errors import DataError
from spri_dspy.lms.replay import replay_lm, script_of


class Recorded(dspy.Module):
    """`SPRI.paper` on recorded outputs: an example's own calls, in their order.

    Args:
        calls: by post and aim: `stage` and `output` of every call.
    """

    def __init__(self, calls: Mapping[tuple[str, str], Sequence[Mapping[str, str]]]) -> None:
        super().__init__()
        self.calls = calls

    async def aforward(self, post: str, aim: str, group: str | None = None) -> dspy.Prediction:
        """Replay one example."""
        lm = replay_lm(script_of(self.calls[post, aim]))
        program = spri.SPRI.paper(spri.load_task("reappraisal")).set_lms(base=lm, critic=lm)
        return await asyncio.to_thread(program, post=post, aim=aim, group=group)


def write(path: Path, posts: Path, run: Path) -> int:
    """Write a file of recorded runs as a run directory; how many examples.

    Raises:
        DataError: a recorded run is of no known post.
    """
    known = {(row["id"], row["dimension_id"]): row for row in read_rows(posts)}
    calls: dict[tuple[str, str], Any] = {}
    examples: list[dspy.Example] = []
    for row in read_rows(path):
        post = known.get((row["id"], row["dimension_id"]))
        if post is None:
            raise DataError(f"{path}: {row['id']} for dimension {row['dimension_id']} is not in {posts}")
        calls[post["post"], post["aim"]] = row["calls"]
        name = f"{row['id']}/{row['dimension_id']}"
        example = dspy.Example(id=name, post=post["post"], aim=post["aim"])
        examples.append(example.with_inputs("post", "aim"))
    return spri.run_bulk(Recorded(calls), examples, run).done


def main(argv: Sequence[str]) -> int:
    """Write a run directory for every file; returns 0.

    Raises:
        DataError: the folder holds no recorded runs, or they are of other posts.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks recorded_runs", description="Recorded runs as run directories."
    )
    parser.add_argument("--recordings", type=Path, required=True, metavar="DIR", help="folder of recordings")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    options = parser.parse_args(argv)
    paths = sorted(options.recordings.glob("reappraisal/traces/*.jsonl"))
    if not paths:
        raise DataError(
            f"{str(options.recordings)!r} has no reappraisal/traces/*.jsonl; name a folder of recordings"
        )
    for path in paths:
        n = write(path, path.parents[1] / "eval_30.jsonl", options.out / path.stem)
        sys.stdout.write(f"{options.out / path.stem}: {n} examples\n")
    return 0
