"""Programs that answer a task's inputs, SPRI first, and what tells a program from another and brings it back.

SPRI is two critique-refine loops: one for principles, one for a response that follows them. Source: SPRI (Zhan et al.,
ICML 2025), see paper.md section 1.

It knows no task and no model: a task brings signatures and seeds, roles bring LMs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self, Unpack

import dspy
import pydantic

from spri_dspy import runs
from spri_dspy.adapters import ChatStyle, adapter_of
from spri_dspy.critique_refine import CritiqueRefine, LoopSettings, Outcome, Plan, Step, arun_plan, run_plan
from spri_dspy.errors import UsageError
from spri_dspy.gate import Gate, load_gate
from spri_dspy.lms.spec import LMSpec, check_offline_roles, load_lm
from spri_dspy.predict import demos_of_group, harmless_state
from spri_dspy.signatures import Stages, candidate_field
from spri_dspy.strict_json import from_text
from spri_dspy.tasks.seeds import choose_seeds

Seeds = str | Path | Iterable[Mapping[str, Any]]
"""Which seeds a program is shown; see `tasks.seeds.SEEDS`."""

Sees = Literal["input", "responses", "labels"]
"""The most that a system's criteria are made from; see `Program.sees`."""


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


class Program(dspy.Module):
    """A system that answers a task's inputs: what SPRI and every baseline have in common.

    A subclass makes its RolePredicts, lists its `inputs`, and writes `plan`, a generator that yields (predictor,
    arguments), receives predictions, and returns the fields of the final prediction.

    Attributes:
        inputs: names of the inputs that a call must have, but for those in `defaults`.
        defaults: what stands for inputs that are left out.
        optional: names of inputs that a call may have.
        label_inputs: names of labels that this system is shown (an oracle sees the experts' principles).
        sees: the most that its principles or criteria are made from: "input", "responses" (also the answer that is
            judged, or sample answers), or "labels" (what people or the data know of the answers). Those with
            label_inputs see labels.
        calls: LM calls an example takes: fewest, typical, most.
    """

    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    label_inputs: tuple[str, ...] = ()
    sees: Sees = "input"
    calls: tuple[float, float, float] = (1, 1, 1)

    def __init__(self, task: ProgramTask) -> None:
        super().__init__()
        if isinstance(task, str):
            raise UsageError(f"a program takes the task itself: load_task({task!r})")
        self.task_name = task.name
        self.group_of = getattr(task, "group_of", None)
        self.defaults = dict(getattr(task, "defaults", {}))

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Yield (predictor, arguments), receive predictions, return the fields of the prediction."""
        raise NotImplementedError(f"{type(self).__name__} has no plan")

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Answer one input.

        Raises:
            UsageError: an input is missing or unknown.
            UnreadableAnswer: an LM gave nothing that can be read.
        """
        return run_plan(self.plan(*self._ready(inputs, group)))

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Answer one input without blocking."""
        return await arun_plan(self.plan(*self._ready(inputs, group)))

    def check(self, inputs: Mapping[str, Any], group: str | None = None) -> None:
        """Refuse inputs that a call would refuse, without calling an LM.

        Raises:
            UsageError: an input is missing or unknown, or the system has nothing for it.
        """
        plan = self.plan(*self._ready(inputs, group))
        next(plan, None)
        plan.close()

    def _ready(self, inputs: Mapping[str, Any], group: str | None) -> tuple[dict[str, Any], str | None]:
        """The inputs, completed, and their group; refuses wrong ones."""
        must = (*self.inputs, *self.label_inputs)
        left_out = {n: v for n, v in self.defaults.items() if n in must and inputs.get(n) is None}
        inputs = {**inputs, **left_out}
        missing, unknown = [n for n in must if n not in inputs], set(inputs) - {*must, *self.optional}
        if missing or unknown:
            said = [f"missing {', '.join(missing)}"] if missing else []
            said += [f"unknown {', '.join(sorted(unknown))}"] if unknown else []
            raise UsageError(f"inputs of {self.task_name}: {'; '.join(said)}; it takes {', '.join(must)}")
        for name in self.inputs:
            if not isinstance(inputs[name], str) or not inputs[name].strip():
                said = "is empty" if isinstance(inputs[name], str) else f"is {type(inputs[name]).__name__}"
                raise UsageError(f"inputs of {self.task_name}: {name} must be text, and it {said}")
        return inputs, self.group_of(inputs) if group is None and self.group_of else group

    def set_lms(self, base: Any = None, critic: Any = None) -> Self:
        """Give the roles their LMs, as LM strings or dspy.LMs; see `set_lms`. Without a critic, the base criticises."""
        return set_lms(self, base=base, critic=critic)

    def set_lm(self, lm: Any) -> None:
        """Set the base LM. The critic keeps its own: DSPy's optimisers call this with one LM for all."""
        for _, predictor in self.named_predictors():
            if _role_of(predictor) == "base":
                predictor.lm = lm

    def get_lm(self) -> Any:
        """The base LM."""
        return next((p.lm for _, p in self.named_predictors() if _role_of(p) == "base"), None)

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Take over saved prompts and demos, bare or as `spri tune` writes them; LMs stay as they are set.

        Raises:
            UsageError: it is no saved program, or one with other predictors or fields; nothing is changed.
        """
        _take_over(self, state, super().load_state)

    def load(self, path: Any, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False) -> None:
        """Take over the prompts and demos in a JSON file; see `load_program`."""
        load_program(self, path)


class SPRI(Program):
    """Situated principles, then a response that follows them.

    Args:
        task: what `load_task` returns, or anything with `name`, `stages` and `seeds`.
        seeds: task, none, default, all, k:N, nearest:K, a file or rows; see `tasks.seeds.SEEDS`.
        gate: when general principles stand in for generated ones: a `Gate` or its file. Predictions then have
            `principles_from`: "generated", "general" (none were generated) or "general after STOP_REASON".
        **loop: settings of both loops, see CritiqueRefine.

    The seeds are `program.principles.generate.demos`: optimisers tune them, `save` keeps them.
    Without LMs set, the offline stand-in answers.

        program = SPRI(load_task("reappraisal")).set_lms(base="openai/gpt-4o-mini")
        prediction = program(post="...", aim="...")        # or: await program.acall(...)
        prediction.principles, prediction.response, prediction.stop_reasons, prediction.trace, prediction.usage

    `dspy.streamify` streams every candidate as it is written: listen to `response` (the draft, response.generate) and
    to `improved_response` with `allow_reuse=True` (each refinement, response.refine). Which of them stands is known at
    the end: the prediction, which comes last, holds it.

    A call that brings `principles` goes straight to the second stage; a call without what only the second stage
    needs (a rubrics instance with no answer to judge) ends after the first.
    """

    sees = "input"
    # Both stages accepted at once; as measured on the published runs; every round of both used.
    calls = (4, 4.5, 16)

    def __init__(
        self,
        task: ProgramTask,
        *,
        seeds: Seeds = "task",
        gate: Gate | Mapping[str, Any] | str | Path | None = None,
        **loop: Unpack[LoopSettings],
    ) -> None:
        super().__init__(task)
        stages = task.stages
        self.gate = None if gate is None else load_gate(gate)
        self._general = None if self.gate is None else _principles_of(self.gate, stages)
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
        chosen = choose_seeds(seeds, task.seeds, stages, self.group_of)
        self.principles.generate.demos = [dspy.Example(seed) for seed in chosen.rows]
        self.principles.generate.show = chosen.show

    @classmethod
    def paper(cls, task: ProgramTask, *, seeds: Seeds = "task", **loop: Unpack[LoopSettings]) -> SPRI:
        """The published behaviour, kept by name because reproducing a table needs it.

        The last candidate stands, an unscored critique ends its loop, and refinements see what the published
        prompts showed them (paper.md, section 3).
        """
        published = copy.copy(task)
        object.__setattr__(published, "stages", task.stages.as_published())  # a Task is frozen
        settings: LoopSettings = {"keep": "last", "on_unscored": "stop", **loop}
        return cls(published, seeds=seeds, **settings)

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Both stages, or the one that the inputs call for."""
        outcomes: dict[str, Outcome] = {}
        known, about = dict(inputs), dict[str, Any]()
        if "principles" not in known:
            known["principles"], about = yield from self._principles_plan(known, group, outcomes)
        if all(name in known for name in self.optional):
            outcomes["response"] = yield from self.response.plan(known, group)
        return {**_fields(outcomes), "principles": known["principles"], **about}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its course beside its prompts and its loops."""
        return {} if self.gate is None else self.gate.settings

    def _principles_plan(
        self, inputs: Mapping[str, Any], group: str | None, outcomes: dict[str, Outcome]
    ) -> Generator[Step, dspy.Prediction, tuple[Any, dict[str, str]]]:
        """The principles that stand and what the gate says of them; the loop's outcome is added where it ran."""
        if self.gate is not None and self.gate.skips(group):
            return self._general, {"principles_from": "general"}
        outcome = yield from self.principles.plan(inputs, group)
        outcomes["principles"] = outcome
        if self.gate is None:
            return outcome.value, {}
        if self.gate.replaces(outcome.stop_reason):
            return self._general, {"principles_from": f"general after {outcome.stop_reason}"}
        return outcome.value, {"principles_from": "generated"}

    def situate(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 1 alone: principles, to be used for one or many responses."""
        return run_plan(self._situate_plan(inputs, group))

    async def asituate(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 1 alone, without blocking."""
        return await arun_plan(self._situate_plan(inputs, group))

    def respond(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 2 alone: takes `principles` beside the inputs."""
        return run_plan(self._respond_plan(inputs, group))

    async def arespond(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Stage 2 alone, without blocking."""
        return await arun_plan(self._respond_plan(inputs, group))

    def _situate_plan(self, inputs: Mapping[str, Any], group: str | None) -> Plan:
        inputs, group = self._ready(inputs, group)
        outcomes: dict[str, Outcome] = {}
        principles, about = yield from self._principles_plan(inputs, group, outcomes)
        return {**_fields(outcomes), "principles": principles, **about}

    def _respond_plan(self, inputs: Mapping[str, Any], group: str | None) -> Plan:
        inputs, group = self._ready(inputs, group)
        missing = [name for name in self.optional if name not in inputs]
        if missing:
            raise UsageError(f"respond needs {', '.join(missing)} beside {', '.join(self.inputs)}")
        return _fields({"response": (yield from self.response.plan(inputs, group))})


def _principles_of(gate: Gate, stages: Stages) -> Any:
    """The gate's general principles in the type that a task's have.

    Raises:
        UsageError: they are no principles of this task.
    """
    signature = stages.generate_principles
    kind: Any = signature.output_fields[candidate_field(signature)].annotation
    try:
        return pydantic.TypeAdapter(kind).validate_python(gate.general)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "they"
        raise UsageError(
            f"the gate's general principles do not fit this task: {where}: {first['msg']}"
        ) from None


def set_lms(program: Any, **lms: Any) -> Any:
    """Give the predictors of a program their LMs by role. A role without an LM gets the base's.

    Args:
        program: any DSPy module; predictors without a role count as base.
        **lms: role -> LM string or dspy.LM; None leaves the role to the base. Without `base`, only the named
            roles change.

    Raises:
        UsageError: a real base would be scored by the offline LM, see `check_scorers`, or an LM string is malformed;
            nothing is changed.
        PrerequisiteError: a key or an address is missing; nothing is changed.
    """
    made = {role: load_lm(lm) for role, lm in lms.items() if lm is not None}
    planned = [
        (predictor, made.get(_role_of(predictor)) or made.get("base") or predictor.lm)
        for _, predictor in program.named_predictors()
    ]
    _check_scored([*made.items(), *((_role_of(predictor), lm) for predictor, lm in planned)])
    for predictor, lm in planned:
        predictor.lm = lm
    return program


def check_scorers(program: Any, *judges: Any) -> None:
    """Refuse to have what a real base is paid for criticised or judged by the offline LM.

    Args:
        program: any DSPy module; predictors without a role count as base.
        *judges: those who judge its answers; None stands for none.

    Raises:
        UsageError: the base is real, and a critic or a judge is the offline LM.
    """
    asked = [(_role_of(predictor), predictor.lm) for predictor in _predictors_of(program)]
    asked += [("judge", predictor.lm) for judge in judges for predictor in _predictors_of(judge)]
    _check_scored(asked)


def _predictors_of(program: Any) -> list[Any]:
    """Those of a DSPy module; anything else has none."""
    return [predictor for _, predictor in getattr(program, "named_predictors", list)()]


def _check_scored(asked: Iterable[tuple[str, Any]]) -> None:
    specs: dict[str, LMSpec] = {}
    for role, lm in asked:
        lm = lm or dspy.settings.lm
        spec = LMSpec("offline") if lm is None else getattr(lm, "spec", None) or LMSpec(str(lm.model))
        # Of several LMs of one role the one counts that may not be: a base that is real, a critic that is offline.
        if role not in specs or (spec.prefix == "offline") is (role != "base"):
            specs[role] = spec
    check_offline_roles(specs, 'ROLE="PROVIDER/MODEL"')


def _role_of(predictor: Any) -> str:
    return getattr(predictor, "role", "base")


def fingerprint(program: Any, group: str | None = None) -> str:
    """A hash of what decides a program's answers beside its LMs: instructions, demos, and settings of its modules.

    The settings of a module are its attribute or property `settings`, a mapping; `CritiqueRefine`, judges and
    systems have one. For LMs see `models_of`.

    Args:
        program: any DSPy module.
        group: count only the demos that an example of this group is shown; None counts all.
    """
    prompts: dict[str, Any] = {}
    for name, predictor in program.named_predictors():
        saved = predictor.dump_state()
        demos = demos_of_group(saved.get("demos", []), group)
        prompts[name] = [saved.get("signature"), demos, saved.get("show")]
    return runs.fingerprint([type(program).__name__, prompts, settings_of(program)])


def settings_of(program: Any) -> dict[str, Any]:
    """The settings of a program's modules, such as {"principles.accept_at": 4}; see `fingerprint`."""
    found: dict[str, Any] = {}
    for name, module in program.named_sub_modules():
        settings, where = getattr(module, "settings", None), name.partition(".")[2]
        if isinstance(settings, Mapping):
            found |= {f"{where}.{key}".lstrip("."): value for key, value in settings.items()}
    return found


def models_of(program: Any) -> dict[str, str]:
    """The LM of each role with its sampling and prompt style, without how it is reached."""
    found: dict[str, str] = {}
    for _, predictor in program.named_predictors():
        lm, role = predictor.lm or dspy.settings.lm, _role_of(predictor)
        if lm is None or role in found:
            continue
        spec, adapter = getattr(lm, "spec", None), adapter_of(lm)
        found[role] = spec.identity if spec else str(lm.model)
        if not (spec and "format" in spec.options) and type(adapter) is not ChatStyle:
            found[role] += f" through {type(adapter).__name__}"
    return found


def load_program(program: Any, path: str | Path) -> Any:
    """Give a program the prompts and demos of a saved one; its LMs stay.

    Args:
        program: any DSPy module; it is changed, and returned.
        path: what DSPy's `program.save("x.json")` wrote, or the program.json of `spri tune`.

    Raises:
        UsageError: the file cannot be read, is no saved program, or another program's; nothing is changed.
    """
    file = Path(path)
    if file.exists() and not file.is_file():
        raise UsageError(f"the program {path} is no file; name the program.json in it")
    try:
        state = from_text(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"the program {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the program {path} is not valid JSON: {error}") from None
    try:
        _take_over(program, state, program.load_state)
    except UsageError as error:
        raise UsageError(f"the program {path}: {error}") from None
    return program


def _take_over(program: Any, saved: Any, load: Callable[[dict[str, Any]], Any]) -> None:
    """Load what was saved, without LMs; a plain predictor would drop its own on the way."""
    lms = [(predictor, predictor.lm) for _, predictor in program.named_predictors()]
    load(_state_of(program, saved))
    for predictor, lm in lms:
        predictor.lm = lm


def _state_of(program: Any, saved: Any) -> dict[str, Any]:
    """The predictors' states in what was saved, without LMs and whatever else a predictor could not be given.

    Raises:
        UsageError: it is no saved program, or predictors are missing or unknown.
    """
    state = saved.get("program", saved) if isinstance(saved, dict) else saved
    if not isinstance(state, dict):
        raise UsageError("it is no saved program")
    state = {name: part for name, part in state.items() if name != "metadata"}
    ours = {name for name, _ in program.named_predictors()}
    if ours != set(state):
        raise UsageError(
            f"this is the state of another program: it has {sorted(set(state) - ours) or 'nothing'} more "
            f"and {sorted(ours - set(state)) or 'nothing'} fewer"
        )
    return {name: harmless_state(each, name, state[name]) for name, each in program.named_predictors()}


def _fields(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        **{stage: outcome.value for stage, outcome in outcomes.items()},
        "scores": {stage: outcome.score for stage, outcome in outcomes.items()},
        "stop_reasons": {stage: outcome.stop_reason for stage, outcome in outcomes.items()},
    }
