"""Who preferred which of several answers, as labels: each answer's share of the votes, and the two that differ most.

It knows columns of a row and no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.tasks.fields import is_blank, optional_text, rating, shown

SIDES: tuple[str, str] = ("preferred_response", "rejected_response")
"""Labels of an instance: two answers to it, of which people preferred the first."""


def preferences(
    row: Mapping[str, Any], answers: Sequence[str]
) -> tuple[list[dict[str, float]], dict[str, str]]:
    """The label `preference` of each answer, and the labels SIDES; empty where nobody preferred any.

    Args:
        row: with `preferred` or `annotators`, or with SIDES, or with neither.
        answers: its answers, in order.

    Raises:
        DataError: a vote is no place of an answer, or there is nothing to prefer.
    """
    sides = {name: found for name in SIDES if (found := optional_text(row, name)) is not None}
    if len(sides) == 1:
        raise DataError(f"the columns {SIDES[0]!r} and {SIDES[1]!r} belong together; one of them is empty")
    single, several = row.get("preferred"), row.get("annotators")
    if is_blank(single) and is_blank(several):
        return [{} for _ in answers], sides
    name, votes = ("preferred", [single]) if is_blank(several) else ("annotators", several)
    if not isinstance(votes, list | tuple) or not votes:
        raise DataError(f"the column 'annotators' must be a list of votes, not {type(votes).__name__}")
    if len(answers) < 2:
        raise DataError(f"the column {name!r} says who won, and there is no second answer in 'responses'")
    shares = [0.0] * len(answers)
    for vote in votes:
        place = rating({name: vote}, name, 0, len(answers))
        if place is None or place != int(place):
            raise DataError(
                f"a vote in {name!r} must be the place of an answer, from 1, or 0 for a tie, not {shown(vote)}"
            )
        for number in range(len(answers)):
            shares[number] += (1 / len(answers) if place == 0 else place == number + 1) / len(votes)
    best, worst = max(shares), min(shares)
    if best > worst and not sides:
        sides = dict(zip(SIDES, (answers[shares.index(best)], answers[shares.index(worst)]), strict=True))
    return [{"preference": round(share, 6)} for share in shares], sides
