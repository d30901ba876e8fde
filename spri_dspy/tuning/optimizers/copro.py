"""DSPy's COPRO: instructions rewritten stage by stage."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import CompileInputs, Count, dspy_search


def search(
    context: Context,
    *,
    breadth: Annotated[int, Field(ge=2)] = 3,
    depth: Count = 2,
    init_temperature: float = 1.0,
    rounds: Count = 1,
    finalists: Count = 4,
) -> list[Any]:
    """Rewrite the instructions of each stage in turn, from what earlier ones scored on the training rows.

    Args:
        context: the search.
        breadth: instructions a stage and rewriting, at least 2.
        depth: rewritings of each stage.
        init_temperature: at which instructions are written.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """
    from dspy.teleprompt import COPRO

    def optimize(inputs: CompileInputs) -> Any:
        optimizer = COPRO(
            prompt_model=inputs.lm,
            metric=inputs.metric,
            breadth=breadth,
            depth=depth,
            init_temperature=init_temperature,
        )
        settings = {"num_threads": inputs.threads, "display_progress": False}
        return optimizer.compile(inputs.student, trainset=inputs.train, eval_kwargs=settings)

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def program_runs(
    sizes: dict[str, int], *, breadth: int, depth: int, rounds: int, finalists: int, **_: Any
) -> int:
    """Runs of a program, at most."""
    written = depth * (depth + 1) // 2 * breadth * sizes["stages"] * sizes["train"]
    return rounds * written + (rounds * (finalists + 1) + 1) * sizes["search"]
