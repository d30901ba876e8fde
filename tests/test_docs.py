"""The documentation: every code block runs, the references are complete, and llms.txt leads to pages that exist."""

import html
import importlib.util
import re

import pytest
import typer
import yaml

import spri_dspy as spri
from spri_dspy import cli
from tests.docs_parts import DOCS, ROOT, Session, blocks, pages

SLOW = {"guides/tuning.md", "guides/own-metric.md"}
WITH_BLOCKS = [
    pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
    for page in pages()
    if any(blocks(page))
]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nav():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_a_page_can_be_followed_word_by_word(page, tmp_path, monkeypatch, capsys):
    reader = Session(monkeypatch, tmp_path, capsys)
    for block in blocks(page):
        reader.follow(block)


@pytest.mark.parametrize("page", pages())
def test_a_page_begins_with_what_it_is_for(page):
    text = (DOCS / page).read_text("utf-8")
    assert re.match(r"---\ndescription: [A-Z].{20,160}\.\n---\n# \S.*\n\n[A-Z]", text), page
    assert text.count("\n# ") == 1 or "```" in text, page


# The command line


def commands():
    root = typer.main.get_command(cli.app)
    return [("spri", root), *((f"spri {name}", command) for name, command in root.commands.items())]


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_command_and_option_is_in_the_reference(hooks, name, command):
    sections = re.split(r"^## ", hooks.commands(), flags=re.M)
    (section,) = [each for each in sections if each.partition("\n")[0] == name]
    assert command.params
    shown = re.sub(r"\\(?=[*_`])", "", html.unescape(section))
    for parameter in command.params:
        for option in parameter.opts if parameter.opts[0].startswith("-") else ():
            assert re.search(rf"<code>.*(?<![\w-]){re.escape(option)}(?![\w-]).*</code>", shown), option
        assert not parameter.help or " ".join(parameter.help.split()) in shown, parameter.name


def test_the_reference_has_a_place_for_the_commands(hooks):
    assert (DOCS / "reference" / "cli.md").read_text("utf-8").count(hooks.COMMANDS) == 1


# Python


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "reference" / "python.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: spri_dspy\.(\w+)$", page, re.M)) == sorted(spri.__all__)


def test_every_public_module_is_in_the_reference():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    listed = text.partition("- Public modules")[2].partition("Everything else")[0].partition("):")[2]
    names = set(re.findall(r"`([\w.]+)`", listed)) - {"spri_dspy", "run", "judge", "agree", "ratings", "tune"}
    names = names - {"execution", "forecast", "manifest", "commands"}
    commands_named = re.search(r"`commands` with (.*?),\s+`report", listed, re.S)[1]
    names |= {f"commands.{name}" for name in re.findall(r"`(\w+)`", commands_named)}
    names |= {f"metrics.{path.stem}" for path in (ROOT / "spri_dspy" / "metrics").glob("[a-z]*.py")}
    shown = re.findall(
        r"^::: spri_dspy\.([\w.]+)$", (DOCS / "reference" / "modules.md").read_text("utf-8"), re.M
    )
    assert len(names) > 20
    assert names - set(shown) == set()


def test_every_integration_is_on_its_page_and_in_the_reference():
    files = [*(ROOT / "spri_dspy" / "integrations").glob("[a-z]*.py")]
    for page in ("guides/integrations.md", "reference/modules.md"):
        text = (DOCS / page).read_text("utf-8")
        missing = [path.stem for path in files if f"spri_dspy.integrations.{path.stem}" not in text]
        assert missing == [], page


# llms.txt and links


def test_llms_txt_names_every_page_with_a_line(hooks, nav):
    text = hooks.llms_txt(DOCS, nav)
    assert re.match(r"# spri-dspy\n\n> \S.*\n\n## ", text)
    entries = re.findall(r"^- \[(.+)\]\((.+)\): (.+)$", text, re.M)
    assert sorted(path for _, path, _ in entries) == pages()
    assert all((DOCS / path).is_file() and title and about for title, path, about in entries)


@pytest.mark.parametrize("page", pages())
def test_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not link.startswith("https://"):
            assert ((DOCS / page).parent / link).is_file(), link


def test_the_readme_leads_to_the_documentation():
    assert "docs/index.md" in (ROOT / "README.md").read_text("utf-8")
