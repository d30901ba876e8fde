"""The table of TruthfulQA: which answers are chosen, what a judge is shown, and runs with and without an LM."""

import json
import random

import pytest

import spri_dspy as spri
from benchmarks import layout, tables, truthful
from spri_dspy.errors import DataError, UsageError
from spri_dspy.runs import RunDir
from spri_dspy.systems import load_system
from tests.data import data_file
from tests.judge_parts import logprob_lm
from tests.table_parts import command, planned_live, rated_by_hand, rows_file

NOUNS = ("pebble", "button", "walnut", "candle")
ROWS = [
    {
        "id": f"q{n}",
        "category": "Myths" if n % 2 else None,
        "question": f"What if you swallow a {NOUNS[n]}?",
        "answers": [{"text": f"answer {m} to {n}", "truthful": m % 3 == 0} for m in range(9)],
    }
    for n in range(4)
]
CORRECT = [
    {"id": f"q{n}", "question": f"What if you swallow a {NOUNS[n]}?", "mc1_targets": {f"It passes {n}.": 1}}
    for n in range(4)
]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows_file(folder / "mc.jsonl", CORRECT)
    return rows_file(folder / "labels.jsonl", ROWS)


def chosen(data, questions=2, answers=4, seed=0):
    return list(
        truthful.chosen(
            list(spri.load_task("rubrics").examples(data)), questions, answers, random.Random(seed)
        )
    )


def test_as_many_true_answers_as_others_are_chosen_by_the_seed(data):
    rows = chosen(data)
    assert [len(row["responses"]) for row in rows] == [4, 4]
    assert all(sorted(r["human_score"] for r in row["responses"]) == [1, 1, 5, 5] for row in rows)
    assert chosen(data) == rows and chosen(data, seed=1) != rows
    by_place = {f"{row['id']}/{m}": a for row in ROWS for m, a in enumerate(row["answers"], 1)}
    for row in rows:
        for response in row["responses"]:
            original = by_place[f"{row['id']}/{response['response_source']}"]
            assert original["text"] == response["response"]
            assert original["truthful"] == (response["human_score"] == 5)


def test_what_cannot_be_chosen_is_refused(data):
    with pytest.raises(DataError, match="only 4 have 3 answers of either kind"):
        chosen(data, questions=5, answers=6)
    with pytest.raises(DataError, match="only 0 have 4 answers"):
        chosen(data, answers=8)
    for numbers in ((0, 4), (2, 3), (2, 0)):
        with pytest.raises(UsageError, match="--answers even"):
            chosen(data, *numbers)


def test_sample_has_the_correct_answers_beside_the_data_and_ids_groups_clusters_of_it(data, tmp_path):
    path = truthful.sample(data, tmp_path / "runs", questions=4)
    read = list(spri.load_task("rubrics").examples(path))
    assert len(read) == 16 and {e.cluster for e in read} == {"q0", "q1", "q2", "q3"}
    assert {(e.cluster, e.group) for e in read} == {
        ("q0", None),
        ("q1", "Myths"),
        ("q2", None),
        ("q3", "Myths"),
    }
    for example in read:
        known = f"reference answers: It passes {example.cluster[1:]}."
        assert known in example.rubric["score5_description"] and example.evaluation_only == "TruthfulQA"


def test_offline_table_counts_and_every_judgement_is_by_its_systems_criteria(data, tmp_path, capsys):
    asked = ("truthful", "--data", data, "--questions", 3, "--runs", tmp_path / "runs", "--json")
    code, out, _ = command(capsys, *asked)
    results = json.loads(out)["truthful"]["results"]
    assert code == 0
    assert {row["system"]: (row["asked"], row["failed"]) for row in results} == dict.fromkeys(
        truthful.TABLE.systems, (12, 0)
    )
    records = {row["system"]: list(RunDir.read(row["run"]).records()) for row in results}
    calls = {name: sum(r.usage["base"].calls for r in found) for name, found in records.items()}
    assert calls["vanilla"] == calls["oracle_rubrics"] == 12
    assert 12 + 3 <= calls["checklist"] <= 12 + 9  # a question's checklist serves its four answers
    assert not any("principles" in r.outputs for r in records["vanilla"])
    assert all(
        "It passes" in r.outputs["principles"]["score5_description"] for r in records["oracle_rubrics"]
    )
    assert all(r.outputs["principles"].startswith("1. ") for r in records["checklist"])
    for name in ("spri:seeds=none", "spri:seeds=default"):
        assert all(r.stop_reasons == {"principles": "accepted"} for r in records[name])
        assert len({json.dumps(r.outputs["principles"]) for r in records[name]}) == 3
    assert {row["system"]: row["sees"] for row in results}["oracle_rubrics"] == "labels"


def test_dry_run_and_mistakes_leave_nothing(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    code, out, _ = command(capsys, "truthful", "--data", data, "--questions", 3, "--dry-run")
    assert code == 0 and "offline vanilla: 12 examples" in out
    for arguments, said in (
        (("--questions", 3), "name it with --data"),
        (("--data", data, "--correct", "mc.jsonl"), "give --questions too"),
    ):
        code, _, err = command(capsys, "truthful", *arguments)
        assert code == 2 and said in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == there


def test_intervals_are_by_question_whatever_its_category(tmp_path):
    rows = [
        {**ROWS[1], "id": f"q{n}", "question": f"What if {n}?", "category": f"c{n // 2}"} for n in range(24)
    ]
    path = truthful.sample(rows_file(tmp_path / "labels.jsonl", rows), tmp_path / "sample", questions=24)
    cells = planned_live(truthful.TABLE, tmp_path / "runs", systems=["vanilla"], data=str(path))
    # Both questions of a category are judged rightly, or both the other way round: within one nothing varies.
    shown = [(int(e.group[1:]) % 2, e.human_score) for e in cells.cells[0].examples.values()]
    rated_by_hand(cells.cells[0], [6 - score if is_wrong else score for is_wrong, score in shown])
    (entry,) = tables.read(truthful.TABLE, cells).entries
    agreement, pairs = entry.estimates["agreement"], entry.estimates["pair_accuracy"]
    assert agreement.value == pytest.approx(0) and agreement.low < -0.25 and agreement.high > 0.25
    assert pairs.value == 0.5 and pairs.low < 0.4 and pairs.high > 0.6
    assert "Pearson r" in layout.markdown(tables.read(truthful.TABLE, cells))


def test_real_answers_run_offline(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SPRI_DATA", str(data_file("truthfulqa/mc.jsonl").parents[1]))
    asked = ("truthful", "--data", "truthfulqa", "--questions", 3, "--runs", tmp_path, "--json")
    code, out, _ = command(capsys, *asked)
    results = json.loads(out)["truthful"]["results"]
    assert code == 0 and [(row["asked"], row["failed"]) for row in results] == [(12, 0)] * 5


def judged(system, tokens, **inputs):
    """A judgement by an LM that says these tokens, and what it was shown."""
    program = load_system(truthful.TABLE.system_files[system], spri.load_task("rubrics"))
    lm, engine = logprob_lm(
        tokens, "json", content="".join(t if isinstance(t, str) else t[0] for t in tokens)
    )
    return program.set_lms(base=lm)(instruction="Name a lake.", answer="Loch Ness", **inputs), engine


def test_score_is_the_expectation_and_not_what_was_said():
    tokens = ['{"feedback": "right", "score": ', ("4", {"4": 0.5, "1": 0.5}), "}"]
    found, engine = judged("vanilla", tokens)
    assert found.response == {"feedback": "right", "score": 2.5} and engine.asked == [20]
    assert (found.reading["said"], found.reading["by"]) == (4, "logprobs")
    rubric = {"criteria": "Is it a lake?"} | {f"score{n}_description": f"level {n}" for n in range(1, 6)}
    found, _ = judged("oracle_rubrics", tokens, rubric=rubric)
    assert found.response["score"] == 2.5 and found.principles == rubric


def test_answer_that_cannot_be_read_has_no_score():
    found, engine = judged("vanilla", ["no number anywhere"])
    assert found.response == {"feedback": "", "score": None} and len(engine.asked) > 1
