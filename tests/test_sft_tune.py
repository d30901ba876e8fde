"""Tuning a tiny random model on exported responses and scoring it, where the packages for that are installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import sft_tune
from spri_dspy.errors import DataError, PrerequisiteError
from spri_dspy.records import Score

REPOSITORY = Path(__file__).parents[1]
HAS_PACKAGES = all(
    importlib.util.find_spec(name) for name in ("torch", "transformers", "trl", "peft", "lm_eval")
)
QUESTIONS = [
    ("What falls from a cloud?", {"Rain.": 1, "Snow.": 1, "Coins.": 0}),
    ("How many legs has a spider?", {"Eight.": 1, "Six.": 0}),
    ("Where does the sun come up?", {"In the east.": 1, "In the west.": 0}),
]


def export_file(path, n=6):
    talk = [[f"Is {number} even?", "yes" if number % 2 == 0 else "no"] for number in range(n)]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in talk
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def question_file(path):
    targets = [
        (asked, {"choices": list(known), "labels": list(known.values())}) for asked, known in QUESTIONS
    ]
    rows = [{"question": asked, "mc1_targets": known, "mc2_targets": known} for asked, known in targets]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_export_is_read_and_a_row_of_something_else_is_refused_by_line(tmp_path):
    path = export_file(tmp_path / "sft.jsonl", 2)
    assert [row["messages"][1]["content"] for row in sft_tune.read_export(path)] == ["yes", "no"]
    path.write_text(path.read_text("utf-8") + '{"instruction": "x"}\n', "utf-8")
    with pytest.raises(DataError, match="line 3: no row of spri export"):
        sft_tune.read_export(path)


def test_report_is_in_percent_and_says_that_a_tiny_model_is_none():
    before, after = (
        [Score(str(n), value) for n, value in enumerate(v)] for v in ((0.2, 0.4) * 3, (0.3, 0.6) * 3)
    )
    section = sft_tune.report("tiny", 6, before, after, 0)
    assert "not a language model" in section.title
    assert [row[0] for row in section.rows] == ["untuned", "tuned", "difference"]
    assert section.rows[0][1].startswith("30.00 [") and section.rows[2][1].startswith("+15.00 [")


@pytest.mark.skipif(HAS_PACKAGES, reason="torch and the like are installed")
def test_missing_packages_are_named_with_the_line_that_brings_them(tmp_path):
    argv = [
        "--data",
        str(export_file(tmp_path / "sft.jsonl")),
        "--model",
        "tiny",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(PrerequisiteError, match=r"torch.*pip install"):
        sft_tune.main(argv)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PACKAGES, reason="needs torch==2.13.0 and the extras sft and eval")
def test_tiny_model_is_tuned_saved_and_scored(tmp_path):
    paths = [
        "--data",
        export_file(tmp_path / "sft.jsonl"),
        "--questions",
        question_file(tmp_path / "questions.jsonl"),
    ]
    settings = [
        "--model",
        "tiny",
        "--out",
        tmp_path / "tuned",
        "--max-steps",
        3,
        "--learning-rate",
        0.01,
        "--json",
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "sft_tune", *map(str, [*paths, *settings])],
        cwd=REPOSITORY,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    untuned, tuned, difference = json.loads(done.stdout)["sft_tune"]["results"]
    assert untuned["n"] == tuned["n"] == len(QUESTIONS)
    assert 0 < untuned["value"] < 100 and difference["difference"] != 0
    assert (tmp_path / "tuned" / "adapter_model.safetensors").is_file()
