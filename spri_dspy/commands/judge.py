"""A judge's work on a finished run, from its options to a judged run beside it.

`plan` checks everything that can be checked before anything is written or paid: the run, the judge, its settings and
LMs, and that every example has what the judge is shown. `JudgeJob.open` makes or resumes the judged run under
RUN/judged, `execute` fills it; `results` reads the numbers from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any

from spri_dspy.bulk import Summary, run_bulk
from spri_dspy.commands.doctor import versions
from spri_dspy.errors import DataError, LeakError, UsageError
from spri_dspy.judges import Panel, load_judge
from spri_dspy.lms.budget import Budget, price_of
from spri_dspy.lms.spec import LMSpec, check_roles, load_lm
from spri_dspy.program import set_lms
from spri_dspy.records import Record
from spri_dspy.report.figures import is_judged
from spri_dspy.runs import RunDir, file_fingerprint, fingerprint
from spri_dspy.tasks import Example, make_example
from spri_dspy.tasks.rubrics import as_text, read_export

FOLDER = "judged"
"""Judged runs lie in this folder of the run."""

_WORDS_IN, _TOKENS_OUT = 350, 150  # of a judge's own words, and of an answer, in tokens, for the forecast
_MOST_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """What a user asks for.

    Attributes:
        run: the run whose answers are judged.
        judges: names; several are a panel. None: reappraisal for that task, else generic.
        settings: of the judge; and `rubric` (label, run, a file, or several with commas between), `reference`
            (true shows the reference answer), `combine` (mean or median, of a panel).
        lms: LM strings; several are a panel. None: the run's own judge, else offline.
        limit: only the first N examples that finished.
        allow_leak: go on although the run is marked for leaks; the result is marked too.
    """

    run: Path
    judges: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    lms: Sequence[str] = ()
    limit: int | None = None
    allow_leak: bool = False


@dataclass
class JudgeJob:
    """Work that is checked and ready.

    Attributes:
        total: examples to judge.
        passed_over: finished examples without an answer to judge.
        failed_before: examples of the run that failed and so have no answer.
        calls: LM calls if every answer is readable.
        characters: in all prompts together, the judge's own words left out.
    """

    run: RunDir
    judge: Any
    source: Callable[[], Iterator[Example]]
    manifest: dict[str, Any]
    total: int = 0
    passed_over: int = 0
    failed_before: int = 0
    calls: int = 0
    characters: int = 0

    def open(self, *, fresh: bool = False) -> RunDir:
        """Make the judged run or resume it."""
        identity = {k: v for k, v in self.manifest.items() if k not in ("lms", "versions")}
        name = re.sub(r"[^\w.-]+", "-", self.manifest["judge"]).strip("-.")
        return RunDir.create(
            self.run.path / FOLDER / f"{name}-{fingerprint(identity)[:8]}", self.manifest, fresh=fresh
        )

    def about(self, directory: RunDir) -> dict[str, Any]:
        """What the numbers in a judged run are, as plain JSON types."""
        kept = ("judge", "judge_version", "task", "system", "lms", "settings", "leaks")
        return {
            "run": str(directory.path),
            "judged_run": str(self.run.path),
            **{k: self.manifest[k] for k in kept if k in self.manifest},
            "failed_before": self.failed_before,
            "without_answer": self.passed_over,
        }

    def remarks(self) -> list[str]:
        """What to know about the numbers, a line each."""
        leaks = self.manifest.get("leaks", ())
        found = [
            (self.failed_before, f"{self.failed_before} examples of the run failed and were not judged"),
            (self.passed_over, f"{self.passed_over} examples of the run have no answer and were not judged"),
            (
                leaks,
                f"marked: evaluation inputs were among the run's seeds, such as {leaks[0] if leaks else ''}",
            ),
        ]
        return [said for is_so, said in found if is_so]

    def forecast(self) -> dict[str, Any]:
        """Calls and, where prices are known, dollars."""
        tokens_in, tokens_out = self.characters // 4 + _WORDS_IN * self.calls, _TOKENS_OUT * self.calls
        return {
            "run": str(self.run.path),
            "judge": self.judge.version,
            "examples": self.total,
            "lms": self.manifest["lms"],
            "calls": {"fewest": self.calls, "most": self.calls * _MOST_SAMPLES},
            "input_tokens_typical": tokens_in,
            "output_tokens_typical": tokens_out,
            "usd_typical": _dollars(self.judge, tokens_in, tokens_out),
        }

    def forecast_lines(self) -> Iterator[str]:
        """The forecast for people."""
        f = self.forecast()
        cost = "no known price" if f["usd_typical"] is None else f"about ${f['usd_typical']:.2f}"
        yield f"{f['examples']} examples of {f['run']}, judge {f['judge']}"
        yield from (f"{role}: {lm}" for role, lm in f["lms"].items())
        yield "LM calls: {fewest} to {most}".format(**f["calls"])
        yield f"tokens: about {f['input_tokens_typical']:,} in, {f['output_tokens_typical']:,} out; {cost}"
        yield "nothing was run and nothing was written"


def plan(request: JudgeRequest) -> JudgeJob:
    """Check what is asked, and make it ready.

    Raises:
        UsageError: anything about the request is wrong.
        DataError: there is no run, nothing in it to judge, or an example lacks what the judge is shown.
        LeakError: the run was made although evaluation inputs are among the seeds.
        PrerequisiteError: a key or an address is missing.
    """
    run = _run(request)
    settings = dict(request.settings)
    shown = _Shown.take(settings)
    specs = _specs(request, run)
    judge = _judge(request, run, settings, specs)
    shown.check(judge)
    job = JudgeJob(run, judge, lambda: _examples(run, judge, shown, request.limit), {})
    _survey(job)
    job.manifest = _manifest(job, shown, specs)
    return job


def execute(
    job: JudgeJob,
    directory: RunDir,
    *,
    concurrency: int = 16,
    retry_errors: bool = False,
    budget: Budget | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Summary:
    """Judge what is not judged yet."""
    return run_bulk(
        job.judge,
        job.source(),
        directory,
        concurrency=concurrency,
        retry_errors=retry_errors,
        budget=budget,
        on_record=on_record,
    )


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


def _specs(request: JudgeRequest, run: RunDir) -> list[LMSpec]:
    """The judge's LMs: as given, else the one named when the run was made, else the stand-in."""
    recorded: Any = run.manifest.get("lms", {})
    named = list(request.lms) or [recorded.get("judge", "offline")]
    if len(set(named)) < len(named):
        raise UsageError("a panel asks different LMs; one is named twice")
    return [check_roles({"judge": text})["judge"] for text in named]


def _judge(request: JudgeRequest, run: RunDir, settings: dict[str, str], specs: Sequence[LMSpec]) -> Any:
    """The judge with its LM; a panel if several judges or several LMs are named."""
    default = "reappraisal" if run.manifest.get("task") == "reappraisal" else "generic"
    names = list(request.judges) or [default]
    if len(set(names)) < len(names):
        raise UsageError("a panel has different judges; one is named twice")
    if len(names) == len(specs) == 1:
        return set_lms(load_judge(names[0], **settings), judge=load_lm(specs[0]))
    combine = settings.pop("combine", "mean")
    own = {"rubric": {**settings, "combine": combine}}
    lms = [load_lm(spec) for spec in specs]
    members = [
        set_lms(load_judge(name, **own.get(name, settings)), judge=lm) for name, lm in product(names, lms)
    ]
    return Panel(members, combine=combine)


@dataclass
class _Shown:
    """What examples show a judge beside the answer: settings of the data, not of the judge."""

    rubrics: tuple[str, ...] = ()
    reference: bool = False
    exported: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def take(cls, settings: dict[str, str]) -> _Shown:
        """Take these settings out of the judge's and read the files that they name."""
        said = settings.pop("reference", "false").lower()
        if said not in ("true", "false"):
            raise UsageError(f"the setting reference must be true or false, not {said!r}")
        sources = tuple(part.strip() for part in settings.pop("rubric", "").split(",") if part.strip())
        shown = cls(sources, said == "true")
        for source in sources:
            if source in ("label", "run"):
                continue
            path = Path(source)
            if not path.is_file():
                raise UsageError(f"no such rubric: {source!r}; the setting rubric is label, run or a file")
            if path.suffix == ".jsonl":
                shown.exported[source] = {name: rubric for name, (_, rubric) in read_export(path).items()}
            else:
                shown.texts[source] = path.read_text("utf-8", errors="replace")
        return shown

    def check(self, judge: Any) -> None:
        """Refuse what does not go together."""
        wants = "rubric" in judge.inputs
        if wants and not self.rubrics:
            raise UsageError(
                f"the judge {judge.name} needs a rubric: --set rubric=label (the data's own), run (the run's "
                "principles), or a file"
            )
        if self.rubrics and not wants:
            raise UsageError(f"the judge {judge.name} takes no rubric; --judge rubric does")
        if self.reference and "reference_answer" not in (*judge.inputs, *judge.optional):
            raise UsageError(f"the judge {judge.name} takes no reference answer; --judge rubric does")

    def rubric(self, record: Record) -> Any:
        """The rubric of an example, or the list of them."""
        found = [self._from(source, record) for source in self.rubrics]
        return found[0] if len(found) == 1 else found

    def _from(self, source: str, record: Record) -> str:
        instance = record.cluster or record.id
        if source == "label":
            value = record.labels.get("rubric") or record.labels.get("standards")
        elif source == "run":
            value = record.outputs.get("principles")
        else:
            value = self.texts.get(source) or self.exported[source].get(instance)
        if not value:
            raise DataError(
                f"example {record.id!r} has no rubric from {source!r}; name another --set rubric="
            )
        try:
            return as_text(value)
        except (ValueError, TypeError):
            raise DataError(
                f"the rubric of {record.id!r} from {source!r} is in a shape that is no rubric"
            ) from None

    def identity(self) -> dict[str, Any]:
        """What of it decides the numbers; files by their content."""
        named = [s if s in ("label", "run") else file_fingerprint(s) for s in self.rubrics]
        return ({"rubric": ",".join(named)} if named else {}) | (
            {"reference": True} if self.reference else {}
        )


def _examples(run: RunDir, judge: Any, shown: _Shown, limit: int | None) -> Iterator[Example]:
    found = (_example(record, judge, shown) for record in run.records() if record.ok)
    return islice((example for example in found if example is not None), limit)


def _example(record: Record, judge: Any, shown: _Shown) -> Example | None:
    """What the judge is shown of a record, None if it has no answer."""
    known = _material(record)
    if "answer" not in known:
        return None
    if "rubric" in judge.inputs:
        known["rubric"] = shown.rubric(record)
    wanted = [*judge.inputs, *(("reference_answer",) if shown.reference else ())]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise DataError(
            f"example {record.id!r} has no {', '.join(missing)}, which the judge {judge.name} is shown; it has "
            f"{', '.join(known)}"
        )
    return make_example(
        record.id, {name: known[name] for name in wanted}, record.group, record.cluster, record.labels
    )


def _material(record: Record) -> dict[str, Any]:
    """All that can be said of a record, by the names under which judges ask for it.

    The answer to judge is the data's where it has one (the rubrics task), else the system's response.
    """
    response = record.outputs.get("response")
    known = {
        k: v for k, v in {**record.labels, **record.outputs, **record.inputs}.items() if isinstance(v, str)
    }
    answer = record.inputs.get("answer", response)
    if isinstance(answer, str) and answer.strip():
        known["answer"] = answer
    asked = {k: v for k, v in record.inputs.items() if k != "answer"}
    known.setdefault("instruction", "\n\n".join(f"{name}:\n{value}" for name, value in asked.items()))
    return known


def _survey(job: JudgeJob) -> None:
    """Read all examples once, so that nothing missing is found out after half of them are paid for.

    Raises:
        DataError: there is nothing to judge.
    """
    for record in job.run.records():
        job.failed_before += not record.ok
        job.passed_over += record.ok and "answer" not in _material(record)
    for example in job.source():
        job.total += 1
        calls = (
            job.judge.calls(example.input_values) if hasattr(job.judge, "calls") else _predictors(job.judge)
        )
        job.calls += calls
        job.characters += calls * sum(len(str(value)) for value in example.input_values.values())
    if not job.total:
        failed = f"{job.failed_before} failed" if job.failed_before else "none finished"
        without = f"{job.passed_over} finished without an answer" if job.passed_over else failed
        raise DataError(f"{job.run.path} has no answer to judge: {without}")


def _predictors(judge: Any) -> int:
    return len(judge.named_predictors())


def _manifest(job: JudgeJob, shown: _Shown, specs: Sequence[LMSpec]) -> dict[str, Any]:
    parent, judge = job.run.manifest, job.judge
    roles = ["judge", *(f"judge{n}" for n in range(2, len(specs) + 1))]
    settings = {**getattr(judge, "settings", {}), **shown.identity()}
    made = {
        "task": parent.get("task"),
        "system": parent.get("system"),
        "judge": judge.name,
        "judge_version": judge.version,
        "criteria": list(getattr(judge, "criteria", ())),
        "program": fingerprint([judge.dump_state(), settings]),
        "models": {role: spec.identity for role, spec in zip(roles, specs, strict=True)},
        "settings": settings,
        "data": parent.get("data"),
        "parent": {k: parent.get(k) for k in ("program", "models", "settings", "seed", "created")},
        "seed": parent.get("seed"),
        "lms": {role: str(spec) for role, spec in zip(roles, specs, strict=True)},
        "versions": versions(),
    }
    return made | ({"leaks": parent["leaks"]} if parent.get("leaks") else {})


def _dollars(judge: Any, tokens_in: int, tokens_out: int) -> float | None:
    """Dollars if the calls are shared out evenly among the LMs; None if a price is unknown."""
    lms = list({id(p.lm): p.lm for _, p in judge.named_predictors()}.values())
    try:
        prices = [price_of(lm) for lm in lms]
    except UsageError:
        return None
    return sum(p_in * tokens_in + p_out * tokens_out for p_in, p_out in prices) / len(prices)
