"""Systems of the table `truthful`: criteria made without any answer in view, and one judgement whose score is expected.

    vanilla         no criteria; with program=FILE the prompts and seeds that a tuning of it saved
    checklist       the questions that the system checklist writes
    spri            the rubric of SPRI's first stage; settings as of the system spri
    oracle_rubrics  the rubric that the data has, which knows the correct answers

Every system's criteria go to the same judge, whose score is the expectation over the log probabilities of 1 to 5 where
the LM gives them, and the plain score where it does not. The base is the judge. Identical calls of a run are made once,
so that a question's criteria serve all its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import dspy

from spri_dspy.critique_refine import Plan, Step
from spri_dspy.errors import UnreadableAnswer
from spri_dspy.judges import load_judge
from spri_dspy.program import Program, load_program
from spri_dspy.systems import load_system
from spri_dspy.tasks import Task

Written = Generator[Step, dspy.Prediction, dict[str, Any]]
Criteria = Callable[[Any, Mapping[str, Any], str | None], Written]
"""The plan of a system's criteria: the writer, inputs without an answer, group -> fields, `principles` among them."""


class Judged(Program):
    """One judgement of an answer by a system's criteria.

    Args:
        task: the rubrics task.
        writer: the program that writes the criteria; None for a system without a call for them.
        criteria: how it is asked; None for a system without criteria.
        label_inputs: labels that the criteria are made from.

    Outputs: `principles` if there are any, `response` (feedback; score 1 to 5, None if no answer was readable) and
    `reading` (how the score came about, see `judges.judge.Reading`).
    """

    def __init__(
        self,
        task: Task,
        writer: Program | None = None,
        criteria: Criteria | None = None,
        label_inputs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(task)
        self.writer, self.criteria, self.label_inputs = writer, criteria, label_inputs
        self.judge = load_judge("generic" if criteria is None else "rubric", logprobs=True)
        for predictor in self.judge.ask.values():
            predictor.role = "base"
        self.inputs = ("instruction", "answer")
        self.sees = "labels" if label_inputs else "input"
        # Half of SPRI's calls are those of its first stage; a checklist is one call, asked again at most twice.
        before = (0, 0, 0) if writer is None else (1, 1, 3)
        before = tuple(each / 2 for each in writer.calls) if writer and writer.optional else before
        self.calls = (1 + before[0], 1 + before[1], 3 + before[2])

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """The criteria, then the judgement."""
        known = {name: value for name, value in inputs.items() if name != "answer"}
        made = {} if self.criteria is None else (yield from self.criteria(self.writer, known, group))
        shown = {name: inputs[name] for name in self.inputs}
        shown |= {"rubric": made["principles"]} if made else {}
        batches = self.judge.plan(shown, group)
        batch = next(batches)
        while True:
            answers: list[dspy.Prediction | None] = []
            for step in batch:
                try:
                    answers.append((yield step))
                except UnreadableAnswer:  # no score, and never a low one
                    answers.append(None)
            try:
                batch = batches.send(answers)
            except StopIteration as stop:
                (reading,) = stop.value["details"]["score"]["readings"]
                break
        response = {"feedback": reading.get("feedback", ""), "score": reading["value"]}
        return {**made, "response": response, "reading": reading}


def vanilla(task: Task, *, paper: bool = False, program: str = "") -> Judged:
    """A judgement without criteria; `program` is a saved one, as `optimize/truthful.toml` makes them."""
    judged = Judged(task)
    if program:
        load_program(judged, program)
    return judged


def checklist(task: Task, *, paper: bool = False, fewest: int = 4, most: int = 10) -> Judged:
    """A judgement by a checklist's questions; settings as of the system checklist."""
    return Judged(task, load_system("checklist", task, fewest=fewest, most=most), _questions)


def _questions(writer: Any, inputs: Mapping[str, Any], group: str | None) -> Written:
    questions = yield from writer.questions(inputs, group)
    return {"principles": "\n".join(f"{number}. {text}" for number, text in enumerate(questions, 1))}


def spri(
    task: Task, *, paper: bool = False, seeds: str = "task", accept_at: int = 4, max_critiques: int = 4
) -> Judged:
    """A judgement by the rubric of SPRI's first stage; settings as of the system spri."""
    writer = load_system(
        "spri", task, paper=paper, seeds=seeds, accept_at=accept_at, max_critiques=max_critiques
    )
    return Judged(task, writer, lambda writer, inputs, group: writer.plan(inputs, group))


def oracle_rubrics(task: Task, *, paper: bool = False) -> Judged:
    """A judgement by the data's own rubric."""
    return Judged(task, None, _given, ("rubric",))


def _given(writer: None, inputs: Mapping[str, Any], group: str | None) -> Written:
    yield from ()
    return {"principles": inputs["rubric"]}
