"""Contrastive: a rubric is made from a preferred and a rejected response, and kept if the judge then prefers alike.

    spri run rubrics --system contrastive --set evaluation=test.jsonl --data train.jsonl --run runs/seeds
    spri export runs/seeds --format rubrics --out seeds.jsonl      # those that were kept
    spri run rubrics --set seeds=seeds.jsonl --data test.jsonl

It is a source of seeds and no judge to compare: it is shown who won. So it wants to know which rows are evaluated
(`evaluation`, a file or whatever --data takes), and a run on rows that are among them, exactly or nearly, is refused by
the leak guard before anything is paid; tables refuse it altogether.

Outputs: `principles` (the rubric; None if it was not kept), `rules` and `qualities` (what it was made from), `scores`
(the judge's of both responses, of the last try; None where unreadable). The stop reason is accepted (the preference
came out again), exhausted (no try reproduced it) or unscored (the last judgements could not be read). Source:
OpenRubrics (arXiv 2510.07743); all wording is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spri_dspy.critique_refine import Plan, arguments
from spri_dspy.errors import UsageError
from spri_dspy.leaks import Text
from spri_dspy.predict import ASK_AGAIN, RolePredict
from spri_dspy.program import Program
from spri_dspy.records import StopReason
from spri_dspy.systems._criteria import readable, signature_from
from spri_dspy.systems._shapes import only_for
from spri_dspy.tasks import Task
from spri_dspy.tasks.rubrics import Rubric

_CONTRAST = """\
Two people answered the instruction, and readers preferred one answer. Work out what any answer to this instruction
should be judged by, so that the preference follows.

First the rules: what the instruction itself demands, each so that it can be checked, whether or not the two differ in
it. Then the qualities: what made the preferred answer the better one, put in general terms that would also tell two
other answers to this instruction apart. Do not quote or mention the two answers."""

_COMPOSE = """\
Make a rubric for answers to this very instruction out of the rules and qualities.

The criteria are one question that names what decides. An answer that breaks a rule cannot get the top scores; the
qualities tell the upper levels apart. The five score descriptions speak of this instruction, and each level must be
told from the next without guessing. Do not answer the instruction."""


class Contrastive(Program):
    """Rules and qualities from a pair, a rubric of them, and the pair judged by it. At least 4 LM calls a row.

    Args:
        task: the rubrics task.
        evaluation: the rows that seeds made here will be evaluated on, as for `task.examples`.
        tries: rubrics that are made, at most, until one reproduces the preference.

    The predictors are `contrast`, `generate` and `judge`.
    """

    sees = "labels"
    label_inputs = ("preferred_response", "rejected_response")

    def __init__(self, task: Task, *, evaluation: str = "", tries: int = 2) -> None:
        super().__init__(task)
        if tries < 1:
            raise UsageError(f"tries must be at least 1, not {tries}")
        first, second = task.stages.generate_principles, task.stages.generate_response
        lines = {
            "rules": (str, "what the instruction demands, one a line"),
            "qualities": (str, "what decides beyond that, one a line"),
        }
        pair = {"preferred_response": "the preferred answer", "rejected_response": "the other answer"}
        contrast = signature_from(first, _CONTRAST, inputs=pair, outputs=lines)
        self.contrast = RolePredict(contrast, stage="contrast_responses")
        made_from = {name: about for name, (_, about) in lines.items()}
        rubric: dict[str, tuple[Any, str]] = {"principles": (Rubric, "the rubric for this instruction")}
        compose = signature_from(first, _COMPOSE, inputs=made_from, outputs=rubric)
        self.generate = RolePredict(compose, stage="generate_principles")
        self.judge = RolePredict(second, stage="generate_response")
        self.evaluation, self.tries = evaluation, tries
        self.inputs = tuple(first.input_fields)
        self.optional = tuple(n for n in second.input_fields if n not in {*self.inputs, "principles"})
        self.calls = (4, 5, 12 * tries)
        self._examples, self._text_input = task.examples, task.text_input

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its course beside its prompts."""
        return {"tries": self.tries}

    def held_out(self) -> Iterator[Text]:
        """The inputs of the rows that are evaluated, one an instance, for the leak guard.

        Raises:
            UsageError: they were not named.
        """
        if not self.evaluation:
            raise UsageError(
                "contrastive makes seeds from labels: name the rows that they will be evaluated on, "
                "--set evaluation=FILE, so that none of them is trained on"
            )
        seen: set[str] = set()
        for example in self._examples(self.evaluation):
            instance = example.cluster or example.id
            if instance not in seen:
                seen.add(instance)
                yield Text(instance, str(example.input_values[self._text_input]), "evaluation")

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Rubrics, until one reproduces the preference or the tries are spent."""
        scores: dict[str, int | None] = {}
        reason, known = "unscored", dict(inputs)
        for number in range(self.tries):
            rollout = {"rollout": number * (ASK_AGAIN + 1)}
            lines = yield self.contrast, arguments(self.contrast, inputs, group) | rollout
            known |= {"rules": lines["rules"], "qualities": lines["qualities"]}
            made = yield self.generate, arguments(self.generate, known, group) | rollout
            known["principles"] = made["principles"]
            for side in self.label_inputs:
                asked = {**known, "answer": inputs[side]}
                answer = yield from readable(self.judge, asked, group, needs="response")
                scores[side] = None if answer is None else answer["response"].score
            reason = _reason(*scores.values())
            if reason == "accepted":
                break
        return {
            "principles": known["principles"] if reason == "accepted" else None,
            "rules": known["rules"],
            "qualities": known["qualities"],
            "scores": scores,
            "stop_reasons": {"principles": reason},
        }


def _reason(preferred: int | None, rejected: int | None) -> StopReason:
    """Whether two scores reproduce the preference; a tie does not."""
    if preferred is None or rejected is None:
        return "unscored"
    return "accepted" if preferred > rejected else "exhausted"


def system(task: Task, *, paper: bool = False, evaluation: str = "", tries: int = 2) -> Contrastive:
    """Rubrics from labelled pairs, for seeds; for the settings see `Contrastive`.

    Args:
        task: from `load_task`.
        paper: changes nothing, the paper of SPRI has no such system.
        evaluation: the rows that seeds made here will be evaluated on.
        tries: rubrics that are made, at most.

    Raises:
        UsageError: another task than rubrics, or `tries` is below 1.
    """
    only_for(task, "contrastive", "rubrics")
    return Contrastive(task, evaluation=evaluation, tries=tries)
