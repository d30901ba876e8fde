"""The reappraisal task: what a row may leave out, how ids and groups come about, and the rows it brings along."""

import json

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.errors import DataError
from spri_dspy.tasks.reappraisal import GENERAL_AIM, dimensions, read_row
from tests.data import data_file, rows

POST = "The choir sang my part without me."


@pytest.fixture(scope="module")
def task():
    return spri.load_task("reappraisal")


def one(row, number=1):
    (example,) = read_row(row, number)
    return example


def examples_of(task, path, *given):
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return list(task.examples(path))


def test_post_alone_gets_the_general_aim_its_line_number_and_no_group():
    example = one({"post": POST}, 7)
    assert (example.id, dict(example.input_values)) == ("7", {"post": POST, "aim": GENERAL_AIM})
    assert (example.group, dict(example.label_values)) == (None, {})


@pytest.mark.parametrize("dimension", dimensions(), ids=lambda d: d["dimension"])
@pytest.mark.parametrize("key", ["dimension", "dimension_id"])
def test_dimension_by_name_or_number_brings_aim_group_and_labels(dimension, key):
    example = one({"post": POST, key: dimension[key]})
    assert (example.input_values["aim"], example.group) == (dimension["aim"], dimension["dimension"])
    assert example.label_values["standards"] == dimension["standards"]
    assert example.label_values["oracle_principles"] == dimension["oracle_principles"]


def test_number_of_a_dimension_may_be_text():
    assert one({"post": POST, "dimension_id": "23"}) == one({"post": POST, "dimension_id": 23})


def test_own_aim_and_labels_win_over_those_of_the_dimension():
    row = {"post": POST, "dimension_id": 1, "aim": "Help me laugh.", "standards": ["is it funny?"]}
    example = one(row)
    assert (example.input_values["aim"], example.label_values["standards"]) == (
        "Help me laugh.",
        ["is it funny?"],
    )
    assert example.group == dimensions()[0]["dimension"]


def test_aim_of_a_dimension_tells_its_group(task):
    for known in dimensions():
        assert one({"post": POST, "aim": known["aim"]}).group == known["dimension"]
        assert task.group_of({"post": POST, "aim": known["aim"]}) == known["dimension"]
    assert task.group_of({"post": POST, "aim": "something else"}) is None


def test_unknown_dimension_is_no_error_where_an_aim_is_given():
    assert one({"post": POST, "aim": "Help me laugh.", "dimension": "humour"}).group is None


@pytest.mark.parametrize(
    "row", [{"dimension": "humour"}, {"dimension_id": 9}, {"dimension_id": 0, "aim": None}]
)
def test_unknown_dimension_without_an_aim_is_refused_with_the_menu(task, tmp_path, row):
    with pytest.raises(
        DataError, match=r"posts.jsonl, line 1: unknown dimension.*; known: .*A row with an aim needs none"
    ):
        examples_of(task, tmp_path / "posts.jsonl", {"post": POST, **row})


def test_one_post_asked_about_two_dimensions_is_two_examples_of_one_cluster(task, tmp_path):
    asked = [{"id": "choir", "post": POST, "dimension": d["dimension"]} for d in dimensions()[:2]]
    first, second = examples_of(task, tmp_path / "posts.jsonl", *asked)
    assert first.id == "choir" and second.id == f"choir/{dimensions()[1]['dimension']}"
    assert first.cluster == second.cluster == "choir"


def test_same_id_and_dimension_twice_is_refused(task, tmp_path):
    twice = [{"id": "choir", "post": POST, "dimension_id": 1}] * 2
    with pytest.raises(DataError, match=r"line 2: the id 'choir' is that of line 1 too; ids must be unique"):
        examples_of(task, tmp_path / "posts.jsonl", *twice)


def test_line_number_that_is_another_rows_id_is_refused(task, tmp_path):
    with pytest.raises(DataError, match=r"line 2: the id '2' is that of line 1 too"):
        examples_of(task, tmp_path / "posts.jsonl", {"id": 2, "post": POST}, {"post": POST})


def test_byte_order_mark_blank_lines_and_crlf_do_no_harm(task, tmp_path):
    (tmp_path / "posts.jsonl").write_bytes(b'\xef\xbb\xbf{"post": "x"}\r\n\r\n{"post": "y"}')
    assert [(e.id, e.input_values["post"]) for e in task.examples(tmp_path / "posts.jsonl")] == [
        ("1", "x"),
        ("3", "y"),
    ]


def test_rows_are_read_one_by_one(task, tmp_path):
    (tmp_path / "posts.jsonl").write_text(json.dumps({"post": POST}) + "\n{ no JSON\n")
    stream = task.examples(tmp_path / "posts.jsonl")
    assert next(stream).id == "1"
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        next(stream)


def test_text_alone_makes_an_example(task):
    example = task.example_of(id="text", post=POST)
    assert (example.id, example.input_values["post"]) == ("text", POST)
    with pytest.raises(DataError, match="the given text: the column 'post' is empty"):
        task.example_of(id="text", post=" ")


def test_rows_that_come_along_are_complete(task):
    shown = list(task.examples())
    assert len(shown) >= 8 and len({e.id for e in shown}) == len(shown)
    groups = {d["dimension"] for d in dimensions()}
    assert {e.group for e in shown} <= groups
    assert all(set(e.input_values) == set(task.inputs) and e.label_values["standards"] for e in shown)
    assert [d["dimension_id"] for d in dimensions()] == [1, 4, 6, 7, 8, 23]


def test_every_dimension_has_a_seed_that_fits_the_first_stage(task):
    assert {seed["group"] for seed in task.seeds} == {d["dimension"] for d in dimensions()}
    for seed in task.seeds:
        assert set(seed) == {*task.inputs, "principles", "group"} and all(seed.values())


def test_research_rows_are_read_as_they_are(task):
    path = data_file("reappraisal/eval_30.jsonl")
    read, raw = list(task.examples(path)), rows(path)
    assert len(read) == len(raw)
    for example, row in zip(read, raw, strict=True):
        assert example.input_values["post"] == row["post"] and example.group is not None


def test_aim_may_be_left_out_of_calls_and_of_rows_of_python(task, tmp_path):
    program = spri.SPRI(task).set_lms(base="offline")
    assert program(post=POST).toDict() == program(post=POST, aim=GENERAL_AIM).toDict()
    assert program(post=POST, aim=None).toDict() == program(post=POST).toDict()
    assert program.situate(post=POST).principles and spri.SPRI.paper(task).defaults == {"aim": GENERAL_AIM}
    given = [
        {"id": "a", "post": POST},
        dspy.Example(id="b", post=POST).with_inputs("post"),
        dspy.Example(id="c", post=POST, aim="Help me laugh.").with_inputs("post", "aim"),
    ]
    spri.run_bulk(program, given, tmp_path / "run")
    aims = {r.id: r.inputs["aim"] for r in spri.RunDir.read(tmp_path / "run").records()}
    assert aims == {"a": GENERAL_AIM, "b": GENERAL_AIM, "c": "Help me laugh."}
