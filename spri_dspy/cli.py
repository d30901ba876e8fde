"""The command line: spri run | judge | agree | tune | ls | show | ... | cancel-batches | serve | models | doctor.

It parses arguments, prints (results on stdout, all else on stderr), and exits. Exit codes: 0 done, 1 some examples
failed, 2 wrong input, 3 something missing outside (a key, a server, an extra), 4 a budget is spent, 130 interrupted;
the last two can be resumed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spri_dspy import cli_options as options
from spri_dspy import cli_results
from spri_dspy.errors import SpriError, UsageError
from spri_dspy.redaction import scrub
from spri_dspy.screen import (
    claim_streams,
    leave_at_once,
    print_json,
    print_lines,
    print_parts,
    printing,
    say,
    show_log_lines,
    silence_dspy,
    stop_printing,
)

if TYPE_CHECKING:
    from spri_dspy.commands.ending import Ending
    from spri_dspy.commands.forecast import Forecast
    from spri_dspy.runs import RunDir

app = typer.Typer(
    name="spri",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from spri_dspy import __version__

        print_lines([f"spri-dspy {__version__}"])
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every call and what happens to it to stderr.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Situated principles for every input: run, look, tune."""
    show_log_lines(verbose)


@app.command()
def run(
    task: options.TaskName,
    data: options.Data = None,
    columns: options.Columns = None,
    text: options.Text = None,
    aim: options.Aim = None,
    more: options.Inputs = None,
    system: options.System = "spri",
    setting: options.Settings = None,
    lm: options.LMs = None,
    run_dir: options.RunDirectory = None,
    limit: options.Limit = None,
    concurrency: options.Concurrency = 16,
    seed: options.Seed = 0,
    paper: options.Paper = False,
    program: options.Program = None,
    rubrics: options.Rubrics = None,
    with_reference: options.WithReference = False,
    allow_leak: options.AllowLeak = False,
    max_calls: options.MaxCalls = None,
    max_tokens: options.MaxTokens = None,
    max_usd: options.MaxUsd = None,
    deadline: options.Deadline = None,
    batch: options.Batch = None,
    executor: options.ExecutorName = "local",
    workers: options.Workers = None,
    track: options.Track = None,
    json_out: options.Json = False,
    dry_run: options.DryRun = False,
    fresh: options.Fresh = False,
    retry_errors: options.RetryErrors = False,
    keep_calls: options.KeepCalls = False,
) -> None:
    """Run SPRI, or another system, on the examples of a task. The same command again goes on where it stopped."""
    from spri_dspy.commands import run as command
    from spri_dspy.commands.ending import execute_watched
    from spri_dspy.commands.execution import Execution, batch_of, budget_of
    from spri_dspy.integrations.mlflow import tracked, tracker_of
    from spri_dspy.report import figures, terminal

    silence_dspy()
    inputs = options.pairs("--input", more) | ({"aim": aim} if aim is not None else {})
    plan = command.plan(
        command.RunRequest(
            task=task,
            system=system,
            settings=options.pairs("--set", setting),
            data=data,
            columns=options.pairs("--map", columns),
            text=options.text_of(text),
            inputs=inputs,
            lms=options.pairs("--lm", lm),
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
    how = Execution(
        concurrency=concurrency,
        retry_errors=retry_errors,
        keep_calls=keep_calls,
        budget=budget_of(max_calls, max_tokens, max_usd),
        deadline=deadline,
        batch=batch_of(batch),
        executor=executor,
        workers=workers,
    )
    how.check(plan.lms.values())
    if dry_run:
        return _print_forecast(how.priced(plan.forecast()), json_out)
    tracker = tracker_of(track)
    with plan.open(run_dir, fresh=fresh) as directory, tracked(tracker, directory):
        ended = execute_watched(plan, directory, how, by_call=text is not None, tracker=tracker)
    if json_out:
        for record in plan.records(directory):
            print_json(record.to_json())
    else:
        shown = directory if plan.is_all_of(directory) else plan.records(directory)
        print_parts(terminal.glance(shown) if text is None else terminal.answers(plan.records(directory)))
        print_lines(figures.own_lines(directory))
    _end(ended, plan.next_commands(directory))


@app.command()
def judge(
    run_dir: options.Run,
    judges: options.Judges = None,
    lm: options.JudgeLMs = None,
    setting: options.JudgeSettings = None,
    ablate: options.Ablate = False,
    gate: options.GateFile = None,
    limit: options.JudgeLimit = None,
    concurrency: options.Concurrency = 16,
    allow_leak: options.AllowLeak = False,
    max_calls: options.MaxCalls = None,
    max_tokens: options.MaxTokens = None,
    max_usd: options.MaxUsd = None,
    batch: options.Batch = None,
    workers: options.Workers = None,
    track: options.Track = None,
    json_out: options.Json = False,
    dry_run: options.DryRun = False,
    fresh: options.Fresh = False,
    retry_errors: options.RetryErrors = False,
    keep_calls: options.KeepCalls = False,
) -> None:
    """Judge the answers of a run with an LM, and say what the numbers come to. The same command again resumes."""
    from spri_dspy.commands import judge as command
    from spri_dspy.commands.ending import execute_watched
    from spri_dspy.commands.execution import Execution, batch_of, budget_of
    from spri_dspy.integrations.mlflow import tracked, tracker_of

    silence_dspy()
    request = command.JudgeRequest(
        run=run_dir,
        judges=judges or (),
        settings=options.pairs("--set", setting),
        lms=options.judge_lms(lm),
        limit=limit,
        allow_leak=allow_leak,
    )
    how = Execution(
        concurrency=concurrency,
        retry_errors=retry_errors,
        keep_calls=keep_calls,
        budget=budget_of(max_calls, max_tokens, max_usd),
        batch=batch_of(batch),
        workers=workers,
    )
    if ablate:
        shared: dict[str, Any] = {"track": track, "dry_run": dry_run, "fresh": fresh, "json_out": json_out}
        return cli_results.ablate(request, how, gate, **shared)
    if gate is not None:
        raise UsageError("--gate writes what an ablation decides; add --ablate")
    own = command.own_scores(request)
    if own is not None:
        _print_figures(own, json_out)
        return say(*command.own_notes(own))
    plan = command.plan(request)
    how.check(plan.lms)
    if dry_run:
        return _print_forecast(how.priced(plan.forecast()), json_out)
    tracker = tracker_of(track)
    with plan.open(fresh=fresh) as directory, tracked(tracker, directory):
        ended = execute_watched(plan, directory, how, tracker=tracker)
    _print_figures(directory, json_out, plan.about(directory))
    say(*plan.notes())
    _end(ended, plan.next_commands(directory))


@app.command()
def agree(
    judges: options.Agreeing,
    people: options.People,
    people_from: options.PeopleFrom = None,
    pairs: options.Pairs = False,
    score: options.ScoreColumn = None,
    swapped: options.Swapped = None,
    row_id: options.IdColumns = "id",
    group: options.Group = None,
    cluster: options.Cluster = None,
    no_label: options.NoLabel = None,
    ties: options.Ties = None,
    epsilon: options.Epsilon = 0.2,
    level: options.AlphaLevel = None,
    resamples: options.Resamples = 1000,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write them as one HTML file too.")
    ] = None,
    json_out: options.Json = False,
) -> None:
    """Say how well judges agree with people: correlations, kappa, alpha, order bias, calibration, the Alt-Test."""
    from spri_dspy.commands import agree as command
    from spri_dspy.report import agreement as report

    silence_dspy()
    if out is not None:
        from spri_dspy.report.html import check_file

        check_file(out)
    found = command.agree(
        judges,
        [name.strip() for name in people.split(",") if name.strip()],
        columns=command.AgreeColumns(
            score=score, swapped=swapped, id=row_id, group=group, cluster=cluster, no_label=no_label
        ),
        people_from=people_from,
        pairs=pairs,
        ties=ties,
        settings=command.AgreeSettings(resamples=resamples, seed=seed, epsilon=epsilon, level=level),
    )
    print_json(found.to_json()) if json_out else print_lines(report.lines(found))
    if out is not None:
        from spri_dspy.report.html import write_agreement

        written = write_agreement(found, out)
        print_lines([] if json_out else ["", *written.lines()])


@app.command()
def tune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file; optimize/ has some.")],
    lm: options.TuneLMs = None,
    data: options.TuneData = None,
    run_dir: options.RunDirectory = None,
    limit: options.TuneLimit = None,
    seed: options.TuneSeed = None,
    max_calls: options.TuneCalls = None,
    max_tokens: options.TuneTokens = None,
    max_usd: options.TuneUsd = None,
    allow_leak: options.TuneLeak = False,
    track: options.Track = None,
    json_out: options.Json = False,
    dry_run: options.DryRun = False,
    fresh: options.Fresh = False,
) -> None:
    """Tune a program's seeds or wordings by a recipe. The same command again goes on where it stopped."""
    from spri_dspy.commands import tune as command
    from spri_dspy.commands.recipe import change, read
    from spri_dspy.integrations.mlflow import tracked, tracker_of
    from spri_dspy.progress import Progress
    from spri_dspy.report import tuning as report
    from spri_dspy.runs import RunDir

    silence_dspy()
    asked = change(
        read(recipe),
        lms=options.pairs("--lm", lm),
        data=data,
        run=str(run_dir) if run_dir else None,
        limit=limit,
        seed=seed,
        budget={"max_calls": max_calls, "max_tokens": max_tokens, "max_usd": max_usd},
    )
    plan = command.plan(asked, allow_leak=allow_leak)
    if dry_run:
        return _print_forecast(plan.forecast(), json_out)
    tracker = tracker_of(track)
    with (
        tracked(tracker, plan.folder),
        Progress(None, what="rollouts", prices=plan.prices) as progress,
    ):
        tuned = plan.execute(fresh=fresh, on_record=progress.add, on_phase=progress.describe)
    directory = RunDir.read(plan.folder)
    if json_out:
        print_json({"run": str(plan.folder), **command.summary(tuned.report), "lms": plan.lms})
    else:
        print_lines(report.outcome(directory))
    say(*progress.totals.troubles(), *plan.notes, *(f"next: {each}" for each in plan.next_commands()))


app.command("ls")(cli_results.list_runs)
app.command("cancel-batches")(cli_results.cancel_batches)
for _command in (
    cli_results.show,
    cli_results.report,
    cli_results.export,
    cli_results.serve,
    cli_results.doctor,
    cli_results.models,
):
    app.command()(_command)


def _print_forecast(forecast: Forecast, json_out: bool) -> None:
    print_json(forecast.to_json()) if json_out else print_lines(forecast.lines())


def _print_figures(directory: RunDir, json_out: bool, about: dict[str, Any] | None = None) -> None:
    from spri_dspy.report import figures

    if json_out:
        print_json((about or {"run": str(directory.path)}) | figures.as_json(directory))
    else:
        print_lines(figures.lines(directory))


def _end(ended: Ending, next_commands: list[str]) -> None:
    """Say how a command ended; exit with 1 if examples failed."""
    say(*ended.lines(), *(f"next: {command}" for command in next_commands))
    if ended.failed:
        raise typer.Exit(1)


INTERRUPTED = 130


class _OnInterrupt:
    """The first Ctrl-C raises KeyboardInterrupt, as ever; one more ends the process where it stands."""

    seen = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.seen:
            leave_at_once("interrupted; the same command goes on where it stopped", INTERRUPTED)
        self.seen = True
        raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit. SIGTERM, which schedulers send, is taken as Ctrl-C is."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if usual[signal.SIGINT] is signal.default_int_handler:
        signal.signal(signal.SIGINT, _OnInterrupt())
    is_ignored = usual[signal.SIGINT] is signal.SIG_IGN  # as a shell starts what goes on in the background
    on_end = _OnInterrupt() if is_ignored else lambda *_: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGTERM, on_end)
    try:
        code = _main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    if (
        code == INTERRUPTED
    ):  # what is to be kept is written; nothing that waits at the exit of Python is waited for
        leave_at_once("interrupted; the same command goes on where it stopped", code)
    for number, handler in usual.items():
        signal.signal(number, handler)
    sys.exit(code)


def _main() -> int:
    """Run the command and tell the exit code."""
    is_open = claim_streams()
    try:
        with printing():
            code = app(args=sys.argv[1:] or ["--help"], prog_name="spri", standalone_mode=False) or 0
            sys.stdout.flush()
        if not is_open:
            say("stdout is closed, so the results were not printed")
    except SpriError as error:
        say(str(error))
        return error.exit_code
    except BrokenPipeError:  # whoever read has enough
        stop_printing()
        return 0
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None:
            scrub(error)
            raise
        where = getattr(getattr(error, "ctx", None), "command_path", "spri")
        say(f"{shown()} ({where} --help)")
        return 2
    return code  # typer's own code for Ctrl-C is INTERRUPTED
