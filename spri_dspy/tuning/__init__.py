"""Tuning: searching for the seeds and wordings that raise a set-level metric, within a stated budget.

    tuned = spri.tune(program, trainset=examples, metric="pearson", optimizer="seed_search", budget=Budget(5000))
    tuned.report.decision.reason        # on rows that the search never saw; "no improvement" is a normal answer
    tuned.save("tuned.json")            # prompts and demos; or spri run --program

`seed_search` is our own optimiser; the others are DSPy's, behind a stand-in for the metric (`dspy_optimizers`). All of
them split, decide and report alike. A whole search as a file is a recipe (`recipe`, `spri tune`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from spri_dspy.lms.budget import Budget
    from spri_dspy.metrics import Metric

OPTIMIZERS = (
    "bootstrap_few_shot",
    "bootstrap_random_search",
    "copro",
    "gepa",
    "labeled_few_shot",
    "mipro_v2",
    "seed_search",
    "simba",
)
"""Every optimiser by name."""


def tune(
    program: Any,
    *,
    trainset: Sequence[Any],
    valset: Sequence[Any] | None = None,
    testset: Sequence[Any] | None = None,
    metric: Metric | str,
    optimizer: str = "seed_search",
    stages: Sequence[str] | None = None,
    budget: Budget | None = None,
    run_dir: str | Path | None = None,
    rng_seed: int = 0,
    **options: Any,
) -> Any:
    """Tune a program against a metric of a whole set. The program is not changed.

    Args:
        program: a SPRI program or another, its LMs set; only these, the metric's and those named here are called.
        trainset: spri.Example or dspy.Example; gives the splits that are not given.
        valset: examples to search and to decide on.
        testset: examples to report on, once; an empty list does without.
        metric: a Metric, or the name of one that needs no judge ("pearson").
        optimizer: one of OPTIMIZERS.
        stages: names of the predictors that are tuned; None for the optimiser's usual ones (seed_search:
            principles.generate, all others: every stage).
        budget: what all calls may spend; when it is spent, the best of what is known is decided on.
        run_dir: where everything is kept; the same again goes on where it stopped.
        rng_seed: decides splits and searches.
        **options: the optimiser's own; see SeedSearch and DspySearch.

    Returns:
        A new program with `report` (a SearchReport), `candidate_programs`, `trial_logs` and `score`. Without a
        significant improvement on rows that the search never saw it is a copy of the start.

    Raises:
        UnknownNameError: no such optimiser, stage or option.
        UsageError: an option's value is wrong, or the examples are too few.
        LeakError: something stands on two sides of a split, or a seed in validation or test.
        PrerequisiteError: a package is missing, or every example fails.
    """
    search = make_search(
        optimizer, metric, stages=stages, budget=budget, run_dir=run_dir, rng_seed=rng_seed, **options
    )
    return search.compile(program, trainset=trainset, valset=valset, testset=testset)


def make_search(
    optimizer: str,
    metric: Metric | str,
    *,
    stages: Sequence[str] | None = None,
    budget: Budget | None = None,
    run_dir: str | Path | None = None,
    rng_seed: int = 0,
    **options: Any,
) -> Any:
    """The teleprompter of a name, its options checked; `tune` compiles with it.

    Raises:
        UnknownNameError: no such optimiser, or it has no such option.
        UsageError: an option's value is wrong.
    """
    if optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
    common = {"stages": stages, "budget": budget, "run_dir": run_dir, "rng_seed": rng_seed}
    if optimizer == "seed_search":
        from spri_dspy.tuning.seed_search import SeedSearch

        given: dict[str, Any] = {name: value for name, value in common.items() if value is not None}
        return SeedSearch(metric, **given, **seed_search_options(options))
    from spri_dspy.tuning.dspy_search import DspySearch

    return DspySearch(optimizer, metric, **common, **options)


def seed_search_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of SeedSearch as it takes them; `racing` and `pool` may be tables of their settings.

    Raises:
        UnknownNameError: it has no such option, or the table no such setting.
        UsageError: a value is wrong.
    """
    from spri_dspy.tuning.seed_search import Pool, Racing, SeedSearch

    taken = ("self", "metric", "stages", "budget", "run_dir", "rng_seed")
    known = [name for name in inspect.signature(SeedSearch.__init__).parameters if name not in taken]
    made = dict(options)
    for name in made:
        if name not in known:
            raise UnknownNameError("option of seed_search", name, known)
    kinds: dict[str, Any] = {"racing": Racing, "pool": Pool}
    for name, kind in kinds.items():
        table = made.get(name)
        if isinstance(table, Mapping):
            settings = inspect.signature(kind).parameters
            for setting in table:
                if setting not in settings:
                    raise UnknownNameError(f"setting of {name}", setting, settings)
            try:
                made[name] = kind(**table)
            except TypeError as error:
                raise UsageError(f"a setting of {name} is of the wrong kind: {error}") from None
    return made
