"""In Python as on the command line: what a real base is paid for is never criticised or judged by the offline LM."""

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.commands import judge
from spri_dspy.judges import Panel
from spri_dspy.records import Record
from tests.factories import make_task

REAL = "hosted_vllm/m?api_base=http://127.0.0.1:1/v1"
ROWS = [{"id": str(n), "question": f"why {word}?"} for n, word in enumerate(["rain", "snow", "hail", "fog"])]


def refused(role, lm="hosted_vllm/m"):
    """What must be raised: one line with the LM and what to give instead."""
    line = f'the {role} would be the offline LM, whose scores say nothing about {lm}: pass {role}="PROVIDER/MODEL"'
    return pytest.raises(spri.UsageError, match=f"^{line}$")


def lms(program):
    return [predictor.lm for _, predictor in program.named_predictors()]


@pytest.fixture
def crooked():
    """A program whose critic was made the offline LM behind the back of `set_lms`."""
    program = spri.SPRI(make_task()).set_lms(base=REAL)
    program.response.critique.lm = spri.load_lm("offline")
    return program


@pytest.mark.parametrize("system", ["spri", "self_refine"])
def test_set_lms_refuses_an_offline_critic_of_a_real_base_and_changes_nothing(system):
    program = spri.load_system(system, make_task())
    before = lms(program)
    with refused("critic"):
        program.set_lms(base=REAL, critic="offline?seed=1")
    assert lms(program) == before
    program.set_lms(base=REAL)
    before = lms(program)
    with refused("critic"):
        program.set_lms(critic="offline")
    assert lms(program) == before


def test_the_base_may_be_any_lm_and_come_from_anywhere():
    program = spri.SPRI(make_task())
    with refused("critic", "dummy"):
        program.set_lms(base=dspy.utils.DummyLM([]), critic="offline")
    with refused("critic"), dspy.context(lm=spri.load_lm(REAL)):
        program.set_lms(critic="offline")


def test_what_is_all_offline_or_all_real_is_set():
    program = spri.SPRI(make_task()).set_lms(base="offline", critic="offline?seed=1")
    program.set_lms(base=REAL)
    assert {lm.spec.prefix for lm in lms(program)} == {"hosted_vllm"}
    program.set_lms(base="offline", critic=REAL)
    assert {lm.spec.prefix for lm in lms(program)} == {"offline", "hosted_vllm"}


def test_run_bulk_refuses_it_before_anything_is_written(crooked, tmp_path):
    with refused("critic"):
        spri.run_bulk(crooked, ROWS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


async def test_arun_bulk_refuses_it(crooked, tmp_path):
    with spri.RunDir.create(tmp_path / "run", {}) as run:
        with refused("critic"):
            await spri.arun_bulk(crooked, ROWS, run)
        assert not list(run.records())


def test_tune_refuses_an_offline_critic(crooked, tmp_path):
    with refused("critic"):
        spri.tune(crooked, trainset=ROWS, metric=len, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def offline_judges():
    bare = dspy.Predict("instruction, answer -> score: int")
    bare.lm = spri.load_lm("offline")
    panel = Panel([spri.load_judge("generic").set_lms(REAL), spri.load_judge("generic").set_lms("offline")])
    return {"judge": spri.load_judge("generic").set_lms("offline"), "panel": panel, "module": bare}


@pytest.mark.parametrize("kind", ["judge", "panel", "module"])
def test_tune_refuses_an_offline_judge_of_any_kind(tmp_path, kind):
    program = spri.SPRI(make_task()).set_lms(base=REAL)
    metric = spri.Metric.of_example(lambda example, said: 1.0, judge=offline_judges()[kind])
    with refused("judge"):
        spri.tune(program, trainset=ROWS, metric=metric, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_run_bulk_is_judged_offline_only_if_it_was_made_offline(tmp_path):
    for name, base in (("real", REAL), ("offline", "offline")):
        spri.run_bulk(spri.SPRI(make_task()).set_lms(base=base), [], tmp_path / name)
        with spri.RunDir.create(tmp_path / name, spri.RunDir.read(tmp_path / name).manifest) as run:
            run.append(Record("a", {"question": "why?"}, {"response": "so"}))
    assert judge.plan(judge.JudgeRequest(run=tmp_path / "offline")).total == 1
    with pytest.raises(spri.UsageError, match="the judge would be the offline LM") as caught:
        judge.plan(judge.JudgeRequest(run=tmp_path / "real"))
    assert "\n" not in str(caught.value)
