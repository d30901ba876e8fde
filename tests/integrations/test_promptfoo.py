"""promptfoo's provider and assertion: their contract, and the real tool where PROMPTFOO names its program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spri_dspy.errors import CallError, UsageError
from spri_dspy.integrations.promptfoo import rubric_assertion, spri_provider
from spri_dspy.lms.replay import replay_lm
from tests.integrations.test_rubric_scoring import RUBRIC, Recording

REPOSITORY = Path(__file__).parents[2]


def test_the_provider_answers_with_tokens_and_principles():
    found = spri_provider("reappraisal")(
        "I failed my exam.", {}, {"vars": {"aim": "See the effort as something kept."}}
    )
    assert found["output"] and "error" not in found
    usage = found["tokenUsage"]
    assert usage["total"] == usage["prompt"] + usage["completion"] > 0
    assert found["metadata"]["principles"] and set(found["metadata"]["scores"]) == {"principles", "response"}
    json.dumps(found)


def test_a_failed_call_is_the_results_error():
    found = spri_provider(base="offline?garbage_rate=1")("Name a bird.", {}, {"vars": {}})
    assert set(found) == {"error"} and "UnreadableAnswer" in found["error"]


@pytest.mark.parametrize(("score", "passes", "share"), [(5, True, 1.0), (4, True, 0.75), (3, False, 0.5)])
def test_the_assertion_compares_with_the_threshold(score, passes, share):
    said = Recording(score=score)
    found = rubric_assertion(RUBRIC, judge=replay_lm(said), instruction="q")(
        "The jay.", {"vars": {"q": "Which bird?"}}
    )
    assert (found["pass"], found["score"], found["namedScores"]) == (passes, share, {"rubric": score})
    assert "quiet enough" in found["reason"] and "Which bird?" in said.prompts[0]


def test_a_missing_score_fails_with_its_reason_or_is_an_error():
    context = {"prompt": "Name a bird.", "vars": {}}
    found = rubric_assertion(RUBRIC, judge="offline")("", context)
    assert (found["pass"], found["reason"]) == (False, "no score: the answer is empty")
    with pytest.raises(CallError, match="no score"):
        rubric_assertion(RUBRIC, judge="offline", on_missing="error")("", context)


def test_wrong_settings_are_refused():
    with pytest.raises(UsageError, match="1 to 5"):
        rubric_assertion(RUBRIC, judge="offline", threshold=0.8)
    with pytest.raises(UsageError, match="no var 'q'"):
        rubric_assertion(RUBRIC, judge="offline", instruction="q")("x", {"vars": {}})


@pytest.mark.skipif(
    "PROMPTFOO" not in os.environ, reason="PROMPTFOO names promptfoo's program (npm install promptfoo)"
)
def test_promptfoo_evaluates_with_provider_and_assertion(tmp_path):
    (tmp_path / "provider.py").write_text(
        "from spri_dspy.integrations.promptfoo import spri_provider\ncall_api = spri_provider()\n"
    )
    (tmp_path / "assertion.py").write_text(
        "from spri_dspy.integrations.promptfoo import rubric_assertion\n"
        f"get_assert = rubric_assertion({RUBRIC!r}, judge='offline', threshold=1)\n"
    )
    config = {
        "prompts": ["{{instruction}}"],
        "providers": ["file://provider.py"],
        "tests": [
            {"vars": {"instruction": text}, "assert": [{"type": "python", "value": "file://assertion.py"}]}
            for text in ("Name a quiet bird.", "Name a loud bird.")
        ],
    }
    (tmp_path / "promptfooconfig.json").write_text(json.dumps(config))
    quiet = ("TELEMETRY", "UPDATE", "REMOTE_GENERATION", "SHARING")
    settings = {f"PROMPTFOO_DISABLE_{name}": "1" for name in quiet} | {
        "PROMPTFOO_PYTHON": sys.executable,
        "PROMPTFOO_CONFIG_DIR": str(tmp_path / "home"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [
            os.environ["PROMPTFOO"],
            "eval",
            "-c",
            "promptfooconfig.json",
            "-o",
            "out.json",
            "--no-cache",
            "--no-table",
        ],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (tmp_path / "out.json").is_file(), done.stdout + done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]["results"]
    assert len(results) == 2 and all(each["success"] for each in results), results
    for each in results:
        [graded] = each["gradingResult"]["componentResults"]
        assert graded["reason"][1:].startswith(" of 5: ")
        assert each["response"]["metadata"]["principles"]
