"""DSPy's optimisers by name: what each is given, which options it takes, and how it is run here.

Each runner takes a Job and its options by keyword; the keywords are the menu, so that an option that an optimiser does
not have is refused. Defaults are small: they cost a few hundred runs of a program, not thousands. Options by which DSPy
would write files, talk to trackers or take other LMs than those given are left out.

It knows DSPy's optimisers. What they maximise is in `surrogate`, what they are shown in `_student`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy

from spri_dspy.errors import PrerequisiteError, UnknownNameError, UsageError
from spri_dspy.tuning.student import Student, tidy
from spri_dspy.tuning.surrogate import NEUTRAL


@dataclass(frozen=True)
class Job:
    """What an optimiser works with.

    Attributes:
        student: the program as it is shown to the optimiser.
        train: rows to learn and to take demos from.
        search: rows to score candidates on; none of them ever becomes a demo.
        metric: the stand-in, see `dspy_optimizers.StandIn`.
        lm: who writes new instructions.
        seed: of everything random that DSPy lets be seeded.
        threads: program runs at a time.
    """

    student: Student
    train: Sequence[dspy.Example]
    search: Sequence[dspy.Example]
    metric: Callable[..., Any]
    lm: Any
    seed: int
    threads: int


def labeled_few_shot(job: Job, *, k: int = 16, keep_demos: bool = True) -> Student:
    """Show training rows that come with what a stage writes (expert principles, references) as they are.

    Args:
        job: what to work with.
        k: rows, of all groups together.
        keep_demos: the start's own demos stay in front of the new ones.
    """
    from dspy.teleprompt import LabeledFewShot

    made = LabeledFewShot(k=k).compile(job.student, trainset=_labeled(job))
    return _with_start(job, made) if keep_demos else made


def bootstrap_few_shot(
    job: Job, *, max_bootstrapped_demos: int = 4, max_labeled_demos: int = 0, keep_demos: bool = True
) -> Student:
    """Show the program's own good runs on training rows.

    Args:
        job: what to work with.
        max_bootstrapped_demos: runs to show; each becomes a demo of every chosen stage.
        max_labeled_demos: training rows to show as they are, beside them.
        keep_demos: see labeled_few_shot.
    """
    from dspy.teleprompt import BootstrapFewShot

    optimizer = BootstrapFewShot(
        metric=job.metric,
        max_bootstrapped_demos=max_bootstrapped_demos,
        max_labeled_demos=max_labeled_demos,
        max_errors=_NEVER,
    )
    made = optimizer.compile(job.student, teacher=_teacher(job), trainset=list(job.train))
    return _with_start(job, made) if keep_demos else made


def bootstrap_random_search(
    job: Job,
    *,
    max_bootstrapped_demos: int = 2,
    max_labeled_demos: int = 0,
    num_candidate_programs: int = 4,
) -> Student:
    """Bootstrap several sets of demos in place of the start's, and score each.

    Args:
        job: what to work with.
        max_bootstrapped_demos: most runs to show in a set.
        max_labeled_demos: training rows to show beside them.
        num_candidate_programs: random sets, beside three that are always tried.
    """
    from dspy.teleprompt import BootstrapFewShotWithRandomSearch

    optimizer = BootstrapFewShotWithRandomSearch(
        metric=job.metric,
        max_bootstrapped_demos=max_bootstrapped_demos,
        max_labeled_demos=max_labeled_demos,
        num_candidate_programs=num_candidate_programs,
        num_threads=job.threads,
        max_errors=_NEVER,
    )
    return optimizer.compile(
        job.student, teacher=_teacher(job), trainset=list(job.train), valset=list(job.search)
    )


def mipro_v2(
    job: Job,
    *,
    num_candidates: int = 4,
    num_trials: int = 8,
    max_bootstrapped_demos: int = 2,
    max_labeled_demos: int = 0,
    minibatch: bool = False,
    minibatch_size: int = 35,
    minibatch_full_eval_steps: int = 5,
    init_temperature: float = 1.0,
    program_aware_proposer: bool = False,
    data_aware_proposer: bool = True,
    tip_aware_proposer: bool = True,
    fewshot_aware_proposer: bool = True,
    view_data_batch_size: int = 10,
) -> Student:
    """Search instructions and sets of demos together. The start's own demos are one of the sets.

    Args:
        job: what to work with.
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
    """
    try:
        import optuna  # noqa: F401 - DSPy would say so only after having paid for the demos
    except ImportError:
        raise PrerequisiteError("mipro_v2 needs Optuna: pip install 'spri-dspy[optimize]'") from None
    optimizer = _mipro_class()(
        metric=job.metric,
        prompt_model=job.lm,
        task_model=job.student.get_lm(),
        auto=None,
        num_candidates=num_candidates,
        max_bootstrapped_demos=max_bootstrapped_demos,
        max_labeled_demos=max_labeled_demos,
        init_temperature=init_temperature,
        num_threads=job.threads,
        max_errors=_NEVER,
        seed=job.seed,
    )
    return optimizer.compile(
        job.student,
        teacher=_teacher(job),
        trainset=list(job.train),
        valset=list(job.search),
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


def gepa(
    job: Job,
    *,
    max_metric_calls: int | None = None,
    reflection_minibatch_size: int = 3,
    candidate_selection_strategy: Literal["pareto", "current_best"] = "pareto",
    component_selector: str = "round_robin",
    skip_perfect_score: bool = True,
    use_merge: bool = True,
    max_merge_invocations: int = 5,
) -> Student:
    """Rewrite instructions from written feedback on training rows, and keep what helps.

    Args:
        job: what to work with.
        max_metric_calls: examples to score; None for scoring all rows of the search six times, and 40 more.
        reflection_minibatch_size: training rows that one rewriting is shown.
        candidate_selection_strategy: which program is rewritten next.
        component_selector: round_robin or all: which stages a rewriting changes.
        skip_perfect_score: rewrite nothing for rows that cannot be better.
        use_merge: put two programs' stages together.
        max_merge_invocations: how often.
    """
    from dspy.teleprompt import GEPA

    optimizer = GEPA(
        metric=job.metric,
        reflection_lm=job.lm,
        max_metric_calls=6 * len(job.search) + 40 if max_metric_calls is None else max_metric_calls,
        reflection_minibatch_size=reflection_minibatch_size,
        candidate_selection_strategy=candidate_selection_strategy,
        component_selector=component_selector,
        skip_perfect_score=skip_perfect_score,
        use_merge=use_merge,
        max_merge_invocations=max_merge_invocations,
        num_threads=job.threads,
        failure_score=NEUTRAL,
        warn_on_score_mismatch=False,
        seed=job.seed,
    )
    made: Any = optimizer.compile(job.student, trainset=list(job.train), valset=list(job.search))
    return made


def simba(
    job: Job,
    *,
    bsize: int = 8,
    num_candidates: int = 3,
    max_steps: int = 4,
    max_demos: int = 4,
    temperature_for_sampling: float = 0.2,
    temperature_for_candidates: float = 0.2,
) -> Student:
    """Contrast good and bad runs on small batches of training rows; add a demo or a rule.

    Args:
        job: what to work with.
        bsize: rows of a batch; no more than there are training rows.
        num_candidates: programs a step.
        max_steps: batches.
        max_demos: a stage's demos above this number are thinned out.
        temperature_for_sampling: how freely the programs of a batch are chosen.
        temperature_for_candidates: how freely the program to change is chosen.
    """
    from dspy.teleprompt import SIMBA

    optimizer = SIMBA(
        metric=job.metric,
        bsize=min(bsize, len(job.train)),
        num_candidates=num_candidates,
        max_steps=max_steps,
        max_demos=max_demos,
        prompt_model=job.lm,
        num_threads=job.threads,
        temperature_for_sampling=temperature_for_sampling,
        temperature_for_candidates=temperature_for_candidates,
    )
    made: Any = optimizer.compile(job.student, trainset=list(job.train), seed=job.seed)
    return made


def copro(job: Job, *, breadth: int = 3, depth: int = 2, init_temperature: float = 1.0) -> Student:
    """Rewrite the instructions of each stage in turn, from what earlier ones scored on the training rows.

    Args:
        job: what to work with.
        breadth: instructions a stage and round, at least 2.
        depth: rounds.
        init_temperature: at which instructions are written.
    """
    from dspy.teleprompt import COPRO

    if breadth < 2:
        raise UsageError(f"breadth of copro must be at least 2, not {breadth}")
    optimizer = COPRO(
        prompt_model=job.lm,
        metric=job.metric,
        breadth=breadth,
        depth=depth,
        init_temperature=init_temperature,
    )
    settings = {"num_threads": job.threads, "display_progress": False}
    return optimizer.compile(job.student, trainset=list(job.train), eval_kwargs=settings)


RUNNERS: Mapping[str, Callable[..., Student]] = {
    "bootstrap_few_shot": bootstrap_few_shot,
    "bootstrap_random_search": bootstrap_random_search,
    "copro": copro,
    "gepa": gepa,
    "labeled_few_shot": labeled_few_shot,
    "mipro_v2": mipro_v2,
    "simba": simba,
}

_NEVER = (
    10**9
)  # errors after which DSPy gives up: failures are data here, and what is fatal ends the search itself


def options_of(name: str) -> dict[str, Any]:
    """An optimiser's own options and their defaults.

    Raises:
        UnknownNameError: there is no such optimiser.
    """
    if name not in RUNNERS:
        raise UnknownNameError("optimizer", name, {*RUNNERS, "seed_search"})
    found = inspect.signature(RUNNERS[name]).parameters.values()
    return {p.name: p.default for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _teacher(job: Job) -> Student:
    """The start, whose runs become demos. DSPy takes the demos of a teacher that is not compiled away first."""
    teacher = job.student.deepcopy()
    teacher._compiled = True
    return teacher


def _labeled(job: Job) -> list[dspy.Example]:
    """Training rows that some chosen stage can be shown as they are.

    Raises:
        UsageError: there are none; DSPy would take all demos away and show nothing.
    """
    stages = job.student.chosen.values()
    usable = [row for row in job.train if any(_is_shown(row, stage.signature) for stage in stages)]
    if not usable:
        outputs = {name for stage in stages for name in stage.signature.output_fields}
        raise UsageError(
            f"labeled_few_shot needs training rows that hold what a stage writes ({', '.join(sorted(outputs))}), and "
            "these have none: choose other stages, or bootstrap_few_shot, which makes its own"
        )
    return usable


def _is_shown(row: dspy.Example, signature: Any) -> bool:
    return all(row.get(name) is not None for name in signature.output_fields)


def _with_start(job: Job, made: Student) -> Student:
    """The demos that the start shows, then the new ones."""
    for name, predictor in made.chosen.items():
        predictor.demos = [*job.student.chosen[name].demos, *tidy(predictor)]
    return made


def _mipro_class() -> Any:
    from dspy.teleprompt import MIPROv2

    class StartFirst(MIPROv2):
        """MIPROv2 whose first set of demos is the start's: Optuna is told that the first set scored as the start."""

        def _bootstrap_fewshot_examples(self, program: Any, *args: Any, **kwargs: Any) -> Any:
            sets: Any = super()._bootstrap_fewshot_examples(program, *args, **kwargs)
            for number, predictor in enumerate(program.predictors()):
                sets[number][0] = list(predictor.demos)
            return sets

    return StartFirst
