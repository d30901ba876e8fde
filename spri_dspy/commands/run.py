"""A run of a system on a task, from what a user asks for to finished records.

`plan` checks everything that can be checked before anything is written or paid: names, LM strings, every row of the
data, and that no input stands among the seeds. `RunPlan.open` looks for keys and makes or resumes the run directory,
`RunPlan.execute` fills it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from spri_dspy.bulk import Summary
from spri_dspy.commands.ending import show_command
from spri_dspy.commands.execution import Execution
from spri_dspy.commands.forecast import Forecast, cost, price_evenly
from spri_dspy.commands.manifest import folder_name, identity, make_manifest, short_name, source_fingerprint
from spri_dspy.ends import Finished
from spri_dspy.errors import DataError, SpriError, UnknownNameError, UsageError
from spri_dspy.leaks import Leak, Text, check_leaks
from spri_dspy.lms.spec import LMSpec, check_offline_roles, check_roles, load_lm
from spri_dspy.program import fingerprint as program_fingerprint
from spri_dspy.program import load_program
from spri_dspy.records import Record
from spri_dspy.report.figures import has_judgements
from spri_dspy.runs import RunDir, fingerprint
from spri_dspy.strict_json import from_text, to_text
from spri_dspy.systems import load_system, view_of
from spri_dspy.tasks import Example, Task, load_task
from spri_dspy.tasks.example import check_trainable

SORTED_AT_MOST = 10_000
"""Records of larger runs are given as they finished, so that memory does not grow with them."""

_PROMPT_TOKENS, _ANSWER_TOKENS = (
    600,
    150,
)  # of a stage's own words and seeds, and of an answer, for the forecast


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a user asks for.

    Attributes:
        task: a task's name, or the task.
        system: what answers: spri or a system that it is compared with.
        settings: settings of the system, such as {"seeds": "none"}.
        data: a file, hub, or hf:NAME:SPLIT; None for the examples that come with the task.
        columns: columns of the file to rename, {the task's name: the file's name}.
        text: one input instead of a file.
        inputs: further inputs of `text`, such as {"aim": "..."}.
        lms: LM strings by role; nothing means offline. Without a critic, the base criticises.
        limit: only the first N examples.
        seed: of everything random.
        paper: the published behaviour.
        program: a saved program whose prompts and demos are used.
        rubrics: exported rubrics to judge with, instead of writing new ones.
        task_options: options of the task, such as {"with_reference": True}.
        allow_leak: go on although evaluation inputs are among the seeds; the run is marked.
    """

    task: str | Task
    system: str = "spri"
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    lms: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    paper: bool = False
    program: Path | None = None
    rubrics: Path | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    allow_leak: bool = False


@dataclass
class RunPlan:
    """A run that is checked and ready.

    Attributes:
        program: gets its LMs when the run is opened.
        source: reads the examples anew, as the program is to see them; given ids that are finished, those may come
            without their inputs.
        specs: LMs by role; the judge's is only noted for later.
        total: how many examples there are.
        characters: in all inputs together, for the forecast.
        manifest: what the run directory will say.
        was_checked: this very data was read and checked when the run began.
    """

    request: RunRequest
    task: Task
    program: Any
    source: Callable[..., Iterator[Example]]
    specs: Mapping[str, LMSpec]
    total: int
    characters: int
    manifest: dict[str, Any]
    was_checked: bool = False

    @property
    def lms(self) -> dict[str, LMSpec]:
        """The LMs that are asked, by role."""
        return {role: spec for role, spec in self.specs.items() if role != "judge"}

    def forecast(self) -> Forecast:
        """Calls: fewest, typical and most; tokens and dollars of the typical course."""
        names = ("fewest", "typical", "most")
        calls = {name: round(each * self.total) for name, each in zip(names, self.program.calls, strict=True)}
        tokens = round(self.program.calls[1] * (self.characters / 4 + _PROMPT_TOKENS * self.total))
        written = calls["typical"] * _ANSWER_TOKENS
        plural = "" if self.total == 1 else "s"
        return Forecast(
            headline=f"{self.total:,} example{plural} of {self.task.name}, system {self.request.system}",
            facts={"task": self.task.name, "system": self.request.system, "examples": self.total},
            lms=self.manifest["lms"],
            calls=calls,
            input_tokens=tokens,
            output_tokens=written,
            usd=cost(price_evenly(self.lms.values()), tokens, written),
        )

    @property
    def prices(self) -> dict[str, tuple[float, float]]:
        """Dollars a token in and out by role; without those that are unknown."""
        priced = {
            role: price_evenly([spec]) for role, spec in ({"critic": self.specs["base"]} | self.lms).items()
        }
        return {role: price for role, price in priced.items() if price is not None}

    def load_lms(self) -> None:
        """Give the program its LMs.

        Raises:
            PrerequisiteError: a key or an address is missing.
        """
        _give_lms(self.program, self.specs, self.request.seed)

    def open(self, path: str | Path | None = None, *, fresh: bool = False) -> RunDir:
        """Make the run directory or resume it; without a path, one in `runs/` named after what is asked.

        Raises:
            PrerequisiteError: a key or an address is missing; nothing is written.
            UsageError: as `RunDir.create` says.
        """
        self.load_lms()
        return RunDir.create(path or _default_path(self.manifest), self.manifest, fresh=fresh)

    def execute(
        self,
        directory: RunDir,
        how: Execution | None = None,
        *,
        on_record: Callable[[Record], None] | None = None,
        on_call: Callable[[dict[str, Any]], None] | None = None,
    ) -> Summary:
        """Run what is not finished yet in a directory from `open`; see `Execution.run`."""
        make = partial(make_program, self.request)
        how = how or Execution()
        told = {"on_record": on_record, "on_call": on_call}
        finished = directory.finished(retry_errors=how.retry_errors) if self.was_checked else None
        return how.run(self.program, self.source(finished), directory, make_program=make, **told)

    def records(self, directory: RunDir) -> Iterator[Record]:
        """The finished records of what is asked, in the order of the input where they are few enough to sort."""
        if self.is_all_of(directory):
            return directory.records()
        wanted = {example.id: number for number, example in enumerate(self.source())}
        asked = (record for record in directory.records() if record.id in wanted)
        return iter(sorted(asked, key=lambda r: wanted[r.id])) if len(wanted) <= SORTED_AT_MOST else asked

    def is_all_of(self, directory: RunDir) -> bool:
        """Whether a run holds what is asked and nothing else; only told where it is too large to be sorted."""
        is_large, is_all = self.total > SORTED_AT_MOST, self.request.limit is None
        return is_large and is_all and self.total == directory.counts[0]

    def next_commands(self, directory: RunDir) -> list[str]:
        """What to do with the run next, a command each; judging only where there is an answer."""
        n_finished, n_failed = directory.counts
        if n_finished == n_failed:
            return show_command(directory)
        judge = f"spri judge {shlex.quote(str(directory.path))}"
        if "judge" in self.specs:
            judge += " --lm " + shlex.quote(f"judge={self.specs['judge']}")
        elif self.specs["base"].prefix != "offline" and not has_judgements(directory):
            judge += " --lm judge=PROVIDER/MODEL"
        return [*show_command(directory), judge]


def plan(request: RunRequest, run: str | Path | None = None) -> RunPlan:
    """Check what is asked, and make it ready; no key is needed and nothing is written.

    Args:
        request: what is asked.
        run: where it is to go; the data of a run that is there already was checked when it began.

    Raises:
        UsageError: anything about the request or the data is wrong.
        LeakError: evaluation inputs are among the seeds, or among the rows that a gate was decided on.
    """
    task = load_task(request.task, **request.task_options)
    _check_request(request, task)
    specs = _specs(request)
    program = _without_lms(request, task)
    source = _source(task, request, program)
    make = partial(_manifest, task, program, specs, request)
    known = _known_survey(run, make, request.limit)
    total, characters, leaks = known or _survey(task, program, source(), request.allow_leak)
    manifest = make()
    if leaks:
        manifest["leaks"] = [str(leak) for leak in leaks[:20]]
    manifest["input"] |= {"examples": total, "characters": characters, "limit": request.limit}
    return RunPlan(request, task, program, source, specs, total, characters, manifest, known is not None)


def _check_request(request: RunRequest, task: Task) -> None:
    """Refuse options that do not go together."""
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {request.limit}")
    if request.data is not None and request.text is not None:
        raise UsageError("give --data or --text, not both")
    if request.columns and request.data is None:
        raise UsageError("--map renames columns of a file; name the file with --data")
    if request.inputs and request.text is None:
        raise UsageError(
            f"the input {next(iter(request.inputs))!r} stands beside --text; a file has columns for it"
        )
    others = [name for name in task.inputs if name != task.text_input]
    for name in request.inputs:
        if name not in others:
            raise UnknownNameError(f"input beside --text of the task {task.name}", name, others)


def make_program(request: RunRequest) -> Any:
    """The program that is asked for, with its LMs; workers on other machines make theirs with it too.

    Raises:
        UsageError: no such task, system or setting, or a malformed LM string.
        PrerequisiteError: a key or an address is missing.
    """
    program = _without_lms(request, load_task(request.task, **request.task_options))
    return _give_lms(program, _specs(request), request.seed)


def _specs(request: RunRequest) -> dict[str, LMSpec]:
    """LMs by role; nothing that a real base writes is scored by the offline LM, nor the other way round."""
    specs = {"base": LMSpec("offline")} | check_roles(request.lms)
    check_offline_roles(specs)
    critic = specs.get("critic", specs["base"])
    if specs["base"].prefix == "offline" and critic.prefix != "offline":
        raise UsageError(f"{critic.model} would criticise the offline LM: pass --lm base=PROVIDER/MODEL too")
    return specs


def _without_lms(request: RunRequest, task: Task) -> Any:
    program = load_system(request.system, task, paper=request.paper, **request.settings)
    if request.program:
        load_program(program, request.program)
    return program


def _give_lms(program: Any, specs: Mapping[str, LMSpec], seed: int) -> Any:
    used = {role: load_lm(_seeded(spec, seed)) for role, spec in specs.items() if role != "judge"}
    return program.set_lms(**used)


def _source(task: Task, request: RunRequest, program: Any) -> Callable[..., Iterator[Example]]:
    """Examples as the program is to see them: with the labels it may see, and with rubrics that were given."""
    shown = tuple(getattr(program, "label_inputs", ()))
    rubrics = _given_rubrics(task, request.rubrics)
    given = request.text
    row = {**request.inputs, "id": "text", task.text_input: given}

    def read(finished: Finished | None = None) -> Iterator[Example]:
        if given is not None:
            return iter([task.example_of(**row)])
        found = task.examples(request.data, columns=request.columns, finished=finished)
        return islice(found, request.limit)

    if not shown and rubrics is None:
        return read
    return lambda finished=None: (_completed(example, shown, rubrics) for example in read())


def _completed(example: Example, shown: tuple[str, ...], rubrics: Mapping[str, Any] | None) -> Example:
    missing = [name for name in shown if name not in example.label_values]
    if missing:
        raise DataError(f"example {example.id!r} has no {', '.join(missing)}, which this system is shown")
    inputs = {**example.input_values, **{name: example.label_values[name] for name in shown}}
    if rubrics is not None:
        instance = example.cluster or example.id
        instruction, rubric = rubrics.get(instance, (None, None))
        if instruction != example.input_values["instruction"]:
            said = "no rubric for" if rubric is None else "a rubric for another instruction under the id"
            raise DataError(f"the rubric file has {said} {instance!r}; it was made for other instances")
        inputs["principles"] = rubric
    return example.changed(inputs=inputs)


def _given_rubrics(task: Task, path: Path | None) -> dict[str, tuple[str, Any]] | None:
    """Instruction and rubric of each instance of an exported file."""
    if path is None:
        return None
    if task.name != "rubrics":
        raise UsageError(f"--rubrics is for the task rubrics, not for {task.name}")
    from spri_dspy.tasks.rubrics import Rubric, read_export

    return {instance: (text, Rubric(**rubric)) for instance, (text, rubric) in read_export(path).items()}


def _survey(
    task: Task, program: Any, examples: Iterator[Example], allow_leak: bool
) -> tuple[int, int, tuple[Leak, ...]]:
    """Read all examples once: how many, how many characters, and which of them are among the seeds."""
    total = characters = 0
    held_out = getattr(program, "held_out", None)

    def texts() -> Iterator[Text]:
        nonlocal total, characters
        name, seen = "evaluation" if held_out is None else "training", set[str]()
        for example in examples:
            total += 1
            if held_out is not None:
                check_trainable(example)
            try:
                program.check(example.input_values, example.group)
            except UsageError as error:
                raise DataError(f"example {example.id!r}: {error}") from None
            characters += sum(len(str(value)) for value in example.input_values.values())
            source = example.cluster or example.id
            if source not in seen:
                seen.add(source)
                yield Text(source, str(example.input_values[task.text_input]), name)

    seeds = seed_texts(task, program)
    gate = getattr(program, "gate", None)
    decided_on = [
        Text(f"gate {n}", text, "gate") for n, text in enumerate(gate.validated_on if gate else (), 1)
    ]
    # What makes seeds out of the rows themselves names those that are evaluated.
    collections = (
        {"seeds": seeds, **({"gate": decided_on} if decided_on else {}), "evaluation": texts()}
        if held_out is None
        else {"evaluation": [*held_out()], "training": chain(seeds, texts())}
    )
    leaks = check_leaks(collections, allow=allow_leak)
    return total, characters, leaks


def _known_survey(
    path: str | Path | None, make: Callable[[], dict[str, Any]], limit: int | None
) -> tuple[int, int, tuple[Leak, ...]] | None:
    """What the survey found when this very run began; None if there was none, or it may find something else today."""
    try:
        manifest = make()
        there: dict[str, Any] = RunDir.read(path or _default_path(manifest)).manifest
    except (SpriError, OSError):  # the survey says more clearly what is wrong with the data
        return None
    is_same = identity(there) == identity(from_text(to_text(manifest)))
    found = there.get("input")
    if not is_same or not isinstance(found, dict) or "hub" in manifest["data"]:
        return None
    total, characters = found.get("examples"), found.get("characters")
    if found.get("limit", 0) != limit or not isinstance(total, int) or not isinstance(characters, int):
        return None
    return total, characters, ()


def seed_texts(task: Task, program: Any) -> list[Text]:
    """The inputs of every demo that a program shows, for the leak guard."""
    demos = [demo for _, predictor in program.named_predictors() for demo in predictor.demos]
    inputs = dict.fromkeys(str(demo[task.text_input]) for demo in demos if task.text_input in demo)
    return [Text(f"seed {number}", text, "seeds") for number, text in enumerate(inputs, 1)]


def _seeded(spec: LMSpec, seed: int) -> LMSpec:
    """A seed given on the command line reaches every LM that does not state its own."""
    if not seed or "seed" in spec.options or spec.prefix == "replay":
        return spec
    return LMSpec(spec.model, {**spec.options, "seed": seed})


def _manifest(task: Task, program: Any, specs: Mapping[str, LMSpec], request: RunRequest) -> dict[str, Any]:
    return make_manifest(
        specs,
        task=task.name,
        system=request.system,
        sees=view_of(program),
        data=_data_identity(task, request),
        program=program_fingerprint(program),
        seeds=_seed_counts(program),
        settings={"paper": request.paper, **request.settings, **request.task_options},
        seed=request.seed,
        input={} if request.text is not None else {"file": _file_name(task.source(request.data))},
    )


def _file_name(source: str) -> str:
    """A data source without the folders of this machine; a data set of the hub by its name."""
    name, _, split = source.removeprefix("hf:").partition(":")
    if source.startswith("hf:") and not Path(name).is_dir():
        return source
    return f"hf:{Path(name).name}:{split or 'train'}" if source.startswith("hf:") else Path(source).name


def _data_identity(task: Task, request: RunRequest) -> dict[str, Any]:
    given: dict[str, Any] = {"columns": dict(request.columns)} if request.columns else {}
    if request.rubrics:
        given["rubrics"] = source_fingerprint(str(request.rubrics))
    if request.text is not None:
        return {
            "text": fingerprint([request.text, dict(request.inputs)] if request.inputs else request.text),
            **given,
        }
    source = task.source(request.data)
    if not source.startswith("hf:"):
        return {"file": source_fingerprint(source), **given}
    folder = Path(source.removeprefix("hf:").rpartition(":")[0] or source.removeprefix("hf:"))
    local = {"folder": folder.name} if folder.is_dir() else {}
    return {**local, "hub": source_fingerprint(source), **given}


def _seed_counts(program: Any) -> dict[str, dict[str, int]]:
    """How many seeds each predictor holds, by group; "" is no group."""
    predictors = {name: p.demos for name, p in program.named_predictors() if p.demos}
    return {
        name: dict(Counter(str(d.get("group") or "") for d in demos)) for name, demos in predictors.items()
    }


def _default_path(manifest: Mapping[str, Any]) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / folder_name(
        f"{short_name(manifest['task'])}-{short_name(manifest['system'])}", manifest
    )
