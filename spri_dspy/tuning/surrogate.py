"""A number in [0, 1] for each example, whose mean follows a metric that only a whole set has.

DSPy's optimisers average numbers of single examples. A correlation is no such average, but near a given program it is
almost one. With z_h and z_s the label and the score of an example, standardised in its group by the labels and by that
program's own scores, and r0 its correlation there, the example counts as

    r0 + z_h z_s - r0/2 (z_h^2 + z_s^2)

the influence function of r. Weighted by N / (G n_g), so that every group counts alike, the mean of that program's own
examples is exactly its macro Pearson; for other programs it is right to first order. So it is fitted anew for every
new incumbent, and the final choice is never made by it. A mean metric is its own surrogate, put on another scale.

    stand_in = fit(metric, scores_of_the_incumbent)
    stand_in.value(score)      0.5 is what the incumbent's examples have on average

A missing score has the neutral 0.5: it is no evidence, and never a zero. It knows Scores and metrics, and nothing of
programs, LMs or DSPy. Source: notes of `tuning`; the influence function of r is Devlin, Gnanadesikan, Kettenring 1975.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING

from spri_dspy.metrics.columns import group_of, is_number

if TYPE_CHECKING:
    from spri_dspy.metrics import Metric
    from spri_dspy.records import Score

NEUTRAL = 0.5
"""What the incumbent's examples have on average, and what a missing score counts as."""

_FEWEST = 3
"""Rows that a group needs for a correlation; with fewer the metric leaves it out, and so does the surrogate."""


@dataclass(frozen=True)
class Moments:
    """What standardises one group.

    Attributes:
        label, score: mean and standard deviation of the labels, and of the incumbent's scores.
        r: the incumbent's correlation.
        weight: N / (G n_g).
    """

    label: tuple[float, float]
    score: tuple[float, float]
    r: float
    weight: float = 1.0

    def influence(self, score: float, label: float) -> float:
        """One example's part of r, unweighted."""
        z_h, z_s = (label - self.label[0]) / self.label[1], (score - self.score[0]) / self.score[1]
        return self.r + z_h * z_s - self.r / 2 * (z_h * z_h + z_s * z_s)


@dataclass(frozen=True)
class Surrogate:
    """Numbers for single examples; made by `fit`.

    Attributes:
        centre: the mean of the incumbent's raw numbers: its metric, as `Metric.measure` has it. Becomes 0.5.
        half: the distance from the centre, in raw numbers, that becomes 0 or 1; what lies beyond is clipped.
        groups: moments by group, for a correlation; empty for a mean.
        pooled: moments over all groups, for telling a good example where its group cannot.
        bars: by group, the median of the incumbent's unweighted numbers; under None that over all groups.
    """

    centre: float
    half: float
    groups: Mapping[str, Moments]
    pooled: Moments | None
    bars: Mapping[str | None, float]

    def raw(self, score: Score) -> float | None:
        """The example's weighted number in the metric's own unit; None if it has no score or label, or no use."""
        if not is_number(score.value):
            return None
        assert score.value is not None
        if self.pooled is None:
            return score.value
        moments = self.groups.get(group_of(score))
        if moments is None or score.label is None or not is_number(score.label):
            return None
        return moments.weight * moments.influence(score.value, score.label)

    def value(self, score: Score) -> float:
        """The example's number in [0, 1]; NEUTRAL if it has none."""
        raw = self.raw(score)
        if raw is None:
            return NEUTRAL
        return min(1.0, max(0.0, NEUTRAL + (raw - self.centre) / (2 * self.half)))

    def is_good(self, score: Score) -> bool:
        """Whether an example did at least as well as the incumbent's median one of its group: worth showing others."""
        if not is_number(score.value):
            return False
        assert score.value is not None
        if self.pooled is None:
            return score.value >= self.bars[None]
        if score.label is None or not is_number(score.label):
            return False
        group = group_of(score)
        moments = self.groups.get(group)
        if moments is None:
            moments, group = self.pooled, None
        return moments.influence(score.value, score.label) >= self.bars[group]


def fit(metric: Metric, scores: Sequence[Score]) -> Surrogate:
    """The surrogate around the program whose scores these are.

    Args:
        metric: only its kind matters: of an arbitrary function this is its stand-in.
        scores: with labels where the metric needs them; those without are left out.
    """
    if metric.kind == "mean":
        return _of_mean([s.value for s in scores if s.value is not None and is_number(s.value)])
    rows: dict[str, list[tuple[float, float]]] = {}
    for s in scores:
        if s.value is not None and s.label is not None and is_number(s.value) and is_number(s.label):
            rows.setdefault(group_of(s), []).append((s.value, s.label))
    return _of_pearson(rows)


def _of_mean(values: Sequence[float]) -> Surrogate:
    """Centre and range leave room for half as good again, or for twice the spread seen."""
    centre = fmean(values) if values else 0.0
    width = max(max(values) - min(values), abs(centre) / 2) if values else 1.0
    reach = max((abs(v - centre) for v in values), default=0.0) + width
    return Surrogate(centre, reach or 1.0, {}, None, {None: median(values) if values else 0.0})


def _of_pearson(labelled: Mapping[str, Sequence[tuple[float, float]]]) -> Surrogate:
    rows = {
        g: pairs for g, pairs in labelled.items() if len(pairs) >= _FEWEST and _spread([h for _, h in pairs])
    }
    n_rows = sum(map(len, rows.values()))
    deviations = [s - fmean(score for score, _ in pairs) for pairs in rows.values() for s, _ in pairs]
    usual = _spread(deviations) or 1.0
    groups = {g: _moments(pairs, n_rows / (len(rows) * len(pairs)), usual) for g, pairs in rows.items()}
    together = [pair for pairs in labelled.values() for pair in pairs]
    pooled = _moments(together, 1.0, usual) if together else Moments((0.0, 1.0), (0.0, 1.0), 0.0)
    influences = {g: [groups[g].influence(*pair) for pair in pairs] for g, pairs in rows.items()}
    weighted = [groups[g].weight * each for g, found in influences.items() for each in found]
    centre = fmean(weighted) if weighted else 0.0
    bars: dict[str | None, float] = {g: median(found) for g, found in influences.items()}
    bars[None] = median([pooled.influence(*pair) for pair in together]) if together else 0.0
    reach = max((abs(raw - centre) for raw in _extremes(rows, groups, usual)), default=0.0)
    return Surrogate(centre, reach or 1.0, groups, pooled, bars)


def _moments(pairs: Sequence[tuple[float, float]], weight: float, usual: float) -> Moments:
    """Moments of (score, label) pairs; constant scores are standardised by the usual spread, with r = 0.

    So a program that begins to tell examples apart is rewarded although the incumbent does not.
    """
    scores, labels = zip(*pairs, strict=True)
    label = (fmean(labels), _spread(labels) or 1.0)
    spread = _spread(scores)
    if not spread:
        return Moments(label, (fmean(scores), usual), 0.0, weight)
    z_s = [(s - fmean(scores)) / spread for s in scores]
    r = fmean(a * (h - label[0]) / label[1] for a, h in zip(z_s, labels, strict=True))
    return Moments(label, (fmean(scores), spread), r, weight)


def _extremes(
    rows: Mapping[str, Sequence[tuple[float, float]]], groups: Mapping[str, Moments], usual: float
) -> list[float]:
    """Weighted numbers that a program may come to: with the scores seen, and scores one spread beyond them."""
    seen = [score for pairs in rows.values() for score, _ in pairs]
    if not seen:
        return []
    ends = (min(seen) - usual, max(seen) + usual)
    found: list[float] = []
    for group, pairs in rows.items():
        moments = groups[group]
        for score, label in pairs:
            tried = [score, *ends]
            if moments.r:
                best = (
                    moments.score[0]
                    + (label - moments.label[0]) / moments.label[1] / moments.r * moments.score[1]
                )
                tried += [best] if ends[0] < best < ends[1] else []
            found += [moments.weight * moments.influence(each, label) for each in tried]
    return found


def _spread(values: Sequence[float]) -> float:
    """Population standard deviation; 0 for what only rounding tells from constant."""
    if len(values) < 2 or max(values) - min(values) <= 1e-12 * max(map(abs, values)):
        return 0.0
    spread = pstdev(values)
    return spread if math.isfinite(spread) else 0.0
