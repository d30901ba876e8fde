"""The six stage signatures with their base wording, and how a task makes them its own.

Every docstring of a Signature below is PROMPT TEXT that a model reads, pinned by golden files; what is
meant for people stands in comments. One field name means one thing in all six, because DSPy matches
few-shot demos to predictors by field name:

    principles, response                    the candidates of stage 1 and stage 2
    improved_principles, improved_response  what a refinement returns
    feedback, score                         what a critique returns

Inputs of a signature that returns a score are fenced (see `prompt_fencing`), but for a `measure`.

`user_input` stands for whatever a task takes in; `Stages.build` replaces it by the task's own fields.
It knows no task, no model and no prompt style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import dspy

FivePoint = Literal[1, 2, 3, 4, 5]


def measure(description: str) -> Any:
    """An input that the others are scored by: it is the one kind that is not fenced in a prompt that scores."""
    field: Any = dspy.InputField(desc=description)
    field.json_schema_extra["fenced"] = False
    return field


class GeneratePrinciples(dspy.Signature):
    """Write the principles that a good answer to this particular input should follow.

    Tie every principle to what is special here: the people, the facts, the constraints, what is at stake.
    A principle that would fit any other input just as well is not worth writing. Put one idea on a line,
    as an instruction to the person who will write the answer. Do not write the answer itself. Use at most
    128 words in all."""

    user_input: str = dspy.InputField(desc="what the answer will respond to")
    principles: str = dspy.OutputField(desc="one principle a line")


class CritiquePrinciples(dspy.Signature):
    """Judge how useful these principles are as a guide for answering this input.

    Say first what they get right. Then name what they miss, what stays vague and what does not belong, so
    concretely that the writer can act on it. Use at most 128 words. Then give one whole number:
    1 = they would mislead, or say nothing about this input
    2 = mostly general advice, and central points of the input are missing
    3 = usable, with a clear gap or with lines that fit any input
    4 = specific and sound, with small things left to improve
    5 = nothing that matters is missing, and every line helps"""

    user_input: str = dspy.InputField(desc="what the answer will respond to")
    principles: str = dspy.InputField(desc="the principles to judge")
    feedback: str = dspy.OutputField(desc="what works, and what to change")
    score: FivePoint = dspy.OutputField(desc="how useful the principles are, 1 to 5")


class RefinePrinciples(dspy.Signature):
    """Rewrite the principles so that every point of the feedback is dealt with.

    Keep what the feedback praises and what it leaves alone. Add what is missing, sharpen what is vague, drop
    what does not belong. One idea on a line, at most 128 words in all. Give only the improved principles."""

    user_input: str = dspy.InputField(desc="what the answer will respond to")
    principles: str = dspy.InputField(desc="the principles so far")
    feedback: str = dspy.InputField(desc="a critic's feedback on them")
    improved_principles: str = dspy.OutputField(desc="one principle a line")


class GenerateResponse(dspy.Signature):
    """Answer the input, following every one of the principles.

    Let the principles decide what to say and how; do not quote or mention them. Write to the person who
    wrote the input, in plain and natural language, in at most 128 words."""

    user_input: str = dspy.InputField(desc="what to respond to")
    principles: str = measure("the principles that a good response follows")
    response: str = dspy.OutputField(desc="the answer, addressed to its reader")


class CritiqueResponse(dspy.Signature):
    """Judge how closely this response keeps to the principles, taking them as the rubric.

    Go through the principles one by one and say which are followed, which only in part and which not at all,
    pointing to the words that show it. Use at most 128 words. Then give one whole number:
    1 = it ignores the principles or works against them
    2 = it follows few of them
    3 = it follows most, but misses or weakens at least one that matters
    4 = it follows all of them, with small things left to improve
    5 = it follows all of them fully, and reads well"""

    user_input: str = dspy.InputField(desc="what the response responds to")
    principles: str = measure("the rubric: the principles that a good response follows")
    response: str = dspy.InputField(desc="the response to judge")
    feedback: str = dspy.OutputField(desc="what works, and what to change")
    score: FivePoint = dspy.OutputField(desc="how closely the response keeps to the principles, 1 to 5")


class RefineResponse(dspy.Signature):
    """Rewrite the response so that every point of the feedback is dealt with and all principles are followed.

    Keep what already works. Write to the person who wrote the input, in plain and natural language, in at
    most 128 words. Give only the improved response."""

    user_input: str = dspy.InputField(desc="what to respond to")
    principles: str = measure("the principles that a good response follows")
    response: str = dspy.InputField(desc="the response so far")
    feedback: str = measure("a critic's feedback on it")
    improved_response: str = dspy.OutputField(desc="the improved answer, addressed to its reader")


BASE: dict[str, type[dspy.Signature]] = {
    "generate_principles": GeneratePrinciples,
    "critique_principles": CritiquePrinciples,
    "refine_principles": RefinePrinciples,
    "generate_response": GenerateResponse,
    "critique_response": CritiqueResponse,
    "refine_response": RefineResponse,
}


@dataclass(frozen=True)
class Stages:
    """The six signatures of one task, in the order in which they run.

    Attributes:
        goal: names of the inputs that say what the answer is for (an aim); see `as_published`.
    """

    generate_principles: type[dspy.Signature]
    critique_principles: type[dspy.Signature]
    refine_principles: type[dspy.Signature]
    generate_response: type[dspy.Signature]
    critique_response: type[dspy.Signature]
    refine_response: type[dspy.Signature]
    goal: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        inputs: Mapping[str, str],
        *,
        goal: Sequence[str] = (),
        wording: Mapping[str, str] | None = None,
        types: Mapping[str, Any] | None = None,
        response_inputs: Mapping[str, str] | None = None,
        descriptions: Mapping[str, str] | None = None,
    ) -> Stages:
        """Make the base signatures a task's own.

        Args:
            inputs: the task's input fields and their descriptions, in prompt order.
            goal: which of them state the aim of the answer; it is also scored by them.
            wording: instructions by stage name ("generate_response", ...) instead of the base wording.
            types: other types for "principles" or "response" and their improved forms.
            descriptions: what "principles" or "response" is called in prompts, where it is not what the base says.
            response_inputs: inputs that only the second stage is shown, behind the others.

        Raises:
            KeyError: `wording` names a stage that does not exist.
        """
        wording, second = dict(wording or {}), {**inputs, **(response_inputs or {})}
        built = {}
        for stage, base in BASE.items():
            shown = second if stage.endswith("response") else inputs
            fields = {
                n: measure(about) if n in goal else dspy.InputField(desc=about) for n, about in shown.items()
            }
            built[stage] = _adapt(base, fields, wording.pop(stage, None), types or {}, descriptions or {})
        if wording:
            raise KeyError(f"no such stage: {sorted(wording)}; stages: {list(BASE)}")
        return cls(**built, goal=tuple(goal))

    def as_published(self) -> Stages:
        """These stages with the published refinement prompts and the published reading of scores.

        Source: the released experiment (paper.md, section 3): refining principles is not shown the goal,
        refining a response is not shown the principles, and scores are read by the first digit after [RESULT].
        """
        blind_principles = self.refine_principles
        for name in self.goal:
            blind_principles = blind_principles.delete(name)
        return replace(
            self,
            refine_principles=blind_principles,
            refine_response=self.refine_response.delete("principles"),
            critique_principles=_read_as_published(self.critique_principles),
            critique_response=_read_as_published(self.critique_response),
        )


def _adapt(
    base: type[dspy.Signature],
    inputs: Mapping[str, Any],
    wording: str | None,
    types: Mapping[str, Any],
    descriptions: Mapping[str, str],
) -> type[dspy.Signature]:
    signature = base.delete("user_input")
    for name, field in reversed(list(inputs.items())):
        signature = signature.prepend(name, field, str)
    for name in ("principles", "response"):
        for field in (name, f"improved_{name}"):
            # DSPy's own hint for what a field takes is too narrow.
            changes: Any = {"desc": descriptions[name]} if name in descriptions else {}
            if field in signature.fields and (changes or name in types):
                signature = signature.with_updated_fields(field, type_=types.get(name), **changes)
    return signature if wording is None else signature.with_instructions(wording)


def _read_as_published(critique: type[dspy.Signature]) -> type[dspy.Signature]:
    """Mark a critique's score, for `adapters`, as one to be read like the released experiment did."""
    return critique.with_updated_fields("score", read="published")  # pyright: ignore[reportArgumentType] - kept as extra


def candidate_field(signature: type[dspy.Signature]) -> str:
    """The one output field of a signature that writes or rewrites a candidate.

    Raises:
        ValueError: it has none, or several.
    """
    outputs = list(signature.output_fields)
    if len(outputs) != 1:
        raise ValueError(f"{signature.__name__} must have exactly one output field, it has {outputs}")
    return outputs[0]
