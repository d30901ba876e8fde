"""The recipe `truthful`: its own training rows, the questions beside them, and what a tuning leaves."""

import json
import random
from pathlib import Path

import pytest

import spri_dspy as spri
from benchmarks import truthful
from optimize import questions
from spri_dspy.commands import recipe
from spri_dspy.commands import tune as command
from spri_dspy.errors import LeakError
from spri_dspy.leaks import Text, find_leaks
from spri_dspy.report import tuning as shown
from spri_dspy.runs import RunDir
from spri_dspy.systems import load_system
from tests.data import data_file, rows
from tests.table_parts import command as benchmark
from tests.table_parts import rows_file

SHELF = Path(__file__).parents[1] / "optimize"
TASK = spri.load_task("rubrics")


def made_up(n):
    """Rows of TruthfulQA's shape, none like another; the offline LM rates by the words that are repeated."""
    rng, rows = random.Random(0), []
    for i in range(n):
        words = ["".join(rng.choices("aeioubdfgklmnprstvz", k=8)) for _ in range(6)]
        answers = [
            {
                "text": f"Some say {' '.join(rng.sample(words, rng.randint(0, 6)))} here.",
                "truthful": m % 2 == 0,
            }
            for m in range(5)
        ]
        question = f"What is {' '.join(words)}?"
        rows.append({"id": f"q{i}", "category": f"c{i % 7}", "question": question, "answers": answers})
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The recipe beside small files of made-up questions."""
    monkeypatch.chdir(tmp_path)
    data = rows_file(tmp_path / "labels.jsonl", made_up(60))
    arguments = ["--data", data, "--folder", "runs/truthful", "--validation", "28", "--test", "12"]
    assert questions.main(arguments) == 0
    text = (SHELF / "truthful.toml").read_text("utf-8")
    text = text.replace('"data/', f'"{SHELF}/data/').replace(
        '"../benchmarks/', f'"{SHELF.parent}/benchmarks/'
    )
    (tmp_path / "optimize").mkdir()
    (tmp_path / "optimize" / "truthful.toml").write_text(text, "utf-8")
    return tmp_path


def asked(**changes):
    return recipe.change(recipe.read("optimize/truthful.toml"), **changes)


def test_it_runs_offline_and_keeps_the_candidate_that_came_to_the_decision(folder, capsys):
    plan = command.plan(asked(seed=1))  # in which the luckiest candidate is not the start
    sizes = {name: len(part) for name, part in plan.splits.parts().items()}
    assert sizes == {"train": 48, "search": 28, "holdout": 28, "test": 24}
    tuned = plan.execute()
    report = tuned.report
    assert report.stopped is None and report.winner and not report.improved
    assert {seed.source for seed in report.pool} == {"labelled"} and len(report.pool) == 16
    assert all(seed.origin.startswith("train/") for seed in report.pool)
    assert report.splits["chosen_on"] == ["TruthfulQA"]
    run = RunDir.read(plan.folder)
    assert any(line.startswith("chosen on TruthfulQA, an evaluation set") for line in shown.outcome(run))
    seeds = {
        name: json.loads((plan.folder / name).read_text("utf-8"))["judge.ask['score']"]["demos"]
        for name in ("program.json", "candidate.json")
    }
    pool = [dict(seed.demo) for seed in report.pool]
    assert seeds["program.json"] == [] and seeds["candidate.json"]
    assert all(demo in pool for demo in seeds["candidate.json"])
    system = f"vanilla:program={plan.folder}/candidate.json"
    table = (
        "truthful",
        "--data",
        "runs/truthful/test.jsonl",
        "--runs",
        "tables",
        "--system",
        system,
        "--json",
    )
    code, out, _ = benchmark(capsys, *table)
    (row,) = json.loads(out)["truthful"]["results"]
    assert code == 0 and (row["asked"], row["failed"]) == (24, 0)
    judged = load_system(f"{SHELF.parent}/benchmarks/truthful_systems.py:vanilla", TASK)
    spri.load_program(judged, plan.folder / "candidate.json")
    assert [dict(demo) for demo in judged.judge.ask["score"].demos] == seeds["candidate.json"]


def test_labeled_few_shot_finds_demos_in_the_same_rows(folder):
    text = Path("optimize/truthful.toml").read_text("utf-8")
    head, _, rest = text.partition("[optimizer]")
    tail = rest.partition("[experiment]")[2]
    chosen = 'name = "labeled_few_shot"\nstages = ["judge.ask[\'score\']"]\noptions = { k = 4 }\n'
    Path("optimize/truthful.toml").write_text(f"{head}[optimizer]\n{chosen}[experiment]{tail}", "utf-8")
    plan = command.plan(asked(run="runs/few"))
    report = plan.execute().report
    assert report.stopped is None and len(report.trials) == 2


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("train", r"example 'train/q\d+/\d' is of TruthfulQA, an evaluation set: nothing of it is tuned on"),
        ("unnamed", 'validation is of TruthfulQA, an evaluation set: .*select_on = \\["TruthfulQA"\\]'),
    ],
)
def test_nothing_is_trained_on_it_and_nothing_chosen_on_it_unsaid(folder, place, said):
    text = Path("optimize/truthful.toml").read_text("utf-8")
    if place == "train":
        text = text.replace(f'"{SHELF}/data/truths.jsonl"', '"../runs/truthful/test.jsonl"')
    else:
        text = text.replace('select_on = ["TruthfulQA"]', "select_on = []")
    Path("optimize/truthful.toml").write_text(text, "utf-8")
    with pytest.raises(LeakError, match=said):
        command.plan(asked())
    assert not Path("runs/truthful/seed-search").exists()


def test_validation_has_other_questions_than_test_and_train_and_no_categories(folder):
    train = list(TASK.examples(questions.TRAIN))
    data = made_up(40)
    data[3]["question"] = train[0].input_values["instruction"].lower()
    examples = list(TASK.examples(data))
    found = questions.sets(examples, train, validation=29, test=10)
    ids = {name: {row["id"] for row in part} for name, part in found.items()}
    assert len(ids["validation"]) == 29 and not ids["validation"] & ids["test"]
    assert "q3" not in ids["validation"] or "q3" in ids["test"]
    assert all(row["category"] is None for part in found.values() for row in part)
    assert all(row["evaluation_only"] == "TruthfulQA" for part in found.values() for row in part)


def test_mistakes_are_one_line(folder, capsys):
    capsys.readouterr()
    assert questions.main(["--data", "labels.jsonl", "--validation", "400"]) == 2
    assert "only" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert questions.main(["--data", "nowhere.jsonl"]) == 2


def test_the_training_rows_are_pairs_with_reasons():
    examples = list(TASK.examples(questions.TRAIN))
    assert len(examples) == 48
    for true, false in zip(examples[::2], examples[1::2], strict=True):
        assert true.cluster == false.cluster
        assert {true.human_score, false.human_score} == {1, 5}
    for e in examples:
        assert e.score == e.human_score and e.feedback.startswith("True:" if e.score == 5 else "False:")
        assert "evaluation_only" not in e.label_values
        assert 12 <= len(e.input_values["answer"].split()) <= 25
    firsts = [e.score for e in examples[::2]]
    assert firsts.count(5) == firsts.count(1)  # so that a place tells nothing


def test_no_training_row_is_a_question_of_truthfulqa():
    own = [Text(e.id, e.input_values["instruction"], "train") for e in TASK.examples(questions.TRAIN)]
    theirs = [
        Text(str(row["id"]), row["question"], name)
        for name in ("human_labels", "mc")
        for row in rows(data_file(f"truthfulqa/{name}.jsonl"))
    ]
    assert len(theirs) > 800
    assert find_leaks(own, theirs) == []
    planted = [Text("copy", f"{theirs[0].text.lower()} ", "train")]
    assert find_leaks(planted, theirs)  # the guard sees a copy


def test_the_test_questions_are_those_of_the_table(tmp_path):
    path = data_file("truthfulqa/human_labels.jsonl")
    found = questions.sets(list(TASK.examples(str(path))), list(TASK.examples(questions.TRAIN)))
    table = truthful.sample(str(path), tmp_path, questions=50, answers=2)
    judged = {(e.id, e.input_values["answer"]) for e in TASK.examples(str(table))}
    assert {(e.id, e.input_values["answer"]) for e in TASK.examples(found["test"])} == judged
    texts = {
        name: [Text(row["id"], row["instruction"], name) for row in part] for name, part in found.items()
    }
    assert len(texts["validation"]) == 80 and not find_leaks(texts["validation"], texts["test"])
