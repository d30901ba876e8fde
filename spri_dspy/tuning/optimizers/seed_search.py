"""Seed search: few-shot seed principles, by the metric itself.

DSPy's own optimizers average one number an example; a correlation with people is no such average. This one

1. makes a pool of seeds: the start's and those given, labelled training examples, accepted answers to others, an LM's
   new ones (`seeds`);
2. searches sets of them (`samplers`), a race a round (`racing`): each candidate is paid for as long as it has a chance.

It finds nothing that is not made of its pool.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from spri_dspy.tasks import Example
from spri_dspy.tuning.context import Context
from spri_dspy.tuning.dspy_search import Count, Size
from spri_dspy.tuning.example_metric import as_rows
from spri_dspy.tuning.programs import stages_of
from spri_dspy.tuning.racing.objectives import objective_of, row_of
from spri_dspy.tuning.racing.rounds import Racing, search_sets
from spri_dspy.tuning.samplers import Candidate, Sampler, Space, make_sampler
from spri_dspy.tuning.seeds import (
    Pool,
    Seed,
    bootstrapped_seeds,
    labelled_seeds,
    proposed_seeds,
    start_seeds,
    unique,
    written_seeds,
)

STAGES = ("principles.generate",)
"""What is tuned where no stage is named."""


def search(
    context: Context,
    *,
    pool: Pool = Pool(),  # noqa: B008 - frozen
    max_seeds: Size = 3,
    sampler: str | Callable[[Space], Sampler] = "mixed",
    proposals: Count = 16,
    racing: Racing = Racing(),  # noqa: B008 - frozen
) -> list[Any]:
    """Search for the best sets of seeds: the winner of all races.

    Args:
        context: the search.
        pool: where seeds come from.
        max_seeds: most seeds that an example is shown in a stage (those of its group, and those of no group).
        sampler: random, greedy, optuna, mixed, or a callable that makes a Sampler for a Space.
        proposals: candidates to try beside the start and no seeds at all.
        racing: settings of the races.
    """
    stages = context.stages or STAGES
    seeds = context.report.pool = _pool_of_seeds(context, stages, pool)
    start = tuple(number for number, seed in enumerate(seeds) if seed.source == "start")
    groups = list(dict.fromkeys(e.group for e in context.search))
    space = Space([(seed.stage, seed.group) for seed in seeds], max_seeds, start, groups)
    programs: dict[Candidate, Any] = {start: context.start}

    def program(candidate: Candidate) -> Any:
        if candidate not in programs:
            chosen = [seeds[i] for i in candidate]
            demos = {name: [seed.demo for seed in chosen if seed.stage == name] for name in stages}
            programs[candidate] = context.program(demos)
        return programs[candidate]

    def score(asks: Sequence[tuple[Candidate, Sequence[int]]]) -> list[list[float | None]]:
        wanted = [(program(candidate), [context.search[i] for i in rows]) for candidate, rows in asks]
        return [[s.value for s in scores] for scores in context.evaluator.scores(wanted)]

    found = search_sets(
        space,
        [row_of(context.metric, e) for e in context.search],
        score,
        sampler=make_sampler(sampler, space),
        objective=objective_of(context.metric),
        proposals=proposals,
        most=int(min(_most(racing, proposals, len(context.search)), context.affordable("pool"))),
        racing=racing,
        seed=context.rng_seed,
        measure=context.metric.measure if context.metric.function else None,
        on_best=lambda value: context.evaluator.tell(best=value),
    )
    context.report.rounds += found.decisions
    context.report.stopped = found.stopped
    for trial in found.trials:
        estimate, by_group = found.estimates[trial.candidate], trial.by_group
        context.note(
            program(trial.candidate),
            trial.value,
            name=space.named(trial.candidate),
            low=estimate.low,
            high=estimate.high,
            n=trial.n,
            paid=trial.paid,
            seeds=list(trial.candidate),
            by_group={str(group): list(known) for group, known in by_group.items()},
        )
    return [program(found.winner)]


def check(
    start: Any, stages: Sequence[str] | None, *, pool: Pool, sampler: Any, max_seeds: int, **_: Any
) -> None:
    """Refuse an unknown stage, a sampler that there is not, and a written seed that no stage would be shown."""
    written_seeds(pool.written, stages_of(start, STAGES if stages is None else stages))
    if isinstance(sampler, str):
        make_sampler(sampler, Space([], max_seeds, ()))


def program_runs(sizes: dict[str, int], *, pool: Pool, proposals: int, racing: Racing, **_: Any) -> int:
    """Runs of a program, at most."""
    makes_seeds = pool.bootstrapped or pool.proposed
    made = min(sizes["train"], pool.examples * sizes["groups"]) if makes_seeds else 0
    return made + _most(racing, proposals, sizes["search"])


def _most(racing: Racing, proposals: int, n_rows: int) -> int:
    return int(racing.share * (proposals + 2) * n_rows)


def _pool_of_seeds(context: Context, stage_names: Sequence[str], pool: Pool) -> tuple[Seed, ...]:
    """Seeds of all sources, the start's first."""
    stages, metric = stages_of(context.start, stage_names), context.metric
    seeds = [*start_seeds(stages), *written_seeds(pool.written, stages)]
    if pool.labelled:
        rows = as_rows(context.train, [each.signature for each in stages.values()])
        seeds += labelled_seeds(rows, stages, pool.labelled, random.Random(f"{context.rng_seed}/labelled"))
    if pool.bootstrapped or pool.proposed:
        context.evaluator.tell("pool of seeds")
        teacher = context.teacher or context.start
        examples = _some(context.train, pool.examples, random.Random(f"{context.rng_seed}/pool"))
        by_id = {score.id: score for score in context.scores(teacher, examples)}
        records = context.evaluator.records(teacher, examples)
        scores = [by_id[record.id] for record in records]
        seeds += bootstrapped_seeds(records, metric.goodness(scores), stages, pool.bootstrapped)
        run, lm = context.evaluator.run, context.prompt_lm
        seeds += proposed_seeds(records, scores, stages, pool.proposed, metric=metric, run=run, lm=lm)
        context.evaluator.tell("search")
    return unique(seeds)


def _some(examples: Sequence[Example], most: int, rng: random.Random) -> list[Example]:
    """At most so many clusters of each group, in the order in which they were given."""
    clusters: dict[str | None, list[str]] = {}
    for e in examples:
        members = clusters.setdefault(e.group, [])
        if (name := e.cluster or e.id) not in members:
            members.append(name)
    kept = {group: set(rng.sample(names, min(most, len(names)))) for group, names in clusters.items()}
    return [e for e in examples if (e.cluster or e.id) in kept[e.group]]
