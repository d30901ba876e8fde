"""One experiment: split, prepare, search, decide, test, report. `spri.tune` and recipes run it, whatever searches.

    tuned = Experiment("pearson", optimizer="gepa", budget=Budget(5000)).compile(program, trainset=examples)
    tuned.report.decision.reason, tuned.report.test

1. Examples are split into train, search, holdout and test, nothing alike on two sides (`splits`).
2. Examples that nothing could score are left out before any call; the start is scored on the holdout, and what a score
   costs is known then. If nothing of its first batch can be scored, the experiment ends there, with the reason.
3. An optimizer searches for better programs, by examples of train and search alone and within its part of the budget
   (`optimizers`, `context`); the best of its candidates goes on.
4. That one replaces the start only if it is significantly better on the holdout, which nothing before has seen
   (`decision`). "No improvement" is a normal outcome.
5. Both are reported on the test split, once.

Everything is kept in a run directory and depends on the arguments and the LMs' answers alone: the same again, after a
kill or with a larger budget, goes on where it was and pays no finished call twice. Only the LMs of the program, of the
metric and `prompt_lm` are called. A spent budget ends the search and not the experiment: a part of it is kept for what
follows.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dspy.teleprompt import Teleprompter

from spri_dspy.bulk import plain
from spri_dspy.durable import write_whole
from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.scope import Retry
from spri_dspy.lms.spec import load_lm
from spri_dspy.metrics import Metric, load_metric
from spri_dspy.program import check_scorers, models_of
from spri_dspy.records import Record
from spri_dspy.report.tuning import KIND, REPORT
from spri_dspy.runs import RunDir, fingerprint
from spri_dspy.strict_json import from_text, to_text
from spri_dspy.tasks import Example
from spri_dspy.tuning.context import MARGIN, Context
from spri_dspy.tuning.decision import FEWEST_CLUSTERS, Decision, decide
from spri_dspy.tuning.evaluation import Evaluator, Spent, unscorable
from spri_dspy.tuning.optimizers import load_optimizer
from spri_dspy.tuning.programs import copy_program, identity, stages_of
from spri_dspy.tuning.report import TuningReport, changes_of
from spri_dspy.tuning.seeds import Pool
from spri_dspy.tuning.splits import Splits, make_splits

logger = logging.getLogger(__name__)

COSTS = "costs.json"
"""What had been spent when a step was first reached, in the run directory."""

FIRST_BATCH = 8
"""Examples of the holdout that are scored before all others; if none can be, nothing more is paid."""


class Experiment(Teleprompter):
    """Tunes a program against a metric of a whole set, with any optimizer; a teleprompter for those who have one.

    Args:
        metric: a Metric, the name of one that needs no judge ("pearson"), or any function of one example and its
            prediction or of all of them; see `load_metric`.
        optimizer: a name (see `optimizers`), path/to/file.py:NAME, or a function or class.
        options: of the optimizer, by name.
        stages: names of the predictors that are tuned; None for the optimizer's usual ones (seed_search:
            principles.generate, the others: all).
        prompt_lm: the LM that writes instructions and new seeds; by default the program's base.
        budget: what all calls may spend, earlier starts in the same `run_dir` included.
        run_dir: where everything is kept; by default runs/OPTIMIZER-HASH.
        rng_seed: decides splits and searches.
        fractions: of train, validation and test, where all examples come as one; by default 0.2, 0.5 and 0.3.
        holdout: share of validation that is kept from the search, for the decision, in (0, 1).
        level: two-sided p that the decision must not exceed, in (0, 1].
        rollouts: samples of the judge (without one: of the program) for every example, at least 1.
        concurrency: calls in flight at most, per LM.
        text_input: the input by which the leak guard tells examples apart; by default the one that varies most.
        select_on: evaluation sets, such as TruthfulQA, that validation may be of; the report names them. What is
            trained on is never of one.
        allow_leak: go on although splits or seeds match; the report is marked.
        retry: how transient failures of single calls are tried again.
        on_record: called with each new record, of programs and of judges, as by `run_bulk`.
        on_phase: called with what is being done and how it stands, in a few words.

    Attributes:
        candidate: the program that the last `compile` decided on; None if no candidate came to the decision.

    Raises:
        UnknownNameError: no such metric, optimizer or option.
        UsageError: an option's value is wrong.
    """

    def __init__(
        self,
        metric: Metric | str | Callable[..., Any],
        *,
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
    ) -> None:
        super().__init__()
        if not 0 < holdout < 1 or not 0 < level <= 1:
            raise UsageError(f"holdout must lie in (0, 1) and level in (0, 1], not {holdout!r} and {level!r}")
        if rollouts < 1 or concurrency < 1:
            raise UsageError(f"rollouts and concurrency must be at least 1, not {rollouts} and {concurrency}")
        self.metric, self.optimizer = load_metric(metric), load_optimizer(optimizer, options)
        self.stages = tuple(stages) if stages is not None else None
        self.prompt_lm, self.fractions = prompt_lm, fractions
        self.budget, self.run_dir, self.rng_seed = budget, run_dir, rng_seed
        self.holdout, self.level, self.rollouts, self.concurrency = holdout, level, rollouts, concurrency
        self.text_input, self.select_on, self.allow_leak, self.retry = (
            text_input,
            select_on,
            allow_leak,
            retry,
        )
        self.on_record, self.on_phase = on_record, on_phase
        self.candidate: Any = None

    def compile(
        self,
        student: Any,
        *,
        trainset: Sequence[Any],
        teacher: Any = None,
        valset: Sequence[Any] | None = None,
        testset: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Tune a program; it is not changed.

        Args:
            student: a SPRI program or another with `acall(group=..., **inputs)`, its LMs set.
            trainset: rows of any kind that `as_examples` takes; gives the splits that are not given.
            teacher: a program whose good answers become seeds, for optimizers that take one; by default the start.
            valset: rows to search and to decide on.
            testset: rows to report on; an empty list does without.
            **kwargs: none is known.

        Returns:
            A new program with `report` (a TuningReport), `candidate_programs` (dicts with "score" and "program", best
            first), `score` (its metric on the holdout) and `trial_logs`. Without an improvement it is a copy of the
            start.

        Raises:
            LeakError: something stands on two sides of a split, or a seed in validation or test; or train is of an
                evaluation set, or validation of one that is not named.
            UsageError: the examples are too few or cannot be scored, a stage is unknown, an LM is offline where others
                are paid, or the run directory is another run's.
            PrerequisiteError: a package is missing, or a failure that every example would meet.
        """
        if kwargs:
            raise UsageError(f"compile takes no {', '.join(kwargs)}")
        start = copy_program(student)
        if self.prompt_lm is not None:
            self.prompt_lm = load_lm(self.prompt_lm)
        check_scorers(start, self.metric.judge, self.metric.oracle)
        splits = self.split(start, trainset, valset, testset)
        self.check(start, splits)
        manifest = self._manifest(start, teacher, splits)
        named = f"{self.optimizer.name.replace('_', '-')}-{fingerprint(manifest)[:8]}"
        folder = Path(self.run_dir or Path("runs") / named)
        with RunDir.create(folder, manifest):
            run = _Run(self, start, teacher, splits, folder)
            tuned = run.run()
        self.candidate = run.candidate
        return tuned

    def split(self, start: Any, train: Any, validation: Any, test: Any) -> Splits:
        """The splits that `compile` makes of the same arguments: checked for leaks, without what nothing can score."""
        seeds = [dict(demo) for _, predictor in start.named_predictors() for demo in predictor.demos]
        written = [
            row for each in self.optimizer.options.values() if isinstance(each, Pool) for row in each.written
        ]
        splits = make_splits(
            train,
            validation,
            test,
            input_names=getattr(start, "inputs", ()),
            seeds=[*seeds, *written],
            text_input=self.text_input,
            fractions=self.fractions,
            holdout=self.holdout,
            seed=self.rng_seed,
            select_on=self.select_on,
            allow_leak=self.allow_leak,
        )
        return splits.without(unscorable(self.metric, [*splits.search, *splits.holdout, *splits.test]))

    def check(self, start: Any, splits: Splits) -> None:
        """Refuse what cannot work, before anything is paid.

        Raises:
            UsageError: too few examples can be scored, or the optimizer cannot work with these stages or options.
            PrerequisiteError: a package is missing.
        """
        if self.stages is not None:
            stages_of(start, self.stages)
        self.optimizer.check(start, self.stages)
        _check_size(splits)

    def _manifest(self, start: Any, teacher: Any, splits: Splits) -> dict[str, Any]:
        """What decides the result. Not the budget: a search that was stopped by one goes on with a larger one."""
        data = {name: fingerprint([plain(e.toDict()) for e in part]) for name, part in splits.parts().items()}
        return {
            "kind": KIND,
            "system": self.optimizer.name,
            "task": getattr(start, "task_name", None),
            "data": data,
            "program": identity(start),
            "teacher": identity(teacher) if teacher is not None else None,
            "models": models_of(start) | ({"prompt_lm": self.prompt_lm.model} if self.prompt_lm else {}),
            "settings": {
                "metric": self.metric.identity,
                "stages": self.stages,
                "options": self.optimizer.identity,
                "optuna": find_spec("optuna") is not None,
                **{name: getattr(self, name) for name in ("holdout", "level", "rollouts")},
            },
            "seed": self.rng_seed,
        }


class _Run:
    """One run of an experiment, and what it has come to so far."""

    def __init__(
        self, experiment: Experiment, start: Any, teacher: Any, splits: Splits, folder: Path
    ) -> None:
        self.settings, self.start, self.splits, self.folder = experiment, start, splits, folder
        self.teacher = None if teacher is None else copy_program(teacher)
        self.metric, limits = experiment.metric, experiment.budget
        self.evaluator = Evaluator(
            experiment.metric,
            folder,
            budget=Budget(limits.max_calls, limits.max_tokens, limits.max_usd) if limits else None,
            concurrency=experiment.concurrency,
            rollouts=experiment.rollouts,
            retry=experiment.retry,
            on_record=experiment.on_record,
            on_phase=experiment.on_phase,
        )
        self.evaluator.admit(
            [m for m in (start, self.teacher) if m is not None],
            [experiment.prompt_lm] if experiment.prompt_lm else [],
        )
        undecided = Decision(False, "the budget was spent before the search began")
        names = (experiment.metric.name, experiment.optimizer.name)
        self.report = TuningReport(*names, splits.to_json(), undecided, run_dir=str(folder))
        self.context: Context | None = None
        self.candidate: Any = None

    def run(self) -> Any:
        """Take all steps; a budget that is spent ends them where it is."""
        best = self.start
        try:
            self._prepare()
            best = self._search()
            self._decide(best)
            self._test(best)
        except BudgetSpent as spent:
            self.report.stopped = str(spent)
        self.report.costs = self.evaluator.costs()
        tuned = self._result(best)
        write_whole(self.folder / REPORT, to_text(self.report.to_json(), indent=2) + "\n")
        logger.info("%s: %s", self.folder, self.report.decision.reason)
        return tuned

    def _prepare(self) -> None:
        """Groups and labels, and the start on the holdout."""
        parts = {name: self._grouped(part) for name, part in self.splits.parts().items()}
        labelled = {e.id: e for e in self.evaluator.labelled([e for part in parts.values() for e in part])}
        parts = {name: tuple(labelled[e.id] for e in part) for name, part in parts.items()}
        splits = replace(self.splits, **parts)
        if self.metric.oracle is not None:  # whose labels are known only now
            splits = splits.without(unscorable(self.metric, [*splits.search, *splits.holdout, *splits.test]))
            _check_size(splits)
        self.splits, self.report.splits = splits, splits.to_json()
        self.report.unscorable = dict(splits.unscorable)
        if splits.unscorable:
            logger.warning("left out, because nothing can score them: %s", explained(splits.unscorable))
        self.evaluator.tell("start on the holdout")
        before, holdout = self._cost("beginning"), splits.holdout
        first = self.evaluator.scores([(self.start, holdout[:FIRST_BATCH])])[0]
        if all(score.value is None for score in first):
            raise self.evaluator.nothing_scored(self.start, holdout[:FIRST_BATCH])
        self.before = self.evaluator.scores([(self.start, holdout)])[0]
        self.each = (self._cost("holdout") - before).times(1 / len(holdout))

    def _grouped(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the group that the program would tell for them."""
        group_of = getattr(self.start, "group_of", None)
        if group_of is None:
            return list(examples)
        return [e if e.group is not None else e.changed(group=group_of(e.input_values)) for e in examples]

    def _search(self) -> Any:
        """The program that comes to the decision; the start if none is better."""
        settings, later = self.settings, len(self.splits.holdout) + 2 * len(self.splits.test)
        self.context = Context(
            start=self.start,
            teacher=self.teacher,
            train=self.splits.train,
            search=self.splits.search,
            metric=self.metric,
            stages=settings.stages,
            prompt_lm=settings.prompt_lm,
            rng_seed=settings.rng_seed,
            concurrency=settings.concurrency,
            retry=settings.retry,
            report=self.report,
            evaluator=self.evaluator,
            cost=self.each,
            spent_at=self._cost,
        )
        self.evaluator.tell("search")
        with self.evaluator.holding_back(self.each.times(later * MARGIN)):
            left = self.context.left()
            if min(left.calls, left.tokens, left.usd) <= 0:
                self.report.stopped = (
                    "the budget is too small to search with: the decision and the test need what is left"
                )
                return self.start
            found: list[Any] = []
            try:
                found = list(settings.optimizer.search(self.context) or ())
            except BudgetSpent:
                self.report.stopped = self.report.stopped or "the search has spent its part of the budget"
            return self.context.best(found)

    def _decide(self, best: Any) -> None:
        """Let the candidate replace the start only if it holds on examples that nothing before has seen."""
        if best is self.start:
            why = self.report.stopped or "no candidate was better than the start on the search split"
            self.report.decision = Decision(False, why, start=self.metric.value(self.before))
            return
        self.candidate, self.report.winner = best, identity(best)
        self.evaluator.tell("winner on the holdout")
        self.report.decision = Decision(False, "the budget was spent before the decision")
        candidate = self.evaluator.scores([(best, self.splits.holdout)])[0]
        rng = random.Random(f"{self.settings.rng_seed}/decision")
        self.report.decision = decide(self.metric, candidate, self.before, level=self.settings.level, rng=rng)

    def _test(self, best: Any) -> None:
        """Both programs on the test split, once."""
        if not self.splits.test:
            return
        self.evaluator.tell("test")
        rng = random.Random(f"{self.settings.rng_seed}/test")
        programs = [self.start, *([best] if self.report.improved else [])]
        before, *after = self.evaluator.scores([(program, self.splits.test) for program in programs])
        self.report.test["before"] = self.metric.value(before, rng=rng)
        if after:
            self.report.test["after"] = self.metric.value(after[0], rng=rng)
            self.report.test["difference"] = self.metric.compare(after[0], before, rng=rng)

    def _result(self, best: Any) -> Any:
        """The tuned program, or a copy of the start, with what DSPy's users look for."""
        tuned = copy_program(best if self.report.improved else self.start)
        self.report.changes = changes_of(self.start, tuned)
        candidates = self.context.candidates if self.context else []
        rank = lambda c: -math.inf if math.isnan(c["score"]) else c["score"]  # noqa: E731
        tuned.candidate_programs = sorted(candidates, key=rank, reverse=True)
        tuned.trial_logs = dict(enumerate(self.report.trials))
        of = self.report.decision.candidate if self.report.improved else self.report.decision.start
        tuned.score = of.value if of else math.nan
        tuned.report, tuned._compiled = self.report, True
        return tuned

    def _cost(self, step: str) -> Spent:
        """What was spent when a step was first reached: plans must not change with a restart."""
        path = self.folder / COSTS
        known: dict[str, Any] = from_text(path.read_bytes()) if path.exists() else {}
        if step not in known:
            known[step] = asdict(self.evaluator.spent())
            write_whole(path, to_text(known, indent=2) + "\n")
        return Spent(**known[step])


def _check_size(splits: Splits) -> None:
    why = f"; left out: {explained(splits.unscorable)}" if splits.unscorable else ""
    clusters = {e.cluster or e.id for e in splits.holdout}
    if len(clusters) < FEWEST_CLUSTERS:
        raise UsageError(
            f"{len(clusters)} clusters of examples are left in the holdout to decide on, which can prove nothing: at "
            f"least {FEWEST_CLUSTERS} are needed, and 50 or more to find a small improvement; give more examples, or a "
            f"higher limit{why}"
        )
    for name in ("train", "search"):
        if not getattr(splits, name):
            raise UsageError(f"no example of the {name} split is left; give more examples{why}")


def explained(unscorable: Mapping[str, str], most: int = 5) -> str:
    """Which examples cannot be scored and why, in a line."""
    shown = [f"{name} ({why})" for name, why in list(unscorable.items())[:most]]
    more = len(unscorable) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
