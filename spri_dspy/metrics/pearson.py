"""pearson: macro Pearson between a program's own judgement, or a judge's, and people's scores."""

from __future__ import annotations

from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.metrics.metric import HUMAN, ORACLE, Metric
from spri_dspy.metrics.readers import judge_of, only_score, own_judgement, scale_of


def metric(*, label: str = HUMAN, judge: Any = None, oracle: Any = None) -> Metric:
    """Pearson's r in every group, and the mean of the groups (`set_level`).

    Args:
        label: the label to correlate with; "oracle" for the score that `oracle` gives with the data's own rubric.
        judge: whose number is correlated; None for the program's own judgement. A text is an LM string, for the
            generic judge.
        oracle: a rubric judge with its LM set, or its LM string; needed for label="oracle", of no use otherwise.
    """
    if (label == "oracle") != (oracle is not None):
        raise UsageError(
            "label='oracle' and a judge as oracle= belong together: the judge makes the label from the "
            "data's own rubric"
        )
    judge, oracle = judge_of(judge, "generic"), judge_of(oracle, "rubric")
    read = own_judgement if judge is None else only_score
    label = label if oracle is None else ORACLE
    return Metric("pearson", "pearson", read, judge, label, oracle, scale=scale_of(judge) or (1, 5))
