"""One compile of a seed search, step by step: see `seed_search` for what the steps are.

It brings together what the other files of this folder know by themselves, and keeps track of the budget.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import dspy

from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.client import Retry
from spri_dspy.metrics import Metric
from spri_dspy.records import Score
from spri_dspy.tasks import Example
from spri_dspy.tuning.decision import FEWEST_CLUSTERS, Decision, decide
from spri_dspy.tuning.evaluation import Evaluator, Spent
from spri_dspy.tuning.programs import copy_program
from spri_dspy.tuning.racing.objectives import objective_of, row_of
from spri_dspy.tuning.racing.rounds import Found, Racing, search
from spri_dspy.tuning.samplers import Candidate, Sampler, Space, make_sampler
from spri_dspy.tuning.search_report import SearchReport
from spri_dspy.tuning.seeds import (
    Pool,
    bootstrapped_seeds,
    proposed_seeds,
    stages_of,
    start_seeds,
    unique,
    written_seeds,
)
from spri_dspy.tuning.splits import Splits

logger = logging.getLogger(__name__)

REPORT, COSTS = "report.json", "costs.json"
_MARGIN = 1.25  # a candidate may cost more than the start: longer prompts, more rounds


class Settings(Protocol):
    """What a compile reads of a SeedSearch; see there."""

    metric: Metric
    pool: Pool
    stages: tuple[str, ...]
    max_seeds: int
    sampler: str | Callable[[Space], Sampler]
    budget: Budget | None
    proposals: int
    racing: Racing
    rollouts: int
    concurrency: int
    rng_seed: int
    proposer: Any
    retry: Retry | None


class Compile:
    """One compile and what it has come to so far.

    Args:
        asked: the search's settings.
        start: the program to tune; copied, never changed.
        teacher: whose accepted answers become seeds, None for the start's own.
        splits: the examples.
        folder: where everything is kept; its lock is the caller's.
    """

    def __init__(self, asked: Settings, start: Any, teacher: Any, splits: Splits, folder: Path) -> None:
        self.asked, self.start, self.folder = asked, start, folder
        self.teacher = start if teacher is None else copy_program(teacher)
        self.metric, self.splits = asked.metric, splits
        self.stages = stages_of(start, asked.stages)
        limits = asked.budget
        self.evaluator = Evaluator(
            asked.metric,
            folder,
            budget=limits and Budget(limits.max_calls, limits.max_tokens, limits.max_usd),
            concurrency=asked.concurrency,
            rollouts=asked.rollouts,
            retry=asked.retry,
        )
        self.evaluator.admit([start, self.teacher], [asked.proposer] if asked.proposer else [])
        nothing = Decision(False, "the budget was spent before the search began")
        self.report = SearchReport(nothing, asked.metric.name, splits.to_json(), run_dir=str(folder))
        self.programs: dict[Candidate, Any] = {}

    def run(self) -> Any:
        """Take all steps; a budget that is spent ends them where it is."""
        try:
            self._prepare()
            found = self._search()
            self.report.decision = Decision(False, "the budget was spent before the winner was confirmed")
            self._decide(found)
            self._test(found.winner)
        except BudgetSpent as spent:
            self.report.stopped = str(spent)
        self.report.spend = self.evaluator.spent()
        tuned = self._result()
        _write(self.folder / REPORT, self.report.to_json())
        logger.info("%s: %s", self.folder, self.report.decision.reason)
        return tuned

    def _prepare(self) -> None:
        """Labels, groups, the pool, and the start on the rows of the decision: what a score costs is known then."""
        ready = {name: self._grouped(part) for name, part in self.splits.parts().items()}
        everything = self.evaluator.labelled([e for part in ready.values() for e in part])
        by_id = {e.id: e for e in everything}
        parts = {name: [by_id[e.id] for e in part] for name, part in ready.items()}
        for name in ("search", "confirm", "test"):  # seeds may come from examples without a label
            parts[name] = [e for e in parts[name] if self._is_useful(e)]
        self.splits = Splits(**{n: tuple(part) for n, part in parts.items()}, leaks=self.splits.leaks)
        self.report.splits = self.splits.to_json()
        self._check_size()
        self._fill_pool()
        after_pool = self._cost("pool")
        self.before = self._scores(self.start, self.splits.confirm)
        after = self._cost("confirm")
        n = len(self.splits.confirm)
        self.spent_then = after
        self.each = (after - after_pool).times(1 / n)

    def _is_useful(self, example: Example) -> bool:
        """False for an example without a label where one is needed: running it would tell nothing."""
        return not self.metric.label or self.metric.label_of(example) is not None

    def _check_size(self) -> None:
        clusters = {e.cluster or e.id for e in self.splits.confirm}
        if len(clusters) < FEWEST_CLUSTERS:
            raise UsageError(
                f"{len(clusters)} clusters of validation examples are left to decide on (with a label where one is "
                f"needed), which can prove nothing: at least {FEWEST_CLUSTERS} are needed, and 50 or more to find a "
                "small improvement; give more examples"
            )

    def _grouped(self, examples: Iterable[Example]) -> list[Example]:
        """The examples with the group that the program would tell for them."""
        group_of = getattr(self.start, "group_of", None)
        if group_of is None:
            return list(examples)
        return [e if e.group is not None else e.changed(group=group_of(e.input_values)) for e in examples]

    def _fill_pool(self) -> None:
        """Seeds of all sources, the start's first."""
        asked, settings = self.asked, self.asked.pool
        given = start_seeds(self.stages)
        seeds = [*given, *written_seeds(settings.written, self.stages)]
        if settings.bootstrapped or settings.proposed:
            examples = _some(self.splits.train, settings.examples, random.Random(f"{asked.rng_seed}/pool"))
            scores = self._scores(self.teacher, examples)
            records = self.evaluator.records(self.teacher, examples)
            by_id = {s.id: s for s in scores}
            scores = [by_id[record.id] for record in records]
            good = self.metric.goodness(scores)
            seeds += bootstrapped_seeds(records, good, self.stages, settings.bootstrapped)
            seeds += proposed_seeds(
                records,
                scores,
                self.stages,
                settings.proposed,
                metric=self.metric,
                evaluator=self.evaluator,
                lm=asked.proposer,
            )
        self.report.pool = unique(seeds)
        at = {seed.key: number for number, seed in enumerate(self.report.pool)}
        slots = [(seed.stage, seed.group) for seed in self.report.pool]
        start = tuple(sorted({at[seed.key] for seed in given}))
        groups = list(dict.fromkeys(e.group for e in self.splits.search))
        self.space = Space(slots, asked.max_seeds, start, groups)
        self.programs[start] = self.start
        logger.info("%s: %d seeds in the pool", self.folder, len(self.report.pool))

    def _search(self) -> Found:
        asked, rows = self.asked, self.splits.search
        n_later = len(self.splits.confirm) + 2 * len(self.splits.test)
        reserve = self.each.times(n_later * _MARGIN)
        most = min(int(asked.racing.share * (asked.proposals + 2) * len(rows)), self._affordable(reserve))
        with self.evaluator.holding_back(reserve):
            found = search(
                self.space,
                [row_of(self.metric, e) for e in rows],
                self._answer,
                sampler=make_sampler(asked.sampler, self.space),
                objective=objective_of(self.metric),
                proposals=asked.proposals,
                most=most,
                racing=asked.racing,
                seed=asked.rng_seed,
                measure=self.metric.measure if self.metric.function else None,
            )
        self.report.stopped, self.report.rounds = found.stopped, found.decisions
        self.report.start = found.estimates.get(self.space.start)
        self.report.winner = found.estimates.get(found.winner)
        self.report.trials = [
            {
                "seeds": list(trial.candidate),
                "is_start": trial.candidate == self.space.start,
                "value": None if math.isnan(trial.value) else trial.value,
                "n": trial.n,
                "by_group": {str(g): list(known) for g, known in trial.by_group.items()},
            }
            for trial in found.trials
        ]
        return found

    def _affordable(self, reserve: Spent) -> int:
        """Scores that the budget pays for beside the reserve, by what the start's scores cost."""
        budget, most = self.evaluator.budget, math.inf
        for name in ("calls", "tokens", "usd"):
            limit = getattr(budget, f"max_{name}") if budget else None
            each = getattr(self.each, name)
            if limit is not None and each:
                left = limit - getattr(self.spent_then, name) - getattr(reserve, name)
                most = min(most, max(0.0, left / (each * _MARGIN)))
        return int(min(most, 1e9))

    def _answer(self, asks: Sequence[tuple[Candidate, Sequence[int]]]) -> list[list[float | None]]:
        rows = self.splits.search
        wanted = [(self._program(candidate), [rows[i] for i in at]) for candidate, at in asks]
        return [[s.value for s in scores] for scores in self.evaluator.scores(wanted)]

    def _decide(self, found: Found) -> None:
        if found.winner == self.space.start:
            why = found.stopped or "no candidate was better than the start on the search rows"
            self.report.decision = Decision(False, why, start=self.metric.value(self.before))
            return
        candidate = self._scores(self._program(found.winner), self.splits.confirm)
        rng = random.Random(f"{self.asked.rng_seed}/decision")
        self.report.decision = decide(
            self.metric, candidate, self.before, level=self.asked.racing.level, rng=rng
        )
        if self.report.improved:
            self.report.seeds = found.winner

    def _test(self, winner: Candidate) -> None:
        """Both programs on the test split, once."""
        if not self.splits.test:
            return
        rng = random.Random(f"{self.asked.rng_seed}/test")
        programs = [self.start, *([self._program(winner)] if self.report.improved else [])]
        before, *after = self.evaluator.scores([(program, self.splits.test) for program in programs])
        self.report.test["before"] = self.metric.value(before, rng=rng)
        if after:
            self.report.test["after"] = self.metric.value(after[0], rng=rng)
            self.report.test["difference"] = self.metric.compare(after[0], before, rng=rng)

    def _result(self) -> Any:
        """The tuned program, or a copy of the start, with what DSPy's users look for."""
        seeds = self.report.seeds
        tuned = copy_program(self.start if seeds is None else self._program(seeds))
        tried = sorted(
            self.report.trials, key=lambda t: -math.inf if t["value"] is None else t["value"], reverse=True
        )
        tuned.candidate_programs = [
            {
                "score": t["value"],
                "program": self._program(tuple(t["seeds"])),
                "seeds": t["seeds"],
                "n": t["n"],
            }
            for t in tried
        ]
        tuned.trial_logs = dict(enumerate(self.report.trials))
        of = self.report.decision.candidate if self.report.improved else self.report.decision.start
        tuned.score = of.value if of else math.nan
        tuned.report = self.report
        if seeds is None:
            self.report.seeds = getattr(getattr(self, "space", None), "start", None)
        tuned._compiled = True
        return tuned

    def _program(self, candidate: Candidate) -> Any:
        """The start with these seeds."""
        if candidate not in self.programs:
            made = copy_program(self.start)
            predictors = dict(made.named_predictors())
            for stage in self.stages:
                chosen = [self.report.pool[i] for i in candidate if self.report.pool[i].stage == stage]
                predictors[stage].demos = [dspy.Example(dict(seed.demo)) for seed in chosen]
            self.programs[candidate] = made
        return self.programs[candidate]

    def _scores(self, program: Any, examples: Sequence[Example]) -> list[Score]:
        return self.evaluator.scores([(program, examples)])[0]

    def _cost(self, step: str) -> Spent:
        """What was spent when a step was first reached: plans must not change with a restart."""
        path = self.folder / COSTS
        known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if step not in known:
            known[step] = asdict(self.evaluator.spent())
            _write(path, known)
        return Spent(**known[step])


def _some(examples: Sequence[Example], most: int, rng: random.Random) -> list[Example]:
    """At most so many clusters of each group, in the order in which they were given."""
    clusters: dict[str | None, list[str]] = {}
    for e in examples:
        members = clusters.setdefault(e.group, [])
        if (name := e.cluster or e.id) not in members:
            members.append(name)
    kept = {group: set(rng.sample(names, min(most, len(names)))) for group, names in clusters.items()}
    return [e for e in examples if (e.cluster or e.id) in kept[e.group]]


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n", "utf-8")
    partial.replace(path)
