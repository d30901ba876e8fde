"""DSPy's optimizers for a metric that only a whole set has.

1. The start is scored, and a surrogate of the metric is fitted around it, one number an example (`surrogate`).
2. The optimizer runs on that. It sees the chosen stages only, and each role keeps its LM (`student`).
3. What it scored and what it returns is ranked by the surrogate; the best are scored by the metric itself on the search
   split. The best becomes the incumbent, the surrogate is fitted anew, and the optimizer runs once more, for as many
   rounds as were asked for, or until nothing better is found.

A spent budget ends the optimizer and not the search. Examples that failed are counted, and are no evidence for or
against a program. An optimizer of one's own that has DSPy's shape is a function that calls `dspy_search`; see
`optimizers/copro.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import dspy
import pydantic
from dspy.utils.exceptions import AdapterParseError, LMError

from spri_dspy.errors import BudgetSpent, CallError, UsageError
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.failures import failure_kind
from spri_dspy.lms.scope import use_scope
from spri_dspy.runs import CACHE
from spri_dspy.tuning.context import Context, Scored
from spri_dspy.tuning.example_metric import ExampleMetric, as_rows
from spri_dspy.tuning.programs import copy_program, identity
from spri_dspy.tuning.student import Halt, Seen, Sentinel, Session, State, Student, build, first_line
from spri_dspy.tuning.surrogate import NEUTRAL, Surrogate, fit

LOG = "optimizer.log"
"""What DSPy prints, in the run directory."""

Count = Annotated[int, pydantic.Field(ge=1)]
"""The type of an option that must be at least 1."""

Size = Annotated[int, pydantic.Field(ge=0)]
"""The type of an option that must be at least 0."""

NEVER = 10**9
"""Errors after which DSPy gives up: failures are data here, and what is fatal ends the search itself."""

_SHRINKAGE = (
    5.0  # a mean over so many rows is pulled half-way to nothing: the luckiest of many rest on few rows
)


@dataclass(frozen=True)
class CompileInputs:
    """What one of DSPy's optimizers is given.

    Attributes:
        student: the program as it is shown to the optimizer.
        train: rows to learn and to take demos from.
        search: rows to score candidates on; none of them ever becomes a demo.
        metric: one number an example, see `example_metric`.
        lm: who writes new instructions.
        seed: of everything random that DSPy lets be seeded.
        threads: program runs at a time.
    """

    student: Student
    train: list[dspy.Example]
    search: list[dspy.Example]
    metric: Callable[..., Any]
    lm: Any
    seed: int
    threads: int

    def teacher(self) -> Student:
        """The student, whose runs become demos. DSPy takes the demos of a teacher that is not compiled away first."""
        teacher = self.student.deepcopy()
        teacher._compiled = True
        return teacher


def dspy_search(
    context: Context, optimize: Callable[[CompileInputs], Any], *, rounds: int, finalists: int
) -> list[Any]:
    """Run an optimizer of DSPy's for some rounds, each around the best so far: the best by the metric itself.

    Args:
        context: the search.
        optimize: compiles the student, and returns what DSPy returns.
        rounds: how often, at least 1.
        finalists: programs a round that are scored by the metric itself, beside the one that is returned; at least 1.

    Raises:
        UsageError: DSPy refuses its options or the data.
        PrerequisiteError: a failure that every call would meet.
    """
    context.score(context.start, round=0)
    best = context.scored[identity(context.start)]
    for number in range(1, rounds + 1):
        found = _Round(context, optimize, number, best, finalists).run()
        is_better, best = found is not best, found
        if not is_better or context.report.stopped:
            break
    return [best.program]


class _Round:
    """One run of an optimizer around the best program so far."""

    def __init__(
        self,
        context: Context,
        optimize: Callable[[CompileInputs], Any],
        number: int,
        best: Scored,
        finalists: int,
    ) -> None:
        self.context, self.optimize, self.number, self.best = context, optimize, number, best
        self.n_finalists, self.name = finalists, context.report.optimizer
        self.stages = context.stages or tuple(name for name, _ in context.start.named_predictors())
        self.surrogate = fit(context.metric, best.scores)

    def run(self) -> Scored:
        """The best, or something better."""
        context, report = self.context, self.context.report
        session, returned = self._optimize()
        ranking = ranked(session, self.best, self.surrogate, self.stages)[: self.n_finalists]
        finalists: list[tuple[State, dict[str, Any]]] = [
            (
                seen.state,
                {"surrogate": round(gain, 4), "surrogate_rows": len(seen.values), "calls_then": seen.calls},
            )
            for seen, gain in ranking
        ]
        finalists += [(returned, {})] if returned is not None else []
        scored = [self.best]
        for place, (state, about) in enumerate(finalists, 1):
            program = build(context.start, state)
            if identity(program) in context.scored:
                continue
            try:
                context.score(
                    program, name=f"round {self.number}, finalist {place}", round=self.number, **about
                )
            except BudgetSpent:
                report.stopped = (
                    "the search has spent its part of the budget before all finalists were scored"
                )
                break
            scored.append(context.scored[identity(program)])
        report.rounds.append(
            {
                "round": self.number,
                "optimizer": self.name,
                "program_runs": session.n_runs,
                "programs_seen": len(session.seen),
                "finalists_scored": len(scored) - 1,
                "failures": dict(session.failures),
                "missing": session.missing,
                "is_cut_off": session.stopped_by is not None,
                "calls": context.evaluator.spent().calls,
            }
        )
        if session.stopped_by is not None:
            report.stopped = (
                report.stopped or f"{self.name} ended early: the search has spent its part of the budget"
            )
        return context.better(scored)

    def _optimize(self) -> tuple[Session, State | None]:
        """Run the optimizer: the session, and what it returned, if it came to that."""
        context, evaluator = self.context, self.context.evaluator
        examples = [*context.train, *context.search]
        # Most calls of the finalists have been made by the optimizer.
        with (
            closing(CallCache(evaluator.folder / CACHE)) as cache,
            context.holding_back(len(context.search)),
        ):
            session = Session(evaluator.scope(cache, in_threads=True), examples, evaluator.on_record)
            student = Student(copy_program(self.best.program), self.stages, session)
            inputs = CompileInputs(
                student,
                as_rows(context.train, [each.signature for each in student.chosen.values()]),
                as_rows(context.search),
                ExampleMetric(context.metric, self.surrogate, examples, session),
                context.prompt_lm or context.start.get_lm(),
                context.rng_seed,
                context.concurrency,
            )
            try:
                with (
                    use_scope(session.scope),
                    _surroundings(student, session, context.concurrency),
                    _logged(evaluator.folder / LOG),
                ):
                    returned = self._compile(inputs, session)
            finally:
                session.settle()  # before the cache is closed
        if session.stopped_by is not None and not isinstance(session.stopped_by, BudgetSpent):
            raise session.stopped_by
        return session, session.returned(returned) if returned is not None else None

    def _compile(self, inputs: CompileInputs, session: Session) -> Any:
        """What the optimizer returns; None if it did not come to that, and what it scored until then is to be used."""
        try:
            return self.optimize(inputs)
        except Halt:
            return None
        except (AdapterParseError, LMError, CallError, BudgetSpent) as error:  # of the LM that writes for it
            if isinstance(error, BudgetSpent) or failure_kind(error) == "fatal":
                session.stop(error)
            else:
                self.context.report.stopped = (
                    f"{self.name} ended early, by the LM that writes for it: {first_line(error)}"
                )
            return None
        except (ValueError, AssertionError) as error:  # how DSPy refuses options and data
            raise UsageError(f"DSPy's {self.name} refuses this: {first_line(error)}") from error


def ranked(
    session: Session, best: Scored, surrogate: Surrogate, stages: Sequence[str]
) -> list[tuple[Seen, float]]:
    """Programs that the optimizer scored, the most promising first, and their gains over the best with shrinkage.

    Gains are paired by example, so that it does not matter on which rows a program was scored.
    """
    ours = Student(best.program, stages, session).key
    base = {s.id: surrogate.value(s) for s in best.scores if s.value is not None}
    if ours in session.seen:
        base = session.seen[ours].values | base
    found: list[tuple[Seen, float]] = []
    for key, seen in session.seen.items():
        if key != ours:
            gains = [value - base.get(example, NEUTRAL) for example, value in seen.values.items()]
            found.append((seen, sum(gains) / (len(gains) + _SHRINKAGE)))
    return sorted(found, key=lambda each: -each[1])


@contextmanager
def _surroundings(student: Student, session: Session, threads: int) -> Generator[None]:
    """DSPy's settings while an optimizer runs: nothing global is called, kept or counted."""
    settings: dict[str, Any] = {"num_threads": threads, "max_errors": NEVER, "disable_history": True}
    callbacks = [*dspy.settings.callbacks, Sentinel(session)]
    with dspy.context(lm=student.get_lm(), trace=None, callbacks=callbacks, **settings):
        yield


@contextmanager
def _logged(path: Path) -> Generator[None]:
    """What DSPy prints goes to a file: results of ours are on stdout."""
    log = path.open("a", encoding="utf-8", errors="backslashreplace")
    with log, redirect_stdout(log), redirect_stderr(log):
        yield
