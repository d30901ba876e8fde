"""Commands that look at results, and those around them: ls, show, report, export, serve, doctor, models, ...

Each prints its result and raises for what is wrong; `cli` registers them and makes exit codes of it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spri_dspy import cli_options as options
from spri_dspy.screen import print_json, print_lines, print_parts, say, silence_dspy

if TYPE_CHECKING:
    from spri_dspy.commands.execution import Execution
    from spri_dspy.commands.judge import JudgeRequest
    from spri_dspy.runs import RunDir


def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where runs lie.")] = Path("runs"),
    json_out: options.Json = False,
) -> None:
    """List the runs in a folder, newest first: what each is, how far it is, which LMs answered."""
    from spri_dspy.report import listing

    found, damaged = listing.runs_in(folder)
    if json_out:
        print_json([each.to_json() for each in found])
    elif found:
        print_parts([listing.Runs(found)])
    say(
        *damaged,
        *([] if found or damaged else [f"there is no run in {folder}; spri ls DIR looks in another folder"]),
    )


def show(
    run_dir: options.Run,
    example_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Default: one that was refined.")
    ] = None,
    calls: Annotated[
        bool, typer.Option("--calls", help="Its LM calls, prompt and answer, of a run with --keep-calls.")
    ] = False,
    json_out: options.Json = False,
) -> None:
    """Show one example as it went: draft, verdict, refinement, verdict ..., response. Of a tuning: what it changed."""
    from spri_dspy.report import terminal, tuning
    from spri_dspy.runs import CALLS, RunDir

    directory = RunDir.read(run_dir)
    if calls:
        from spri_dspy.report.calls import kept_calls, shown

        for call in kept_calls(directory, example_id):
            print_json(call) if json_out else print_parts(shown(call))
        return
    if directory.manifest.get("kind") == tuning.KIND:
        report = tuning.read(directory)
        return (
            print_json(report)
            if json_out
            else print_lines([*tuning.outcome(directory), *tuning.changes(directory)])
        )
    record = terminal.pick(directory, example_id)
    print_json(record.to_json()) if json_out else print_parts(terminal.trace(record))
    kept = run_dir / CALLS
    if kept.is_file() and kept.stat().st_size:
        say(f"next: spri show {shlex.quote(str(run_dir))} {shlex.quote(record.id)} --calls")


def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories; the first is compared with.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: report.html in the first run.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="Every example and whole texts, whatever the file weighs.")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    json_out: options.Json = False,
) -> None:
    """Write runs as one HTML file: figures, every example with its trace, comparison, agreement with people, tuning."""
    from spri_dspy.report.html import write_report

    written = write_report(run_dirs, out, whole=whole)
    print_json(written.to_json()) if json_out else print_lines(written.lines())
    if open_it and typer.launch(str(written.path.resolve())):
        say(f"no browser was found; open {written.path} in one")


def export(
    run_dir: options.Run,
    export_format: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="rubrics (to judge with), sft or dpo (to train on)."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Default: RUN/exports/FORMAT-jsonl/FORMAT.jsonl.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="jsonl|parquet|hf:DIR|hub:USER/NAME",
            help="hf:DIR: a local folder in the hub's layout; hub: pushed to the Hugging Face hub.",
        ),
    ] = None,
    include_all: Annotated[
        bool, typer.Option("--all", help="Responses that were not accepted too (sft).")
    ] = False,
    fresh: options.Fresh = False,
    json_out: options.Json = False,
) -> None:
    """Write a run's results as rubrics, chat rows or preference pairs, with a data card beside them."""
    from spri_dspy.export.formats import export_run
    from spri_dspy.runs import RunDir

    done = export_run(
        RunDir.read(run_dir), export_format, to=to, out=out, include_all=include_all, fresh=fresh
    )
    print_json(done.to_json()) if json_out else print_lines(done.lines())


def cancel_batches(
    run_dir: options.Run,
    lm: options.BatchLMs = None,
    batch: options.BatchAPI = None,
    json_out: options.Json = False,
) -> None:
    """Cancel the batches of a run that are at work at their provider; what they did by then is paid and is kept."""
    from spri_dspy.commands.cancel_batches import cancel

    silence_dspy()
    cancelled = cancel(run_dir, options.pairs("--lm", lm), batch)
    print_json(cancelled.to_json()) if json_out else print_lines(cancelled.lines())
    say(*cancelled.notes())
    if cancelled.exit_code:
        raise typer.Exit(cancelled.exit_code)


def serve(
    task: options.TaskName,
    lm: options.LMs = None,
    program: options.Program = None,
    system: options.System = "spri",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the system; repeat.")
    ] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    token_env: options.TokenEnv = None,
    concurrency: options.Requests = 64,
    queue: options.Queue = 256,
    time_limit: options.TimeLimit = 300,
    max_body: options.MaxBody = 1_000_000,
    drain: options.Drain = 30,
    drafts: options.Drafts = False,
    cors: options.Origins = None,
) -> None:
    """Serve a task's program as an OpenAI-compatible endpoint: /v1/chat/completions, model spri/TASK."""
    from spri_dspy import server

    limits = server.Limits(
        concurrency=concurrency, queue=queue, seconds=time_limit, body_bytes=max_body, drain_seconds=drain
    )
    made = server.make_program(
        task, options.pairs("--lm", lm), program, system, options.pairs("--set", setting)
    )
    endpoint = server.create_app(
        *made, limits=limits, token=server.token_from(token_env), origins=cors or (), drafts=drafts
    )

    def ready(address: str) -> None:
        say(f"{endpoint.state.service.model} at {address}/v1; Ctrl-C or SIGTERM stops it")

    given_up = server.serve(endpoint, host, port, ready=ready)
    say(f"stopped; {given_up or 'no'} requests were given up")


def doctor(lm: options.LMs = None, json_out: options.Json = False) -> None:
    """Check this machine: Python, versions, which keys are set, and one call to each LM named."""
    from spri_dspy.commands.doctor import examine, flatten

    silence_dspy()
    findings = examine(options.pairs("--lm", lm))
    if json_out:
        print_json(findings)
    else:
        print_lines(f"{name}: {said}" for name, said in flatten(findings))
    if any(not answer["ok"] for answer in findings["lms"].values()):
        raise typer.Exit(3)


def models(json_out: options.Json = False) -> None:
    """List the models on this machine that need no server (GGUF files), and say how to get one."""
    from spri_dspy.commands.models import HOW_TO_GET_ONE, find_models

    found = list(find_models())
    if json_out:
        print_json([each.to_json() for each in found])
    else:
        print_lines(each.line() for each in found)
    usable = next((each for each in found if not each.problem), None)
    use = f'use one: spri run reappraisal --lm "base=gguf/{usable.path}"' if usable else "no model found"
    say(use, *HOW_TO_GET_ONE)


def ablate(
    request: JudgeRequest,
    how: Execution,
    gate: Path | None,
    *,
    track: str | None,
    dry_run: bool,
    fresh: bool,
    json_out: bool,
) -> None:
    """Judge a run's answers with its rubrics, with none and with a general one; say whether the rubrics help."""
    from spri_dspy.commands import ablate as command
    from spri_dspy.commands.ending import execute_watched
    from spri_dspy.integrations.mlflow import tracked, tracker_of
    from spri_dspy.report.ablation import offline_lines

    plan = command.plan(request)
    how.check(plan.lms)
    if gate is not None:
        command.check_gate(plan)
    if dry_run:
        forecast = how.priced(plan.forecast())
        return print_json(forecast.to_json()) if json_out else print_lines(forecast.lines())
    judged: dict[str, RunDir] = {}
    failed = 0
    for name, arm in plan.arms.items():
        tracker = tracker_of(track)
        with arm.open(fresh=fresh) as directory, tracked(tracker, directory):
            ended = execute_watched(arm, directory, how, tracker=tracker)
        judged[name], failed = directory, failed + ended.failed
        say(f"judged with {command.ARMS[name]}: {'; '.join(ended.lines())}")
    counted = offline_lines(judged)
    if counted is not None:
        print_json({"run": str(plan.run.path), "offline": True}) if json_out else print_lines(counted)
        if gate is not None:
            say("no gate was written: the offline LM decides nothing")
    else:
        found = plan.found(judged)
        written = None if gate is None else command.decide(plan, found)
        if json_out:
            decided = {} if written is None else {"gate": written.to_json()}
            print_json({"run": str(plan.run.path), **found.to_json(), **decided})
        else:
            print_lines(found.lines())
        if written is not None and gate is not None:
            command.write_gate(written, gate)
            say(*command.gate_lines(written, found, gate))
    say(*plan.arms["own"].notes(), *(f"next: {each}" for each in plan.next_commands(judged)))
    if failed:
        raise typer.Exit(1)
