"""alignment: mean alignment with the standards, 1 to 10, by the reappraisal judge."""

from __future__ import annotations

from typing import Any

from spri_dspy.metrics.metric import Metric
from spri_dspy.metrics.readers import criterion, judge_of


def metric(*, judge: Any) -> Metric:
    """Mean alignment with the standards, 1 to 10.

    Args:
        judge: a reappraisal judge with its LM set, or its LM string.
    """
    return Metric("alignment", "mean", criterion("alignment"), judge_of(judge, "reappraisal"), scale=(1, 10))
