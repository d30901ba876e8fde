"""One critique-refine loop: draft a candidate, have it judged, refine it by the feedback, until it is accepted.

    loop = spri.CritiqueRefine(Draft, Critique, Refine, accept_at=4, max_critiques=4)
    loop.generate.lm = loop.refine.lm = base
    loop.critique.lm = critic

A plan, a generator of (predictor, arguments), drives synchronous and asynchronous calls alike. Source: SPRI (Zhan et
al., ICML 2025), see paper.md section 1. It knows no task and no model.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import dspy

from spri_dspy.answers import shape_of
from spri_dspy.errors import UsageError
from spri_dspy.evidence import collect, current
from spri_dspy.predict import ASK_AGAIN, RolePredict
from spri_dspy.records import Round, StopReason, Verdict
from spri_dspy.signatures import candidate_field
from spri_dspy.trampoline import adrive, drive

Step = tuple[RolePredict, dict[str, Any]]
Plan = Generator[Step, dspy.Prediction, Any]


class LoopSettings(TypedDict, total=False):
    """What decides a loop's course beside its prompts; see CritiqueRefine."""

    accept_at: int
    max_critiques: int
    keep: Literal["best", "last"]
    on_unscored: Literal["ask_again", "stop"]


@dataclass(frozen=True)
class Outcome:
    """How one loop ended.

    Attributes:
        value: the candidate that stands, of the type of the signature's output field.
        score: its verdict's score, None if it has none.
    """

    value: Any
    score: int | None
    stop_reason: StopReason


class CritiqueRefine(dspy.Module):
    """Draft a candidate, have it judged, refine it by the feedback, until the gate or the last round.

    Args:
        generate: the signature of a draft; it has one output field.
        critique: takes the candidate under `generate`'s output name and returns `feedback` and `score`.
        refine: takes the candidate and the feedback; it has the output field of `generate`.
        accept_at: the score that ends the loop, 1 to 5. 6 can never be reached: every round is used.
        max_critiques: critiques of different candidates, at least 1; refinements are at most one fewer.
        keep: "best" returns the highest-scored candidate (the latest of equals), "last" the last one.
        on_unscored: "ask_again" samples the critic anew, at most twice a critique, then stops as "unscored";
            "stop" stops at once.
        stage: name in traces; the candidate's field name by default.

    At most 1 + max_critiques * 3 + (max_critiques - 1) LM calls, plus new samples of unreadable answers.
    """

    def __init__(
        self,
        generate: type[dspy.Signature],
        critique: type[dspy.Signature],
        refine: type[dspy.Signature],
        *,
        accept_at: int = 4,
        max_critiques: int = 4,
        keep: Literal["best", "last"] = "best",
        on_unscored: Literal["ask_again", "stop"] = "ask_again",
        stage: str | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= accept_at <= 6 or max_critiques < 1:
            raise UsageError(
                f"accept_at must be 1 to 6 and max_critiques at least 1, not {accept_at} and {max_critiques}"
            )
        if keep not in ("best", "last") or on_unscored not in ("ask_again", "stop"):
            raise UsageError(
                f"keep is best or last, on_unscored ask_again or stop, not {keep!r} and {on_unscored!r}"
            )
        self.candidate, self.improved = candidate_field(generate), candidate_field(refine)
        self.stage = stage or self.candidate
        self.generate = RolePredict(generate, role="base", stage=f"generate_{self.stage}")
        self.critique = RolePredict(critique, role="critic", stage=f"critique_{self.stage}")
        self.refine = RolePredict(refine, role="base", stage=f"refine_{self.stage}")
        self.accept_at, self.max_critiques, self.keep, self.on_unscored = (
            accept_at,
            max_critiques,
            keep,
            on_unscored,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its course beside its prompts."""
        return {name: getattr(self, name) for name in ("accept_at", "max_critiques", "keep", "on_unscored")}

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Yield (predictor, arguments), receive predictions, return an Outcome."""
        draft = yield self.generate, arguments(self.generate, inputs, group)
        value = draft[self.candidate]
        seen: list[tuple[Any, int | None]] = []
        for number in range(1, self.max_critiques + 1):
            verdict = yield from self._judge({**inputs, self.candidate: value}, value, group)
            seen.append((value, verdict.score))
            if verdict.score is None:
                return self._outcome(seen, "unscored")
            if verdict.score >= self.accept_at:
                return self._outcome(seen, "accepted")
            if number < self.max_critiques:
                known = {**inputs, self.candidate: value, "feedback": verdict.feedback}
                refined = yield self.refine, arguments(self.refine, known, group)
                value = refined[self.improved]
        return self._outcome(seen, "exhausted")

    def _judge(
        self, known: Mapping[str, Any], value: Any, group: str | None
    ) -> Generator[Step, dspy.Prediction, Verdict]:
        """Critique one candidate, asking again while no score can be read."""
        samples = 1 + (ASK_AGAIN if self.on_unscored == "ask_again" else 0)
        verdict = Verdict("", None)
        for attempt in range(samples):
            judged = yield self.critique, {**arguments(self.critique, known, group), "rollout": attempt}
            verdict = Verdict(judged["feedback"] or "", judged["score"])
            current().trace.append(Round(self.stage, str(value), verdict, attempt))
            if verdict.score is not None:
                break
        return verdict

    def _outcome(self, seen: list[tuple[Any, int | None]], reason: StopReason) -> Outcome:
        value, score = seen[-1]
        if self.keep == "best":
            value, score = max(reversed(seen), key=lambda candidate: candidate[1] or 0)
        return Outcome(value, score, reason)

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Run the loop: the candidate under its own name, `score`, `stop_reason`, `trace`, `usage`."""
        return run_plan(self._fields(inputs, group))

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """The same, without blocking."""
        return await arun_plan(self._fields(inputs, group))

    def _fields(self, inputs: Mapping[str, Any], group: str | None) -> Plan:
        outcome = yield from self.plan(inputs, group)
        return {
            self.candidate: outcome.value,
            "score": outcome.score,
            "stop_reason": outcome.stop_reason,
        }


def run_plan(plan: Plan) -> dspy.Prediction:
    """Run a plan to its end: the fields that it returns, `trace`, and `usage` by role."""
    with collect() as evidence:
        fields = drive(plan, lambda step: step[0](**step[1]))
    return dspy.Prediction(**fields, trace=evidence.trace, usage=evidence.usage)


async def arun_plan(plan: Plan) -> dspy.Prediction:
    """The same, without blocking."""
    with collect() as evidence:
        fields = await adrive(plan, lambda step: step[0].acall(**step[1]))
    return dspy.Prediction(**fields, trace=evidence.trace, usage=evidence.usage)


def arguments(predictor: RolePredict, known: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """What of `known` the predictor's signature asks for, and the group."""
    asked = shape_of(predictor.signature).inputs
    return {name: known[name] for name in asked if name in known} | {"group": group}
