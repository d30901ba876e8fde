"""SmolLM2-135M-Instruct through the commands: a real model, too small to make sense, and what is said of its answers.

`make demo-lm` fetches it. The tests are slow: a prompt takes seconds on a CPU.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.judges import load_judge
from spri_dspy.lms.gguf import read_gguf
from tests.command import spri as command
from tests.judge_parts import ANSWER

MODEL = Path(__file__).resolve().parents[2] / ".models/SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_file(), reason=f"no {MODEL.name} in .models: make demo-lm fetches it"),
]


def test_its_header_is_read():
    model = read_gguf(MODEL)
    assert (model.architecture, model.quantisation, model.context_tokens) == ("llama", "Q4_1", 8192)
    assert model.parameters == 134_515_008 and model.unfit is None


def test_run_ends_with_the_share_of_the_prefix_cache_and_what_to_look_at(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    lm = f"base={MODEL}?n_ctx=2048&max_tokens=24&max_chars=40&temperature=0"
    code, _, err = command(
        "run", "reappraisal", "--limit", 1, "--set", "max_critiques=1", "--lm", lm, "--run", "r"
    )
    assert code in (0, 1), err  # so short, not every answer can be read
    assert caplog.text.count("an answer was cut off at max_tokens=24") == 1
    assert re.search(r"tokens in \(\d+% from the server's prefix cache\)", err), err
    assert re.search(r"answers to look at: .*cut off at max_tokens \(.*1 generate_principles", err), err
    records = list(spri.RunDir.read("r").records())
    assert len(records) == 1 and all("truncated:generate_principles" in r.flags for r in records)


def test_judge_takes_the_expected_score():
    judge = load_judge("generic", logprobs=True)
    judge.set_lms(judge=f"{MODEL}?n_ctx=2048&max_tokens=40&max_chars=40&temperature=1")
    reading = judge(**ANSWER).details["score"]["readings"][0]
    assert reading["by"] == "logprobs" and 1 <= reading["value"] <= 5, reading
