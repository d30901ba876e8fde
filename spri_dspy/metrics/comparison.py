"""Two systems on the same examples: how much one exceeds the other, and whether that is chance.

Systems are compared on the examples that both have, paired by id; what only one has, or could read, is
counted as dropped. `compare` is the one test: p of the paired permutation test, which swaps the two systems'
results of whole clusters at random. If the systems are alike, each cluster's results might as well have come the other
way round; nothing is assumed about distributions, and it holds for few examples, where an interval need not.
The interval beside it comes from leaving clusters out (`jackknife`). `paired_t` is the published test and ignores
clusters.

Nothing here corrects for several comparisons but `holm`, and nothing fails on the
numbers it is given: what cannot be computed is nan with a reason.

It knows statistics and scores, nothing of files, tasks, models or DSPy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from spri_dspy.metrics.bootstrap import Columns, Evaluator, bootstrap_interval, collect
from spri_dspy.metrics.columns import group_of, has, is_number
from spri_dspy.metrics.jackknife import Blocks, Interval, jackknife_interval
from spri_dspy.metrics.set_level import (
    CONSTANT,
    Statistic,
    by_group,
    mean,
    mean_of_groups,
    mean_over_groups,
    standardised,
)
from spri_dspy.metrics.set_level import macro as macro_mean
from spri_dspy.records import Score

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats, Integers

T_TEST = "paired t-test, which takes examples for independent"
"""The published test, by what it assumes: where examples share a cluster, it rejects too often."""

_DRAWS, _DRAWS_OF_FUNCTION, _CHUNK = 4000, 1000, 2_000_000


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


def compare(
    statistic: Statistic,
    a: Sequence[Score],
    b: Sequence[Score],
    *,
    macro: bool = False,
    resamples: int = 1000,
    draws: int | None = None,
    rng: random.Random | None = None,
) -> Comparison:
    """Compare two systems by swapping, and resampling, the clusters of examples that they share.

    p is two-sided: the share of swaps whose difference is as large as the observed one, exact where all swaps can be
    tried (12 clusters), else counting one more, so it is never below 1/(draws + 1). For a correlation both sides are
    standardised first: it does not care for scale. The interval is Student's, from the differences without each
    cluster; of one's own functions it is from bootstrap resamples. Groups and clusters are those of `a`.

    Args:
        statistic: what to compare.
        a: the system whose excess is reported; ids must be unique, and labels must be those of `b`.
        b: the other one.
        macro: compare the means over groups, as `set_level.macro` has them.
        resamples: how often the difference is computed anew at most for the interval, as for a Statistic.
        draws: how many swaps to try; None: 4000, or 1000 where the statistic is no function of sums.
        rng: where both come from; None means `random.Random(0)`.
    """
    import numpy as np

    name = f"macro {statistic.name}" if macro else statistic.name
    draws = draws or (_DRAWS if statistic.sums else _DRAWS_OF_FUNCTION)
    made = "cluster jackknife" if statistic.scale else f"cluster bootstrap, {resamples} resamples"
    test = f"paired permutation test of clusters, {draws} draws; interval: {made}"
    common = _common(a, b, statistic)
    groups: list[str] = []
    if macro:
        groups, common = _in_defined_groups(statistic, common)
    n, sides = len(common.first), (common.first, common.second)
    ends = [macro_mean(statistic, side, ci=False) if macro else statistic(side, ci=False) for side in sides]
    difference = ends[0].value - ends[1].value
    if common.broken or not math.isfinite(difference):
        reason = common.note or ends[0].reason or ends[1].reason
        return Comparison(name, *_NOTHING, n, test, common.dropped, reason)
    columns = [collect(side, statistic.needs) for side in sides]
    if columns[0].n_clusters < 2:
        return Comparison(name, difference, *_NOTHING[1:], n, test, common.dropped, "a single cluster")
    rng = rng or random.Random(0)
    evaluators = [
        mean_over_groups(statistic, c, groups) if macro else statistic.prepare(c, math.nan) for c in columns
    ]

    def differences(counts: Floats) -> Floats:
        # Systems that differ by rounding alone do not differ.
        return np.round(evaluators[0](counts) - evaluators[1](counts), 12)

    interval = _interval(statistic, difference, columns[0], differences, resamples, rng)
    p = _swapped(statistic, columns, groups if macro else None, draws, rng)
    note = "; ".join(n for n in (common.note, interval.note) if n) or None
    return Comparison(name, difference, interval.low, interval.high, p, n, test, common.dropped, note)


def _interval(
    statistic: Statistic,
    difference: float,
    columns: Columns,
    differences: Evaluator,
    resamples: int,
    rng: random.Random,
) -> Interval:
    """The interval of a difference."""
    import numpy as np

    if statistic.scale is None:
        return bootstrap_interval(difference, columns, differences, resamples, rng)
    blocks = Blocks.of(columns.strata, resamples)
    if blocks.too_few():
        return Interval(note=blocks.too_few())
    without = np.concatenate([differences(c) for c in blocks.counts(len(columns.rows))])
    return jackknife_interval(difference, without, blocks, "difference")


def permutation_p(
    first: Floats,
    second: Floats,
    combine: Callable[[Floats], Floats],
    *,
    draws: int,
    rng: random.Random,
    strata: Sequence[Integers] = (),
) -> float:
    """Two-sided p of the difference of a statistic that follows from sums, under swaps of whole clusters.

    Args:
        first: one system's sums of every cluster (clusters x ...).
        second: the other's, of the same clusters.
        combine: sums without the axis of clusters (swaps x ...) -> the statistic of each.
        draws: how many swaps; all of them are tried where there are no more.
        rng: decides them.
        strata: the numbers of the clusters in which each system's values were standardised, if they were. That took
            a part of what a swap can change: of m clusters, swaps change sqrt((m - 1) / m) of it, which is made up for.
    """
    import numpy as np

    fixed, moving = (first + second).sum(axis=0) / 2, (first - second) / 2
    widened = moving.copy()
    for stratum in strata:
        widened[stratum] *= math.sqrt(len(stratum) / max(1, len(stratum) - 1))
    widened = widened[np.abs(moving).reshape(len(moving), -1).max(axis=1) > 0]
    n = len(widened)

    def differences(moved: Floats) -> Floats:
        return combine(fixed + moved) - combine(fixed - moved)

    observed = abs(float(differences(moving.sum(axis=0)[None])[0]))
    is_exact = (
        n <= 60 and 2 ** max(0, n - 1) <= draws
    )  # a swap of everything changes the sign and nothing else
    if is_exact:
        codes = np.arange(2 ** max(0, n - 1))
        every = 1.0 - 2.0 * (codes[:, None] >> np.arange(n) & 1)
        chunks = iter([every])
    else:
        generator, size = np.random.default_rng(rng.getrandbits(64)), max(1, _CHUNK // max(n, fixed.size))
        lengths = [min(size, draws - start) for start in range(0, draws, size)]
        chunks = (generator.choice((-1.0, 1.0), size=(length, n)) for length in lengths)
    extreme = total = 0
    for signs in chunks:
        # What has no value is as extreme as can be: it speaks for nobody.
        extreme += int((~(np.abs(differences(np.tensordot(signs, widened, 1))) < observed - 1e-12)).sum())
        total += len(signs)
    return extreme / total if is_exact else (1 + extreme) / (1 + total)


def _swapped(
    statistic: Statistic,
    sides: Sequence[Columns],
    groups: Sequence[str] | None,
    draws: int,
    rng: random.Random,
) -> float:
    """The permutation test's p; `groups` for the mean over them."""
    import numpy as np

    sums = statistic.sums
    if sums is None:
        return _swapped_by_calling(statistic, sides, groups, draws, rng)

    def combine(each: Floats) -> Floats:
        with np.errstate(all="ignore"):
            return sums.combine(each, math.nan) if groups is None else mean_of_groups(sums.combine(each, 0.0))

    first, second = (
        sums.table(side) if groups is None else np.stack([sums.table(side.only(g)) for g in groups], axis=1)
        for side in sides
    )
    strata = sides[0].strata if sums.is_standard else ()
    return permutation_p(first, second, combine, draws=draws, rng=rng, strata=strata)


def _swapped_by_calling(
    statistic: Statistic,
    sides: Sequence[Columns],
    groups: Sequence[str] | None,
    draws: int,
    rng: random.Random,
) -> float:
    """The same for any statistic, computed anew for both systems after every swap."""
    import numpy as np

    generator = np.random.default_rng(rng.getrandbits(64))
    first, second = (
        _on_one_scale(side, groups) if statistic.is_correlation else side.scores for side in sides
    )
    clusters = sides[0].clusters

    def difference(stays: Sequence[bool]) -> float:
        pairs = [(x, y) if stay else (y, x) for x, y, stay in zip(first, second, stays, strict=True)]
        one, two = (
            macro_mean(statistic, side, ci=False) if groups else statistic(side, ci=False)
            for side in zip(*pairs, strict=True)
        )
        return abs(one.value - two.value)

    observed = difference([True] * len(first))
    swaps = (generator.random(sides[0].n_clusters) < 0.5 for _ in range(draws))
    return (1 + sum(not difference(s[clusters].tolist()) < observed - 1e-12 for s in swaps)) / (1 + draws)


def _on_one_scale(side: Columns, groups: Sequence[str] | None) -> list[Score]:
    """The scores, standardised in each group, or all together."""
    parts = [side] if groups is None else [side.only(g) for g in groups]
    found = {
        s.id: replace(s, value=value)
        for part in parts
        for s, value in zip(part.scores, standardised(part.values).tolist(), strict=True)
    }
    return [found[s.id] for s in side.scores]


def paired_t(a: Sequence[Score], b: Sequence[Score]) -> Comparison:
    """Compare two systems' mean scores by Student's paired t-test, two-sided; labels play no part.

    It takes the examples for independent: where they share a cluster p is too small; see `compare`. Differences
    that are all equal have no spread to test with: p is 1 if they are 0 and nan otherwise.
    Source: SPRI, section on cognitive reappraisal, table 1.
    """
    import numpy as np
    from scipy import stats

    common = _common(a, b, mean)
    n = len(common.first)
    reason = common.note or ("no common examples" if not n else None)
    if reason:
        return Comparison("mean", *_NOTHING, n, T_TEST, common.dropped, reason)
    first, second = (np.array([s.value for s in side], dtype=float) for side in (common.first, common.second))
    differences = first - second
    difference = float(differences.mean())
    if n < 2 or float(np.ptp(differences)) <= 1e-12 * float(abs(differences).max()):
        p = 1.0 if n > 1 and difference == 0 else math.nan
        reason = "one common example" if n < 2 else "every difference is the same"
        return Comparison("mean", difference, math.nan, math.nan, p, n, T_TEST, common.dropped, reason)
    result = stats.ttest_rel(first, second)
    low, high = result.confidence_interval(0.95)
    p = float(result.pvalue)
    return Comparison("mean", difference, float(low), float(high), p, n, T_TEST, common.dropped)


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


_NOTHING = (math.nan, math.nan, math.nan, math.nan)


class _Common(NamedTuple):
    """The examples of two systems that can be compared, in one order; `broken` if none can, `note` why."""

    first: list[Score]
    second: list[Score]
    dropped: int
    broken: bool = False
    note: str | None = None


def _common(a: Sequence[Score], b: Sequence[Score], statistic: Statistic) -> _Common:
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
        if two is None:
            continue
        label = one.label if is_number(one.label) else two.label
        one, old = replace(one, label=label), two.label
        two = replace(two, label=label, group=one.group, cluster=one.cluster)
        if not (has(one, statistic.needs) and has(two, statistic.needs)):
            continue
        if statistic.needs == "label" and is_number(old) and old != label:
            return _Common([], [], asked, True, f"labels differ, for example of {one.id!r}")
        first.append(one)
        second.append(two)
    return _Common(first, second, asked - len(first))


def _in_defined_groups(statistic: Statistic, common: _Common) -> tuple[list[str], _Common]:
    """The groups that count for both systems, and the examples in them."""
    values = [by_group(statistic, side, ci=False) for side in (common.first, common.second)]
    defined = [
        g
        for g in values[0]
        if all(e.reason == CONSTANT or not math.isnan(e.value) for e in (v[g] for v in values))
    ]
    missing = [f"{g} ({values[0][g].reason or values[1][g].reason})" for g in values[0] if g not in defined]
    if not missing:
        return defined, common
    first, second = ([s for s in side if group_of(s) in defined] for side in (common.first, common.second))
    dropped = common.dropped + len(common.first) - len(first)
    return defined, _Common(first, second, dropped, not defined, f"without {', '.join(missing)}")
