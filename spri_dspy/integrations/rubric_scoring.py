"""Scores answers by a rubric for each instruction: what every integration that scores is made of.

    scorer = RubricScorer(judge="openai/gpt-4o-mini")                          # SPRI writes each rubric
    scorer = RubricScorer("rubrics.jsonl", judge="openai/gpt-4o-mini")         # of spri export RUN --format rubrics
    scorings = scorer.score([("Name a quiet bird.", "The bittern.")])
    scorings[0].value, scorings[0].explanation

It knows rubrics and judges, and no tool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.evidence import collect
from spri_dspy.judges import load_judge
from spri_dspy.lms.concurrency import Limiter
from spri_dspy.lms.failures import failure_kind
from spri_dspy.lms.scope import Scope, use_scope
from spri_dspy.lms.spec import load_lm
from spri_dspy.program import SPRI, check_scorers
from spri_dspy.redaction import error_line
from spri_dspy.tasks import load_task
from spri_dspy.tasks.rubrics import Rubric, as_text, read_export

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 1.0, 5.0
"""Range of a score."""


@dataclass(frozen=True)
class Scoring:
    """What one answer was given.

    Attributes:
        value: 1 to 5, a fraction where samples or log-probabilities were averaged; None if there is no score.
        explanation: the judge's words; without a value, why there is none.
        rubric: the text that was scored by; None if there was none.
    """

    value: float | None
    explanation: str
    rubric: str | None = None

    @property
    def share(self) -> float | None:
        """The score as a share of the scale: 1 is 0.0, 3 is 0.5, 5 is 1.0; None stays None."""
        return None if self.value is None else (self.value - LOWEST) / (HIGHEST - LOWEST)


class RubricScorer:
    """Scores answers with an LM judge, each by the rubric of its instruction.

    Args:
        rubrics: a file of `spri export RUN --format rubrics`, whose rubrics are found by their instruction; a
            `Rubric`, a mapping in its shape or a text of several lines, which then stands for every instruction;
            None lets SPRI write one for each instruction, once, without seeing any answer.
        judge: LM string or dspy.LM that scores. Has to be named; "offline" is the rule-based stand-in.
        base: LM that writes and refines rubrics; the judge's by default.
        critic: LM that criticises them; the base by default.
        concurrency: calls in flight at most, per LM.
        **settings: of the judge `rubric`: samples, logprobs, swap.

    An LM call that fails leaves its answer without a score; so does an instruction that the file has no rubric for.

    Raises:
        UsageError: a rubric, a setting or an LM string is wrong.
        PrerequisiteError: a key or an address is missing.
    """

    def __init__(
        self,
        rubrics: str | Path | Rubric | Mapping[str, Any] | None = None,
        *,
        judge: Any,
        base: Any = None,
        critic: Any = None,
        concurrency: int = 16,
        **settings: Any,
    ) -> None:
        self._fixed, self._file, self._rubrics = _given(rubrics)
        lm = load_lm(judge)
        self._judge = load_judge("rubric", **settings).set_lms(lm)
        self._writer: SPRI | None = None
        if rubrics is None:
            writer = load_lm(base) if base is not None else lm
            self._writer = SPRI(load_task("rubrics")).set_lms(base=writer, critic=critic)
            check_scorers(self._writer, self._judge)
        elif base is not None or critic is not None:
            raise UsageError("base and critic write rubrics: leave them out where rubrics are given")
        self._concurrency = concurrency
        Limiter(concurrency)  # refuses a number out of range
        self._scopes: dict[asyncio.AbstractEventLoop, Scope] = {}
        self._writing: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[str]] = {}

    def score(self, answers: Iterable[tuple[str, str]]) -> list[Scoring]:
        """Score (instruction, answer) pairs, all at the same time; in order. Works inside a running loop too."""
        return run_to_end(self.ascore_all(list(answers)))

    async def ascore_all(self, answers: Sequence[tuple[str, str]]) -> list[Scoring]:
        """The same without blocking."""
        return list(await asyncio.gather(*(self.ascore(*each) for each in answers)))

    async def ascore(self, instruction: str, answer: str, reference: str | None = None) -> Scoring:
        """Score one answer without blocking.

        Args:
            instruction: what was asked for; its rubric is found or written by this text.
            answer: what is scored. An empty one is met by no rubric and gets no call: it has no score.
            reference: an answer that would get the top score, shown to the judge; never to who writes rubrics.

        Raises:
            PrerequisiteError: a failure that every call would meet, such as a wrong key.
        """
        if not answer.strip():
            return Scoring(None, "the answer is empty")
        known = {} if reference is None else {"reference_answer": reference}
        rubric = None
        with use_scope(self._scope()), dspy.context(disable_history=True, trace=None), collect():
            try:
                rubric = await self.rubric_of(instruction)
                judged = await self._judge.acall(
                    instruction=instruction, answer=answer, rubric=rubric, **known
                )
            except (CallError, dspy.LMError, TimeoutError) as error:
                return Scoring(None, _not_fatal(error), rubric)
        value = judged.scores["score"]
        feedback = next((r["feedback"] for r in judged.details["score"]["readings"] if r["feedback"]), "")
        return Scoring(value, feedback if value is not None else "the judge gave no readable score", rubric)

    async def rubric_of(self, instruction: str) -> str:
        """The rubric of an instruction as text; one that is to be written is written once.

        Raises:
            CallError: there is none, or none could be written.
        """
        key = instruction.strip()
        found = self._fixed or self._rubrics.get(key)
        if found is not None:
            return found
        if self._writer is None:
            raise CallError(f"{self._file} has no rubric for this instruction: {key[:60]!r}")
        loop = asyncio.get_running_loop()
        writing = self._writing.get((loop, key))
        if writing is None:
            writing = self._writing[loop, key] = loop.create_task(self._write(self._writer, key))
            writing.add_done_callback(lambda _: self._writing.pop((loop, key), None))
        return await asyncio.shield(writing)

    async def _write(self, writer: SPRI, instruction: str) -> str:
        written = await writer.asituate(instruction=instruction)
        self._rubrics[instruction] = as_text(written.principles)
        return self._rubrics[instruction]

    def _scope(self) -> Scope:
        """What surrounds calls in the running loop: one limit for all answers that are scored in it."""
        loop = asyncio.get_running_loop()
        for gone in [each for each in self._scopes if each.is_closed()]:
            del self._scopes[gone]
        if loop not in self._scopes:
            self._scopes[loop] = Scope(slots=Limiter(self._concurrency))
        return self._scopes[loop]


def _given(rubrics: Any) -> tuple[str | None, str, dict[str, str]]:
    """The rubric for everything, or the name of a file and its rubrics by instruction."""
    if rubrics is None:
        return None, "", {}
    if isinstance(rubrics, Path) or (isinstance(rubrics, str) and "\n" not in rubrics.strip()):
        by_instruction = {text.strip(): as_text(rubric) for text, rubric in read_export(rubrics).values()}
        return None, Path(rubrics).name, by_instruction
    try:
        text = as_text(rubrics)
    except (ValueError, TypeError):
        raise UsageError(
            "a rubric is a text, or has criteria and score1_description to score5_description"
        ) from None
    return text, "", {}


def _not_fatal(error: BaseException) -> str:
    """Why one answer has no score.

    Raises:
        PrerequisiteError: every other answer would meet the same failure.
    """
    said = error_line(error)
    if failure_kind(error) == "fatal":
        raise PrerequisiteError(f"every call would fail: {said}; check key, model and address") from error
    logger.info("an answer has no score: %s", said)
    return said
