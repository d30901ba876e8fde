"""What systems that write criteria of their own share: lists of criteria, yes or no for each, a score of the share.

An answer that cannot be read is asked again, and is then None: it is left out of the share, and never counts as a no.
It knows the inputs of the rubrics task and no system's wording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import dspy
import pydantic

from spri_dspy.critique_refine import Step, arguments
from spri_dspy.errors import UnreadableAnswer
from spri_dspy.judges.criteria import Choice
from spri_dspy.predict import ASK_AGAIN, RolePredict
from spri_dspy.signatures import measure


class YesNo(Choice):
    """Yes or no, read leniently; a class of its own, for DSPy's optimizers pickle demos."""

    choices = ("yes", "no")


# Every repetition is bounded, so that reading stays linear.
_MARK = re.compile(r"[ \t>#*]{0,12}(?:(?:[-•+]|[Qq]?\(?\d{1,2}[.):])[ \t]{0,8})?[*_]{0,3}")
_WORD = re.compile(r"\w{2}")


class Scored(pydantic.BaseModel):
    """What several answers about one response, or several samples of a judgement, come to.

    Attributes:
        feedback: each answer, or the sample nearest to the mean.
        score: 1 to 5, not rounded; None if nothing could be read.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    feedback: str
    score: float | None = pydantic.Field(ge=1, le=5)

    def __str__(self) -> str:
        return f"{self.feedback}\nScore: {'none' if self.score is None else f'{self.score:.2f}'}"


class Met(NamedTuple):
    """Whether a response meets a criterion, None if that could not be read; and why."""

    met: bool | None
    reason: str


def signature_from(
    stage: type[dspy.Signature],
    instructions: str,
    *,
    inputs: Mapping[str, str] | None = None,
    measures: Mapping[str, str] | None = None,
    outputs: Mapping[str, tuple[Any, str]],
) -> type[dspy.Signature]:
    """A signature with a stage's inputs (but for `principles`), further ones, and outputs of its own.

    Args:
        stage: one of a task's.
        instructions: the prompt.
        inputs: further inputs, name -> description; fenced where an output is a rating or a choice.
        measures: what is scored by, name -> description; never fenced.
        outputs: name -> type and description.
    """
    signature = stage.with_instructions(instructions)
    for name in ("principles", *stage.output_fields):
        signature = signature.delete(name)
    for name, about in (inputs or {}).items():
        signature = signature.append(name, dspy.InputField(desc=about), str)
    for name, about in (measures or {}).items():
        signature = signature.append(name, measure(about), str)
    for name, (kind, about) in outputs.items():
        signature = signature.append(name, dspy.OutputField(desc=about), kind)
    return signature


def lines_of(text: str, most: int) -> list[str]:
    """The items of a text that has one a line, or of a JSON list: without numbers, bullets and repetitions.

    Lines that end in a colon are headings. Where a line holds a question, only such lines count.

    Args:
        text: what an LM wrote.
        most: items that are returned at most, the first ones.
    """
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        listed = None
    lines = [str(each) for each in listed] if isinstance(listed, list) else text.split("\n")
    items = [_MARK.sub("", line, count=1).strip(" \t*_") for line in lines]
    items = [item for item in items if _WORD.search(item) and not item.endswith(":")]
    items = [item for item in items if "?" in item] or items
    return list({item.casefold(): item for item in reversed(items)}.values())[::-1][:most]


def written(
    predictor: RolePredict, known: Mapping[str, Any], group: str | None, *, fewest: int, most: int
) -> Generator[Step, dspy.Prediction, list[str]]:
    """The items that a predictor's one output lists; asked again, at most twice, while there are too few.

    If there are too few in the end, the longest list stands.

    Raises:
        UnreadableAnswer: no sample has an item.
    """
    (field,) = predictor.signature.output_fields
    best, said = list[str](), ""
    for attempt in range(ASK_AGAIN + 1):
        answer = yield predictor, {**arguments(predictor, known, group), "rollout": attempt}
        said = str(answer[field])
        best = max(best, lines_of(said, most), key=len)
        if len(best) >= fewest:
            break
    if not best:
        raise UnreadableAnswer(f"{predictor.stage_name}: a list without an item", said)
    return best


def readable(
    predictor: RolePredict, known: Mapping[str, Any], group: str | None, *, needs: str, sample: int = 0
) -> Generator[Step, dspy.Prediction, dspy.Prediction | None]:
    """An answer whose output `needs` can be read, asked again at most twice; None if there is none.

    Args:
        predictor: who answers.
        known: what its inputs are taken from.
        group: the example's.
        needs: a rating or a choice.
        sample: which of several independent answers, from 0.
    """
    for attempt in range(ASK_AGAIN + 1):
        rollout = sample * (ASK_AGAIN + 1) + attempt
        try:
            answer = yield predictor, {**arguments(predictor, known, group), "rollout": rollout}
        except UnreadableAnswer:  # the predictor has asked again by itself
            return None
        if answer[needs] is not None:
            return answer
    return None


def checked(
    predictor: RolePredict, known: Mapping[str, Any], group: str | None, criteria: Sequence[str]
) -> Generator[Step, dspy.Prediction, list[Met]]:
    """Whether a response meets each criterion, in their order; a call each.

    Args:
        predictor: takes the criterion as its last input, and returns `feedback` and `met`, a YesNo.
        known: its other inputs.
        group: the example's.
        criteria: texts.
    """
    asked = list(predictor.signature.input_fields)[-1]
    found: list[Met] = []
    for criterion in criteria:
        answer = yield from readable(predictor, {**known, asked: criterion}, group, needs="met")
        found.append(
            Met(None, "") if answer is None else Met(answer["met"] == "yes", str(answer["feedback"]))
        )
    return found


def share_of(met: Sequence[bool | None], weights: Sequence[float] | None = None) -> float | None:
    """The share of yes among what could be read, in [0, 1]; None if nothing could.

    Args:
        met: yes, no, or None for what could not be read.
        weights: of each, above 0; alike if None.
    """
    counted = [(m, w) for m, w in zip(met, weights or [1.0] * len(met), strict=True) if m is not None]
    whole = sum(weight for _, weight in counted)
    return sum(weight for is_met, weight in counted if is_met) / whole if whole else None


def scored(criteria: Sequence[str], met: Sequence[Met], share: float | None) -> Scored:
    """A share as a score from 1 (none) to 5 (all), with each answer as feedback."""
    words = {True: "yes", False: "no", None: "not read"}
    lines = [
        f"{words[each.met]}: {criterion}" + (f" ({' '.join(each.reason.split())})" if each.reason else "")
        for criterion, each in zip(criteria, met, strict=True)
    ]
    return Scored(feedback="\n".join(lines), score=None if share is None else 1 + 4 * share)


def numbered(items: Sequence[str]) -> str:
    """Items as numbered lines."""
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
