"""A program as DSPy's optimizers are shown it, and the session in which they run it.

Student    the program with only its chosen predictors in sight: what is not chosen cannot be reset or rewritten.
Session    what every call goes through (cache, budget, what must end the search), and every program that was scored.

An example that fails is an empty prediction, never an exception: optimizers would make a zero of it. What must
end the search (a spent budget, a wrong key) is raised as Halt, which is no Exception, because optimizers swallow those.
DSPy's worker threads see DSPy's settings and nothing else of their caller's context, so the scope is set here, call by
call. It knows programs and calls; the metric that optimizers are given is in `example_metric`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from spri_dspy.bulk import plain
from spri_dspy.errors import BudgetSpent, PrerequisiteError, SpriError, UsageError
from spri_dspy.lms.failures import failure_kind
from spri_dspy.lms.scope import Scope, use_scope
from spri_dspy.records import Record
from spri_dspy.tasks import Example
from spri_dspy.tuning.programs import copy_program

logger = logging.getLogger(__name__)

META = ("trace", "usage", "stop_reasons")
"""Fields of a program's prediction that are no output."""


class Halt(BaseException):
    """Ends an optimizer at once; `Session.stopped_by` says why. No Exception, so that no optimizer can swallow it."""


State = Mapping[str, tuple[Any, tuple[Any, ...]]]
"""What an optimizer may change: signature and demos by predictor. Programs are made of it by `build`."""


@dataclass
class Seen:
    """A program that an optimizer scored, and the numbers that it got.

    Attributes:
        calls: LM calls that had been spent when it was first scored.
        values: surrogate by example id.
    """

    state: State
    calls: int
    values: dict[str, float] = field(default_factory=dict)


class Session:
    """What every call of an optimizer goes through; copies of a student share it.

    Args:
        scope: cache and budget of all calls.
        examples: whose groups demos made from them get back.
        on_record: called with what each run of a program, or of a judge, took.

    Attributes:
        stopped_by: the error that ended the search early, None if nothing did.
        failures: how often examples failed, by the error's name.
        missing: how often a program ran and no score could be had.
        n_runs: how often a program was run.
        seen: programs that were scored, by identity, in the order in which they came.
    """

    def __init__(
        self,
        scope: Scope,
        examples: Sequence[Example],
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        self.scope, self.stopped_by, self._on_record = scope, None, on_record
        self.failures: Counter[str] = Counter()
        self.n_runs = self.missing = 0
        self.seen: dict[str, Seen] = {}
        self._groups = _Groups(examples)
        self._changed = threading.Condition()
        self._open = 0
        self._flights: dict[Any, tuple[threading.Lock, list[None]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Surround work that calls LMs, in any thread.

        Raises:
            Halt: the search is to end, now or since before.
        """
        with self._changed:
            if self.stopped_by is not None:
                raise Halt
            self._open += 1
        try:
            with use_scope(self.scope):
                yield
        except Exception as error:
            if failure_kind(error) == "fatal" or isinstance(
                error, UsageError | BudgetSpent | PrerequisiteError
            ):
                self.stop(error)
                raise Halt from error
            raise
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def stop(self, error: Exception) -> None:
        """Let no further call begin."""
        if failure_kind(error) == "fatal" and not isinstance(error, SpriError):
            model = getattr(error, "model", None) or "the LM"
            why = PrerequisiteError(
                f"every call would fail: {first_line(error)}; check key, model and address of {model}, then start the "
                "same again, finished calls are kept"
            )
            why.__cause__ = error
            error = why
        with self._changed:
            self.stopped_by = self.stopped_by or error

    def settle(self) -> None:
        """Wait until nothing is being run any more: threads outlive the optimizer that started them."""
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0)

    def run(self, student: Student, inputs: Mapping[str, Any]) -> dspy.Prediction:
        """One prediction of a student; of an example that fails, an empty one.

        Raises:
            Halt: see `guarded`.
        """
        self._groups.give(student.chosen.values())
        shared = getattr(student.program, "inputs", None) or sorted(inputs)
        key = (student.key, _rollouts(student.program), repr([inputs.get(name) for name in shared]))
        # The answers to one instance share its first stage, and DSPy starts a slow example again after two minutes: one
        # after the other, the later run takes the earlier one's calls from the cache.
        with self._alone(key):
            try:
                with self.guarded():
                    self.n_runs += 1
                    prediction = self.count(student.program(**inputs))
            except Exception as error:  # one example's failure is data, whatever it is
                self.fail(error)
                prediction = dspy.Prediction()
                prediction._failed = True
        prediction._student = student
        return prediction

    def returned(self, student: Student) -> State:
        """What an optimizer returned, with its demos' groups."""
        self._groups.give(student.chosen.values())
        return student.state()

    def count(self, prediction: dspy.Prediction) -> dspy.Prediction:
        """Let whoever watches know what a prediction took; the prediction."""
        if self._on_record:
            self._on_record(Record("", {}, usage=prediction.get("usage", {})))
        return prediction

    def fail(self, error: Exception) -> None:
        """Count a failed example."""
        if self._on_record:
            self._on_record(Record("", {}, error=first_line(error)))
        name = type(error).__name__
        if not self.failures[name]:
            logger.warning("an example failed and counts as missing: %s", first_line(error))
        self.failures[name] += 1

    def note(self, student: Student, example_id: str, value: float) -> None:
        """Keep a program that was scored, and its number."""
        with self._changed:
            calls = self.scope.budget.calls if self.scope.budget else 0
            self.seen.setdefault(student.key, Seen(student.state(), calls)).values[example_id] = value

    @contextmanager
    def _alone(self, key: Any) -> Generator[None]:
        with self._changed:
            lock, users = self._flights.setdefault(key, (threading.Lock(), []))
            users.append(None)
        try:
            with lock:
                yield
        finally:
            with self._changed:
                users.pop()
                if not users:
                    self._flights.pop(key, None)


class Sentinel(BaseCallback):
    """Sees every LM call of a search, and ends it when one fails that none after it can survive.

    Some optimizers take the failure of the LM that writes for them for a bad idea, and go on without any.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_lm_end(
        self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None
    ) -> None:
        """Look at how a call ended."""
        if exception is not None and failure_kind(exception) == "fatal":
            assert isinstance(exception, Exception)
            self._session.stop(exception)


class Student(dspy.Module):
    """Drafts, critiques and refines as its program does; only the predictors that are tuned are listed as its own.

    Args:
        program: what is run; this holds it, and copies hold a copy.
        stages: names of the predictors in sight.
        session: what every call goes through.

    Attributes:
        chosen: the predictors in sight, by name.
    """

    def __init__(self, program: Any, stages: Iterable[str], session: Session) -> None:
        super().__init__()
        self.program, self._session = program, session
        predictors = dict(program.named_predictors())
        self.chosen = {name: predictors[name] for name in stages}

    def named_parameters(self) -> list[tuple[str, Any]]:
        """The chosen predictors, by their names in the program. What DSPy resets, lists and saves goes by this."""
        return list(self.chosen.items())

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program, see `Session.run`."""
        return self._session.run(self, inputs)

    def set_lm(self, lm: Any) -> None:
        """Set the base LM; the critic keeps its own."""
        self.program.set_lm(lm)

    def get_lm(self) -> Any:
        """The base LM."""
        return self.program.get_lm()

    @property
    def key(self) -> str:
        """A hash of what an optimizer may have changed. It reads only: other threads may be running this student."""
        parts = [
            (
                name,
                p.signature.instructions,
                [f.json_schema_extra for f in p.signature.fields.values()],
                p.demos,
            )
            for name, p in self.chosen.items()
        ]
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def state(self) -> State:
        """What an optimizer may have changed, as it is now."""
        return {name: (p.signature, tuple(p.demos)) for name, p in self.chosen.items()}


def build(start: Any, state: State) -> Any:
    """A copy of the start with other signatures and demos; its LMs and settings are the start's."""
    program = copy_program(start)
    predictors = dict(program.named_predictors())
    for name, (signature, demos) in state.items():
        predictors[name].signature, predictors[name].demos = signature, list(demos)
        predictors[name].demos = tidy(predictors[name])
    return program


def after_start(start: Student, made: Student) -> Student:
    """The demos that the start shows, then the new ones."""
    for name, predictor in made.chosen.items():
        predictor.demos = [*start.chosen[name].demos, *tidy(predictor)]
    return made


def tidy(predictor: Any) -> list[dspy.Example]:
    """The demos that DSPy would show, with the fields that it would show, and their group.

    A demo lacking an output, or all inputs, is never shown; rows of training data bring fields that no stage has.
    """
    signature, kept = predictor.signature, []
    for demo in predictor.demos:
        fields = {name: plain(demo[name]) for name in signature.fields if demo.get(name) is not None}
        has_outputs = all(name in fields for name in signature.output_fields)
        if not has_outputs or not any(name in fields for name in signature.input_fields):
            continue
        more = {name: demo[name] for name in ("augmented", "group") if demo.get(name) is not None}
        kept.append(dspy.Example(**fields, **more))
    return kept


class _Groups:
    """Makes demos what they will be once they are saved: bootstrapped ones have typed values and no group.

    A stage's inputs have no group in them, so it is found by them among the examples.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = [e for e in examples if e.group is not None]
        self._tables: dict[tuple[str, ...], dict[tuple[str, ...], str | None]] = {}

    def give(self, predictors: Iterable[Any]) -> None:
        """Give every demo plain values and, if it came from an example, its example's group; what has one keeps it."""
        for predictor in predictors:
            for demo in predictor.demos:
                for name, value in list(demo.items()):
                    if not isinstance(value, str | int | float | dict | None):
                        demo[name] = plain(value)
                if self._examples and "group" not in demo:
                    group = self._group(predictor, demo)
                    if group is not None:
                        demo["group"] = group

    def _group(self, predictor: Any, demo: Any) -> str | None:
        names = tuple(n for n in predictor.signature.input_fields if n in self._examples[0].input_values)
        if not names or any(n not in demo for n in names):
            return None
        return self._table(names).get(tuple(str(demo[n]) for n in names))

    def _table(self, names: tuple[str, ...]) -> dict[tuple[str, ...], str | None]:
        """Groups by the values of these inputs; None where two groups have the same ones."""
        if names not in self._tables:
            table: dict[tuple[str, ...], str | None] = {}
            for e in self._examples:
                key = tuple(str(e.input_values.get(n)) for n in names)
                table[key] = e.group if table.get(key, e.group) == e.group else None
            self._tables[names] = table
        return self._tables[names]


def _rollouts(program: Any) -> tuple[str, ...]:
    """Which samples an optimizer asks the program's LMs for, where not the usual one."""
    lms = (predictor.lm for _, predictor in program.named_predictors())
    return tuple(str(lm.kwargs.get("rollout_id", "")) for lm in lms if lm is not None)


def first_line(error: Exception) -> str:
    """What an error says, short: LM errors may hold whole prompts."""
    lines = str(getattr(error, "message", None) or error).splitlines() or [""]
    said = lines[0][:200]
    return said if isinstance(error, SpriError) else f"{type(error).__name__}: {said}"
