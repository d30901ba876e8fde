"""The stand-in does honest text work: it names what is missing, adds it, and copies layouts."""

import re
from typing import Literal

import dspy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import data_file, rows
from tests.lms.stand_in import (
    POST,
    STYLES,
    Critique,
    CritiqueResponse,
    Draft,
    Refine,
    Respond,
    Rubric,
    ask,
    named,
)

WORDS = ("exam", "father", "boss", "lesson", "car", "money", "shift", "quarrel", "kitchen", "letter", "rent")


@pytest.mark.parametrize("style", STYLES)
def test_rubric_is_a_ladder_about_the_instruction_and_takes_up_what_was_missing(style):
    draft, refine = (
        s.with_updated_fields(name, type_=Rubric)
        for s, name in ((Draft, "principles"), (Refine, "improved_principles"))
    )
    first = ask(draft, style, post=POST, aim="").principles
    assert "father" in first.criteria
    assert len({*first.model_dump().values()}) == 6
    feedback = "It takes up father. It does not mention: lesson, boss."
    inputs = {"post": POST, "aim": "", "principles": first.model_dump_json(), "feedback": feedback}
    second = ask(refine, style, **inputs).improved_principles
    assert all(word in second.score5_description for word in ("father", "lesson", "boss"))


def test_refinement_contains_what_the_feedback_named_and_scores_no_lower():
    inputs = {"post": POST, "aim": ""}
    principles = "- Be kind to their father.\n- Keep it short."
    verdict = ask(Critique, **inputs, principles=principles)
    words = named(verdict.feedback)
    assert words
    assert not any(word in principles for word in words)
    better = ask(Refine, **inputs, principles=principles, feedback=verdict.feedback).improved_principles
    assert all(word in better for word in words)
    assert better.startswith(principles)
    again = ask(Critique, **inputs, principles=better)
    assert again.score > verdict.score


def test_refinement_takes_up_a_word_of_a_free_feedback():
    feedback = "Good start, but say something about the boss as well."
    better = ask(Refine, post=POST, aim="", principles="- Name the father.", feedback=feedback)
    assert "their boss" in better.improved_principles


def test_words_are_said_with_what_stood_before_them():
    draft = ask(Draft, post="I lost my new job, my keys and the driving test.", aim="").principles
    assert all(said in draft for said in ("their job", "their keys", "the driving test"))


def test_refinement_stays_within_the_stated_words():
    long = "\n".join(
        f"- Repeat item {i} with many more words than anybody would ever read here." for i in range(30)
    )
    verdict = ask(Critique, post=POST, aim="", principles=long)
    assert "128 is the limit" in verdict.feedback
    better = ask(Refine, post=POST, aim="", principles=long, feedback=verdict.feedback).improved_principles
    assert len(better.replace("- ", "").split()) <= 128
    assert all(word in better for word in named(verdict.feedback))


def test_response_speaks_to_the_reader_about_every_principle():
    principles = "- Name the examiner.\n- Offer one step towards their father.\n- Ask about the lesson."
    response = ask(Respond, post=POST, principles=principles).response
    assert all(word in response for word in ("examiner", "your father", "lesson", "you"))
    verdict = ask(CritiqueResponse, post=POST, principles=principles, response=response)
    ignored = ask(CritiqueResponse, post=POST, principles=principles, response="Buy cheese.")
    assert (verdict.score, ignored.score) == (5, 1)
    assert named(ignored.feedback) == ["examiner", "father"]


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        (
            "1. Naming the tea.\n2. Keeping it warm.\n3. Ending early.",
            r"1\. \w+ing [^\n]+\n2\. \w+ing [^\n]+\n3\. .+",
        ),
        ("* Pour.\n* Wait.\n* Serve.\n* Leave.", r"(\* [A-Z][^\n]+(\n|$)){4}"),
        ("It should be warm. It should be short. Stop.", r"(The response should [^\n]+?\.\s?){3}"),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_draft_copies_the_layout_of_the_nearest_demo_and_none_of_its_words(style, shape, pattern):
    near = dspy.Example(post="My father shouted in the car after the driving test.", aim="", principles=shape)
    far = dspy.Example(post="Cheese, olives and bread.", aim="", principles="Taste")
    draft = ask(Draft, style, post=POST, aim="", demos=[far, near]).principles
    assert re.fullmatch(pattern, draft)
    assert not re.search(r"tea|warm|Pour|Taste", draft)


class Judge(dspy.Signature):
    """Judge."""

    instruction: str = dspy.InputField()
    candidate_response: str = dspy.InputField()
    rubric: str = dspy.InputField()
    reference_answer: str = dspy.InputField()
    feedback: str = dspy.OutputField()
    score: Literal[1, 2, 3, 4, 5] = dspy.OutputField()


def test_judge_prefers_a_response_that_shares_the_reference():
    reference = (
        "Boil the kettle, warm the teapot, add the leaves, wait four minutes, and pour through a strainer."
    )
    inputs = {
        "instruction": "Explain how to make tea with loose leaves and a teapot.",
        "rubric": "Does it deal with the leaves, the teapot and the waiting?",
        "reference_answer": reference,
    }
    scores = [
        ask(Judge, **inputs, candidate_response=text).score
        for text in ("The tax office opens at nine.", "Use a teapot and leaves.", reference)
    ]
    assert scores == sorted(scores)
    assert scores[0] == 1
    assert scores[2] == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60))
def test_refining_never_lowers_the_score(words):
    post = "I wrote this for me. " + ". ".join(
        f"My {word} and the {other}" for word, other in zip(words, words[::-1], strict=True)
    )
    principles = ask(Draft, post=post, aim="").principles
    scores = []
    for _ in range(3):
        verdict = ask(Critique, post=post, aim="", principles=principles)
        scores.append(verdict.score)
        principles = ask(
            Refine, post=post, aim="", principles=principles, feedback=verdict.feedback
        ).improved_principles
    assert scores == sorted(scores)


def test_loop_over_real_posts_shows_a_mix_of_first_scores_that_rise():
    posts = [row["post"] for row in rows(data_file("reappraisal/pool_400.jsonl"))[:80]]
    aim, first, last = "Help the narrator to see the situation in another way.", [], []
    for post in posts:
        principles = ask(Draft, post=post, aim=aim).principles
        verdict = ask(Critique, post=post, aim=aim, principles=principles)
        first.append(verdict.score)
        for _ in range(3):
            if verdict.score < 4:
                inputs = {"post": post, "aim": aim, "principles": principles, "feedback": verdict.feedback}
                principles = ask(Refine, **inputs).improved_principles
                verdict = ask(Critique, post=post, aim=aim, principles=principles)
        last.append(verdict.score)
    assert 0.3 < sum(score >= 4 for score in first) / len(first) < 0.8
    assert len(set(first)) > 2
    assert sum(score >= 4 for score in last) / len(last) > 0.9
    assert all(after >= before for before, after in zip(first, last, strict=True))


class Judgement(pydantic.BaseModel):
    feedback: str
    score: Literal[1, 2, 3, 4, 5]


@pytest.mark.parametrize("style", STYLES)
def test_judgement_object_judges_the_answer_also_when_it_is_improved(style):
    inputs = {
        "instruction": "Describe the harbour, the market and the bridge.",
        "rubric": "Does it name the market?",
    }
    asked = dspy.Signature("instruction, answer, rubric -> response", "Judge.")
    judge = asked.with_updated_fields("response", type_=Judgement)
    good, bad = (
        ask(judge, style, **inputs, answer=text).response
        for text in ("The market and the harbour.", "It rains.")
    )
    assert good.score > bad.score
    assert "market" in good.feedback
    again = dspy.Signature(
        "instruction, answer, rubric, response, feedback -> improved_response", "Improve it."
    )
    improve = again.with_updated_fields("improved_response", type_=Judgement)
    better = ask(
        improve,
        style,
        **inputs,
        answer="The market and the harbour.",
        response=good.model_dump_json(),
        feedback="It does not mention: weather.",
    ).improved_response
    assert better.score == good.score
    assert 'It does not speak of "weather".' in better.feedback
