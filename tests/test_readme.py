"""The README's commands and names exist: what it tells a new user to type is understood."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.lookup import parameters_of
from spri_dspy.tuning.optimizers import optimizers
from tests.command import spri as command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def verbs():
    return sorted(
        set(
            re.findall(
                r"\bspri (run|show|judge|agree|tune|export|cancel-batches|doctor|serve|ls|models)\b", README
            )
        )
    )


@pytest.mark.parametrize("verb", verbs())
def test_verbs_of_the_readme_exist(verb):
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert "Usage: spri" in out


def test_options_of_the_readme_exist():
    known = "".join(command(verb, "--help")[1] for verb in verbs())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {
        "--base",
        "--recordings",
        "--systems",
        "--metric",
        "--questions",
    }
    assert {option for option in named if option not in known} == set()


def test_python_names_of_the_readme_exist():
    named = set(re.findall(r"\bspri\.([A-Za-z_]\w*)", README)) - {"toml"}
    assert named <= set(spri.__all__)


def test_dotted_names_of_the_readme_exist():
    named = re.findall(r"\bspri_dspy((?:\.[A-Za-z_]\w*)+)\(", README)
    assert named
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(f"spri_dspy{module}"), attribute), name


def test_calls_of_the_readme_take_what_they_are_given():
    def check(called, keywords):
        known = parameters_of(called)
        if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            assert {each.arg for each in keywords} <= known.keys(), called

    parsed = [ast.parse(block) for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)]
    calls = [node for tree in parsed for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(ast.unparse(call.func), call.keywords) for call in calls]
    ours = [(name[5:], keywords) for name, keywords in named if re.fullmatch(r"spri\.\w+", name)]
    assert {"SPRI", "load_task", "load_metric", "tune", "run_bulk"} <= {name for name, _ in ours}
    for name, keywords in ours:
        check(getattr(spri, name), keywords)
    for name, keywords in named:
        if name == "program.set_lms":
            check(spri.SPRI.set_lms, keywords)


def test_systems_and_optimizers_of_the_readme_exist():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\w, ]+) \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for task, systems in rows:
        for system in systems.split(", "):
            assert spri.load_system(system, spri.load_task(task)), system
    assert set(re.findall(r"`(gepa|simba|\w+_v2|bootstrap\w+|\w+_search)`", README)) <= set(optimizers())


def test_benchmarks_of_the_readme_exist():
    named = set(re.findall(r"python -m benchmarks (\w+)", README))
    assert named
    for name in named:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert f"\n{target}:" in makefile, target
