"""verifiers scores traces of a task with our reward, as its own method and plugged by configuration."""

import asyncio

import pytest

pytest.importorskip("verifiers", reason="needs spri-dspy[verifiers]; make test-integrations has it")

import verifiers.v1 as vf

from spri_dspy.integrations.verifiers import rubric_reward
from spri_dspy.lms.replay import replay_lm
from tests.integrations.test_rubric_scoring import RUBRIC, Recording


class Birds(vf.Task[vf.TaskData, vf.State]):
    """Name birds; scored by what `judged` is at the time."""

    judged = None

    @vf.reward(weight=2.0)
    async def quality(self, task, trace) -> float:
        return await Birds.judged(task, trace)


def trace_of(task, reply):
    data = vf.AgentConfig.model_construct()
    return vf.Trace.model_construct(
        task={"type": type(task).__name__, "data": task.data},
        agent={"config": data},
        root_reply=reply,
        rewards={},
        metrics={},
    )


def scored(task, *replies):
    traces = [trace_of(task, reply) for reply in replies]

    async def score_all():
        return await asyncio.gather(*(task.score(trace) for trace in traces), return_exceptions=True)

    return traces, asyncio.run(score_all())


def test_replies_are_rewarded_by_the_rubric_of_their_prompt():
    said = Recording(score=4)
    Birds.judged = rubric_reward(judge=replay_lm(said))
    traces, errors = scored(Birds(vf.TaskData(prompt="Name a quiet bird.")), "The bittern.", "The jay.")
    assert errors == [None, None]
    assert [(t.rewards["quality"].value) for t in traces] == [1.5, 1.5]  # 0.75, weighted
    assert said.stages.count("generate_principles") == 1


def test_a_missing_score_is_no_reward_and_an_error():
    Birds.judged = rubric_reward(RUBRIC, judge=replay_lm(Recording()))
    [trace], [error] = scored(Birds(vf.TaskData(prompt="Name a bird.")), " ")
    assert trace.rewards == {"quality": None}
    assert isinstance(error, vf.TaskError) and "no score: the answer is empty" in str(error)


def test_a_reward_is_plugged_by_configuration(tmp_path):
    (tmp_path / "rewards.py").write_text(
        "from spri_dspy.integrations.verifiers import rubric_reward\n"
        f"birds = rubric_reward({RUBRIC!r}, judge='offline')\n"
    )
    config = vf.TaskConfig(rewards={"rubric": {"fn": f"{tmp_path / 'rewards.py'}:birds"}})
    task = vf.Task(vf.TaskData(prompt="Name a bird."), config)
    [trace], errors = scored(task, "The bittern.")
    assert errors == [None]
    assert 0 <= trace.rewards["rubric"].value <= 1
