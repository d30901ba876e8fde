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


METRICS = {"function": longer}


def cast(name):
    """A program with an LM for each role, and its task's examples."""
    task = spri.load_task(name)
    program = spri.SPRI(task, max_critiques=2).set_lms(base="offline?seed=1", critic="offline?seed=2")
    return program, list(task.examples())


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("task", ["reappraisal", "rubrics"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_stock_optimizers_run_as_they_are(stray, optimizer, task, metric):
    program, examples = cast(task)
    made = OPTIMIZERS[optimizer](METRICS[metric], spri.load_lm("offline?seed=3"))
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


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("task", ["reappraisal", "rubrics", "sft"])
def test_evaluation_scores_every_example(stray, task, metric):
    program, examples = cast(task)
    result = dspy.Evaluate(devset=examples[:4], metric=METRICS[metric], num_threads=2)(program)
    assert len(result.results) == 4 and result.score > 0
    assert all(prediction.response for _, prediction, _ in result.results)
    assert stray.calls == 0


def test_parallel_runs_every_example(stray):
    program, examples = cast("reappraisal")
    found = dspy.Parallel(num_threads=2, timeout=0)([(program, example) for example in examples[:4]])
    assert [prediction.stop_reasons.keys() for prediction in found] == [{"principles", "response"}] * 4
    assert stray.calls == 0


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
