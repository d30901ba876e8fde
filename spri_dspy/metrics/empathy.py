"""empathy: mean empathy, 1 to 5, by the reappraisal judge."""

from __future__ import annotations

from typing import Any

from spri_dspy.metrics.metric import Metric
from spri_dspy.metrics.readers import criterion, judge_of


def metric(*, judge: Any) -> Metric:
    """Mean empathy, 1 to 5.

    Args:
        judge: a reappraisal judge with its LM set, or its LM string.
    """
    return Metric("empathy", "mean", criterion("empathy"), judge_of(judge, "reappraisal"), scale=(1, 5))
