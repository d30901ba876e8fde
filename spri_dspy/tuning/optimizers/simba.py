"""DSPy's SIMBA: good and bad runs on small batches contrasted."""

from __future__ import annotations

from typing import Any

from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import CompileInputs, Count, Size, dspy_search


def search(
    context: Context,
    *,
    bsize: Count = 8,
    num_candidates: Count = 3,
    max_steps: Count = 4,
    max_demos: Size = 4,
    temperature_for_sampling: float = 0.2,
    temperature_for_candidates: float = 0.2,
    rounds: Count = 1,
    finalists: Count = 4,
) -> list[Any]:
    """Contrast good and bad runs on small batches of training rows; add a demo or a rule.

    Args:
        context: the search.
        bsize: rows of a batch; no more than there are training rows.
        num_candidates: programs a step.
        max_steps: batches.
        max_demos: a stage's demos above this number are thinned out.
        temperature_for_sampling: how freely the programs of a batch are chosen.
        temperature_for_candidates: how freely the program to change is chosen.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """
    from dspy.teleprompt import SIMBA

    def optimize(inputs: CompileInputs) -> Any:
        optimizer = SIMBA(
            metric=inputs.metric,
            bsize=min(bsize, len(inputs.train)),
            num_candidates=num_candidates,
            max_steps=max_steps,
            max_demos=max_demos,
            prompt_model=inputs.lm,
            num_threads=inputs.threads,
            temperature_for_sampling=temperature_for_sampling,
            temperature_for_candidates=temperature_for_candidates,
        )
        return optimizer.compile(inputs.student, trainset=inputs.train, seed=inputs.seed)

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def program_runs(
    sizes: dict[str, int],
    *,
    bsize: int,
    num_candidates: int,
    max_steps: int,
    rounds: int,
    finalists: int,
    **_: Any,
) -> int:
    """Runs of a program, at most."""
    steps = max_steps * bsize * (2 * num_candidates + 1)
    return rounds * steps + (rounds * (finalists + 1) + 1) * sizes["search"]
