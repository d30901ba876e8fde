"""Several judges, or one judge with several LMs, whose numbers are combined criterion by criterion.

Recorded judgements show why: the plain mean of three rubric-free judges agrees with people better than the best of
the three (paper.md, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from spri_dspy.errors import UsageError
from spri_dspy.judges.judge import check_combine, combine, fields, gather
from spri_dspy.program import set_lms
from spri_dspy.records import Usage


class Panel(dspy.Module):
    """A judge made of judges. Each is shown the inputs that it takes; numbers of one criterion are combined.

    Args:
        members: at least two judges. Give them their LMs one by one, or all the same with `set_lms`.
        combine: "mean" or "median" over the members whose number can be read; None if none can.

    Attributes:
        version: the members' versions and how they are combined.
    """

    name = "panel"

    def __init__(self, members: Sequence[Any], *, combine: str = "mean") -> None:
        super().__init__()
        if len(members) < 2:
            raise UsageError("a panel needs at least two judges")
        self.members, self.combine = list(members), check_combine(combine)
        self.inputs = tuple(dict.fromkeys(name for each in members for name in each.inputs))
        may = (name for each in members for name in each.optional)
        self.optional = tuple(dict.fromkeys(name for name in may if name not in self.inputs))
        self.version = f"panel/1 {combine} of " + " + ".join(each.version for each in members)

    @property
    def criteria(self) -> dict[str, Any]:
        """Every criterion of a member, by name."""
        return {name: each.criteria[name] for each in self.members for name in getattr(each, "criteria", ())}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers beside the wording."""
        return {"combine": self.combine, "members": [getattr(each, "settings", {}) for each in self.members]}

    def set_lms(self, judge: Any) -> Panel:
        """Give every member the same LM, as an LM string or a dspy.LM."""
        return set_lms(self, judge=judge)

    def calls(self, inputs: Mapping[str, Any]) -> int:
        """LM calls for these inputs if every answer is readable."""
        return sum(each.calls(_taken(each, inputs)) for each in self.members)

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Judge one answer, member by member."""
        return self._joined([each(group=group, **_taken(each, inputs)) for each in self.members])

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Judge one answer without blocking; the members judge at the same time."""
        return self._joined(
            await gather([each.acall(group=group, **_taken(each, inputs)) for each in self.members])
        )

    def _joined(self, predictions: Sequence[dspy.Prediction]) -> dspy.Prediction:
        names = dict.fromkeys(name for p in predictions for name in p["scores"])
        details = {name: self._detail(name, predictions) for name in names}
        usage = sum((p["usage"].get("judge", Usage()) for p in predictions), Usage())
        return dspy.Prediction(**fields(self, details), usage={"judge": usage})

    def _detail(self, name: str, predictions: Sequence[dspy.Prediction]) -> dict[str, Any]:
        apart = [
            {
                "judge": member.version,
                "lm": _model(member),
                **p.get("details", {}).get(name, {}),
                "value": p["scores"][name],
            }
            for member, p in zip(self.members, predictions, strict=True)
            if name in p["scores"]
        ]
        found: dict[str, Any] = {"value": combine([each["value"] for each in apart], self.combine)}
        gaps = [each["gap"] for each in apart if "gap" in each]
        return found | ({"gap": combine(gaps, "mean")} if gaps else {}) | {"members": apart}


def _taken(member: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if k in (*member.inputs, *member.optional)}


def _model(member: Any) -> str | None:
    """The member's LM without its options: an address has no place in records."""
    lms = (p.lm for _, p in member.named_predictors() if p.lm is not None)
    lm = next(lms, None)
    return None if lm is None else getattr(getattr(lm, "spec", None), "model", None) or lm.model
