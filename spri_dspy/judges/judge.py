"""How a judge asks: one call a criterion, a few samples of it, both orders of its scale, and one number out of them.

A Judge is a DSPy module. One plan, a generator of batches of calls that do not depend on each other, drives
synchronous and asynchronous use alike; asynchronous use makes a batch's calls at the same time. What an LM says is
read by the prompt style it is asked in; a number that cannot be read is asked for again, and then is None.

It knows criteria and calls. What is judged, and in which words, is in the judges' own files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any, Literal

import dspy
from dspy.utils.exceptions import AdapterParseError

from spri_dspy.adapters import adapter_of
from spri_dspy.critique_refine import Step
from spri_dspy.errors import UnreadableAnswer, UsageError
from spri_dspy.evidence import collect
from spri_dspy.judges.criteria import Criterion, reversed_scale
from spri_dspy.judges.logprobs import expected_score
from spri_dspy.predict import ASK_AGAIN, RolePredict
from spri_dspy.program import set_lms
from spri_dspy.records import Usage
from spri_dspy.trampoline import adrive, drive

Plan = Generator[list[Step], list[dspy.Prediction | None], dict[str, Any]]

TOP_LOGPROBS = 20
"""Alternatives asked for where `logprobs` is just true: the most that OpenAI gives."""


@dataclass(frozen=True)
class Question:
    """One criterion asked in one way.

    Attributes:
        criterion: its name.
        arguments: of its predictor, ready for the prompt; may override the `signature`.
        is_reversed: the scale's descriptions stand in the other order.
        rubric: number of the rubric, from 0, where several are used.
    """

    criterion: str
    arguments: Mapping[str, Any]
    is_reversed: bool = False
    rubric: int = 0


@dataclass(frozen=True)
class Reading:
    """What one sample came to.

    Attributes:
        value: the number, None if nothing readable was said.
        said: the score or choice as it was said.
        by: where the number comes from: "logprobs" is an expected score.
        mass: for logprobs, see `Expected`.
        note: why logprobs were asked for and not used, or that no answer was readable.
        feedback: the judge's words.
        n_asked: samples taken until one was readable, 1 to 3.
    """

    value: float | None
    said: int | str | None
    by: Literal["score", "choice", "logprobs"]
    mass: float | None = None
    note: str | None = None
    feedback: str = ""
    n_asked: int = 1
    sample: int = 0
    is_reversed: bool = False
    rubric: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is not as usual, and always the value."""
        usual = {"mass": None, "note": None, "n_asked": 1, "is_reversed": False, "rubric": 0}
        return {k: v for k, v in asdict(self).items() if k not in usual or v != usual[k]}


@dataclass(frozen=True)
class _Asking:
    number: int  # of the question
    question: Question
    sample: int
    attempt: int = 0


class Judge(dspy.Module):
    """Gives one number a criterion for one answer.

    Args:
        criteria: what is asked.
        samples: samples of each question; the number is the mean of those that can be read. An LM at temperature 0
            is asked at 0.7 from the second sample on.
        logprobs: take the expected score over the score token's alternatives, where the LM gives them; a number is
            how many alternatives to ask for. Choices are never taken by logprobs.
        swap: ask once more with the descriptions of the scale in the other order; the number is the mean of
            both, and the gap (reversed less given) is recorded.

    Calls take the judge's inputs and return `scores` (criterion -> number or None), `details` (criterion -> value,
    readings, gap), `judgement` (both as text), `judge` (its name and version) and `usage`. At most 3 samples are
    taken for one readable rating, and each of them may cost 3 LM calls if the LM writes nothing at all.

    Attributes:
        name, version: a new wording is a new version; it goes into every record.
        inputs, optional: names of inputs that a call must and may have.
    """

    name: str = "judge"
    version: str = "judge/0"
    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def __init__(
        self,
        criteria: Sequence[Criterion],
        *,
        samples: int = 1,
        logprobs: bool | int = False,
        swap: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(samples, bool) or samples < 1:
            raise UsageError(f"samples must be at least 1, not {samples!r}")
        if not isinstance(swap, bool) or not 0 <= logprobs <= 100:
            raise UsageError(
                f"swap must be true or false and logprobs true, false or a number of alternatives up to 100, "
                f"not {swap!r} and {logprobs!r}"
            )
        self.criteria = {c.name: c for c in criteria}
        self.ask = {
            c.name: RolePredict(c.signature, role="judge", stage=f"{self.name}_{c.name}") for c in criteria
        }
        self.samples, self.swap = samples, swap
        self.logprobs = TOP_LOGPROBS if logprobs is True else int(logprobs)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers beside the wording."""
        return {"samples": self.samples, "logprobs": self.logprobs, "swap": self.swap}

    def set_lms(self, judge: Any) -> Judge:
        """Give the judge its LM, as an LM string or a dspy.LM."""
        return set_lms(self, judge=judge)

    def questions(self, inputs: Mapping[str, Any]) -> list[Question]:
        """What is asked about these inputs, in order."""
        shown = {name: str(value) for name, value in inputs.items()}
        found: list[Question] = []
        for name, predictor in self.ask.items():
            known = {k: v for k, v in shown.items() if k in predictor.signature.input_fields}
            found.append(Question(name, known))
            turned = reversed_scale(predictor.signature) if self.swap else None
            if turned is not None:
                found.append(Question(name, {**known, "signature": turned}, is_reversed=True))
        return found

    def calls(self, inputs: Mapping[str, Any]) -> int:
        """LM calls for these inputs if every answer is readable."""
        return len(self.questions(inputs)) * self.samples

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Judge one answer.

        Raises:
            UsageError: an input is missing or unknown.
        """
        with collect() as evidence:
            found = drive(self.plan(self.checked(inputs), group), _ask)
        return dspy.Prediction(**found, usage={"judge": Usage(), **evidence.usage})

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Judge one answer without blocking; its calls run at the same time."""
        with collect() as evidence:
            found = await adrive(self.plan(self.checked(inputs), group), _aask)
        return dspy.Prediction(**found, usage={"judge": Usage(), **evidence.usage})

    def checked(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs, if they are those of this judge.

        Raises:
            UsageError: they are not; names what is missing and unknown.
        """
        missing = [name for name in self.inputs if name not in inputs]
        unknown = sorted(set(inputs) - {*self.inputs, *self.optional})
        if missing or unknown:
            said = [f"missing {', '.join(missing)}"] if missing else []
            said += [f"unknown {', '.join(unknown)}"] if unknown else []
            takes = ", ".join((*self.inputs, *(f"{name} (optional)" for name in self.optional)))
            raise UsageError(f"inputs of the judge {self.name}: {'; '.join(said)}; it takes {takes}")
        return inputs

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Yield batches of calls, receive their answers (None where unreadable), return the prediction's fields."""
        questions = self.questions(inputs)
        asking = [_Asking(n, q, sample) for n, q in enumerate(questions) for sample in range(self.samples)]
        done: dict[tuple[int, int], Reading] = {}
        while asking:
            answers = yield [self._step(each, group) for each in asking]
            again: list[_Asking] = []
            for each, answer in zip(asking, answers, strict=True):
                reading = self._read(each, answer)
                if reading.value is None and answer is not None and each.attempt < ASK_AGAIN:
                    again.append(replace(each, attempt=each.attempt + 1))
                else:
                    done[each.number, each.sample] = reading
            asking = again
        return self._fields(questions, [done[key] for key in sorted(done)])

    def _step(self, each: _Asking, group: str | None) -> Step:
        criterion = self.criteria[each.question.criterion]
        arguments = {**each.question.arguments, "group": group}
        arguments["rollout"] = each.sample * (ASK_AGAIN + 1) + each.attempt
        if self.logprobs and criterion.scale:
            arguments["config"] = {"logprobs": True, "top_logprobs": self.logprobs}
        return self.ask[criterion.name], arguments

    def _read(self, each: _Asking, answer: dspy.Prediction | None) -> Reading:
        question, criterion = each.question, self.criteria[each.question.criterion]
        common: dict[str, Any] = {
            "n_asked": each.attempt + 1,
            "sample": each.sample,
            "is_reversed": question.is_reversed,
            "rubric": question.rubric,
        }
        by = "score" if criterion.scale else "choice"
        said = None if answer is None else answer[criterion.output]
        if answer is None or said is None:
            return Reading(None, None, by, note="no readable answer", **common)
        common["feedback"] = next(
            (str(v) for k, v in answer.items() if k in _COMMENTS and k != criterion.output), ""
        )
        if criterion.values is not None:
            return Reading(criterion.values[said], str(said), by, **common)
        if not self.logprobs or not criterion.scale:
            return Reading(float(said), said, by, **common)
        signature = question.arguments.get("signature", self.ask[criterion.name].signature)
        read = _reader(self.ask[criterion.name], signature, criterion.output)
        expected = expected_score(answer.get("logprobs"), said, criterion.scale, read)
        if expected.value is None:
            return Reading(float(said), said, by, note=expected.note, **common)
        return Reading(expected.value, said, "logprobs", mass=expected.mass, **common)

    def _fields(self, questions: Sequence[Question], readings: Sequence[Reading]) -> dict[str, Any]:
        names = [q.criterion for q in questions for _ in range(self.samples)]
        details = {
            name: self.detail([r for n, r in zip(names, readings, strict=True) if n == name])
            for name in self.criteria
        }
        return fields(self, details)

    def detail(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What the readings of one criterion come to."""
        both = {turned: [r.value for r in readings if r.is_reversed is turned] for turned in (False, True)}
        given, turned = _mean(both[False]), _mean(both[True])
        found: dict[str, Any] = {"value": _mean([given, turned])}
        if self.swap:
            found |= {"given": given, "reversed": turned, "gap": None}
            if given is not None and turned is not None:
                found["gap"] = _rounded(turned - given)
        return found | {"readings": [r.to_json() for r in readings]}


_COMMENTS = ("feedback", "rationale")


def fields(judge: Any, details: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a judge's prediction from the details of its criteria."""
    return {
        "judgement": _as_text(details),
        "scores": {name: detail["value"] for name, detail in details.items()},
        "details": dict(details),
        "judge": {"name": judge.name, "version": judge.version},
    }


def _ask(batch: list[Step]) -> list[dspy.Prediction | None]:
    """The answers of a batch of calls, one after another; None for those that cannot be read."""
    answers: list[dspy.Prediction | None] = []
    for predictor, arguments in batch:
        try:
            answers.append(predictor(**arguments))
        except UnreadableAnswer:
            answers.append(None)
    return answers


async def _aask(batch: list[Step]) -> list[dspy.Prediction | None]:
    """The same; the calls run at the same time."""

    async def one(predictor: RolePredict, arguments: dict[str, Any]) -> dspy.Prediction | None:
        try:
            return await predictor.acall(**arguments)
        except UnreadableAnswer:
            return None

    return await gather([one(*step) for step in batch])


async def gather(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """Results in order, of work that runs at the same time.

    If some of it fails, the rest is still finished, because calls in flight are paid for, and kept by a run; then
    the first failure is raised.
    """
    found = await asyncio.gather(*work, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def combine(values: Sequence[float | None], how: str) -> float | None:
    """Mean or median of those that are numbers, None if none is."""
    readable = [value for value in values if value is not None]
    return _rounded((median if how == "median" else fmean)(readable)) if readable else None


def check_combine(how: str) -> str:
    """The way to combine, if it is one.

    Raises:
        UsageError: it is neither mean nor median.
    """
    if how not in ("mean", "median"):
        raise UsageError(f"combine must be mean or median, not {how!r}")
    return how


def _reader(predictor: Any, signature: Any, output: str) -> Callable[[str], int | None]:
    """Reads a completion as the predictor's prompt style does."""
    adapter = adapter_of(predictor.lm or dspy.settings.lm)

    def read(text: str) -> int | None:
        try:
            return adapter.parse(signature, text)[output]
        except AdapterParseError:
            return None

    return read


def _mean(values: Sequence[float | None]) -> float | None:
    return combine(values, "mean")


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _as_text(details: Mapping[str, Mapping[str, Any]]) -> str:
    """Numbers in one line, then the judge's first words on each criterion."""
    numbers = (f"{n} {'?' if d['value'] is None else format(d['value'], 'g')}" for n, d in details.items())
    words = (
        (n, next((r["feedback"] for r in _all_readings(d) if r["feedback"]), "")) for n, d in details.items()
    )
    return "\n\n".join([", ".join(numbers), *(f"{name}: {said}" for name, said in words if said)])


def _all_readings(detail: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    members = detail.get("members", ())
    return [r for member in members for r in _all_readings(member)] or list(detail.get("readings", ()))
