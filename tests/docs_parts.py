"""The documentation's code blocks, and how each kind is run.

A block's title says what becomes of it: a file's name (the block is that file), `output` (lines that the block before
it prints; `...` stands for anything), or `needs ...` (a key, a server, a network: it is checked as far as this machine
can).
"""

import ast
import importlib
import importlib.util
import json
import linecache
import re
import runpy
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import typer

import spri_dspy
from benchmarks import __main__ as benchmarks
from spri_dspy import cli
from spri_dspy.commands.recipe import read
from tests.command import spri as command

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

KEYS = {"OPENAI_API_KEY": "sk-made-up-for-the-docs", "ANTHROPIC_API_KEY": "sk-made-up-for-the-docs"}
FORECASTS = ("run", "judge", "tune")
"""Commands that say with --dry-run what they would do, and so check everything but the answer of an LM."""

EXTRAS = {"serve": "fastapi"}
"""Extras whose blocks run where they are installed, by a package that they bring."""

OTHER_TOOLS = ("cd", "curl", "export", "git", "hf", "inspect", "mkdir", "mlflow", "ollama", "ray", "vllm")
"""Commands of others, which are not run."""

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w+)(?P<about>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A code block: its language, its title, its text, and where it stands."""

    kind: str
    title: str
    text: str
    place: str

    @property
    def needs(self):
        return self.title.startswith("needs ")

    @property
    def is_file(self):
        return re.fullmatch(r"[\w/-]+\.\w+", self.title) is not None


def pages():
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def blocks(page):
    """The blocks of a page, in order."""
    text = (DOCS / page).read_text("utf-8")
    for found in _BLOCK.finditer(text):
        title = re.search(r'title="([^"]*)"', found["about"])
        body = "".join(line.removeprefix(found["indent"]) for line in found["text"].splitlines(keepends=True))
        line = text.count("\n", 0, found.start()) + 1
        yield Block(found["kind"], title[1] if title else "", body, f"docs/{page}:{line}")


class Session:
    """A reader who follows a page in an empty folder, with one Python session."""

    def __init__(self, monkeypatch, folder, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.names = {"__name__": "docs"}
        self.said = ""
        for name in ("benchmarks", "optimize"):  # as in a clone's root
            (folder / name).symlink_to(ROOT / name)
        monkeypatch.chdir(folder)

    def follow(self, block):
        """Do what a block says; a block of a kind that nothing is known of fails."""
        if block.is_file:
            return self.write(block)
        kinds = {
            "bash": self.commands,
            "python": self.python,
            "json": self.json,
            "toml": self.toml,
            "text": self.output,
        }
        assert block.kind in kinds, f"{block.place}: nothing is known of {block.kind} blocks"
        with patch.dict("os.environ", KEYS if block.needs else {}):
            return kinds[block.kind](block)

    def write(self, block):
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")
        if path.suffix == ".py":
            compile(block.text, block.place, "exec")
            check_names(block)
        if path.suffix == ".toml" and "[optimizer]" in block.text:
            read(path)

    def json(self, block):
        """One data row."""
        json.loads(block.text)

    def toml(self, block):
        """A part of a file."""
        tomllib.loads(block.text)

    def output(self, block):
        """Every line was said by the block before."""
        if block.title != "output":
            return
        said = [line.rstrip() for line in self.said.splitlines()]
        for line in filter(None, map(str.rstrip, block.text.splitlines())):
            wanted = re.compile(".*".join(map(re.escape, line.split("..."))))
            assert any(map(wanted.fullmatch, said)), f"{block.place}: nothing said {line!r}, but\n{self.said}"

    def python(self, block):
        check_names(block)
        code = compile(block.text, block.place, "exec")
        if block.needs and not self.has(block.title):
            return
        lines = block.text.splitlines(keepends=True)
        linecache.cache[block.place] = (len(block.text), None, lines, block.place)
        exec(code, self.names)
        said = self.capsys.readouterr()
        self.said = said.out + said.err

    def has(self, title):
        """Whether what a block needs is here: an extra's package may be installed."""
        package = EXTRAS.get(title.removeprefix("needs the extra "))
        return package is not None and importlib.util.find_spec(package) is not None

    def commands(self, block):
        self.said = ""
        for words in commands_in(block.text):
            self.command(words, block)

    def command(self, words, block):
        """Run a command, or check it where it cannot be run."""
        tool, *rest = words
        if tool == "spri" and not block.needs:
            code, out, err = command(*rest)
            assert code == 0, f"{block.place}: {shlex.join(words)}\n{err}"
            self.said += out + err
        elif tool == "spri":
            check_options(rest, block)
        elif words[:3] == ["python", "-m", "benchmarks"]:
            self.benchmark(rest[2:], block)
        elif tool == "python" and rest[0].endswith(".py"):
            self.script(rest, block)
        elif tool == "pip":
            named = {
                extra for each in re.findall(r"\[([\w,-]+)\]", " ".join(rest)) for extra in each.split(",")
            }
            assert named <= {*PROJECT["optional-dependencies"]}, block.place
        elif tool == "make":
            assert all(f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8") for target in rest), (
                block.place
            )
        else:
            assert tool in OTHER_TOOLS, f"{block.place}: nothing is known of {tool}"

    def benchmark(self, words, block):
        words = [*words, "--dry-run"] if block.needs and words else words
        if block.needs and words[0] in ("recompute", "tuning", "agreement"):
            assert (ROOT / "benchmarks" / f"{words[0]}.py").is_file()
            return
        assert benchmarks.main(words) == 0, f"{block.place}: {shlex.join(words)}"
        said = self.capsys.readouterr()
        self.said += said.out + said.err

    def script(self, words, block):
        assert Path(words[0]).is_file(), block.place
        if not block.needs:
            with patch.object(sys, "argv", words):
                runpy.run_path(words[0], run_name="__main__")
            self.said += self.capsys.readouterr().out


def commands_in(text):
    """The words of each command; one whose quote is still open goes on in the next line."""
    so_far = ""
    for line in text.replace("\\\n", " ").splitlines():
        so_far += line
        try:
            words = shlex.split(so_far, comments=True)
        except ValueError:
            so_far += "\n"
            continue
        so_far = ""
        if words:
            yield words
    assert not so_far, f"a quote is not closed: {so_far}"


def check_options(words, block):
    """The command takes these options; where a key or a server is all it lacks, its forecast checks the rest."""
    place, lacks = block.place, block.title.removeprefix("needs ")
    has_run = words[0] != "judge" or Path(words[1]).exists()
    if words[0] in FORECASTS and lacks in ("a key", "a server") and has_run:
        code, _, err = command(*words, "--dry-run")
        assert code == 0, f"{place}: spri {shlex.join(words)}\n{err}"
        return
    root = typer.main.get_command(cli.app)
    context = root.make_context("spri", [], resilient_parsing=True)
    assert words[0] in root.commands, f"{place}: spri has no {words[0]}"
    root.commands[words[0]].make_context(words[0], words[1:], parent=context)


def names_in(module):
    """The names of a module; of one whose tool is not installed here, those that its source defines."""
    try:
        return dir(importlib.import_module(module))
    except spri_dspy.PrerequisiteError:
        tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8"))
        return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def check_names(block):
    """What is imported of ours exists, and so does every spri.NAME."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spri_dspy"):
            known = names_in(node.module)
            for alias in node.names:
                assert alias.name in known, f"{block.place}: {node.module} has no {alias.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spri":
            known = (*spri_dspy.__all__, "lms", "tasks", "judges", "metrics", "tuning", "__version__")
            assert node.attr in known, f"{block.place}: spri has no {node.attr}"
