"""How a judge's numbers agree with people's, as what a page shows: figures, a scatter, a confusion matrix, calibration.

`agreement_of` takes plain Scores (the judge's number as value, people's as label), wherever they come from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spri_dspy.metrics.agreement import calibration
from spri_dspy.metrics.bootstrap import is_number
from spri_dspy.metrics.ranks import spearman
from spri_dspy.metrics.rated import AgreeSettings
from spri_dspy.metrics.set_level import by_group, macro, mae, mean, pearson
from spri_dspy.records import Score
from spri_dspy.report.figures import Numbers, is_scored_offline
from spri_dspy.report.html.subject import estimate_row, judge_name
from spri_dspy.report.html.texts import Cleaner
from spri_dspy.runs import RunDir

_MOST = 10
"""Examples that are listed where judge and people differ most."""

_LEVELS = 10
"""Numbers of a side for which a confusion matrix is drawn."""


def agreements(run: RunDir, numbers: Mapping[str, Numbers], cleaner: Cleaner) -> list[dict[str, Any]]:
    """A judge's agreement with people by criterion; none of offline scores, or without labels."""
    if is_scored_offline(run):
        return []
    judge = cleaner.message(judge_name(run))
    found = (agreement_of(f"{cleaner.text(name)}, {judge}", n.scores, cleaner) for name, n in numbers.items())
    return [agreement for agreement in found if agreement is not None]


def agreement_of(
    title: str, scores: Sequence[Score], cleaner: Cleaner | None = None
) -> dict[str, Any] | None:
    """What a page shows of one judge's agreement with people; None if nobody's numbers meet.

    Where both use the same scale (at most a point apart at either end), errors are differences of numbers; elsewhere
    they are differences of places in the order, from 0 to 1, and there is no mean error and no confusion matrix.

    Args:
        title: of the section: the criterion, and who judged.
        scores: the judge's number as `value`, people's (the mean of several) as `label`.
        cleaner: makes ids and groups fit to be shown.
    """
    clean = cleaner or Cleaner()
    pairs = [(s, float(s.value or 0), float(s.label or 0)) for s in scores if _is_pair(s)]
    if not pairs:
        return None
    values, labels = [value for _, value, _ in pairs], [label for _, _, label in pairs]
    same_scale = abs(min(values) - min(labels)) <= 1 and abs(max(values) - max(labels)) <= 1
    points = Counter((value, label) for _, value, label in pairs)
    return {
        "title": title,
        "n": len(pairs),
        "of": len(scores),
        "same_scale": same_scale,
        "figures": _figures(scores, same_scale, clean),
        "points": [(value, label, n) for (value, label), n in sorted(points.items())],
        "confusion": _confusion(points) if same_scale else None,
        "calibration": _calibration(scores),
        "most": _most_different(pairs, same_scale, clean),
    }


def _is_pair(score: Score) -> bool:
    return is_number(score.value) and is_number(score.label)


def _figures(scores: Sequence[Score], same_scale: bool, clean: Cleaner) -> list[dict[str, Any]]:
    rows = [estimate_row(pearson(scores), "Pearson's r", "all")]
    if len({score.group for score in scores}) > 1:
        groups = by_group(pearson, scores).items()
        rows += [estimate_row(e, "Pearson's r", clean.text(name)) for name, e in groups]
        rows.append(estimate_row(macro(pearson, scores), "Pearson's r", "mean of groups"))
    rows.append(estimate_row(spearman(scores), "Spearman's rho", "all"))
    if same_scale:
        rows.append(estimate_row(mae(scores), "mean absolute error", "all"))
        gap = [Score(s.id, _gap(s), None, s.group, s.cluster) for s in scores]
        rows.append(estimate_row(mean(gap), "mean of judge less people", "all"))
    return rows


def _gap(score: Score) -> float | None:
    return float(score.value or 0) - float(score.label or 0) if _is_pair(score) else None


def _confusion(points: Counter[tuple[float, float]]) -> dict[str, Any] | None:
    """How often each pair of whole numbers came up; None where there are too many numbers, or none that are whole."""
    levels = sorted({number for point in points for number in point})
    if len(levels) > _LEVELS or not all(level.is_integer() for level in levels):
        return None
    ordered = [int(level) for level in levels]
    return {
        "levels": ordered,
        "rows": [[points.get((float(j), float(p)), 0) for p in ordered] for j in ordered],
    }


def _calibration(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """People's mean where the judge gave a number, or numbers of a bin, with its interval."""
    return [
        {"judge": each.judge, "from": each.low, "to": each.high}
        | {key: each.people.to_json()[key] for key in ("value", "low", "high", "n")}
        for each in calibration(scores, AgreeSettings())
    ]


def _most_different(
    pairs: Sequence[tuple[Score, float, float]], same_scale: bool, clean: Cleaner
) -> list[dict[str, Any]]:
    values = [value for _, value, _ in pairs]
    labels = [label for _, _, label in pairs]
    gaps = (
        [value - label for _, value, label in pairs]
        if same_scale
        else [a - b for a, b in zip(_places(values), _places(labels), strict=True)]
    )
    rows = [
        {
            "id": score.id,
            "shown": clean.text(score.id),
            "group": clean.text(score.group or ""),
            "judge": value,
            "people": label,
            "gap": gap,
        }
        for (score, value, label), gap in zip(pairs, gaps, strict=True)
        if gap and math.isfinite(gap)
    ]
    return sorted(rows, key=lambda row: (-abs(row["gap"]), row["id"]))[:_MOST]


def _places(numbers: Sequence[float]) -> list[float]:
    """Where each number stands among all, from 0 to 1; equal numbers share their middle."""
    count = Counter(numbers)
    below, places = 0, dict[float, float]()
    for number in sorted(count):
        places[number] = (below + (count[number] - 1) / 2) / max(1, len(numbers) - 1)
        below += count[number]
    return [places[number] for number in numbers]
