"""Tuning: searching for the seeds and wordings that raise a metric of a whole set, within a stated budget.

    tuned = spri.tune(program, trainset=examples, metric="pearson", optimizer="seed_search", budget=Budget(5000))
    tuned.report.decision.reason        # on examples that the search never saw; "no improvement" is a normal answer
    tuned.save("tuned.json")            # prompts and demos; or spri run --program

Whatever searches, it is one experiment (`experiment`); what searches is an optimizer (`optimizers`): ours by the metric
itself, DSPy's with a surrogate of it, or one of your own. A whole experiment as a file is a recipe (`spri tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spri_dspy.lms.budget import Budget
    from spri_dspy.lms.scope import Retry
    from spri_dspy.metrics import Metric
    from spri_dspy.records import Record


def tune(
    program: Any,
    *,
    trainset: Sequence[Any],
    valset: Sequence[Any] | None = None,
    testset: Sequence[Any] | None = None,
    metric: Metric | str | Callable[..., Any],
    optimizer: str | Callable[..., Any] = "seed_search",
    options: Mapping[str, Any] | None = None,
    stages: Sequence[str] | None = None,
    prompt_lm: Any = None,
    budget: Budget | None = None,
    run_dir: str | Path | None = None,
    rng_seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    holdout: float = 0.5,
    level: float = 0.05,
    rollouts: int = 1,
    concurrency: int = 16,
    text_input: str | None = None,
    select_on: Sequence[str] = (),
    allow_leak: bool = False,
    retry: Retry | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> Any:
    """Tune a program against a metric of a whole set. The program is not changed.

    Args:
        program: a SPRI program or another, its LMs set; only these, the metric's and `prompt_lm` are called.
        trainset: rows of any kind that `run_bulk` takes; gives the splits that are not given.
        valset: rows to search and to decide on.
        testset: rows to report on, once; an empty list does without.
        metric: a Metric, the name of one that needs no judge ("pearson"), or any function: of one example and its
            prediction as DSPy's metrics are, or of all of them.
        optimizer: seed_search, gepa, mipro_v2, simba, copro, bootstrap_few_shot, bootstrap_random_search,
            labeled_few_shot, path/to/file.py:NAME, or a function `search(context)` or class of your own.
        options: of the optimizer, by name: its keyword parameters.
        stages: names of the predictors that are tuned; None for the optimizer's usual ones (seed_search:
            principles.generate, the others: all).
        prompt_lm: the LM that writes instructions and new seeds; by default the program's base.
        budget: what all calls may spend; when it is spent, the best of what is known is decided on.
        run_dir: where everything is kept; the same again goes on where it stopped. By default runs/OPTIMIZER-HASH.
        rng_seed: decides splits and searches.
        fractions: of train, validation and test, where all rows come as `trainset`; by default 0.2, 0.5 and 0.3.
        holdout: share of validation that is kept from the search, for the decision, in (0, 1).
        level: two-sided p that the decision must not exceed, in (0, 1].
        rollouts: samples of the judge (without one: of the program) for every example, at least 1.
        concurrency: LM calls in flight at most, per LM.
        text_input: the input by which the leak guard tells examples apart; by default the one that varies most.
        select_on: evaluation sets, such as TruthfulQA, that valset may be of; the report names them. trainset is never
            of one.
        allow_leak: go on although splits or seeds match; the report is marked.
        retry: how transient failures of single calls are tried again.
        on_record: called with each new record, of programs and of judges, as by `run_bulk`.
        on_phase: called with what is being done and how it stands, in a few words.

    Returns:
        A new program with `report` (a TuningReport), `candidate_programs`, `trial_logs` and `score`. Without a
        significant improvement on examples that the search never saw it is a copy of the start.

    Raises:
        UnknownNameError: no such optimizer, stage or option.
        UsageError: an option's value is wrong, the examples are too few or cannot be scored, or an LM is offline where
            others are paid.
        LeakError: something stands on two sides of a split, or a seed in validation or test; or trainset is of an
            evaluation set, or valset of one that is not named.
        PrerequisiteError: a package is missing, or every example fails.
    """
    from spri_dspy.tuning.experiment import Experiment

    experiment = Experiment(
        metric,
        optimizer=optimizer,
        options=options,
        stages=stages,
        prompt_lm=prompt_lm,
        budget=budget,
        run_dir=run_dir,
        rng_seed=rng_seed,
        fractions=fractions,
        holdout=holdout,
        level=level,
        rollouts=rollouts,
        concurrency=concurrency,
        text_input=text_input,
        select_on=select_on,
        allow_leak=allow_leak,
        retry=retry,
        on_record=on_record,
        on_phase=on_phase,
    )
    return experiment.compile(program, trainset=trainset, valset=valset, testset=testset)
