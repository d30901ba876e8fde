"""Inspect evaluates for real: solver and scorer in `eval`, with logs that are read back."""

import asyncio
import math

import pytest

inspect_ai = pytest.importorskip(
    "inspect_ai", reason="needs spri-dspy[inspect]; make test-integrations has it"
)

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import MemoryDataset, Sample  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import ModelOutput, ModelUsage, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

from spri_dspy.errors import PrerequisiteError, UsageError  # noqa: E402
from spri_dspy.integrations.inspect_ai import inspect_lm, spri_scorer, spri_solver  # noqa: E402
from spri_dspy.lms.offline import OfflineEngine  # noqa: E402

RUBRIC = "Is the bird quiet?\n" + "\n".join(f"Score {n}: level {n}" for n in range(1, 6))


def output(text):
    """With its tokens counted: the mock would fetch a tokenizer to do so."""
    usage = ModelUsage(input_tokens=7, output_tokens=3, total_tokens=10)
    return ModelOutput.from_content("mockllm/model", text).model_copy(update={"usage": usage})


def offline_model(**knobs):
    """A model of Inspect's that answers as the offline LM does, so that every prompt goes through Inspect."""
    from dspy.lm15 import Config, Message, Request

    engine = OfflineEngine(**knobs)

    def answer(messages, tools, tool_choice, config):
        system = "".join(m.text for m in messages if m.role == "system")
        turns = tuple(Message.user(m.text) for m in messages if m.role == "user")
        request = Request(model="m", messages=turns, system=system or None, config=Config())
        return output(engine.complete(request).message.text)

    return get_model("mockllm/offline", custom_outputs=answer, memoize=False)


def says(*answers):
    """A model that says these things, the last one for ever."""
    left = list(answers)

    def answer(*_):
        return output(left.pop(0) if len(left) > 1 else left[0])

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


def run(tmp_path, solver, scorer, *, samples=None, model=None, **roles):
    samples = samples or [
        Sample(id="a", input="Name a quiet bird.", target="The bittern"),
        Sample(id="b", input="Name a loud bird.", target="The jay"),
    ]
    task = Task(dataset=MemoryDataset(samples), solver=solver, scorer=scorer)
    [log] = eval(
        task,
        model=model or offline_model(),
        model_roles=roles or None,
        log_dir=str(tmp_path / "logs"),
        display="none",
        max_samples=4,
    )
    return read_eval_log(log.location, resolve_attachments=True)


def test_solver_answers_with_inspects_model_and_the_log_has_principles_and_critiques(tmp_path):
    log = run(tmp_path, spri_solver(), includes())
    assert log.status == "success", log.error
    for sample in log.samples:
        about = sample.metadata["spri"]
        assert sample.output.completion
        assert about["principles"]
        assert set(about["stop_reasons"]) == {"principles", "response"}
        assert {r["stage"] for r in about["trace"]} == {"principles", "response"}
        assert sample.messages[-1].text == sample.output.completion
        calls = [e for e in sample.events if e.event == "model"]
        assert len(calls) >= 4  # draft and critique of both stages: Inspect saw them all
    assert log.stats.model_usage["mockllm/offline"].total_tokens > 0
    assert log.eval.scorers[0].name == "includes"


def test_solver_takes_further_inputs_from_metadata_and_lm_strings(tmp_path):
    sample = Sample(
        input="I failed my exam.", target="-", metadata={"aim": "Look at the effort as something kept."}
    )
    log = run(tmp_path, spri_solver("reappraisal", base="offline"), includes(), samples=[sample])
    assert log.status == "success", log.error
    assert log.samples[0].output.model == "offline"
    assert not [e for e in log.samples[0].events if e.event == "model"]


def test_a_failing_sample_is_inspects_error_of_that_sample(tmp_path):
    log = run(tmp_path, spri_solver(base="offline?garbage_rate=1"), includes())
    assert log.status == "error"
    assert "UnreadableAnswer" in str(log.samples[0].error)


def test_scorer_judges_by_written_rubrics_with_the_grader(tmp_path):
    log = run(tmp_path, generate(), spri_scorer(), model=says("A wren."), grader=offline_model())
    assert log.status == "success", log.error
    for sample in log.samples:
        score = sample.scores["spri_scorer"]
        assert 1 <= score.value <= 5
        assert score.answer == "A wren."
        assert "Score 5:" in score.metadata["rubric"]
        assert score.explanation
    metrics = log.results.scores[0].metrics
    assert metrics["mean"].value == pytest.approx(sum(s.scores["spri_scorer"].value for s in log.samples) / 2)
    assert log.results.scores[0].scored_samples == 2
    assert {"grader"} <= set(log.stats.role_usage)


def test_missing_scores_are_unscored_and_never_zero(tmp_path):
    log = run(tmp_path, generate(), spri_scorer(RUBRIC, judge="offline"), model=says("A wren.", ""))
    assert log.status == "success", log.error
    found = {s.output.completion: s.scores["spri_scorer"] for s in log.samples}
    assert 1 <= found["A wren."].value <= 5
    assert math.isnan(found[""].value)
    assert found[""].reason == "no_response"
    result = log.results.scores[0]
    assert (result.scored_samples, result.unscored_samples) == (1, 1)
    assert result.metrics["mean"].value == found["A wren."].value


def test_a_judge_without_a_readable_score_is_a_failed_grader(tmp_path):
    log = run(
        tmp_path, generate(), spri_scorer(RUBRIC, judge="offline?unscored_rate=1"), model=says("A wren.")
    )
    scores = [s.scores["spri_scorer"] for s in log.samples]
    assert [s.reason for s in scores] == ["grader_failed"] * 2
    assert all(math.isnan(s.value) for s in scores)
    assert log.results.scores[0].unscored_samples == 2


def test_the_target_is_shown_to_the_judge_if_asked(tmp_path):
    for reference in (False, True):
        log = run(
            tmp_path,
            generate(),
            spri_scorer(RUBRIC, reference=reference),
            model=says("A wren."),
            grader=offline_model(),
        )
        said = " ".join(m.text for e in log.samples[0].events if e.event == "model" for m in e.input)
        assert ("The bittern" in said) is reference


def test_a_scorer_without_a_judge_says_how_to_name_one(tmp_path):
    log = run(tmp_path, generate(), spri_scorer(), model=says("A wren."))
    assert log.status == "error"
    assert "--model-role grader=" in log.error.message


def test_the_offline_judge_does_not_score_a_real_model():
    state = type("State", (), {"model": "openai/gpt-4o-mini"})()
    with pytest.raises(UsageError, match="judge would be the offline LM"):
        asyncio.run(spri_scorer(RUBRIC, judge="offline")(state, None))


def test_wrong_names_are_refused_where_they_are_written():
    with pytest.raises(UsageError, match="known:"):
        spri_solver(system="no-such-system")


def test_inspects_models_are_asked_asynchronously_only():
    with pytest.raises(Exception, match="acall"):
        inspect_lm(offline_model())("hello")


def test_a_missing_package_is_one_line(monkeypatch):
    import importlib
    import sys

    import spri_dspy.integrations.inspect_ai as module

    monkeypatch.setitem(sys.modules, "inspect_ai.model", None)
    with pytest.raises(PrerequisiteError, match=r'pip install "spri-dspy\[inspect\]"'):
        importlib.reload(module)
