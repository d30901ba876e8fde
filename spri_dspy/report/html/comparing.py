"""Two or more runs on the examples that they share: differences with intervals and tests, and where they differ most.

Every run is compared with the first. Numbers are compared only where the same judge gave both. It knows scores and
records; the statistics are `metrics.comparison`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.metrics.comparison import compare, holm
from spri_dspy.metrics.set_level import mean, pearson, share
from spri_dspy.records import Score
from spri_dspy.report.figures import criteria_of, is_judged, is_scored_offline, numbers_of
from spri_dspy.report.html.subject import Subject, judge_name
from spri_dspy.report.html.texts import words
from spri_dspy.runs import RunDir, fingerprint

_MOST = 10
"""Examples that are listed where two runs differ most."""


def comparison_of(subjects: Sequence[Subject]) -> dict[str, Any]:
    """The comparison of every other run with the first.

    Returns:
        pairs: one a further run, with its shared examples, notes and most different examples; tests: a row a
        comparison, p corrected by Holm's rule over all of them.
    """
    first, *others = subjects
    inputs = _inputs(first.run)
    pairs: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for other in others:
        pair, rows = _pair(first, other, inputs)
        pairs.append(pair)
        tests += rows
    corrected = holm([math.nan if row["p"] is None else row["p"] for row in tests])
    for row, p in zip(tests, corrected, strict=True):
        row["holm"] = None if math.isnan(p) else p
    return {"first": first.name, "pairs": pairs, "tests": tests}


def _inputs(run: RunDir) -> dict[str, str]:
    """A fingerprint of each example's inputs, by id: the same id need not be the same example."""
    return {record.id: fingerprint(record.inputs) for record in run.records()}


def _pair(
    first: Subject, other: Subject, inputs: dict[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    theirs = _inputs(other.run)
    common = {name for name in inputs if inputs[name] == theirs.get(name)}
    unlike = sum(name in theirs and inputs[name] != theirs[name] for name in inputs)
    notes = [f"{unlike:,} examples of the same id have other inputs and are left out"] if unlike else []
    rows: list[dict[str, Any]] = []
    most: list[dict[str, Any]] = []
    both = _same_judges(first, other)
    for (one, two), of in groupby(both, key=lambda each: each[0]):
        numbers = [numbers_of(run) for run in (two, one)]  # the later run less the first
        judge, kinds = first.cleaner(False).message(judge_name(one)), one.manifest.get("criteria")
        for _, criterion in of:
            name = first.cleaner(False).text(criterion)
            sides = [[s for s in each[criterion].scores if s.id in common] for each in numbers]
            statistic = share if isinstance(kinds, dict) and kinds.get(criterion) == "share" else mean
            found = [compare(statistic, *sides)]
            if not is_judged(one):
                found.append(compare(pearson, *sides))
            about = {"run": other.name, "criterion": name, "judge": judge}
            rows += [{**about, **each.to_json()} for each in found if each.reason != "no labels"]
            most += _most_different(sides[1], sides[0], name, first)
    if not both:
        notes.append(_why_no_numbers(first, other))
        most = _least_alike(first, other, common)
    pair = {
        "run": other.name,
        "common": len(common),
        "only_first": len(inputs) - len(common) - unlike,
        "only_other": len(theirs) - len(common) - unlike,
        "notes": notes,
        "by_text": not both,
        "most": most,
    }
    return pair, rows


def _same_judges(first: Subject, other: Subject) -> list[tuple[tuple[RunDir, RunDir], str]]:
    """Pairs of runs that hold numbers of the same judge, with each criterion of both; of several the latest."""
    found: dict[str, tuple[tuple[RunDir, RunDir], str]] = {}
    theirs = {_judge_key(run): run for run in other.scored if not is_scored_offline(run)}
    for run in first.scored:
        match = theirs.get(_judge_key(run))
        if match is None or is_scored_offline(run):
            continue
        try:
            shared = set(criteria_of(match))
            criteria = [name for name in criteria_of(run) if name in shared]
        except DataError:
            continue
        for name in criteria:
            found[f"{_judge_key(run)} {name}"] = (run, match), name
    return list(found.values())


def _judge_key(run: RunDir) -> str:
    """What makes two judges the same; a run's own judgements are what is compared, whoever gave them."""
    manifest = run.manifest
    if not is_judged(run):
        return "own"
    return fingerprint([manifest.get(name) for name in ("judge", "judge_version", "models", "settings")])


def _why_no_numbers(first: Subject, other: Subject) -> str:
    scored = [[run for run in each.scored if not is_scored_offline(run)] for each in (first, other)]
    if any(is_scored_offline(run) for each in (first, other) for run in each.scored):
        return "the offline LM gave the scores, so they are not compared"
    if all(scored):
        return "the runs were judged by different judges, so their numbers are not compared"
    missing = [each.name for each, runs in zip((first, other), scored, strict=True) if not runs]
    return f"no scores to compare: {' and '.join(missing)} was not judged (spri judge RUN)"


def _most_different(
    a: Sequence[Score], b: Sequence[Score], criterion: str, of: Subject
) -> list[dict[str, Any]]:
    """The examples whose numbers differ most, the largest difference first."""
    second = {score.id: score.value for score in b}
    cleaner, found = of.cleaner(False), list[dict[str, Any]]()
    for score in a:
        value = second.get(score.id)
        if score.value is not None and value is not None and score.value != value:
            found.append(
                {
                    "id": score.id,
                    "shown": cleaner.text(score.id),
                    "group": cleaner.text(score.group or ""),
                    "criterion": criterion,
                    "first": score.value,
                    "other": value,
                    "difference": value - score.value,
                }
            )
    return sorted(found, key=lambda row: (-abs(row["difference"]), row["id"]))[:_MOST]


def _least_alike(first: Subject, other: Subject, common: set[str]) -> list[dict[str, Any]]:
    """The examples whose answers have the fewest words in common, as a share of all words of both."""
    answers = {r.id: set(words(r.outputs.get("response")).split()) for r in first.run.records() if r.ok}
    cleaner, found = first.cleaner(False), list[dict[str, Any]]()
    for record in other.run.records():
        if record.id not in common or not record.ok or not answers.get(record.id):
            continue
        mine, theirs = answers[record.id], set(words(record.outputs.get("response")).split())
        alike = len(mine & theirs) / max(1, len(mine | theirs))
        found.append(
            {
                "id": record.id,
                "shown": cleaner.text(record.id),
                "group": cleaner.text(record.group or ""),
                "alike": alike,
            }
        )
    return sorted(found, key=lambda row: (row["alike"], row["id"]))[:_MOST]
