"""What `import spri_dspy as spri` promises: these names, each importable, and an import that costs next to nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spri_dspy as spri

REPOSITORY = Path(__file__).parents[1]

PUBLIC = [
    "AgreeColumns",
    "AgreeSettings",
    "Agreement",
    "Budget",
    "CallError",
    "Criterion",
    "CritiqueRefine",
    "DataError",
    "Estimate",
    "Example",
    "Judge",
    "LeakError",
    "Metric",
    "PrerequisiteError",
    "Record",
    "ReplayMiss",
    "RolePredict",
    "Round",
    "RunDir",
    "RunMismatchError",
    "SPRI",
    "Score",
    "SpriError",
    "Task",
    "UnknownNameError",
    "UnreadableAnswer",
    "Usage",
    "UsageError",
    "Verdict",
    "agree",
    "arun_bulk",
    "load_judge",
    "load_lm",
    "load_metric",
    "load_program",
    "load_system",
    "load_task",
    "read_score",
    "run_bulk",
    "tune",
    "write_report",
]


def in_fresh_python(code, **environment):
    """What code prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names_are_these():
    assert spri.__all__ == PUBLIC
    assert sorted(spri.__all__) == spri.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_had_and_is_documented(name):
    value = getattr(spri, name)
    assert value.__name__ == name
    assert value.__module__.startswith("spri_dspy.")
    assert value.__doc__


def test_names_are_listed_before_they_are_loaded():
    assert set(PUBLIC) <= set(dir(spri))


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'load_tusk'"):
        spri.load_tusk  # noqa: B018 - the access is what is tested


def test_type_checkers_see_the_same_names():
    text = (REPOSITORY / "spri_dspy" / "__init__.py").read_text("utf-8")
    seen = text.partition("if TYPE_CHECKING:")[2].partition("\n_HOME")[0]
    missing = [name for name in PUBLIC if name not in seen.replace(",", " ").split()]
    assert not missing


@pytest.mark.parametrize("heavy", ["dspy", "litellm", "pydantic", "scipy", "numpy", "datasets"])
def test_import_loads_nothing_heavy(heavy):
    assert in_fresh_python(f"import sys, spri_dspy; print({heavy!r} in sys.modules)") == "False"


def test_star_import_brings_the_public_names():
    code = "from spri_dspy import *; print(sorted(n for n in dir() if n[0] != '_'))"
    assert in_fresh_python(code) == str(sorted(PUBLIC))


def test_import_leaves_the_price_list_to_the_user():
    code = "import os, spri_dspy; print(os.environ['LITELLM_LOCAL_MODEL_COST_MAP'])"
    assert in_fresh_python(code, LITELLM_LOCAL_MODEL_COST_MAP="False") == "False"
