"""A metric: how good a prediction is, as DSPy asks for one example, and as a set of examples has it.

    metric = spri.load_metric("alignment", judge="openai/gpt-4o")
    metric(example, prediction)                   # a number in [0, 1]; True or False where a trace is given
    metric.estimate(examples, predictions)        # an Estimate: value, 95 % interval, how many were dropped

It goes into `dspy.Evaluate`, into DSPy's optimizers and into `spri.tune` as it is. A judge is asked wherever a metric
has one. Any function is a metric, told apart by its parameters (`load_metric`): `of_example`, `of_set`, `of_scores`.

What cannot be read is missing in every Estimate: dropped, counted, never a zero. DSPy knows no missing number, so a
single call gives 0.0 there (False with a trace) and notes the example in `unreadable`.

It knows examples and predictions by their fields, records, scores and statistics; it does not import DSPy.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import Any, Literal

from spri_dspy.errors import BudgetSpent, PrerequisiteError, UsageError
from spri_dspy.metrics import set_level
from spri_dspy.metrics.columns import Needs, group_of
from spri_dspy.metrics.comparison import Comparison, compare
from spri_dspy.metrics.judging import judge_inputs
from spri_dspy.metrics.readers import (
    Outputs,
    call,
    get,
    is_score,
    judge_of,
    name_of,
    number_of,
    only_score,
    own_judgement,
    parts_of,
    scale_of,
    source_of,
)
from spri_dspy.records import Estimate, Record, Score

logger = logging.getLogger(__name__)

Kind = Literal["pearson", "mean"]
"""What a metric comes to: a Pearson correlation with labels, averaged over groups, or a mean."""

HUMAN, ORACLE = "human_score", "oracle_score"
"""Labels: people's score, and the score that a judge gives with the data's own rubric (see `pearson`)."""

GOOD = 0.75
"""The number in [0, 1] from which a call with a trace says True: 4 of 1 to 5, as the critic's gate has it."""

_JUDGED_AT_ONCE = 16


@dataclass(frozen=True, eq=False, repr=False)
class Metric:
    """One number about a set of examples; larger is better. Calling it rates one example, as DSPy does.

    Attributes:
        name: in reports and manifests.
        kind: what it comes to. For a `function` this is a surrogate, to search by: the choice is made by the function.
        read: (example, prediction) -> the number of one example, in its own unit; the prediction is the judge's if
            there is a judge. It may take DSPy's further arguments (trace, pred_name, pred_trace) and return anything
            that DSPy's metrics do: numbers, True and False, predictions with `score` and `feedback`, None.
        judge: a judge with its LM set (see `load_judge`); None where the program's own output is the number.
        label: the example's label to compare with; None where none is needed.
        oracle: a judge with its LM set that makes the label ORACLE from the data's own rubric.
        function: of Scores; the metric itself where it is neither a macro Pearson nor a mean.
        scale: the ends of `read`'s numbers, which become 0 and 1 in single calls; None: they lie in [0, 1] already.
        settings: what else tells it apart, as JSON.
        needs: what an example must have for `function`.
        unreadable: ids of examples for which a single call found nothing to read, and gave 0.
    """

    name: str
    kind: Kind
    read: Callable[..., Any]
    judge: Any = None
    label: str | None = None
    oracle: Any = None
    function: Callable[[Sequence[Score]], float | Estimate] | None = None
    scale: tuple[float, float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = "value"
    unreadable: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def of_example(cls, function: Callable[..., Any], *, judge: Any = None) -> Metric:
        """The mean of a function of one example: `function(example, prediction, trace=None)`.

        Args:
            function: see `read`; in [0, 1], larger is better. None: there is nothing to read.
            judge: its scores are the function's prediction if one is given.
        """
        return cls(
            name_of(function),
            "mean",
            function,
            judge_of(judge, "generic"),
            settings={"function": source_of(function)},
        )

    @classmethod
    def of_set(
        cls,
        function: Callable[[list[Any], list[Any]], float | Estimate],
        *,
        judge: Any = None,
        surrogate: Callable[..., Any] | None = None,
    ) -> Metric:
        """A function of a whole set: `function(examples, predictions)`, lists of one length.

        It sees the examples that have a prediction; the others are dropped and counted.

        Args:
            function: pure; larger is better; nan where it cannot be computed.
            judge: its scores are the function's predictions if one is given.
            surrogate: (example, prediction) -> a number in [0, 1] to search by: DSPy's optimizers and races need one
                an example. By default the function of this example alone, or 0.5 where it has no value for one.
        """

        def alone(example: Any, prediction: Any) -> float:
            try:
                found = number_of(function([example], [prediction]))
            except (
                ValueError,
                ArithmeticError,
                LookupError,
                TypeError,
            ):  # few statistics are made for one example
                return 0.5
            return 0.5 if found is None else found

        def of_scores(scores: Sequence[Score]) -> float | Estimate:
            examples, predictions = zip(*(s.pair for s in scores), strict=True)
            return function(list(examples), list(predictions))

        judge = judge_of(judge, "generic")
        settings = {"function": source_of(function), "surrogate": source_of(surrogate) if surrogate else None}
        read = surrogate or alone
        return cls(
            name_of(function), "mean", read, judge, function=of_scores, settings=settings, needs="pair"
        )

    @classmethod
    def of_scores(
        cls,
        function: Callable[[Sequence[Score]], float | Estimate],
        *,
        read: Callable[..., Any] | None = None,
        judge: Any = None,
        label: str | None = None,
        surrogate: Kind = "mean",
    ) -> Metric:
        """A function of Scores: numbers with their labels, groups and clusters.

        Args:
            function: pure; larger is better; nan where it cannot be computed. It gets scores that have a value.
            read: see Metric; by default the judge's only criterion, or the program's own judgement.
            judge: see Metric.
            label: see Metric; the surrogate "pearson" needs one.
            surrogate: what to search by: the mean of the scores, or their correlation with labels. Among the finalists
                the function itself chooses, on the same examples for all of them, and it is what is reported.
        """
        if surrogate == "pearson" and label is None:
            raise UsageError("the surrogate pearson needs a label: give label=")
        judge = judge_of(judge, "generic")
        read = read or (only_score if judge is not None else own_judgement)
        settings = {"function": source_of(function), "surrogate": surrogate}
        scale = scale_of(judge) if read in (only_score, own_judgement) else None
        return cls(name_of(function), surrogate, read, judge, label, None, function, scale, settings)

    def __call__(
        self,
        example: Any,
        prediction: Any,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Any:
        """Rate one example, as DSPy's evaluation and optimizers ask for it.

        Returns:
            A number in [0, 1]; True or False if there is a `trace` (at least GOOD); if there is a `pred_name`, fields
            `score` and `feedback`. Nothing readable: 0.0, or False, and the example's id in `unreadable`.
        """
        seen = self._seen(example, prediction)
        found = None if seen is None else call(self.read, example, seen, trace, pred_name, pred_trace)
        value = number_of(found)
        score = Score("", value, self._label(example), get(example, "group"))
        rated = self._rated(score)
        if rated is None:
            self._note_unreadable(example, lacks=seen is None and prediction is not None)
        if pred_name is not None:
            said = getattr(found, "feedback", None) or self._feedback(score, seen)
            return Outputs(score=rated or 0.0, feedback=said)
        if trace is not None:
            return found if isinstance(found, bool) else rated is not None and rated >= GOOD
        return rated or 0.0

    def estimate(
        self, examples: Sequence[Any], predictions: Sequence[Any], *, rng: random.Random | None = None
    ) -> Estimate:
        """The metric over a set, with its interval; a judge is asked about every prediction, several at once.

        Args:
            examples: Examples, dspy.Examples or dicts.
            predictions: one an example, in order; None where a program failed.
            rng: of the interval; None means `random.Random(0)`.

        Raises:
            UsageError: the lengths differ.
        """
        return self.value(self.rate(examples, predictions), rng=rng)

    def rate(self, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Score]:
        """One Score an example, in order; arguments as for `estimate`. What fails for one example is missing."""
        if len(examples) != len(predictions):
            raise UsageError(f"{len(predictions)} predictions for {len(examples)} examples: give one each")
        with ThreadPoolExecutor(1 if self.judge is None and self.oracle is None else _JUDGED_AT_ONCE) as pool:
            pairs = zip(examples, predictions, strict=True)
            work = [pool.submit(copy_context().run, self._judged, *pair) for pair in pairs]
            scores = [each.result() for each in work]
        return [s if s.id else replace(s, id=str(n)) for n, s in enumerate(scores, 1)]

    def scores(self, records: Sequence[Record], examples: Sequence[Any]) -> list[Score]:
        """Read one score an example, in the examples' order.

        Args:
            records: the judge's if there is a judge, else the program's; found by id. An example without a record, or
                with a failed one, has a score without a value.
            examples: labels, groups and clusters are theirs.
        """
        found = {record.id: Outputs(record.outputs) for record in records if record.ok}
        return [self._score(example, found.get(example.id)) for example in examples]

    def value(self, scores: Sequence[Score], *, rng: random.Random | None = None) -> Estimate:
        """The metric with a 95 % interval from leaving clusters out; nan with a reason where there is none."""
        return self._estimate(scores, rng=rng)

    def measure(self, scores: Sequence[Score]) -> float:
        """The metric without an interval; nan if there is none."""
        return self._estimate(scores, ci=False).value

    def compare(
        self, a: Sequence[Score], b: Sequence[Score], *, rng: random.Random | None = None
    ) -> Comparison:
        """How much the metric of `a` exceeds that of `b` on the examples they share; see `comparison.compare`."""
        return compare(self._statistic, a, b, macro=self._is_macro, rng=rng)

    def __repr__(self) -> str:
        parts = {"judge": getattr(self.judge, "version", None), "label": self.label}
        return f"Metric({self.name!r}, {self.kind!r}{''.join(f', {k}={v!r}' for k, v in parts.items() if v)})"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its numbers, as JSON, for manifests."""
        judges = {"judge": self.judge, "oracle": self.oracle}
        versions = {
            role: [each.version, getattr(each, "settings", {})] for role, each in judges.items() if each
        }
        return {"name": self.name, "label": self.label, **self.settings, **versions}

    def label_of(self, example: Any) -> float | None:
        """The example's label; None if it has none, or none is needed. A human score of -1 is none."""
        value = get(example, self.label) if self.label else None
        number = float(value) if is_score(value) else None
        return None if self.label == HUMAN and number == -1 else number

    def goodness(self, scores: Sequence[Score]) -> list[float | None]:
        """How good each example is by itself, larger is better, in the scores' order; None if that cannot be told.

        Of a mean it is the score. Of a correlation it is how close score and label are, both standardised in their
        group: a surrogate, for choosing examples to learn from and nothing else.
        """
        if self.kind == "mean":
            return [s.value for s in scores]
        pairs: dict[str, list[tuple[float, float]]] = {}
        for s in scores:
            if s.value is not None and s.label is not None:
                pairs.setdefault(group_of(s), []).append((s.value, s.label))
        about = {
            g: [(fmean(side), pstdev(side)) for side in zip(*rows, strict=True)] for g, rows in pairs.items()
        }
        return [_closeness(s, about.get(group_of(s))) for s in scores]

    def shortcoming(self, score: Score, others: Sequence[Score]) -> str:
        """Say in words how an example fell short, for an LM that is to do better."""
        if score.value is None:
            return "No readable result came of them."
        if self.kind == "pearson" and score.label is not None:
            return f"The score given with their help was {score.value:g}, where {score.label:g} would have been right."
        values = [s.value for s in others if s.value is not None and s.group == score.group]
        usual = f", where {fmean(values):.3g} is usual" if values else ""
        return f"The result made with their help was rated {score.value:g} for {self.name}{usual}."

    @property
    def _is_macro(self) -> bool:
        return self.function is None and self.kind == "pearson"

    @property
    def _statistic(self) -> set_level.Statistic:
        if self.function is not None:
            return set_level.Statistic.of(self.function, self.name, self.needs)
        return set_level.pearson if self.kind == "pearson" else set_level.mean

    def _estimate(self, scores: Sequence[Score], **settings: Any) -> Estimate:
        if self._is_macro:
            return set_level.macro(self._statistic, scores, **settings)
        return self._statistic(scores, **settings)

    def _seen(self, example: Any, prediction: Any) -> Any:
        """What `read` is given: the prediction, or what the judge says of it; None if there is nothing to judge."""
        if prediction is None or self.judge is None:
            return prediction
        return self._ask(self.judge, example, dict(prediction.items()), prediction)

    def _note_unreadable(self, example: Any, *, lacks: bool) -> None:
        """Remember the example, and warn at the first that DSPy takes it for a zero."""
        if not self.unreadable:
            needs = f" (its judge needs {', '.join(self.judge.inputs)})" if lacks else ""
            logger.warning("%s: an example has nothing to read%s; DSPy counts it as 0.0", self.name, needs)
        self.unreadable.append(str(get(example, "id")))

    def _ask(
        self, judge: Any, example: Any, outputs: Mapping[str, Any], about: Any, rubric: str = "run"
    ) -> Any:
        """What a judge says, None if there is nothing to judge; asked once: DSPy calls a metric again and again."""
        known: dict[Any, Any] = getattr(about, "__dict__", {}).setdefault("_judged", {})
        if id(judge) not in known:
            inputs, labels = parts_of(example)
            shown = judge_inputs(judge, inputs, outputs, labels, rubric=rubric)
            known[id(judge)] = None if shown is None else judge(group=get(example, "group"), **shown)
        return known[id(judge)]

    def _judged(self, example: Any, prediction: Any) -> Score:
        """The score of one of many: a failure of the judge is this example's alone, unless every one would meet it."""
        if isinstance(prediction, Record):
            prediction = Outputs(prediction.outputs) if prediction.ok else None
        try:
            seen, label = self._seen(example, prediction), self._label(example)
        except (BudgetSpent, PrerequisiteError, UsageError):
            raise
        except Exception as error:  # one example's failure is data, whatever it is
            logger.warning("%s: example %s could not be judged: %s", self.name, get(example, "id"), error)
            seen, label = None, self.label_of(example)
        return replace(self._score(example, seen), label=label)

    def _label(self, example: Any) -> float | None:
        """The example's label, the oracle's if it has none yet."""
        label = self.label_of(example)
        if label is not None or self.oracle is None:
            return label
        found = self._ask(self.oracle, example, {}, example, "label")
        return None if found is None else number_of(only_score(example, found))

    def _score(self, example: Any, seen: Any) -> Score:
        found = None if seen is None else call(self.read, example, seen)
        name, group, cluster = (get(example, each) for each in ("id", "group", "cluster"))
        pair = (example, seen) if self.needs == "pair" and seen is not None else None
        own = "" if name is None else str(name)
        return Score(own, number_of(found), self.label_of(example), group, cluster, pair)

    def _rated(self, score: Score) -> float | None:
        """A score as a number in [0, 1]; of a correlation how close score and label are. None if it cannot be told."""
        if score.value is None:
            return None
        low, high = self.scale or (0.0, 1.0)
        if self.kind == "mean":
            rated = (score.value - low) / (high - low)
        elif score.label is None:
            return None
        else:
            rated = 1 - abs(score.value - score.label) / (high - low)
        return min(1.0, max(0.0, rated))

    def _feedback(self, score: Score, seen: Any) -> str:
        """What an LM that reflects is told of one example: how far off it was, and the judge's words."""
        if score.value is None:
            said = "No result came of this input that could be read or judged."
        elif self.kind == "pearson" and score.label is not None:
            said = f"The score given was {score.value:g}, where {score.label:g} is right."
        else:
            ends = f" on a scale of {self.scale[0]:g} to {self.scale[1]:g}" if self.scale else ""
            said = f"The result was rated {score.value:g} for {self.name}{ends}."
        reasons = get(seen, "judgement") if self.judge is not None and seen is not None else None
        return f"{said}\nThe judge's reasons: {reasons}" if reasons else said


def _closeness(score: Score, about: Sequence[tuple[float, float]] | None) -> float | None:
    if score.value is None or score.label is None or about is None:
        return None
    (mean_x, sd_x), (mean_y, sd_y) = about
    if not sd_x or not sd_y:
        return None
    return -abs((score.value - mean_x) / sd_x - (score.label - mean_y) / sd_y)
