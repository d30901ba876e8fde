"""Agreement of several raters on the same units: Krippendorff's alpha, with its interval (`jackknife`).

`krippendorff_alpha` is of one panel of raters; `alpha_in_place` says what becomes of it if a judge sits in the place of
one of them.

It knows ratings, nothing of files, tasks, models or DSPy. What cannot be computed is nan with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from spri_dspy.metrics.columns import is_number
from spri_dspy.metrics.jackknife import LOPSIDED, Blocks, Interval, Scale, is_lopsided, jackknife_interval
from spri_dspy.records import Estimate

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats

Level = Literal["nominal", "ordinal", "interval"]
"""What the numbers of a rating mean: names, an order, or distances."""

MOST_CELLS = 20_000_000
"""Numbers held at most: every two distinct ratings are counted in every cluster."""

_TOO_MANY = "too many distinct ratings for so many units"


class InPlace(NamedTuple):
    """Alpha of people, alpha with a judge in the place of one of them, and the second less the first."""

    people: Estimate
    judge: Estimate
    difference: Estimate


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | None]],
    *,
    level: Level = "ordinal",
    clusters: Sequence[str] | None = None,
    ci: bool = True,
    resamples: int = 1000,
) -> Estimate:
    """Krippendorff's alpha: 1 is perfect agreement of the raters, 0 is chance, below 0 is worse.

    The interval comes from leaving out units, or clusters of them. Units with fewer than two ratings count as dropped.
    Source: Krippendorff, "Computing Krippendorff's alpha-reliability", 2011.

    Args:
        ratings: one sequence a rater, one place a unit in each, all of one length; None is missing.
        level: what the numbers mean.
        clusters: one name a unit; units of one name are left out together. None: each unit apart.
        ci: False leaves the interval nan.
        resamples: how often alpha is computed anew at most for the interval.

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
    sorted_units = sorted(sorted(members) for members in together.values())
    categories = _categories(sorted_units)
    if len(sorted_units) * len(categories) ** 2 > MOST_CELLS:
        return Estimate(name, math.nan, n, dropped, reason=_TOO_MANY)
    tables = _coincidences(sorted_units, categories)
    value = float(_alpha(tables.sum(axis=0)[None], categories, level)[0])
    if math.isnan(value):
        return Estimate(name, value, n, dropped, reason="constant ratings")
    blocks = Blocks.of([np.arange(len(tables))], resamples)
    if not ci or blocks.too_few():
        return Estimate(name, value, n, dropped, reason=blocks.too_few() if ci else None)
    flat = tables.reshape(len(tables), -1)
    sums = ((counts @ flat).reshape(-1, *tables.shape[1:]) for counts in blocks.counts(flat.shape[1]))
    without = np.concatenate([_alpha(each, categories, level) for each in sums])
    interval = jackknife_interval(value, without, blocks, "correlation")
    if is_lopsided(len(tables), map(_given, ratings)):
        interval = Interval(note=LOPSIDED)
    return Estimate(name, value, n, dropped, interval.low, interval.high, interval.note)


def alpha_in_place(
    people: Sequence[Sequence[float | None]],
    judge: Sequence[float | None],
    *,
    level: Level = "ordinal",
    clusters: Sequence[str] | None = None,
    resamples: int = 1000,
) -> InPlace:
    """Alpha of people, and the mean alpha over the panels in which a judge sits in the place of one of them.

    Both are of the units that the judge and at least two people rated. With one person the
    judge's alpha is that of the two, and people have none.

    Args:
        people: one sequence a person, one place a unit in each, as for `krippendorff_alpha`.
        judge: the judge's ratings of the same units.
        level: what the numbers mean.
        clusters: one name a unit.
        resamples: how often the alphas are computed anew at most for the intervals.
    """
    import numpy as np

    names = clusters if clusters is not None else [str(i) for i in range(len(judge))]
    together: dict[str, list[tuple[float | None, ...]]] = {}
    for cluster, *unit in zip(names, judge, *people, strict=True):
        given = tuple(r if is_number(r) else None for r in unit)
        if given[0] is not None and sum(r is not None for r in given[1:]) >= min(2, len(people)):
            together.setdefault(cluster, []).append(given)
    n = sum(map(len, together.values()))
    members = sorted(together.values(), key=lambda units: sorted(map(str, units)))
    categories = _categories(members)
    titles = [f"krippendorff alpha ({level}), {of}" for of in ("people", "judge in place", "difference")]
    reason = _TOO_MANY if len(members) * len(categories) ** 2 > MOST_CELLS else None
    reason = reason if n else "no unit that the judge and enough people rated"
    if reason:
        return InPlace(*(Estimate(title, math.nan, n, len(judge) - n, reason=reason) for title in titles))
    places = range(1, len(people) + 1)
    panels = [[0, *(p for p in places if p != out or len(people) == 1)] for out in places]
    tables = [_coincidences(members, categories, panel) for panel in ([*places], *panels)]

    def sides(counts: Floats) -> Floats:
        """Alpha of people, the mean alpha with the judge in place, and the difference (3 x resamples)."""
        drawn = ((counts @ t.reshape(len(t), -1)).reshape(-1, *t.shape[1:]) for t in tables)
        alphas = [_alpha(each, categories, level) for each in drawn]
        in_place = np.mean(alphas[1:], axis=0)
        return np.array([alphas[0], in_place, in_place - alphas[0]])

    blocks = Blocks.of([np.arange(len(members))], resamples)
    without = np.concatenate([sides(c) for c in blocks.counts(tables[0][0].size)], axis=1)
    scales: tuple[Scale, ...] = ("correlation", "correlation", "gap")
    points = sides(np.ones((1, len(members))))[:, 0]
    raters = zip(*(unit for units in members for unit in units), strict=True)
    lopsided = is_lopsided(len(members), map(_given, raters))
    found: list[Estimate] = []
    for title, scale, point, each in zip(titles, scales, points, without, strict=True):
        if math.isnan(point):
            why = "one person" if len(people) == 1 else "constant ratings"
            found.append(Estimate(title, math.nan, n, len(judge) - n, reason=why))
            continue
        ends = jackknife_interval(float(point), each, blocks, scale)
        ends = Interval(note=LOPSIDED) if lopsided else ends
        found.append(Estimate(title, float(point), n, len(judge) - n, ends.low, ends.high, ends.note))
    return InPlace(*found)


def _given(ratings: Sequence[float | None]) -> Floats:
    """A rater's ratings without those that are missing."""
    import numpy as np

    return np.array([r for r in ratings if r is not None and is_number(r)], dtype=np.float64)


def _categories(clusters: Sequence[Sequence[Sequence[float | None]]]) -> Floats:
    """The distinct ratings in order."""
    import numpy as np

    given = {rating for units in clusters for unit in units for rating in unit if rating is not None}
    return np.array(sorted(given), dtype=np.float64)


def _coincidences(
    clusters: Sequence[Sequence[Sequence[float | None]]],
    categories: Floats,
    raters: Sequence[int] | None = None,
) -> Floats:
    """A coincidence matrix for each cluster of units (clusters x ratings x ratings); of some raters, or of all."""
    import numpy as np

    tables = np.zeros((len(clusters), len(categories), len(categories)))
    for table, units in zip(tables, clusters, strict=True):
        for unit in units:
            given = [r for r in (unit if raters is None else [unit[i] for i in raters]) if r is not None]
            if len(given) > 1:
                tally = np.bincount(np.searchsorted(categories, given), minlength=len(categories))
                table += (np.outer(tally, tally) - np.diag(tally)) / (len(given) - 1)
    return tables


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
