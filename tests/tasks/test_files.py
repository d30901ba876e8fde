"""Files of rows: every kind gives the same examples, columns can be renamed, and what is broken is one line."""

import csv
import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

import spri_dspy as spri
from spri_dspy.errors import DataError
from spri_dspy.records import Record
from spri_dspy.tasks import _parquet, _reading
from spri_dspy.tasks.fields import LONGEST, read_rows

ROWS = [
    {"id": "a", "post": "The choir sang, my part\nwithout me.", "aim": "Help me laugh."},
    {"id": "b", "post": "Überall Noten — «meine»; \t tabs too", "aim": "Help me see her side."},
]


def written(path, rows=ROWS):
    """A file of the kind that its name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8", newline="") as file:
        if kind == "json":
            json.dump(rows, file, indent=1)
        elif kind in ("csv", "tsv", "semicolon"):
            delimiter = {"csv": ",", "tsv": "\t", "semicolon": ";"}[kind]
            table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


KINDS = [
    "jsonl",
    "ndjson",
    "json",
    "csv",
    "tsv",
    "parquet",
    *(f"{k}.gz" for k in ("jsonl", "json", "csv", "tsv")),
]


@pytest.fixture(scope="module")
def task():
    return spri.load_task("reappraisal")


def posts(task, path, **options):
    return [{"id": e.id, **e.input_values} for e in task.examples(path, **options)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_examples(task, tmp_path, kind):
    assert posts(task, written(tmp_path / f"posts.{kind}")) == ROWS


@pytest.mark.parametrize("kind", [*KINDS, "semicolon"])
def test_where_the_name_does_not_tell_the_kind_the_content_does(task, tmp_path, kind):
    assert posts(task, written(tmp_path / f"posts.{kind}").rename(tmp_path / "posts")) == ROWS


def test_table_with_semicolons_and_an_index_of_pandas_is_read(task, tmp_path):
    (tmp_path / "p.csv").write_text('\ufeff;id;post\r\n0;a;x, y\r\n1;b;"z\nw"\r\n\r\n', newline="")
    assert [e.input_values["post"] for e in task.examples(tmp_path / "p.csv")] == ["x, y", "z\nw"]


def test_empty_cells_of_a_table_are_missing_and_rows_without_id_are_numbered(task, tmp_path):
    (tmp_path / "p.csv").write_text("id,post,aim,dimension_id\n,x,,\nb,y,,23\n")
    first, second = task.examples(tmp_path / "p.csv")
    assert (first.id, first.group, first.input_values["aim"]) == ("1", None, task.defaults["aim"])
    assert (second.id, second.group) == ("b", "consistency_with_internal_values")


BROKEN = {
    "ragged.csv": (b"id,post\na,x,y\n", "line 2: 3 cells under a header of 2; put quotes around texts"),
    "short.csv": (b"id,post\na,x\nb\n", "line 3: 1 cells under a header of 2"),
    "quote.csv": (b'id,post\na,"x\nb,y\n', "line 2: not valid CSV: unexpected end of data; mend that row"),
    "twice.csv": (b"post,post\nx,y\n", "has two columns 'post'; rename one"),
    "header.csv": (b"id,post\n", "has no rows"),
    "utf16.csv": ("id,post\na,x\n".encode("utf-16"), "not UTF-8 text"),
    "cell.csv": (b"id,post\na,\n", "line 2, id 'a': the column 'post' is empty"),
    "cut.jsonl.gz": (gzip.compress(b'{"post": "x"}\n' * 5000)[:-20], "is a damaged gzip file"),
    "torn.jsonl.gz": (b"\x1f\x8b\x08\x00" + b"x" * 40, "is a damaged gzip file"),
    "p.parquet.gz": (gzip.compress(b"PAR1"), "is a packed parquet file; unpack it"),
    "p.parquet": (b"PAR1 and then nothing", "cannot be read as parquet"),
    "what.bin": (b"\x00\x01\x02", "is none of the files that are read: JSON lines, a JSON array, CSV, TSV"),
    "tail.json": (b'[{"post": "x"}] [', "not valid JSON: Extra data"),
    "object.json": (b'{\n "post": "x"\n}', "line 1: not valid JSON"),
}


WHERE = {"jsonl": "line 1", "csv": "line 2", "json": "item 1", "parquet": "row 1"}


PLACES = {
    "p.jsonl": ('{"id": "a", "post": "x"}\n\n{"id": "b"}\n', "line 3, id 'b': missing column 'post'"),
    "n.jsonl": ('\ufeff{"post": "x"}\r\n{"mood": 1}\r\n', "line 2: missing column 'post'"),
    "number.jsonl": ('{"id": 7, "post": " "}\n', "line 1, id 7: the column 'post' is empty"),
    "p.json": ('[\n{"id": "a",\n"post": "x"},\n{"id": "b"}]', "item 2, id 'b': missing column 'post'"),
    "p.csv": ('id,post\na,"one\ntwo\n\nfour"\n\nb,\n', "line 7, id 'b': the column 'post' is empty"),
    "cells.csv": ('id,post\na,"one\ntwo"\nb,x,y\n', "line 4: 3 cells under a header of 2"),
    "quote.csv": ('id,post\na,"one\ntwo"\nb,"x"y\n', "line 4: not valid CSV"),
    "p.tsv": ("id\tpost\na\tx\nb\t\n", "line 3, id 'b': the column 'post' is empty"),
    "twice.csv": (
        'id,post\na,"one\ntwo"\nb,x\na,y\n',
        "line 5: the id 'a' is that of line 2 too; ids must be",
    ),
    "twice.json": (
        '[{"id": 1, "post": "x"}, {"id": 1, "post": "y"}]',
        "item 2: the id '1' is that of item 1 too",
    ),
}
"""Each complaint has the line of the file, as an editor counts them, and the row's id."""


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_bad_row_is_named_by_its_line_and_its_id(task, tmp_path, name, packed):
    content, said = PLACES[name]
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    with pytest.raises(DataError) as refused:
        list(task.examples(path))
    assert str(refused.value).startswith(f"{path}, {said}"), refused.value


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line_that_says_what_to_do(task, tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name][0])
    with pytest.raises(DataError) as refused:
        list(task.examples(tmp_path / name))
    assert str(refused.value).startswith(str(tmp_path / name)) and "\n" not in str(refused.value)
    assert BROKEN[name][1] in str(refused.value)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "parquet"])
def test_columns_are_renamed(task, tmp_path, kind):
    rows = [
        {"id": row["id"], "selftext": row["post"], "goal": row["aim"], "post": "not this"} for row in ROWS
    ]
    path = written(tmp_path / f"posts.{kind}", rows)
    assert posts(task, path, columns={"post": "selftext", "aim": "goal"}) == ROWS


def test_column_to_rename_that_is_not_there_is_answered_with_the_menu(task, tmp_path):
    path = written(tmp_path / "posts.jsonl", [{"title": "x", "selftext": "y"}])
    said = "posts.jsonl has no column 'body' to rename to 'post'; it has title, selftext"
    with pytest.raises(DataError, match=said):
        list(task.examples(path, columns={"post": "body"}))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "parquet"])
def test_missing_column_is_answered_with_the_menu_and_the_option_that_helps(task, tmp_path, kind):
    path = written(tmp_path / f"posts.{kind}", [{"title": "x", "selftext": "y"}])
    has = "it has title, selftext; --map post=COLUMN renames one$"
    said = rf"posts.{kind}, {WHERE[kind]}: missing column 'post'; {has}"
    with pytest.raises(DataError, match=said):
        list(task.examples(path))


def test_rows_of_python_are_examples_like_those_of_a_file(task):
    given = [{"post": "x", "dimension_id": 23}, {"id": "b", "post": "y"}]
    first, second = task.examples(given)
    assert (first.id, first.group) == ("1", "consistency_with_internal_values")
    assert (second.id, second.group, second.input_values["aim"]) == ("b", None, task.defaults["aim"])
    (renamed,) = task.examples([{"selftext": "x"}], columns={"post": "selftext"})
    assert renamed.input_values["post"] == "x"
    with pytest.raises(DataError, match="row 2: missing column 'post'; it has title"):
        list(task.examples([{"post": "x"}, {"title": "y"}]))


def test_row_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_reading, "ROW_BYTES", 1000)
    (tmp_path / "p.jsonl").write_text('{"post": "x"}\n{"post": "' + "y" * 2000)
    with pytest.raises(DataError, match=r"line 2 has more than 1,000 characters; is a line break missing\?"):
        list(read_rows(tmp_path / "p.jsonl"))
    monkeypatch.setattr(_reading, "ARRAY_BYTES", 1000)
    (tmp_path / "p.json").write_text(json.dumps([{"post": "x" * 2000}]))
    with pytest.raises(DataError, match="array of more than 1,000 bytes; write one JSON object a line"):
        list(read_rows(tmp_path / "p.json"))


def test_cell_of_a_table_may_be_as_long_as_a_text_may_be(task, tmp_path):
    (tmp_path / "p.csv").write_text(f"post\n{'x' * LONGEST}\n")
    assert len(next(task.examples(tmp_path / "p.csv")).input_values["post"]) == LONGEST


def packed(path, column, n=3000, entry="a" * 1_500_000):
    """A few hundred bytes that unpack to gigabytes: one text, or one number, over and over."""
    one = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * n, pyarrow.int32()), pyarrow.array([entry]))
    if column == "text":
        extra = one
    else:
        whole = pyarrow.array([0] * n) if column == "numbers" else one
        extra = pyarrow.ListArray.from_arrays(pyarrow.array([0, n], pyarrow.int32()), whole)
    post = pyarrow.array(["x"] * len(extra))
    parquet.write_table(pyarrow.table({"post": post, "extra": extra}), path, compression="zstd")
    return path


@pytest.mark.parametrize("column", ["text", "texts", "numbers"])
def test_parquet_that_unpacks_to_gigabytes_is_refused_unless_the_column_is_not_needed(
    task, tmp_path, column, monkeypatch
):
    monkeypatch.setattr(_parquet, "MOST_VALUES", 100_000)
    path = packed(tmp_path / "p.parquet", column, **({"n": 1_000_000} if column == "numbers" else {}))
    assert path.stat().st_size < 3000 or column == "text"
    assert next(iter(task.examples(path))).input_values["post"] == "x"
    with pytest.raises(
        DataError, match=r"p\.parquet: the column 'extra' unpacks to far more than its file holds"
    ):
        list(read_rows(path))


def test_long_lists_of_one_text_stay_packed_until_their_row_is_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(_parquet, "BATCH_BYTES", 100_000)
    rows = [{"responses": [{"response": "a" * 900}] * n} for n in (3, 100, 120)]
    written(tmp_path / "p.parquet", rows)
    read = read_rows(tmp_path / "p.parquet")
    assert [len(next(read)[2]["responses"]) for _ in range(2)] == [3, 100]
    with pytest.raises(DataError, match="unpacks to far more"):
        next(read)


def test_columns_that_are_not_needed_stand_empty_in_their_row(task, tmp_path):
    path = written(tmp_path / "p.parquet", [{"post": "x", "other": "y"}])
    assert [row for *_, row in read_rows(path, needed=("post",))] == [{"post": "x", "other": None}]
    assert [row for *_, row in read_rows(path)] == [{"post": "x", "other": "y"}]


def test_examples_that_are_finished_keep_their_ids_and_places_and_need_no_reading(tmp_path):
    path = tmp_path / "posts.jsonl"
    rows = [
        {"id": "a", "post": "I lost.", "dimension": "self-responsibility"},
        {"id": "b", "post": "I won."},
        {"id": "a", "post": "I lost.", "dimension": "problem-focused_coping"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = spri.load_task("reappraisal")
    whole = list(task.examples(path))
    assert [e.id for e in whole][:2] == ["a", "b"] and whole[2].id.startswith("a/")
    with spri.RunDir.create(tmp_path / "run", {}) as run:
        for name in ("b", "a"):
            run.append(Record(name, {}))
        again = list(task.examples(path, finished=run.finished()))
    assert [e.id for e in again] == [e.id for e in whole]
    assert not again[0].input_values and again[2].input_values == whole[2].input_values
