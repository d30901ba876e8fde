"""The metric that DSPy's optimizers are given: one number an example, a yes or no, or a number with words.

What they get depends on how they ask, as DSPy has it: a number in [0, 1] when a program is scored, True or False when
its run may become a demo (`trace` is there), a number with feedback when an LM is to reflect on it (`pred_name` is).

It knows metrics, judges and examples; what the number is, is in `surrogate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dspy

from spri_dspy.bulk import plain
from spri_dspy.metrics import Metric, judge_inputs
from spri_dspy.metrics.readers import Outputs, call
from spri_dspy.records import Record, Score
from spri_dspy.tasks import Example
from spri_dspy.tuning.feedback import feedback
from spri_dspy.tuning.student import META, Halt, Session
from spri_dspy.tuning.surrogate import Surrogate

_WRITTEN = {"principles": ("oracle_principles", "rubric"), "response": ("reference_answer",)}
"""What a stage writes, and the labels that hold such a thing, written by people."""

_JUDGED = ("feedback", "score")
"""What a judge writes; so does every critic, of something else."""


class ExampleMetric:
    """Numbers for single examples, as DSPy asks for them.

    Args:
        metric: what is tuned for.
        surrogate: fitted around the incumbent.
        examples: all that may be asked about.
        session: counts failures and ends the search.
    """

    def __init__(
        self, metric: Metric, surrogate: Surrogate, examples: Iterable[Example], session: Session
    ) -> None:
        self._metric, self._surrogate, self._session = metric, surrogate, session
        self._examples = {e.id: e for e in examples}

    def __call__(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        """One example's number; see this module.

        Raises:
            Halt: the search is to end. An error here is nobody's zero.
        """
        try:
            example = self._examples[gold._spri_id]
            score, outputs, reasons = self._read(example, pred)
            value = self._surrogate.value(score)
            if pred_name is not None:
                words = feedback(
                    self._metric,
                    self._surrogate,
                    score,
                    labels=example.label_values,
                    outputs=outputs,
                    reasons=reasons or self._own_words(example, outputs, pred_name, pred_trace),
                )
                return dspy.Prediction(score=value, feedback=words)
            if trace is not None:
                return self._surrogate.is_good(score)
            if score.value is not None:
                self._session.note(pred._student, example.id, value)
            return value
        except (
            Exception
        ) as error:  # a metric that cannot be computed must end the search; DSPy would go on with 0
            self._session.stop(error)
            raise Halt from error

    def _read(self, example: Example, pred: Any) -> tuple[Score, dict[str, Any], str]:
        """The example's score, the program's outputs and the judge's words; worked out once for a prediction."""
        read = pred.__dict__.get("_read")
        if read is None:
            read = pred._read = self._score(example, pred)
        return read

    def _own_words(self, example: Example, outputs: dict[str, Any], *more: Any) -> str:
        """The feedback that the metric itself gives, where it is a function that gives some."""
        if self._metric.judge is not None or not outputs:
            return ""
        rated = call(self._metric.read, example, Outputs(outputs), None, *more)
        return str(getattr(rated, "feedback", None) or "")

    def _score(self, example: Example, pred: Any) -> tuple[Score, dict[str, Any], str]:
        if pred.__dict__.get("_failed"):
            return self._metric.scores([], [example])[0], {}, ""
        outputs = {name: plain(value) for name, value in pred.items() if name not in META}
        judged, reasons = outputs, ""
        if self._metric.judge is not None:
            verdict = self._judge(example, outputs)
            if verdict is None:
                return self._metric.scores([], [example])[0], outputs, ""
            judged, reasons = verdict, str(verdict.get("judgement", ""))
        score = self._metric.scores([Record(example.id, {}, judged)], [example])[0]
        self._session.missing += score.value is None
        return score, outputs, reasons

    def _judge(self, example: Example, outputs: dict[str, Any]) -> dict[str, Any] | None:
        """What the judge says of an answer; None if there is nothing to judge, or it fails."""
        judge = self._metric.judge
        inputs = judge_inputs(judge, plain(example.input_values), outputs, example.label_values)
        if inputs is None:
            self._session.missing += 1
            return None
        try:
            with self._session.guarded():
                verdict = self._session.count(judge(group=example.group, **inputs))
        except Exception as error:  # one example's failure is data, whatever it is
            self._session.fail(error)
            return None
        return {name: plain(value) for name, value in verdict.items() if name not in META}


def as_rows(examples: Sequence[Example], signatures: Sequence[Any] = ()) -> list[dspy.Example]:
    """Examples as DSPy takes them: inputs, the group as one more input, and what people wrote, under a stage's names.

    Labels that a program must not see are left out: optimizers show whole rows to LMs.

    Args:
        examples: of one split.
        signatures: of the stages that the rows are for; a judgement (`feedback`, `score`) of an answer goes into a row
            only if whatever writes one of them judges just what the row shows.
    """
    judges = [each for each in signatures if any(name in each.output_fields for name in _JUDGED)]
    rows: list[dspy.Example] = []
    for e in examples:
        names = _WRITTEN
        if judges and all(each.input_fields.keys() <= e.input_values.keys() for each in judges):
            names = _WRITTEN | {name: (name,) for name in _JUDGED}
        written = {name: _first(e, labels) for name, labels in names.items() if name not in e.input_values}
        if "answer" in e.input_values:  # what such a program writes is a judgement, no answer
            written.pop("response", None)
        fields = {**{n: v for n, v in written.items() if v is not None}, **e.input_values, "group": e.group}
        row = dspy.Example(**fields).with_inputs(*e.input_values, "group")
        row._spri_id = e.id
        rows.append(row)
    return rows


def _first(example: Example, labels: Sequence[str]) -> Any:
    return next(
        (plain(example.label_values[name]) for name in labels if example.label_values.get(name)), None
    )
