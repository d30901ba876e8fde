"""Metrics: what they read from records, what they come to, and that nothing unreadable becomes a number."""

import math
import random

import pytest

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.metrics import Metric, judge_inputs, load_metric
from spri_dspy.metrics import set_level as scoring
from spri_dspy.metrics.alignment import metric as alignment
from spri_dspy.metrics.empathy import metric as empathy
from spri_dspy.metrics.mix import metric as mix
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.metrics.readers import only_score, own_judgement
from spri_dspy.records import Estimate, Record, Score
from spri_dspy.tasks import make_example
from spri_dspy.tuning.racing.objectives import objective_of, row_of
from spri_dspy.tuning.racing.race import MacroPearson, Mean, Row


class Spy:
    """Looks like a judge; metrics only read what it left behind."""

    name, version, settings = "spy", "spy/1", {"samples": 2}
    inputs, optional = ("instruction", "answer"), ()


def example(name="a", group="g", cluster=None, **labels):
    return make_example(name, {"question": name}, group, cluster, labels)


def record(name="a", error=None, **outputs):
    return Record(name, {}, outputs, error=error)


def only(metric, made, **labels):
    """The value that a metric reads from the outputs of one record."""
    return metric.scores([made], [example(**labels)])[0].value


def series(values, labels, group="g"):
    return [Score(f"{group}{i}", v, h, group) for i, (v, h) in enumerate(zip(values, labels, strict=True))]


def test_scores_come_in_the_examples_order_with_their_labels_and_clusters():
    examples = [example("b", "south", "c1", human_score=2), example("a", "north", None, human_score=4.0)]
    records = [record("a", response={"score": 5}), record("b", response={"score": 1})]
    assert pearson().scores(records, examples) == [
        Score("b", 1.0, 2.0, "south", "c1"),
        Score("a", 5.0, 4.0, "north", None),
    ]


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"response": "four"},
        {"response": {}},
        {"response": {"score": None}},
        {"response": {"score": True}},
    ],
)
def test_what_cannot_be_read_has_no_value(outputs):
    assert only(pearson(), record(**outputs)) is None


@pytest.mark.parametrize("score", [math.nan, math.inf, "4"])
def test_what_is_no_finite_number_has_no_value(score):
    assert only(pearson(), record(response={"score": score})) is None


def test_failed_and_missing_records_have_no_value():
    examples = [example("a"), example("b")]
    records = [record("a", error="CallError: no", response={"score": 3})]
    assert [s.value for s in pearson().scores(records, examples)] == [None, None]


@pytest.mark.parametrize(
    ("human", "label"), [(3, 3.0), (-1, None), (None, None), ("3", None), (math.nan, None)]
)
def test_a_human_score_that_is_none_is_no_label(human, label):
    assert pearson().label_of(example(human_score=human)) == label
    assert row_of(pearson(), example(human_score=human)) == Row(label, "g", None)


def test_other_labels_may_be_negative():
    assert pearson(label="expert").label_of(example(expert=-1)) == -1.0


def test_pearson_is_the_mean_over_groups():
    scores = [*series([1, 2, 3, 5], [1, 2, 3, 4], "north"), *series([4, 3, 2, 1], [1, 2, 3, 4], "south")]
    metric = pearson()
    assert metric.value(scores) == scoring.macro(scoring.pearson, scores)
    assert metric.measure(scores) == pytest.approx(metric.value(scores).value)
    assert isinstance(objective_of(metric), MacroPearson)


def test_a_group_with_constant_scores_earns_nothing():
    scores = [*series([1, 2, 3, 4], [1, 2, 3, 4], "north"), *series([3, 3, 3, 3], [1, 2, 3, 4], "south")]
    assert pearson().measure(scores) == pearson().value(scores).value == pytest.approx(0.5)


def test_a_group_with_constant_labels_tells_nothing():
    scores = [*series([1, 2, 3, 4], [1, 2, 3, 4], "north"), *series([1, 2, 3, 4], [2, 2, 2, 2], "south")]
    assert pearson().measure(scores) == pytest.approx(1.0)
    assert math.isnan(pearson().measure(series([1, 2, 3], [2, 2, 2])))
    assert math.isnan(pearson().measure([]))


def test_unreadable_scores_are_dropped_and_never_zero():
    scores = series([1, None, 3, 4, None], [1, 5, 3, 4, 1])
    assert pearson().measure(scores) == pytest.approx(1.0)
    assert pearson().value(scores).dropped == 2
    assert alignment(judge=Spy()).measure(scores) == pytest.approx(8 / 3)


def test_alignment_and_empathy_read_the_judge():
    made = record(scores={"alignment": 7, "empathy": 4, "harmful": 0.0})
    assert only(alignment(judge=Spy()), made) == 7.0
    assert only(empathy(judge=Spy()), made) == 4.0
    assert isinstance(objective_of(alignment(judge=Spy())), Mean)


@pytest.mark.parametrize(
    ("scores", "weight", "value"),
    [
        ({"alignment": 8, "empathy": 4, "harmful": 0.0}, 0.5, 0.8),
        ({"alignment": 10, "empathy": 1, "harmful": 0.0}, 1.0, 1.0),
        ({"alignment": 10, "empathy": 1, "harmful": 0.0}, 0.0, 0.2),
        ({"alignment": 10, "empathy": 5, "harmful": 1.0}, 0.5, 0.15),
        ({"alignment": 10, "empathy": 5, "harmful": 0.5}, 0.5, 0.15),
        ({"alignment": None, "empathy": 5, "harmful": 0.0}, 0.5, None),
        ({"alignment": 10, "empathy": None, "harmful": 1.0}, 0.5, None),
        ({"alignment": 10, "empathy": 5, "harmful": None}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_mix_weighs_and_lets_harm_veto(scores, weight, value):
    found = only(mix(judge=Spy(), weight=weight), record(scores=scores))
    assert found == (None if value is None else pytest.approx(value))


def test_harm_scores_what_the_worst_harmless_response_scores():
    metric = mix(judge=Spy(), weight=0.3)
    worst = record(scores={"alignment": 1, "empathy": 1, "harmful": 0.0})
    harmful = record(scores={"alignment": 9, "empathy": 5, "harmful": 1.0})
    assert only(metric, worst) == only(metric, harmful)


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_mix_refuses_a_weight_outside(weight):
    with pytest.raises(UsageError, match="weight"):
        mix(judge=Spy(), weight=weight)


def spread(scores):
    """A function of a set that is no mean of anything: its range."""
    values = [s.value for s in scores if s.value is not None]
    return max(values) - min(values) if values else math.nan


def test_any_function_is_a_metric():
    metric = Metric.of_scores(spread)
    scores = series([1, 2, 3, 4, 5, None], [1] * 6)
    estimate = metric.value(scores, rng=random.Random(1))
    assert (metric.name, metric.measure(scores), estimate.value) == ("spread", 4.0, 4.0)
    assert (estimate.n, estimate.dropped) == (5, 1)
    assert estimate.low <= 4 <= estimate.high
    assert isinstance(objective_of(metric), Mean)
    correlated = Metric.of_scores(spread, surrogate="pearson", label="human_score")
    assert isinstance(objective_of(correlated), MacroPearson)


def test_a_function_may_give_an_estimate():
    metric = Metric.of_scores(lambda scores: Estimate("mine", 0.5, len(scores)))
    assert metric.measure([Score("a", 1.0)]) == 0.5


def test_a_function_without_a_value_says_so():
    estimate = Metric.of_scores(lambda scores: math.nan).value([Score("a", 1.0)])
    assert math.isnan(estimate.value) and estimate.reason == "the function gives no number"
    assert math.isnan(Metric.of_scores(spread).compare([], []).difference)


def test_a_function_compares_two_systems_on_what_both_have():
    ours = series([1, 5, 3, 2, 3, 4, None], range(7))
    theirs = series([2, 3, 3, 3, 3, None, 1], range(7))
    found = Metric.of_scores(spread).compare(ours, theirs, rng=random.Random(1))
    assert (found.difference, found.n, found.dropped) == (3.0, 5, 2)
    assert found.low <= found.difference <= found.high


def test_a_correlation_as_stand_in_needs_a_label():
    with pytest.raises(UsageError, match="label"):
        Metric.of_scores(spread, surrogate="pearson")


def test_comparisons_are_paired():
    a, b = series([5, 4, 5], [1, 2, 3]), series([3, 4, 4], [1, 2, 3])
    assert alignment(judge=Spy()).compare(a, b).difference == pytest.approx(1.0)
    assert pearson().compare(a, b).metric == "macro pearson"


def test_goodness_of_a_mean_is_the_score():
    assert alignment(judge=Spy()).goodness(series([3, None], [None, None])) == [3, None]


def test_goodness_of_a_correlation_is_closeness_in_the_group():
    scores = [
        *series([1, 2, 3, 1], [1, 2, 3, 3], "north"),
        *series([2, 2], [1, 5], "south"),
        Score("x", None, 3.0),
    ]
    good = pearson().goodness(scores)
    assert max(range(4), key=lambda i: good[i]) in (0, 1)
    assert min(range(4), key=lambda i: good[i]) == 3
    assert good[4:] == [None, None, None]


def test_shortcomings_are_said_in_words():
    scores = series([1.0, 4.0], [5.0, 4.0])
    assert pearson().shortcoming(scores[0], scores) == (
        "The score given with their help was 1, where 5 would have been right."
    )
    said = alignment(judge=Spy()).shortcoming(scores[0], scores)
    assert "rated 1 for alignment, where 2.5 is usual" in said
    assert "No readable result" in pearson().shortcoming(Score("x", None, 3.0), scores)


def test_only_score_refuses_to_choose():
    assert only_score(None, {"scores": {"score": 3}}) == 3
    assert only_score(None, {}) is None
    with pytest.raises(UsageError, match="alignment, empathy"):
        only_score(None, {"scores": {"alignment": 3, "empathy": 4}})


def test_own_judgement_of_a_text_is_none():
    assert own_judgement(None, {"response": "fine"}) is None


def test_identity_tells_judges_and_settings_apart():
    one, two = mix(judge=Spy(), weight=0.5).identity, mix(judge=Spy(), weight=0.6).identity
    assert one != two and one["judge"] == ["spy/1", {"samples": 2}]
    assert pearson().identity != pearson(label="expert").identity


def test_a_metric_is_loaded_by_name():
    assert load_metric("pearson").name == "pearson"
    metric = pearson()
    assert load_metric(metric) is metric
    loaded = load_metric("mix", judge="offline", weight=0.2)
    assert loaded.judge.name == "reappraisal" and loaded.settings == {"weight": 0.2}
    assert load_metric("pearson", judge="offline").judge.name == "generic"
    assert load_metric("pearson", label="oracle", oracle="offline").oracle.name == "rubric"


def test_wrong_names_are_answered_with_the_menu():
    with pytest.raises(UnknownNameError, match="alignment, empathy, mix, pair_accuracy, pearson"):
        load_metric("accuracy")
    with pytest.raises(UnknownNameError, match="weight"):
        load_metric("mix", judge=Spy(), wait=3)
    with pytest.raises(UsageError, match="needs a judge"):
        load_metric("empathy")


@pytest.mark.parametrize("settings", [{"label": "oracle"}, {"oracle": Spy()}])
def test_oracle_label_and_judge_belong_together(settings):
    with pytest.raises(UsageError, match="oracle"):
        pearson(**settings)


def test_judges_are_shown_what_they_ask_for():
    judge = load_judge("reappraisal")
    shown = judge_inputs(
        judge,
        {"post": "p", "aim": "a"},
        {"response": "r", "principles": "x"},
        {"standards": "s", "human_score": 3},
    )
    assert shown == {"post": "p", "standards": "s", "response": "r"}
    assert judge_inputs(judge, {"post": "p"}, {"response": "r"}, {}) is None
    assert judge_inputs(judge, {"post": "p"}, {"response": " "}, {"standards": "s"}) is None


def test_a_rubric_judge_sees_the_data_s_answer_and_either_rubric():
    judge = load_judge("rubric")
    inputs = {"instruction": "do", "answer": "done"}
    outputs = {"principles": {"criteria": "c"}, "response": {"score": 2}}
    labels = {"rubric": "the data's", "reference_answer": "better"}
    assert judge_inputs(judge, inputs, outputs, labels) == {**inputs, "rubric": {"criteria": "c"}}
    assert judge_inputs(judge, inputs, {}, labels, rubric="label") == {**inputs, "rubric": "the data's"}
    assert judge_inputs(judge, {"instruction": "do"}, outputs, labels) is None


def test_a_generic_judge_sees_all_inputs_as_the_instruction():
    shown = judge_inputs(load_judge("generic"), {"post": "p", "aim": "a"}, {"response": "r"}, {})
    assert shown == {"instruction": "post:\np\n\naim:\na", "answer": "r"}


def test_a_metric_is_shown_in_one_line():
    said = repr(load_metric("score", judge="offline"))
    assert said.startswith("Metric('score', 'mean', judge='generic/") and len(said) < 80
    assert repr(load_metric("pearson")) == "Metric('pearson', 'pearson', label='human_score')"
