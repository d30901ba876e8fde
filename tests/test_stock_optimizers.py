"""DSPy's own optimizers and evaluation on a SPRI program, its task's examples and a spri metric: no adapter code.

Every role keeps its LM, during the search and in the result; the LM that DSPy is configured with is called by nobody.
"""

import dspy
import pytest
from dspy.teleprompt import (
    COPRO,
    GEPA,
    SIMBA,
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    LabeledFewShot,
    MIPROv2,
)

import spri_dspy as spri

OPTIMIZERS = {
    "labeled": lambda metric, lm: LabeledFewShot(k=2),
    "bootstrap": lambda metric, lm: BootstrapFewShot(metric=metric, max_bootstrapped_demos=1),
    "random_search": lambda metric, lm: BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1, num_threads=2
    ),
    "copro": lambda metric, lm: COPRO(prompt_model=lm, metric=metric, breadth=2, depth=1),
    "mipro_v2": lambda metric, lm: MIPROv2(
        metric=metric,
        prompt_model=lm,
        auto=None,
        num_candidates=2,
        max_bootstrapped_demos=1,
        max_labeled_demos=1,
        num_threads=2,
    ),
    "simba": lambda metric, lm: SIMBA(
        metric=metric, bsize=3, num_candidates=2, max_steps=2, prompt_model=lm, num_threads=2
    ),
    "gepa": lambda metric, lm: GEPA(metric=metric, reflection_lm=lm, max_metric_calls=16, num_threads=2),
}
MORE = {
    "copro": {"eval_kwargs": {"num_threads": 2, "display_progress": False}},
    "mipro_v2": {"num_trials": 2, "minibatch": False},
}


class Stray(dspy.utils.DummyLM):
    """The LM that DSPy is configured with, and that nobody may call."""

    def __init__(self):
        super().__init__([])
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        raise AssertionError("a call reached the configured LM")

    aforward = forward


@pytest.fixture
def stray():
    made = Stray()
    with dspy.context(lm=made):
        yield made


def longer(example, prediction, trace=None, pred_name=None, pred_trace=None):
    """Any function as DSPy's users write it: here one that likes text, with feedback for those who ask."""
    score = min(1.0, len(str(prediction.response)) / 1500)
    if pred_name is not None:
        return dspy.Prediction(score=score, feedback="Write more.")
    return score > 0.1 if trace is not None else score


METRICS = {
    "function": lambda: longer,
    "judge": lambda: spri.load_metric("score", judge="offline?seed=4"),
    "set": lambda: spri.load_metric(spread, surrogate=longer),
}


def spread(examples, predictions):
    """A metric of a set, which DSPy's optimizers see through its surrogate."""
    lengths = [len(str(prediction.response)) for prediction in predictions]
    return max(lengths) / sum(lengths)


@pytest.fixture
def rated(monkeypatch):
    """What spri metrics said to DSPy, failures included: DSPy would make a zero of one and go on."""
    said, call = [], spri.Metric.__call__

    def noted(metric, *arguments, **more):
        try:
            said.append(call(metric, *arguments, **more))
        except Exception as error:
            said.append(error)
            raise
        return said[-1]

    monkeypatch.setattr(spri.Metric, "__call__", noted)
    return said


def check_ratings(metric, rated):
    """Every example was read and rated; no zero stands for something that could not be."""
    assert rated and metric.unreadable == []
    numbers = [each["score"] if isinstance(each, dict) else each for each in rated]
    assert all(isinstance(each, bool) or 0 <= each <= 1 for each in numbers), numbers
    assert any(each > 0 for each in numbers)


def cast(name):
    """A program with an LM for each role, and its task's examples."""
    task = spri.load_task(name)
    program = spri.SPRI(task, max_critiques=2).set_lms(base="offline?seed=1", critic="offline?seed=2")
    return program, list(task.examples())


RATED = ("random_search", "mipro_v2", "simba", "gepa")
"""Optimizers that search by the numbers of single examples."""


@pytest.mark.parametrize(
    ("optimizer", "task", "metric"),
    [
        *((optimizer, task, "function") for optimizer in OPTIMIZERS for task in ("reappraisal", "rubrics")),
        *((optimizer, "reappraisal", "judge") for optimizer in RATED),
        *((optimizer, "sft", "set") for optimizer in RATED),
    ],
)
def test_stock_optimizers_run_as_they_are(stray, rated, optimizer, task, metric):
    program, examples = cast(task)
    metric = METRICS[metric]()
    made = OPTIMIZERS[optimizer](metric, spri.load_lm("offline?seed=3"))
    sets = {"trainset": examples[:4]}
    if optimizer in ("random_search", "mipro_v2", "gepa"):
        sets["valset"] = examples[4:8]
    compiled = made.compile(program, **sets, **MORE.get(optimizer, {}))
    assert type(compiled) is type(program)
    given = dict(program.named_predictors())
    for name, predictor in compiled.named_predictors():
        assert predictor.lm.spec == given[name].lm.spec, name
        assert predictor.lm.spec.options["seed"] == (2 if "critique" in name else 1)
    prediction = compiled(**examples[-1].inputs())
    assert prediction.response and prediction.stop_reasons
    assert stray.calls == 0
    if isinstance(metric, spri.Metric):
        check_ratings(metric, rated)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("task", ["reappraisal", "rubrics", "sft"])
def test_evaluation_scores_every_example(stray, rated, task, metric):
    program, examples = cast(task)
    metric = METRICS[metric]()
    result = dspy.Evaluate(devset=examples[:4], metric=metric, num_threads=2)(program)
    assert len(result.results) == 4 and result.score > 0
    if isinstance(metric, spri.Metric):
        check_ratings(metric, rated)
        assert len(rated) == 4
    assert all(prediction.response for _, prediction, _ in result.results)
    assert stray.calls == 0


def test_parallel_runs_every_example(stray):
    program, examples = cast("reappraisal")
    found = dspy.Parallel(num_threads=2, timeout=0)([(program, example) for example in examples[:4]])
    assert [prediction.stop_reasons.keys() for prediction in found] == [{"principles", "response"}] * 4
    metric = METRICS["judge"]()
    rated = dspy.Parallel(num_threads=2, timeout=0)(
        [
            (metric, {"example": example, "prediction": said})
            for example, said in zip(examples[:4], found, strict=True)
        ]
    )
    assert all(0 <= score <= 1 for score in rated) and metric.unreadable == []
    assert stray.calls == 0


def test_a_judge_that_cannot_be_read_is_noted_and_not_passed_over():
    program, examples = cast("reappraisal")
    metric = spri.load_metric("score", judge="offline?unscored_rate=1")
    dspy.Evaluate(devset=examples[:2], metric=metric, num_threads=1)(program)
    assert metric.unreadable == [example.id for example in examples[:2]]


def test_gepa_sees_scores_and_not_failures(stray):
    program, examples = cast("reappraisal")
    gepa = GEPA(
        metric=longer,
        reflection_lm=spri.load_lm("offline"),
        max_metric_calls=12,
        num_threads=2,
        track_stats=True,
    )
    compiled = gepa.compile(program, trainset=examples[:3], valset=examples[3:7])
    scores = compiled.detailed_results.val_subscores[0]
    assert len(scores) == 4 and all(score > 0 for score in scores.values())
