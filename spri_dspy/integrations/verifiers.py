"""Rewards for verifiers (0.4 and newer, `verifiers.v1`), from rubrics.

    # rewards.py
    from spri_dspy.integrations.verifiers import rubric_reward
    quality = rubric_reward("rubrics.jsonl", judge="openai/gpt-4o-mini")

    class MyTask(vf.Task[vf.TaskData, vf.State]):
        @vf.reward
        async def quality(self, task, trace) -> float:
            return await quality(task, trace)

or plugged into any task by its configuration: `rewards = {"quality": {"fn": "rewards.py:quality"}}`. A reply without a
score raises CallError: verifiers then records no reward (None) and the error on the trace, never a 0. verifiers
itself is not imported here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from spri_dspy.errors import CallError
from spri_dspy.integrations.rubric_scoring import RubricScorer


def rubric_reward(
    rubrics: str | Path | Mapping[str, str] | None = None,
    *,
    judge: Any,
    instruction: str | None = None,
    name: str = "rubric",
    **settings: Any,
) -> Callable[[Any, Any], Awaitable[float]]:
    """A reward of a task's last reply, by the rubric of its prompt: 0.0 for the scale's lowest score, 1.0 the highest.

    Rollouts that are scored at the same time share one limit on calls, and those of one prompt share its rubric.

    Args:
        rubrics: as `RubricScorer` takes them.
        judge: LM string or dspy.LM.
        instruction: the field of the task's data that holds the instruction; None for its prompt.
        name: the reward's name.
        **settings: of `RubricScorer`: base, critic, concurrency, samples, logprobs, swap.

    Raises:
        UsageError, PrerequisiteError: as `RubricScorer` says.
    """
    scorer = RubricScorer(rubrics, judge=judge, **settings)

    async def reward(task: Any, trace: Any) -> float:
        asked = task.prompt_text if instruction is None else str(getattr(task, instruction))
        found = await scorer.ascore(asked, trace.last_reply)
        if found.share is None:
            raise CallError(f"no score: {found.explanation}")
        return found.share

    reward.__name__ = name
    return reward
