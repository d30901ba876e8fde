"""A tool that is not installed is one line that says how to install it; these run where nothing is installed."""

import sys

import pytest

from spri_dspy.errors import PrerequisiteError
from tests.command import assert_refused, spri


def test_tracking_without_mlflow_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.chdir(tmp_path)
    found = spri("run", "sft", "--limit", 1, "--run", "r", "--track", "mlflow")
    assert_refused(found, 3, 'pip install "spri-dspy[track]"')
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "extra"), [("inspect_ai", r'"spri-dspy\[inspect\]"'), ("deepeval", 'spri-dspy "deepeval>=')]
)
def test_importing_an_integration_without_its_tool(monkeypatch, name, extra):
    for module in [name, *(each for each in sys.modules if each.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"spri_dspy.integrations.{name}", raising=False)
    import importlib

    with pytest.raises(PrerequisiteError, match=f"pip install {extra}"):
        importlib.import_module(f"spri_dspy.integrations.{name}")
