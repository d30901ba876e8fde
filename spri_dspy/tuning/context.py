"""What an optimizer works with: the start, examples, and scores that are paid for once and within the budget.

    program = context.program({"principles.generate": seeds})      # the start with other seeds
    context.score(program)                                          # its metric on the search split
    context.scores(program, context.train)                          # a Score an example

It knows one search; splits, decision and test are in `experiment`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import dspy

from spri_dspy.bulk import plain
from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.lms.scope import Retry
from spri_dspy.metrics import Metric
from spri_dspy.records import Score
from spri_dspy.tasks import Example
from spri_dspy.tuning.decision import COVERAGE_LOSS
from spri_dspy.tuning.evaluation import Evaluator, Spent
from spri_dspy.tuning.programs import copy_program, identity, stages_of
from spri_dspy.tuning.report import TuningReport

LIMITED = ("calls", "tokens", "usd")

MARGIN = 1.25
"""A candidate may cost more than the start: longer prompts, more rounds."""


@dataclass
class Scored:
    """A program, its scores on the search split, and its metric there (nan if it cannot be computed)."""

    program: Any
    scores: list[Score]
    value: float


@dataclass
class Context:
    """One search; optimizers are called with it.

    Attributes:
        start: the program to do better than. Do not change it; `program` makes others of it.
        teacher: another program whose good answers may become demos; None for the start itself.
        train: examples to learn from and to take demos from.
        search: examples to score candidates on; none may become a demo.
        metric: what counts.
        stages: names of the predictors to tune; None where the user left that to the optimizer.
        prompt_lm: the LM that writes instructions and new seeds; None where the user named none.
        rng_seed: of the whole experiment; `rng` is made of it.
        concurrency: LM calls in flight at most, per LM.
        retry: how transient failures of single calls are tried again.
        report: trials, rounds and the pool of seeds may be added to.
        evaluator: runs programs and other modules, resumably.
        cost: what the score of one example took on average, for the start.
        scored: what `score` has scored so far, by the program's hash, the start among them if it was.
    """

    start: Any
    teacher: Any
    train: tuple[Example, ...]
    search: tuple[Example, ...]
    metric: Metric
    stages: tuple[str, ...] | None
    prompt_lm: Any
    rng_seed: int
    concurrency: int
    retry: Retry | None
    report: TuningReport
    evaluator: Evaluator
    cost: Spent
    spent_at: Callable[[str], Spent]
    scored: dict[str, Scored] = field(default_factory=dict)
    candidates: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.rng_seed}/search")

    def program(
        self,
        seeds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        instructions: Mapping[str, str] | None = None,
    ) -> Any:
        """A copy of the start with other seeds or instructions; its LMs and settings are the start's.

        Args:
            seeds: demos by the name of their predictor, such as {"principles.generate": rows}; the others keep theirs.
            instructions: by the name of the predictor.

        Raises:
            UnknownNameError: the program has no such predictor.
        """
        made = copy_program(self.start)
        for name, rows in (seeds or {}).items():
            stages_of(made, [name])[name].demos = [dspy.Example(plain(dict(row))) for row in rows]
        for name, text in (instructions or {}).items():
            predictor = stages_of(made, [name])[name]
            predictor.signature = predictor.signature.with_instructions(text)
        return made

    def score(self, program: Any, **about: Any) -> float:
        """The metric of a program on the search split; nan if it cannot be computed. What is known is not paid again.

        Args:
            program: it must not be changed afterwards.
            **about: more to keep with the trial, as JSON, such as a `name`.

        Raises:
            BudgetSpent: what the search may spend is spent. If it is not caught, what was scored stands.
            PrerequisiteError: a failure that every example would meet.
        """
        key = identity(program)
        if key not in self.scored:
            scores = self.scores(program)
            self.scored[key] = Scored(program, scores, self.metric.measure(scores))
            estimate = self.metric.value(scores)
            about = {
                "name": "start" if key == identity(self.start) else f"candidate {len(self.scored)}"
            } | about
            counts = {name: getattr(estimate, name) for name in ("low", "high", "n", "dropped")}
            self.note(program, self.scored[key].value, **about, **counts, calls=self.evaluator.spent().calls)
            self.evaluator.tell(best=self.scored[key].value)
        return self.scored[key].value

    def scores(self, program: Any, examples: Sequence[Example] | None = None) -> list[Score]:
        """A Score an example, in order; those of the search split by default. A failed example has no value.

        Raises:
            BudgetSpent: what the search may spend is spent; what was finished is kept.
            PrerequisiteError: a failure that every example would meet.
        """
        return self.evaluator.scores([(program, self.search if examples is None else examples)])[0]

    def note(self, program: Any, value: float, **about: Any) -> None:
        """Put a program into the report's trials that was scored in another way than by `score`."""
        shown = {name: _number(each) for name, each in (about | {"value": value}).items()}
        self.report.trials.append(shown | {"program": identity(program)})
        self.candidates.append({"score": value, "program": program, **about})

    def left(self) -> Spent:
        """What the search may still spend; infinite where there is no limit."""
        return self._left(self.evaluator.budget)

    def affordable(self, step: str) -> float:
        """How many scores of examples the search can still pay for, by what the start's scores cost.

        Args:
            step: a name for this moment; after a restart, what had been spent when it was first reached counts.
        """
        left = self._left(self.spent_at(step))
        pairs = ((getattr(left, name), getattr(self.cost, name) * MARGIN) for name in LIMITED)
        return min((most / each for most, each in pairs if each), default=math.inf)

    def _left(self, spent: Any) -> Spent:
        limits = {name: getattr(self.evaluator.budget, f"max_{name}") for name in LIMITED}
        left = {n: math.inf if x is None else max(0, x - getattr(spent, n)) for n, x in limits.items()}
        return Spent(**left)

    def holding_back(self, n_scores: int) -> AbstractContextManager[None]:
        """Let calls in the block spend only what leaves enough for so many scores of examples."""
        return self.evaluator.holding_back(self.cost.times(n_scores * MARGIN))

    def best(self, found: Iterable[Any]) -> Any:
        """The best of the programs that a search returned, or had scored if it returned none; the start if none is.

        One alone goes on as it is. Of several, all are scored on the search split, and so is the start.

        Raises:
            UsageError: something else than such programs was returned.
        """
        chosen = {identity(p): p for p in map(self._checked, found)} or {
            k: s.program for k, s in self.scored.items()
        }
        start = identity(self.start)
        others = [program for key, program in chosen.items() if key != start]
        if not others:
            return self.start
        if len(others) == 1 and not {start, identity(others[0])} <= set(self.scored):
            return others[0]
        try:
            for program in (self.start, *others):
                self.score(program)
        except BudgetSpent:
            self.report.stopped = (
                self.report.stopped or "the budget was spent before all candidates were scored"
            )
        known = [self.scored[key] for key in (start, *map(identity, others)) if key in self.scored]
        chosen = self.better(known).program if known else self.start
        return self.start if identity(chosen) == start else chosen

    def better(self, known: Sequence[Scored]) -> Scored:
        """The one with the highest metric of those that fail about as seldom as the first; of equals the first."""
        enough = coverage(known[0].scores) - COVERAGE_LOSS
        rank = lambda each: -math.inf if math.isnan(each.value) else each.value  # noqa: E731
        return max((each for each in known if coverage(each.scores) >= enough), key=rank)

    def _checked(self, program: Any) -> Any:
        """A copy of a program with the LMs of the start, whatever a search did to them.

        Raises:
            UsageError: it is no program, or has other predictors.
        """
        ours = dict(self.start.named_predictors())
        theirs = dict(program.named_predictors()) if isinstance(program, dspy.Module) else {}
        if set(ours) != set(theirs):
            shown = f"a {type(program).__name__}" if not theirs else f"a program with {', '.join(theirs)}"
            raise UsageError(
                f"the optimizer {self.report.optimizer} gave {shown}; it must give programs as context.program() makes"
            )
        made = copy_program(program)
        for name, predictor in made.named_predictors():
            predictor.lm = ours[name].lm
        return made


def coverage(scores: Sequence[Score]) -> float:
    """The share of examples with a score."""
    return sum(s.value is not None for s in scores) / max(1, len(scores))


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
