"""Recipes: every mistake is named by file and field, and what comes out says all that is needed to trust it."""

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.commands import recipe
from spri_dspy.commands import tune as command
from spri_dspy.errors import LeakError, UnknownNameError, UsageError
from spri_dspy.lms.cache import CallCache
from spri_dspy.metrics.metric import ORACLE
from spri_dspy.records import Estimate
from spri_dspy.report import tuning as shown
from spri_dspy.runs import RunDir
from spri_dspy.tuning.decision import Decision
from spri_dspy.tuning.optimizers import optimizers
from spri_dspy.tuning.plots import draw, points
from spri_dspy.tuning.report import TuningReport
from tests.command import write

SHELF = Path(__file__).parents[2] / "optimize"
NAMES = ("reappraisal", "rubrics", "sft")
QUICK = """
task = "reappraisal"
[data]
file = "posts.jsonl"
limit = 48
[metric]
name = "mix"
[optimizer]
name = "labeled_few_shot"
stages = ["principles.generate"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place to work in, with posts in it."""
    monkeypatch.chdir(tmp_path)
    rows = (SHELF / "data" / "reappraisal.jsonl").read_text("utf-8").splitlines()
    write(tmp_path / "posts.jsonl", *rows)
    return tmp_path


def written(folder, text=QUICK):
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "tusk = 'x'\n[metric]\nname = 'mix'",
            "unknown field 'tusk'; known: budget, data, experiment, lms, .*task",
        ),
        (
            "task = 'x'\n[metric]\nname = 'mix'\n[data]\ntrian = 'x'",
            "unknown field 'data.trian'; known: file, .*train",
        ),
        (
            "task = 'x'\n[metric]\nname = 'mix'\n[data.fractions]\ntrain = 0.5\nvalidation = 0.3\ntest = 0.1",
            "add up to 1",
        ),
        ("task = 'x'\n[metric]\nname = 'mix'\n[data]\nvalidation = 'x'", "data.train is missing"),
        ("task = 'x'\n[metric]\nname = 'mix'\n[data]\nfile = 'x'\ntrain = 'y'", "either file .* or train"),
        (
            "task = 'x'\n[metric]\nname = 'mix'\n[data]\nlimit = 0",
            "'data.limit': input should be greater than or equal to 1",
        ),
        (
            "task = 'x'\n[metric]\nname = 'mix'\n[budget]\nmax_calls = 'all'",
            "'budget.max_calls'.* valid integer, not 'all'",
        ),
        (
            "task = 'x'\n[metric]\nname = 'mix'\n[experiment]\nlevel = 2.0",
            "'experiment.level': input should be less than or equal to 1, not 2.0",
        ),
        ("task = 'x'\nmetric = 'mix'", "the field 'metric' must be a table, not 'mix'"),
        ("task = 'x'", "the field 'metric' is missing"),
        ("task = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named_by_file_and_field(folder, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        recipe.read(written(folder, text))
    assert str(caught.value).startswith(str(folder / "recipe.toml")) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (('"reappraisal"', '"nothing"'), UnknownNameError, "unknown task 'nothing'"),
        (
            ('"labeled_few_shot"', '"grid"'),
            UnknownNameError,
            "unknown optimizer 'grid'; known: bootstrap_few_shot",
        ),
        (
            ('stages = ["principles.generate"]', "options = { kk = 1 }"),
            UnknownNameError,
            "option of labeled_few_shot 'kk'",
        ),
        (
            ('stages = ["principles.generate"]', "options = { k = 'many' }"),
            UsageError,
            "option k of labeled_few_shot: input should be a valid integer, not 'many'",
        ),
        (
            ('"labeled_few_shot"', '"seed_search"\noptions = { proposals = "many" }'),
            UsageError,
            "option proposals of seed_search: input should be a valid integer, not 'many'",
        ),
        (
            ('name = "mix"', 'name = "mux"'),
            UnknownNameError,
            "unknown metric 'mux'; known: .*mix, pair_accuracy, pearson",
        ),
        (('name = "mix"', 'name = "mix"\nlabel = "x"'), UsageError, "setting of the metric mix 'label'"),
        (('name = "mix"', 'name = "pearson"\nweight = 0.5'), UsageError, "metric pearson 'weight'"),
        (("posts.jsonl", "post.jsonl"), UsageError, "post.jsonl cannot be read"),
        (('name = "mix"', 'name = "mix"\njudge = "harsh"'), UnknownNameError, "unknown judge 'harsh'"),
        (
            ('name = "mix"', 'name = "mix"\njudge_settings = { sample = 2 }'),
            UnknownNameError,
            "setting of .* 'sample'",
        ),
        (("[metric]", "[lms]\nboss = 'offline'\n[metric]"), UnknownNameError, "unknown role 'boss'"),
        (("[metric]", "[lms]\nbase = 'gpt'\n[metric]"), UsageError, "'gpt' needs a provider"),
        (("[metric]", "[program]\nsystem = 'magic'\n[metric]"), UnknownNameError, "unknown system 'magic'"),
        (
            ("[metric]", "[program]\nstart = 'gone.json'\n[metric]"),
            UsageError,
            "gone.json cannot be read",
        ),
    ],
)
def test_mistakes_beyond_the_fields_are_refused_before_anything_is_written(folder, change, error, said):
    path = written(folder, QUICK.replace(*change))
    with pytest.raises(error, match=said) as caught:
        command.plan(recipe.read(path))
    assert "\n" not in str(caught.value)
    assert not (folder / "runs").exists()


def test_the_command_line_changes_what_it_names_and_nothing_else(folder):
    asked = recipe.read(written(folder))
    changed = recipe.change(
        asked,
        lms={"judge": "offline?seed=2"},
        data="other.jsonl",
        run="there",
        limit=7,
        seed=5,
        budget={"max_calls": 9},
    )
    assert (changed.seed, changed.data.limit, changed.output.run, changed.budget.max_calls) == (
        5,
        7,
        "there",
        9,
    )
    assert changed.lms == {"judge": "offline?seed=2"} and changed.data.file == str(folder / "other.jsonl")
    assert (changed.metric, changed.optimizer) == (asked.metric, asked.optimizer)
    assert recipe.change(asked) == asked
    with pytest.raises(UsageError, match=r"the command line: the field 'data.limit'"):
        recipe.change(asked, limit=0)


def test_the_program_says_all_that_is_needed_to_trust_it(folder):
    plan = command.plan(recipe.read(written(folder)))
    tuned = plan.execute()
    saved = json.loads((plan.folder / "program.json").read_text("utf-8"))
    about = saved.pop("metadata")["tuning"]
    assert saved == json.loads(json.dumps(tuned.dump_state()))
    assert about["recipe"]["optimizer"]["name"] == about["optimizer"] == "labeled_few_shot"
    ids = [name for part in about["splits"].values() for name in part["ids"]]
    assert len(ids) == len(set(ids)) == 48 and set(about["splits"]) == {"train", "search", "holdout", "test"}
    for before in (about["decision"]["start"], about["test"]["before"]):
        assert before["low"] <= before["value"] <= before["high"] and before["n"] > 9
    with closing(CallCache(plan.folder / "cache")) as cache:
        assert about["costs"]["calls"] == sum(calls for calls, _, _ in cache.spent().values())
    assert about["costs"]["usd"] == 0.0 and about["versions"]["dspy"] == "3.4.1"
    assert about["lms"] == {"base": "offline", "judge": "offline"} and about["leaks"] == []
    assert about["files"]["train"]["name"] == "posts.jsonl"
    trials = [json.loads(line) for line in (plan.folder / "trials.jsonl").read_text("utf-8").splitlines()]
    assert trials[0]["name"] == "start" and len(trials) > 1
    more = QUICK.replace("[metric]", f'[program]\nstart = "{plan.folder}/program.json"\n[metric]')
    again = command.plan(recipe.read(written(folder, more)))
    assert again.program.dump_state() == saved
    theirs = spri.SPRI(spri.load_task("reappraisal"))
    theirs.load(plan.folder / "program.json")
    assert theirs.dump_state() == saved


def test_the_hash_of_a_recipe_is_of_what_it_says_and_not_of_where_it_lies(folder, tmp_path_factory):
    one = command.plan(recipe.read(written(folder)))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "posts.jsonl", *(folder / "posts.jsonl").read_text("utf-8").splitlines())
    two = command.plan(recipe.read(written(elsewhere)))
    other = command.plan(recipe.read(written(elsewhere, QUICK + "options = { k = 3 }")))
    assert one.recipe_hash == two.recipe_hash != other.recipe_hash
    cheap = recipe.change(recipe.read(written(folder)), budget={"max_calls": 10})
    assert command.plan(cheap).recipe_hash == one.recipe_hash


def test_fractions_cut_one_file_and_keep_clusters_whole(folder):
    text = (SHELF / "rubrics.toml").read_text("utf-8").replace("data/", f"{SHELF}/data/")
    job = command.plan(recipe.read(written(folder, text)))
    parts = job.splits.parts()
    clusters = [{e.cluster for e in part} for part in parts.values()]
    assert sum(map(len, clusters)) == len(set().union(*clusters)) == 64
    sizes = {name: len(part) for name, part in parts.items()}
    assert sizes["test"] == pytest.approx(0.3 * 128, abs=6) and sizes["train"] == pytest.approx(
        0.2 * 128, abs=6
    )


def test_texts_on_two_sides_are_refused_or_mark_the_program(folder):
    rows = (folder / "posts.jsonl").read_text("utf-8").splitlines()
    write(folder / "train.jsonl", *rows[:20])
    write(folder / "validation.jsonl", *rows[20:40])
    write(folder / "test.jsonl", *rows[39:60])
    three = 'train = "train.jsonl"\nvalidation = "validation.jsonl"\ntest = "test.jsonl"'
    path = written(folder, QUICK.replace('file = "posts.jsonl"', three))
    with pytest.raises(LeakError, match=r"validation/post-40.*test/post-40.*--allow-leak"):
        command.plan(recipe.read(path))
    plan = command.plan(recipe.read(path), allow_leak=True)
    plan.execute()
    saved = json.loads((plan.folder / "program.json").read_text("utf-8"))
    assert "post-40" in saved["metadata"]["tuning"]["leaks"][0]
    assert any("marked" in line for line in shown.outcome(RunDir.read(plan.folder)))


def test_a_seed_among_the_validation_posts_is_refused(folder):
    seed = next(dict(s) for s in spri.load_task("reappraisal").seeds)
    rows = (folder / "posts.jsonl").read_text("utf-8").splitlines()
    write(folder / "train.jsonl", *rows[:20])
    write(
        folder / "validation.jsonl",
        *rows[20:50],
        {"post": seed["post"], "dimension": seed["group"], "id": "seen"},
    )
    path = written(
        folder,
        QUICK.replace('file = "posts.jsonl"', 'train = "train.jsonl"\nvalidation = "validation.jsonl"'),
    )
    with pytest.raises(LeakError, match="validation/seen"):
        command.plan(recipe.read(path))


def test_only_a_search_is_thrown_away(folder):
    plan = command.plan(recipe.read(written(folder)))
    first = plan.execute()
    (plan.folder / "mine.txt").write_text("x")
    again = command.plan(recipe.read(written(folder)))
    assert again.execute(fresh=True).dump_state() == first.dump_state()
    assert not (plan.folder / "mine.txt").exists()
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="holds no tuning run"):
        command.throw_away(folder / "other")
    assert (folder / "other" / "mine.txt").exists()


def test_the_oracle_label_is_made_by_a_rubric_judge_with_the_recipes_lm(folder):
    text = (SHELF / "rubrics.toml").read_text("utf-8").replace("data/", f"{SHELF}/data/")
    text = text.replace('label = "human_score"', 'label = "oracle"').replace(
        'base = "offline"', 'base = "offline"\njudge = "offline?seed=7"'
    )
    job = command.plan(recipe.read(written(folder, text)))
    metric = job.experiment.metric
    assert metric.label == ORACLE and metric.oracle.name == "rubric"
    assert job.lms == {"base": "offline", "judge": "offline?seed=7"}


def test_the_seed_reaches_lms_that_state_none(folder):
    text = QUICK.replace("[metric]", "[lms]\nbase = 'offline'\ncritic = 'offline?seed=3'\n[metric]")
    job = command.plan(recipe.change(recipe.read(written(folder, text)), seed=5))
    assert {role: str(spec) for role, spec in job.specs.items()} == {
        "base": "offline?seed=5",
        "critic": "offline?seed=3",
        "judge": "offline?seed=5",
    }


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_has_a_forecast(folder, name):
    plan = command.plan(recipe.read(written(folder, QUICK.replace("labeled_few_shot", name))))
    forecast = plan.forecast().to_json()
    runs = forecast["program_runs"]
    assert all(isinstance(n, int) and n >= 0 for n in runs.values())
    assert runs["decision"] == 2 * len(plan.splits.holdout)
    assert forecast["calls"]["most"] > sum(runs.values()) and forecast["calls"]["fewest"] > 0
    assert "nothing was run" in list(plan.forecast().lines())[-1]
    assert not (folder / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_recipes_on_the_shelf_run_offline(folder, name):
    plan = command.plan(recipe.read(SHELF / f"{name}.toml"))
    report = plan.execute().report
    assert report.stopped is None
    assert report.test["before"].n > 20
    lines = "\n".join(shown.outcome(RunDir.read(plan.folder)))
    assert "say nothing about quality" in lines and " to 0." not in lines
    assert (plan.folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_every_recipe_of_the_shelf_has_its_results_written_down():
    told = (SHELF / "README.md").read_text("utf-8")
    names = [path.stem for path in SHELF.glob("*.toml")]
    assert sorted(names) == sorted(
        [*NAMES, "truthful"]
    )  # which needs TruthfulQA: tests/test_truthful_recipe.py
    assert all(f"## {name}" in told for name in names)


def test_a_missing_matplotlib_is_a_note(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    job = command.plan(recipe.read(written(folder)))
    job.execute()
    assert job.notes == ['plots need matplotlib: pip install "spri-dspy[plot]"']
    assert not (job.folder / "search.png").exists()


def report(trials, **parts):
    undecided = Decision(False, "because", start=Estimate("mean", 0.5, 9, 0, 0.4, 0.6))
    return TuningReport("mix", "gepa", {}, undecided, **parts, trials=trials)


def test_points_of_a_dspy_search_stand_where_the_optimizer_first_scored_them():
    ends = {"low": 0.4, "high": 0.6}
    trials = [
        {"name": "start", "value": 0.5, **ends, "n": 9, "calls": 40, "program": "s"},
        {"name": "a", "value": None, "low": None, "high": None, "n": 0, "calls": 90, "program": "a"},
        {"name": "b", "value": 0.7, **ends, "n": 9, "calls_then": 60, "calls": 90, "program": "b"},
    ]
    found, unit = points(report(trials, winner="b"))
    shown_points = [(p.spent, p.value, p.is_start, p.is_winner) for p in found]
    assert shown_points == [(40, 0.5, True, False), (60, 0.7, False, True)]
    assert unit == "LM calls"


def test_points_of_a_seed_search_stand_where_their_first_race_ended():
    trials = [
        {"name": "start", "seeds": [0, 2], "value": 0.5, "n": 9, "paid": 20, "program": "s"},
        {"name": "no seeds", "seeds": [], "value": 0.4, "n": 5, "paid": 20, "program": "n"},
        {"name": "seeds 1", "seeds": [1], "value": 0.6, "n": 7, "paid": 33, "program": "1"},
    ]
    found, unit = points(report(trials))
    assert [p.spent for p in found] == [20, 20, 33]
    assert unit == "scores paid for"


@pytest.mark.parametrize(
    "trials", [[], [{"name": "start", "value": 0.5, "low": 0.4, "high": 0.6, "calls": 4, "program": "s"}]]
)
def test_a_search_that_did_not_get_far_can_be_drawn(tmp_path, trials):
    draw(report(trials), tmp_path / "search.png", title="a title", remark="mind this")
    assert (tmp_path / "search.png").stat().st_size > 5000
