"""Agreement of several raters on the same units: Krippendorff's alpha, with its interval from the cluster bootstrap.

It knows ratings, nothing of files, tasks, models or DSPy. What cannot be computed is nan with a reason.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from spri_dspy.metrics.bootstrap import draw_clusters, is_number, middle, tail
from spri_dspy.records import Estimate

if TYPE_CHECKING:
    from spri_dspy.metrics.bootstrap import Floats

Level = Literal["nominal", "ordinal", "interval"]
"""What the numbers of a rating mean: names, an order, or distances."""


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
    flat = tables.reshape(len(tables), -1)
    strata = [np.arange(len(tables))]
    drawn = draw_clusters(strata, resamples, rng, width=max(flat.shape))
    values = [_alpha((counts @ flat).reshape(-1, *tables.shape[1:]), categories, level) for counts in drawn]
    interval = middle(np.concatenate(values), tail(strata))
    return Estimate(name, value, n, dropped, interval.low, interval.high, interval.note)


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
