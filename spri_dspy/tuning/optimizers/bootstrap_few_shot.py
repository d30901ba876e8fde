"""DSPy's BootstrapFewShot: the program's own good runs as demos."""

from __future__ import annotations

from typing import Any

from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import NEVER, CompileInputs, Count, Size, dspy_search
from spri_dspy.tuning.student import after_start


def search(
    context: Context,
    *,
    max_bootstrapped_demos: Size = 4,
    max_labeled_demos: Size = 0,
    keep_demos: bool = True,
    rounds: Count = 1,
    finalists: Count = 4,
) -> list[Any]:
    """Show the program's own good runs on training rows.

    Args:
        context: the search.
        max_bootstrapped_demos: runs to show; each becomes a demo of every chosen stage.
        max_labeled_demos: training rows to show as they are, beside them.
        keep_demos: the start's own demos stay in front of the new ones.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """
    from dspy.teleprompt import BootstrapFewShot

    def optimize(inputs: CompileInputs) -> Any:
        optimizer = BootstrapFewShot(
            metric=inputs.metric,
            max_bootstrapped_demos=max_bootstrapped_demos,
            max_labeled_demos=max_labeled_demos,
            max_errors=NEVER,
        )
        made = optimizer.compile(inputs.student, teacher=inputs.teacher(), trainset=inputs.train)
        return after_start(inputs.student, made) if keep_demos else made

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def program_runs(sizes: dict[str, int], *, rounds: int, finalists: int, **_: Any) -> int:
    """Runs of a program, at most."""
    return rounds * sizes["train"] + (rounds * (finalists + 1) + 1) * sizes["search"]
