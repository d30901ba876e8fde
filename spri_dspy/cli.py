"""The command line: spri run | judge | tune | show | export | doctor. Results go to stdout, all else to stderr.

Only this module prints and exits. Exit codes: 0 done, 1 some examples failed, 2 wrong input, 3 something missing
outside (a key, a server, an extra), 130 interrupted (the run can be resumed).
"""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spri_dspy.errors import SpriError, UsageError
from spri_dspy.redaction import RedactingFormatter, redact, scrub

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(
    name="spri",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LMOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lm", metavar="ROLE=STRING", help="LM of a role (base, critic, judge); repeat. Default: offline."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable results on stdout.")]


def _version(asked: bool) -> None:
    if asked:
        from spri_dspy import __version__

        sys.stdout.write(f"spri-dspy {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Situated principles for every input: run, look, tune."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("spri: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.ERROR)
    logging.getLogger("spri_dspy").setLevel(logging.DEBUG if verbose else logging.WARNING)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="reappraisal, rubrics, sft, or path/to/file.py:NAME")],
    data: Annotated[
        str | None, typer.Option(help="JSON-lines or parquet file, hub, or hf:NAME:SPLIT.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="One input, instead of a file.")] = None,
    system: Annotated[str, typer.Option(help="What answers: spri, or a baseline such as vanilla.")] = "spri",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the system; repeat.")
    ] = None,
    lm: LMOption = None,
    run_dir: Annotated[Path | None, typer.Option("--run", help="Run directory; the same resumes.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N examples.")] = None,
    concurrency: Annotated[int, typer.Option(help="LM calls in flight, per LM.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of everything random here.")] = 0,
    paper: Annotated[bool, typer.Option("--paper", help="The published behaviour, faults included.")] = False,
    program: Annotated[Path | None, typer.Option(help="A saved or tuned program to use.")] = None,
    rubrics: Annotated[
        Path | None, typer.Option(help="Exported rubrics to judge with (task rubrics).")
    ] = None,
    with_reference: Annotated[
        bool, typer.Option("--with-reference", help="Show the judge the reference answer (task rubrics).")
    ] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Go on although inputs are among the seeds; marks the run.")
    ] = False,
    max_calls: Annotated[
        int | None, typer.Option(help="Stop, resumably, after N LM calls and what is in flight then.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop, resumably, after N tokens.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="Stop, resumably, after so many dollars.")] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Give an example up after N seconds of its own.")
    ] = None,
    executor: Annotated[str, typer.Option(help="local, ray, or ray:ADDRESS of a cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Workers on Ray. Default: one a CPU.")] = None,
    json_out: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; do nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the run that is there away.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Run failed examples once more.")
    ] = False,
) -> None:
    """Run SPRI, or another system, on the examples of a task. The same command again goes on where it stopped."""
    from spri_dspy.commands import run as jobs
    from spri_dspy.lms.budget import Budget

    job = jobs.plan(
        jobs.Request(
            task=task,
            system=system,
            settings=_pairs("--set", setting),
            data=data,
            text=text,
            lms=_pairs("--lm", lm),
            limit=limit,
            seed=seed,
            paper=paper,
            program=program,
            rubrics=rubrics,
            task_options={"with_reference": True} if with_reference else {},
            allow_leak=allow_leak,
        ),
        run_dir,
    )
    if concurrency < 1:
        raise UsageError(f"--concurrency must be at least 1, not {concurrency}")
    limits = (max_calls, max_tokens, max_usd)
    budget = Budget(*limits) if any(limit is not None for limit in limits) else None
    if dry_run:
        _print_json(job.forecast()) if json_out else _print_lines(job.forecast_lines())
        return
    jobs.check_execution(job, executor, budget, deadline, workers)
    with job.open(run_dir, fresh=fresh) as directory:
        before = len(directory.finished(retry_errors=retry_errors))
        with _progress(job.total, before) as advance:
            summary = jobs.execute(
                job,
                directory,
                executor=executor,
                workers=workers,
                concurrency=concurrency,
                retry_errors=retry_errors,
                budget=budget,
                deadline=deadline,
                on_record=lambda _: advance(),
            )
    _show_results(job.records(directory), json_out, in_full=text is not None)
    again = f"; {summary.skipped} were finished before" if summary.skipped else ""
    ran = "1 example" if summary.done == 1 else f"{summary.done} examples"
    _say([f"{ran} run{again}. Look at one: spri show {directory.path} ID"])
    failed = len(directory.finished() - directory.finished(retry_errors=True))
    if failed:
        _say([f"{failed} failed; the same command with --retry-errors runs what failed once more"])
        raise typer.Exit(1)


@app.command()
def show(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    example_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Default: one that was refined.")
    ] = None,
    json_out: JsonOption = False,
) -> None:
    """Show one example as it went: draft, verdict, refinement, verdict ..., response."""
    from spri_dspy.report import terminal as report
    from spri_dspy.runs import RunDir

    record = report.pick(RunDir.read(run_dir), example_id)
    _print_json(record.to_json()) if json_out else _print(report.trace(record))


@app.command()
def judge(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            metavar="NAME",
            help="reappraisal, rubric, generic, or path/to/file.py:NAME; repeat for a panel. Default: by task.",
        ),
    ] = None,
    lm: Annotated[
        list[str] | None,
        typer.Option(
            "--lm", metavar="judge=STRING", help="LM of the judge; repeat for a panel. Default: offline."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="samples=N, logprobs=true, swap=true, combine=mean|median, reference=true, "
            "rubric=label|run|FILE (several with commas between); repeat.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N examples that finished.")] = None,
    concurrency: Annotated[int, typer.Option(help="LM calls in flight, per LM.")] = 16,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Judge a run that is marked for leaks; marks the result.")
    ] = False,
    max_calls: Annotated[int | None, typer.Option(help="Stop, resumably, after N LM calls.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop, resumably, after N tokens.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="Stop, resumably, after so many dollars.")] = None,
    json_out: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; do nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw these judgements away, start anew.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Judge failed examples once more.")
    ] = False,
) -> None:
    """Judge the answers of a run with an LM, and say what the numbers come to. The same command again resumes."""
    from spri_dspy import bulk
    from spri_dspy.commands import judge as judging
    from spri_dspy.lms.budget import Budget

    job = judging.plan(
        judging.JudgeRequest(
            run=run_dir,
            judges=judges or (),
            settings=_pairs("--set", setting),
            lms=[_judge_lm(option) for option in lm or ()],
            limit=limit,
            allow_leak=allow_leak,
        )
    )
    if concurrency < 1:
        raise UsageError(f"--concurrency must be at least 1, not {concurrency}")
    limits = (max_calls, max_tokens, max_usd)
    budget = Budget(*limits) if any(limit is not None for limit in limits) else None
    if dry_run:
        _print_json(job.forecast()) if json_out else _print_lines(job.forecast_lines())
        return
    bulk.check_budget(job.judge, budget)
    with job.open(fresh=fresh) as directory:
        before = len(directory.finished(retry_errors=retry_errors))
        with _progress(job.total, before) as advance:
            summary = judging.execute(
                job,
                directory,
                concurrency=concurrency,
                retry_errors=retry_errors,
                budget=budget,
                on_record=lambda _: advance(),
            )
    _show_findings(job, directory, json_out)
    again = f"; {summary.skipped} were judged before" if summary.skipped else ""
    _say([f"{summary.done} judged{again}. Look at one: spri show {directory.path} ID", *job.remarks()])
    failed = len(directory.finished() - directory.finished(retry_errors=True))
    if failed:
        _say([f"{failed} failed; the same command with --retry-errors judges what failed once more"])
        raise typer.Exit(1)


@app.command()
def tune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file; optimize/ has some.")],
    lm: Annotated[
        list[str] | None,
        typer.Option("--lm", metavar="ROLE=STRING", help="LM of a role, instead of the recipe's; repeat."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Examples, instead of the recipe's.")] = None,
    run_dir: Annotated[Path | None, typer.Option("--run", help="Run directory; the same resumes.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N examples of each file.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random here.")] = None,
    max_calls: Annotated[int | None, typer.Option(help="Decide with what is known after N LM calls.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The same after N tokens.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="The same after so many dollars.")] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Go on although splits or seeds match; marks the program.")
    ] = False,
    json_out: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; do nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the search that is there away.")] = False,
) -> None:
    """Tune a program's seeds or wordings by a recipe. The same command again goes on where it stopped."""
    from spri_dspy.commands import recipe as recipes
    from spri_dspy.commands import tune as recipe_run

    asked = recipes.change(
        recipes.read(recipe),
        lms=_pairs("--lm", lm),
        data=data,
        run=str(run_dir) if run_dir else None,
        limit=limit,
        seed=seed,
        budget={"max_calls": max_calls, "max_tokens": max_tokens, "max_usd": max_usd},
    )
    job = recipe_run.plan(asked, allow_leak=allow_leak)
    if dry_run:
        _print_json(job.forecast()) if json_out else _print_lines(job.forecast_lines())
        return
    outcome = job.run(fresh=fresh)
    _print_json(recipe_run.summary(outcome)) if json_out else _print_lines(recipe_run.outcome_lines(outcome))
    _say([*outcome["notes"], f"use it: spri run {outcome['task']} --program {outcome['run']}/program.json"])


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    export_format: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="rubrics (to judge with), sft or dpo (to train on)."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Default: RUN/exports/FORMAT-jsonl/FORMAT.jsonl.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="jsonl|parquet|hf:DIR", help="hf:DIR: a local folder in the hub's layout."),
    ] = None,
    include_all: Annotated[
        bool, typer.Option("--all", help="Responses that were not accepted too (sft).")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the export that is there.")] = False,
    json_out: JsonOption = False,
) -> None:
    """Write a run's results as rubrics, chat rows or preference pairs, with a data card beside them."""
    from spri_dspy.export.formats import export_run
    from spri_dspy.runs import RunDir

    done = export_run(
        RunDir.read(run_dir), export_format, to=to, out=out, include_all=include_all, fresh=fresh
    )
    _print_json(done.to_json()) if json_out else _print_lines(done.lines())


@app.command()
def doctor(lm: LMOption = None, json_out: JsonOption = False) -> None:
    """Check this machine: Python, versions, which keys are set, and one call to each LM named."""
    from spri_dspy.commands.doctor import examine, flatten

    findings = examine(_pairs("--lm", lm))
    if json_out:
        _print_json(findings)
    else:
        _print_lines(f"{name}: {said}" for name, said in flatten(findings))
    if any(not answer["ok"] for answer in findings["lms"].values()):
        raise typer.Exit(3)


_EXAMPLES = {"--lm": ("ROLE=STRING", "base=openai/gpt-4o-mini"), "--set": ("NAME=VALUE", "seeds=none")}


def _pairs(flag: str, options: list[str] | None) -> dict[str, str]:
    """Repeated NAME=VALUE options as a dict."""
    pairs: dict[str, str] = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals or not name or not value:
            form, example = _EXAMPLES[flag]
            raise UsageError(f"{flag} takes {form}, such as {example}, not {option!r}")
        if name in pairs:
            raise UsageError(f"{flag} names {name} twice")
        pairs[name] = value
    return pairs


def _judge_lm(option: str) -> str:
    """The LM string of `judge=STRING`."""
    role, text = next(iter(_pairs("--lm", [option]).items()))
    if role != "judge":
        raise UsageError(f"spri judge asks the role judge only, not {role!r}: --lm judge=STRING")
    return text


def _show_findings(job: Any, directory: Any, json_out: bool) -> None:
    from spri_dspy.report import figures as results

    found = results.findings(directory)
    if json_out:
        _print_json(job.about(directory) | {"findings": [each.to_json() for each in found]})
        return
    _print_lines(results.finding_lines(found))


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def _print(parts: Any) -> None:
    console = _console()
    for part in parts:
        console.print(part)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")


def _print_json(value: Any) -> None:
    """One line; where the terminal is not UTF-8, other letters are written as JSON escapes."""
    is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8) + "\n")


def _say(lines: list[str]) -> None:
    """Talk, one line each whatever is in it: a file's name or an LM's error may hold line breaks."""
    for line in lines:
        sys.stderr.write(f"spri: {' '.join(redact(line).split())}\n")


def _show_results(records: Any, json_out: bool, in_full: bool) -> None:
    from spri_dspy.report import terminal as report

    if json_out:
        for record in records:
            _print_json(record.to_json())
    else:
        _print((report.answers if in_full else report.glance)(records))


class _progress:  # noqa: N801 - used as a function
    """A progress bar on stderr; where that is no terminal, a line now and then."""

    def __init__(self, total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("examples"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=_console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("examples", total=total, completed=min(done, total))
        self._total, self._done, self._said_at = total, done, time.monotonic()

    def __enter__(self) -> Any:
        self._bar.start()
        return self._advance

    def _advance(self) -> None:
        self._bar.advance(self._task)
        self._done += 1
        if self._bar.disable and time.monotonic() - self._said_at >= SAY_EVERY_SECONDS:
            self._said_at = time.monotonic()
            _say([f"{self._done} of {self._total} examples"])

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


SAY_EVERY_SECONDS = 30.0
_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit. SIGTERM, which schedulers send, is taken as Ctrl-C is."""
    usual = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        _main()
    finally:
        signal.signal(signal.SIGTERM, usual)


def _main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is escaped, not a crash
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="spri", standalone_mode=False)
    except SpriError as error:
        _say([str(error)])
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None:
            scrub(error)
            raise
        _say([f"{shown()} (spri --help)"])
        sys.exit(2)
    if code == _INTERRUPTED:  # typer's own code for Ctrl-C, which it does not pass on as an exception
        _say(["interrupted; the same command goes on where it stopped"])
    sys.exit(code or 0)
