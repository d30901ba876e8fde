"""Judging what a run produced, from what a user asks for to a judged run beside it.

`plan` checks everything that can be checked before anything is written or paid: the run, the judge, its settings and
LMs, and that every example has what the judge is shown. `JudgePlan.open` looks for keys and makes or resumes the
judged run under RUN/judged, `JudgePlan.execute` fills it; `report.figures` reads the numbers from it.

The judge's LMs are named by the user and by nobody else: a run directory may be somebody else's, and what its
manifest says of LMs, addresses and keys is shown and never obeyed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from spri_dspy.bulk import Summary
from spri_dspy.commands.ending import show_command
from spri_dspy.commands.execution import Execution
from spri_dspy.commands.forecast import Forecast, cost, price_evenly
from spri_dspy.commands.manifest import folder_name, make_manifest
from spri_dspy.commands.shown import Shown, judged_example, judged_examples
from spri_dspy.errors import DataError, LeakError, UsageError
from spri_dspy.judges import Panel, load_judge
from spri_dspy.lms.spec import LMSpec, check_offline_roles, check_roles, load_lm
from spri_dspy.metrics.judging import material
from spri_dspy.program import fingerprint, set_lms
from spri_dspy.records import Record
from spri_dspy.report.figures import has_judgements, is_judged, named_lms
from spri_dspy.runs import RunDir
from spri_dspy.tasks import Example

FOLDER = "judged"
"""Judged runs lie in this folder of the run."""

_PROMPT_TOKENS, _ANSWER_TOKENS = 350, 150  # of a judge's own words, and of an answer, for the forecast
_MOST_SAMPLES = 3

_WHY = {
    "reappraisal": "the data has standards",
    "rubric": "the run wrote rubrics",
    "generic": "the run wrote no rubrics, and its data has no standards of reappraisal",
}


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """What a user asks for.

    Attributes:
        run: the run whose answers are judged.
        judges: names; several are a panel. None: reappraisal for that task where the data has standards; rubric, with
            the run's own rubrics, for a run that wrote some; else generic.
        settings: of the judge; and `rubric` (run, label, a file, or several with commas between), `reference`
            (true shows the reference answer), `combine` (mean or median, of a panel).
        lms: LM strings; several are a panel. None is the offline LM, which judges offline answers only.
        limit: only the first N examples that finished.
        allow_leak: go on although the run is marked for leaks; the result is marked too.
    """

    run: Path
    judges: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    lms: Sequence[str] = ()
    limit: int | None = None
    allow_leak: bool = False

    @property
    def is_bare(self) -> bool:
        """True if no judge, no LM and no setting is named."""
        return not (self.judges or self.lms or self.settings)


@dataclass
class JudgePlan:
    """A judging that is checked and ready.

    Attributes:
        run: what is judged.
        judge: a judge or a panel; gets its LMs when the judged run is opened.
        members: the judges of a panel, else the one, each with the LM that it will have.
        source: reads the examples anew, as the judge is to see them.
        total: examples to judge.
        without_answer: finished examples that have no answer to judge.
        failed_before: examples of the run that failed and so have no answer.
        calls: LM calls if every answer is readable.
        characters: in all prompts together, the judge's own words left out.
        chosen: why this judge was taken where none is named; "" where one is.
        make: makes the judge anew with its LMs, for workers.
    """

    run: RunDir
    judge: Any
    members: Sequence[tuple[Any, LMSpec]]
    source: Callable[[], Iterator[Example]]
    manifest: dict[str, Any]
    total: int = 0
    without_answer: int = 0
    failed_before: int = 0
    calls: int = 0
    characters: int = 0
    chosen: str = ""
    make: Callable[[], Any] | None = None

    @property
    def lms(self) -> list[LMSpec]:
        """The LMs that are asked."""
        return [spec for _, spec in self.members]

    @property
    def prices(self) -> dict[str, tuple[float, float]]:
        """Dollars a token in and out of the judge; nothing where one is unknown."""
        known = price_evenly(self.lms)
        return {} if known is None else {"judge": known}

    def forecast(self) -> Forecast:
        """Calls; tokens and dollars if every answer is readable."""
        read, written = self.characters // 4 + _PROMPT_TOKENS * self.calls, _ANSWER_TOKENS * self.calls
        plural = "" if self.total == 1 else "s"
        return Forecast(
            headline=f"{self.total:,} example{plural} of {self.run.path}, judge {self.judge.version}",
            facts={"run": str(self.run.path), "judge": self.judge.version, "examples": self.total},
            lms=self.manifest["lms"],
            calls={"fewest": self.calls, "most": self.calls * _MOST_SAMPLES},
            input_tokens=read,
            output_tokens=written,
            usd=cost(price_evenly(self.lms), read, written),
        )

    def load_lms(self) -> None:
        """Give the judge its LMs.

        Raises:
            PrerequisiteError: a key or an address is missing.
        """
        _give_lms(self.members)

    def open(self, *, fresh: bool = False) -> RunDir:
        """Make the judged run or resume it.

        Raises:
            PrerequisiteError: a key or an address is missing; nothing is written.
            UsageError: as `RunDir.create` says.
        """
        self.load_lms()
        path = self.run.path / FOLDER / folder_name(self.manifest["judge"], self.manifest)
        return RunDir.create(path, self.manifest, fresh=fresh)

    def execute(
        self,
        directory: RunDir,
        how: Execution | None = None,
        *,
        on_record: Callable[[Record], None] | None = None,
        on_call: Callable[[dict[str, Any]], None] | None = None,
    ) -> Summary:
        """Judge what is not judged yet in a directory from `open`; see `Execution.run`."""
        how = how or Execution()
        told = {"on_record": on_record, "on_call": on_call}
        return how.run(self.judge, self.source(), directory, make_program=self.make, **told)

    def about(self, directory: RunDir) -> dict[str, Any]:
        """What the numbers in a judged run are, as plain JSON types."""
        kept = ("judge", "judge_version", "task", "system", "lms", "settings", "leaks")
        return {
            "run": str(directory.path),
            "judged_run": str(self.run.path),
            **{k: self.manifest[k] for k in kept if k in self.manifest},
            "failed_before": self.failed_before,
            "without_answer": self.without_answer,
        }

    def notes(self) -> list[str]:
        """What to know about the numbers, a line each."""
        notes: list[str] = [self.chosen] if self.chosen else []
        if self.failed_before:
            notes.append(f"failed in the run, so not judged: {self.failed_before:,}")
        if self.without_answer:
            notes.append(f"without an answer, so not judged: {self.without_answer:,}")
        if leaks := self.manifest.get("leaks"):
            notes.append(f"marked: evaluation inputs were among the run's seeds, such as {leaks[0]}")
        if "offline" in {spec.prefix for spec in self.lms} and (named := suggestion(self.run)):
            notes.append(named)
        return notes

    def next_commands(self, directory: RunDir) -> list[str]:
        """What to do with the judged run next, a command each."""
        return [*show_command(directory), f"spri report {shlex.quote(str(self.run.path))}"]


def plan(request: JudgeRequest) -> JudgePlan:
    """Check what is asked, and make it ready; no key is needed and nothing is written.

    Raises:
        UsageError: anything about the request is wrong, or a real LM's run would be judged by the offline LM.
        DataError: there is no run, nothing in it to judge, or an example lacks what the judge is shown.
        LeakError: the run was made although evaluation inputs are among the seeds.
    """
    run = _run(request)
    settings = dict(request.settings)
    names = list(request.judges) or [default_judge(run)]
    if "rubric" in names and has_rubrics(run):
        settings.setdefault("rubric", "run")
    shown = Shown.take(settings)
    specs = _specs(request)
    make = partial(make_judge, names, dict(settings), specs)
    judge, members = _judge(names, settings, specs)
    _check_named(run, members)
    if request.lms and not members:
        raise UsageError(f"the judge {judge.name} asks no LM; leave --lm out")
    shown.check(judge)
    source = lambda: judged_examples(run, judge, shown, request.limit)  # noqa: E731 - it is read more than once
    made = JudgePlan(run, judge, members, source, {}, make=make)
    made.chosen = "" if request.judges else f"no --judge was named, so it is {judge.name}: {_WHY[names[0]]}"
    _survey(made, partial(judged_example, judge=judge, shown=shown), request.limit)
    made.manifest = _manifest(made, shown)
    return made


def own_scores(request: JudgeRequest) -> RunDir | None:
    """The run itself, if it has judgements of its own and no other is asked for: its figures need no call.

    Raises:
        DataError: there is no run.
    """
    run = RunDir.read(request.run)
    has_own = request.is_bare and not is_judged(run) and has_judgements(run)
    return run if has_own else None


def has_rubrics(run: RunDir) -> bool:
    """True if the run's principles are rubrics. Those of one example tell of all."""
    written = (record.outputs.get("principles") for record in run.records() if record.ok)
    principles = next((each for each in written if each is not None), None)
    return isinstance(principles, Mapping) and "criteria" in principles


def own_notes(run: RunDir) -> list[str]:
    """What to know about a run's own figures, and how to get others."""
    command = f"spri judge {shlex.quote(str(run.path))}"
    return [
        "these are the run's own judgements; no call was made",
        *([named] if (named := suggestion(run)) else []),
        f"next: {command} --lm judge=PROVIDER/MODEL   (judges anew, with the run's rubrics)",
    ]


def default_judge(run: RunDir) -> str:
    """The judge of a run for which none is named."""
    if run.manifest.get("task") == "reappraisal" and any("standards" in r.labels for r in run.records()):
        return "reappraisal"
    return "rubric" if has_rubrics(run) else "generic"


def suggestion(run: RunDir) -> str:
    """The judge that the run's manifest names, as a line to be read by people; "" if it names none."""
    named = named_lms(run).get("judge")
    return f"this run names judge={named}: pass --lm judge=... to use it" if named else ""


def _run(request: JudgeRequest) -> RunDir:
    run = RunDir.read(request.run)
    if is_judged(run):
        raise UsageError(f"{run.path} is a judged run itself; name the run it was made from")
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {request.limit}")
    leaks = run.manifest.get("leaks", ())
    if leaks and not request.allow_leak:
        raise LeakError(
            f"{run.path} was made although evaluation inputs are among its seeds ({leaks[0]}); run it anew without "
            "them, or pass --allow-leak to judge it with the result marked"
        )
    return run


def _specs(request: JudgeRequest) -> list[LMSpec]:
    """The judge's LMs as the user names them, without any the offline LM."""
    named = list(request.lms) or ["offline"]
    if len(set(named)) < len(named):
        raise UsageError("a panel asks different LMs; one is named twice")
    return [check_roles({"judge": text})["judge"] for text in named]


def _check_named(run: RunDir, members: Sequence[tuple[Any, LMSpec]]) -> None:
    """Refuse to have a real LM's answers judged by the offline LM; say whom the run's manifest names."""
    base = LMSpec(named_lms(run).get("base", "the LM of that run").partition("?")[0])
    for _, spec in members:
        try:
            check_offline_roles({"base": base, "judge": spec})
        except UsageError as error:
            more = suggestion(run)
            raise UsageError(f"{error}; {more}" if more else str(error)) from None


def _judge(
    names: Sequence[str], settings: dict[str, str], specs: Sequence[LMSpec]
) -> tuple[Any, list[tuple[Any, LMSpec]]]:
    """The judge, and each member that asks an LM with its LM; a panel if several judges or LMs are named."""
    if len(set(names)) < len(names):
        raise UsageError("a panel has different judges; one is named twice")
    if len(names) == len(specs) == 1:
        judge = load_judge(names[0], **settings)
        return judge, _asking([(judge, specs[0])])
    combine = settings.pop("combine", "mean")
    own = {"rubric": {**settings, "combine": combine}}
    pairs = [(load_judge(name, **own.get(name, settings)), spec) for name, spec in product(names, specs)]
    return Panel([judge for judge, _ in pairs], combine=combine), _asking(pairs)


def make_judge(names: Sequence[str], settings: Mapping[str, str], specs: Sequence[LMSpec]) -> Any:
    """The judge or the panel of these names, with its LMs; workers make theirs with it.

    Raises:
        UsageError: no such judge or setting.
        PrerequisiteError: a key or an address is missing.
    """
    judge, members = _judge(names, dict(settings), specs)
    _give_lms(members)
    return judge


def _give_lms(members: Sequence[tuple[Any, LMSpec]]) -> None:
    for member, spec in members:
        set_lms(member, base=load_lm(spec))  # all of a judge's predictors are the judge's


def _asking(pairs: Sequence[tuple[Any, LMSpec]]) -> list[tuple[Any, LMSpec]]:
    """Those that ask an LM; a judge that is a function asks none."""
    return [(judge, spec) for judge, spec in pairs if judge.named_predictors()]


def _survey(plan: JudgePlan, see: Callable[[Record], Example | None], limit: int | None) -> None:
    """Read all examples once, so that nothing missing is found out after half of them are paid for.

    Raises:
        DataError: there is nothing to judge, or an example lacks what the judge is shown.
    """
    count = getattr(plan.judge, "calls", None)
    for record in plan.run.records():
        if not record.ok:
            plan.failed_before += 1
            continue
        if plan.total == limit:  # the rest is not judged, only counted where there is nothing to judge
            plan.without_answer += "answer" not in material(record.inputs, record.outputs, record.labels)
            continue
        example = see(record)
        if example is None:
            plan.without_answer += 1
            continue
        plan.total += 1
        calls = count(example.input_values) if count else len(plan.judge.named_predictors())
        plan.calls += calls
        plan.characters += calls * sum(len(str(value)) for value in example.input_values.values())
    if not plan.total:
        failed = f"{plan.failed_before} failed" if plan.failed_before else "none finished"
        without = f"{plan.without_answer} finished without an answer" if plan.without_answer else failed
        raise DataError(f"{plan.run.path} has no answer to judge: {without}")


def _manifest(plan: JudgePlan, shown: Shown) -> dict[str, Any]:
    parent, judge = plan.run.manifest, plan.judge
    specs = list({str(spec): spec for spec in plan.lms}.values())
    roles = ["judge", *(f"judge{n}" for n in range(2, len(specs) + 1))][: len(specs)]
    settings = {**getattr(judge, "settings", {}), **shown.identity()}
    leaks = {"leaks": parent["leaks"]} if parent.get("leaks") else {}
    return make_manifest(
        dict(zip(roles, specs, strict=True)),
        task=parent.get("task"),
        system=parent.get("system"),
        judge=judge.name,
        judge_version=judge.version,
        criteria={name: each.kind for name, each in dict(getattr(judge, "criteria", {})).items()},
        program=fingerprint(judge),
        settings=settings,
        data=parent.get("data"),
        parent={k: parent.get(k) for k in ("program", "models", "settings", "seed", "created")},
        seed=parent.get("seed"),
        **leaks,
    )
