"""The README's commands and names exist: what it tells a new user to type is understood."""

import re
from pathlib import Path

import pytest

import spri_dspy as spri
from tests.command import spri as command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def verbs():
    return sorted(set(re.findall(r"\bspri (run|show|judge|tune|export|doctor|report|serve)\b", README)))


@pytest.mark.parametrize("verb", verbs())
def test_verbs_of_the_readme_exist(verb):
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert "Usage: spri" in out


def test_options_of_the_readme_exist():
    known = "".join(command(verb, "--help")[1] for verb in verbs())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--recordings", "--systems"}
    assert {option for option in named if option not in known} == set()


def test_python_names_of_the_readme_exist():
    named = set(re.findall(r"\bspri\.([A-Za-z_]\w*)", README)) - {"toml"}
    assert named <= set(spri.__all__)


def test_benchmarks_of_the_readme_exist():
    named = set(re.findall(r"python -m benchmarks (\w+)", README))
    assert named
    for name in named:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert f"\n{target}:" in makefile, target
