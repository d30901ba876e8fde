"""How a judge's numbers agree with people's, as what a page shows: figures, a scatter, a confusion matrix, calibration.

`agreement_of` takes plain Scores (the judge's number as value, people's as label), wherever they come from.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spri_dspy.metrics.agreement import calibration
from spri_dspy.metrics.columns import ScoreColumns
from spri_dspy.metrics.ranks import spearman
from spri_dspy.metrics.rated import AgreeSettings
from spri_dspy.metrics.set_level import by_group, macro, mae, mean, pearson
from spri_dspy.records import Score
from spri_dspy.report.figures import Numbers, is_scored_offline
from spri_dspy.report.html.subject import estimate_row, judge_name
from spri_dspy.report.html.texts import Cleaner
from spri_dspy.runs import RunDir

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats

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
    scores = ScoreColumns.of(scores)
    pairs = scores.take(scores.has("label"))
    if not len(pairs):
        return None
    values, labels = pairs.values, pairs.labels
    same_scale = bool(abs(values.min() - labels.min()) <= 1 and abs(values.max() - labels.max()) <= 1)
    points = Counter(zip(map(float, values), map(float, labels), strict=True))
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


def _figures(scores: ScoreColumns, same_scale: bool, clean: Cleaner) -> list[dict[str, Any]]:
    import numpy as np

    rows = [estimate_row(pearson(scores), "Pearson's r", "all")]
    if len(scores.group_names) > 1:
        groups = by_group(pearson, scores).items()
        rows += [estimate_row(e, "Pearson's r", clean.text(name)) for name, e in groups]
        rows.append(estimate_row(macro(pearson, scores), "Pearson's r", "mean of groups"))
    rows.append(estimate_row(spearman(scores), "Spearman's rho", "all"))
    if same_scale:
        rows.append(estimate_row(mae(scores), "mean absolute error", "all"))
        with np.errstate(all="ignore"):  # what is not finite is missing, which is what is meant
            gap = scores.valued(scores.values - scores.labels)
        rows.append(estimate_row(mean(gap), "mean of judge less people", "all"))
    return rows


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


def _most_different(pairs: ScoreColumns, same_scale: bool, clean: Cleaner) -> list[dict[str, Any]]:
    import numpy as np

    sides = pairs.values, pairs.labels
    judge, people = sides if same_scale else map(_places, sides)
    with np.errstate(all="ignore"):  # an overflow is not listed
        gaps = judge - people
    differ = np.flatnonzero((gaps != 0) & np.isfinite(gaps))
    most = heapq.nsmallest(_MOST, differ, key=lambda row: (-abs(gaps[row]), str(pairs.ids[row])))
    return [
        {
            "id": score.id,
            "shown": clean.text(score.id),
            "group": clean.text(score.group or ""),
            "judge": float(pairs.values[row]),
            "people": float(pairs.labels[row]),
            "gap": float(gaps[row]),
        }
        for row, score in ((row, pairs[int(row)]) for row in most)
    ]


def _places(numbers: Floats) -> Floats:
    """Where each number stands among all, from 0 to 1; equal numbers share their middle."""
    import numpy as np

    _, index, count = np.unique(numbers, return_inverse=True, return_counts=True)
    below = np.cumsum(count) - count
    return ((below + (count - 1) / 2) / max(1, len(numbers) - 1))[index]
