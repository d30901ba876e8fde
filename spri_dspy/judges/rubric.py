"""The judge that scores by a rubric, 1 to 5: the benchmark's, the run's own, or one for everything.

Several rubrics for one answer make a panel: each judges by itself, and their numbers are combined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from spri_dspy.errors import UsageError
from spri_dspy.judges.criteria import Criterion, make_signature
from spri_dspy.judges.judge import Judge, Question, Reading, check_combine, combine
from spri_dspy.tasks.rubrics import as_text

_WORDING = """\
Score an answer to an instruction by the rubric, and by nothing else.

Take up the rubric point by point and say in at most 128 words, with the words of the answer that show it, what
the answer meets and what it misses. Then choose the score whose description in the rubric fits best; where the
rubric describes no scores, 1 means that nothing of it is met and 5 that all of it is. Length, tone and confidence
count only where the rubric names them."""

_INPUTS = {
    "instruction": "what was asked for",
    "reference_answer": "an answer that would get the top score",
    "rubric": "what answers are scored by",
    "answer": "the answer to judge",
}
_LEVEL = re.compile(r"[\s*#\-\[]{0,12}score[ \t]{0,4}[0-9]{1,2}\b", re.IGNORECASE)


class RubricJudge(Judge):
    """One number, `score`, 1 to 5.

    Inputs: `instruction`, `answer`, `rubric` (text, a mapping as the rubrics task writes it, or a list of several),
    and optionally `reference_answer`. One LM call a sample and rubric; two with `swap`, where the rubric
    describes its scores in lines (`Score 1: ...`); a rubric without them is asked once.

    Args:
        combine: "mean" or "median" over several rubrics.
        **settings: as for Judge.
    """

    name = "rubric"
    version = "rubric/2"
    inputs = ("instruction", "answer", "rubric")
    optional = ("reference_answer",)

    def __init__(self, *, combine: str = "mean", **settings: Any) -> None:
        self.combine = check_combine(combine)
        signature = make_signature(
            "JudgeByRubric",
            _WORDING,
            _INPUTS,
            feedback=(str, "how the answer stands against the rubric"),
            score=(Literal[1, 2, 3, 4, 5], "the score whose description fits best, 1 to 5"),
        )
        super().__init__([Criterion("score", signature, "score")], **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers beside the wording."""
        return {**super().settings, "combine": self.combine}

    def questions(self, inputs: Mapping[str, Any]) -> list[Question]:
        """One question a rubric, two where its scores can be turned round and `swap` is set."""
        known: dict[str, Any] = {k: str(v) for k, v in inputs.items() if k != "rubric"}
        if "reference_answer" not in known:
            known["signature"] = self.ask["score"].signature.delete("reference_answer")
        found: list[Question] = []
        for number, text in enumerate(_texts(inputs["rubric"])):
            found.append(Question("score", {**known, "rubric": text}, rubric=number))
            turned = reversed_rubric(text) if self.swap else None
            if turned is not None:
                found.append(Question("score", {**known, "rubric": turned}, is_reversed=True, rubric=number))
        return found

    def detail(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What the readings come to; with several rubrics, each rubric's value stands in `by_rubric`."""
        numbers = sorted({reading.rubric for reading in readings})
        apart = [super(RubricJudge, self).detail([r for r in readings if r.rubric == n]) for n in numbers]
        if len(apart) == 1:
            return apart[0]
        found: dict[str, Any] = {"value": combine([each["value"] for each in apart], self.combine)}
        found["by_rubric"] = [each["value"] for each in apart]
        if self.swap:
            found["gap"] = combine([each["gap"] for each in apart], "mean")
        return found | {"readings": [reading.to_json() for reading in readings]}


def judge(
    *, samples: int = 1, logprobs: bool | int = False, swap: bool = False, combine: str = "mean"
) -> RubricJudge:
    """The judge; for the settings see `Judge` and `RubricJudge`."""
    return RubricJudge(samples=samples, logprobs=logprobs, swap=swap, combine=combine)


def reversed_rubric(text: str) -> str | None:
    """The rubric with its score descriptions in the other order; None if it describes fewer than two scores.

    A description starts at a line such as `Score 3: ...` and goes on to the next one or a blank line.
    """
    head: list[str] = []
    levels: list[list[str]] = []
    tail: list[str] = []
    for line in text.split("\n"):
        if _LEVEL.match(line):
            levels.append([*tail, line])
            tail = []
        elif levels and line.strip() and not tail:
            levels[-1].append(line)
        else:
            (tail if levels else head).append(line)
    if len(levels) < 2:
        return None
    return "\n".join([*head, *(line for level in reversed(levels) for line in level), *tail])


def _texts(rubric: Any) -> list[str]:
    """Each rubric as text.

    Raises:
        UsageError: there is none, or one is empty or in a shape that is no rubric.
    """
    several = rubric if isinstance(rubric, list | tuple) else [rubric]
    try:
        texts = [as_text(each) for each in several]
    except (ValueError, TypeError):
        raise UsageError(
            "a rubric is text, or has criteria and score1_description to score5_description; see the rubrics task"
        ) from None
    if not texts or not all(text.strip() for text in texts):
        raise UsageError("the judge rubric needs a rubric with some text in it")
    return texts


@lru_cache(maxsize=16)
def _without_reference(signature: Any) -> Any:
    return signature.delete("reference_answer")
