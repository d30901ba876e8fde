"""Seed search: few-shot seed principles tuned against a metric of a whole set, as a DSPy teleprompter.

    tuned = SeedSearch("pearson", max_seeds=3, budget=Budget(max_calls=20_000)).compile(program, trainset=examples)
    tuned.report.decision.reason, tuned.report.test

DSPy's own optimisers average one number an example; a correlation with people is no such average. This one

1. splits what it is given into train, validation and test, nothing alike on two sides (`splits`);
2. makes a pool of seeds: the start's and those given, accepted answers to training examples, an LM's new ones (`pool`);
3. searches sets of them, a race a round, by the metric itself (`samplers`, `rounds`, `racing`);
4. lets the winner replace the start only if it holds on rows that the search never saw (`decision`);
5. reports both on the test split, once.

Everything is kept in a run directory and depends on the arguments and the LMs' answers alone: the same compile after
a kill goes on where it was, pays no finished call again and comes to the same result. Only the program's own LMs, the
metric's and the proposer's are called; copies of the program share them.

It cannot see whether the examples are like those to come, and it finds nothing that is not made of its pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dspy.teleprompt import Teleprompter

from spri_dspy.bulk import plain
from spri_dspy.errors import UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.client import Retry
from spri_dspy.lms.spec import load_lm
from spri_dspy.metrics import Metric, load_metric
from spri_dspy.program import models_of
from spri_dspy.runs import RunDir, fingerprint
from spri_dspy.tuning._compile import REPORT, Compile
from spri_dspy.tuning.programs import copy_program, identity
from spri_dspy.tuning.racing.rounds import Racing
from spri_dspy.tuning.samplers import Sampler, Space
from spri_dspy.tuning.search_report import SearchReport
from spri_dspy.tuning.seeds import Pool
from spri_dspy.tuning.splits import Splits, make_splits

__all__ = ["REPORT", "Pool", "Racing", "SearchReport", "SeedSearch"]


class SeedSearch(Teleprompter):
    """Tunes the seeds of a program's stages against a set-level metric.

    Args:
        metric: what to maximise: a Metric, or the name of one that needs no judge ("pearson").
        stages: names of the predictors whose seeds are tuned.
        pool: where seeds come from: settings, or rows that are added to the start's seeds.
        max_seeds: most seeds that an example is shown in a stage (those of its group, and those of no group).
        sampler: random, greedy, optuna, mixed, or a callable that makes a Sampler for a Space.
        budget: what all calls may spend, earlier starts in the same `run_dir` included. The search is planned so that
            the decision and the test are paid for as well.
        proposals: candidates to try beside the start and no seeds at all.
        racing: settings of the races and of the decision.
        rollouts: samples of the judge (without one: of the program) for every example; more steady a noisy metric.
        run_dir: where everything is kept; by default runs/seed-search-HASH.
        concurrency: calls in flight at most, per LM.
        rng_seed: decides splits, proposals and rows.
        proposer: the LM that writes seeds anew; by default the stage's own.
        text_input: the input by which the leak guard tells examples apart; by default the one that varies most.
        allow_leak: go on although splits or seeds match; the report is marked.
        retry: how transient failures of single calls are tried again.
    """

    def __init__(
        self,
        metric: Metric | str,
        *,
        stages: Sequence[str] = ("principles.generate",),
        pool: Pool | Sequence[Mapping[str, Any]] | None = None,
        max_seeds: int = 3,
        sampler: str | Callable[[Space], Sampler] = "mixed",
        budget: Budget | None = None,
        proposals: int = 16,
        racing: Racing | None = None,
        rollouts: int = 1,
        run_dir: str | Path | None = None,
        concurrency: int = 16,
        rng_seed: int = 0,
        proposer: Any = None,
        text_input: str | None = None,
        allow_leak: bool = False,
        retry: Retry | None = None,
    ) -> None:
        super().__init__()
        if proposals < 1 or max_seeds < 0:
            raise UsageError(
                f"proposals must be at least 1 and max_seeds at least 0, not {proposals} and {max_seeds}"
            )
        self.metric = load_metric(metric)
        self.pool = pool if isinstance(pool, Pool) else Pool(written=tuple(pool or ()))
        self.stages, self.max_seeds, self.sampler, self.budget = tuple(stages), max_seeds, sampler, budget
        self.proposals, self.racing, self.rollouts = proposals, racing or Racing(), rollouts
        self.run_dir, self.concurrency, self.rng_seed = run_dir, concurrency, rng_seed
        self.proposer = load_lm(proposer) if proposer is not None else None
        self.text_input, self.allow_leak, self.retry = text_input, allow_leak, retry

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
            trainset: spri.Example or dspy.Example; gives the splits that are not given.
            teacher: whose accepted answers become seeds; by default the student's own.
            valset: examples to search and to decide on.
            testset: examples to report on; an empty list does without.
            **kwargs: none is known.

        Returns:
            A new program with `report`, `candidate_programs` (dicts with "score", "program", "seeds", best first),
            `score` (its metric on the rows of the decision) and `trial_logs`. Without an improvement it is a copy of
            the start.

        Raises:
            LeakError: something stands on two sides of a split, or a seed in validation or test.
            UsageError: the examples are too few, the stages unknown, or the run directory another search's.
            PrerequisiteError: a failure that every example would meet; start the same compile again.
        """
        if kwargs:
            raise UsageError(f"compile takes no {', '.join(kwargs)}")
        start = copy_program(student)
        splits = self._split(start, trainset, valset, testset)
        manifest = self._manifest(start, teacher, splits)
        folder = Path(self.run_dir or Path("runs") / f"seed-search-{fingerprint(manifest)[:8]}")
        with RunDir.create(folder, manifest):
            return Compile(self, start, teacher, splits, folder).run()

    def _split(self, start: Any, train: Any, validation: Any, test: Any) -> Splits:
        seeds = [dict(demo) for _, predictor in start.named_predictors() for demo in predictor.demos]
        return make_splits(
            train,
            validation,
            test,
            input_names=getattr(start, "inputs", ()),
            seeds=[*seeds, *self.pool.written],
            text_input=self.text_input,
            confirm=self.racing.confirm,
            seed=self.rng_seed,
            allow_leak=self.allow_leak,
        )

    def _manifest(self, start: Any, teacher: Any, splits: Splits) -> dict[str, Any]:
        """What decides the result. Not the budget: a search that was stopped by one goes on with a larger one."""
        data = {name: fingerprint([plain(e.toDict()) for e in part]) for name, part in splits.parts().items()}
        has_name = isinstance(self.sampler, str)
        return {
            "system": "seed_search",
            "task": getattr(start, "task_name", None),
            "data": data,
            "program": identity(start),
            "teacher": identity(teacher) if teacher is not None else None,
            "models": models_of(start) | ({"proposer": self.proposer.model} if self.proposer else {}),
            "settings": {
                "metric": self.metric.identity,
                "stages": self.stages,
                "pool": self.pool.identity,
                "max_seeds": self.max_seeds,
                "sampler": self.sampler if has_name else getattr(self.sampler, "__name__", "own"),
                "optuna": find_spec("optuna") is not None,
                "proposals": self.proposals,
                "racing": asdict(self.racing),
                "rollouts": self.rollouts,
            },
            "seed": self.rng_seed,
        }
