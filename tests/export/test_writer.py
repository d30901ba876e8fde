"""Where exports go: every target loads the same, and nothing but an earlier export is ever replaced."""

import json
import os
import subprocess
import sys
import tracemalloc

import pyarrow
import pytest

from spri_dspy.export.formats import FORMATS, chat_row, export_run
from spri_dspy.export.writer import output
from tests.command import files, spri
from tests.export_parts import lines_of, make_record, make_run, run_offline


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_every_format_loads_from_every_target_as_a_data_set_with_the_same_rows(tmp_path):
    runs = {name: run_offline(tmp_path / name, task=name) for name in ("reappraisal", "rubrics")}
    expected, folders = [], []
    for format in FORMATS:
        run = runs["rubrics" if format == "rubrics" else "reappraisal"]
        rows = lines_of(export_run(run, format, out=tmp_path / format / "lines/rows.jsonl").path)
        export_run(run, format, out=tmp_path / format / "parquet/rows.parquet")
        export_run(run, format, to=f"hf:{tmp_path / format / 'hub'}")
        assert len(rows) >= 2
        expected += [rows] * 3
        folders += [f"{format}/{place}" for place in ("lines", "parquet", "hub")]
    assert sorted(p.relative_to(tmp_path / "sft/hub").as_posix() for p in files(tmp_path / "sft/hub")) == [
        "README.md",
        "data/train-00000-of-00001.parquet",
    ]
    # One cache for all: folders of one name, and one folder before and after --fresh, are different data sets.
    assert load_elsewhere(tmp_path, *folders) == expected
    export_run(runs["reappraisal"], "dpo", to=f"hf:{tmp_path / 'sft/hub'}", fresh=True)
    assert load_elsewhere(tmp_path, "sft/hub") == [lines_of(tmp_path / "dpo/lines/rows.jsonl")]


def load_elsewhere(tmp_path, *folders):
    """What a process without a network reads from folders through `datasets`."""
    code = """
import json, sys, datasets
datasets.disable_progress_bars()
for folder in sys.argv[2:]:
    print(json.dumps(list(datasets.load_dataset(folder, split="train", cache_dir=sys.argv[1]))))
"""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    places = [str(tmp_path / folder) for folder in folders]
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache"), *places],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, **offline},
    )
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_parquet_is_written_in_row_groups_of_a_thousand(tmp_path):
    from pyarrow import parquet

    run = make_run(tmp_path / "run", *(make_record(str(n), 5) for n in range(2001)))
    file = parquet.ParquetFile(export_run(run, "sft", to="parquet").path)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [1000, 1000, 1]


def test_a_large_run_goes_out_in_little_memory(tmp_path):
    run = make_run(tmp_path / "run", *(make_record(str(n), 5, texts=["word " * 4000]) for n in range(600)))
    export_run(make_run(tmp_path / "small", make_record("a", 5)), "sft")
    tracemalloc.start()
    done = export_run(run, "sft")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done.path.stat().st_size > 12_000_000
    assert peak < 3_000_000


@pytest.mark.parametrize("to", ["--out=e/rows.jsonl", "--to=hf:e"])
def test_an_export_that_is_there_is_replaced_only_with_fresh(tmp_path, to):
    spri("run", "sft", "--limit", 2, "--run", "two", "--json")
    spri("run", "sft", "--limit", 1, "--run", "one", "--json")
    assert spri("export", "two", "--format", "sft", to)[0] == 0
    before = files(tmp_path / "e")
    code, out, err = spri("export", "one", "--format", "sft", to)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "exists; name another, or --fresh to replace it" in err
    assert files(tmp_path / "e") == before
    code, out, _ = spri("export", "one", "--format", "sft", to, "--fresh")
    assert code == 0 and out.startswith("1 row from 1 record: e")
    assert set(files(tmp_path / "e")) == set(before)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("there", "to", "said"),
    [
        ("README.md", "--out=rows.jsonl", "README.md is not the data card of rows.jsonl and would be lost"),
        ("rows.jsonl", "--out=rows.jsonl", "rows.jsonl is there and is no export with a data card"),
        ("e/notes.txt", "--to=hf:e", "e holds other files; name an empty or a new folder"),
        ("e/README.md", "--to=hf:e", "e holds other files; name an empty or a new folder"),
        ("e", "--to=hf:e", "e is a file; name a folder"),
        ("e/x", "--out=e.jsonl/", None),
        ("e.jsonl/x", "--out=e.jsonl", "e.jsonl is a folder; name a file in it, or use --to hf:e.jsonl"),
        ("e", "--out=e/rows.jsonl", "e/rows.jsonl cannot be written: Not a directory"),
    ],
)
def test_what_is_no_export_is_never_replaced(tmp_path, there, to, said, fresh):
    make_run(tmp_path / "run", make_record("a", 5))
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    code, out, err = spri("export", "run", "--format", "sft", to, *(["--fresh"] if fresh else []))
    assert (tmp_path / there).read_text() == "mine"
    if said is None:
        assert code == 0
        return
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("added", ["notes.txt", "data/test-00000-of-00001.parquet"])
def test_an_export_with_files_of_somebody_else_in_it_is_not_replaced(tmp_path, added):
    make_run(tmp_path / "run", make_record("a", 5))
    spri("export", "run", "--format", "sft", "--to", "hf:e")
    (tmp_path / "e" / added).write_text("mine")
    code, _, err = spri("export", "run", "--format", "sft", "--to", "hf:e", "--fresh")
    assert (code, err) == (2, "spri: e holds other files; name an empty or a new folder\n")
    assert (tmp_path / "e" / added).read_text() == "mine"


@pytest.mark.parametrize("to", ["jsonl", "hf"])
def test_an_interrupted_export_leaves_the_earlier_one_and_nothing_else(tmp_path, to):
    place = {"out": tmp_path / "e/rows.jsonl"} if to == "jsonl" else {"to": f"hf:{tmp_path / 'e'}"}
    export_run(make_run(tmp_path / "run", make_record("a", 5)), "sft", **place)
    before = files(tmp_path)

    def rows():
        yield chat_row(make_record("b", 5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output(place.get("to"), place.get("out"), tmp_path).write(
            rows(), pyarrow.schema([]), lambda: "a card"
        )
    assert files(tmp_path) == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    make_run(tmp_path / "run", make_record("a", 5))
    code, out, err = spri("export", "run", "--format", "sft", "--out", "/proc/rows/rows.jsonl")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "/proc/rows/rows.jsonl cannot be written" in err
