"""Rows of the rubrics task: every shape in which answers and rubrics come, and what cannot be read."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spri_dspy as spri
from spri_dspy.errors import DataError
from spri_dspy.tasks.rubrics import Judgement, Rubric

LEVELS = {f"score{n}_description": f"it names {n} of the five" for n in range(1, 6)}
RUBRIC = {"criteria": "Does it name the five?", **LEVELS}
ASKED = {"id": "i", "instruction": "Name a fruit."}


@pytest.fixture(scope="module")
def task():
    return spri.load_task("rubrics")


def read(task, **columns):
    """Id and answer of each example of a row."""
    found = list(task.examples([ASKED | columns]))
    assert {e.input_values["instruction"] for e in found} == {ASKED["instruction"]}
    return {e.id: e.input_values.get("answer") for e in found}


READABLE = {
    "no answer": ({}, {"i": None}),
    "nulls": ({"response": None, "responses": None, "answer": None}, {"i": None}),
    "not a number": ({"response": float("nan")}, {"i": None}),
    "response": ({"response": "apple"}, {"i": "apple"}),
    "answer": ({"answer": "apple"}, {"i": "apple"}),
    "model": ({"answer": "apple", "model_name": "m"}, {"i/m": "apple"}),
    "texts": ({"responses": ["apple", "pear"]}, {"i/1": "apple", "i/2": "pear"}),
    "objects": (
        {"responses": [{"response": "apple", "response_source": "m"}, {"answer": "pear"}]},
        {"i/m": "apple", "i/2": "pear"},
    ),
    "mixed": ({"responses": ["apple", {"response": "pear"}]}, {"i/1": "apple", "i/2": "pear"}),
    "sources": ({"responses": {"m": "apple", "n": "pear"}}, {"i/m": "apple", "i/n": "pear"}),
    "sources of objects": (
        {"responses": {"m": {"response": "apple", "human_score": 4}, "n": "pear"}},
        {"i/m": "apple", "i/n": "pear"},
    ),
    "one object": ({"responses": {"response": "apple", "human_score": 4}}, {"i/1": "apple"}),
}


def test_a_reason_beside_a_whole_score_is_what_a_judge_is_to_say(task):
    answers = [
        {"response": "apple", "human_score": 5, "feedback": "A fruit."},
        {"response": "pear", "human_score": 4.5, "feedback": "A fruit."},
        {"response": "plum", "feedback": "A fruit."},
        {"response": "fig", "human_score": 1},
    ]
    found = [e.label_values for e in task.examples([ASKED | {"responses": answers}])]
    assert found == [
        {"human_score": 5, "feedback": "A fruit.", "score": 5},
        {"human_score": 4.5},
        {},
        {"human_score": 1},
    ]


@pytest.mark.parametrize("shape", READABLE)
def test_answers_are_read_in_every_shape_that_a_user_would_write(task, shape):
    columns, expected = READABLE[shape]
    assert read(task, **columns) == expected


REFUSED = {
    "text": (
        {"responses": "apple"},
        "'responses' must be a list of answers or an object {source: answer}, not str",
    ),
    "number": (
        {"responses": 5},
        "'responses' must be a list of answers or an object {source: answer}, not int",
    ),
    "empty list": (
        {"responses": []},
        "the column 'responses' has no answers; leave it out where only a rubric",
    ),
    "empty object": ({"responses": {}}, "the column 'responses' has no answers; leave it out"),
    "null in it": ({"responses": ["apple", None]}, "answer 2 of the column 'responses': it is empty"),
    "number in it": ({"responses": [3]}, "answer 1 of the column 'responses': it must be text, not int"),
    "list in it": (
        {"responses": [["apple"]]},
        "answer 1 of the column 'responses': it must be text, not list",
    ),
    "empty object in it": (
        {"responses": [{}]},
        "answer 1 of the column 'responses': it needs one of 'response' and 'answer'; it has no columns",
    ),
    "other object": (
        {"responses": [{"text": "apple"}]},
        "it needs one of 'response' and 'answer'; it has text",
    ),
    "both names": (
        {"responses": [{"response": "a", "answer": "b"}]},
        "it needs one of 'response' and 'answer'",
    ),
    "empty": ({"response": ""}, "the column 'response' is empty"),
    "blank": ({"answer": ""}, "the column 'answer' is empty"),
    "object": ({"response": {"text": "apple"}}, "the column 'response' must be text, not dict"),
    "two columns": (
        {"response": "apple", "answer": "pear"},
        "'response' and 'answer' both hold answers; leave one",
    ),
    "both": (
        {"answer": "apple", "responses": ["pear"]},
        "'answer' and 'responses' both hold answers; leave one",
    ),
    "score beside": (
        {"responses": ["apple"], "human_score": 3},
        "the column 'human_score' stands beside 'responses'; put it into each of them",
    ),
    "source of a wrong type": (
        {"responses": [{"response": "apple", "response_source": ["m"]}]},
        "the column 'response_source' must be text, not list",
    ),
    "same source": (
        {"responses": [{"response": text, "response_source": "m"} for text in "ab"]},
        "row 1: the id 'i/m' is that of row 1 too; ids must be unique",
    ),
    "score": (
        {"response": "a", "human_score": 7},
        "'human_score' must be a number from 1 to 5, or -1 for none, not 7",
    ),
    "score in words": ({"response": "a", "human_score": "good"}, "or -1 for none, not 'good'"),
    "score as yes": ({"response": "a", "human_score": True}, "or -1 for none, not True"),
    "endless score": ({"response": "a", "human_score": 10**400}, "or -1 for none, not 1000"),
    "scores": (
        {"response": "a", "gpt4_scores": "5"},
        "the column 'gpt4_scores' must be a list of numbers, not str",
    ),
    "score in scores": (
        {"response": "a", "gpt4_scores": [5, 9]},
        "'gpt4_scores' must be a number from 1 to 5",
    ),
    "capability": ({"capability": ["a"]}, "the column 'capability' must be text, not list"),
    "rubric": ({"rubric": 5}, "the column 'rubric': the rubric must be text or an object with criteria, "),
    "rubric list": (
        {"score_rubric": []},
        "the column 'score_rubric': the rubric must be text or an object with",
    ),
    "rubric prose": (
        {"rubric": "be kind"},
        "the column 'rubric': the rubric cannot be read; it needs criteria, ",
    ),
    "rubric level": (
        {"principles": RUBRIC | {"score3_description": 3}},
        "the column 'principles': the rubric cannot be read; it needs criteria",
    ),
    "rubric blank": (
        {"rubric": RUBRIC | {"criteria": " "}},
        "the column 'rubric': criteria of the rubric is empty",
    ),
    "reference": ({"reference_answer": ["x"]}, "the column 'reference_answer' must be text, not list"),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_what_is_no_answer_score_or_rubric_is_refused_with_its_place(task, shape):
    columns, said = REFUSED[shape]
    with pytest.raises(DataError) as refused:
        read(task, **columns)
    assert str(refused.value).startswith("row 1") and said in str(refused.value), refused.value
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("given", "label"), [(4, 4), (4.5, 4.5), ("3", 3), (-1, None), ("-1", None), ("", None)]
)
def test_scores_are_read_as_numbers_and_minus_one_is_none(task, given, label):
    (alone,) = task.examples([ASKED | {"response": "apple", "human_score": given}])
    (listed,) = task.examples([ASKED | {"responses": [{"response": "apple", "human_score": given}]}])
    assert alone.label_values.get("human_score") == listed.label_values.get("human_score") == label


@pytest.mark.parametrize("rubric", [RUBRIC, json.dumps(RUBRIC), str(Rubric(**RUBRIC)), RUBRIC | {"more": 1}])
@pytest.mark.parametrize("column", ["rubric", "score_rubric"])
def test_rubrics_are_labels_in_every_shape(task, column, rubric):
    (example,) = task.examples([ASKED | {column: rubric}])
    assert example.label_values["rubric"] == RUBRIC
    (given,) = task.examples([ASKED | {"principles": rubric}])
    assert given.input_values["principles"] == Rubric(**RUBRIC)


def test_system_prompt_stands_before_the_input(task):
    (example,) = task.examples(
        [{"system_prompt": "Be brief.", "input": "Name a fruit.", "capability": "safety"}]
    )
    assert (example.input_values["instruction"], example.group) == ("Be brief.\n\nName a fruit.", "safety")


def test_table_of_answers_is_read_like_json_lines(task, tmp_path):
    (tmp_path / "a.csv").write_text(
        "id,instruction,model_name,response,human_score\ni,Name a fruit.,m,apple,4\n"
    )
    (example,) = task.examples(tmp_path / "a.csv")
    assert (example.id, example.cluster, example.label_values) == ("i/m", "i", {"human_score": 4})


LINES = "\n".join(
    ["Does it name the five?", *(f"Score {n}: {said}" for n, said in enumerate(LEVELS.values(), 1))]
)
DRAFTS = [f"Score {n}: draft" for n in range(1, 6)]
WRITTEN = {
    "lines": LINES,
    "markup": LINES.replace("Score", "- **Score").replace(":", ":**").replace("Does", "**Criteria:** Does"),
    "brackets": LINES.replace("Score ", "[Score ")
    .replace(": ", "]: ")
    .replace("Does", "[Does")
    .replace("?", "?]"),
    "descriptions": LINES.replace(":", " description:").replace("Does", "# Criterion: Does"),
    "blank lines": LINES.replace("\n", "\n\n\n"),
    "a draft before it": "\n".join(["Does it name the five?", *DRAFTS, *LINES.split("\n")[1:]]),
    "json": json.dumps(RUBRIC),
    "json in prose": f"Here it is:\n```json\n{json.dumps(RUBRIC, indent=1)}\n```\nI hope that it helps.",
    "json cut off": json.dumps(RUBRIC)[:-2],
    "json with slips": str(RUBRIC) + ",",
}


@pytest.mark.parametrize("shape", WRITTEN)
def test_rubric_is_read_in_the_shapes_that_models_write(shape):
    assert Rubric.from_text(WRITTEN[shape]) == Rubric(**RUBRIC)


@pytest.mark.parametrize(
    "text", ["", "be kind", "Score 1: a\nScore 2: b", "{", '{"criteria": "c"}', "[]", "[1]", "{}"]
)
def test_text_that_is_no_rubric_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - what is asked for is just that
        Rubric.from_text(text)


@pytest.mark.parametrize(
    "text", ['{"feedback": "f", "score": 3}', "f\nScore: 3", '```json\n{"feedback": "f", "score": 3}```']
)
def test_judgement_is_read_as_json_or_as_text(text):
    assert Judgement.from_text(text).score == 3


PIECES = ["\n", " ", "*", "#", "[", "]", "{", "}", '"', "\\", "score ", "Score 1:", "Score 2: x\n", '{"a": ']
PIECES += ["[[]", '["]",', "criteria:", "- ", '"x" ', "{}", "json", "'", "x", "Score: 3\n", "</think>"]


def parsed(kind, text):
    """What is read, or that nothing can be."""
    try:
        return kind.from_text(text)
    except ValueError:
        return None


@pytest.mark.parametrize("kind", [Rubric, Judgement])
@pytest.mark.parametrize("before", ["", '{"a": "'])
@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_of_anything_are_read_in_time_that_grows_with_its_length(kind, before, piece):
    """Well under a second where it is linear; what it was is minutes."""
    began = time.process_time()
    parsed(kind, before + piece * (200_000 // len(piece)))
    assert time.process_time() - began < 4


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_is_read_or_a_value_error(text):
    for kind in (Rubric, Judgement):
        assert isinstance(parsed(kind, text), kind | None)
