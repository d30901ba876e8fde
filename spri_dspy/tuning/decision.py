"""Whether a tuned program replaces the start: decided on fresh rows, once.

A search looks at many candidates and takes the luckiest, so its own scores prove nothing. The rule here:

1. The rows of the decision were never seen by the search, and exactly one candidate comes to them.
2. It replaces the start only if its metric is higher there AND the difference is significant: two-sided p at most
   `level` in the paired permutation test (`metrics.comparison`), so that in a world without effect it happens in
   `level` / 2 of all searches at most.
3. It must not fail more often: results for at most 5 points fewer of the examples than the start.

"No improvement" is a normal outcome. What it cannot do: tell a small improvement on few rows from luck.

It knows metrics and Scores; how the candidate was found is of no interest here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    from spri_dspy.metrics import Metric

FEWEST_CLUSTERS = 6
"""With fewer clusters no permutation test can reach p = 0.05: 2 of 2**5 swaps are as extreme as the observed one."""

COVERAGE_LOSS = 0.05
"""By how much the share of examples with a result may fall."""


@dataclass(frozen=True)
class Decision:
    """Whether the candidate replaces the start, and why.

    Attributes:
        improved: True if it does.
        reason: in a sentence.
        start, candidate: the metric of each on the rows of the decision.
        difference: candidate less start.
    """

    improved: bool
    reason: str
    start: Estimate | None = None
    candidate: Estimate | None = None
    difference: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        parts = {"start": self.start, "candidate": self.candidate, "difference": self.difference}
        return {"improved": self.improved, "reason": self.reason} | {
            name: part.to_json() if part else None for name, part in parts.items()
        }


def decide(
    metric: Metric, candidate: Sequence[Score], start: Sequence[Score], *, level: float, rng: random.Random
) -> Decision:
    """Decide between the start and one candidate, on rows that the search has not seen.

    Args:
        metric: what counts.
        candidate: its scores.
        start: the start's scores on the same examples.
        level: two-sided p that must not be exceeded.
        rng: decides the swaps and the resamples.
    """
    difference = metric.compare(candidate, start, rng=rng)
    gain, p = difference.difference, difference.p
    reason = _against(gain, p, level, candidate, start)
    said = reason or f"better on rows that the search had not seen (by {gain:.3g}, p = {p:.2g})"
    return Decision(
        reason is None, said, metric.value(start, rng=rng), metric.value(candidate, rng=rng), difference
    )


def _against(
    gain: float, p: float, level: float, candidate: Sequence[Score], start: Sequence[Score]
) -> str | None:
    """What speaks against the candidate, None if nothing does."""
    if math.isnan(gain) or math.isnan(p):
        return "start and candidate cannot be compared on rows that the search had not seen"
    if gain <= 0:
        return f"not better on rows that the search had not seen (by {gain:.3g})"
    if p > level:
        return f"not significantly better on rows that the search had not seen (by {gain:.3g}, p = {p:.2g})"
    with_result = [sum(s.value is not None for s in side) / len(side) for side in (candidate, start)]
    if with_result[0] < with_result[1] - COVERAGE_LOSS:
        return (
            f"it gives a result for {with_result[0]:.0%} of the examples, the start for {with_result[1]:.0%}"
        )
    return None
