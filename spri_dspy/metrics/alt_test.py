"""The Alternative Annotator Test: may a judge stand in for an annotator?

Each annotator in turn is left out. On every row, who is closer to the remaining annotators: the judge, or the one left
out? The judge wins against an annotator if it is significantly not worse by more than epsilon, the advantage that its
lower cost is worth; the tests of all annotators are corrected by Benjamini and Yekutieli's procedure, which holds for
tests that depend on each other. The winning rate omega is the share of annotators it wins against; from 0.5 on it may
replace them. The average advantage probability rho is how often it is as close as the annotator, or closer.

Source: Calderon, Reichart and Dror, "The Alternative Annotator Test for LLM-as-a-Judge: How to Statistically Justify
Replacing Human Annotators with LLMs", ACL 2025.

Deviation: the one-sided t-test takes its standard error from clusters of rows, where there are any; where every row
stands alone, it is the published test. It knows rows of ratings, nothing of files, tasks, models or DSPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from spri_dspy.metrics.rated import Item, Ratings

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats

Alignment = Literal["accuracy", "rmse"]
"""How closeness to the remaining annotators is measured: share of equal answers, or root mean square difference."""

FEWEST_ANNOTATORS, FEWEST_ROWS = 3, 30
"""Below these the test does not apply: nobody remains to be close to, or the t-test does not hold."""

PASSES_FROM = 0.5
"""The winning rate from which a judge may replace annotators."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The test against one annotator.

    Attributes:
        annotator: the one who was left out.
        n: rows that the judge, this annotator and at least one other have rated.
        advantage: share of rows on which the judge is as close to the others as the annotator, or closer.
        annotator_advantage: the same for the annotator; ties count for both.
        p: one-sided, of the judge being worse by epsilon or more; nan if there are too few rows.
        is_won: rejected after correction.
    """

    annotator: str
    n: int
    advantage: float
    annotator_advantage: float
    p: float
    is_won: bool = False


@dataclass(frozen=True, slots=True)
class AltTest:
    """What the test says of a judge.

    Attributes:
        rho: average advantage probability, in [0, 1]; nan if it cannot be computed.
        omega: winning rate, in [0, 1]; nan if the test does not apply, `reason` then says why.
        left_out: the tests, one an annotator.
        epsilon: the advantage that is given to the judge.
        q: the false discovery rate.
        alignment: see Alignment.
        reason: why the test does not apply; None if it does.
    """

    rho: float
    omega: float
    left_out: tuple[LeftOut, ...]
    epsilon: float
    q: float
    alignment: Alignment
    reason: str | None = None

    @property
    def passes(self) -> bool | None:
        """Whether the judge may replace annotators; None if the test does not apply."""
        return None if math.isnan(self.omega) else self.omega >= PASSES_FROM

    def to_json(self) -> dict[str, Any]:
        """A dict of plain types; numbers that are not finite stay nan, which `strict_json` writes as null."""
        return asdict(self) | {"passes": self.passes}


def alt_test(
    ratings: Ratings,
    *,
    epsilon: float = 0.2,
    q: float = 0.05,
    alignment: Alignment | None = None,
    fewest_rows: int = FEWEST_ROWS,
) -> AltTest:
    """Test whether a judge may stand in for the annotators.

    Args:
        ratings: the judge's rows; what is missing leaves its row out of the tests that need it. Verdicts in both
            orders count half each.
        epsilon: 0.2 where annotators are experts, 0.15 where they are skilled, 0.1 for crowd workers, as published.
        q: the false discovery rate of the tests.
        alignment: None: "accuracy" for pairs, "rmse" for scores.
        fewest_rows: an annotator with fewer rows makes the test not apply.
    """
    measure: Alignment = alignment or ("accuracy" if ratings.kind == "pairs" else "rmse")
    people = len(ratings.annotators)
    if people < FEWEST_ANNOTATORS:
        reason = f"needs at least {FEWEST_ANNOTATORS} annotators, has {people}"
        return AltTest(math.nan, math.nan, (), epsilon, q, measure, reason)
    tests = tuple(_left_out(ratings, place, epsilon, measure) for place in range(people))
    few = [test for test in tests if test.n < fewest_rows]
    rho = fmean(test.advantage for test in tests)
    if few:
        reason = f"needs at least {fewest_rows} rows an annotator, {few[0].annotator} has {few[0].n}"
        tests = tuple(replace(test, p=math.nan) for test in tests)
        return AltTest(rho, math.nan, tests, epsilon, q, measure, reason)
    won = benjamini_yekutieli([test.p for test in tests], q)
    tests = tuple(replace(test, is_won=is_won) for test, is_won in zip(tests, won, strict=True))
    return AltTest(rho, sum(won) / people, tests, epsilon, q, measure)


def benjamini_yekutieli(pvalues: Sequence[float], q: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected at false discovery rate q, however the tests depend on each other; same order.

    Source: Benjamini and Yekutieli 2001, theorem 1.3.
    """
    m = len(pvalues)
    harmonic = sum(1 / i for i in range(1, m + 1))
    order = sorted(range(m), key=lambda i: pvalues[i])
    passed = [rank for rank, i in enumerate(order, 1) if pvalues[i] <= rank * q / (m * harmonic)]
    rejected = {*order[: max(passed, default=0)]}
    return [i in rejected for i in range(m)]


def _left_out(ratings: Ratings, place: int, epsilon: float, measure: Alignment) -> LeftOut:
    """The test against the annotator of a place."""
    import numpy as np

    judge, annotator, clusters = [], [], []
    for number, item in enumerate(ratings.items):
        own, said = item.people[place], item.verdicts(ratings.both_orders)
        others = [v for at, v in enumerate(item.people) if at != place and v is not None]
        if own is None or not said or not others:
            continue
        judge.append(fmean(_closeness(measure, verdict, others) for verdict in said))
        annotator.append(_closeness(measure, own, others))
        clusters.append(_cluster(item, number))
    name = ratings.annotators[place]
    if not judge:
        return LeftOut(name, 0, math.nan, math.nan, math.nan)
    closer = np.sign(np.round(np.array(judge) - np.array(annotator), 12))
    advantage, other = float((closer >= 0).mean()), float((closer <= 0).mean())
    return LeftOut(name, len(judge), advantage, other, _p_below(-closer, epsilon, clusters))


def _cluster(item: Item, number: int) -> str:
    return f"row {number}" if item.cluster is None else f"cluster {item.cluster}"


def _closeness(measure: Alignment, value: float, others: Sequence[float]) -> float:
    if measure == "accuracy":
        return fmean(float(value == other) for other in others)
    return -math.sqrt(fmean((value - other) ** 2 for other in others))


def _p_below(differences: Floats, bound: float, clusters: Sequence[str]) -> float:
    """One-sided p of a mean of `bound` or more, by the t-test of a mean with cluster-robust standard error."""
    import numpy as np
    from scipy import stats

    _, index = np.unique(clusters, return_inverse=True)
    n, groups = len(differences), int(index.max()) + 1
    if groups < 2:
        return math.nan
    mean = float(differences.mean())
    totals = np.bincount(index, differences) - mean * np.bincount(index)
    # An exact sum, so that the order of rows does not show.
    error = math.sqrt(groups / (groups - 1) * math.fsum(totals**2)) / n
    if error < 1e-12:  # the same difference everywhere: nothing is left to chance
        return 0.0 if mean < bound else 1.0
    return float(stats.t.cdf((mean - bound) / error, groups - 1))
