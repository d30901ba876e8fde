"""Options that several commands have, each with its help, in one place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
Json = Annotated[bool, typer.Option("--json", help="Machine-readable results on stdout.")]

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
