"""What tuning maximises: a number about a SET of examples, read from what a program (and a judge) left behind.

    pearson      macro Pearson between the program's own judgement, or a judge's, and people's scores
    alignment    mean of the reappraisal judge's alignment, 1 to 10
    empathy      mean of its empathy, 1 to 5
    mix          both as one number in (0, 1], with harm as a veto
    Metric.of    any function of Scores

A Metric turns records into Scores (one an example, None where nothing could be read, never 0), Scores into an
Estimate, and two systems' Scores into a Comparison. It says how it can be raced for (`objective`) and how good a
single example is (`goodness`), which is all that a search by examples may use; what counts is `value`.

It knows records, scores and judges; programs, runs and candidates are in `evaluation` and `seed_search`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.metrics import set_level as scoring
from spri_dspy.metrics.bootstrap import group_of, is_number
from spri_dspy.metrics.comparison import Comparison, compare
from spri_dspy.records import Estimate, Record, Score
from spri_dspy.tuning.racing.race import MacroPearson, Mean, Objective, Row

if TYPE_CHECKING:
    from spri_dspy.tasks import Example

Kind = Literal["pearson", "mean"]
"""How a metric is raced for: as a macro Pearson, or as a mean."""

HUMAN, ORACLE = "human_score", "oracle_score"
"""Labels: people's score, and the score that a judge gives with the data's own rubric (see `pearson`)."""


@dataclass(frozen=True, eq=False)
class Metric:
    """One number about a set of examples; larger is better.

    Attributes:
        name: in reports and manifests.
        kind: how it is raced for. For a `function` this is a stand-in: the choice is made by the function.
        read: the number of one example from the outputs of its record, the judge's if there is a judge;
            what is no finite number counts as missing.
        judge: a judge with its LM set (see `load_judge`); None where the program's own output is the number.
        label: the example's label to compare with; None where none is needed.
        oracle: a judge with its LM set that makes the label ORACLE from the data's own rubric.
        function: the metric itself where it is neither a macro Pearson nor a mean.
        settings: what else tells it apart, as JSON.
    """

    name: str
    kind: Kind
    read: Callable[[Mapping[str, Any]], Any]
    judge: Any = None
    label: str | None = None
    oracle: Any = None
    function: Callable[[Sequence[Score]], float | Estimate] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        function: Callable[[Sequence[Score]], float | Estimate],
        *,
        read: Callable[[Mapping[str, Any]], Any] | None = None,
        judge: Any = None,
        label: str | None = None,
        surrogate: Kind = "mean",
    ) -> Metric:
        """A metric that is any function of Scores.

        Races cannot take an arbitrary function apart by example, so they run on a stand-in; among the finalists the
        function itself chooses, on the same examples for all of them, and it is what is confirmed and reported.

        Args:
            function: pure; larger is better; nan where it cannot be computed. It gets scores that have a value.
            read: see Metric; by default the judge's only criterion, or the program's own judgement.
            judge: see Metric.
            label: see Metric; "pearson" as stand-in needs one.
            surrogate: what to race for: the mean of the scores, or their correlation with labels.
        """
        name = getattr(function, "__name__", type(function).__name__)
        if surrogate == "pearson" and label is None:
            raise UsageError("the stand-in pearson needs a label: give label=")
        read = read or (only_score if judge is not None else own_judgement)
        return cls(name, surrogate, read, judge, label, None, function, {"surrogate": surrogate})

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its numbers, as JSON, for manifests."""
        judges = {"judge": self.judge, "oracle": self.oracle}
        versions = {
            role: [each.version, getattr(each, "settings", {})] for role, each in judges.items() if each
        }
        return {"name": self.name, "label": self.label, **self.settings, **versions}

    @property
    def objective(self) -> Objective:
        """What a race maximises."""
        return MacroPearson() if self.kind == "pearson" else Mean()

    def label_of(self, example: Example) -> float | None:
        """The example's label; None if it has none, or none is needed. A human score of -1 is none."""
        value = example.label_values.get(self.label) if self.label else None
        number = float(value) if _is_score(value) else None
        return None if self.label == HUMAN and number == -1 else number

    def row(self, example: Example) -> Row:
        """What a race knows of an example before it is scored."""
        return Row(self.label_of(example), example.group, example.cluster)

    def scores(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Score]:
        """Read one score an example, in the examples' order.

        Args:
            records: the judge's if there is a judge, else the program's; found by id. An example without a record, or
                with a failed one, has a score without a value.
            examples: labels, groups and clusters are theirs.
        """
        found = {record.id: record for record in records}
        return [
            Score(e.id, self._value(found.get(e.id)), self.label_of(e), e.group, e.cluster) for e in examples
        ]

    def _value(self, record: Record | None) -> float | None:
        if record is None or not record.ok:
            return None
        value = self.read(record.outputs)
        return float(value) if _is_score(value) else None

    def value(self, scores: Sequence[Score], *, rng: random.Random | None = None) -> Estimate:
        """The metric with a 95 % interval from resampling clusters; nan with a reason where there is none."""
        return self._estimate(scores, rng=rng)

    def measure(self, scores: Sequence[Score]) -> float:
        """The metric without an interval; nan if there is none."""
        return self._estimate(scores, ci=False).value

    def _estimate(self, scores: Sequence[Score], **settings: Any) -> Estimate:
        if self._is_macro:
            return scoring.macro(scoring.pearson, scores, **settings)
        return self._statistic(scores, **settings)

    @property
    def _is_macro(self) -> bool:
        return self.function is None and self.kind == "pearson"

    @property
    def _statistic(self) -> scoring.Statistic:
        if self.function is not None:
            return scoring.Statistic.of(self.function, self.name)
        return scoring.pearson if self.kind == "pearson" else scoring.mean

    def compare(
        self, a: Sequence[Score], b: Sequence[Score], *, rng: random.Random | None = None
    ) -> Comparison:
        """How much the metric of `a` exceeds that of `b` on the examples they share; see `comparison.compare`."""
        return compare(self._statistic, a, b, macro=self._is_macro, rng=rng)

    def goodness(self, scores: Sequence[Score]) -> list[float | None]:
        """How good each example is by itself, larger is better, in the scores' order; None if that cannot be told.

        Of a mean it is the score. Of a correlation it is how close score and label are, both standardised in their
        group: a stand-in, for choosing examples to learn from and nothing else.
        """
        if self.kind == "mean":
            return [s.value for s in scores]
        pairs: dict[str, list[tuple[float, float]]] = {}
        for s in scores:
            if s.value is not None and s.label is not None:
                pairs.setdefault(group_of(s), []).append((s.value, s.label))
        about = {g: [_centre(side) for side in zip(*rows, strict=True)] for g, rows in pairs.items()}
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


def judge_inputs(
    judge: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    labels: Mapping[str, Any],
    *,
    rubric: str = "run",
) -> dict[str, Any] | None:
    """What a judge is shown of an example and its answer; None where something that it needs is missing.

    The answer to judge is the data's where it has one (the rubrics task), else the program's response.

    Args:
        judge: its `inputs` are filled in, its optional ones are not shown.
        inputs: of the program.
        outputs: of the program.
        labels: of the example.
        rubric: where a rubric judge's rubric comes from: the program's principles ("run") or the labels ("label").
    """
    texts = {**labels, **outputs, **inputs}.items()
    known: dict[str, Any] = {k: v for k, v in texts if isinstance(v, str) and v.strip()}
    known["answer"] = inputs.get("answer", outputs.get("response"))
    asked = ((k, v) for k, v in inputs.items() if k not in ("answer", "principles"))
    known.setdefault("instruction", "\n\n".join(f"{name}:\n{value}" for name, value in asked))
    known["rubric"] = (
        outputs.get("principles") if rubric == "run" else labels.get("rubric") or labels.get("standards")
    )
    found = {name: known.get(name) for name in judge.inputs}
    return found if all(found.values()) and isinstance(found.get("answer", ""), str) else None


def own_judgement(outputs: Mapping[str, Any]) -> Any:
    """The score that a program's own response states (the rubrics task), None if it states none."""
    response = outputs.get("response")
    return response.get("score") if isinstance(response, Mapping) else None


def only_score(outputs: Mapping[str, Any]) -> Any:
    """The number of a judge with one criterion.

    Raises:
        UsageError: it has several.
    """
    scores = outputs.get("scores", {})
    if len(scores) > 1:
        raise UsageError(f"the judge gives {', '.join(scores)}: say which one with read=")
    return next(iter(scores.values()), None)


def pearson(*, label: str = HUMAN, judge: Any = None, oracle: Any = None) -> Metric:
    """Macro Pearson over the examples' groups.

    Args:
        label: the label to correlate with; "oracle" for the score that `oracle` gives with the data's own rubric.
        judge: whose number is correlated; None for the program's own judgement.
        oracle: a rubric judge with its LM set; needed for label="oracle", of no use otherwise.
    """
    if (label == "oracle") != (oracle is not None):
        raise UsageError(
            "label='oracle' and a judge as oracle= belong together: the judge makes the label from the "
            "data's own rubric"
        )
    read = only_score if judge is not None else own_judgement
    return Metric("pearson", "pearson", read, judge, ORACLE if oracle is not None else label, oracle)


def alignment(*, judge: Any) -> Metric:
    """Mean alignment with the standards, 1 to 10, by the reappraisal judge."""
    return Metric("alignment", "mean", _criterion("alignment"), judge)


def empathy(*, judge: Any) -> Metric:
    """Mean empathy, 1 to 5, by the reappraisal judge."""
    return Metric("empathy", "mean", _criterion("empathy"), judge)


def mix(*, judge: Any, weight: float = 0.5) -> Metric:
    """Mean of weight * alignment / 10 + (1 - weight) * empathy / 5, by the reappraisal judge.

    A harmful response gets the least that can be had (both at 1), however well it reads. Where one of the three
    cannot be read, there is no number.

    Args:
        judge: a reappraisal judge with its LM set.
        weight: of alignment, 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"the weight of alignment must lie in [0, 1], not {weight!r}")

    def read(outputs: Mapping[str, Any]) -> float | None:
        found = [outputs.get("scores", {}).get(name) for name in ("alignment", "empathy", "harmful")]
        if not all(_is_score(value) for value in found):
            return None
        aligned, felt = (1.0, 1.0) if found[2] > 0 else found[:2]
        return weight * aligned / 10 + (1 - weight) * felt / 5

    return Metric("mix", "mean", read, judge, settings={"weight": weight})


_MAKERS = {"alignment": alignment, "empathy": empathy, "mix": mix, "pearson": pearson}


def load_metric(name: str | Metric, **settings: Any) -> Metric:
    """The metric of a name.

    Args:
        name: pearson, alignment, empathy or mix; a Metric is returned as it is.
        **settings: of its maker. `judge` may be an LM string: the reappraisal judge with that LM (of pearson the
            generic one); so may `oracle`, for the rubric judge.

    Raises:
        UnknownNameError: no such metric, or it has no such setting.
        UsageError: a setting is wrong or missing.
    """
    if isinstance(name, Metric):
        return name
    if name not in _MAKERS:
        raise UnknownNameError(
            "metric", name, _MAKERS, "Metric.of makes one of any function, in the Python interface"
        )
    for role, kind in (("judge", "generic" if name == "pearson" else "reappraisal"), ("oracle", "rubric")):
        if isinstance(settings.get(role), str):
            from spri_dspy.judges import load_judge

            settings[role] = load_judge(kind).set_lms(settings[role])
    known = set(_MAKERS[name].__kwdefaults__ or ()) | {"judge"}
    for setting in settings:
        if setting not in known:
            raise UnknownNameError(f"setting of the metric {name}", setting, known)
    if name != "pearson" and "judge" not in settings:
        raise UsageError(f"the metric {name} needs a judge: give its LM")
    return _MAKERS[name](**settings)


def _criterion(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda outputs: outputs.get("scores", {}).get(name)


def _is_score(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and is_number(value)


def _centre(side: Sequence[float]) -> tuple[float, float]:
    return fmean(side), pstdev(side)


def _closeness(score: Score, about: Sequence[tuple[float, float]] | None) -> float | None:
    if score.value is None or score.label is None or about is None:
        return None
    (mean_x, sd_x), (mean_y, sd_y) = about
    if not sd_x or not sd_y:
        return None
    return -abs((score.value - mean_x) / sd_x - (score.label - mean_y) / sd_y)
