"""The figure of a run that took k samples, for 1 to k samples: what more of them bring, from one run.

    python -m benchmarks rubrics --systems spct:k=8 --lm base=openai/gpt-4o-mini --data hub --runs runs
    python -m benchmarks k_curve runs/gpt-4o-mini-spct-k-8-...

For each number n the score of an answer is the mean of the readable ones among its first n samples, in the order in
which they were drawn. Without people's scores or votes only the coverage is given.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.sections import Section, as_json, interval, print_sections
from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics.set_level import macro, pair_accuracy, pair_ties, pearson
from spri_dspy.records import Record, Score
from spri_dspy.runs import RunDir

_COLUMNS = ("samples", "scored", "Pearson r, mean of groups", "pair accuracy", "tied pairs (share)")


def scores_by_samples(records: Sequence[Record]) -> dict[int, list[Score]]:
    """The scores for the first 1 to k samples of every finished record, without a value where none can be read.

    Args:
        records: of a run whose outputs have `samples`, each with a `score` from 1 to 5 or None. Labels are
            `human_score`, else `preference`.

    Raises:
        DataError: a finished record has no samples, or records have different numbers of them.
    """
    drawn: dict[str, list[Any]] = {}
    for record in records:
        samples = record.outputs.get("samples")
        if record.ok and not (isinstance(samples, list) and samples):
            raise DataError(
                f"the record {record.id!r} has no samples; spct is a system whose records have some"
            )
        drawn[record.id] = [sample["score"] for sample in samples] if isinstance(samples, list) else []
    numbers = {len(scores) for scores in drawn.values() if scores}
    if len(numbers) != 1:
        said = ", ".join(map(str, sorted(numbers))) or "no finished record"
        raise DataError(f"one run has one number of samples, not {said}")
    return {
        n: [_score(record, drawn[record.id][:n]) for record in records] for n in range(1, numbers.pop() + 1)
    }


def _score(record: Record, samples: Sequence[float | None]) -> Score:
    read = [score for score in samples if score is not None]
    human = record.labels.get("human_score", record.labels.get("preference"))
    value = fmean(read) if read else None
    return Score(record.id, value, None if human == -1 else human, record.group, record.cluster)


def curve(run: RunDir, seed: int = 0) -> Section:
    """The table.

    Raises:
        UsageError: the offline stand-in answered, whose figures would look like results.
        DataError: see `scores_by_samples`.
    """
    lms: Any = run.manifest.get("lms", {})
    if str(lms.get("base", "")).startswith("offline"):
        raise UsageError(f"{run.path} was answered by the offline stand-in: its figures would say nothing")
    name = run.manifest.get("system", "")
    section = Section("k_curve", f"{name} by the number of samples: {run.path.name}", _COLUMNS)
    for n, scores in scores_by_samples(list(run.records())).items():
        found = [macro(pearson, scores, rng=random.Random(seed))]
        found += [statistic(scores, rng=random.Random(seed)) for statistic in (pair_accuracy, pair_ties)]
        scored = sum(score.value is not None for score in scores)
        section.rows.append(
            (str(n), f"{scored} of {len(scores)}", *(interval(estimate, 3) for estimate in found))
        )
        section.results.append(
            {"samples": n, "scored": scored, "asked": len(scores)} | {e.name: e.to_json() for e in found}
        )
    section.notes.append(
        "The first samples of every answer, in the order in which they were drawn; 95 % intervals."
    )
    section.notes.append(f"What the system sees: {run.manifest.get('sees', 'not noted')}.")
    return section


def main(argv: list[str]) -> int:
    """Print the curve of a run.

    Raises:
        SpriError: there is no run, or it has no samples.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks k_curve",
        description="The figure of a run that took k samples, for 1 to k samples.",
    )
    parser.add_argument("run", type=Path, help="a run of spct")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    run = RunDir.read(options.run)
    section = curve(run, options.seed)
    if options.json:
        sys.stdout.write(as_json([section], run=str(run.path)) + "\n")
    else:
        print_sections([section])
    return 0
