"""What mkdocs adds to the pages that are written by hand.

- In `reference/cli.md`, `<!-- commands -->` becomes every command with its arguments and options, from the program.
- `llms.txt` at the root of the site lists every page in one line, with the page's own description.
- Every page stands beside its HTML as Markdown too, for programs that read; `llms.txt` leads there.
- After the build, every public name must have a place on a page: the build fails otherwise.

It knows mkdocs only by the names of its events, so that tests import it without mkdocs.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

import spri_dspy
from spri_dspy import cli

COMMANDS = "<!-- commands -->"
SUMMARY = (
    "SPRI writes principles for each input, has a critic improve them, and answers by them: better responses, a rubric "
    "for each instance, synthetic training data. spri-dspy is the method as DSPy programs, with runs that resume, "
    "judges, metrics with intervals, and tuning."
)

_pages: dict[str, str] = {}
"""Markdown of the pages of this build, by their source path."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what comes from the program, and keep the page for `on_post_build`."""
    made = markdown.replace(COMMANDS, commands())
    _pages[page.file.src_uri] = made
    return made


def on_post_build(config: Mapping[str, Any]) -> None:
    """Write llms.txt and the Markdown, and look for every public name.

    Raises:
        SystemExit: a public name has no place on the reference page.
    """
    site = Path(config["site_dir"])
    for path, markdown in _pages.items():
        (site / path).write_text(markdown, "utf-8")
    (site / "llms.txt").write_text(llms_txt(Path(config["docs_dir"]), config["nav"]), "utf-8")
    page = (site / "reference" / "python.html").read_text("utf-8")
    missing = [name for name in spri_dspy.__all__ if f'id="spri_dspy.{name}"' not in page]
    if missing:
        raise SystemExit(f"reference/python.md has no place for {', '.join(missing)}")


# The command line


def commands() -> str:
    """Every command of `spri` as Markdown, in the order of `spri --help`."""
    root: Any = typer.main.get_command(cli.app)
    context = root.make_context("spri", [], resilient_parsing=True)
    parts = [_command("spri", root, context)]
    for name in root.list_commands(context):
        command = root.commands[name]
        parts.append(
            _command(f"spri {name}", command, type(context)(command, info_name=name, parent=context))
        )
    return "\n\n".join(parts)


def _command(name: str, command: Any, context: Any) -> str:
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", _plain(command.help), "", "```text", usage, "```"]
    options = [p for p in command.params if p.opts[0].startswith("-")]
    for title, kind in (
        ("Arguments", [p for p in command.params if p not in options]),
        ("Options", options),
    ):
        rows = [record for p in kind if (record := p.get_help_record(context))]
        if rows:
            lines += ["", f"| {title} | |", "|---|---|"]
            lines += [f"| <code>{_plain(names)}</code> | {_plain(about)} |" for names, about in rows]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text of the program as one line of Markdown that shows it as it is, in a table too."""
    shown = re.sub(r"([*_`])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
    return shown.replace("|", "&#124;")


# llms.txt


def llms_txt(folder: Path, nav: Iterable[Any]) -> str:
    """The site for language models: title, summary, and a line a page (https://llmstxt.org).

    Args:
        folder: where the pages lie.
        nav: of mkdocs.yml: paths, {title: path}, or {title: [...]} for a section.
    """
    lines = ["# spri-dspy", "", f"> {SUMMARY}", ""]
    for section, paths in _sections(nav, "Start"):
        lines += [f"## {section}", ""]
        for path in paths:
            title, about = _title_and_description(folder / path)
            lines.append(f"- [{title}]({path}): {about}")
        lines.append("")
    return "\n".join(lines)


def _sections(nav: Iterable[Any], title: str) -> Iterator[tuple[str, list[str]]]:
    """Pages that stand alone first, then each section."""
    entries = [next(iter(each.items())) if isinstance(each, Mapping) else (None, each) for each in nav]
    yield title, [path for _, path in entries if isinstance(path, str)]
    for name, pages in entries:
        if not isinstance(pages, str):
            yield from _sections(pages, str(name))


def _title_and_description(path: Path) -> tuple[str, str]:
    text = path.read_text("utf-8")
    about = re.match(r"---\ndescription: (.+)\n---\n", text)
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    if about is None or title is None:
        raise SystemExit(f"{path} must begin with a description between --- lines, and have a title")
    return title[1], about[1]
