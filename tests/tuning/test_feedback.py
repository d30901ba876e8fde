"""What a reflecting LM is told: how far off, in which direction, why, and what the experts ask for that is missing."""

import re

import pytest

from spri_dspy.metrics import Metric
from spri_dspy.records import Score
from spri_dspy.tuning.feedback import as_text, feedback, missed
from spri_dspy.tuning.surrogate import fit

PEARSON = Metric("pearson", "pearson", lambda example, prediction: None, label="human_score")
MEAN = Metric("mix", "mean", lambda example, prediction: None)
LIKE = [
    Score(str(i), float(v), float(h), "a")
    for i, (v, h) in enumerate([(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)])
]
RUBRIC = {
    "criteria": "Does the answer give the quantities for twelve?",
    "score1_description": "Gives them for six.",
    "score5_description": "Gives six eggs and no cinnamon.",
}


def told(metric, score, **parts):
    return feedback(metric, fit(metric, LIKE), score, **{"labels": {}, "outputs": {}, **parts})


@pytest.mark.parametrize(
    ("value", "label", "said"),
    [
        (
            5.0,
            2.0,
            "scored 5 where 2 is right: 3 too high. .* belongs below the middle; the score puts it near the top",
        ),
        (
            1.0,
            4.5,
            "scored 1 where 4.5 is right: 3.5 too low. .* belongs near the top; the score puts it near the bottom",
        ),
        (3.0, 3.0, "scored 3 where 3 is right: as it should be. .* that is where the score puts it"),
    ],
)
def test_a_correlation_is_told_the_gap_and_the_order(value, label, said):

    assert re.search(said, told(PEARSON, Score("x", value, label, "a")))


def test_a_mean_is_told_what_is_usual():
    assert "rated 2 for mix; at present 3 is usual, and more is better" in told(MEAN, Score("x", 2.0))


def test_what_has_no_number_is_told_so():
    assert (
        told(PEARSON, Score("x", None, 3.0, "a"))
        == "No result came of this input that could be read or judged."
    )
    assert "nobody said what would have been right" in told(PEARSON, Score("x", 3.0, None, "a"))
    assert told(PEARSON, Score("x", 5.0, 2.0, "elsewhere")).endswith("3 too high.")


def test_the_judges_reasons_are_passed_on_but_not_at_any_length():
    said = told(MEAN, Score("x", 2.0), reasons="It is cold. " * 200)
    assert "Feedback: It is cold." in said and len(said) < 900


def test_only_what_the_principles_leave_out_is_told():
    labels = {
        "standards": "- Weigh chance against guilt.\n- Offer a step for tomorrow morning.",
        "rubric": RUBRIC,
    }
    said = told(
        MEAN,
        Score("x", 2.0),
        labels=labels,
        outputs={"principles": "Weighing chance against the guilt felt."},
    )
    assert "the standards that results are judged by ask for it:\n- Offer a step for tomorrow morning" in said
    assert "Weigh chance" not in said
    assert "the rubric that experts wrote" in said and "quantities for twelve" in said


def test_missed_lines_are_few_and_those_with_most_to_say_come_first():
    wanted = "\n".join(f"{'alpha beta gamma delta ' * n}epsilon{n}" for n in range(1, 9))
    found = missed(wanted, "")
    assert len(found) == 4
    assert missed("Mind the lantern and the harbour.", "the harbour lanterns, mind them") == []


def test_rubrics_are_told_by_their_criteria_and_best_level():
    assert (
        as_text(RUBRIC) == "Does the answer give the quantities for twelve?\nGives six eggs and no cinnamon."
    )
    assert as_text(["one", {"a": 1}]) == 'one\n{"a": 1}'
