"""`spri agree`: files of every kind and runs, what stands in them, what is refused, and what is printed."""

import csv
import json

import pytest

import spri_dspy as spri
from spri_dspy.records import Record
from spri_dspy.runs import RunDir
from tests.command import assert_refused, write
from tests.command import spri as command
from tests.metrics.test_agreement import make_world

QUICK = spri.AgreeSettings(resamples=50)
ROWS = [
    {"id": "a", "score": 1, "human": {"one": 1, "two": 2}, "votes": [1, 2], "topic": "x"},
    {"id": "b", "score": 3, "human": {"one": 3, "two": 4}, "votes": [3, 4], "topic": "x"},
    {"id": "c", "score": None, "human": {"one": 2, "two": 2}, "votes": [2, 2], "topic": "y"},
    {"id": "d", "score": 5, "human": {"one": 4, "two": None}, "votes": [4], "topic": "y"},
    {"id": "e", "score": 2, "human": {"one": 1, "two": 1}, "votes": [1, 1], "topic": "y"},
]


def figures(found, judge=0):
    return {name: (e.value, e.n, e.dropped) for name, e in found.judges[judge].figures.items()}


def agree(path, people="human.one,human.two", **columns):
    return spri.agree(path, people.split(","), columns=spri.AgreeColumns(**columns), settings=QUICK)


@pytest.fixture
def scored(tmp_path):
    return write(tmp_path / "owl.jsonl", *ROWS)


def test_columns_may_be_nested_or_lists(scored):
    found = agree(scored)
    assert found.people.annotators == ("human.one", "human.two")
    assert figures(found)["mae"] == (pytest.approx((0.5 + 0.5 + 1 + 1) / 4), 4, 1)
    listed = agree(scored, "votes")
    assert listed.people.annotators == ("votes.0", "votes.1")
    assert figures(listed) == figures(found)


def test_every_kind_of_file_reads_alike(tmp_path, scored):
    import pyarrow
    from pyarrow import parquet

    flat = [{"id": r["id"], "score": r["score"], "people": r["human"]["one"]} for r in ROWS]
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with open(tmp_path / name, "w", newline="") as file:
            table = csv.DictWriter(file, [*flat[0]], delimiter=delimiter)
            table.writeheader()
            table.writerows(flat)
    parquet.write_table(pyarrow.Table.from_pylist(flat), tmp_path / "t.parquet")
    wanted = figures(agree(write(tmp_path / "t.jsonl", *flat), "people"))
    for ending in ("csv", "tsv", "parquet"):
        assert figures(agree(tmp_path / f"t.{ending}", "people")) == wanted


def test_people_may_stand_in_a_file_of_their_own(tmp_path, scored):
    judge = write(
        tmp_path / "j.jsonl",
        *({"id": r["id"], "score": r["score"]} for r in ROWS[:3]),
        {"id": "z", "score": 1},
    )
    people = ["human.one", "human.two"]
    columns = spri.AgreeColumns(group="topic")
    found = spri.agree(judge, people, people_from=scored, columns=columns, settings=QUICK)
    assert figures(found)["mae"] == (0.5, 2, 4)  # c has no score; d and e are not in the file; nobody rated z
    assert set(found.judges[0].groups) == {"(no group)", "x", "y"}
    assert "j: 1 rows that people have not rated" in found.notes
    assert "j: 2 rows missing that others have" in found.notes


def test_row_that_one_judge_lacks_is_missing_there(tmp_path, scored):
    less = write(tmp_path / "less.jsonl", *ROWS[:2])
    found = spri.agree([scored, less], "human.one", settings=QUICK)
    assert [judge.figures["mae"].n for judge in found.judges] == [4, 2]
    assert [judge.figures["mae"].dropped for judge in found.judges] == [1, 3]


def test_ids_that_repeat_are_clusters_told_apart_by_order(tmp_path):
    rows = [
        {"id": name, "score": s, "p": p}
        for name, s, p in (("a", 1, 1), ("a", 2, 3), ("b", 3, 2), ("b", 4, 4))
    ]
    found = agree(write(tmp_path / "r.jsonl", *rows), "p")
    assert [(i.id, i.cluster) for i in found.judges[0].ratings.items] == [
        ("a", "a"),
        ("a#2", "a"),
        ("b", "b"),
        ("b#2", "b"),
    ]
    assert found.judges[0].figures["pair_accuracy"].value == 1
    named = agree(write(tmp_path / "r.jsonl", *rows), "p", id="id,score", cluster="id")
    assert [i.id for i in named.judges[0].ratings.items] == ["a 1", "a 2", "b 3", "b 4"]


def test_no_label_of_people_is_missing(tmp_path):
    rows = [{"score": s, "human_score": h, "other": h} for s, h in ((1, 1), (2, -1), (4, 3))]
    path = write(tmp_path / "r.jsonl", *rows)
    assert figures(agree(path, "human_score"))["mae"] == (0.5, 2, 1)
    assert figures(agree(path, "other"))["mae"] == (pytest.approx(4 / 3), 3, 0)
    assert figures(agree(path, "other", no_label=-1))["mae"] == (0.5, 2, 1)


def test_judge_may_be_a_function_of_the_row(tmp_path, scored):
    own = tmp_path / "own.py"
    own.write_text("def twice(row):\n    return 2 * row['human']['one']\n")
    found = agree(scored, "human.one", score=f"{own}:twice")
    assert figures(found)["pearson"] == (pytest.approx(1), 5, 0)
    assert figures(agree(scored, "human.one", score=lambda row: row["score"])) == figures(
        agree(scored, "human.one")
    )
    own.write_text("def twice(row):\n    return row['score'] + 1\n")
    with pytest.raises(
        spri.DataError, match=r"owl\.jsonl, line 3, id 'c': the judge failed: .*own\.py, line 2"
    ):
        agree(scored, "human.one", score=f"{own}:twice")


def test_rows_may_come_from_python():
    found = spri.agree({"length": ROWS}, "human.one", settings=QUICK)
    assert found.judges[0].name == "length"
    with pytest.raises(
        spri.DataError, match="length, row 2: the column 'score' must be a number, not 'high'"
    ):
        spri.agree({"length": [ROWS[0], {**ROWS[1], "score": "high"}]}, "human.one")


def judged_run(path, judge="generic", **manifest):
    with RunDir.create(
        path, {"task": "sft", "judge": judge, "criteria": {"good": "mean"}, **manifest}
    ) as run:
        for name, score, human in (("a", 4, 3), ("b", None, 2), ("c", 2, 2), ("d", 1, 1)):
            labels = {"human_score": human, "rated": {"warm": human}}
            outputs = {"scores": {"good": score}}
            run.append(Record(name, {"x": "y"}, outputs, group="g", cluster=name, labels=labels))
    return path


def test_run_with_judgements_is_read_with_its_labels(tmp_path):
    run = judged_run(tmp_path / "r")
    for people in ("human_score", "rated.warm"):
        assert figures(agree(run, people))["mae"] == (pytest.approx(1 / 3), 3, 1)


def test_judges_of_a_run_are_found_in_it(tmp_path):
    with RunDir.create(tmp_path / "r", {"task": "sft"}) as run:
        run.append(Record("a", {"x": "y"}, {"response": "z"}))
    for name in ("one", "two"):
        judged_run(tmp_path / "r" / "judged" / name)
    assert [judge.name for judge in agree(tmp_path / "r", "human_score").judges] == ["r/one", "r/two"]


def test_scores_of_the_offline_lm_make_no_figures(tmp_path):
    run = judged_run(tmp_path / "r", lms={"judge": "offline"})
    assert_refused(command("agree", run, "--people", "human_score"), 2, "the offline LM gave these scores")


PAIRS = [
    {"id": "a", "winner": 1, "winner_swapped": 1, "preferred": 1, "annotators": [1, 1, 0], "scores": [5, 2]},
    {"id": "b", "winner": 2, "winner_swapped": 1, "preferred": 2, "annotators": [2, 2, 2], "scores": [3, 3]},
    {
        "id": "c",
        "winner": None,
        "winner_swapped": 1,
        "preferred": 1,
        "annotators": [1, 2, 0],
        "scores": [None, 3],
    },
]


def test_both_orders_are_read_where_they_are(tmp_path):
    path = write(tmp_path / "p.jsonl", *PAIRS)
    found = spri.agree(path, "preferred", pairs=True, settings=QUICK)
    assert figures(found)["accuracy"] == (0.75, 2, 1)
    one = spri.agree(path, "preferred", pairs=True, columns=spri.AgreeColumns(score="scores"), settings=QUICK)
    assert figures(one)["accuracy"] == (0.75, 2, 1)
    assert "both_orders_agree" not in figures(one)
    assert "a judge's tie counts half where people prefer one response" in one.notes


def test_people_who_give_ties_make_a_tie_an_answer(tmp_path):
    found = spri.agree(write(tmp_path / "p.jsonl", *PAIRS), "annotators", pairs=True, settings=QUICK)
    assert "a judge's tie counts wrong where people prefer one response" in found.notes
    assert "1 pairs on which people are split have no label, and count for alpha alone" in found.notes


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (
            ['{"id": "a", "score": "x", "p": 1}'],
            [],
            "owl.jsonl, line 1, id 'a': the column 'score' must be a number, not 'x'",
        ),
        (
            ['{"id": "a", "score": 1, "p": 1}', '{"score": 1, "p": true}'],
            [],
            "line 2: the column 'p' must be a number, not True",
        ),
        (['{"score": 1}'], [], "no row has the column 'p' (--people); it has score"),
        (['{"p": 1}'], [], "no row has the column 'score' (the judge's; --score names another); it has p"),
        (
            ['{"score": 1, "p": 1}'],
            ["--cluster", "k"],
            "no row has the column 'k' (--cluster); it has score, p",
        ),
        (['{"score": 1, "p": 1}'], ["--id", "k"], "no row has the column 'k' (--id)"),
        (
            ['{"winner": 3, "p": 1}'],
            ["--pairs"],
            "the column 'winner' must be 1, 2, or 0 for a tie (or two numbers), not 3",
        ),
        (['{"winner": [1, "x"], "p": 1}'], ["--pairs"], "the column 'winner' must be 1, 2, or 0"),
        (['{"score": 1, "p": 1}'], ["--score", "p"], "the judge's column 'p' is one of people's"),
        (['{"score": 1, "p": [1, 2]}'], ["--score", "p.1"], "the judge's column 'p.1' is one of people's"),
        (['{"score": 1, "p": 1}'], ["--epsilon", "1"], "--epsilon must be from 0 to below 1, not 1"),
        (
            ['{"score": 1, "p": 1}'],
            ["--level", "odd"],
            "'odd' is not one of 'nominal', 'ordinal', 'interval'",
        ),
        (['{"score": 1, "p": 1}'], ["--ties", "odd"], "'odd' is not one of 'half', 'wrong'"),
        (["{"], [], "owl.jsonl, line 1: not valid JSON"),
        (['{"score": 1e999, "p": 1}'], [], "the column 'score' must be a number, not inf"),
    ],
)
def test_bad_input_is_one_line_with_its_place(tmp_path, lines, options, said):
    path = write(tmp_path / "owl.jsonl", *lines)
    assert_refused(command("agree", path, "--people", "p", *options), 2, said)


def test_file_of_people_must_name_each_row_once(tmp_path, scored):
    twice = write(tmp_path / "p.jsonl", ROWS[0], ROWS[0])
    refused = command("agree", scored, "--people", "human.one", "--people-from", twice)
    assert_refused(refused, 2, "p.jsonl, line 2, id 'a': the id 'a' stands twice; --id COLUMN,COLUMN")
    other = write(tmp_path / "q.jsonl", {"id": "q", "human": {"one": 1}})
    refused = command("agree", scored, "--people", "human.one", "--people-from", other)
    assert_refused(refused, 2, "owl: none of its ids is among people's, such as 'q'")


def test_a_folder_for_the_report_is_refused_before_anything_is_computed(tmp_path, scored):
    refused = command("agree", scored, "--people", "human.one", "--out", tmp_path)
    assert_refused(refused, 2, "is a folder; name a file")


def test_two_judges_of_one_name_are_refused(tmp_path, scored):
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "owl.jsonl", *ROWS)
    refused = command("agree", scored, tmp_path / "more" / "owl.jsonl", "--people", "human.one")
    assert_refused(refused, 2, "two judges have the name 'owl'")


def world_rows(people=3, n=60):
    return [
        {"id": i.id, "score": i.value, "votes": list(i.people), "topic": i.group, "text": i.cluster}
        for i in make_world(n, people).items
    ]


def test_everything_is_printed_of_one_judge(tmp_path):
    path = write(tmp_path / "owl.jsonl", *world_rows())
    options = ("--group", "topic", "--cluster", "text", "--resamples", 100)
    code, out, err = command("agree", path, "--people", "votes", *options)
    assert (code, err) == (0, "")
    for said in (
        "kendall tau-b",
        "Krippendorff's alpha, people",
        "mean of groups",
        "against the other annotators  judge",
        "judge says  people's mean",
        "Alt-Test: the judge may",
        "people among themselves: Krippendorff's alpha",
        "60 of 60",
    ):
        assert said in out


def test_several_judges_are_printed_with_their_tests(tmp_path):
    rows = world_rows(people=1)
    one, two = (
        write(tmp_path / "one.jsonl", *rows),
        write(tmp_path / "two.jsonl", *({**r, "score": 6 - r["score"]} for r in rows)),
    )
    code, out, _ = command("agree", one, two, "--people", "votes", "--resamples", 100)
    assert code == 0
    assert "one - two" in out
    assert "p, Holm" in out
    assert "one annotator, so no agreement of people" in out


def test_json_is_the_whole_result(tmp_path):
    path = write(tmp_path / "owl.jsonl", *world_rows())
    code, out, _ = command("agree", path, path.rename(tmp_path / "cat.jsonl"), "--people", "votes", "--json")
    assert code == 2
    code, out, _ = command("agree", tmp_path / "cat.jsonl", "--people", "votes", "--json", "--resamples", 50)
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"kind", "people", "judges", "comparisons", "resamples", "seed", "epsilon", "notes"}
    judge = found["judges"][0]
    assert judge["figures"]["pearson"]["coverage"] == 1
    assert judge["alt_test"]["passes"] is True
    assert set(judge["ceiling"]["pearson"]) == {"judge", "people", "difference"}


def test_people_alone_need_no_judge(tmp_path):
    path = write(tmp_path / "owl.jsonl", *world_rows())
    code, out, _ = command("agree", path, "--people", "votes", "--score", "none", "--resamples", 50)
    assert code == 0
    assert out.startswith("people among themselves: Krippendorff's alpha")
    assert "votes.2" in out
