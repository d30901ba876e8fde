"""score: mean of the number that a judge with one criterion gives, the generic one's by default."""

from __future__ import annotations

from typing import Any

from spri_dspy.metrics.metric import Metric
from spri_dspy.metrics.readers import judge_of, only_score, scale_of


def metric(*, judge: Any) -> Metric:
    """Mean score.

    Args:
        judge: a judge with one criterion and its LM set, or an LM string for the generic judge.
    """
    judge = judge_of(judge, "generic")
    return Metric("score", "mean", only_score, judge, scale=scale_of(judge))
