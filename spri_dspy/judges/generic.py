"""The judge without a measure of its own: how well an answer deals with its instruction, 1 to 5.

Source of the criterion: paper.md section 2, task 2, system "vanilla"; all wording is ours.
"""

from __future__ import annotations

from typing import Any, Literal

from spri_dspy.judges.criteria import Criterion, make_signature
from spri_dspy.judges.judge import Judge

_WORDING = """\
Judge how well an answer deals with its instruction.

Ask yourself what the instruction wants and what a correct answer holds, then compare. Say in at most 128 words
what the answer gets right and what is wrong, missing or beside the point. Length and a confident tone are no
merits. Then choose the number whose description fits best.

1 = it does not answer the instruction, or is wrong throughout
2 = it takes up the instruction, and fails at what matters most in it
3 = it answers in part: something important is missing or wrong
4 = it answers well, with small faults
5 = it answers fully and correctly; nothing important could be better"""


class GenericJudge(Judge):
    """One number, `score`, 1 to 5. Inputs: `instruction`, `answer`. One LM call a sample."""

    name = "generic"
    version = "generic/2"
    inputs = ("instruction", "answer")

    def __init__(self, **settings: Any) -> None:
        signature = make_signature(
            "JudgeAnswer",
            _WORDING,
            {"instruction": "what was asked for", "answer": "the answer to judge"},
            feedback=(str, "how the answer stands against the instruction"),
            score=(Literal[1, 2, 3, 4, 5], "how well the answer deals with the instruction, 1 to 5"),
        )
        super().__init__([Criterion("score", signature, "score")], **settings)


def judge(*, samples: int = 1, logprobs: bool | int = False, swap: bool = False) -> GenericJudge:
    """The judge; for the settings see `Judge`."""
    return GenericJudge(samples=samples, logprobs=logprobs, swap=swap)
