"""DSPy's MIPROv2: instructions and sets of demos searched together."""

from __future__ import annotations

from typing import Any

from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import NEVER, CompileInputs, Count, Size, dspy_search
from spri_dspy.tuning.samplers import find_optuna


def search(
    context: Context,
    *,
    num_candidates: Count = 4,
    num_trials: Count = 8,
    max_bootstrapped_demos: Size = 2,
    max_labeled_demos: Size = 0,
    minibatch: bool = False,
    minibatch_size: Count = 35,
    minibatch_full_eval_steps: Count = 5,
    init_temperature: float = 1.0,
    program_aware_proposer: bool = False,
    data_aware_proposer: bool = True,
    tip_aware_proposer: bool = True,
    fewshot_aware_proposer: bool = True,
    view_data_batch_size: Count = 10,
    rounds: Count = 1,
    finalists: Count = 4,
) -> list[Any]:
    """Search instructions and sets of demos together. The start's own demos are one of the sets.

    Args:
        context: the search.
        num_candidates: instructions and sets of demos a stage.
        num_trials: combinations to score.
        max_bootstrapped_demos: most runs to show in a set; with max_labeled_demos 0 too, demos stay the start's.
        max_labeled_demos: training rows to show beside them.
        minibatch: score on a part of the rows first; the part must not be larger than the rows.
        minibatch_size: of that part.
        minibatch_full_eval_steps: trials between two scorings on all rows.
        init_temperature: at which instructions are written.
        program_aware_proposer: show the writer the program's source code; it is long.
        data_aware_proposer: show it a summary of the training rows.
        tip_aware_proposer: show it a tip on style.
        fewshot_aware_proposer: show it demos.
        view_data_batch_size: rows that are summarised at a time.
        rounds: see `dspy_search`.
        finalists: see `dspy_search`.
    """

    def optimize(inputs: CompileInputs) -> Any:
        optimizer = _start_first()(
            metric=inputs.metric,
            prompt_model=inputs.lm,
            task_model=inputs.student.get_lm(),
            auto=None,
            num_candidates=num_candidates,
            max_bootstrapped_demos=max_bootstrapped_demos,
            max_labeled_demos=max_labeled_demos,
            init_temperature=init_temperature,
            num_threads=inputs.threads,
            max_errors=NEVER,
            seed=inputs.seed,
        )
        return optimizer.compile(
            inputs.student,
            teacher=inputs.teacher(),
            trainset=inputs.train,
            valset=inputs.search,
            num_trials=num_trials,
            minibatch=minibatch,
            minibatch_size=minibatch_size,
            minibatch_full_eval_steps=minibatch_full_eval_steps,
            program_aware_proposer=program_aware_proposer,
            data_aware_proposer=data_aware_proposer,
            tip_aware_proposer=tip_aware_proposer,
            fewshot_aware_proposer=fewshot_aware_proposer,
            view_data_batch_size=view_data_batch_size,
        )

    return dspy_search(context, optimize, rounds=rounds, finalists=finalists)


def _start_first() -> Any:
    from dspy.teleprompt import MIPROv2

    class StartFirst(MIPROv2):
        """MIPROv2 whose first set of demos is the start's: Optuna is told that the first set scored as the start."""

        def _bootstrap_fewshot_examples(self, program: Any, *args: Any, **kwargs: Any) -> Any:
            sets: Any = super()._bootstrap_fewshot_examples(program, *args, **kwargs)
            for number, predictor in enumerate(program.predictors()):
                sets[number][0] = list(predictor.demos)
            return sets

    return StartFirst


def check(*_: Any, **__: Any) -> None:
    """Look for Optuna: DSPy would say that it is missing only after having paid for the demos."""
    find_optuna("mipro_v2")


def program_runs(
    sizes: dict[str, int], *, num_candidates: int, num_trials: int, rounds: int, finalists: int, **_: Any
) -> int:
    """Runs of a program, at most."""
    search = num_candidates * sizes["train"] + (num_trials + 1) * sizes["search"]
    return rounds * search + (rounds * (finalists + 1) + 1) * sizes["search"]
