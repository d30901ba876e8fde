"""DSPy's optimisers on a SPRI program: every call goes to the role's own LM, during the search and in its result.

The global LM is another one throughout; a single call that reaches it is a failure.
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
from spri_dspy.lms.replay import replay_lm
from spri_dspy.lms.spec import CALL, load_lm
from tests.factories import chat, make_task


class Counting:
    """A recording that answers every stage, and counts who asked. Every third response is stern."""

    def __init__(self, score=4):
        self.score, self.roles = score, []

    def answer(self, request):
        call = CALL.get()
        self.roles.append(call.role if call else "nobody")
        stage = call.stage if call else ""
        if stage.startswith("critique"):
            return chat(feedback="say more", score=self.score)
        field = stage.partition("_")[2] or "answer"
        word = "stern" if len(self.roles) % 6 == 0 else "kind"
        return chat(**{f"improved_{field}" if stage.startswith("refine") else field: f"be {word}"})


class Cast:
    """A program whose roles have an LM each, and the LM that nobody may call."""

    def __init__(self, **loop):
        self.counts = {"base": Counting(), "critic": Counting(), "stray": Counting()}
        self.lms = {role: replay_lm(counting) for role, counting in self.counts.items()}
        self.program = spri.SPRI(make_task(), **{"max_critiques": 2, **loop})
        self.program.set_lms(base=self.lms["base"], critic=self.lms["critic"])

    def check(self, compiled, *, searched=True):
        """No stray call, every call by its own role, and the same LMs in the result, which still runs."""
        assert not searched or len(self.counts["base"].roles) > 2
        for name, predictor in compiled.named_predictors():
            assert predictor.lm is self.lms["critic" if "critique" in name else "base"], name
        compiled(question="and now?")
        assert self.counts["stray"].roles == []
        assert set(self.counts["base"].roles) == {"base"}
        assert set(self.counts["critic"].roles) == {"critic"}


@pytest.fixture
def proposer():
    """Writes what an optimiser asks for itself: new instructions, reflections."""
    return load_lm("offline")


@pytest.fixture
def cast():
    made = Cast()
    with dspy.context(lm=made.lms["stray"]):
        yield made


def examples(n=6):
    """Rows with every field of the two drafting stages, so that they can be shown as demos."""
    rows = (
        {"question": f"why {i}?", "principles": f"rule {i}", "response": f"because {i}"} for i in range(n)
    )
    return [dspy.Example(row).with_inputs("question") for row in rows]


def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
    """True when bootstrapping; else a number that differs between examples."""
    good = "kind" in pred["response"]
    return good if trace is not None else good * (0.5 + len(gold.question) % 3 / 10)


def demos_of(program):
    return {name: len(predictor.demos) for name, predictor in program.named_predictors()}


def test_labeled_few_shot_keeps_lms(cast):
    compiled = LabeledFewShot(k=2).compile(cast.program, trainset=examples())
    assert demos_of(compiled)["principles.generate"] == 2
    cast.check(compiled, searched=False)


@pytest.mark.parametrize("labeled", [0, 2])
def test_bootstrap_few_shot_keeps_lms(cast, labeled):
    optimizer = BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=labeled)
    compiled = optimizer.compile(cast.program, trainset=examples())
    demos = compiled.principles.generate.demos
    assert sum(bool(demo.get("augmented")) for demo in demos) == 2
    assert compiled.response.critique.demos
    cast.check(compiled)


def test_random_search_keeps_lms(cast):
    optimizer = BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1, num_threads=2
    )
    compiled = optimizer.compile(cast.program, trainset=examples(4), valset=examples(4)[2:])
    assert len(compiled.candidate_programs) >= 3
    cast.check(compiled)


def test_copro_keeps_lms(cast, proposer):
    optimizer = COPRO(prompt_model=proposer, metric=metric, breadth=2, depth=1)
    compiled = optimizer.compile(
        cast.program, trainset=examples(2), eval_kwargs={"num_threads": 1, "display_progress": False}
    )
    assert proposer.history
    cast.check(compiled)


def test_miprov2_keeps_lms(cast, proposer):
    pytest.importorskip("optuna", reason="pip install 'spri-dspy[optimize]'")
    optimizer = MIPROv2(
        metric=metric,
        prompt_model=proposer,
        task_model=cast.lms["base"],
        auto=None,
        num_candidates=2,
        max_bootstrapped_demos=1,
        max_labeled_demos=1,
        num_threads=1,
    )
    compiled = optimizer.compile(
        cast.program, trainset=examples(4), valset=examples(4)[2:], num_trials=2, minibatch=False
    )
    assert proposer.history
    cast.check(compiled)


def test_simba_keeps_lms(cast, proposer):
    optimizer = SIMBA(
        metric=metric,
        bsize=2,
        num_candidates=2,
        max_steps=4,
        max_demos=1,
        prompt_model=proposer,
        num_threads=1,
    )
    compiled = optimizer.compile(cast.program, trainset=examples(4), seed=1)
    assert len(compiled.candidate_programs) > 1
    assert proposer.history
    cast.check(compiled)


def test_gepa_keeps_lms(cast, proposer):
    optimizer = GEPA(metric=metric, reflection_lm=proposer, max_metric_calls=10, num_threads=1)
    compiled = optimizer.compile(cast.program, trainset=examples(2), valset=examples(2))
    assert proposer.history
    cast.check(compiled)


def test_unscored_critiques_are_never_shown_as_demos(cast):
    cast.counts["critic"].score = "cannot say"
    optimizer = BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=2, max_labeled_demos=0)
    compiled = optimizer.compile(cast.program, trainset=examples(2))
    assert [demo["score"] for demo in compiled.principles.critique.demos] == [None, None]
    compiled(question="and now?")
    prompt = str(cast.lms["critic"].history[-1]["messages"])
    assert "why 0?" not in prompt and "and now?" in prompt
