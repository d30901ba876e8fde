"""Expected scores from log probabilities: the token that decides, its alternatives, and what to say without them."""

import math

import pytest

import spri_dspy as spri
from spri_dspy.adapters import style
from spri_dspy.judges import load_judge
from spri_dspy.judges.logprobs import expected_score
from tests.judge_parts import ANSWER, answered, logprob_lm, rated


def test_logprobs_give_the_expected_score():
    tokens = ["Feedback: good. ", "[RESULT]", (" 4", {" 4": 0.6, " 5": 0.2, "4": 0.1, " the": 0.1})]
    judge = load_judge("generic", logprobs=True)
    lm, engine = logprob_lm(tokens, "result_tag")
    reading = judge.set_lms(judge=lm)(**ANSWER).details["score"]["readings"][0]
    assert engine.asked == [20]
    assert reading["by"] == "logprobs" and reading["said"] == 4
    assert reading["value"] == pytest.approx((4 * 0.7 + 5 * 0.2) / 0.9, abs=1e-6)
    assert reading["mass"] == pytest.approx(0.9, abs=1e-6)


def test_logprobs_are_averaged_over_samples():
    tokens = ["[RESULT] ", ("4", {"4": 0.5, "2": 0.5})]
    judge = load_judge("generic", logprobs=5, samples=2)
    lm, engine = logprob_lm(tokens, "result_tag")
    assert judge.set_lms(judge=lm)(**ANSWER).scores == {"score": 3.0}
    assert engine.asked == [5, 5]


def test_plain_score_stands_and_says_so_without_logprobs():
    judge = load_judge("generic", logprobs=True)
    answered(judge, generic_score=rated(4))
    reading = judge(**ANSWER).details["score"]["readings"][0]
    assert (reading["value"], reading["by"], reading["note"]) == (4.0, "score", "the LM gave no logprobs")


def test_fence_in_the_tokens_that_the_content_lacks_is_no_hindrance():
    tokens = ["```json\n", '{"feedback": "see 5 and 4", "score": ', ("4", {"4": 0.5, "1": 0.5}), "}\n```"]
    judge = load_judge("generic", logprobs=True)
    lm, _ = logprob_lm(tokens, "json", content='{"feedback": "see 5 and 4", "score": 4}')
    reading = judge.set_lms(judge=lm)(**ANSWER).details["score"]["readings"][0]
    assert (reading["value"], reading["by"]) == (2.5, "logprobs")


def test_sampled_token_missing_from_its_alternatives_is_added():
    tokens = ["[RESULT] ", ("4", {"5": 0.25, "x": 0.5})]
    judge = load_judge("generic", logprobs=True)
    lm, _ = logprob_lm(tokens, "result_tag", sampled=0.25)
    assert judge.set_lms(judge=lm)(**ANSWER).scores == {"score": 4.5}


def entry(text, **top):
    """A token with its alternatives, as probabilities; a leading underscore stands for nothing."""
    alternatives = {k.removeprefix("_"): p for k, p in top.items()}
    items = [{"token": t, "logprob": math.log(p)} for t, p in alternatives.items()]
    return {"token": text, "logprob": math.log(alternatives.get(text, 0.01)), "top_logprobs": items}


def ten(text):
    """Read a score of ten, in the style of tagged critics."""
    signature = load_judge("reappraisal").criteria["alignment"].signature
    return style("result_tag").parse(signature, text)["score"]


@pytest.mark.parametrize(
    ("tokens", "score", "value"),
    [
        # one token a number: "1" is 1
        ([entry("8", _8=0.5, _1=0.2, _10=0.3)], 8, (8 * 0.5 + 1 * 0.2 + 10 * 0.3) / 1.0),
        ([entry("10", _10=0.5, _1=0.5)], 10, 5.5),
        # one token a digit: what follows "1" tells 1 from 10
        ([entry("1", _1=0.8, _9=0.2), entry("0", _0=0.75, _2=0.0001)], 10, None),
        # "1" not sampled and no "10" to be seen: it may be the start of 10, and is left out
        ([entry("8", _8=0.5, _1=0.25, _9=0.25)], 8, (8 * 0.5 + 9 * 0.25) / 0.75),
    ],
)
def test_scores_of_two_digits_are_told_from_their_first(tokens, score, value):
    content = [entry("well said [RESULT] "), *tokens]
    found = expected_score({"content": content}, score, (1, 10), ten)
    if value is None:
        one, tenth, nine = 0.8 * (1 - 0.75 - 0.0001), 0.8 * 0.75, 0.2
        value = (one + 10 * tenth + 9 * nine) / (one + tenth + nine)
    assert found.value == pytest.approx(value, abs=1e-5)


def test_number_that_decides_is_found_among_others():
    text = ["Score: 4 would be kind. ", "In the end: [RESULT] ", "2"]
    content = [entry(text[0]), entry(text[1]), entry("2", _2=0.5, _4=0.5)]
    assert expected_score({"content": content}, 2, (1, 5), spri.read_score).value == 3.0


@pytest.mark.parametrize(
    ("logprobs", "score", "note"),
    [
        (None, 4, "the LM gave no logprobs"),
        ({"content": []}, 4, "the LM gave no logprobs"),
        ({"content": [entry("[RESULT] 3")]}, 4, "the score's token was not found"),
        ({"content": [entry("[RESULT] 4 of 4")]}, 4, "the score's token was not found"),
    ],
)
def test_expected_score_says_why_there_is_none(logprobs, score, note):
    found = expected_score(logprobs, score, (1, 5), spri.read_score)
    assert (found.value, found.note) == (None, note)


def test_real_server_gives_logprobs(llama_url):
    lm = f"hosted_vllm/tiny?api_base={llama_url}&format=json&max_tokens=300&max_chars=30&temperature=1&seed=1"
    judge = load_judge("generic", logprobs=True).set_lms(judge=lm)
    reading = judge(**ANSWER).details["score"]["readings"][0]
    assert reading["by"] == "logprobs", reading
    assert isinstance(reading["value"], float) and 1 <= reading["value"] <= 5
    assert 0 < reading["mass"] < 1
