"""DSPy's GEPA: instructions rewritten from written feedback."""

from __future__ import annotations

from typing import Any, Literal

from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import CompileInputs, Count, Size, dspy_search
from spri_dspy.tuning.surrogate import NEUTRAL


def search(
    context: Context,
    *,
    max_metric_calls: Count | None = None,
    reflection_minibatch_size: Count = 3,
    candidate_selection_strategy: Literal["pareto", "current_best"] = "pareto",
    component_selector: Literal["round_robin", "all"] = "round_robin",
    skip_perfect_score: bool = True,
    use_merge: bool = True,
    max_merge_invocations: Size = 5,
    rounds: Count = 1,
    finalists: Count = 4,
) -> list[Any]:
    """Rewrite instructions from feedback on training rows, and keep what helps.

    Args:
        context: the search.
        max_metric_calls: examples to score; None for scoring all rows of the search six times, and 40 more.
        reflection_minibatch_size: training rows that one rewriting is shown.
        candidate_selection_strategy: which program is rewritten next.
        component_selector: which stages a rewriting changes.
        skip_perfect_score: rewrite nothing for rows that cannot be better.
        use_merge: put two programs' stages together.
        max_merge_invocations: how often.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """
    from dspy.teleprompt import GEPA

    def optimize(inputs: CompileInputs) -> Any:
        optimizer = GEPA(
            metric=inputs.metric,
            reflection_lm=inputs.lm,
            max_metric_calls=max_metric_calls or 6 * len(inputs.search) + 40,
            reflection_minibatch_size=reflection_minibatch_size,
            candidate_selection_strategy=candidate_selection_strategy,
            component_selector=component_selector,
            skip_perfect_score=skip_perfect_score,
            use_merge=use_merge,
            max_merge_invocations=max_merge_invocations,
            num_threads=inputs.threads,
            failure_score=NEUTRAL,
            warn_on_score_mismatch=False,
            seed=inputs.seed,
        )
        return optimizer.compile(inputs.student, trainset=inputs.train, valset=inputs.search)

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def program_runs(
    sizes: dict[str, int], *, max_metric_calls: int | None, rounds: int, finalists: int, **_: Any
) -> int:
    """Runs of a program, at most."""
    scored = max_metric_calls or 6 * sizes["search"] + 40
    return rounds * scored + (rounds * (finalists + 1) + 1) * sizes["search"]
