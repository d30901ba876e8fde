"""Two systems on the same examples, and several raters on the same units.

Systems are compared on the examples that both have, paired by id; what only one has, or could read, is
counted as dropped. Nothing here corrects for several comparisons but `holm`, and nothing fails on the
numbers it is given: what cannot be computed is nan with a reason.

It knows metrics and scores, nothing of files, tasks, models or DSPy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spri_dspy.metrics.bootstrap import collect, draw_counts, group_of, is_number, middle
from spri_dspy.metrics.set_level import Metric, by_group, mean_over_groups
from spri_dspy.metrics.set_level import macro as macro_mean
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    from spri_dspy.metrics.bootstrap import Floats

Level = Literal["nominal", "ordinal", "interval"]
"""What the numbers of a rating mean: names, an order, or distances."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much one system's metric exceeds another's on the examples they share.

    Attributes:
        metric: the metric's name.
        difference: first less second; nan if it cannot be computed, `reason` then says why.
        low, high: the ends of its 95 % interval.
        p: two-sided unless `test` says otherwise, not corrected for other comparisons.
        n: examples compared.
        test: how p and the interval were made.
        dropped: examples of either system that could not be compared.
        reason: why something is nan, or what to know about it; None if nothing.
    """

    metric: str
    difference: float
    low: float
    high: float
    p: float
    n: int
    test: str
    dropped: int = 0
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types; nan becomes None, which JSON can hold."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def paired_bootstrap(
    metric: Metric,
    a: Sequence[Score],
    b: Sequence[Score],
    *,
    macro: bool = False,
    resamples: int = 1000,
    rng: random.Random | None = None,
) -> Comparison:
    """Compare two systems by resampling the examples they share, both with the same draws.

    The interval is the middle 95 % of the resampled differences. p is twice the smaller share of
    resamples on either side of 0, counting one more on each side, so it is never below 2/(resamples + 1).
    Groups and clusters are those of `a`.

    Args:
        metric: what to compare.
        a: the system whose excess is reported; ids must be unique, and labels must be those of `b`.
        b: the other one.
        macro: compare the means over groups; groups that are undefined in either are left out and named.
        resamples: how many bootstrap resamples to draw.
        rng: where they come from; None means `random.Random(0)`.
    """
    import numpy as np

    name = f"macro {metric.name}" if macro else metric.name
    test = f"paired bootstrap, {resamples} resamples"
    common = _common(a, b, needs_label=metric.needs_label)
    groups: list[str] = []
    if macro:
        groups, common = _in_defined_groups(metric, common)
    sides = (common.first, common.second)
    ends = [macro_mean(metric, side, ci=False) if macro else metric(side, ci=False) for side in sides]
    difference = ends[0].value - ends[1].value
    if common.broken or not math.isfinite(difference):
        reason = common.note or ends[0].reason or ends[1].reason
        return Comparison(name, *_NOTHING, len(common.first), test, common.dropped, reason)
    columns = [collect(side, needs_label=metric.needs_label) for side in sides]
    if all(len(stratum) < 2 for stratum in columns[0].strata):
        return Comparison(
            name, difference, *_NOTHING[1:], len(common.first), test, common.dropped, "a single cluster"
        )
    evaluators = [mean_over_groups(metric, c, groups) if macro else metric.prepare(c) for c in columns]
    drawn = draw_counts(columns[0], resamples, rng)
    raw = np.concatenate([evaluators[0](counts) - evaluators[1](counts) for counts in drawn])
    differences = np.round(raw, 12)  # systems that differ by rounding alone do not differ
    interval = middle(differences)
    note = "; ".join(n for n in (common.note, interval.note) if n) or None
    p = _two_sided(differences)
    return Comparison(
        name, difference, interval.low, interval.high, p, len(common.first), test, common.dropped, note
    )


def paired_t(a: Sequence[Score], b: Sequence[Score]) -> Comparison:
    """Compare two systems' mean scores by Student's paired t-test, two-sided; labels play no part.

    It takes the examples for independent. Differences that are all equal have no spread to test with:
    p is 1 if they are 0 and nan otherwise. Source: SPRI, section on cognitive reappraisal, table 1.
    """
    import numpy as np
    from scipy import stats

    common = _common(a, b, needs_label=False)
    n = len(common.first)
    reason = common.note or ("no common examples" if not n else None)
    if reason:
        return Comparison("mean", *_NOTHING, n, "paired t", common.dropped, reason)
    first, second = (np.array([s.value for s in side], dtype=float) for side in (common.first, common.second))
    differences = first - second
    difference = float(differences.mean())
    if n < 2 or float(np.ptp(differences)) <= 1e-12 * float(abs(differences).max()):
        p = 1.0 if n > 1 and difference == 0 else math.nan
        reason = "one common example" if n < 2 else "every difference is the same"
        return Comparison("mean", difference, math.nan, math.nan, p, n, "paired t", common.dropped, reason)
    result = stats.ttest_rel(first, second)
    low, high = result.confidence_interval(0.95)
    p = float(result.pvalue)
    return Comparison("mean", difference, float(low), float(high), p, n, "paired t", common.dropped)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down rule; same order and length.

    nan stays nan and does not count as a test. Source: Holm 1979.
    """
    order = sorted((i for i, p in enumerate(pvalues) if not math.isnan(p)), key=lambda i: pvalues[i])
    corrected = [math.nan] * len(pvalues)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * pvalues[i]))
        corrected[i] = least
    return corrected


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | None]],
    *,
    level: Level = "ordinal",
    clusters: Sequence[str] | None = None,
    ci: bool = True,
    resamples: int = 1000,
    rng: random.Random | None = None,
) -> Estimate:
    """Krippendorff's alpha: 1 is perfect agreement of the raters, 0 is chance, below 0 is worse.

    The interval comes from resampling units, or clusters of them. Units with fewer than two ratings count as dropped.
    Source: Krippendorff, "Computing Krippendorff's alpha-reliability", 2011.

    Args:
        ratings: one sequence a rater, one place a unit in each, all of one length; None is missing.
        level: what the numbers mean.
        clusters: one name a unit; units of one name are resampled together. None: each unit apart.
        ci: False leaves the interval nan.
        resamples: how many bootstrap resamples the interval rests on.
        rng: where they come from; None means `random.Random(0)`.

    Raises:
        ValueError: the sequences differ in length.
    """
    import numpy as np

    name = f"krippendorff alpha ({level})"
    units = [sorted(r for r in unit if r is not None and is_number(r)) for unit in zip(*ratings, strict=True)]
    names = clusters if clusters is not None else [str(i) for i in range(len(units))]
    together: dict[str, list[list[float]]] = {}
    for unit, cluster in zip(units, names, strict=True):
        if len(unit) > 1:
            together.setdefault(cluster, []).append(unit)
    n = sum(map(len, together.values()))
    dropped = len(units) - n
    if not n:
        return Estimate(name, math.nan, 0, dropped, reason="no unit has two ratings")
    # Sorted, so that neither the order of units nor the clusters' names decide what is drawn.
    categories, tables = _coincidences(sorted(sorted(members) for members in together.values()))
    value = float(_alpha(tables.sum(axis=0)[None], categories, level)[0])
    if math.isnan(value):
        return Estimate(name, value, n, dropped, reason="constant ratings")
    if not ci or len(tables) < 2:
        return Estimate(name, value, n, dropped, reason="no interval: a single cluster" if ci else None)
    generator = np.random.default_rng((rng or random.Random(0)).getrandbits(64))
    flat = tables.reshape(len(tables), -1)
    even = np.full(len(tables), 1 / len(tables))
    size = max(1, _CHUNK // max(flat.shape))
    values: list[Floats] = []
    for start in range(0, resamples, size):
        counts = generator.multinomial(len(tables), even, size=min(size, resamples - start))
        values.append(_alpha((counts @ flat).reshape(-1, *tables.shape[1:]), categories, level))
    interval = middle(np.concatenate(values))
    return Estimate(name, value, n, dropped, interval.low, interval.high, interval.note)


_NOTHING = (math.nan, math.nan, math.nan, math.nan)
_CHUNK = 2_000_000


class _Common(NamedTuple):
    """The examples of two systems that can be compared, in one order; `broken` if none can, `note` why."""

    first: list[Score]
    second: list[Score]
    dropped: int
    broken: bool = False
    note: str | None = None


def _common(a: Sequence[Score], b: Sequence[Score], *, needs_label: bool) -> _Common:
    """Pair two systems' scores by id. The second side gets the groups and clusters of the first."""
    sides = [{s.id: s for s in side} for side in (a, b)]
    for side, unique in zip((a, b), sides, strict=True):
        if len(unique) < len(side):
            return _Common([], [], len(a) + len(b), True, "ids are not unique: examples cannot be paired")
    asked = len(sides[0].keys() | sides[1].keys())
    first: list[Score] = []
    second: list[Score] = []
    for one in a:
        two = sides[1].get(one.id)
        if two is None or not is_number(one.value) or not is_number(two.value):
            continue
        label = one.label if is_number(one.label) else two.label
        if needs_label and is_number(two.label) and two.label != label:
            return _Common([], [], asked, True, f"labels differ, for example of {one.id!r}")
        if not needs_label or is_number(label):
            first.append(replace(one, label=label))
            second.append(replace(two, label=label, group=one.group, cluster=one.cluster))
    return _Common(first, second, asked - len(first))


def _in_defined_groups(metric: Metric, common: _Common) -> tuple[list[str], _Common]:
    """The groups in which the metric has a value for both systems, and the examples in them."""
    values = [by_group(metric, side, ci=False) for side in (common.first, common.second)]
    defined = [g for g in values[0] if not any(math.isnan(v[g].value) for v in values)]
    missing = [f"{g} ({values[0][g].reason or values[1][g].reason})" for g in values[0] if g not in defined]
    if not missing:
        return defined, common
    first, second = ([s for s in side if group_of(s) in defined] for side in (common.first, common.second))
    dropped = common.dropped + len(common.first) - len(first)
    return defined, _Common(first, second, dropped, not defined, f"without {', '.join(missing)}")


def _two_sided(differences: Floats) -> float:
    """Twice the smaller share of defined resamples on either side of 0; nan if too few are defined."""
    import numpy as np

    defined = differences[np.isfinite(differences)]
    if not len(defined) or 2 * len(defined) < len(differences):
        return math.nan
    smaller = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (smaller + 1) / (len(defined) + 1))


def _coincidences(clusters: Sequence[Sequence[Sequence[float]]]) -> tuple[Floats, Floats]:
    """The distinct ratings in order, and a coincidence matrix for each cluster of units.

    The second has the shape clusters x ratings x ratings.
    """
    import numpy as np

    categories = np.unique([rating for units in clusters for unit in units for rating in unit])
    tables = np.zeros((len(clusters), len(categories), len(categories)))
    for table, units in zip(tables, clusters, strict=True):
        for unit in units:
            tally = np.bincount(np.searchsorted(categories, unit), minlength=len(categories))
            table += (np.outer(tally, tally) - np.diag(tally)) / (len(unit) - 1)
    return categories, tables


def _alpha(coincidences: Floats, categories: Floats, level: Level) -> Floats:
    """Alpha of each coincidence matrix (resamples x ratings x ratings); nan where one rating stands alone."""
    import numpy as np

    totals = coincidences.sum(axis=2)
    n = totals.sum(axis=1)
    # The ordinal distance of two ratings is how many lie between their middles: a place on a line.
    place = np.cumsum(totals, axis=1) - totals / 2 if level == "ordinal" else categories + 0 * totals
    distance = (place[:, :, None] - place[:, None, :]) ** 2
    if level == "nominal":
        distance = (distance > 0).astype(float)
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2)) / (n - 1)
    with np.errstate(all="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)
