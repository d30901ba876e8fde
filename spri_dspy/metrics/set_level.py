"""Statistics of a set of scores, for all examples, by group, and as the mean over groups.

    pearson(scores)     by_group(pearson, scores)     macro(pearson, scores)

A Statistic is called with scores and returns an Estimate: the value, how many examples went in, how many had
no score or no label, and a 95 % interval from leaving clusters out (`jackknife`). It never fails on the
scores it is given: what cannot be computed is nan with a reason, and what was left out is counted. Results
do not depend on the order of the scores, only on the scores and `rng`.

**Means over groups** (`macro`) have one definition, for what is chosen and what is reported alike: races, tuning and
tables use it. Missing scores are dropped and counted. A group with fewer than three scored and labelled examples, or
with constant labels, tells nothing of anybody: it is left out and named. A group whose scores are constant although
its labels vary counts as 0: telling nothing apart earns nothing. Alone, a correlation of constant scores is nan.

It knows nothing of files, tasks, models or DSPy, and it never turns a missing score into a number.
Comparisons of two systems, and of raters, are in `comparison`; where scores come from is in `metric`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spri_dspy.metrics.bootstrap import Columns, Evaluator, bootstrap_interval, collect
from spri_dspy.metrics.columns import Needs, ScoreColumns
from spri_dspy.metrics.jackknife import LOPSIDED, Blocks, Interval, Scale, is_lopsided, jackknife_interval
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats, Integers

CONSTANT = "constant scores"
"""The reason of a correlation that has labels to follow and follows none of them."""

_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True, slots=True)
class Sums:
    """A statistic that follows from sums over rows, so that resampling and swapping rows is adding up.

    Attributes:
        rows: values and labels -> the numbers to add up (rows x sums), of each row for itself.
        combine: sums (... x sums) -> the statistic; nan where it has none. The second argument stands where scores
            are constant and labels are not.
        is_standard: values and labels are standardised first, in each group and for each system.
    """

    rows: Callable[[Floats, Floats], Floats]
    combine: Callable[[Floats, float], Floats]
    is_standard: bool = False

    def table(self, columns: Columns) -> Floats:
        """The sums of every cluster (clusters x sums)."""
        import numpy as np

        sides = columns.values, columns.labels
        x, y = map(standardised, sides) if self.is_standard else sides
        table = np.zeros((columns.n_clusters, self.rows(x[:0], y[:0]).shape[1]))
        for start in range(0, len(x), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            np.add.at(table, columns.clusters[part], self.rows(x[part], y[part]))
        return table


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number about a set of scores; call it with them.

    Attributes:
        name: the name in estimates and reports.
        prepare: takes rows once, and what constant scores come to while labels vary (nan, or 0 in a mean over
            groups); returns the Evaluator, which is nan where there is no value.
        needs: what an example must have to go in; others are dropped and counted.
        is_correlation: constant scores or labels, and fewer than three examples, have no value if so.
        undefined: the reason given where there is no value.
        scale: what it is, which decides how its interval is made; None: of anything, by the bootstrap.
        sums: how it follows from sums; None if it does not.
    """

    name: str
    prepare: Callable[[Columns, float], Evaluator]
    needs: Needs = "label"
    is_correlation: bool = False
    undefined: str = "not a number"
    scale: Scale | None = None
    sums: Sums | None = None

    @classmethod
    def of(
        cls,
        function: Callable[[Sequence[Score]], float | Estimate],
        name: str | None = None,
        needs: Needs = "value",
    ) -> Statistic:
        """Any function of scores: it is called once for every resample, with examples of it repeated.

        Args:
            function: pure, and blind to the scores' order; nan where it has no value.
            name: by default the function's.
            needs: what every score has that it is called with.
        """

        def prepare(columns: Columns, flat: float) -> Evaluator:
            import numpy as np

            scores = list(columns.scores)

            def once(drawn: Floats) -> float:
                times = drawn[columns.clusters].astype(int).tolist()
                return number([s for s, n in zip(scores, times, strict=True) for _ in range(n)])

            return lambda counts: np.array([once(drawn) for drawn in counts], dtype=np.float64)

        def number(scores: list[Score]) -> float:
            found = function(scores)
            return found.value if isinstance(found, Estimate) else float(found)

        own = getattr(function, "__name__", type(function).__name__)
        return cls(name or own, prepare, needs=needs, undefined="the function gives no number")

    def __call__(
        self,
        scores: Sequence[Score],
        *,
        ci: bool = True,
        resamples: int = 1000,
        rng: random.Random | None = None,
    ) -> Estimate:
        """Compute the statistic over all scores alike, whatever their group.

        Args:
            scores: one item an example, in any order.
            ci: False leaves the interval nan, which is quicker.
            resamples: how often the statistic is computed anew at most for the interval: without each cluster, or
                without each of so many blocks of clusters; one's own functions on bootstrap resamples.
            rng: where bootstrap resamples come from; None means `random.Random(0)`.
        """
        import numpy as np

        columns = collect(scores, self.needs)
        n = len(columns.rows)
        dropped = len(scores) - n
        reason = _unusable(columns, self)
        if reason:
            return Estimate(self.name, math.nan, n, dropped, reason=reason)
        with np.errstate(all="ignore"):  # an overflow is not finite, and reported below
            evaluate = self.prepare(columns, math.nan)
            value = float(evaluate(np.ones((1, columns.n_clusters)))[0])
        if not math.isfinite(value):
            return Estimate(self.name, math.nan, n, dropped, reason=self.undefined)
        if not ci:
            return Estimate(self.name, value, n, dropped)
        interval = interval_of(self, value, columns, evaluate, resamples, rng)
        return Estimate(self.name, value, n, dropped, interval.low, interval.high, interval.note)


def by_group(
    statistic: Statistic,
    scores: Sequence[Score],
    *,
    ci: bool = True,
    resamples: int = 1000,
    rng: random.Random | None = None,
) -> dict[str, Estimate]:
    """Apply a statistic to every group apart; keys in alphabetical order, arguments as for a Statistic."""
    rng = rng or random.Random(0)
    parts = ScoreColumns.of(scores).by_group()
    return {g: statistic(part, ci=ci, resamples=resamples, rng=rng) for g, part in parts}


def macro(
    statistic: Statistic,
    scores: Sequence[Score],
    *,
    ci: bool = True,
    resamples: int = 1000,
    rng: random.Random | None = None,
) -> Estimate:
    """Compute the plain mean of a statistic over the groups, every group counting alike; see this module.

    Groups without a value are left out of the mean, never silently: `reason` names them, and their
    examples count as dropped. If no group has a value, the mean has none either. Arguments as for a
    Statistic.
    """
    name, scores = f"macro {statistic.name}", ScoreColumns.of(scores)
    groups = by_group(statistic, scores, ci=False)
    flat = [g for g, e in groups.items() if e.reason == CONSTANT]
    values = {g: e.value for g, e in groups.items() if not math.isnan(e.value)} | dict.fromkeys(flat, 0.0)
    missing = [f"{g} ({e.reason})" for g, e in groups.items() if g not in values]
    notes = [f"without {', '.join(missing)}"] if missing else []
    notes += [f"{', '.join(flat)} counted as 0 ({CONSTANT})"] if flat else []
    if not values:
        reasons = {e.reason for e in groups.values()} or {"no examples"}
        reason = reasons.pop() if len(reasons) == 1 else notes[0]
        return Estimate(name, math.nan, 0, len(scores), reason=reason)
    value = sum(values.values()) / len(values)
    if not math.isfinite(value):
        return Estimate(name, math.nan, 0, len(scores), reason=statistic.undefined)
    n = sum(groups[g].n for g in values)
    interval = Interval()
    if ci:
        columns = collect(scores.of_groups(values), statistic.needs)
        evaluate = mean_over_groups(statistic, columns, sorted(values))
        interval = interval_of(statistic, value, columns, evaluate, resamples, rng)
    reason = "; ".join([*notes, *([interval.note] if interval.note else [])]) or None
    return Estimate(name, value, n, len(scores) - n, interval.low, interval.high, reason)


def interval_of(
    statistic: Statistic,
    value: float,
    columns: Columns,
    evaluate: Evaluator,
    resamples: int,
    rng: random.Random | None,
) -> Interval:
    """The interval of a statistic's value, or of its mean over groups; see `Statistic.__call__`."""
    import numpy as np

    if statistic.scale is None:
        return bootstrap_interval(value, columns, evaluate, resamples, rng)
    if statistic.scale == "correlation" and is_lopsided(columns.n_clusters, [columns.values, columns.labels]):
        return Interval(note=LOPSIDED)
    blocks = Blocks.of(columns.strata, resamples)
    if blocks.too_few():
        return Interval(note=blocks.too_few())
    without = np.concatenate([evaluate(c) for c in blocks.counts(len(columns.rows))])
    return jackknife_interval(value, without, blocks, statistic.scale)


def mean_over_groups(statistic: Statistic, columns: Columns, groups: Sequence[str]) -> Evaluator:
    """The statistic's mean over these groups, resample by resample; see `mean_of_groups`.

    Where a resample takes a group its value, the value of all its rows stands in.
    """
    import numpy as np

    parts = [statistic.prepare(columns.only(group), 0.0) for group in groups]
    with np.errstate(all="ignore"):  # an overflow is not finite, which is what is meant
        whole = np.concatenate([part(np.ones((1, columns.n_clusters))) for part in parts])

    def evaluate(counts: Floats) -> Floats:
        values = np.stack([part(counts) for part in parts], axis=-1)
        return mean_of_groups(np.where(np.isfinite(values), values, whole))

    return evaluate


def mean_of_groups(values: Floats) -> Floats:
    """Means over the last axis, groups without a value (nan) left out; nan where none has one."""
    import numpy as np

    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=-1) / defined.sum(axis=-1)


def _unusable(columns: Columns, statistic: Statistic) -> str | None:
    """Why these scores cannot have a value, or None if nothing speaks against one."""
    import numpy as np

    n, every = len(columns.rows), columns.every
    if not n:
        if not len(every):
            return "no examples"
        if statistic.needs == "label" and not np.isfinite(every.labels).any():
            return "no labels"
        if statistic.needs == "pair":
            return "no predictions"
        return "no example has both a score and a label" if every.has("value").any() else "no scores"
    if not statistic.is_correlation:
        return None
    if n < 3:
        return f"needs at least 3 examples, has {n}"
    if not has_spread(columns.labels):
        return "constant labels"
    return None if has_spread(columns.values) else CONSTANT


def has_spread(side: Floats) -> bool:
    """Whether numbers differ; beyond twelve digits a spread is rounding, and a correlation with it is noise."""
    return float(side.max()) - float(side.min()) > 1e-12 * float(abs(side).max())


def standardised(side: Floats) -> Floats:
    """Mean 0 and variance 1; all 0 if constant."""
    if not len(side) or not has_spread(side):
        return side * 0.0
    centred = (side - side.mean()) / (side.max() - side.min())
    return centred / centred.std()


def pearson_rows(values: Floats, labels: Floats) -> Floats:
    """What `correlation` needs, row by row: 1, x, y, xx, yy, xy."""
    import numpy as np

    ones = np.ones(len(values))
    return np.stack([ones, values, labels, values * values, labels * labels, values * labels], axis=1)


def correlation(sums: Floats, flat: float = math.nan) -> Floats:
    """Pearson's r from sums of `pearson_rows` (... x 6), each possibly weighted; the one place where it is computed.

    Args:
        sums: of values and labels that are about 1 in size and centred at about 0, as `standardised` makes them.
        flat: what constant values come to while labels vary. Constant labels, or no row at all, are nan.
    """
    import numpy as np

    with np.errstate(all="ignore"):  # no row at all is nan, which is what is meant
        mean = sums[..., 1:] / sums[..., :1]
        x, y, xx, yy, xy = np.moveaxis(mean, -1, 0)
        var_x, var_y = xx - x * x, yy - y * y
        r = np.where(var_x < 1e-12, flat, (xy - x * y) / np.sqrt(var_x * var_y))
        return np.where(var_y < 1e-12, np.nan, r)


def by_sums(name: str, sums: Sums, **settings: Any) -> Statistic:
    """A statistic that follows from sums; settings are those of a Statistic."""

    def prepare(columns: Columns, flat: float) -> Evaluator:
        import numpy as np

        table = sums.table(columns)

        def evaluate(counts: Floats) -> Floats:
            with np.errstate(
                all="ignore"
            ):  # an overflow or an empty resample is undefined, which is what is meant
                return sums.combine(counts @ table, flat)

        return evaluate

    return Statistic(name, prepare, sums=sums, **settings)


def _average(name: str, rowwise: Callable[[Floats, Floats], Floats], **settings: Any) -> Statistic:
    """A statistic that is the plain mean of one number a row."""

    def rows(values: Floats, labels: Floats) -> Floats:
        import numpy as np

        return np.stack([np.ones(len(values)), rowwise(values, labels)], axis=1)

    def combine(sums: Floats, flat: float) -> Floats:
        return sums[..., 1] / sums[..., 0]

    return by_sums(name, Sums(rows, combine), **settings)


def runs(index: Integers) -> tuple[Integers, Integers]:
    """The order that brings equal numbers together, and where each run of them starts in it."""
    import numpy as np

    order = np.argsort(index, kind="stable")
    return order, np.flatnonzero(np.diff(index[order], prepend=-1))


def _pair_share(name: str, kind: int) -> Statistic:
    """A statistic that is the share of one kind among the pairs that labels tell apart; see `_pairs`."""

    def portion(totals: Floats) -> Floats:
        import numpy as np

        with np.errstate(all="ignore"):
            return totals[..., kind] / totals.sum(axis=-1)

    def prepare(columns: Columns, flat: float) -> Evaluator:
        pairs = _pairs(columns)
        return lambda counts: portion(counts @ pairs)

    reason = "no two examples of a cluster differ in their labels"
    return Statistic(name, prepare, undefined=reason, scale="share")


def _pairs(columns: Columns) -> Floats:
    """Pairs that labels tell apart, by cluster (rows): ordered wrong, tied, ordered right (columns)."""
    import numpy as np

    table = np.zeros((columns.n_clusters, 3))
    order, starts = runs(columns.clusters)
    for rows in np.split(order, starts[1:]):
        values, labels = columns.values[rows], columns.labels[rows]
        above = np.sign(labels[:, None] - labels) > 0
        kinds = np.sign(values[:, None] - values)[above].astype(np.int64) + 1
        table[columns.clusters[rows[0]]] = np.bincount(kinds, minlength=3)
    return table


pearson = by_sums(
    "pearson", Sums(pearson_rows, correlation, is_standard=True), is_correlation=True, scale="correlation"
)
"""Pearson's r between scores and labels, in [-1, 1]."""

mae = _average("mae", lambda x, y: abs(x - y), scale="mean")
"""Mean absolute difference of scores and labels, 0 or more, in the scores' own unit."""

mean = _average("mean", lambda x, y: x, needs="value", scale="mean")
"""Mean of the scores; needs no labels."""

share = _average("share", lambda x, y: x.clip(0, 1), needs="value", scale="share")
"""Mean of scores that are 0 or 1 (or between, where several samples were taken); needs no labels."""

pair_accuracy = _pair_share("pair_accuracy", 2)
"""Of the pairs of one cluster that labels tell apart, the share that scores put in the same order.

In [0, 1]; a tie is not right. `pair_ties` is the share of ties, and what remains is ordered wrong.
Examples without a cluster are in no pair.
"""

pair_ties = _pair_share("pair_ties", 1)
"""Of the pairs of one cluster that labels tell apart, the share to which the scores give a tie."""
