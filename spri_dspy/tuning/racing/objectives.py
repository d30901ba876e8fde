"""What can be raced for: a metric, which rows inform it most, and how much each row moved it.

An objective answers three questions: how rows are split into strata and how hard each stratum should be
sampled (`plan`), what the metric is on a weighted sample and what each row's influence on it was
(`measure`), and how to recompute it from sums for resampling (`moments`, `combine`).

It knows labels, groups and scores; candidates, budgets and decisions are in `racing`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from spri_dspy.metrics.columns import NO_GROUP, is_number
from spri_dspy.metrics.set_level import (
    correlation,
    has_spread,
    mean_of_groups,
    pearson_rows,
    standardised,
)

if TYPE_CHECKING:
    import random

    from spri_dspy.metrics import Metric
    from spri_dspy.metrics.columns import Floats, Integers

_MOST_STRATA = 12  # a group's labels beyond this number are binned
_SPREAD_FLOOR = 0.25  # a row at the mean label still moves r, through the variance of the scores
_POOLED_ROWS = 4.0  # a group's score variance is pulled to the pooled one with this many rows' weight


@dataclass(frozen=True, slots=True)
class Row:
    """What is known about a row before any candidate is asked.

    Attributes:
        label: the number to correlate with; a row without one is of no use to Pearson.
        group: macro means are over groups; rows without one form a group of their own.
        cluster: rows of one cluster are resampled together; None means a cluster of one.
    """

    label: float | None = None
    group: str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows that an objective can use, and how they are to be sampled.

    Attributes:
        rows: indices into the race's rows, in the order in which they are paid for.
        stratum, group, label: one per entry of `rows`; labels are on the scale the objective likes.
        size: rows in each stratum.
        share: weight of each stratum in the metric; they sum to 1.
        spread: how far a row of the stratum moves the metric, relative to other strata.
        fitted: how many numbers the metric fits to the scores; each costs a degree of freedom.
    """

    rows: Integers
    stratum: Integers
    group: Integers
    label: Floats
    size: Integers
    share: Floats
    spread: Floats
    fitted: int

    def ordered(self, rng: random.Random) -> Plan:
        """The same plan in a random order, every beginning of which is a well allocated sample.

        A stratum's j-th row is due at j / (share * spread): Neyman's allocation, capped by the stratum's
        size, at every length at once. The first rows of all strata come first, so that none is unseen.
        """
        import numpy as np

        chance = np.array([rng.random() for _ in self.rows])
        rank = np.zeros(len(self.rows))
        for s in range(len(self.size)):
            members = np.flatnonzero(self.stratum == s)
            rank[members[np.argsort(chance[members])]] = np.arange(len(members))
        due = (rank + chance) / (self.share * self.spread)[self.stratum]
        order = np.lexsort((chance, np.where(rank == 0, 0.0, due)))
        return replace(self, **{n: getattr(self, n)[order] for n in ("rows", "stratum", "group", "label")})


def row_of(metric: Metric, example: Any) -> Row:
    """What a race knows of an example before it is scored."""
    return Row(metric.label_of(example), example.group, example.cluster)


class Measure(NamedTuple):
    """A metric on a weighted sample.

    Attributes:
        value: the metric; nan if no row has a score.
        influence: one per row: how far the row moved the value; their weighted mean is about 0.
        scale: the variance that influences have where the scores tell nothing (for a prior).
    """

    value: float
    influence: Floats
    scale: float


class Objective(Protocol):
    """A metric that can be raced for; larger is better. Its methods depend on their arguments alone."""

    @property
    def name(self) -> str:
        """The metric's name in estimates and comparisons."""
        ...

    def plan(self, rows: Sequence[Row], min_size: float) -> Plan:
        """Choose the usable rows and their strata, of at least `min_size` rows where there are as many."""
        ...

    def measure(self, plan: Plan, score: Floats, weight: Floats) -> Measure:
        """Measure scores (nan: missing) of the plan's first rows; each stands for `weight` rows."""
        ...

    def moments(self, label: Floats, score: Floats) -> Floats:
        """The numbers whose weighted sums make the metric: rows x moments."""
        ...

    def combine(self, sums: Floats) -> Floats:
        """The metric from sums: resamples x groups x moments -> resamples."""
        ...


@dataclass(frozen=True, slots=True)
class MacroPearson:
    """Pearson's r between score and label in each group, then the plain mean of the groups, see `set_level`.

    Rows without a label, groups of fewer than three, and groups whose labels are all alike cannot tell candidates
    apart and are never paid for. A group in which a candidate's scores are constant counts as 0.
    """

    name: str = "macro pearson"

    def plan(self, rows: Sequence[Row], min_size: float) -> Plan:
        """Strata are labels, or neighbouring labels, within a group; labels become z-scores."""
        import numpy as np

        members: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if is_number(row.label):
                members.setdefault(row.group if row.group is not None else NO_GROUP, []).append(i)
        raw = {g: np.array([rows[i].label for i in at], dtype=float) for g, at in sorted(members.items())}
        groups = [g for g, labels in raw.items() if len(labels) > 2 and has_spread(labels)]
        z = {g: standardised(raw[g]) for g in groups}
        parts = [_bins(z[g], max(min_size, len(z[g]) / _MOST_STRATA)) for g in groups]
        first = np.cumsum([0] + [int(p.max()) + 1 for p in parts])
        stratum = np.concatenate([p + f for p, f in zip(parts, first, strict=False)] or [np.zeros(0, int)])
        group = np.repeat(np.arange(len(groups)), [len(z[g]) for g in groups])
        label = np.concatenate([z[g] for g in groups] or [np.zeros(0)])
        size = np.bincount(stratum)
        home = np.zeros(len(size), dtype=np.int64)
        home[stratum] = group
        share = size / np.bincount(group)[home] / max(1, len(groups))
        # Given the label, the influence of a score on r has a variance of about z^2 and a rest.
        spread = np.sqrt(np.bincount(stratum, label**2) / np.maximum(size, 1) + _SPREAD_FLOOR)
        at = np.array([i for g in groups for i in members[g]], dtype=np.int64)
        return Plan(at, stratum, group, label, size, share, spread, 2 * len(groups))

    def measure(self, plan: Plan, score: Floats, weight: Floats) -> Measure:
        """Macro r. Small samples borrow score variance from other groups; a complete one borrows nothing.

        Of a complete sample, groups with fewer than three scores or with constant labels are left out.
        """
        import numpy as np

        group, label = plan.group[: len(score)], plan.label[: len(score)]
        size = np.bincount(plan.group)
        total = lambda v: np.bincount(group, v, len(size))  # noqa: E731
        scored = ~np.isnan(score)
        if not scored.any():
            return Measure(math.nan, np.zeros(len(score)), 1.0)
        weight = np.where(scored, weight, 0.0)
        mass, n = np.maximum(total(weight), 1e-300), total(scored)
        x = np.where(scored, score, 0.0)
        x = x / (float(abs(x).max()) or 1.0)
        x = x - (total(weight * x) / mass)[group]
        y = label - (total(weight * label) / mass)[group]
        var_x, var_y, cov = (total(weight * v) / mass for v in (x * x, y * y, x * y))
        unpaid = 1 - np.bincount(group, minlength=len(size)) / size
        borrowed = _POOLED_ROWS * unpaid
        pooled = float((n * var_x).sum()) / max(1.0, float(np.maximum(n - 1, 0).sum()))
        rows = np.maximum(n - unpaid + borrowed, 1e-9)
        spread_x = (n * var_x + borrowed * pooled) / rows
        one, none = np.ones(len(size)), np.zeros(len(size))
        r = np.clip(correlation(np.stack([one, none, none, spread_x, var_y, cov], axis=1), 0.0), -1, 1)
        r = np.where(unpaid > 0, np.nan_to_num(r), np.where(n > 2, r, np.nan))
        counts = ~np.isnan(r)
        if not counts.any():
            return Measure(math.nan, np.zeros(len(score)), 1.0)
        usable = counts & (spread_x >= 1e-12) & (var_y >= 1e-12)
        sd_x, sd_y = (np.sqrt(np.where(usable, v, 1.0)) for v in (spread_x, var_y))
        zx, zy = x / sd_x[group], y / sd_y[group]
        influence = zx * zy - np.where(usable, r / 2, 0.0)[group] * ((n / rows)[group] * zx * zx + zy * zy)
        share = np.where(usable, size / mass, 0.0) * (len(size) / counts.sum())
        return Measure(float(mean_of_groups(r)), np.where(scored, influence * share[group], 0.0), 1.0)

    def moments(self, label: Floats, score: Floats) -> Floats:
        """What `correlation` adds up; scores and labels standardised over the sample."""
        return pearson_rows(standardised(score), standardised(label))

    def combine(self, sums: Floats) -> Floats:
        """Mean over groups of r: 0 where scores are constant, groups with constant labels left out."""
        return mean_of_groups(correlation(sums, 0.0))


@dataclass(frozen=True, slots=True)
class Mean:
    """Plain mean of the scores; labels play no part, groups are sampled in proportion to their size."""

    name: str = "mean"

    def plan(self, rows: Sequence[Row], min_size: float) -> Plan:
        """Strata are groups; those below `min_size` share one."""
        import numpy as np

        names = [row.group if row.group is not None else NO_GROUP for row in rows]
        counts = dict(sorted(Counter(names).items()))
        large = {g: i for i, g in enumerate(g for g, n in counts.items() if n >= min_size)}
        _, stratum = np.unique([large.get(g, len(large)) for g in names], return_inverse=True)
        size = np.bincount(stratum)
        one = np.zeros(len(rows), dtype=np.int64)
        share = size / max(1, len(rows))
        label = np.zeros(len(rows))
        return Plan(np.arange(len(rows)), stratum, one, label, size, share, np.ones(len(size)), 0)

    def measure(self, plan: Plan, score: Floats, weight: Floats) -> Measure:
        """Weighted mean of the scores that are there."""
        import numpy as np

        scored = ~np.isnan(score)
        if not scored.any():
            return Measure(math.nan, np.zeros(len(score)), 1.0)
        weight = np.where(scored, weight, 0.0)
        mass = float(weight.sum())
        x = np.where(scored, score, 0.0)
        value = float((weight * x).sum()) / mass
        off = np.where(scored, x - value, 0.0)
        return Measure(value, off * (len(plan.rows) / mass), float((weight * off * off).sum()) / mass)

    def moments(self, label: Floats, score: Floats) -> Floats:
        """Count and sum."""
        import numpy as np

        return np.stack([np.ones(len(score)), score], axis=1)

    def combine(self, sums: Floats) -> Floats:
        """Sum over count."""
        import numpy as np

        both = sums.sum(axis=-2)
        return both[..., 1] / np.maximum(both[..., 0], 1e-300)


def objective_of(metric: Metric) -> Objective:
    """What a race maximises for a metric; of an arbitrary function its surrogate."""
    return MacroPearson() if metric.kind == "pearson" else Mean()


def _bins(label: Floats, min_size: float) -> Integers:
    """Number each label's bin: neighbouring labels together until a bin has `min_size` rows."""
    import numpy as np

    _, place, counts = np.unique(label, return_inverse=True, return_counts=True)
    left = np.cumsum(counts[::-1])[::-1] - counts  # rows above each label
    bins = np.zeros(len(counts), dtype=np.int64)
    held = current = 0
    for i, count in enumerate(counts):
        bins[i] = current
        held += count
        if held >= min_size and left[i] >= min_size:
            current, held = current + 1, 0
    return bins[place.ravel()]
