"""deepeval evaluates for real with a metric from an exported rubric file; its telemetry is off."""

import os

import pytest

os.environ.setdefault("DEEPEVAL_TELEMETRY_OPT_OUT", "1")
deepeval = pytest.importorskip(
    "deepeval", reason="needs deepeval in an environment of its own: make test-integrations"
)

from deepeval import evaluate  # noqa: E402
from deepeval.evaluate.configs import AsyncConfig, DisplayConfig, ErrorConfig  # noqa: E402
from deepeval.test_case import LLMTestCase  # noqa: E402

from spri_dspy.errors import CallError, UsageError  # noqa: E402
from spri_dspy.integrations.deepeval import RubricMetric  # noqa: E402
from spri_dspy.lms.replay import replay_lm  # noqa: E402
from tests.command import spri  # noqa: E402
from tests.integrations.test_rubric_scoring import RUBRIC, Recording  # noqa: E402


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """deepeval writes a folder where it runs."""
    monkeypatch.chdir(tmp_path)


def outcome(metric, *answers, question="Name a bird."):
    cases = [LLMTestCase(input=question, actual_output=answer) for answer in answers]
    found = evaluate(
        cases,
        [metric],
        async_config=AsyncConfig(run_async=True),
        display_config=DisplayConfig(show_indicator=False, print_results=False),
        error_config=ErrorConfig(ignore_errors=True),
    )
    by_answer = {each.actual_output: each.metrics_data[0] for each in found.test_results}
    return [by_answer[answer] for answer in answers]


def test_an_exported_rubric_file_scores_test_cases(tmp_path):
    assert spri("run", "rubrics", "--limit", 2, "--run", "r")[0] == 0
    assert spri("export", "r", "--format", "rubrics", "--out", "x/rubrics.jsonl")[0] == 0
    from spri_dspy.tasks.rubrics import read_export

    [(instruction, rubric), *_] = read_export("x/rubrics.jsonl").values()
    said = Recording(score=4)
    [data] = outcome(
        RubricMetric("x/rubrics.jsonl", judge=replay_lm(said)), "An answer.", question=instruction
    )
    assert (data.score, data.success, data.threshold) == (0.75, True, 0.75)
    assert data.reason == "4 of 5: quiet enough"
    assert rubric["criteria"] in said.prompts[0]


def test_a_score_below_the_threshold_fails():
    [data] = outcome(RubricMetric(RUBRIC, judge=replay_lm(Recording(score=3))), "A jay.")
    assert (data.score, data.success) == (0.5, False)


def test_a_missing_score_is_an_error_of_its_test_case_and_no_zero():
    judged, missing = outcome(RubricMetric(RUBRIC, judge=replay_lm(Recording(score=5))), "A jay.", " ")
    assert (judged.score, judged.error) == (1.0, None)
    assert missing.score is None and "no score: the answer is empty" in missing.error


def test_measure_works_without_an_event_loop_and_raises_what_is_missing():
    metric = RubricMetric(RUBRIC, judge=replay_lm(Recording(score=2)))
    assert metric.measure(LLMTestCase(input="q", actual_output="a")) == 0.25
    with pytest.raises(CallError, match="no score"):
        metric.measure(LLMTestCase(input="q", actual_output=""))
    with pytest.raises(UsageError, match="0 to 1"):
        RubricMetric(RUBRIC, judge="offline", threshold=4)
