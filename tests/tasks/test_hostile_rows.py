"""Whatever stands in a row's columns, it is read or refused in one line: never a traceback, never silently nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import spri_dspy as spri
from spri_dspy.errors import DataError
from spri_dspy.tasks.fields import is_blank
from tests.command import assert_refused, write
from tests.command import spri as command

TASKS = {name: spri.load_task(name) for name in ("reappraisal", "rubrics", "sft")}


def nest(depth):
    return [nest(depth - 1)] if depth else "x"


SIMPLE = [
    *(None, True, False, 0, -1, 3, 23, 4.5, float("nan"), float("inf"), 10**400, 1e300, b"bytes", object()),
    *(
        "",
        " \n",
        "apple",
        "5",
        "-1",
        "self-responsibility",
        "{",
        "[",
        '{"criteria": "c"}',
        "\ud800",
        "\x00",
        "Score 1: a",
    ),
    *(
        "x" * 300_000,
        "[" * 100_000,
        nest(30),
        {},
        [],
        {"response": "apple"},
        {"m": "apple"},
        {3: "apple"},
        {None: None},
    ),
]
VALUES = st.recursive(
    st.sampled_from(SIMPLE),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["response", "answer", "human_score", "criteria", "m", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def outcome(task, row):
    """The examples of a row, or the one line that refuses it."""
    try:
        return list(task.examples([row]))
    except DataError as error:
        said = str(error)
        assert said.startswith("row 1") and "\n" not in said and len(said) < 700, said[:1000]
        assert not any(f"{name}:" in said for name in ("KeyError", "AttributeError", "RecursionError")), said
        return said


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_every_value_in_every_column_is_read_or_refused(name, data):
    task = TASKS[name]
    good = {task.text_input: "Name a fruit."} if data.draw(st.booleans()) else {}
    row = good | data.draw(st.dictionaries(st.sampled_from(task.columns), VALUES, max_size=4))
    found = outcome(task, row)
    if isinstance(found, str):
        return
    assert found
    for each in found:
        inputs = each.input_values
        assert all(
            isinstance(value, str) and value.strip() for k, value in inputs.items() if k != "principles"
        )
        assert each.id and isinstance(each.group, str | None)
        json.dumps(
            {k: v if k != "principles" else v.model_dump() for k, v in inputs.items()} | each.label_values
        )
    if name == "rubrics" and any(
        not is_blank(row.get(column)) for column in ("response", "answer", "responses")
    ):
        assert all("answer" in each.input_values for each in found)


@pytest.mark.parametrize("name", TASKS)
def test_deep_nests_are_read_or_refused_in_every_column(name):
    deep = "x"
    for _ in range(5000):
        deep = [deep]
    for column in TASKS[name].columns:
        for value in (deep, [{"response": deep}], {"m": deep}, {"criteria": deep}):
            outcome(TASKS[name], {TASKS[name].text_input: "x", column: value})


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    kind=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "x", "csv.gz"]),
)
@example(b"", "csv")
@example(b"\n\n", "tsv")
@example(b'"', "csv")
@example(b"a\x00b,c\nd,e", "csv")
def test_every_content_of_a_file_is_read_or_refused(tmp_path_factory, content, kind):
    path = tmp_path_factory.mktemp("rows") / f"rows.{kind}"
    path.write_bytes(content)
    try:
        refusal = str(path) if list(TASKS["sft"].examples(path)) else "nothing was read and nothing said"
    except DataError as error:
        refusal = str(error)
    assert refusal.startswith(str(path)) and "\n" not in refusal


AUTHORS = """
from spri_dspy.tasks import Task, make_example
from spri_dspy.signatures import Stages

INPUTS = {"question": "what was asked"}


def made(read_row):
    return Task(name="mine", inputs=INPUTS, stages=Stages.build(INPUTS), seeds=(), read_row=read_row,
                text_input="question")


def key(row, number):
    title = row["title"]
    return [make_example(str(number), {"question": title})]


def library(row, number):
    return [make_example(str(number), {"question": "x"}, labels=dict([row]))]


KEY, LIBRARY = made(key), made(library)
NOTHING, NONE, TEXT = made(lambda row, number: []), made(lambda row, number: None), made(lambda row, number: ["x"])
DICTS, ONE = made(lambda row, number: [row]), made(lambda row, number: make_example("a", row))
FEWER = made(lambda row: [])
"""


@pytest.fixture
def authors(tmp_path, monkeypatch):
    """A task file of somebody's own, and a row."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(AUTHORS)
    write(tmp_path / "rows.jsonl", {"question": "Who?"})
    return lambda name: command("run", f"mine.py:{name}", "--data", "rows.jsonl", "--run", "new", "--json")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("KEY", "mine.py, line 14, 'title = row[\"title\"]': KeyError: 'title'"),
        ("LIBRARY", "mine.py, line 19, 'return [make_example("),
        ("NONE", "line 1: the task mine must make a list of examples, not NoneType"),
        ("TEXT", "line 1: example 1 is of type str; give dspy.Examples, dicts or task.examples()"),
        ("NOTHING", "rows.jsonl, line 1: the task mine made no example of this row, nor of any before it"),
        ("FEWER", "line 1: <lambda> cannot be called: TypeError: "),
    ],
)
def test_authors_mistake_in_reading_a_row_is_one_line_with_file_row_and_source(authors, name, said):
    assert_refused(authors(name), 2, said)
    assert not Path("new").exists()


@pytest.mark.parametrize("name", ["DICTS", "ONE"])
def test_author_may_return_dicts_or_a_single_example(authors, name):
    code, out, err = authors(name)
    assert code == 0, err
    assert json.loads(out)["inputs"] == {"question": "Who?"}
