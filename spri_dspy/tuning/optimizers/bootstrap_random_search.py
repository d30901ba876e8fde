"""DSPy's BootstrapFewShotWithRandomSearch: several sets of good runs as demos."""

from __future__ import annotations

from typing import Any

from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import NEVER, CompileInputs, Count, Size, dspy_search


def search(
    context: Context,
    *,
    max_bootstrapped_demos: Size = 2,
    max_labeled_demos: Size = 0,
    num_candidate_programs: Size = 4,
    rounds: Count = 1,
    finalists: Count = 4,
) -> list[Any]:
    """Bootstrap several sets of demos in place of the start's, and score each.

    Args:
        context: the search.
        max_bootstrapped_demos: most runs to show in a set.
        max_labeled_demos: training rows to show beside them.
        num_candidate_programs: random sets, beside three that are always tried.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """
    from dspy.teleprompt import BootstrapFewShotWithRandomSearch

    def optimize(inputs: CompileInputs) -> Any:
        optimizer = BootstrapFewShotWithRandomSearch(
            metric=inputs.metric,
            max_bootstrapped_demos=max_bootstrapped_demos,
            max_labeled_demos=max_labeled_demos,
            num_candidate_programs=num_candidate_programs,
            num_threads=inputs.threads,
            max_errors=NEVER,
        )
        return optimizer.compile(
            inputs.student, teacher=inputs.teacher(), trainset=inputs.train, valset=inputs.search
        )

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def program_runs(
    sizes: dict[str, int], *, num_candidate_programs: int, rounds: int, finalists: int, **_: Any
) -> int:
    """Runs of a program, at most."""
    sets = (num_candidate_programs + 3) * (sizes["train"] + sizes["search"])
    return rounds * sets + (rounds * (finalists + 1) + 1) * sizes["search"]
