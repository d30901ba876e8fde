"""The table of pairs, and tables whose systems see different things."""

import json

import pytest

from benchmarks import layout, pairs, rubrics, tables
from tests.data import data_file
from tests.table_parts import answers, command, planned_live, rated_by_hand, rows_file

PAIRS = [
    {"id": f"p{n}", "instruction": f"Name {n} lakes.", "responses": ["a", "b"], "annotators": votes}
    for n, votes in enumerate([[1, 1], [2, 1, 2], [1, 2], [2]])
]


def test_pair_accuracy_is_of_told_pairs_and_ties_stand_beside(tmp_path):
    data = rows_file(tmp_path / "pairs.jsonl", PAIRS)
    cells = planned_live(pairs.TABLE, tmp_path / "runs", systems=["vanilla", "checklist"], data=data)
    rated_by_hand(cells.cells[0], [5, 3, 4, 4, 5, 1, 4, 2])  # right, tied, told apart by nobody, wrong
    rated_by_hand(cells.cells[1], [4.5, 3, 2, 4, 5, 1, None, 2])  # right, right, by nobody, not read
    vanilla, checklist = tables.read(pairs.TABLE, cells).entries
    assert vanilla.estimates["pair_accuracy"].value == pytest.approx(1 / 3)
    assert vanilla.estimates["pair_ties"].value == pytest.approx(1 / 3)
    assert checklist.estimates["pair_accuracy"].value == 1
    assert checklist.estimates["pair_accuracy"].dropped == 1


@pytest.mark.parametrize("name", ["llmbar_419", "pandalm_999"])
def test_real_pairs_run_offline(tmp_path, capsys, name):
    data = data_file(f"judging/{name}.jsonl")
    asked = ("pairs", "--data", data, "--limit", 4, "--systems", "metrics,spct:k=2", "--runs", tmp_path)
    code, out, _ = command(capsys, *asked, "--json")
    found = json.loads(out)["pairs"]["results"]
    assert code == 0 and [(row["asked"], row["failed"]) for row in found] == [(4, 0), (4, 0)]


def test_rows_stand_together_by_what_systems_see_and_say_it(tmp_path):
    rubric = {"criteria": "c"} | {f"score{n}_description": f"d{n}" for n in range(1, 6)}
    rows = [row | {"rubric": rubric} for row in answers("safety", [1, 4, 5])]
    data = rows_file(tmp_path / "rows.jsonl", rows)
    names = ["oracle_rubrics", "spct:k=2", "vanilla", "rrd", "checklist"]
    cells = planned_live(rubrics.TABLE, tmp_path / "runs", systems=names, data=data)
    for cell in cells.cells:
        rated_by_hand(cell, [1, 4, 5])
    section = layout.sections(tables.read(rubrics.TABLE, cells))[0]
    assert [row[1] for row in section.rows] == [
        "vanilla",
        "checklist",
        "spct:k=2 [sees responses]",
        "rrd [sees responses]",
        "oracle_rubrics [sees labels]",
    ]
    assert [row["sees"] for row in section.results] == ["input"] * 2 + ["responses"] * 2 + ["labels"]
    (note,) = [note for note in section.notes if "[sees" in note]
    assert "[sees responses]" in note and "[sees labels]" in note


def test_table_of_one_view_says_nothing_of_views(tmp_path):
    data = rows_file(tmp_path / "rows.jsonl", answers("safety", [1, 4, 5]))
    cells = planned_live(rubrics.TABLE, tmp_path / "runs", systems=["vanilla"], data=data)
    rated_by_hand(cells.cells[0], [1, 4, 5])
    section = layout.sections(tables.read(rubrics.TABLE, cells))[0]
    assert not any("[sees" in note for note in section.notes)
