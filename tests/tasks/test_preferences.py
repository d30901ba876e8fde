"""Rows of preferences: votes become shares, bad votes are refused by name."""

import pytest

import spri_dspy as spri
from tests.data import data_file, rows

TASK = spri.load_task("rubrics")


def examples(**row):
    return list(TASK.examples([{"id": "p", "instruction": "i", "responses": ["a", "b"], **row}]))


def shares(**row):
    return [example.label_values.get("preference") for example in examples(**row)]


def test_winner_has_all_votes():
    assert shares(preferred=2) == [0, 1] and shares(preferred="1") == [1, 0]
    assert shares(preferred=0) == [0.5, 0.5]
    assert shares(preferred=3, responses=["a", "b", "c"]) == [0, 0, 1]


def test_votes_of_annotators_are_shares_and_a_tie_is_everybodys():
    assert shares(annotators=[1, 1, 2, 0]) == [0.625, 0.375]
    assert shares(annotators=[0, 0]) == [0.5, 0.5]
    assert shares(annotators=[1, 0, 3], responses=["a", "b", "c"]) == pytest.approx(
        [0.444444, 0.111111, 0.444444]
    )


def test_most_and_least_preferred_are_the_sides():
    first, second = examples(annotators=[2, 2, 1])
    assert first.label_values["preferred_response"] == second.label_values["preferred_response"] == "b"
    assert first.label_values["rejected_response"] == "a"
    assert (first.cluster, first.answer, second.answer) == ("p", "a", "b")
    assert "preferred_response" not in examples(annotators=[1, 2])[0].label_values


def test_rows_without_preferences_have_no_such_labels():
    assert examples()[0].label_values == {}


def test_pair_without_answers_is_one_example_with_its_sides():
    row = {"responses": None, "preferred_response": "good", "rejected_response": "bad"}
    (example,) = examples(**row)
    assert example.input_values == {"instruction": "i"}
    assert example.label_values == {"preferred_response": "good", "rejected_response": "bad"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"preferred": 3}, "a number from 0 to 2"),
        (
            {"preferred": 1.5},
            "a vote in 'preferred' must be the place of an answer, from 1, or 0 for a tie, not 1.5",
        ),
        ({"annotators": [1, None]}, "a vote in 'annotators' must be the place .* not None"),
        ({"annotators": []}, "'annotators' must be a list of votes"),
        ({"annotators": 1}, "'annotators' must be a list of votes, not int"),
        ({"preferred": 1, "responses": ["a"]}, "'preferred' says who won, and there is no second answer"),
        ({"preferred_response": "good"}, "belong together; one of them is empty"),
    ],
)
def test_bad_votes_are_refused(row, said):
    with pytest.raises(spri.UsageError, match=said):
        examples(**row)


@pytest.mark.parametrize(("name", "n"), [("llmbar_419", 419), ("pandalm_999", 939)])
def test_every_real_pair_of_two_texts_is_read(name, n):
    pairs = rows(data_file(f"judging/{name}.jsonl"))
    pairs = [row for row in pairs if all(isinstance(each, str) and each for each in row["responses"])]
    found = list(TASK.examples(pairs))
    assert len(found) == 2 * n
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.label_values["preference"] + second.label_values["preference"] == pytest.approx(1)
        assert first.cluster == second.cluster


def test_input_of_an_instruction_is_shown_with_it():
    assert examples(input="the text")[0].instruction == "i\n\nthe text"
