"""What the scores paid for so far say about candidates, and about pairs of them.

Every candidate has scores on the first rows of one plan, some on more than others. Rows of a stratum are a
random sample of it without replacement, so doubt is the stratified variance of influences, less what is
already paid for. Source of the correction for unequal numbers of rows: two-phase sampling with a
regression estimator (Cochran, Sampling Techniques, chapter 12), whose slope is pooled over all candidates.

It knows plans, objectives and scores; who is asked next is decided in `racing`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from spri_dspy.metrics.columns import is_number
from spri_dspy.metrics.comparison import Comparison, permutation_p
from spri_dspy.metrics.jackknife import Blocks, jackknife_interval
from spri_dspy.tuning.racing.objectives import Measure, Objective, Plan

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats, Integers

_VARIANCE_ROWS = 4.0  # a stratum's variance is pulled to the overall one with this many rows' weight
_SCALE_ROWS = 10.0  # and the overall one to the objective's scale: a few tied scores prove nothing
_SWAPS, _WIDTH = 4000, 8000  # swaps of a test; numbers held for the metric without one cluster


class Gap(NamedTuple):
    """How much better one candidate is than another on all rows, and the variance of saying so."""

    value: float
    variance: float


class _Prefix(NamedTuple):
    """What holds for the first rows of the plan.

    Attributes:
        stratum: each row's.
        paid: rows of each stratum, at least 1 so that it can be divided by.
        weight: how many rows each row stands for.
        doubt: by stratum, what a unit of residual variance adds to the variance of the metric.
        freedom: by stratum, rows beyond the first.
    """

    stratum: Integers
    paid: Floats
    weight: Floats
    doubt: Floats
    freedom: Floats


class Sheet:
    """Scores by candidate (a number) and place in the plan; `paid[c]` places of each are known."""

    def __init__(self, plan: Plan, objective: Objective, n_candidates: int) -> None:
        import numpy as np

        self.plan, self._objective = plan, objective
        self.paid = [0] * n_candidates
        self._scores = np.full((n_candidates, len(plan.rows)), np.nan)
        self._measures: dict[tuple[int, int], Measure] = {}
        self._gaps: dict[tuple[int, int, int, int], Gap] = {}
        self._prefixes: dict[int, _Prefix] = {}
        self._slopes: dict[int, float] = {}

    def add(self, candidate: int, scores: Sequence[float | None]) -> None:
        """Append the scores of a candidate's next rows; what is no number is missing."""
        start = self.paid[candidate]
        numbers = [float(s) if s is not None and is_number(s) else math.nan for s in scores]
        self._scores[candidate, start : start + len(scores)] = numbers
        self.paid[candidate] += len(scores)
        lengths = set(self.paid)  # what was computed for other lengths is not asked for again
        self._measures = {k: v for k, v in self._measures.items() if k[1] in lengths}
        self._prefixes = {k: v for k, v in self._prefixes.items() if k in lengths}
        self._gaps = {k: v for k, v in self._gaps.items() if k[2] in lengths and k[3] in lengths}

    def scored(self, candidate: int) -> int:
        """How many of the candidate's rows have a score."""
        import numpy as np

        return int(np.isfinite(self._scores[candidate, : self.paid[candidate]]).sum())

    def measure(self, candidate: int, rows: int | None = None) -> Measure:
        """The metric on the candidate's first rows; None means all that are paid for."""
        rows = self.paid[candidate] if rows is None else rows
        if (candidate, rows) not in self._measures:
            weight = self._prefix(rows).weight
            scores = self._scores[candidate, :rows]
            self._measures[candidate, rows] = self._objective.measure(self.plan, scores, weight)
        return self._measures[candidate, rows]

    def variance(self, candidate: int) -> float:
        """Variance of the candidate's metric, as an estimate of its value on all rows of the plan."""
        rows = self.paid[candidate]
        measured = self.measure(candidate)
        return self._variance(self._residual(measured.influence, rows), rows, measured.scale)

    def gap(self, a: int, b: int) -> Gap:
        """How much better `a` is than `b`, corrected for what one saw and the other did not."""
        if self.paid[b] > self.paid[a]:
            value, variance = self.gap(b, a)
            return Gap(-value, variance)
        key = (a, b, self.paid[a], self.paid[b])
        if key not in self._gaps:
            self._gaps[key] = self._gap(a, b)
        return self._gaps[key]

    def _gap(self, a: int, b: int) -> Gap:
        n_a, n_b = self.paid[a], self.paid[b]
        here, there, full = self.measure(a, n_b), self.measure(b), self.measure(a)
        mine, other = (self._residual(m.influence, n_b) for m in (here, there))
        scale = (here.scale + there.scale) / 2
        if n_a == n_b:
            return Gap(full.value - there.value, self._variance(mine - other, n_b, scale))
        if math.isnan(here.value):  # all its scores came later
            return Gap(full.value - there.value, self.variance(a) + self.variance(b))
        slope = self._slope(min(self.paid))
        value = (1 - slope) * full.value - (there.value - slope * here.value)
        variance = (1 - slope) ** 2 * self.variance(a) + self._variance(other - slope * mine, n_b, scale)
        return Gap(value, variance)

    def _slope(self, rows: int) -> float:
        """How much of a candidate's deviation on the first rows the others share, in [0, 1].

        Pooled over all pairs: one pair's own slope, from the few rows that a loser has, is mostly noise.
        """
        import numpy as np

        if rows not in self._slopes:
            measures = [self.measure(c, rows) for c in range(len(self.paid))]
            p = self._prefix(rows)
            weight = np.sqrt(p.doubt / p.paid)[p.stratum]
            heard = [weight * self._residual(m.influence, rows) for m in measures if not math.isnan(m.value)]
            own, together = (
                sum(float((r * r).sum()) for r in heard),
                float((np.array(heard).sum(0) ** 2).sum()),
            )
            pairs = own * (len(heard) - 1)
            self._slopes[rows] = min(1.0, max(0.0, (together - own) / pairs)) if pairs > 0 else 0.0
        return self._slopes[rows]

    def compare(self, a: int, b: int, clusters: Sequence[str | None], *, tests: int, seed: int) -> Comparison:
        """The metric of `a` less that of `b`: p of the paired permutation test, interval of the cluster jackknife.

        Args:
            a: the candidate whose excess is reported.
            b: the other one.
            clusters: one per row of the plan; None is a cluster of one.
            tests: for how many comparisons at once the interval and p are to hold.
            seed: decides swaps.
        """
        import numpy as np

        name, rows, rng = self._objective.name, min(self.paid[a], self.paid[b]), random.Random(seed)
        test = (
            f"paired permutation test of clusters, {_SWAPS} draws; interval: cluster jackknife; both corrected for "
            f"{tests} comparisons"
        )
        sides = self._scores[[a, b], :rows]
        at = np.flatnonzero(np.isfinite(sides).all(axis=0))
        dropped = rows - len(at)
        home, sums = self._cluster_sums(sides, at, clusters)
        if len(home) < 2:
            reason = "fewer than two common clusters"
            return Comparison(name, math.nan, math.nan, math.nan, math.nan, len(at), test, dropped, reason)
        strata = [np.flatnonzero(home == g) for g in np.unique(home)]
        blocks = Blocks.of(strata)
        counts = blocks.counts(_WIDTH)
        without = np.concatenate([self._differences(np.tensordot(c, sums, 1)) for c in counts])
        difference = float(self._differences(sums.sum(axis=0)[None])[0])
        low, high, note = jackknife_interval(difference, without, blocks, "difference", level=0.05 / tests)
        first, second = np.split(sums, 2, axis=-1)
        p = permutation_p(first, second, self._objective.combine, draws=_SWAPS, rng=rng)
        return Comparison(name, difference, low, high, min(1.0, tests * p), len(at), test, dropped, note)

    def _cluster_sums(
        self, sides: Floats, at: Integers, clusters: Sequence[str | None]
    ) -> tuple[Integers, Floats]:
        """Each cluster's group, and its weighted moments: clusters x groups x (first's, second's moments)."""
        import numpy as np

        label, group, names = self.plan.label[at], self.plan.group[at], [clusters[i] for i in at.tolist()]
        numbers: dict[str | int, int] = {}
        own = [numbers.setdefault(i if c is None else c, len(numbers)) for i, c in enumerate(names)]
        cluster = np.array(own, dtype=np.int64)
        home = np.zeros(len(numbers), dtype=np.int64)
        home[cluster] = group
        if not len(home):
            return home, np.zeros((0, 1, 2))
        moments = np.concatenate([self._objective.moments(label, side[at]) for side in sides], axis=1)
        sums = np.zeros((len(home), int(self.plan.group.max()) + 1, moments.shape[1]))
        np.add.at(sums, (cluster, group), self._prefix(sides.shape[1]).weight[at, None] * moments)
        return home, sums

    def _differences(self, sums: Floats) -> Floats:
        """First candidate's metric less the second's, by resample, rounded: rounding is no difference."""
        half = sums.shape[-1] // 2
        combine = self._objective.combine
        return (combine(sums[..., :half]) - combine(sums[..., half:])).round(12)

    def _prefix(self, rows: int) -> _Prefix:
        import numpy as np

        if rows not in self._prefixes:
            plan, stratum = self.plan, self.plan.stratum[:rows]
            n = np.bincount(stratum, minlength=len(plan.size))
            paid = np.maximum(n, 1)
            doubt = plan.share**2 * (1 - n / plan.size) / paid
            weight = (plan.size / paid)[stratum]
            self._prefixes[rows] = _Prefix(stratum, paid, weight, doubt, np.maximum(n - 1.0, 0.0))
        return self._prefixes[rows]

    def _residual(self, influence: Floats, rows: int) -> Floats:
        """Influences less their stratum's mean: the mean is known to be weighted rightly."""
        import numpy as np

        p = self._prefix(rows)
        return influence - (np.bincount(p.stratum, influence, len(p.paid)) / p.paid)[p.stratum]

    def _variance(self, residual: Floats, rows: int, scale: float) -> float:
        """Stratified variance of a weighted mean, without replacement, steadied by priors."""
        import numpy as np

        p, expected = self._prefix(rows), self.plan.spread**2
        squares = np.bincount(p.stratum, residual * residual, len(p.paid))
        level = (squares.sum() + _SCALE_ROWS * scale) / ((p.freedom * expected).sum() + _SCALE_ROWS)
        by_stratum = (squares + _VARIANCE_ROWS * level * expected) / (p.freedom + _VARIANCE_ROWS)
        return float((p.doubt * by_stratum).sum()) * rows / max(rows - self.plan.fitted, rows / 4)
