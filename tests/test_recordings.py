"""Recorded rows: which files hold them, which judge the same response, and why two readers differ."""

import json

import pytest

from benchmarks.recordings import Rated, align, differences, find, fits_trace, read_rated


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_files_of_other_names_are_no_recordings(tmp_path):
    for name in ("notes.jsonl", "__x.jsonl", "x__.jsonl", "a__b__c.jsonl"):
        write(tmp_path / name, [])
    assert [(r.model, r.system) for r in find(tmp_path)] == [("a", "b__c")]


def rows_of(*instances):
    return [
        Rated(name, k, None, label, "", 3, 3) for name, labels in instances for k, label in enumerate(labels)
    ]


def test_rows_align_in_order_only_with_proof():
    many = [(f"i{k}", [1, 2, 4, 5]) for k in range(6)]
    aligned = align([rows_of(*many), rows_of(*many)])
    assert aligned.keys[0] == aligned.keys[1]
    assert aligned.keys[0][:2] == ["i0#0", "i0#1"]
    few = align([rows_of(("i", [1, 2, 2])), rows_of(("i", [1, 2, 2]))])
    assert few.keys[0] == ["i=1", None, None]


def test_rows_of_differing_orders_align_by_unique_human_scores():
    first = rows_of(("i", [1, 2, 2, 5]), ("j", [3, 3]), ("k", [1, 2]), ("only here", [1]))
    second = rows_of(("i", [2, 5, 2]), ("j", [3, 3]), ("k", [1, 4]))
    aligned = align([first, second])
    assert aligned.keys == [
        ["i=1", None, None, "i=5", None, None, None, None, None],
        [None, "i=5", None, None, None, None, None],
    ]


def test_one_row_an_instance_needs_no_proof():
    assert align([rows_of(("a", [1]), ("b", [2])), rows_of(("b", [2]), ("a", [1]))]).keys == [
        ["a#0", "b#0"],
        ["b#0", "a#0"],
    ]


@pytest.mark.parametrize(
    ("text", "refined", "fits"),
    [
        ("[RESULT] 3", True, True),
        ("[RESULT] 3", False, False),
        ("[RESULT] 4", False, True),
        ("no score", False, True),
        ("no score", True, False),
        ("[RESULT] 3", None, True),
        ("[RESULT] 4.5", False, False),
    ],
)
def test_critique_fits_what_the_loop_did(text, refined, fits):
    assert fits_trace(text, refined) is fits


def test_unread_kinds_of_text_are_told_apart(tmp_path):
    def row(raw, recorded):
        return {"id": raw, "human_score": 3, "judge_raw": raw, "recorded_score": recorded}

    path = tmp_path / "owl__dice.jsonl"
    raws = [("<score>4</score>", 4), ("Score: 4", None), ("<score>4.5</score>", 4.5)]
    raws += [("<score>4.5</score><score>4</score>", 4.5), ("<score>4</score>", 5)]
    write(path, [row(*r) for r in raws])
    listed = differences("owl__dice", read_rated(path))
    assert [d.reason.split(":")[0] for d in listed] == [
        "a score, but not in the tag that was asked for",
        "a fraction, on a scale of whole numbers",
        "tags that differ",
        "other",
    ]
