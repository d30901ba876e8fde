"""The command line of a table: its options, the forecast, the run, and every output.

It knows options and outputs; what they mean is in `grid` and `tables`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import figures, grid, layout, tables
from benchmarks.sections import print_sections
from spri_dspy import Budget
from spri_dspy.errors import UsageError
from spri_dspy.strict_json import to_text

WIDE = 200
"""Columns that are written where there is no terminal."""


def run(definition: tables.Definition, argv: Sequence[str]) -> int:
    """Run a benchmark's command line: 0 if all went well, 1 if examples failed.

    Raises:
        SpriError: what is asked is wrong, something outside is missing, or the budget is spent.
    """
    return execute(definition, parser(definition).parse_args(argv))


def execute(definition: tables.Definition, options: argparse.Namespace) -> int:
    """Run a benchmark with the options of its `parser`; see `run`."""
    _check(options)
    budget = Budget(options.max_calls, options.max_tokens, options.max_usd)
    cells = tables.plan(definition, _ask(options))
    if options.dry_run:
        _print_forecast(cells, as_json=options.json)
        return 0
    _say(cells.forecast_line())
    cells.run(
        concurrency=options.concurrency,
        budget=budget,
        retry_errors=options.retry_errors,
        on_cell=lambda cell: _say(f"{cell.base} {cell.system}: {cell.path}"),
    )
    table = tables.read(definition, cells)
    if options.markdown:
        options.markdown.write_text(layout.markdown(table), "utf-8")
    if options.figure:
        options.figure.write_bytes(figures.png(figures.overview(table)))
    if options.json:
        sys.stdout.write(layout.json_document(table) + "\n")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
        print_sections(layout.for_width(table, width))
    return 1 if any(entry.failed for entry in table.entries) else 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what would fail after everything is paid."""
    if options.concurrency < 1:
        raise UsageError(f"--concurrency must be at least 1, not {options.concurrency}")
    for flag, path in (("--markdown", options.markdown), ("--figure", options.figure)):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{flag}: the folder of {str(path)!r} does not exist; make it first")
    if options.figure:
        if options.figure.suffix != ".png":
            raise UsageError(f"--figure must end in .png, not {options.figure.name!r}")
        figures.need_matplotlib()


def _ask(options: argparse.Namespace) -> grid.Ask:
    named: dict[str, list[str]] = {"base": _list(options.bases), "critic": [], "judge": []}
    for option in options.lm:
        role, equals, text = option.partition("=")
        if not equals or not text or role not in named:
            raise UsageError(
                f"--lm takes ROLE=STRING with the role base, critic or judge, such as base=openai/gpt-4o-mini, "
                f"not {option!r}"
            )
        named[role].append(text)
    if len(named["critic"]) > 1:
        raise UsageError("one critic serves all bases; --lm critic= was given twice")
    return grid.Ask(
        systems=systems_of(options),
        bases=named["base"] or [grid.OFFLINE],
        critic=next(iter(named["critic"]), None),
        judges=named["judge"],
        data=options.data,
        limit=options.limit,
        runs=options.runs,
        paper=options.paper,
        seed=options.seed,
        allow_leak=options.allow_leak,
    )


def systems_of(options: argparse.Namespace) -> list[str]:
    """The systems that are asked for; empty for the benchmark's own."""
    return [name.strip() for name in options.systems.split(",") if name.strip()]


def _list(text: str) -> list[str]:
    """LM strings with commas between; a comma before an address belongs to an LM that has several."""
    return [part.strip() for part in re.split(r",(?!\s*https?://)", text) if part.strip()]


def _print_forecast(cells: grid.Grid, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(to_text(cells.forecast()) + "\n")
        return
    for line in cells.forecast_lines():
        sys.stdout.write(line + "\n")
    sys.stdout.write("nothing was run and nothing was written\n")


def _say(line: str) -> None:
    sys.stderr.write(f"benchmarks: {' '.join(line.split())}\n")


def parser(definition: tables.Definition) -> argparse.ArgumentParser:
    """The options that every table has."""
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks {definition.name}",
        description=f"{definition.title}: run, judge, and write the table. The same command again resumes.",
    )
    add = options.add_argument
    add(
        "--systems",
        default="",
        metavar="A,B",
        help=f"default: {','.join(definition.systems)}; spri:seeds=none",
    )
    add(
        "--lm",
        action="append",
        default=[],
        metavar="ROLE=STRING",
        help="base (repeat for several), critic, judge",
    )
    add("--bases", default="", metavar="A,B", help="several bases")
    add("--data", metavar="FILE", help="JSON lines, parquet, hub, hf:NAME:SPLIT (default: built-in examples)")
    add("--limit", type=int, metavar="N", help="only the first N examples")
    add(
        "--runs",
        type=Path,
        metavar="DIR",
        help=f"where the runs lie (default: benchmark-runs/{definition.name})",
    )
    add("--concurrency", type=int, default=16, metavar="N", help="LM calls in flight, per LM (default 16)")
    add("--seed", type=int, default=0, metavar="N", help="of everything random")
    add("--paper", action="store_true", help="the published behaviour, faults included")
    add(
        "--allow-leak", action="store_true", help="go on although inputs are among the seeds; marks the table"
    )
    add("--retry-errors", action="store_true", help="run failed examples once more")
    add("--max-calls", type=int, metavar="N", help="stop, resumably, after N LM calls")
    add("--max-tokens", type=int, metavar="N", help="stop, resumably, after N tokens")
    add("--max-usd", type=float, metavar="X", help="stop, resumably, after so many dollars")
    add("--json", action="store_true", help="print one JSON document")
    add("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    add("--figure", type=Path, metavar="FILE.png", help="draw the table there")
    add("--dry-run", action="store_true", help="say what it would take; do nothing")
    return options
