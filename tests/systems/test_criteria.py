"""Criteria as lists, shares of yes, and scores: what systems with criteria of their own are made of."""

import pytest

from spri_dspy.systems._criteria import Met, Scored, lines_of, scored, share_of


@pytest.mark.parametrize(
    "text",
    [
        "1. Is it short?\n2. Is it true?",
        "- Is it short?\n* **Is it true?**",
        "Here are the questions:\n\n(1) Is it short?\n(2) Is it true?\nGood luck",
        "Q1: Is it short?\nQ2. Is it true?\nQ3: is it true?",
        '["Is it short?", "Is it true?"]',
    ],
)
def test_lists_are_read_in_any_shape(text):
    assert lines_of(text, 10) == ["Is it short?", "Is it true?"]


def test_lists_keep_the_first_items_and_need_words():
    assert lines_of("Names a sea\n---\nCriteria:\n7\nNames a river", 10) == ["Names a sea", "Names a river"]
    assert lines_of("Names a sea\n3 rivers at most", 5) == ["Names a sea", "3 rivers at most"]
    assert lines_of("aa\nbb\ncc", 2) == ["aa", "bb"]


def test_share_leaves_out_what_could_not_be_read():
    assert share_of([True, None, False, True]) == pytest.approx(2 / 3)
    assert share_of([True, None, False], [3, 90, 1]) == pytest.approx(3 / 4)
    assert share_of([None, None]) is None and share_of([]) is None


def test_score_is_the_share_on_the_scale_of_the_task():
    found = scored(["short", "true", "kind"], [Met(True, "it is\nbrief"), Met(False, ""), Met(None, "")], 0.5)
    assert found == Scored(feedback="yes: short (it is brief)\nno: true\nnot read: kind", score=3)
    assert [scored([], [], share).score for share in (0.0, 1.0, None)] == [1, 5, None]
