"""Oracles: experts' principles, the benchmark's rubric, the data set's response."""

import pytest

import spri_dspy as spri
from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.tasks.reappraisal import dimensions
from spri_dspy.tasks.rubrics import Rubric
from tests.systems.heard import ANSWERED, ASKED, POST, drafted, judged, make, rewritten

RUBRIC = {"criteria": "Does it name scattering?"} | {
    f"score{n}_description": f"level {n}" for n in range(1, 6)
}


def test_every_constitution_is_applied_once_in_its_turn():
    calls = [drafted("v0"), *(rewritten(f"v{n}") for n in range(1, 7))]
    program, script = make("reappraisal", "oracle_principles", *calls)
    prediction = program(**POST)
    constitutions = [row["oracle_principles"] for row in dimensions()]
    assert prediction.response == "v6"
    assert prediction.principles == "\n\n".join(constitutions)
    assert not any(text in script.prompts[0] for text in constitutions)
    for number, prompt in enumerate(script.prompts[1:]):
        assert [text in prompt for text in constitutions] == [n == number for n in range(6)]
        assert POST["post"] in prompt and f"v{number}" in prompt


def test_individual_constitution_is_the_examples_own():
    program, script = make("reappraisal", "oracle_principles", drafted("hello"), individual=True)
    prediction = program(**POST, oracle_principles="Speak of the boat.")
    assert (prediction.response, prediction.principles) == ("hello", "Speak of the boat.")
    assert "Speak of the boat." in script.prompts[0]
    assert prediction.usage["base"].calls == 1


def test_benchmark_rubric_is_the_judges_measure():
    program, script = make("rubrics", "oracle_rubrics", judged(1))
    prediction = program(**ANSWERED, rubric=RUBRIC)
    assert prediction.principles == Rubric(**RUBRIC)
    assert prediction.response.score == 1
    assert all(text in script.prompts[0] for text in RUBRIC.values())


def test_response_of_the_data_set_is_returned_without_a_call():
    program, script = make("sft", "oracle_response")
    prediction = program(**ASKED, reference_answer="Scattering.")
    assert (prediction.response, prediction.usage, script.prompts) == ("Scattering.", {}, [])


@pytest.mark.parametrize(
    ("task", "system", "row", "label"),
    [
        ("rubrics", "oracle_rubrics", '{"instruction": "i", "response": "r"}', "rubric"),
        ("sft", "oracle_response", '{"instruction": "i"}', "reference_answer"),
    ],
)
def test_example_without_the_label_is_refused_before_anything_runs(tmp_path, task, system, row, label):
    (tmp_path / "rows.jsonl").write_text(row)
    with pytest.raises(spri.UsageError, match=f"has no {label}, which this system is shown"):
        plan(RunRequest(task=task, system=system, data=tmp_path / "rows.jsonl"))
