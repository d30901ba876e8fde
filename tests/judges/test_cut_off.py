"""Judges and critics whose answers are cut off: no score is taken from half an answer."""

import math

import pytest
from dspy.lm15 import Message, Response, TextPart, Usage

import spri_dspy as spri
from spri_dspy.errors import UnreadableAnswer
from spri_dspy.judges import load_judge
from spri_dspy.judges.logprobs import expected_score
from spri_dspy.lms.client import ScopedLM
from spri_dspy.parsing import read_score
from tests.factories import chat, make_task
from tests.judge_parts import ANSWER, REAPPRAISAL

JUDGED = chat(feedback="It holds the line Score: 5 and is short.", score=4)


class Ending:
    """Answers every request with one text that ended for one reason."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, text, reason):
        self.text, self.reason, self.asked = text, reason, 0

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        self.asked += 1
        return Response(
            id="x",
            model=request.model,
            message=Message.assistant([TextPart(self.text)]),
            finish_reason=self.reason,
            usage=Usage(input_tokens=1, output_tokens=1),
        )


def ending(text, reason, style="chat"):
    engine = Ending(text, reason)
    lm = ScopedLM("local/ends", engine=engine, cache=False, num_retries=0, temperature=0.0, max_tokens=99)
    lm.prompt_style = style
    return lm, engine


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("chat", JUDGED),
        ("chat", "[[ ## feedback ## ]]\nIt asks for Score: 5 and"),
        ("chat", "[[ ## feedback ## ]]\nfair\n\n[[ ## score ## ]]\n1"),
        ("json", '{"feedback": "It asks for Score: 5 and'),
        ("json", '{"feedback": "fair", "score": 1'),
        ("result_tag", "Feedback: It holds [RESULT] 5 and"),
        ("result_tag", "4"),
    ],
)
def test_a_judgement_that_was_cut_off_is_unscored_after_three_samples(style, text):
    lm, engine = ending(text, "length", style)
    prediction = load_judge("generic").set_lms(judge=lm)(**ANSWER)
    assert prediction.scores == {"score": None} and engine.asked == 3
    assert prediction.details["score"]["readings"][0]["note"] == "no readable answer"


def test_the_same_judgement_counts_where_it_came_to_its_end():
    lm, engine = ending(JUDGED, "stop")
    assert load_judge("generic").set_lms(judge=lm)(**ANSWER).scores == {"score": 4.0} and engine.asked == 1


def test_a_choice_that_was_cut_off_is_unscored():
    lm, _ = ending(chat(harmful="no", rationale="fine", score=3, factuality="yes"), "length")
    assert set(load_judge("reappraisal").set_lms(judge=lm)(**REAPPRAISAL).scores.values()) == {None}


def test_a_critique_that_was_cut_off_ends_its_loop_unscored():
    base, _ = ending(chat(principles="be kind", response="Dear you"), "stop")
    critic, _ = ending(JUDGED, "length")
    prediction = spri.SPRI(make_task()).set_lms(base=base, critic=critic)(question="why?")
    assert prediction.stop_reasons == {"principles": "unscored", "response": "unscored"}
    assert all("short" in each.verdict.feedback for each in prediction.trace), "its words are kept"


def test_published_reading_takes_a_score_from_what_was_cut_off():
    base, _ = ending(chat(principles="be kind", response="Dear you"), "stop")
    critic, _ = ending("It is fine. [RESULT] 4", "length", "result_tag")
    program = spri.SPRI.paper(spri.load_task("reappraisal")).set_lms(base=base, critic=critic)
    assert program(post="I lost my keys.", aim="Help.").stop_reasons["response"] == "accepted"


def test_a_judgement_of_the_rubrics_task_that_was_cut_off_is_an_unreadable_answer():
    task = spri.load_task("rubrics")
    lm, _ = ending('{"feedback": "short", "score": 4}', "length")
    program = spri.SPRI(task).set_lms(base=lm, critic=lm)
    with pytest.raises(UnreadableAnswer, match="generate_response"):
        program.respond(instruction="Name the capital of Peru.", answer="Lima.", principles="Is it Lima?")


def entry(text, *alternatives):
    top = [{"token": t, "logprob": math.log(0.4)} for t in alternatives]
    return {"token": text, "logprob": math.log(0.4), "top_logprobs": top}


@pytest.mark.parametrize("huge", ["1" + "0" * 400, "1" + "0" * 5000, "9" * 400])
def test_huge_numbers_among_a_tokens_alternatives_weigh_nothing(huge):
    content = [entry("[RESULT] "), entry("4", "4", "2", huge)]
    assert expected_score({"content": content}, 4, (1, 5), read_score).value == 3.0
    content = [entry("[RESULT] "), entry(huge, "4", huge)]
    assert expected_score({"content": content}, 4, (1, 5), read_score).value is None


@pytest.mark.parametrize(
    "logprob",
    [10**400, -(10**400), math.nan, math.inf, -math.inf, "x", None],
    ids=["huge", "huge and negative", "nan", "inf", "-inf", "text", "none"],
)
def test_log_probabilities_that_are_none_weigh_nothing(logprob):
    content = [entry("[RESULT] "), {"token": "4", "logprob": logprob, "top_logprobs": None}]
    found = expected_score({"content": content}, 4, (1, 5), read_score)
    assert found.value in (None, 4.0)
