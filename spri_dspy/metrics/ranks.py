"""Rank correlations as set-level statistics: Spearman's and Kendall's, resampled over distinct pairs.

They know how a resample is ranked without drawing it; what a Statistic is, is in `set_level`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spri_dspy.metrics.bootstrap import Columns, Evaluator
from spri_dspy.metrics.set_level import Statistic, runs

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats

_ROWS_AT_A_TIME = 2048


def _by_cells(
    formula: Callable[[Floats, Floats, Floats, float], Floats],
) -> Callable[[Columns, float], Evaluator]:
    """Resample over the distinct (value, label) pairs: judges use few, so most of the work falls away.

    `formula` takes the pairs' values, their labels, how often each pair was drawn (resamples x pairs), and what
    constant values come to.
    """

    def prepare(columns: Columns, flat: float) -> Evaluator:
        import numpy as np

        both = np.stack([columns.values, columns.labels])
        cells: Floats
        cells, index = np.unique(both, axis=1, return_inverse=True)
        order, starts = runs(index.ravel())
        clusters = columns.clusters[order]

        def evaluate(counts: Floats) -> Floats:
            drawn = np.add.reduceat(counts[:, clusters], starts, axis=1)
            with np.errstate(all="ignore"):  # an empty or constant resample is nan, which is what is meant
                return formula(cells[0], cells[1], drawn, flat)

        return evaluate

    return prepare


def _tallied(side: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """How often each distinct value was drawn, and each pair's mid-rank (both resamples x ...)."""
    import numpy as np

    _, index = np.unique(side, return_inverse=True)
    order, starts = runs(index)
    tally = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(tally, axis=1) - (tally - 1) / 2
    return tally, ranks[:, index]


def _weighted_spearman(x: Floats, y: Floats, weights: Floats, flat: float) -> Floats:
    import numpy as np

    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
    x, y = (_tallied(side, weights)[1] - middle for side in (x, y))
    spread_x, spread_y = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1)
    rho = (weights * x * y).sum(axis=1) / np.sqrt(spread_x * spread_y)
    return np.where(spread_y < 1e-9, np.nan, np.where(spread_x < 1e-9, flat, rho))


def _weighted_kendall(x: Floats, y: Floats, weights: Floats, flat: float) -> Floats:
    import numpy as np

    agreement = np.zeros(len(weights))
    for start in range(0, len(x), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        signs = np.sign(x[part, None] - x) * np.sign(y[part, None] - y)
        agreement += ((weights[:, part] @ signs) * weights).sum(axis=1)
    n = weights.sum(axis=1)
    tallies = (_tallied(side, weights)[0] for side in (x, y))
    untied_x, untied_y = (n * (n - 1) - (tally * (tally - 1)).sum(axis=1) for tally in tallies)
    tau = agreement / np.sqrt(untied_x * untied_y)
    return np.where(untied_y <= 0, np.nan, np.where(untied_x <= 0, flat, tau))


spearman = Statistic("spearman", _by_cells(_weighted_spearman), is_correlation=True, scale="rank correlation")
"""Spearman's rank correlation between scores and labels, in [-1, 1]; ties share their mean rank."""

kendall = Statistic("kendall", _by_cells(_weighted_kendall), is_correlation=True, scale="rank correlation")
"""Kendall's tau-b between scores and labels, in [-1, 1]."""
