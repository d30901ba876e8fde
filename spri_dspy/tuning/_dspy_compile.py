"""One compile of a DspySearch, step by step: see `dspy_optimizers` for what the steps are."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError

from spri_dspy.errors import BudgetSpent, CallError, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.client import Retry, Scope, failure_kind, use_scope
from spri_dspy.metrics import Metric
from spri_dspy.predict import RolePredict
from spri_dspy.records import Score
from spri_dspy.runs import CACHE
from spri_dspy.tasks import Example
from spri_dspy.tuning.decision import COVERAGE_LOSS, FEWEST_CLUSTERS, Decision, decide
from spri_dspy.tuning.evaluation import Evaluator, Spent
from spri_dspy.tuning.example_metric import StandIn, as_rows
from spri_dspy.tuning.optimizers import RUNNERS, Job
from spri_dspy.tuning.programs import copy_program, identity
from spri_dspy.tuning.search_report import SearchReport
from spri_dspy.tuning.seeds import stages_of
from spri_dspy.tuning.splits import Splits
from spri_dspy.tuning.student import Halt, Seen, Sentinel, State, Student, Watch, build, first_line
from spri_dspy.tuning.surrogate import NEUTRAL, Surrogate, fit

logger = logging.getLogger(__name__)

REPORT, COSTS, SAID = "report.json", "costs.json", "optimizer.log"
_LATER = "what the decision and the test take was kept for them"
_MARGIN = 1.25  # a candidate may cost more than the start: longer prompts, more rounds
_STEADY = 5.0  # a mean over so many rows is pulled half-way to nothing: the luckiest of many rest on few rows


class Settings(Protocol):
    """What a compile reads of a DspySearch; see there."""

    optimizer: str
    metric: Metric
    stages: tuple[str, ...] | None
    options: dict[str, Any]
    budget: Budget | None
    rounds: int
    finalists: int
    level: float
    rollouts: int
    concurrency: int
    rng_seed: int
    retry: Retry | None
    writer: Any


@dataclass
class _Known:
    """A program whose metric on the search rows is known."""

    program: Any
    scores: list[Score]
    value: float


class DspyCompile:
    """One compile and what it has come to so far.

    Args:
        asked: the search's settings.
        start: the program to tune; copied, never changed.
        splits: the examples.
        folder: where everything is kept; its lock is the caller's.
    """

    def __init__(self, asked: Settings, start: Any, splits: Splits, folder: Path) -> None:
        self.asked, self.start, self.folder, self.splits = asked, start, folder, splits
        self.metric = asked.metric
        self.stages = tuple(stages_of(start, asked.stages or [n for n, _ in start.named_predictors()]))
        self.writer = asked.writer or start.get_lm()
        limits = asked.budget
        self.evaluator = Evaluator(
            asked.metric,
            folder,
            budget=limits and Budget(limits.max_calls, limits.max_tokens, limits.max_usd),
            concurrency=asked.concurrency,
            rollouts=asked.rollouts,
            retry=asked.retry,
        )
        self.evaluator.admit([start, _holder(self.writer)])
        nothing = Decision(False, "the budget was spent before the search began")
        self.report = SearchReport(nothing, asked.metric.name, splits.to_json(), run_dir=str(folder))
        self.known: dict[str, _Known] = {}

    def run(self) -> Any:
        """Take all steps; a budget that is spent ends them where it is."""
        best = self.start
        try:
            self._prepare()
            best = self._search()
            self.report.decision = Decision(False, "the budget was spent before the winner was confirmed")
            self._decide(best)
            self._test(best)
        except BudgetSpent as spent:
            self.report.stopped = str(spent)
        self.report.spend = self.evaluator.spent()
        _write(self.folder / REPORT, self.report.to_json())
        logger.info("%s: %s", self.folder, self.report.decision.reason)
        return self._result(best)

    def _prepare(self) -> None:
        """Labels, groups, and the start on the rows of the decision: what a score costs is known then."""
        ready = {name: self._grouped(part) for name, part in self.splits.parts().items()}
        labelled = {e.id: e for e in self.evaluator.labelled([e for part in ready.values() for e in part])}
        parts = {name: tuple(labelled[e.id] for e in part) for name, part in ready.items()}
        self.splits = Splits(**parts, leaks=self.splits.leaks)
        if not self.splits.train:
            raise UsageError("no training examples are left to learn from; give more examples")
        useful = [
            e for e in self.splits.confirm if not self.metric.label or self.metric.label_of(e) is not None
        ]
        if (n_clusters := len({e.cluster or e.id for e in useful})) < FEWEST_CLUSTERS:
            raise UsageError(
                f"{n_clusters} clusters of validation examples are left to decide on (with a label where one is "
                f"needed), which can prove nothing: at least {FEWEST_CLUSTERS} are needed; give more examples"
            )
        before = self._cost("beginning")
        self.before = self._scores(self.start, self.splits.confirm)
        self.each = (self._cost("confirm") - before).times(1 / len(self.splits.confirm))

    def _grouped(self, examples: Iterable[Example]) -> list[Example]:
        """The examples with the group that the program would tell for them."""
        group_of = getattr(self.start, "group_of", None)
        if group_of is None:
            return list(examples)
        return [e if e.group is not None else e.changed(group=group_of(e.input_values)) for e in examples]

    def _search(self) -> Any:
        """The best program on the search rows; the start if nothing is better."""
        n_later = len(self.splits.confirm) + 2 * len(self.splits.test)
        later = self.each.times(n_later * _MARGIN)
        with self.evaluator.holding_back(later):
            try:
                if _is_overdrawn(self.evaluator.budget):
                    raise BudgetSpent
                best = self._score(self.start, {"name": "start", "round": 0})
            except BudgetSpent:
                self.report.stopped = f"the budget is too small to search with: {_LATER}"
                return self.start
            for number in range(1, self.asked.rounds + 1):
                found = self._round(number, best)
                is_better, best = found is not best, found
                if not is_better or self.report.stopped:
                    break
        self.report.start = self.metric.value(self.known[identity(self.start)].scores)
        self.report.winner = self.metric.value(best.scores)
        return best.program

    def _round(self, number: int, best: _Known) -> _Known:
        """Run the optimiser around the best so far: that, or something better."""
        surrogate = fit(self.metric, best.scores)
        watch, returned = self._optimise(best.program, surrogate)
        ranking = _ranking(watch, best, surrogate, self.stages)
        chosen = [seen.state for seen, _ in ranking[: self.asked.finalists]]
        chosen += [returned] if returned is not None else []
        told = {
            id(seen.state): {
                "stand_in": round(gain, 4),
                "stand_in_rows": len(seen.values),
                "calls_then": seen.calls,
            }
            for seen, gain in ranking
        }
        scored = [best]
        for place, state in enumerate(chosen, 1):
            program = build(self.start, state)
            if identity(program) in self.known:
                continue
            about = {"name": f"round {number}, finalist {place}", "round": number, **told.get(id(state), {})}
            try:
                scored.append(self._score(program, about))
            except BudgetSpent:
                self.report.stopped = f"the budget was spent before all finalists were scored; {_LATER}"
                break
        self.report.rounds.append(self._about(number, watch, len(scored) - 1))
        if watch.stopped_by is not None:
            said = f"the budget ended {self.asked.optimizer} early; {_LATER}"
            self.report.stopped = self.report.stopped or said
        enough = _coverage(best.scores) - COVERAGE_LOSS
        return max((k for k in scored if _coverage(k.scores) >= enough), key=lambda k: _comparable(k.value))

    def _optimise(self, program: Any, surrogate: Surrogate) -> tuple[Watch, State | None]:
        """Run the optimiser: what was watched, and what it returned, if it came to that."""
        asked, splits = self.asked, self.splits
        finals = self.each.times(
            len(splits.search) * _MARGIN
        )  # most of their calls were made by the optimiser
        with closing(CallCache(self.folder / CACHE)) as cache, self.evaluator.holding_back(finals):
            count = self.evaluator.budget or Budget(calls=int(self.evaluator.spent().calls))
            scope = Scope(cache=cache, retry=asked.retry or Retry(), budget=count)
            watch = Watch(scope, [*splits.train, *splits.search])
            student = Student(copy_program(program), self.stages, watch)
            metric = StandIn(self.metric, surrogate, [*splits.train, *splits.search], watch)
            job = Job(
                student,
                as_rows(splits.train),
                as_rows(splits.search),
                metric,
                self.writer,
                asked.rng_seed,
                asked.concurrency,
            )
            around = _surroundings(student, watch, asked.concurrency)
            try:
                with use_scope(scope), around, _said(self.folder / SAID):
                    returned = self._run_optimizer(job, watch)
            finally:
                watch.settle()  # before the cache is closed
        if watch.stopped_by is not None and not isinstance(watch.stopped_by, BudgetSpent):
            raise watch.stopped_by
        return watch, watch.returned(returned) if returned is not None else None

    def _run_optimizer(self, job: Job, watch: Watch) -> Student | None:
        """What the optimiser returns; None if it did not come to that, and what it scored until then is to be used."""
        name = self.asked.optimizer
        try:
            return RUNNERS[name](job, **self.asked.options)
        except Halt:
            return None
        except (AdapterParseError, LMError, CallError, BudgetSpent) as error:  # of the LM that writes for it
            if isinstance(error, BudgetSpent) or failure_kind(error) == "fatal":
                watch.stop(error)
            else:
                self.report.stopped = f"{name} ended early, by the LM that writes for it: {first_line(error)}"
            return None
        except (ValueError, AssertionError) as error:  # how DSPy refuses options and data
            raise UsageError(f"DSPy's {name} refuses this: {first_line(error)}") from error

    def _score(self, program: Any, about: Mapping[str, Any]) -> _Known:
        """Score a program on the search rows, and write it down."""
        scores = self._scores(program, self.splits.search)
        estimate = self.metric.value(scores)
        known = _Known(program, scores, self.metric.measure(scores))
        self.known[identity(program)] = known
        self.report.trials.append(
            {
                **about,
                "value": None if math.isnan(known.value) else known.value,
                **{name: _number(getattr(estimate, name)) for name in ("low", "high")},
                "n": estimate.n,
                "dropped": estimate.dropped,
                "spend": self.evaluator.spent().to_json(),
                "program": identity(program),
            }
        )
        return known

    def _about(self, number: int, watch: Watch, n_scored: int) -> dict[str, Any]:
        return {
            "round": number,
            "optimizer": self.asked.optimizer,
            "program_runs": watch.n_runs,
            "programs_seen": len(watch.seen),
            "finalists_scored": n_scored,
            "failures": dict(watch.failures),
            "missing": watch.missing,
            "is_cut_off": watch.stopped_by is not None,
            "spend": self.evaluator.spent().to_json(),
        }

    def _decide(self, best: Any) -> None:
        """Let the winner replace the start only if it holds on rows that nothing before has seen."""
        if best is self.start:
            why = self.report.stopped or "no program was better than the start on the search rows"
            self.report.decision = Decision(False, why, start=self.metric.value(self.before))
            return
        candidate = self._scores(best, self.splits.confirm)
        rng = random.Random(f"{self.asked.rng_seed}/decision")
        self.report.decision = decide(self.metric, candidate, self.before, level=self.asked.level, rng=rng)

    def _test(self, best: Any) -> None:
        """Both programs on the test split, once."""
        if not self.splits.test:
            return
        rng = random.Random(f"{self.asked.rng_seed}/test")
        programs = [self.start, *([best] if self.report.improved else [])]
        before, *after = self.evaluator.scores([(program, self.splits.test) for program in programs])
        self.report.test["before"] = self.metric.value(before, rng=rng)
        if after:
            self.report.test["after"] = self.metric.value(after[0], rng=rng)
            self.report.test["difference"] = self.metric.compare(after[0], before, rng=rng)

    def _result(self, best: Any) -> Any:
        """The tuned program, or a copy of the start, with what DSPy's users look for."""
        tuned = copy_program(best if self.report.improved else self.start)
        ordered = sorted(self.known.values(), key=lambda k: _comparable(k.value), reverse=True)
        tuned.candidate_programs = [{"score": k.value, "program": k.program} for k in ordered]
        tuned.trial_logs = dict(enumerate(self.report.trials))
        of = self.report.decision.candidate if self.report.improved else self.report.decision.start
        tuned.score = of.value if of else math.nan
        tuned.report, tuned._compiled = self.report, True
        return tuned

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


def _ranking(
    watch: Watch, best: _Known, surrogate: Surrogate, stages: Sequence[str]
) -> list[tuple[Seen, float]]:
    """Programs that the optimiser scored, the most promising first, and their steadied gains over the best.

    Gains are paired by example, so that it does not matter on which rows a program was scored.
    """
    ours = Student(best.program, stages, watch).key
    base = {s.id: surrogate.value(s) for s in best.scores if s.value is not None}
    if ours in watch.seen:
        base = watch.seen[ours].values | base
    found: list[tuple[Seen, float]] = []
    for key, seen in watch.seen.items():
        if key != ours:
            gains = [value - base.get(example, NEUTRAL) for example, value in seen.values.items()]
            found.append((seen, sum(gains) / (len(gains) + _STEADY)))
    return sorted(found, key=lambda each: -each[1])


def _is_overdrawn(budget: Budget | None) -> bool:
    """True if what is set aside leaves nothing."""
    limits = (budget.max_calls, budget.max_tokens, budget.max_usd) if budget else ()
    return any(limit is not None and limit <= 0 for limit in limits)


def _coverage(scores: Sequence[Score]) -> float:
    return sum(s.value is not None for s in scores) / max(1, len(scores))


def _comparable(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


@contextmanager
def _surroundings(student: Student, watch: Watch, threads: int) -> Generator[None]:
    """DSPy's settings while an optimiser runs: nothing global is called, kept or counted."""
    settings: dict[str, Any] = {"num_threads": threads, "max_errors": 10**9, "disable_history": True}
    callbacks = [*dspy.settings.callbacks, Sentinel(watch)]
    with dspy.context(lm=student.get_lm(), trace=None, callbacks=callbacks, **settings):
        yield


@contextmanager
def _said(path: Path) -> Generator[None]:
    """What DSPy prints goes to a file: results of ours are on stdout."""
    log = path.open("a", encoding="utf-8", errors="backslashreplace")
    with log, redirect_stdout(log), redirect_stderr(log):
        yield


def _holder(lm: Any) -> Any:
    """Something that the evaluator can ask for its LMs."""
    holder = RolePredict("prompt -> text")
    holder.lm = lm
    return holder


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n", "utf-8")
    partial.replace(path)
