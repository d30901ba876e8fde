"""The stand-in does honest text work: it names what is missing, adds it, and copies layouts."""

from typing import Literal

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spri_dspy as spri
from spri_dspy.tasks.reappraisal import GENERAL_AIM
from tests.data import data_file, rows
from tests.lms.stand_in import POST, STYLES, Judgement, Rubric, ask, named

WORDS = ("exam", "father", "boss", "lesson", "car", "money", "shift", "quarrel", "kitchen", "letter", "rent")


def principles_for(post, **more):
    return ask("generate_principles", user_input=post, **more).principles


@pytest.mark.parametrize("style", [*STYLES, "result_tag"])
def test_refinement_contains_what_the_feedback_named_and_scores_higher(style):
    principles = "- Be kind to their father.\n- Keep it short."
    verdict = ask("critique_principles", style, user_input=POST, principles=principles)
    words = named(verdict.feedback)
    assert words and not any(word in principles for word in words)
    inputs = {"user_input": POST, "principles": principles, "feedback": verdict.feedback}
    better = ask("refine_principles", style, **inputs).improved_principles
    assert all(word in better for word in words)
    assert all(line in better for line in principles.splitlines())
    assert ask("critique_principles", style, user_input=POST, principles=better).score > verdict.score


def test_refinement_takes_up_a_word_of_a_free_feedback():
    feedback = "Good start, but say something about the boss as well."
    inputs = {"user_input": POST, "principles": "- Name the father."}
    assert "my boss" in ask("refine_principles", **inputs, feedback=feedback).improved_principles


def test_response_takes_up_every_principle_and_is_judged_by_them():
    inputs = {
        "user_input": POST,
        "principles": '- Name "the examiner".\n- Offer one step towards their father.\n- Ask about "the next lesson".',
    }
    response = ask("generate_response", **inputs).response
    assert all(said in response for said in ("examiner", "my father", "lesson"))
    kept, ignored = (ask("critique_response", **inputs, response=r) for r in (response, "Buy cheese."))
    assert kept.score >= 4 and ignored.score == 1
    assert named(ignored.feedback)[0] in POST


@pytest.mark.parametrize("style", STYLES)
def test_rubric_is_a_ladder_about_the_instruction_and_takes_up_what_was_missing(style):
    write, rewrite = (
        dspy.Signature(f"instruction{more} -> {out}", "Write it.").with_updated_fields(out, type_=Rubric)
        for more, out in (("", "principles"), (", principles, feedback", "improved_principles"))
    )
    first = ask(write, style, instruction=POST).principles
    assert "father" in first.criteria
    assert len({*first.model_dump().values()}) == 6
    feedback = 'It takes up "my father". It does not mention "the next lesson" or "my boss".'
    inputs = {"instruction": POST, "principles": first.model_dump_json(), "feedback": feedback}
    second = ask(rewrite, style, **inputs).improved_principles
    assert all(word in second.score5_description for word in ("father", "lesson", "boss"))


class Judge(dspy.Signature):
    """Judge."""

    instruction: str = dspy.InputField()
    candidate_response: str = dspy.InputField()
    rubric: str = dspy.InputField()
    reference_answer: str = dspy.InputField()
    feedback: str = dspy.OutputField()
    harmful: Literal["yes", "no"] = dspy.OutputField()
    factual: Literal["yes", "minor error", "no"] = dspy.OutputField()
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
    texts = ("The tax office opens at nine.", "Use a teapot and leaves.", reference)
    verdicts = [ask(Judge, **inputs, candidate_response=text) for text in texts]
    scores = [verdict.score for verdict in verdicts]
    assert scores == sorted(scores)
    assert scores[0] == 1 and scores[2] >= 4
    assert [v.factual for v in (verdicts[0], verdicts[2])] == ["no", "yes"]
    assert {v.harmful for v in verdicts} == {"no"}


@pytest.mark.parametrize("style", STYLES)
def test_judgement_object_judges_the_answer_also_when_it_is_improved(style):
    inputs = {
        "instruction": "Describe the harbour, the market and the bridge.",
        "rubric": "Does it name the market?",
    }
    judge = dspy.Signature("instruction, answer, rubric -> response", "Judge.")
    judge = judge.with_updated_fields("response", type_=Judgement)
    market = "The market and the harbour."
    good, bad = (ask(judge, style, **inputs, answer=text).response for text in (market, "It rains."))
    assert good.score > bad.score
    assert "market" in good.feedback
    improve = dspy.Signature(
        "instruction, answer, rubric, response, feedback -> improved_response", "Improve it."
    )
    improve = improve.with_updated_fields("improved_response", type_=Judgement)
    inputs |= {
        "answer": market,
        "response": good.model_dump_json(),
        "feedback": 'It does not mention "the weather".',
    }
    better = ask(improve, style, **inputs).improved_response
    assert better.score == good.score
    assert '"the weather"' in better.feedback


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60))
def test_refining_never_lowers_the_score(words):
    pairs = zip(words, words[::-1], strict=True)
    post = "I wrote this for me. " + ". ".join(f"My {word} and the {other}" for word, other in pairs)
    principles, scores = principles_for(post), []
    for _ in range(3):
        verdict = ask("critique_principles", user_input=post, principles=principles)
        scores.append(verdict.score)
        inputs = {"user_input": post, "principles": principles, "feedback": verdict.feedback}
        principles = ask("refine_principles", **inputs).improved_principles
    assert scores == sorted(scores)


def test_program_over_real_posts_shows_a_mix_of_first_scores_that_rise():
    program = spri.SPRI(spri.load_task("reappraisal"))
    posts = [row["post"] for row in rows(data_file("reappraisal/pool_400.jsonl"))[:80]]
    traces = [program(post=post, aim=GENERAL_AIM).trace for post in posts]
    for stage in ("principles", "response"):
        scores = [[r.verdict.score for r in trace if r.stage == stage] for trace in traces]
        assert 0.3 < sum(s[0] >= 4 for s in scores) / len(scores) < 0.75
        assert len({s[0] for s in scores}) > 1
        assert all(s == sorted(s) and s[-1] >= 4 and len(s) <= 3 for s in scores)
