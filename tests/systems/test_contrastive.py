"""Contrastive: a rubric from a labelled pair, kept if the judge prefers alike; seeds from training rows alone."""

import json

import pytest

import spri_dspy as spri
from benchmarks.__main__ import main as benchmark
from spri_dspy.commands.recipe import Recipe
from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.commands.tune import plan as plan_tuning
from spri_dspy.runs import RunDir
from spri_dspy.tasks.rubrics import Rubric
from tests.command import spri as command
from tests.data import data_file, rows
from tests.factories import chat
from tests.systems.heard import ASKED, judged, make

PAIR = {
    **ASKED,
    "preferred_response": "Blue light is scattered most.",
    "rejected_response": "It mirrors the sea.",
}
RUBRIC = {"criteria": "Does it name scattering?"} | {
    f"score{n}_description": f"level {n}" for n in range(1, 6)
}
DRAFTED = [
    ("contrast_responses", chat(rules="Give a reason.", qualities="The reason is physical.")),
    ("generate_principles", chat(principles=json.dumps(RUBRIC))),
]


def test_rubric_that_reproduces_the_preference_is_kept():
    program, script = make("rubrics", "contrastive", *DRAFTED, judged(5), judged(2))
    found = program(**PAIR)
    assert found.principles == Rubric(**RUBRIC)
    assert found.stop_reasons == {"principles": "accepted"}
    assert found.scores == {"preferred_response": 5, "rejected_response": 2}
    assert (found.rules, found.qualities) == ("Give a reason.", "The reason is physical.")
    first, second, better, worse = script.prompts
    assert PAIR["preferred_response"] in first and PAIR["rejected_response"] in first
    assert not any(text in second for text in (PAIR["preferred_response"], PAIR["rejected_response"]))
    assert PAIR["preferred_response"] in better and PAIR["rejected_response"] not in better
    assert PAIR["rejected_response"] in worse and "Does it name scattering?" in worse


@pytest.mark.parametrize("scores", [(2, 5), (3, 3)])
def test_rubric_that_does_not_is_made_again_and_then_given_up(scores):
    once = [*DRAFTED, *map(judged, scores)]
    program, script = make("rubrics", "contrastive", *once, *once)
    found = program(**PAIR)
    assert (found.principles, found.stop_reasons) == (None, {"principles": "exhausted"})
    assert script.left == 0
    program, script = make("rubrics", "contrastive", *once, *DRAFTED, judged(4), judged(1))
    assert program(**PAIR).principles == Rubric(**RUBRIC)


def test_unreadable_judgement_reproduces_nothing():
    garbled = [("generate_response", chat(response="no idea"))] * 3
    program, _ = make("rubrics", "contrastive", *DRAFTED, *garbled, judged(1), tries="1")
    found = program(**PAIR)
    assert found.scores == {"preferred_response": None, "rejected_response": 1}
    assert (found.principles, found.stop_reasons) == (None, {"principles": "unscored"})


def real_pairs(path, start, n):
    """Rows of people's votes of one winner, each of another instruction."""
    found = {}
    for row in rows(data_file("judging/pandalm_999.jsonl")):
        if len(set(row["annotators"]) - {0}) == 1 and 0 not in row["annotators"]:
            found.setdefault(row["instruction"] + row["input"], row)
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in list(found.values())[start : start + n]), "utf-8"
    )
    return path


def asked(data, evaluation, **more):
    settings = {"evaluation": str(evaluation)} if evaluation else {}
    return RunRequest(
        task="rubrics", system="contrastive", settings=settings, data=data, lms={"base": "offline"}, **more
    )


def test_seeds_of_real_rows_are_made_exported_and_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, test = real_pairs(tmp_path / "train.jsonl", 0, 12), real_pairs(tmp_path / "test.jsonl", 40, 3)
    planned = plan(asked(train, test))
    assert planned.manifest["sees"] == "labels"
    with planned.open("run") as directory:
        assert planned.execute(directory).failed == 0
    records = list(RunDir.read("run").records())
    assert len(records) == 24 and len({record.cluster for record in records}) == 12
    kept = {record.cluster for record in records if record.stop_reasons["principles"] == "accepted"}
    assert all(bool(r.outputs["principles"]) is (r.cluster in kept) for r in records)
    code, _, err = command("export", "run", "--format", "rubrics", "--out", "seeds.jsonl")
    assert code == 0, err
    program = spri.SPRI(spri.load_task("rubrics"), seeds="seeds.jsonl")
    assert len(program.principles.generate.demos) == len(kept) > 0
    with pytest.raises(spri.LeakError):
        plan(RunRequest(task="rubrics", settings={"seeds": "seeds.jsonl"}, data=train))
    assert plan(RunRequest(task="rubrics", settings={"seeds": "seeds.jsonl"}, data=test)).total == 6


def test_evaluation_rows_are_refused_before_anything_runs(tmp_path):
    train = real_pairs(tmp_path / "train.jsonl", 0, 3)
    test = real_pairs(tmp_path / "test.jsonl", 2, 3)
    with pytest.raises(spri.LeakError, match="1 pair matches across evaluation, training"):
        plan(asked(train, test))
    assert len(plan(asked(train, test, allow_leak=True)).manifest["leaks"]) == 1


def test_evaluation_rows_have_to_be_named(tmp_path):
    with pytest.raises(spri.UsageError, match="name the rows that they will be evaluated on"):
        plan(asked(real_pairs(tmp_path / "train.jsonl", 0, 3), None))


def test_row_without_a_winner_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "i", "responses": ["a", "b"], "preferred": 0}')
    with pytest.raises(spri.UsageError, match="has no preferred_response, rejected_response"):
        plan(asked(tmp_path / "rows.jsonl", tmp_path / "rows.jsonl"))


def test_tables_and_tunings_refuse_what_is_shown_who_won(tmp_path, capsys):
    code = benchmark(["rubrics", "--systems", "contrastive:evaluation=x.jsonl", "--runs", str(tmp_path)])
    assert code == 2 and "contrastive makes seeds" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    recipe = Recipe.model_validate(
        {"task": "rubrics", "metric": {"name": "pearson"}, "program": {"system": "contrastive"}}
    )
    with pytest.raises(spri.UsageError, match="contrastive makes seeds"):
        plan_tuning(recipe)
