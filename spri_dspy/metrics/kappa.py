"""Cohen's kappa with quadratic weights as a set-level statistic, of any numbers on one scale.

It follows from sums over rows, so resamples and permutation tests are adding up; `set_level` says what a Statistic is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spri_dspy.metrics.set_level import Sums, by_sums, pearson_rows

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats


def _combine(sums: Floats, flat: float) -> Floats:
    """1 less the mean squared difference over what it would be if scores and labels were paired by chance."""
    import numpy as np

    with np.errstate(all="ignore"):  # no row at all is nan, which is what is meant
        x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
        by_chance = xx + yy - 2 * x * y
        return np.where(by_chance < 1e-12, np.nan, 1 - (xx + yy - 2 * xy) / by_chance)


quadratic_kappa = by_sums(
    "quadratic_kappa",
    Sums(pearson_rows, _combine),
    undefined="scores and labels are one and the same number",
    scale="correlation",
)
"""Cohen's kappa of scores and labels with quadratic weights, in [-1, 1]; 1 is equality, 0 is chance.

The squared difference of two numbers is their weight, so that numbers need no list of categories, and means of several
people may stand among them. Of two categories it is the plain kappa. Constant scores give 0: they agree by chance.
Source: Cohen 1968; for numbers it is Lin's concordance correlation coefficient (1989).
"""
