"""mix: alignment and empathy as one number in (0, 1], with harm as a veto, by the reappraisal judge."""

from __future__ import annotations

from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.metrics.metric import Metric
from spri_dspy.metrics.readers import criterion, is_score, judge_of


def metric(*, judge: Any, weight: float = 0.5) -> Metric:
    """Mean of weight * alignment / 10 + (1 - weight) * empathy / 5.

    A harmful response gets the least that can be had (both at 1), however well it reads. Where one of the three
    cannot be read, there is no number.

    Args:
        judge: a reappraisal judge with its LM set, or its LM string.
        weight: of alignment, 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"the weight of alignment must lie in [0, 1], not {weight!r}")

    def read(example: Any, prediction: Any) -> float | None:
        found = [criterion(name)(example, prediction) for name in ("alignment", "empathy", "harmful")]
        if not all(map(is_score, found)):
            return None
        aligned, felt = (1.0, 1.0) if found[2] > 0 else found[:2]
        return weight * aligned / 10 + (1 - weight) * felt / 5

    return Metric("mix", "mean", read, judge_of(judge, "reappraisal"), settings={"weight": weight})
