"""Set-level metrics over scores, for all examples, by group, and as the mean over groups.

    pearson(scores)     by_group(pearson, scores)     macro(pearson, scores)

A Metric is called with scores and returns an Estimate: the value, how many examples went in, how many had
no score or no label, and a 95 % interval from resampling clusters (`resampling`). It never fails on the
scores it is given: what cannot be computed is nan with a reason, and what was left out is counted. Results
do not depend on the order of the scores, only on the scores and `rng`.

It knows nothing of files, tasks, models or DSPy, and it never turns a missing score into a number.
Comparisons of two systems, and of raters, are in `paired`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spri_dspy.metrics.bootstrap import (
    Columns,
    Evaluator,
    Interval,
    bootstrap_interval,
    collect,
    group_of,
    is_number,
    wilson,
)
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    from spri_dspy.metrics.bootstrap import Floats, Integers

_ROWS_AT_A_TIME = 2048


@dataclass(frozen=True, slots=True)
class Metric:
    """One number about a set of scores; call it with them.

    Attributes:
        name: the name in estimates and reports.
        compute: the value for the rows as they are; nan if there is none.
        prepare: the same for resamples: takes the rows once and returns the Evaluator.
        needs_label: examples without a label are dropped if so.
        needs_spread: constant scores or labels, and fewer than three examples, have no value if so.
        undefined: the reason given where `compute` is nan.
        closed_form: (value, number of clusters) -> interval, where resampling would mislead.
    """

    name: str
    compute: Callable[[Columns], float]
    prepare: Callable[[Columns], Evaluator]
    needs_label: bool = True
    needs_spread: bool = False
    undefined: str = "not a number"
    closed_form: Callable[[float, int], Interval] | None = None

    def __call__(
        self,
        scores: Sequence[Score],
        *,
        ci: bool = True,
        resamples: int = 1000,
        rng: random.Random | None = None,
    ) -> Estimate:
        """Compute the metric over all scores alike, whatever their group.

        Args:
            scores: one item an example, in any order.
            ci: False leaves the interval nan, which is quicker.
            resamples: how many bootstrap resamples the interval rests on.
            rng: where the resamples come from; None means `random.Random(0)`.
        """
        import numpy as np

        columns = collect(scores, needs_label=self.needs_label)
        n = len(columns.groups)
        dropped = len(scores) - n
        reason = _unusable(scores, columns, self)
        with np.errstate(all="ignore"):  # an overflow is not finite, and reported below
            value = math.nan if reason else self.compute(columns)
        if not math.isfinite(value):
            return Estimate(self.name, math.nan, n, dropped, reason=reason or self.undefined)
        if not ci:
            return Estimate(self.name, value, n, dropped)
        if self.closed_form:
            interval = self.closed_form(value, columns.n_clusters)
        else:
            interval = bootstrap_interval(columns, self.prepare(columns), resamples, rng)
        return Estimate(self.name, value, n, dropped, interval.low, interval.high, interval.note)


def by_group(
    metric: Metric,
    scores: Sequence[Score],
    *,
    ci: bool = True,
    resamples: int = 1000,
    rng: random.Random | None = None,
) -> dict[str, Estimate]:
    """Apply a metric to every group apart; keys in alphabetical order, arguments as for a Metric."""
    rng = rng or random.Random(0)
    members: dict[str, list[Score]] = {}
    for score in scores:
        members.setdefault(group_of(score), []).append(score)
    return {g: metric(members[g], ci=ci, resamples=resamples, rng=rng) for g in sorted(members)}


def macro(
    metric: Metric,
    scores: Sequence[Score],
    *,
    ci: bool = True,
    resamples: int = 1000,
    rng: random.Random | None = None,
) -> Estimate:
    """Compute the plain mean of a metric over the groups, every group counting alike.

    Groups without a value are left out of the mean, never silently: `reason` names them, and their
    examples count as dropped. If no group has a value, the mean has none either. Arguments as for a
    Metric.
    """
    name = f"macro {metric.name}"
    groups = by_group(metric, scores, ci=False)
    defined = {g: e for g, e in groups.items() if not math.isnan(e.value)}
    missing = [f"{g} ({e.reason})" for g, e in groups.items() if g not in defined]
    left_out = f"without {', '.join(missing)}" if missing else None
    if not defined:
        reasons = {e.reason for e in groups.values()} or {"no examples"}
        reason = reasons.pop() if len(reasons) == 1 else left_out
        return Estimate(name, math.nan, 0, len(scores), reason=reason)
    value = sum(e.value for e in defined.values()) / len(defined)
    if not math.isfinite(value):
        return Estimate(name, math.nan, 0, len(scores), reason=metric.undefined)
    n = sum(e.n for e in defined.values())
    if not ci:
        return Estimate(name, value, n, len(scores) - n, reason=left_out)
    columns = collect(scores, needs_label=metric.needs_label)
    interval = bootstrap_interval(columns, mean_over_groups(metric, columns, [*defined]), resamples, rng)
    reason = "; ".join(r for r in (left_out, interval.note) if r) or None
    return Estimate(name, value, n, len(scores) - n, interval.low, interval.high, reason)


def mean_over_groups(metric: Metric, columns: Columns, groups: Sequence[str]) -> Evaluator:
    """The metric's mean over these groups, resample by resample; undefined where one of them is."""
    parts = [metric.prepare(columns.only(group)) for group in groups]

    def evaluate(counts: Floats) -> Floats:
        import numpy as np

        return np.mean([part(counts) for part in parts], axis=0)

    return evaluate


def _unusable(scores: Sequence[Score], columns: Columns, metric: Metric) -> str | None:
    """Why these scores cannot have a value, or None if nothing speaks against one."""
    n = len(columns.groups)
    if not n:
        if not scores:
            return "no examples"
        if metric.needs_label and not any(is_number(s.label) for s in scores):
            return "no labels"
        has_value = any(is_number(s.value) for s in scores)
        return "no example has both a score and a label" if has_value else "no scores"
    if not metric.needs_spread:
        return None
    if n < 3:
        return f"needs at least 3 examples, has {n}"
    for name, numbers in (("scores", columns.values), ("labels", columns.labels)):
        # Beyond twelve digits a spread is rounding, and a correlation with it is noise.
        if float(numbers.max()) - float(numbers.min()) <= 1e-12 * float(abs(numbers).max()):
            return f"constant {name}"
    return None


def _by_cells(formula: Callable[[Floats, Floats, Floats], Floats]) -> Callable[[Columns], Evaluator]:
    """Resample over the distinct (value, label) pairs: judges use few, so most of the work falls away.

    `formula` takes the pairs' values, their labels and how often each pair was drawn (resamples x pairs).
    """

    def prepare(columns: Columns) -> Evaluator:
        import numpy as np

        both = np.stack([columns.values, columns.labels])
        cells: Floats
        cells, index = np.unique(both, axis=1, return_inverse=True)
        order, starts = _runs(index.ravel())
        clusters = columns.clusters[order]

        def evaluate(counts: Floats) -> Floats:
            drawn = np.add.reduceat(counts[:, clusters], starts, axis=1)
            with np.errstate(all="ignore"):  # an empty or constant resample is nan, which is what is meant
                return formula(cells[0], cells[1], drawn)

        return evaluate

    return prepare


def _runs(index: Integers) -> tuple[Integers, Integers]:
    """The order that brings equal numbers together, and where each run of them starts in it."""
    import numpy as np

    order = np.argsort(index, kind="stable")
    return order, np.flatnonzero(np.diff(index[order], prepend=-1))


def _scipy(name: str) -> Callable[[Columns], float]:
    """The statistic of the scipy.stats function of that name."""

    def compute(columns: Columns) -> float:
        from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

        return float(getattr(stats, name)(columns.values, columns.labels).statistic)

    return compute


def _weighted_pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    import numpy as np

    x, y = ((side - side.mean()) / (np.ptp(side) or 1.0) for side in (x, y))
    n = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / n, weights @ y / n
    variance_x = weights @ (x * x) / n - mean_x**2
    variance_y = weights @ (y * y) / n - mean_y**2
    covariance = weights @ (x * y) / n - mean_x * mean_y
    # Both sides have range 1: a variance this small is a constant resample plus rounding.
    constant = (variance_x < 1e-12) | (variance_y < 1e-12)
    return np.where(constant, np.nan, covariance / np.sqrt(variance_x * variance_y))


def _tallied(side: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """How often each distinct value was drawn, and each pair's mid-rank (both resamples x ...)."""
    import numpy as np

    _, index = np.unique(side, return_inverse=True)
    order, starts = _runs(index)
    tally = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(tally, axis=1) - (tally - 1) / 2
    return tally, ranks[:, index]


def _weighted_spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    import numpy as np

    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
    x, y = (_tallied(side, weights)[1] - middle for side in (x, y))
    spread_x, spread_y = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1)
    constant = (spread_x < 1e-9) | (spread_y < 1e-9)
    return np.where(constant, np.nan, (weights * x * y).sum(axis=1) / np.sqrt(spread_x * spread_y))


def _weighted_kendall(x: Floats, y: Floats, weights: Floats) -> Floats:
    import numpy as np

    agreement = np.zeros(len(weights))
    for start in range(0, len(x), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        signs = np.sign(x[part, None] - x) * np.sign(y[part, None] - y)
        agreement += ((weights[:, part] @ signs) * weights).sum(axis=1)
    n = weights.sum(axis=1)
    tallies = (_tallied(side, weights)[0] for side in (x, y))
    untied = [n * (n - 1) - (tally * (tally - 1)).sum(axis=1) for tally in tallies]
    return np.where((untied[0] <= 0) | (untied[1] <= 0), np.nan, agreement / np.sqrt(untied[0] * untied[1]))


def _average(
    name: str,
    rowwise: Callable[[Floats, Floats], Floats],
    *,
    needs_label: bool = True,
    closed_form: Callable[[float, int], Interval] | None = None,
) -> Metric:
    """A metric that is the plain mean of one number a row."""

    def compute(columns: Columns) -> float:
        return float(rowwise(columns.values, columns.labels).mean())

    prepare = _by_cells(lambda x, y, weights: weights @ rowwise(x, y) / weights.sum(axis=1))
    return Metric(name, compute, prepare, needs_label=needs_label, closed_form=closed_form)


def _pair_share(name: str, kind: int) -> Metric:
    """A metric that is the share of one kind among the pairs that labels tell apart; see `_pairs`."""

    def portion(totals: Floats) -> Floats:
        import numpy as np

        with np.errstate(all="ignore"):
            return totals[..., kind] / totals.sum(axis=-1)

    def compute(columns: Columns) -> float:
        return float(portion(_pairs(columns).sum(axis=0)))

    def prepare(columns: Columns) -> Evaluator:
        pairs = _pairs(columns)
        return lambda counts: portion(counts @ pairs)

    return Metric(name, compute, prepare, undefined="no two examples of a cluster differ in their labels")


def _pairs(columns: Columns) -> Floats:
    """Pairs that labels tell apart, by cluster (rows): ordered wrong, tied, ordered right (columns)."""
    import numpy as np

    table = np.zeros((columns.n_clusters, 3))
    order, starts = _runs(columns.clusters)
    for rows in np.split(order, starts[1:]):
        values, labels = columns.values[rows], columns.labels[rows]
        above = np.sign(labels[:, None] - labels) > 0
        kinds = np.sign(values[:, None] - values)[above].astype(np.int64) + 1
        table[columns.clusters[rows[0]]] = np.bincount(kinds, minlength=3)
    return table


pearson = Metric("pearson", _scipy("pearsonr"), _by_cells(_weighted_pearson), needs_spread=True)
"""Pearson's r between scores and labels, in [-1, 1]."""

spearman = Metric("spearman", _scipy("spearmanr"), _by_cells(_weighted_spearman), needs_spread=True)
"""Spearman's rank correlation between scores and labels, in [-1, 1]; ties share their mean rank."""

kendall = Metric("kendall", _scipy("kendalltau"), _by_cells(_weighted_kendall), needs_spread=True)
"""Kendall's tau-b between scores and labels, in [-1, 1]."""

mae = _average("mae", lambda x, y: abs(x - y))
"""Mean absolute difference of scores and labels, 0 or more, in the scores' own unit."""

mean = _average("mean", lambda x, y: x, needs_label=False)
"""Mean of the scores; needs no labels."""

share = _average("share", lambda x, y: (x != 0) * 1.0, needs_label=False, closed_form=wilson)
"""Share of the scores that are not 0, in [0, 1]; needs no labels.

Interval: Wilson's with the number of clusters as n, which errs on the wide side where clusters are large.
"""

pair_accuracy = _pair_share("pair_accuracy", 2)
"""Of the pairs of one cluster that labels tell apart, the share that scores put in the same order.

In [0, 1]; a tie is not right. `pair_ties` is the share of ties, and what remains is ordered wrong.
Examples without a cluster are in no pair.
"""

pair_ties = _pair_share("pair_ties", 1)
"""Of the pairs of one cluster that labels tell apart, the share to which the scores give a tie."""
