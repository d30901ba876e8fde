"""Scoring by a rubric for each instruction, below every tool."""

import asyncio
import json

import pytest

from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.integrations.rubric_scoring import RubricScorer, Scoring
from spri_dspy.lms.replay import replay_lm
from spri_dspy.lms.spec import CALL
from tests.factories import chat, critique, post_server
from tests.servers.openai_mock import MockConfig

RUBRIC = "Is the bird quiet?\n" + "\n".join(f"Score {n}: level {n}" for n in range(1, 6))
WRITTEN = {"criteria": "Is it quiet?"} | {f"score{n}_description": f"level {n}" for n in range(1, 6)}


class Recording:
    """Writes every rubric at once and gives every answer the same score; keeps the stages that were asked."""

    def __init__(self, score=4, fails_at=None):
        self.stages, self.prompts, self.score, self.fails_at = [], [], score, fails_at

    def answer(self, request):
        stage = CALL.get().stage
        self.stages.append(stage)
        self.prompts.append(request.messages[-1].text)
        if stage == self.fails_at:
            raise CallError("the recording fails here")
        if stage == "generate_principles":
            return chat(principles=json.dumps(WRITTEN))
        return (
            critique(5) if stage.startswith("critique") else chat(feedback="quiet enough", score=self.score)
        )


def test_a_rubric_for_everything_needs_one_call_an_answer():
    said = Recording(score=2)
    scorer = RubricScorer(RUBRIC, judge=replay_lm(said))
    scorings = scorer.score([("Name a quiet bird.", "The bittern."), ("Name another.", "The crake.")])
    assert scorings == [Scoring(2.0, "quiet enough", RUBRIC)] * 2
    assert scorings[0].share == 0.25
    assert len(said.stages) == 2


def test_a_written_rubric_is_written_once_for_all_answers_to_its_instruction():
    said = Recording()
    scorer = RubricScorer(judge=replay_lm(said))
    pairs = [("Name a quiet bird.", f"Bird {n}.") for n in range(4)] + [("Name a loud bird.", "The jay.")]
    assert [s.value for s in scorer.score(pairs)] == [4.0] * 5
    assert scorer.score(pairs[:1])[0].value == 4.0  # in an event loop of its own, with the rubric of before
    assert said.stages.count("generate_principles") == 2
    assert sum("Is it quiet?" in p for p in said.prompts) >= 6


def test_failed_calls_and_empty_answers_are_missing_with_their_reason():
    scorer = RubricScorer(RUBRIC, judge=replay_lm(Recording(fails_at="rubric_score")))
    failed, empty = scorer.score([("Name a bird.", "The jay."), ("Name a bird.", " ")])
    assert (failed.value, failed.share, failed.rubric) == (None, None, RUBRIC)
    assert "the recording fails here" in failed.explanation
    assert (empty.value, empty.explanation) == (None, "the answer is empty")


def test_an_unreadable_score_is_missing():
    scorer = RubricScorer(RUBRIC, judge="offline?unscored_rate=1")
    assert [s.value for s in scorer.score([("Name a bird.", "The jay.")])] == [None]


def test_a_rubric_that_cannot_be_written_leaves_its_answers_without_a_score():
    scorer = RubricScorer(judge=replay_lm(Recording(fails_at="generate_principles")))
    found = scorer.score([("Name a bird.", "The jay."), ("Name a bird.", "The owl.")])
    assert [s.value for s in found] == [None, None]
    assert found[0].rubric is None


def test_the_reference_is_shown_to_the_judge_alone():
    said = Recording()
    scorer = RubricScorer(judge=replay_lm(said))
    asyncio.run(scorer.ascore("Name a quiet bird.", "The jay.", "SECRET BITTERN"))
    shown = [stage for stage, prompt in zip(said.stages, said.prompts, strict=True) if "SECRET" in prompt]
    assert shown == ["rubric_score"]


def test_a_wrong_key_stops_everything(start_mock):
    server = start_mock(MockConfig(api_key="another-key"))
    scorer = RubricScorer(RUBRIC, judge=post_server(server.base_url))
    with pytest.raises(PrerequisiteError, match="every call would fail"):
        scorer.score([("Name a bird.", "The jay.")])


@pytest.mark.parametrize(
    ("given", "settings", "said"),
    [
        ({"criteria": "Is it?"}, {}, "a rubric is a text"),
        (RUBRIC, {"base": "offline"}, "leave them out"),
        (RUBRIC, {"concurrency": 0}, "at least 1"),
        (RUBRIC, {"samples": 0}, "samples"),
        ("no-such-file.jsonl", {}, "no-such-file.jsonl"),
    ],
)
def test_wrong_arguments_get_one_line(given, settings, said):
    with pytest.raises(UsageError, match=said) as caught:
        RubricScorer(given, judge="offline", **settings)
    assert "\n" not in str(caught.value)
