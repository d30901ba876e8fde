"""Reward functions for TRL (GRPO and its kin), from rubrics.

    from spri_dspy.integrations.trl import rubric_reward

    reward = rubric_reward(judge="openai/gpt-4o-mini")             # or rubric_reward("rubrics.jsonl", judge=...)
    trainer = GRPOTrainer(model=..., reward_funcs=reward, train_dataset=dataset, args=...)

The function is asynchronous, which TRL runs beside other reward functions, and judges a whole batch at the same time.
Completions of one prompt share one rubric. A completion without a score gets None, which TRL takes for "not
applicable": it is left out of the group's mean, and never a 0. TRL itself is not imported here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.integrations.rubric_scoring import RubricScorer

RewardFunction = Callable[..., Awaitable[list[float | None]]]


def rubric_reward(
    rubrics: str | Path | Mapping[str, str] | None = None,
    *,
    judge: Any,
    instruction: str | None = None,
    name: str = "rubric_reward",
    **settings: Any,
) -> RewardFunction:
    """A reward function that scores completions by a rubric for each prompt.

    It returns one reward a completion, in order: 0.0 for the lowest score of the scale, 1.0 for the highest, None
    without a score. Where TRL can log them, the judge's words go into the completions table as `NAME_feedback`, and
    the share of completions with a score is the metric `NAME_coverage`.

    Args:
        rubrics: None writes one for each prompt; a file of `spri export RUN --format rubrics`; or one for everything.
            See `RubricScorer`.
        judge: LM string or dspy.LM.
        instruction: the data set's column with the instruction; None for the text of the prompt (of a conversation,
            its user turns).
        name: what TRL logs the reward as.
        **settings: of `RubricScorer`: base, critic, concurrency, samples, logprobs, swap.

    Raises:
        UsageError, PrerequisiteError: as `RubricScorer` says.
    """
    scorer = RubricScorer(rubrics, judge=judge, **settings)

    async def reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        asked = [_instruction(prompt) for prompt in prompts]
        if instruction is not None:
            if instruction not in columns:
                raise UsageError(f"the data set has no column {instruction!r} for {name}")
            asked = [str(each) for each in columns[instruction]]
        pairs = list(zip(asked, map(_text, completions), strict=True))
        scorings = await scorer.ascore_all(pairs)
        if log_extra := columns.get("log_extra"):
            log_extra(f"{name}_feedback", [each.explanation for each in scorings])
        if log_metric := columns.get("log_metric"):
            log_metric(f"{name}_coverage", sum(each.value is not None for each in scorings) / len(scorings))
        return [each.share for each in scorings]

    reward.__name__ = name
    return reward


def _instruction(prompt: Any) -> str:
    """What a prompt asks for: its text, or the user's turns of a conversation."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(_content(turn) for turn in prompt if turn.get("role") == "user")


def _text(completion: Any) -> str:
    """A completion's text: as it is, or its assistant turns."""
    if isinstance(completion, str):
        return completion
    return "\n\n".join(_content(turn) for turn in completion if turn.get("role", "assistant") == "assistant")


def _content(turn: Mapping[str, Any]) -> str:
    """A turn's text; of content in parts, its texts."""
    said = turn.get("content") or ""
    return said if isinstance(said, str) else "".join(str(part.get("text", "")) for part in said)
