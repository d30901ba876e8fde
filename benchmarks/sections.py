"""Tables of estimates as terminal text, Markdown and JSON.

It knows how numbers are written, not what they are about.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate

_WIDTH_WITHOUT_TERMINAL = 200


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the output.

    Attributes:
        name: its key in the JSON document.
        title: its heading.
        columns: their headings.
        rows: what is printed; every row has one text a column.
        notes: what has to be known to read it.
        results: the same and more for programs, in plain JSON types.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def value(estimate: Estimate, digits: int) -> str:
    """The value alone, or its reason if it has none."""
    return f"({estimate.reason})" if math.isnan(estimate.value) else f"{estimate.value:.{digits}f}"


def interval(estimate: Estimate, digits: int, marks: str = "") -> str:
    """The value, marks, and the interval in brackets, or that there is none."""
    if math.isnan(estimate.value):
        return value(estimate, digits) + marks
    has_interval = not math.isnan(estimate.low)
    ends = f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]" if has_interval else "(no interval)"
    return f"{value(estimate, digits)}{marks} {ends}"


def difference(comparison: Comparison, digits: int) -> str:
    """A signed difference with its interval, or its reason if it has none."""
    if math.isnan(comparison.difference):
        return f"({comparison.reason})"
    low, high = (f"{end:+.{digits}f}" for end in (comparison.low, comparison.high))
    return f"{comparison.difference:+.{digits}f}" + (
        "" if math.isnan(comparison.low) else f" [{low}, {high}]"
    )


def number(figure: float | None, digits: int) -> str:
    """A plain number, or "-" for None and nan."""
    return "-" if figure is None or math.isnan(figure) else f"{figure:.{digits}f}"


def as_markdown(sections: Sequence[Section]) -> str:
    """One heading, table and list of notes a section."""
    lines: list[str] = []
    for section in sections:
        lines += [f"## {section.title}", "", _line(section.columns), _line(["---"] * len(section.columns))]
        lines += [_line(row) for row in section.rows]
        lines += ["", *(f"- {note}" for note in section.notes), ""]
    return "\n".join(lines)


def as_json(sections: Sequence[Section], **heading: Any) -> str:
    """One document: the heading's fields, then every section by name."""
    document = heading | {
        s.name: {"title": s.title, "notes": s.notes, "results": s.results} for s in sections
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)


def put_out(sections: Sequence[Section], options: Any, **heading: Any) -> None:
    """Print as the command line's `--json` says, and write Markdown to its `--markdown`, if it has one.

    Args:
        sections: what was found.
        options: the parsed command line.
        heading: the fields in front of the JSON document.
    """
    if getattr(options, "markdown", None):
        options.markdown.write_text(as_markdown(sections), "utf-8")
    if options.json:
        sys.stdout.write(as_json(sections, **heading) + "\n")
    else:
        print_sections(sections)


def print_sections(sections: Sequence[Section]) -> None:
    """Print to standard output, as wide as the terminal or 200 columns where there is none."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
    for section in sections:
        table = Table(title=section.title, title_justify="left")
        for position, column in enumerate(section.columns):
            table.add_column(escape(column), overflow="fold", no_wrap=position < 2)
        for row in section.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for note in section.notes:
            console.print(f"  {note}", markup=False, highlight=False)
        console.print()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
