"""Options that several commands have, each with its help, in one place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spri_dspy.errors import UsageError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
LMs = Annotated[
    list[str] | None,
    typer.Option(
        "--lm",
        metavar="ROLE=STRING",
        help="LM of a role (base, critic, judge); repeat. Default: offline, and the base for the critic.",
    ),
]
JudgeLMs = Annotated[
    list[str] | None,
    typer.Option(
        "--lm",
        metavar="judge=STRING",
        help="LM of the judge; repeat for a panel. Default: offline, which judges offline answers only.",
    ),
]
RunDirectory = Annotated[Path | None, typer.Option("--run", help="Run directory; the same resumes.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N examples.")]
Concurrency = Annotated[int, typer.Option(help="LM calls in flight, per LM.")]
MaxCalls = Annotated[
    int | None, typer.Option(help="Stop, resumably, after N LM calls and what is in flight then.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Stop, resumably, after N tokens.")]
MaxUsd = Annotated[float | None, typer.Option(help="Stop, resumably, after so many dollars.")]
AllowLeak = Annotated[
    bool,
    typer.Option("--allow-leak", help="Go on although inputs are among the seeds; marks the result."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take; do nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away what is there, and start anew.")]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Run failed examples once more.")]
KeepCalls = Annotated[
    bool, typer.Option("--keep-calls", help="Keep prompt and answer of every call, for spri show --calls.")
]
Track = Annotated[
    str | None,
    typer.Option(metavar="mlflow[:URI]", help="Log parameters, figures, tables and traces to MLflow too."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable results on stdout.")]

TaskName = Annotated[str, typer.Argument(help="reappraisal, rubrics, sft, or path/to/file.py:NAME")]
Data = Annotated[
    str | None,
    typer.Option(help="JSON lines, JSON, CSV, TSV (each also .gz) or parquet; hub, or hf:NAME:SPLIT."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=COLUMN", help="A column of the data to rename; repeat."),
]
Text = Annotated[
    str | None, typer.Option(help="One input, instead of a file; - reads it from standard input.")
]
Aim = Annotated[str | None, typer.Option(help="With --text, task reappraisal: the aim of the answer.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=VALUE", help="Another input beside --text; repeat."),
]
System = Annotated[
    str, typer.Option(help="What answers: spri, a system to compare with, or path/to/file.py:NAME.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the system, such as seeds=none; repeat."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random here.")]
Paper = Annotated[bool, typer.Option("--paper", help="The published behaviour, faults included.")]
Program = Annotated[Path | None, typer.Option(help="A saved or tuned program to use.")]
Rubrics = Annotated[Path | None, typer.Option(help="Exported rubrics to judge with (task rubrics).")]
WithReference = Annotated[
    bool, typer.Option("--with-reference", help="Show the judge the reference answer (task rubrics).")
]
Deadline = Annotated[float | None, typer.Option(help="Give an example up after N seconds of its own.")]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="API",
        help="Calls in batches at half the price: openai, anthropic, or http://HOST:PORT/v1 of a server; "
        "?discount=0.5&attempts=3 for settings.",
    ),
]
BatchLMs = Annotated[
    list[str] | None,
    typer.Option(
        "--lm",
        metavar="ROLE=STRING",
        help="LM whose batches are cancelled, as the run was given it; repeat. Its key and its address are used.",
    ),
]
BatchAPI = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="API",
        help="As the run was given it, where that is another address than the LM's own.",
    ),
]
ExecutorName = Annotated[str, typer.Option(help="local, ray, or ray:ADDRESS of a cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes that share the run. Default: 1; on Ray one a CPU.")
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="NAME",
        help="reappraisal, rubric, generic, or path/to/file.py:NAME; repeat for a panel. Default: by task; a run "
        "of the task rubrics has judgements of its own, which are reported without a call.",
    ),
]
JudgeSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="samples=N, logprobs=true, swap=true, combine=mean|median, reference=true, "
        "rubric=run|label|general|FILE (several with commas between); repeat.",
    ),
]
Ablate = Annotated[
    bool,
    typer.Option(
        "--ablate",
        help="Judge with the run's rubrics, with none and with a general one: does the rubric help?",
    ),
]
GateFile = Annotated[
    Path | None,
    typer.Option(
        "--gate",
        metavar="FILE",
        help="With --ablate: write where the general rubric should stand in, for spri run --set gate=FILE.",
    ),
]
JudgeLimit = Annotated[int | None, typer.Option(help="Only the first N examples that finished.")]

Agreeing = Annotated[
    list[str],
    typer.Argument(metavar="RUN_OR_FILE...", help="Runs with judgements, or files of a judge's numbers."),
]
People = Annotated[
    str,
    typer.Option(
        metavar="COLUMN[,COLUMN]",
        help="What people said, a column an annotator; one of lists has an item an annotator. Dots lead inward.",
    ),
]
PeopleFrom = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where people's columns stand, joined by id. Default: the judge's."),
]
Pairs = Annotated[
    bool, typer.Option("--pairs", help="People and judge say which of two is better: 1, 2, or 0 for a tie.")
]
ScoreColumn = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="COLUMN",
        help="The judge's column; of a run, a criterion; path/to/file.py:NAME; none. Default: score, or winner.",
    ),
]
Swapped = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="The verdict in the other order. Default: the judge's with _swapped."
    ),
]
IdColumns = Annotated[str, typer.Option("--id", metavar="COLUMN[,COLUMN]", help="What names a row.")]
Group = Annotated[str | None, typer.Option(metavar="COLUMN", help="Figures by group, and their mean.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Rows that intervals and tests keep together. Default: an id that repeats."
    ),
]
NoLabel = Annotated[
    float | None,
    typer.Option(metavar="X", help="A number of people's that means none. Default: -1 in human_score."),
]
Ties = Annotated[
    Literal["half", "wrong"] | None,
    typer.Option(help="A judge's tie where people prefer one. Default: half if they never tie, else wrong."),
]
Epsilon = Annotated[
    float,
    typer.Option(help="Alt-Test: what a judge's lower cost is worth; experts 0.2, skilled 0.15, crowd 0.1."),
]
AlphaLevel = Annotated[
    Literal["nominal", "ordinal", "interval"] | None,
    typer.Option(help="Of Krippendorff's alpha. Default: ordinal, of pairs nominal."),
]
Resamples = Annotated[
    int, typer.Option(help="Clusters, or blocks of them, left out for each interval at most.")
]

TuneLMs = Annotated[
    list[str] | None,
    typer.Option("--lm", metavar="ROLE=STRING", help="LM of a role, instead of the recipe's; repeat."),
]
TuneData = Annotated[str | None, typer.Option(help="Examples, instead of the recipe's.")]
TuneLimit = Annotated[int | None, typer.Option(help="Only the first N examples of each file.")]
TuneSeed = Annotated[int | None, typer.Option(help="Seed of everything random here.")]
TuneCalls = Annotated[int | None, typer.Option(help="Decide with what is known after N LM calls.")]
TuneTokens = Annotated[int | None, typer.Option(help="The same after N tokens.")]
TuneUsd = Annotated[float | None, typer.Option(help="The same after so many dollars.")]
TuneLeak = Annotated[
    bool, typer.Option("--allow-leak", help="Go on although splits or seeds match; marks the program.")
]
Host = Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose.")]
TokenEnv = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Environment variable with the token that clients must bring."),
]
Requests = Annotated[int, typer.Option(help="Requests that are worked on at a time.")]
Queue = Annotated[int, typer.Option(help="Requests that may wait; one more gets 429.")]
TimeLimit = Annotated[float, typer.Option(help="Seconds that a request may take, its wait included.")]
MaxBody = Annotated[int, typer.Option(help="Bytes of a request at most.")]
Origins = Annotated[
    list[str] | None,
    typer.Option("--cors", metavar="ORIGIN", help="Web pages that may use it from a browser; repeat."),
]
Drafts = Annotated[
    bool, typer.Option("--drafts", help="Stream candidates as they are written, as reasoning_content.")
]
Drain = Annotated[float, typer.Option(help="Seconds that open requests get when the server is stopped.")]

_FORMS = {
    "--lm": ("ROLE=STRING", "base=openai/gpt-4o-mini"),
    "--set": ("NAME=VALUE", "seeds=none"),
    "--input": ("NAME=VALUE", 'aim="see what is yours to decide"'),
    "--map": ("FIELD=COLUMN", "post=selftext"),
}


def pairs(flag: str, options: list[str] | None) -> dict[str, str]:
    """Repeated NAME=VALUE options as a dict.

    Raises:
        UsageError: one has another form, or a name stands twice.
    """
    found: dict[str, str] = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals or not name or not value:
            form, example = _FORMS[flag]
            raise UsageError(f"{flag} takes {form}, such as {example}, not {option!r}")
        if name in found:
            raise UsageError(f"{flag} names {name} twice")
        found[name] = value
    return found


def judge_lms(options: list[str] | None) -> list[str]:
    """The LM strings of repeated `judge=STRING`.

    Raises:
        UsageError: one has another form, or another role.
    """
    found: list[str] = []
    for option in options or []:
        role, text = next(iter(pairs("--lm", [option]).items()))
        if role != "judge":
            raise UsageError(f"spri judge asks the role judge only, not {role!r}: --lm judge=STRING")
        found.append(text)
    return found


def text_of(option: str | None) -> str | None:
    """What `--text` gives; of -, what stands on standard input.

    Raises:
        UsageError: standard input is closed, or no UTF-8 text.
    """
    if option != "-":
        return option
    if sys.stdin is None:
        raise UsageError("--text - reads standard input, which is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text ({error.reason} at byte {error.start})") from None
