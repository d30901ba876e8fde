"""What a type checker tells a user: a mistyped keyword of a public call is an error, and the right calls are none."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
HEAD = """
from collections.abc import Sequence
import spri_dspy as spri

task = spri.load_task("sft")
examples = list(task.examples())
program = spri.SPRI(task, accept_at=5, keep="last")
"""
RIGHT = """
program.set_lms(base="offline", critic="offline")
judge: spri.Judge = spri.load_judge("generic", samples=3)
summary = spri.run_bulk(program, examples, "runs/a", concurrency=2, budget=spri.Budget(max_usd=1.0))
n_done: int = summary.done
tuned = spri.tune(program, trainset=examples, metric="pearson", optimizer="seed_search", run_dir="runs/b")
metric: spri.Metric = spri.load_metric("alignment", judge="offline")
one: spri.Example = examples[0]


async def main(run: spri.RunDir) -> int:
    return (await spri.arun_bulk(program, examples, run, concurrency=2, keep_calls=True)).done
"""
WRONG = {
    "run_bulk": 'spri.run_bulk(program, examples, "runs/a", concurency=2)',
    "run_bulk, a type": 'spri.run_bulk(program, examples, "runs/a", concurrency="2")',
    "arun_bulk": 'spri.arun_bulk(program, examples, spri.RunDir.read("r"), retry_error=True)',
    "arun_bulk, a type": 'spri.arun_bulk(program, examples, "runs/a")',
    "tune": 'spri.tune(program, trainset=examples, metric="pearson", optimiser="gepa")',
    "tune, missing": "spri.tune(program, trainset=examples)",
    "set_lms": 'program.set_lms(base="offline", crtic="offline")',
    "load_task": 'spri.load_task(nmae="sft")',
    "load_judge": 'spri.load_judge(nmae="generic")',
    "load_system": 'spri.load_system("spri", task, papr=3, paper="yes")',
    "SPRI": "spri.SPRI(task, acept_at=5)",
    "SPRI, a value": 'spri.SPRI(task, keep="latest")',
    "paper": "spri.SPRI.paper(task, max_critique=3)",
    "Budget": "spri.Budget(max_dollars=3)",
}


def test_mistyped_keywords_are_errors_and_right_calls_are_none(tmp_path):
    checker = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    if checker is None:
        pytest.skip("basedpyright is missing: pip install 'spri-dspy[check]'")
    lines = [*HEAD.splitlines(), *WRONG.values()]
    (tmp_path / "wrong.py").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "right.py").write_text(HEAD + RIGHT, "utf-8")
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(REPOSITORY)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    command = [checker, "--outputjson", "--level", "error", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [
        (Path(each["file"]).name, each["range"]["start"]["line"], each["message"])
        for each in json.loads(done.stdout)["generalDiagnostics"]
    ]
    assert [each for each in found if each[0] == "right.py"] == []
    told = {line for _, line, _ in found}
    first = len(HEAD.splitlines())
    assert [name for number, name in enumerate(WRONG, first) if number not in told] == []
    assert min(told) >= first
