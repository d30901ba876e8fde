"""DSPy's LabeledFewShot: training rows shown as they are."""

from __future__ import annotations

from typing import Any

import dspy

from spri_dspy.errors import UsageError
from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import CompileInputs, Count, dspy_search
from spri_dspy.tuning.student import after_start


def search(
    context: Context, *, k: Count = 16, keep_demos: bool = True, rounds: Count = 1, finalists: Count = 4
) -> list[Any]:
    """Show training rows that come with what a stage writes (expert principles, references) as they are.

    Args:
        context: the search.
        k: rows, of all groups together.
        keep_demos: the start's own demos stay in front of the new ones.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """
    from dspy.teleprompt import LabeledFewShot

    def optimize(inputs: CompileInputs) -> Any:
        made = LabeledFewShot(k=k).compile(inputs.student, trainset=_usable(inputs))
        return after_start(inputs.student, made) if keep_demos else made

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def _usable(inputs: CompileInputs) -> list[dspy.Example]:
    """Training rows that some chosen stage can be shown as they are.

    Raises:
        UsageError: there are none; DSPy would take all demos away and show nothing.
    """
    stages = [list(predictor.signature.output_fields) for predictor in inputs.student.chosen.values()]
    usable = [
        row for row in inputs.train if any(all(row.get(n) is not None for n in names) for names in stages)
    ]
    if not usable:
        outputs = ", ".join(sorted({name for names in stages for name in names}))
        raise UsageError(
            f"labeled_few_shot needs training rows that hold what a stage writes ({outputs}), and these have none: "
            "choose other stages, or bootstrap_few_shot, which makes its own"
        )
    return usable


def program_runs(sizes: dict[str, int], *, rounds: int, finalists: int, **_: Any) -> int:
    """Runs of a program, at most."""
    return (rounds * (finalists + 1) + 1) * sizes["search"]
