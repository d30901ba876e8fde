"""Self-refine: how often it improves, what each round is shown, when the loop stops; and the published faults."""

import pytest

import spri_dspy as spri
from spri_dspy.systems import load_system
from tests.factories import make_task, scripted
from tests.systems.heard import (
    ANSWERED,
    ASKED,
    POST,
    criticised,
    drafted,
    judged,
    make,
    rejudged,
    rewritten,
)

SIX = [rewritten(f"v{n}") for n in range(1, 7)]
FIVE = [rejudged(3, f"v{n}") for n in range(1, 6)]


def test_reappraisal_is_improved_six_times():
    program, script = make("reappraisal", "self_refine", drafted("v0"), *SIX)
    prediction = program(**POST)
    assert prediction.response == "v6"
    assert [r.candidate for r in prediction.trace] == [f"v{n}" for n in range(7)]
    assert all(r.verdict is None for r in prediction.trace)
    assert prediction.usage["base"].calls == 7 and script.left == 0


@pytest.mark.parametrize(
    ("task", "inputs", "calls"), [("reappraisal", POST, SIX), ("rubrics", ANSWERED, FIVE)]
)
def test_every_round_sees_the_inputs_and_the_last_version(task, inputs, calls):
    start = drafted("v0") if task == "reappraisal" else judged(2, "v0")
    program, script = make(task, "self_refine", start, *calls)
    program(**inputs)
    assert len(script.prompts) == 1 + len(calls)
    for number, prompt in enumerate(script.prompts):
        assert all(value in prompt for value in inputs.values())
        assert number == 0 or f"v{number - 1}" in prompt


@pytest.mark.parametrize(
    ("task", "inputs", "calls"), [("reappraisal", POST, SIX), ("rubrics", ANSWERED, FIVE)]
)
def test_published_rounds_see_the_last_version_alone(task, inputs, calls):
    start = drafted("v0") if task == "reappraisal" else judged(2, "v0")
    program, script = make(task, "self_refine", start, *calls, paper=True)
    program(**inputs)
    assert all(value in script.prompts[0] for value in inputs.values())
    for number, prompt in enumerate(script.prompts[1:]):
        assert not any(value in prompt for value in inputs.values())
        assert f"v{number}" in prompt


def test_judgement_is_improved_five_times():
    program, _ = make("rubrics", "self_refine", judged(2, "v0"), *FIVE[:4], rejudged(5, "last"))
    prediction = program(**ANSWERED)
    assert (prediction.response.score, prediction.response.feedback) == (5, "last")
    assert prediction.usage["base"].calls == 6


def test_number_of_rounds_is_a_setting():
    program, _ = make("reappraisal", "self_refine", drafted("v0"), *SIX[:2], rounds="2")
    assert program(**POST).response == "v2"
    program, _ = make(
        "sft", "self_refine", drafted("a"), criticised(1), rewritten("b"), criticised(1), rounds=1
    )
    assert program(**ASKED).stop_reasons == {"response": "exhausted"}
    with pytest.raises(spri.UsageError, match="rounds must be at least 1"):
        make("sft", "self_refine", rounds=-1)


def test_sft_stops_at_four_and_asks_the_base_alone():
    program, script = make("sft", "self_refine", drafted("a"), criticised(2), rewritten("b"), criticised(4))
    prediction = program(**ASKED)
    assert (prediction.response, prediction.stop_reasons) == ("b", {"response": "accepted"})
    assert list(prediction.usage) == ["base"]
    assert all(ASKED["instruction"] in prompt for prompt in script.prompts)
    assert not any("principle" in prompt.casefold() for prompt in script.prompts)


ROUNDS = [criticised(3), rewritten("b"), criticised(1), rewritten("c"), criticised(2), rewritten("d")]


def test_sft_criticises_four_answers_and_keeps_the_best():
    program, script = make("sft", "self_refine", drafted("a"), *ROUNDS, criticised(2))
    prediction = program(**ASKED)
    assert (prediction.response, prediction.scores) == ("a", {"response": 3})
    assert prediction.stop_reasons == {"response": "exhausted"}
    assert [r.candidate for r in prediction.trace] == ["a", "b", "c", "d"]
    assert script.left == 0


def test_published_sft_criticises_the_first_answer_and_keeps_the_last():
    calls = [drafted("the first"), *ROUNDS, criticised(2)]
    program, script = make("sft", "self_refine", *calls, paper=True)
    prediction = program(**ASKED)
    assert prediction.response == "d"
    assert [r.candidate for r in prediction.trace] == ["the first"] * 4
    critiques = [script.prompts[n] for n in (1, 3, 5, 7)]
    assert all("the first" in prompt for prompt in critiques)


def test_published_sft_stops_where_no_score_can_be_read():
    program, _ = make("sft", "self_refine", drafted("a"), criticised("?"), paper=True)
    assert program(**ASKED).stop_reasons == {"response": "unscored"}


def test_any_other_task_gets_the_feedback_loop():
    program = load_system("self_refine", make_task())
    scripted(program, drafted("a"), criticised(5))
    assert program(question="why?").response == "a"
