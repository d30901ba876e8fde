"""Vanilla and direct response: the inputs, one request, nothing else."""

import pytest

import spri_dspy as spri
from spri_dspy.systems import load_system
from spri_dspy.tasks.rubrics import Judgement
from tests.factories import make_task, scripted
from tests.systems.heard import ANSWERED, ASKED, POST, drafted, judged, make


def test_reappraisal_is_asked_for_towards_the_aim():
    program, script = make("reappraisal", "vanilla", drafted("hello"))
    assert program(**POST).response == "hello"
    assert POST["post"] in script.prompts[0] and POST["aim"] in script.prompts[0]
    assert "principle" not in script.prompts[0].casefold()


def test_judgement_needs_no_rubric():
    program, script = make("rubrics", "vanilla", judged(2, "it is the air"))
    response = program(**ANSWERED).response
    assert isinstance(response, Judgement)
    assert (response.feedback, response.score) == ("it is the air", 2)
    asked = script.prompts[0].replace("without a rubric", "").casefold()
    assert "rubric" not in asked and "principle" not in asked
    assert ANSWERED["answer"] in script.prompts[0]


@pytest.mark.parametrize("system", ["vanilla", "direct"])
def test_instruction_is_asked_as_it_is(system):
    program, script = make("sft", system, drafted("scattering"))
    assert program(**ASKED).response == "scattering"
    assert script.prompts[0].count(ASKED["instruction"]) == 1


def test_any_other_task_has_its_inputs_asked():
    program = load_system("vanilla", make_task())
    scripted(program, drafted("so"))
    assert program(question="why?").response == "so"


def test_reference_answer_is_shown_only_on_request():
    program, script = make("rubrics", "vanilla", judged(), with_reference=True)
    program(**ANSWERED, reference_answer="Rayleigh scattering.")
    assert "Rayleigh scattering." in script.prompts[0]
    plain, _ = make("rubrics", "vanilla")
    with pytest.raises(spri.UsageError, match="unknown reference_answer"):
        plain(**ANSWERED, reference_answer="Rayleigh scattering.")


def test_yes_or_no_settings_are_read_from_text():
    task = spri.load_task("reappraisal")
    for text in ("false", "No", "0"):
        assert load_system("oracle_principles", task, individual=text).label_inputs == ()
    assert load_system("oracle_principles", task, individual="Yes").label_inputs == ("oracle_principles",)
    with pytest.raises(
        spri.UsageError, match="individual of oracle_principles must be true or false, not 'maybe'"
    ):
        load_system("oracle_principles", task, individual="maybe")
