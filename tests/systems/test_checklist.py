"""Checklist: questions, an answer to each, the share of yes; and metrics, its sister with one verdict."""

import pytest

import spri_dspy as spri
from tests.factories import chat
from tests.systems.heard import ANSWERED, judged, make

FOUR = ["Is it short?", "Is it true?", "Is it kind?", "Is it blue?"]


def listed(*questions):
    return ("generate_checklist", chat(checklist="\n".join(questions)))


def settled(met, reason="because"):
    return ("check_question", chat(feedback=reason, met=met))


def test_share_of_yes_is_the_score():
    program, script = make(
        "rubrics", "checklist", listed(*FOUR), settled("Yes"), settled("no"), *[settled("yes")] * 2
    )
    found = program(**ANSWERED)
    assert (found.share, found.response.score) == (0.75, 4)
    assert found.principles == "1. Is it short?\n2. Is it true?\n3. Is it kind?\n4. Is it blue?"
    assert [each["met"] for each in found.answers] == [True, False, True, True]
    assert script.left == 0 and found.usage["base"].calls == 5
    assert ANSWERED["answer"] not in script.prompts[0]
    for question, prompt in zip(FOUR, script.prompts[1:], strict=True):
        assert [each in prompt for each in FOUR] == [each == question for each in FOUR]
        assert ANSWERED["answer"] in prompt and ANSWERED["instruction"] in prompt


def test_answer_that_cannot_be_read_is_asked_again_and_then_missing():
    calls = [
        listed(*FOUR),
        *[settled("perhaps")] * 3,
        settled("yes"),
        settled("?"),
        settled("no"),
        settled("yes"),
    ]
    program, script = make("rubrics", "checklist", *calls)
    found = program(**ANSWERED)
    assert [each["met"] for each in found.answers] == [None, True, False, True]
    assert found.share == pytest.approx(2 / 3) and script.left == 0


def test_without_any_readable_answer_there_is_no_score():
    program, _ = make("rubrics", "checklist", listed(*FOUR), *[settled("perhaps")] * 12)
    found = program(**ANSWERED)
    assert (found.share, found.response.score) == (None, None)
    assert found.response.feedback.count("not read") == 4


def test_too_few_questions_are_asked_for_again_and_too_many_cut():
    lists = [listed("Is it short?"), listed(*FOUR[:3]), listed("Is it true?")]
    program, script = make("rubrics", "checklist", *lists, *[settled("yes")] * 3)
    assert len(program(**ANSWERED).answers) == 3 and script.left == 0
    many = [f"Is it number {n}?" for n in range(14)]
    program, _ = make("rubrics", "checklist", listed(*many), *[settled("yes")] * 10)
    assert [each["question"] for each in program(**ANSWERED).answers] == many[:10]


def test_list_without_an_item_fails_with_what_was_said():
    program, _ = make("rubrics", "checklist", *[listed("***")] * 3)
    with pytest.raises(spri.UnreadableAnswer, match="generate_checklist: a list without an item"):
        program(**ANSWERED)


def test_reference_is_shown_to_the_judge_alone():
    program, script = make("rubrics", "checklist", listed(*FOUR), *[settled("yes")] * 4, with_reference=True)
    program(**ANSWERED, reference_answer="Rayleigh scattering.")
    assert ["Rayleigh" in prompt for prompt in script.prompts] == [False, True, True, True, True]


def test_wrong_bounds_are_refused():
    with pytest.raises(spri.UsageError, match="fewest must be at least 1 and at most most, not 5 and 4"):
        make("rubrics", "checklist", fewest="5", most="4")
    with pytest.raises(spri.UsageError, match="most must be at least 1, not 0"):
        make("rubrics", "metrics", most="0")


def test_metrics_are_written_for_the_instruction_and_judged_with():
    criteria = ("generate_criteria", chat(criteria="1. Names scattering\n2. Is short\n3. Is kind\n4. Rhymes"))
    program, script = make("rubrics", "metrics", criteria, judged(2, "no sea"))
    found = program(**ANSWERED)
    assert found.principles == "1. Names scattering\n2. Is short\n3. Is kind"
    assert (found.response.score, found.response.feedback) == (2, "no sea")
    assert ANSWERED["answer"] not in script.prompts[0]
    assert "1. Names scattering" in script.prompts[1] and "Rhymes" not in script.prompts[1]
