"""One command's work, from its options to a finished run: what the command line and notebooks share.

`plan` checks everything that can be checked before anything is written or paid: names, LM strings, keys, every
row of the data. `Job.open` makes or resumes the run directory, `execute` fills it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from spri_dspy.bulk import Summary, check_budget, check_deadline, run_bulk
from spri_dspy.commands.doctor import versions
from spri_dspy.errors import DataError, SpriError, UnknownNameError, UsageError
from spri_dspy.leaks import Leak, Text, check_leaks
from spri_dspy.lms.budget import LIMITS, Budget, price_of
from spri_dspy.lms.spec import LMSpec, check_roles, load_lm, parse_lm
from spri_dspy.program import fingerprint as program_fingerprint
from spri_dspy.program import load_program
from spri_dspy.records import Record
from spri_dspy.runs import INFORMATIVE, RunDir, file_fingerprint, fingerprint
from spri_dspy.systems import load_system
from spri_dspy.tasks import Example, Task, load_task

SORTED_AT_MOST = 10_000
"""Records of larger runs are given as they finished, so that memory does not grow with them."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Attributes:
        task: a task's name, or the task.
        system: what answers: spri or a baseline's name.
        settings: settings of the system, such as {"seeds": "none"}.
        data: a file, hub, or hf:NAME:SPLIT; None for the examples that come with the task.
        text: one input instead of a file.
        lms: LM strings by role; nothing means offline.
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
    text: str | None = None
    lms: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    paper: bool = False
    program: Path | None = None
    rubrics: Path | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    allow_leak: bool = False


@dataclass
class Job:
    """Work that is checked and ready to run.

    Attributes:
        total: how many examples there are.
        manifest: what the run directory will say.
        characters: in all inputs together, for the forecast.
        request: what was asked.
    """

    task: Task
    program: Any
    source: Callable[[], Iterator[Example]]
    total: int
    manifest: dict[str, Any]
    characters: int
    request: Request

    def open(self, path: Path | None, *, fresh: bool = False) -> RunDir:
        """Make the run directory or resume it; without a path, one named after what is asked."""
        return RunDir.create(path or _named(self.manifest), self.manifest, fresh=fresh)

    def records(self, directory: RunDir) -> Iterator[Record]:
        """The finished records of what is asked, in the order of the input where they are few enough to sort."""
        is_large, is_all = self.total > SORTED_AT_MOST, self.request.limit is None
        if is_large and is_all and self.total == len(directory.finished()):
            return directory.records()  # what is there is what is asked
        wanted = {example.id: number for number, example in enumerate(self.source())}
        asked = (record for record in directory.records() if record.id in wanted)
        return iter(sorted(asked, key=lambda r: wanted[r.id])) if len(wanted) <= SORTED_AT_MOST else asked

    def forecast(self) -> dict[str, Any]:
        """Calls: fewest, typical and most. Dollars, where prices are known: typical, all at the dearest LM."""
        names = ("fewest", "typical", "most")
        calls = {name: round(each * self.total) for name, each in zip(names, self.program.calls, strict=True)}
        tokens = round(self.program.calls[1] * (self.characters / 4 + 600 * self.total))
        return {
            "task": self.task.name,
            "examples": self.total,
            "lms": self.manifest["lms"],
            "calls": calls,
            "input_tokens_typical": tokens,
            "output_tokens_typical": calls["typical"] * 150,
            "usd_typical": _price(self.manifest["lms"], tokens, calls["typical"] * 150),
        }

    def forecast_lines(self) -> Iterator[str]:
        """The forecast for people."""
        f = self.forecast()
        cost = "no known price" if f["usd_typical"] is None else f"about ${f['usd_typical']:.2f}"
        yield f"{f['examples']} examples of {f['task']}"
        yield from (f"{role}: {lm}" for role, lm in f["lms"].items())
        yield "LM calls: {fewest} to {most}, typically {typical}".format(**f["calls"])
        yield f"tokens: about {f['input_tokens_typical']:,} in, {f['output_tokens_typical']:,} out; {cost}"
        yield "nothing was run and nothing was written"


def plan(request: Request, run: Path | None = None) -> Job:
    """Check what is asked, and make it ready.

    Args:
        request: what is asked.
        run: where it is to go; a run that is there already was checked when it began.

    Raises:
        UsageError: anything about the request or the data is wrong.
        LeakError: evaluation inputs are among the seeds.
        PrerequisiteError: a key or an address is missing.
    """
    task = load_task(request.task, **request.task_options)
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {request.limit}")
    if request.data is not None and request.text is not None:
        raise UsageError("give --data or --text, not both")
    specs = _specs(request)
    program = _without_lms(request, task)
    source = _source(task, request, program)
    make_manifest = partial(_manifest, task, program, specs, request)
    known = _known_survey(run, make_manifest, request.limit)
    total, characters, leaks = known or _survey(task, program, source(), request.allow_leak)
    _give_lms(program, specs, request.seed)
    manifest = make_manifest()
    if leaks:
        manifest["leaks"] = [str(leak) for leak in leaks[:20]]
    manifest["input"] = {"examples": total, "characters": characters, "limit": request.limit}
    return Job(task, program, source, total, manifest, characters, request)


def make_program(request: Request) -> Any:
    """The program that is asked for, with its LMs; workers on other machines make theirs with it too.

    Raises:
        UsageError: no such task, system or setting, or a malformed LM string.
        PrerequisiteError: a key or an address is missing.
    """
    program = _without_lms(request, load_task(request.task, **request.task_options))
    return _give_lms(program, _specs(request), request.seed)


def _specs(request: Request) -> dict[str, LMSpec]:
    return {"base": LMSpec("offline")} | check_roles(request.lms)


def _without_lms(request: Request, task: Task) -> Any:
    program = load_system(request.system, task, paper=request.paper, **request.settings)
    if request.program:
        load_program(program, request.program)
    return program


def _give_lms(program: Any, specs: Mapping[str, LMSpec], seed: int) -> Any:
    used = {role: spec for role, spec in specs.items() if role != "judge"}
    return program.set_lms(**{role: load_lm(_seeded(spec, seed)) for role, spec in used.items()})


def execute(
    job: Job, directory: RunDir, *, executor: str = "local", workers: int | None = None, **settings: Any
) -> Summary:
    """Run what is not finished yet.

    Args:
        job: from `plan`.
        directory: from `Job.open`.
        executor: "local", "ray" (on this machine) or "ray:ADDRESS" (a running cluster).
        workers: actors on Ray; one a CPU by default.
        **settings: as for `bulk.arun_bulk`; a budget and a deadline are for the local executor.

    Raises:
        UsageError: as `check_execution` says.
    """
    limits = {name: settings.get(name) for name in ("budget", "deadline")}
    check_execution(job, executor, workers=workers, **limits)
    if executor == "local":
        return run_bulk(job.program, job.source(), directory, **settings)
    from spri_dspy.ray_executor import run_on_ray

    address = executor.partition(":")[2] or None
    make = partial(make_program, job.request)
    kept = {name: value for name, value in settings.items() if name not in limits}
    return run_on_ray(make, job.source(), directory, address=address, workers=workers, **kept)


def check_execution(
    job: Job,
    executor: str,
    budget: Budget | None = None,
    deadline: float | None = None,
    workers: int | None = None,
) -> None:
    """Refuse a way of running that there is not, before anything is written.

    Raises:
        UsageError: an unknown executor, a setting that it has not, a limit of dollars where a price is unknown, or a
            deadline that is none.
        PrerequisiteError: Ray is asked for and not installed.
    """
    if executor != "local":
        if executor.partition(":")[0] != "ray":
            raise UnknownNameError("executor", executor, ["local", "ray", "ray:ADDRESS"])
        stated = {f"--{name.replace('_', '-')}": getattr(budget, name) for name in LIMITS} if budget else {}
        refused = [name for name, value in {**stated, "--deadline": deadline}.items() if value is not None]
        if refused:
            raise UsageError(
                f"{' and '.join(refused)}: only the local executor keeps this; leave it out with ray"
            )
        from spri_dspy.ray_executor import find_ray

        find_ray()
    elif workers is not None:
        raise UsageError("--workers is for --executor ray; leave it out")
    check_budget(job.program, budget)
    check_deadline(deadline)


def _source(task: Task, request: Request, program: Any) -> Callable[[], Iterator[Example]]:
    """Examples as the program is to see them: with the labels it may see, and with rubrics that were given."""
    shown = tuple(getattr(program, "label_inputs", ()))
    rubrics = _given_rubrics(task, request.rubrics)
    if request.text is not None:
        examples = [task.example_of(id="text", **{task.text_input: request.text})]
        read = lambda: iter(examples)  # noqa: E731 - one of two sources of the same kind
    else:
        read = lambda: islice(task.examples(request.data), request.limit)  # noqa: E731
    if not shown and rubrics is None:
        return read
    return lambda: (_completed(example, shown, rubrics) for example in read())


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

    def texts() -> Iterator[Text]:
        nonlocal total, characters
        seen: set[str] = set()
        for example in examples:
            total += 1
            try:
                program.check(example.input_values, example.group)
            except UsageError as error:
                raise DataError(f"example {example.id!r}: {error}") from None
            characters += sum(len(str(value)) for value in example.input_values.values())
            source = example.cluster or example.id
            if source not in seen:
                seen.add(source)
                yield Text(source, str(example.input_values[task.text_input]), "evaluation")

    leaks = check_leaks({"seeds": seed_texts(task, program), "evaluation": texts()}, allow=allow_leak)
    return total, characters, leaks


def _known_survey(
    path: Path | None, make_manifest: Callable[[], dict[str, Any]], limit: int | None
) -> tuple[int, int, tuple[Leak, ...]] | None:
    """What the survey found when this very run began; None if there was none, or it may find something else today."""
    try:
        manifest = make_manifest()
        there: dict[str, Any] = RunDir.read(path or _named(manifest)).manifest
    except (SpriError, OSError):  # the survey says more clearly what is wrong with the data
        return None
    found: dict[str, Any] = there.get("input", {})
    is_same = _identity(there) == _identity(json.loads(json.dumps(manifest)))
    if not is_same or found.get("limit", 0) != limit or "hub" in manifest["data"]:
        return None
    return found["examples"], found["characters"], ()


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


def _manifest(task: Task, program: Any, specs: Mapping[str, LMSpec], request: Request) -> dict[str, Any]:
    return {
        "task": task.name,
        "system": request.system,
        "data": _data_identity(task, request),
        "program": program_fingerprint(program),
        "seeds": _seed_counts(program),
        "models": {role: spec.identity for role, spec in specs.items()},
        "settings": {"paper": request.paper, **request.settings, **request.task_options},
        "seed": request.seed,
        "lms": {role: str(spec) for role, spec in specs.items()},
        "versions": versions(),
    }


def _data_identity(task: Task, request: Request) -> dict[str, str]:
    given = {"rubrics": _fingerprint_of(str(request.rubrics))} if request.rubrics else {}
    if request.text is not None:
        return {"text": fingerprint(request.text), **given}
    source = task.source(request.data)
    if not source.startswith("hf:"):
        return {"file": file_fingerprint(source), **given}
    folder = Path(source.removeprefix("hf:").rpartition(":")[0] or source.removeprefix("hf:"))
    local = {"folder": folder.name} if folder.is_dir() else {}
    return {**local, "hub": _fingerprint_of(source), **given}


def _fingerprint_of(source: str) -> str:
    """What tells a source from others: its content, or the name of a data set on the hub."""
    if not source.startswith("hf:"):
        return file_fingerprint(source)
    name, _, split = source.removeprefix("hf:").partition(":")
    if not Path(name).is_dir():
        return source
    files = sorted(p for p in Path(name).rglob("*") if p.is_file() and not p.name.startswith("."))
    return fingerprint([split, [(str(p.relative_to(name)), file_fingerprint(p)) for p in files]])


def _seed_counts(program: Any) -> dict[str, dict[str, int]]:
    """How many seeds each predictor holds, by group; "" is no group."""
    predictors = {name: p.demos for name, p in program.named_predictors() if p.demos}
    return {
        name: dict(Counter(str(d.get("group") or "") for d in demos)) for name, demos in predictors.items()
    }


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in manifest.items() if k not in INFORMATIVE}


def _named(manifest: Mapping[str, Any]) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / f"{manifest['task']}-{manifest['system']}-{fingerprint(_identity(manifest))[:8]}"


def _price(lms: Mapping[str, str], tokens_in: int, tokens_out: int) -> float | None:
    """Dollars if every call went to the dearest LM named; None if a price is unknown; 0 offline."""
    dollars: list[float] = []
    for text in lms.values():
        try:
            price_in, price_out = price_of(parse_lm(text))
        except UsageError:
            return None
        dollars.append(tokens_in * price_in + tokens_out * price_out)
    return max(dollars)
