"""A metric as DSPy calls one, over a set, and made of whatever function somebody has."""

import random

import dspy
import pytest
from dspy.teleprompt import GEPA, BootstrapFewShotWithRandomSearch

import spri_dspy as spri
from spri_dspy.errors import CallError, PrerequisiteError, UnknownNameError, UsageError
from spri_dspy.judges.function import FunctionJudge
from spri_dspy.lms.replay import replay_lm
from spri_dspy.metrics.alignment import metric as alignment
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.records import Record
from spri_dspy.tasks import make_example
from tests.factories import chat, make_task


def example(name="a", group=None, **labels):
    return make_example(name, {"question": f"what about {name}?"}, group, None, labels)


def answered(text="fine", **fields):
    return dspy.Prediction(response=text, **fields)


def judged(score):
    return answered({"feedback": "so", "score": score})


class Asked:
    """A function that judges, and counts."""

    def __init__(self, **numbers):
        self.numbers, self.shown = numbers, []

    def judge(self):
        def tone(question, response):
            self.shown.append(response)
            if response == "fails":
                raise ValueError("not this one")
            return None if response == "odd" else self.numbers or float(len(response))

        return FunctionJudge(tone, "tone")


@pytest.mark.parametrize(
    ("score", "human", "number", "is_good"),
    [(4, 4, 1.0, True), (3, 4, 0.75, True), (1, 4, 0.25, False), (1, 5, 0.0, False)],
)
def test_a_judgement_near_the_label_is_good(score, human, number, is_good):
    metric, shown = pearson(), example(human_score=human)
    assert metric(shown, judged(score)) == number
    assert metric(shown, judged(score), []) is is_good
    found = metric(shown, judged(score), [], "response.generate", [])
    assert found.score == found["score"] == number
    assert found.feedback == found["feedback"] == f"The score given was {score}, where {human} is right."
    assert not metric.unreadable


def test_an_example_without_what_the_judge_is_shown_is_named_once(caplog):
    metric = spri.load_metric(lambda example, prediction: 1.0, judge=Asked().judge())
    for _ in range(2):
        assert metric(example(), dspy.Prediction(draft="no response")) == 0.0
    (said,) = caplog.messages
    assert "nothing to read (its judge needs question, response); DSPy counts it as 0.0" in said


@pytest.mark.parametrize("prediction", [None, answered(), judged(None), dspy.Prediction()])
def test_nothing_to_read_is_0_for_dspy_counted_and_missing_in_an_estimate(prediction, caplog):
    metric = pearson()
    assert metric(example("odd", human_score=3), prediction) == 0.0
    assert metric(example("odd", human_score=3), prediction, []) is False
    found = metric(example("odd", human_score=3), prediction, None, "generate", None)
    assert found.score == 0.0 and "could be read" in found.feedback
    assert metric.unreadable == ["odd"] * 3
    assert caplog.messages == ["pearson: an example has nothing to read; DSPy counts it as 0.0"]
    labels = [1, 2, 3, 4]
    examples = [example(str(n), human_score=h) for n, h in enumerate(labels)]
    estimate = metric.estimate(examples, [*map(judged, (1, 2, 4)), prediction])
    assert (estimate.n, estimate.dropped) == (3, 1)
    assert estimate.value == pytest.approx(0.98198, abs=1e-4)


def test_numbers_lie_in_the_unit_interval_by_the_scale_of_the_metric():
    metric = alignment(judge=Asked(alignment=7, empathy=2).judge())
    assert metric(example(), answered()) == pytest.approx(6 / 9)
    assert metric(example(), answered(), []) is False
    found = metric(example(), answered(), None, "generate", None)
    assert found.feedback.startswith("The result was rated 7 for alignment on a scale of 1 to 10.")
    assert "The judge's reasons: alignment 7, empathy 2" in found.feedback


def test_a_judge_is_asked_once_about_a_prediction():
    asked = Asked(score=3)
    metric, prediction = spri.load_metric("score", judge=asked.judge()), answered()
    for arguments in ((), ([],), (None, "generate", None), (None, "critique", None)):
        metric(example(), prediction, *arguments)
    assert asked.shown == ["fine"]
    metric(example(), answered("other"))
    assert asked.shown == ["fine", "other"]


def test_an_estimate_asks_the_judge_and_drops_what_fails(caplog):
    metric = spri.load_metric("score", judge=Asked().judge())
    examples = [example(name) for name in "abcdef"]
    predictions = [answered("."), answered("..."), answered("odd"), answered("fails"), None, answered(" ")]
    estimate = metric.estimate(examples, predictions, rng=random.Random(1))
    assert (estimate.value, estimate.n, estimate.dropped) == (2.0, 2, 4)
    assert "example d could not be judged" in caplog.text
    records = [Record("a", {}, {"response": "...."}), Record("b", {}, error="CallError: no")]
    assert metric.estimate(examples[:2], records).value == 4.0
    with pytest.raises(UsageError, match="1 predictions for 6 examples"):
        metric.estimate(examples, predictions[:1])


@pytest.mark.parametrize("error", [PrerequisiteError("no key"), UsageError("wrong")])
def test_what_every_example_would_meet_stops_an_estimate(error):
    judge = Asked().judge()

    def fails(**inputs):
        raise error

    judge.forward = fails
    with pytest.raises(type(error)):
        spri.load_metric("score", judge=judge).estimate([example()], [answered()])


def test_the_oracle_makes_the_label_that_is_missing():
    judge = Asked().judge()
    judge.inputs = ("instruction", "answer", "rubric")
    judge.forward = lambda group=None, **inputs: dspy.Prediction(scores={"score": len(inputs["answer"])})
    metric = pearson(label="oracle", oracle=judge)
    rows = [
        make_example(n, {"instruction": "do", "answer": "x" * k}, labels={"rubric": "long ones"})
        for n, k in (("a", 1), ("b", 3), ("c", 5))
    ]
    assert metric(rows[2], judged(4)) == 0.75
    estimate = metric.estimate(rows, [judged(score) for score in (1, 3, 5)])
    assert (estimate.value, estimate.n) == (pytest.approx(1.0), 3)


def exact(example, prediction, trace=None):
    return example.answer == prediction.response


def with_feedback(gold, pred, trace=None, pred_name=None, pred_trace=None):
    return dspy.Prediction(score=len(pred.response) / 10, feedback=f"{pred_name}: shorter")


def by_trace(example, pred, trace=None):
    return trace is None or bool(trace)


@pytest.fixture
def rows():
    return [dspy.Example(question=q, answer=a).with_inputs("question") for q, a in ("ax", "by", "cz")]


def test_a_function_of_an_example_is_a_metric(rows):
    metric = spri.load_metric(exact)
    assert (metric.name, metric(rows[0], answered("x")), metric(rows[0], answered("y"))) == ("exact", 1, 0)
    assert metric(rows[0], answered("x"), []) is True
    estimate = metric.estimate(rows, [answered("x"), answered("x"), answered("z")])
    assert (estimate.value, estimate.n) == (pytest.approx(2 / 3), 3)
    assert estimate.reason == "no interval: 3 clusters are too few"


def test_a_function_with_feedback_keeps_it_and_its_trace(rows):
    metric = spri.load_metric(with_feedback)
    assert metric(rows[0], answered("seven77")) == 0.7
    assert metric(rows[0], answered("eight888"), []) is True
    found = metric(rows[0], answered("seven77"), None, "generate", None)
    assert (found.score, found.feedback) == (0.7, "generate: shorter")
    strict = spri.load_metric(lambda gold, pred, trace, pred_name, pred_trace: 0.5 if trace is None else 1)
    assert (strict(rows[0], answered()), strict(rows[0], answered(), [])) == (0.5, True)
    assert spri.load_metric(by_trace)(rows[0], answered(), []) is False
    assert spri.load_metric(dspy.evaluate.answer_exact_match)(rows[0], dspy.Prediction(answer="X")) == 1.0


def pearson_of_ratings(examples, predictions):
    from scipy import stats

    return stats.pearsonr([float(e.rating) for e in examples], [float(p.rating) for p in predictions])[0]


def test_a_function_of_a_set_is_a_metric():
    metric = spri.load_metric(pearson_of_ratings)
    rows = [dspy.Example(q=str(n), rating=n).with_inputs("q") for n in range(8)]
    given = [dspy.Prediction(rating=r) for r in (0, 2, 1, 3, 4, 4, 9, 5)]
    estimate = metric.estimate([*rows, rows[0]], [*given, None])
    expected = pearson_of_ratings(rows, given)
    assert (estimate.value, estimate.n, estimate.dropped) == (pytest.approx(expected), 8, 1)
    assert estimate.low < estimate.value < estimate.high
    assert metric(rows[0], given[0]) == 0.5  # a correlation of one example: no number to search by
    searched = spri.load_metric(pearson_of_ratings, surrogate=lambda e, p: 1 - abs(e.rating - p.rating) / 9)
    assert searched(rows[6], given[6]) == pytest.approx(2 / 3)
    better = metric.compare(metric.rate(rows, rows), metric.rate(rows, given))
    assert better.difference == pytest.approx(1 - expected) and 0 < better.p < 0.2


@pytest.mark.parametrize(
    ("function", "needs", "kind"),
    [
        (lambda example, prediction: 1, "value", "mean"),
        (lambda gold, pred, trace=None: 1, "value", "mean"),
        (lambda gold, pred, trace, pred_name, pred_trace: 1, "value", "mean"),
        (lambda example, guess: 1, "value", "mean"),
        (lambda examples, predictions: 1, "pair", "mean"),
        (lambda golds, preds, weights=None: 1, "pair", "mean"),
        (lambda scores: 1, "value", "mean"),
    ],
)
def test_functions_are_told_apart_by_what_they_take(function, needs, kind):
    metric = spri.load_metric(function)
    assert (metric.needs, metric.kind) == (needs, kind)
    assert (metric.function is None) == (
        "example" in function.__code__.co_varnames or "gold" in function.__code__.co_varnames
    )


FILE = """
import spri_dspy as spri

def short(example, prediction, trace=None):
    return len(prediction.response) < example.limit

def made(*, limit=3):
    return spri.Metric.of_example(lambda example, prediction: len(prediction.response) < limit)

NUMBER = 3
"""


def test_metrics_come_from_files(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    row = dspy.Example(question="q", limit=3).with_inputs("question")
    for name, settings, value in ((":short", {}, 1.0), (":made", {}, 1.0), (":made", {"limit": 1}, 0.0)):
        assert spri.load_metric(f"{path}{name}", **settings)(row, answered("no")) == value
    with pytest.raises(UsageError, match="is a int"):
        spri.load_metric(f"{path}:NUMBER")
    with pytest.raises(UnknownNameError, match=r"setting of the metric .*made 'most'; known: limit"):
        spri.load_metric(f"{path}:made", most=3)
    with pytest.raises(UnknownNameError, match="setting of the metric pearson 'label'"):
        spri.load_metric(pearson(), label="x")


def test_another_function_of_the_same_name_is_another_metric():
    one = spri.load_metric(lambda example, prediction: 1).identity
    two = spri.load_metric(lambda example, prediction: 2).identity
    assert one["name"] == two["name"] and one != two


class Words:
    """Answers every stage; the response is the shorter the more the prompt says so."""

    def answer(self, request):
        from spri_dspy.lms.spec import CALL

        stage = getattr(CALL.get(), "stage", "") or ""
        if stage.startswith("critique"):
            return chat(feedback="good", score=5)
        if not stage:
            return "```Be brief.```"
        field = stage.partition("_")[2]
        return chat(**{f"improved_{field}" if stage.startswith("refine") else field: "brief"})


@pytest.fixture
def program():
    lm = replay_lm(Words())
    return spri.SPRI(make_task()).set_lms(base=lm, critic=lm)


def test_dspy_evaluates_a_program_with_a_metric(program):
    metric = spri.load_metric("score", judge=Asked().judge())
    examples = [example(name) for name in "abcd"]
    result = dspy.Evaluate(devset=examples, metric=metric, num_threads=2, display_progress=False)(program)
    assert [score for *_, score in result.results] == [1.0] * 4  # five letters, and no scale
    predictions = [prediction for _, prediction, _ in result.results]
    assert metric.estimate(examples, predictions).value == 5.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stock_optimizers_take_a_metric_as_it_is(program):
    metric = spri.load_metric("score", judge=Asked().judge())
    examples = [example(name) for name in "abcd"]
    found = BootstrapFewShotWithRandomSearch(metric, num_candidate_programs=1, num_threads=1).compile(
        program, trainset=examples
    )
    programs = [each["program"] for each in found.candidate_programs]
    assert any(predictor.demos for each in programs for _, predictor in each.named_predictors())
    tuned = GEPA(
        metric,
        max_metric_calls=12,
        reflection_lm=replay_lm(Words()),
        num_threads=1,
        reflection_minibatch_size=2,
    ).compile(program, trainset=examples, valset=examples)
    assert tuned(question="and now?").response == "brief"
    assert not metric.unreadable


def test_errors_of_a_function_are_its_authors(rows):
    with pytest.raises(ZeroDivisionError):
        spri.load_metric(lambda example, prediction: 1 / 0).estimate(rows[:1], [answered()])
    with pytest.raises(CallError):
        spri.load_metric("score", judge=Asked().judge())(example(), answered("fails"))
