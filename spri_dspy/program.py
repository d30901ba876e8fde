"""The method: draft, critique, refine until accepted; once for principles, once for the response.

CritiqueRefine is one such loop, SPRI is two of them. One plan, a generator of (predictor, arguments), drives
synchronous and asynchronous calls alike. Source: SPRI (Zhan et al., ICML 2025), see paper.md section 1.

It knows no task and no model: a task brings signatures and seeds, roles bring LMs.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import dspy

from spri_dspy.errors import UsageError
from spri_dspy.lms.spec import load_lm
from spri_dspy.predict import ASK_AGAIN, RolePredict, check_show, usage_of
from spri_dspy.records import Round, StopReason, Usage, Verdict
from spri_dspy.signatures import Stages, candidate_field

Step = tuple[RolePredict, dict[str, Any]]
Plan = Generator[Step, dspy.Prediction, Any]


class ProgramTask(Protocol):
    """What a program needs to know of a task; `tasks.Task` is one."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def stages(self) -> Stages:
        """Its six signatures."""
        ...

    @property
    def seeds(self) -> tuple[Mapping[str, Any], ...]:
        """Its seed principles: rows with the inputs, `principles`, and a `group` if there are groups."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How one loop ended.

    Attributes:
        value: the candidate that stands, of the type of the signature's output field.
        score: its verdict's score, None if it has none.
    """

    value: Any
    score: int | None
    stop_reason: StopReason
    trace: tuple[Round, ...]


class CritiqueRefine(dspy.Module):
    """Draft a candidate, have it judged, refine it by the feedback, until the gate or the last round.

    Args:
        generate, critique, refine: signatures. `generate` and `refine` have one output field each; `critique`
            takes the candidate under `generate`'s output name and returns `feedback` and `score`.
        accept_at: the score that ends the loop, 1 to 5. 6 can never be reached: every round is used.
        max_critiques: critiques of different candidates, at least 1; refinements are at most one fewer.
        keep: "best" returns the highest-scored candidate (the latest of equals), "last" the last one.
        on_unscored: "ask_again" samples the critic anew, at most twice a critique, then stops as "unscored";
            "stop" stops at once.
        stage: name in traces; the candidate's field name by default.

    At most 1 + max_critiques * 3 + (max_critiques - 1) LM calls, plus new samples of unreadable answers.
    """

    def __init__(
        self,
        generate: type[dspy.Signature],
        critique: type[dspy.Signature],
        refine: type[dspy.Signature],
        *,
        accept_at: int = 4,
        max_critiques: int = 4,
        keep: Literal["best", "last"] = "best",
        on_unscored: Literal["ask_again", "stop"] = "ask_again",
        stage: str | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= accept_at <= 6 or max_critiques < 1:
            raise UsageError(
                f"accept_at must be 1 to 6 and max_critiques at least 1, not {accept_at} and {max_critiques}"
            )
        if keep not in ("best", "last") or on_unscored not in ("ask_again", "stop"):
            raise UsageError(
                f"keep is best or last, on_unscored ask_again or stop, not {keep!r} and {on_unscored!r}"
            )
        self.candidate, self.improved = candidate_field(generate), candidate_field(refine)
        self.stage = stage or self.candidate
        self.generate = RolePredict(generate, role="base", stage=f"generate_{self.stage}")
        self.critique = RolePredict(critique, role="critic", stage=f"critique_{self.stage}")
        self.refine = RolePredict(refine, role="base", stage=f"refine_{self.stage}")
        self.accept_at, self.max_critiques, self.keep, self.on_unscored = (
            accept_at,
            max_critiques,
            keep,
            on_unscored,
        )

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Yield (predictor, arguments), receive predictions, return an Outcome."""
        draft = yield self.generate, _arguments(self.generate, inputs, group)
        value = draft[self.candidate]
        seen: list[tuple[Any, int | None]] = []
        trace: list[Round] = []
        for number in range(1, self.max_critiques + 1):
            verdict = yield from self._judge({**inputs, self.candidate: value}, value, group, trace)
            seen.append((value, verdict.score))
            if verdict.score is None:
                return self._outcome(seen, "unscored", trace)
            if verdict.score >= self.accept_at:
                return self._outcome(seen, "accepted", trace)
            if number < self.max_critiques:
                known = {**inputs, self.candidate: value, "feedback": verdict.feedback}
                refined = yield self.refine, _arguments(self.refine, known, group)
                value = refined[self.improved]
        return self._outcome(seen, "exhausted", trace)

    def _judge(
        self, known: Mapping[str, Any], value: Any, group: str | None, trace: list[Round]
    ) -> Generator[Step, dspy.Prediction, Verdict]:
        """Critique one candidate, asking again while no score can be read."""
        samples = 1 + (ASK_AGAIN if self.on_unscored == "ask_again" else 0)
        verdict = Verdict("", None)
        for attempt in range(samples):
            judged = yield self.critique, {**_arguments(self.critique, known, group), "rollout": attempt}
            verdict = Verdict(judged["feedback"] or "", judged["score"])
            trace.append(Round(self.stage, str(value), verdict, attempt))
            if verdict.score is not None:
                break
        return verdict

    def _outcome(self, seen: list[tuple[Any, int | None]], reason: StopReason, trace: list[Round]) -> Outcome:
        value, score = seen[-1]
        if self.keep == "best":
            value, score = max(reversed(seen), key=lambda candidate: candidate[1] or 0)
        return Outcome(value, score, reason, tuple(trace))

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Run the loop: the candidate under its own name, `score`, `stop_reason`, `trace`, `usage`."""
        return self._prediction(*_drive(self.plan(inputs, group)))

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """The same, without blocking."""
        return self._prediction(*await _adrive(self.plan(inputs, group)))

    def _prediction(self, outcome: Outcome, usage: dict[str, Usage]) -> dspy.Prediction:
        return dspy.Prediction(
            **{self.candidate: outcome.value},
            score=outcome.score,
            stop_reason=outcome.stop_reason,
            trace=list(outcome.trace),
            usage=usage,
        )


class Program(dspy.Module):
    """A system that answers a task's inputs: what SPRI and every baseline have in common.

    A subclass makes its RolePredicts, lists its `inputs`, and writes `plan`, a generator that yields (predictor,
    arguments), receives predictions, and returns the fields of the final prediction.

    Attributes:
        inputs: names of the inputs that a call must have.
        optional: names of inputs that a call may have.
        label_inputs: names of labels that this system is shown (an oracle sees the experts' principles).
        calls: LM calls an example takes: fewest, typical, most.
    """

    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    label_inputs: tuple[str, ...] = ()
    calls: tuple[float, float, float] = (1, 1, 1)

    def __init__(self, task: ProgramTask) -> None:
        super().__init__()
        if isinstance(task, str):
            raise UsageError(f"a program takes the task itself: load_task({task!r})")
        self.task_name = task.name
        self.group_of = getattr(task, "group_of", None)

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Yield (predictor, arguments), receive predictions, return the fields of the prediction."""
        raise NotImplementedError(f"{type(self).__name__} has no plan")

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Answer one input.

        Raises:
            UsageError: an input is missing or unknown.
            UnreadableAnswer: an LM gave nothing that can be read.
        """
        return _prediction(*_drive(self.plan(inputs, self._check(inputs, group))))

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Answer one input without blocking."""
        return _prediction(*await _adrive(self.plan(inputs, self._check(inputs, group))))

    def check(self, inputs: Mapping[str, Any], group: str | None = None) -> None:
        """Refuse inputs that a call would refuse, without calling an LM.

        Raises:
            UsageError: an input is missing or unknown, or the system has nothing for it.
        """
        plan = self.plan(inputs, self._check(inputs, group))
        next(plan, None)
        plan.close()

    def _check(self, inputs: Mapping[str, Any], group: str | None) -> str | None:
        """Refuse wrong inputs; tell the group if it was not given."""
        must = (*self.inputs, *self.label_inputs)
        missing, unknown = [n for n in must if n not in inputs], set(inputs) - {*must, *self.optional}
        if missing or unknown:
            said = [f"missing {', '.join(missing)}"] if missing else []
            said += [f"unknown {', '.join(sorted(unknown))}"] if unknown else []
            raise UsageError(f"inputs of {self.task_name}: {'; '.join(said)}; it takes {', '.join(must)}")
        for name in self.inputs:
            if not isinstance(inputs[name], str) or not inputs[name].strip():
                said = "is empty" if isinstance(inputs[name], str) else f"is {type(inputs[name]).__name__}"
                raise UsageError(f"inputs of {self.task_name}: {name} must be text, and it {said}")
        return self.group_of(inputs) if group is None and self.group_of else group

    def set_lms(self, base: Any = None, critic: Any = None) -> Program:
        """Give the roles their LMs, as LM strings or dspy.LM objects. Without a critic, the base criticises."""
        return set_lms(self, base=base, critic=critic)

    def set_lm(self, lm: Any) -> None:
        """Set the base LM. The critic keeps its own: DSPy's optimisers call this with one LM for all."""
        for _, predictor in self.named_predictors():
            if getattr(predictor, "role", "base") == "base":
                predictor.lm = lm

    def get_lm(self) -> Any:
        """The base LM."""
        roles = ((p, getattr(p, "role", "base")) for _, p in self.named_predictors())
        return next((p.lm for p, role in roles if role == "base"), None)

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Take over saved prompts and demos; LMs stay as they are set.

        Raises:
            UsageError: the state belongs to a program with other predictors or fields.
        """
        check_state(self, state)
        super().load_state(state, allow_unsafe_lm_state=False)


class SPRI(Program):
    """Situated principles, then a response that follows them.

    Args:
        task: what `load_task` returns, or anything with `name`, `stages` and `seeds`.
        seeds: which seeds an input is shown: "group", "all" or "nearest:K", see RolePredict.
        **loop: settings of both loops, see CritiqueRefine.

    The seeds are `program.principles.generate.demos`: optimisers tune them, `save` keeps them.
    Without LMs set, the offline stand-in answers.

        program = SPRI(load_task("reappraisal")).set_lms(base="openai/gpt-4o-mini")
        prediction = program(post="...", aim="...")        # or: await program.acall(...)
        prediction.principles, prediction.response, prediction.stop_reasons, prediction.trace, prediction.usage

    A call that brings `principles` goes straight to the second stage; a call without what only the second stage
    needs (a rubrics instance with no answer to judge) ends after the first.
    """

    # Both stages accepted at once; as measured on the published runs; every round of both used.
    calls = (4, 4.5, 16)

    def __init__(self, task: ProgramTask, *, seeds: str = "group", **loop: Any) -> None:
        super().__init__(task)
        stages = task.stages
        self.principles = CritiqueRefine(
            stages.generate_principles,
            stages.critique_principles,
            stages.refine_principles,
            stage="principles",
            **loop,
        )
        self.response = CritiqueRefine(
            stages.generate_response,
            stages.critique_response,
            stages.refine_response,
            stage="response",
            **loop,
        )
        self.inputs = tuple(stages.generate_principles.input_fields)
        second = (n for n in stages.generate_response.input_fields if n not in self.inputs)
        self.optional = tuple(second)
        self.principles.generate.demos = [dspy.Example(seed) for seed in task.seeds]
        self.principles.generate.show = check_show(seeds)

    @classmethod
    def paper(cls, task: ProgramTask, **loop: Any) -> SPRI:
        """The published behaviour, kept by name because reproducing a table needs it.

        The last candidate stands, an unscored critique ends its loop, and refinements see what the published
        prompts showed them (paper.md, section 3).
        """
        published = _Published(
            task.name, task.stages.as_published(), task.seeds, getattr(task, "group_of", None)
        )
        return cls(published, **{"keep": "last", "on_unscored": "stop", **loop})

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Both stages, or the one that the inputs call for."""
        outcomes: dict[str, Outcome] = {}
        known = dict(inputs)
        if "principles" not in known:
            outcomes["principles"] = yield from self.principles.plan(known, group)
            known["principles"] = outcomes["principles"].value
        if all(name in known for name in self.optional):
            outcomes["response"] = yield from self.response.plan(known, group)
        return {"principles": known["principles"], **_fields(outcomes)}

    def situate(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 1 alone: principles, to be used for one or many responses."""
        return _prediction(*_drive(self._situate_plan(inputs, group)))

    async def asituate(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 1 alone, without blocking."""
        return _prediction(*await _adrive(self._situate_plan(inputs, group)))

    def respond(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 2 alone: takes `principles` beside the inputs."""
        return _prediction(*_drive(self._respond_plan(inputs, group)))

    async def arespond(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 2 alone, without blocking."""
        return _prediction(*await _adrive(self._respond_plan(inputs, group)))

    def _situate_plan(self, inputs: Mapping[str, Any], group: str | None) -> Plan:
        group = self._check(inputs, group)
        return _fields({"principles": (yield from self.principles.plan(inputs, group))})

    def _respond_plan(self, inputs: Mapping[str, Any], group: str | None) -> Plan:
        group = self._check(inputs, group)
        missing = [name for name in self.optional if name not in inputs]
        if missing:
            raise UsageError(f"respond needs {', '.join(missing)} beside {', '.join(self.inputs)}")
        return _fields({"response": (yield from self.response.plan(inputs, group))})


@dataclass(frozen=True)
class _Published:
    name: str
    stages: Stages
    seeds: tuple[Mapping[str, Any], ...]
    group_of: Any = field(default=None)


def set_lms(program: Any, **lms: Any) -> Any:
    """Give the predictors of a program their LMs by role. A role without an LM gets the base's.

    Args:
        program: any DSPy module; predictors without a role count as base.
        **lms: role -> LM string or dspy.LM; None leaves the role to the base. Without `base`, only the named
            roles change.
    """
    made = {role: load_lm(lm) for role, lm in lms.items() if lm is not None}
    for _, predictor in program.named_predictors():
        lm = made.get(getattr(predictor, "role", "base")) or made.get("base")
        if lm is not None:
            predictor.lm = lm
    return program


def check_state(program: Any, state: Mapping[str, Any]) -> None:
    """Refuse a saved state of another program.

    Raises:
        UsageError: predictors are missing or unknown.
    """
    ours, theirs = {name for name, _ in program.named_predictors()}, set(state) - {"metadata"}
    if ours != theirs:
        raise UsageError(
            f"this is the state of another program: it has {sorted(theirs - ours) or 'nothing'} more "
            f"and {sorted(ours - theirs) or 'nothing'} fewer"
        )


def _arguments(predictor: RolePredict, known: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """The arguments that this predictor's signature asks for."""
    return {name: known[name] for name in predictor.signature.input_fields if name in known} | {
        "group": group
    }


def _fields(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        **{stage: outcome.value for stage, outcome in outcomes.items()},
        "scores": {stage: outcome.score for stage, outcome in outcomes.items()},
        "stop_reasons": {stage: outcome.stop_reason for stage, outcome in outcomes.items()},
        "trace": [r for outcome in outcomes.values() for r in outcome.trace],
    }


def _prediction(fields: dict[str, Any], usage: dict[str, Usage]) -> dspy.Prediction:
    return dspy.Prediction(**fields, usage=usage)


def _count(usage: dict[str, Usage], predictor: Any, answer: dspy.Prediction) -> None:
    role = getattr(predictor, "role", "base")
    usage[role] = usage.get(role, Usage()) + usage_of(answer)


def _drive(plan: Plan) -> tuple[Any, dict[str, Usage]]:
    """Run a plan to its end: its return value, and usage by role."""
    usage: dict[str, Usage] = {}
    try:
        predictor, arguments = next(plan)
        while True:
            answer = predictor(**arguments)
            _count(usage, predictor, answer)
            predictor, arguments = plan.send(answer)
    except StopIteration as stop:
        return stop.value, usage


async def _adrive(plan: Plan) -> tuple[Any, dict[str, Usage]]:
    """The same, without blocking."""
    usage: dict[str, Usage] = {}
    try:
        predictor, arguments = next(plan)
        while True:
            answer = await predictor.acall(**arguments)
            _count(usage, predictor, answer)
            predictor, arguments = plan.send(answer)
    except StopIteration as stop:
        return stop.value, usage
