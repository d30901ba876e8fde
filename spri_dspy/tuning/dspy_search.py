"""DSPy's optimisers for a metric that only a whole set has.

    tuned = DspySearch("gepa", "pearson", stages=["principles.generate"]).compile(program, trainset=examples)
    tuned.report.decision.reason, tuned.report.test

1. The start is scored, and a stand-in for the metric is fitted around it, one number an example (`surrogate`).
2. The optimiser runs on that. It sees the chosen stages only, and each role keeps its LM (`_student`, `_running`).
3. What it scored and what it returns is ranked by the stand-in; the best are scored by the metric itself on the search
   rows, and so is the start. The best becomes the incumbent, the stand-in is fitted anew, and the optimiser runs once
   more, for as many rounds as were asked for, or until nothing better is found.
4. One candidate comes to rows that nothing before has seen, as in `seed_search`: it replaces the start only if it is
   significantly better there. Then both are reported on the test rows.

A spent budget ends the optimiser and not the search: a part of it is set aside for what follows, and the best of what
is known goes on. Examples that failed are counted, and are no evidence for or against a program.

It knows programs, metrics and splits. Whether a wording is any good on other data, nothing here can see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dspy.teleprompt import Teleprompter

from spri_dspy.bulk import plain
from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.spec import load_lm
from spri_dspy.metrics import Metric, load_metric
from spri_dspy.program import models_of
from spri_dspy.runs import RunDir, fingerprint
from spri_dspy.tuning._dspy_compile import DspyCompile
from spri_dspy.tuning.optimizers import RUNNERS, options_of
from spri_dspy.tuning.programs import copy_program, identity
from spri_dspy.tuning.splits import Splits, make_splits

WRITERS = {"copro": "prompt_lm", "gepa": "reflection_lm", "mipro_v2": "prompt_lm", "simba": "prompt_lm"}
"""Optimisers that have an LM write instructions, and the option that names it."""


class DspySearch(Teleprompter):
    """Tunes the stages of a program with one of DSPy's optimisers, against a set-level metric.

    Args:
        optimizer: labeled_few_shot, bootstrap_few_shot, bootstrap_random_search, mipro_v2, gepa, simba or copro.
        metric: what to maximise: a Metric, or the name of one that needs no judge ("pearson").
        stages: names of the predictors that are tuned; None for all.
        budget: what all calls may spend, earlier starts in the same `run_dir` included.
        run_dir: where everything is kept; by default runs/OPTIMIZER-HASH.
        rng_seed: decides splits and what DSPy lets be seeded.
        **options: the optimiser's own (see `_running`), and those of every search:
            rounds: how often the optimiser runs, each time around the best so far; 1.
            finalists: programs a round that are scored by the metric itself, beside those the optimiser returned; 4.
            confirm: share of validation that is kept from the search, for the decision; 0.5.
            level: two-sided p that the decision must not exceed; 0.05.
            rollouts: samples of the judge for every example of the decision; 1.
            concurrency: calls in flight, and program runs at a time; 8.
            text_input, allow_leak, retry: as for SeedSearch.
            prompt_lm (gepa: reflection_lm): the LM that writes instructions; by default the program's base.

    Raises:
        UnknownNameError: no such optimiser, or it has no such option.
    """

    def __init__(
        self,
        optimizer: str,
        metric: Metric | str,
        *,
        stages: Sequence[str] | None = None,
        budget: Budget | None = None,
        run_dir: str | Path | None = None,
        rng_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.optimizer, self.metric = optimizer, load_metric(metric)
        self.stages = tuple(stages) if stages is not None else None
        self.budget, self.run_dir, self.rng_seed = budget, run_dir, rng_seed
        common, self.options, writer = _sorted(optimizer, options)
        self.rounds, self.finalists = common["rounds"], common["finalists"]
        self.confirm, self.level, self.rollouts = common["confirm"], common["level"], common["rollouts"]
        self.concurrency, self.retry = common["concurrency"], common["retry"]
        self.text_input, self.allow_leak = common["text_input"], common["allow_leak"]
        self.writer = load_lm(writer) if writer is not None else None
        if self.rounds < 1 or self.finalists < 1:
            raise UsageError(
                f"rounds and finalists must be at least 1, not {self.rounds} and {self.finalists}"
            )
        if not 0 < self.level <= 1:
            raise UsageError(f"level must lie in (0, 1], not {self.level!r}")

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
            student: a SPRI program or another `Program`, its LMs set.
            trainset: spri.Example or dspy.Example; gives the splits that are not given.
            teacher: not known here; the start teaches.
            valset: examples to search and to decide on.
            testset: examples to report on; an empty list does without.
            **kwargs: none is known.

        Returns:
            A new program with `report`, `candidate_programs` (dicts with "score" and "program", best first), `score`
            (its metric on the rows of the decision) and `trial_logs`. Without an improvement it is a copy of the start.

        Raises:
            LeakError: something stands on two sides of a split, or a seed in validation or test.
            UsageError: the examples are too few, the stages unknown, or the run directory another search's.
            PrerequisiteError: a failure that every example would meet, or a missing package.
        """
        if teacher is not None or kwargs:
            unknown = ", ".join(["teacher"] * (teacher is not None) + [*kwargs])
            raise UsageError(f"compile takes no {unknown}; the start itself is the teacher")
        start = copy_program(student)
        splits = self._split(start, trainset, valset, testset)
        manifest = self._manifest(start, splits)
        named = Path("runs") / f"{self.optimizer.replace('_', '-')}-{fingerprint(manifest)[:8]}"
        folder = Path(self.run_dir or named)
        with RunDir.create(folder, manifest):
            return DspyCompile(self, start, splits, folder).run()

    def _split(self, start: Any, train: Any, validation: Any, test: Any) -> Splits:
        return make_splits(
            train,
            validation,
            test,
            input_names=getattr(start, "inputs", ()),
            seeds=[dict(demo) for _, predictor in start.named_predictors() for demo in predictor.demos],
            text_input=self.text_input,
            confirm=self.confirm,
            seed=self.rng_seed,
            allow_leak=self.allow_leak,
        )

    def _manifest(self, start: Any, splits: Splits) -> dict[str, Any]:
        """What decides the result; not the budget, with a larger one the same search goes on."""
        writer = {"writer": getattr(self.writer, "model", None)} if self.writer is not None else {}
        return {
            "system": self.optimizer,
            "task": getattr(start, "task_name", None),
            "data": {n: fingerprint([plain(e.toDict()) for e in part]) for n, part in splits.parts().items()},
            "program": identity(start),
            "models": models_of(start) | writer,
            "settings": {
                "metric": self.metric.identity,
                "stages": self.stages,
                "options": dict(self.options),
                **{n: getattr(self, n) for n in ("rounds", "finalists", "confirm", "level", "rollouts")},
            },
            "seed": self.rng_seed,
        }


COMMON: Mapping[str, Any] = {
    "rounds": 1,
    "finalists": 4,
    "confirm": 0.5,
    "level": 0.05,
    "rollouts": 1,
    "concurrency": 8,
    "text_input": None,
    "allow_leak": False,
    "retry": None,
}
"""Options of every search and their defaults."""


def _sorted(optimizer: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Common options, the optimiser's own, and the LM that writes instructions.

    Raises:
        UnknownNameError: no such optimiser, or it has no such option.
        UsageError: an option's value is of the wrong type.
    """
    own = options_of(optimizer)
    writer = WRITERS.get(optimizer)
    known = {**COMMON, **own} | ({writer: None} if writer else {})
    for name, value in options.items():
        if name not in known:
            raise UnknownNameError(f"option of {optimizer}", name, known)
        _check(optimizer, name, value, known[name])
    common = {name: options.get(name, default) for name, default in COMMON.items()}
    chosen = {name: options.get(name, default) for name, default in own.items()}
    return common, chosen, options.get(writer) if writer else None


def _check(optimizer: str, name: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default's; where that is None, anything goes."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    for kind, said in kinds.items():
        if isinstance(default, kind):
            fits = isinstance(value, int | float if kind is float else kind)
            if not fits or (kind is not bool and isinstance(value, bool)):
                raise UsageError(f"the option {name} of {optimizer} must be {said}, not {value!r}")
            return


__all__ = ["COMMON", "RUNNERS", "WRITERS", "DspySearch"]
