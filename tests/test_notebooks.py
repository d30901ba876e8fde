"""The notebooks run from top to bottom, offline, in a kernel of their own, and are committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "benchmarks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_CELLS = 15


def code_of(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_every_table():
    assert [path.stem for path in NOTEBOOKS] == ["table1", "table2", "table3", "truthful"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_short_and_has_no_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert len(book.cells) <= MOST_CELLS
    assert all(not cell.outputs and cell.execution_count is None for cell in code_of(book))
    assert not any(
        line.startswith(("def ", "class ", "for ", "if "))
        for c in code_of(book)
        for line in c.source.splitlines()
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if n else [], id=path.stem)
        for n, path in enumerate(NOTEBOOKS)
    ],
)
def test_notebook_runs_offline_and_shows_table_and_plots(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SPRI_RUNS", str(tmp_path))
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in code_of(book) for output in cell.outputs]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/markdown", "image/png"} <= shown
    table = next(o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {}))
    assert "offline stand-in: not a language model" in table.splitlines()[0]
    assert (
        sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    )  # how loops ended; figures need an LM
    assert list(tmp_path.rglob("records.jsonl"))
