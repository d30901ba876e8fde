"""pair_accuracy: the share of pairs on which a verdict is people's, over both orders where both were asked."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.metrics.metric import Metric
from spri_dspy.metrics.rated import Ties
from spri_dspy.metrics.readers import get, is_score

_VERDICTS = (1, 0, 2)


def metric(
    *,
    preferred: str = "preferred",
    verdict: str = "winner",
    swapped: str | None = "winner_swapped",
    ties: Ties = "half",
) -> Metric:
    """Accuracy on pairs: an example is a pair, a verdict is 1, 2, or 0 for a tie, and the metric is a mean over pairs.

    A pair is worth 1 where the verdict is people's preference, 0 where it is the other response, and what `ties` says
    for a tie; shown in both orders, it is worth the mean of the two. Being a mean of one number a pair, it is raced by
    its own value, not by a surrogate. (`set_level.pair_accuracy` is another thing: of scored responses, it compares
    the scores of every two in a cluster.)

    Args:
        preferred: the example's label: 1 or 2. Pairs that people call a tie (0) or have not judged have no value.
        verdict: the prediction's verdict on the pair as the example has it. It may be text, such as "2".
        swapped: its verdict on the pair shown in the other order, mapped back: 1 is the example's first response. A
            prediction without such a field was asked in one order. A field that cannot be read leaves the pair
            without a value: half an answer would favour a judge that fails where it is unsure. None: never read.
        ties: "half" counts a tie 0.5, "wrong" 0.

    Raises:
        UsageError: `ties` is neither.
    """
    if ties not in ("half", "wrong"):
        raise UsageError(f"ties must be 'half' or 'wrong', not {ties!r}")
    tie = 0.5 if ties == "half" else 0.0

    def read(example: Any, prediction: Any) -> float | None:
        right = _verdict(get(example, preferred))
        orders = [verdict] if swapped is None or not _has(prediction, swapped) else [verdict, swapped]
        verdicts = [_verdict(get(prediction, name)) for name in orders]
        if not right or None in verdicts:
            return None
        return fmean(tie if v == 0 else float(v == right) for v in verdicts)

    settings = {"preferred": preferred, "verdict": verdict, "swapped": swapped, "ties": ties}
    return Metric("pair_accuracy", "mean", read, settings=settings)


def _has(prediction: Any, name: str) -> bool:
    return name in prediction if hasattr(prediction, "keys") else hasattr(prediction, name)


def _verdict(value: Any) -> int | None:
    """1, 2 or 0 from a number or a text that is nothing else; None of anything else."""
    if isinstance(value, str) and value.strip() in ("0", "1", "2"):
        return int(value)
    return int(value) if is_score(value) and value in _VERDICTS else None
