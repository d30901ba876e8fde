"""Recipes: every mistake is named by file and field, and what comes out says all that is needed to trust it."""

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.commands import recipe
from spri_dspy.commands import tune as recipe_run
from spri_dspy.commands.recipe_parts import planned_runs
from spri_dspy.errors import LeakError, UnknownNameError, UsageError
from spri_dspy.lms.cache import CallCache
from spri_dspy.metrics.metric import ORACLE
from spri_dspy.records import Estimate
from spri_dspy.tuning import OPTIMIZERS
from spri_dspy.tuning.decision import Decision
from spri_dspy.tuning.plots import draw, points
from spri_dspy.tuning.search_report import SearchReport
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
            "task = 'x'\n[metric]\nname = 'mux'",
            "unknown metric 'mux'; known: alignment, empathy, mix, pearson, score",
        ),
        (
            "tusk = 'x'\n[metric]\nname = 'mix'",
            "unknown field 'tusk'; known: budget, data, lms, metric, .*task",
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
            "task = 'x'\n[metric]\nname = 'pearson'\nweight = 0.5",
            "metric.weight is of mix only, not of pearson",
        ),
        (
            "task = 'x'\n[metric]\nname = 'mix'\nlabel = 'oracle'",
            "metric.label is of pearson only, not of mix",
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
            "program.start: .*gone.json cannot be read",
        ),
    ],
)
def test_mistakes_beyond_the_fields_are_refused_before_anything_is_written(folder, change, error, said):
    path = written(folder, QUICK.replace(*change))
    with pytest.raises(error, match=said) as caught:
        recipe_run.plan(recipe.read(path))
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


def test_the_outcome_says_all_that_is_needed_to_trust_it(folder):
    job = recipe_run.plan(recipe.read(written(folder)))
    outcome = job.run()
    saved = json.loads((job.folder / "program.json").read_text("utf-8"))
    assert {k: v for k, v in outcome.items() if k not in ("run", "notes")} == saved
    assert saved["format"] == "spri-program/1" and saved["recipe"]["optimizer"]["name"] == "labeled_few_shot"
    ids = [name for part in saved["splits"].values() for name in part["ids"]]
    assert len(ids) == len(set(ids)) == 48 and set(saved["splits"]) == {"train", "search", "confirm", "test"}
    for split in ("validation", "test"):
        before = saved["before"][split]
        assert before["low"] <= before["value"] <= before["high"] and before["n"] > 9
    with closing(CallCache(job.folder / "cache")) as cache:
        assert saved["costs"]["calls"] == sum(calls for calls, _, _ in cache.spent().values())
    assert saved["costs"]["usd"] == 0.0 and saved["versions"]["dspy"] == "3.4.1"
    assert saved["lms"] == {"base": "offline"} and saved["leaks"] == []
    trials = [json.loads(line) for line in (job.folder / "trials.jsonl").read_text("utf-8").splitlines()]
    assert trials[0]["name"] == "start" and len(trials) > 1
    more = QUICK.replace("[metric]", f'[program]\nstart = "{job.folder}/program.json"\n[metric]')
    again = recipe_run.plan(recipe.read(written(folder, more)))
    assert again.program.dump_state() == saved["program"]


def test_the_hash_of_a_recipe_is_of_what_it_says_and_not_of_where_it_lies(folder, tmp_path_factory):
    one = recipe_run.plan(recipe.read(written(folder)))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "posts.jsonl", *(folder / "posts.jsonl").read_text("utf-8").splitlines())
    two = recipe_run.plan(recipe.read(written(elsewhere)))
    other = recipe_run.plan(recipe.read(written(elsewhere, QUICK + "options = { k = 3 }")))
    assert one.recipe_hash == two.recipe_hash != other.recipe_hash
    cheap = recipe.change(recipe.read(written(folder)), budget={"max_calls": 10})
    assert recipe_run.plan(cheap).recipe_hash == one.recipe_hash


def test_fractions_cut_one_file_and_keep_clusters_whole(folder):
    text = (SHELF / "rubrics.toml").read_text("utf-8").replace("data/", f"{SHELF}/data/")
    job = recipe_run.plan(recipe.read(written(folder, text)))
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
        recipe_run.plan(recipe.read(path))
    outcome = recipe_run.plan(recipe.read(path), allow_leak=True).run()
    assert "post-40" in outcome["leaks"][0]
    assert any("marked" in line for line in recipe_run.outcome_lines(outcome))


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
        recipe_run.plan(recipe.read(path))


def test_only_a_search_is_thrown_away(folder):
    job = recipe_run.plan(recipe.read(written(folder)))
    first = job.run()
    (job.folder / "mine.txt").write_text("x")
    again = recipe_run.plan(recipe.read(written(folder)))
    assert again.run(fresh=True)["program"] == first["program"]
    assert not (job.folder / "mine.txt").exists()
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="holds no search"):
        recipe_run.throw_away(folder / "other")
    assert (folder / "other" / "mine.txt").exists()


def test_the_oracle_label_is_made_by_a_rubric_judge_with_the_recipes_lm(folder):
    text = (SHELF / "rubrics.toml").read_text("utf-8").replace("data/", f"{SHELF}/data/")
    text = text.replace('label = "human_score"', 'label = "oracle"').replace(
        'critic = "offline"', 'judge = "offline?seed=7"'
    )
    job = recipe_run.plan(recipe.read(written(folder, text)))
    assert job.metric.label == ORACLE and job.metric.oracle.name == "rubric"
    assert [p.lm.spec.options for _, p in job.metric.oracle.named_predictors()] == [{"seed": 7}]


def test_the_seed_reaches_lms_that_state_none(folder):
    text = QUICK.replace("[metric]", "[lms]\nbase = 'offline'\ncritic = 'offline?seed=3'\n[metric]")
    job = recipe_run.plan(recipe.change(recipe.read(written(folder, text)), seed=5))
    assert {role: str(spec) for role, spec in job.specs.items()} == {
        "base": "offline?seed=5",
        "critic": "offline?seed=3",
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_has_a_forecast(folder, name):
    job = recipe_run.plan(recipe.read(written(folder, QUICK.replace("labeled_few_shot", name))))
    runs = planned_runs(job.search, job.splits)
    assert all(isinstance(n, int) and n >= 0 for n in runs.values())
    assert runs["decision"] == 2 * len(job.splits.confirm)
    assert job.forecast()["calls_typical"]["all"] > sum(runs.values())
    assert "nothing was run" in list(job.forecast_lines())[-1]
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("name", NAMES)
def test_recipes_on_the_shelf_run_offline(folder, name):
    job = recipe_run.plan(recipe.read(SHELF / f"{name}.toml"))
    outcome = job.run()
    assert outcome["stopped"] is None
    assert outcome["before"]["test"]["n"] > 20
    lines = list(recipe_run.outcome_lines(outcome))
    assert any("say nothing about quality" in line for line in lines)
    assert (job.folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_every_recipe_of_the_shelf_has_its_results_written_down():
    told = (SHELF / "README.md").read_text("utf-8")
    assert sorted(path.stem for path in SHELF.glob("*.toml")) == sorted(NAMES)
    assert all(f"## {name}" in told for name in NAMES)


def test_a_missing_matplotlib_is_a_note(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    job = recipe_run.plan(recipe.read(written(folder)))
    assert job.run()["notes"] == ['plots need matplotlib: pip install "spri-dspy[plot]"']
    assert not (job.folder / "search.png").exists()


def report(trials, **parts):
    return SearchReport(
        Decision(False, "because", start=Estimate("mean", 0.5, 9, 0, 0.4, 0.6)),
        "mix",
        {},
        **parts,
        trials=trials,
    )


def test_points_of_a_dspy_search_stand_where_the_optimiser_first_scored_them():
    trials = [
        {"name": "start", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "spend": {"calls": 40}},
        {"name": "a", "value": None, "low": None, "high": None, "n": 0, "spend": {"calls": 90}},
        {
            "name": "b",
            "value": 0.7,
            "low": 0.6,
            "high": 0.8,
            "n": 9,
            "calls_then": 60,
            "spend": {"calls": 90},
        },
    ]
    found, unit = points(report(trials))
    assert [(p.spent, p.value, p.is_start) for p in found] == [(40, 0.5, True), (60, 0.7, False)]
    assert unit == "LM calls"


def test_points_of_a_seed_search_stand_where_their_first_race_ended():
    trials = [
        {"seeds": [0, 2], "is_start": True, "value": 0.5, "n": 9},
        {"seeds": [], "is_start": False, "value": 0.4, "n": 5},
        {"seeds": [1], "is_start": False, "value": 0.6, "n": 7},
    ]
    rounds = [
        {"candidates": ["start", "no seeds"], "paid_so_far": 20},
        {"candidates": ["start", "seeds 1"], "paid_so_far": 33},
    ]
    found, unit = points(report(trials, rounds=rounds))
    assert [p.spent for p in found] == [20, 20, 33]
    assert unit == "scores paid for"


@pytest.mark.parametrize(
    "trials", [[], [{"name": "start", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "spend": {"calls": 4}}]]
)
def test_a_search_that_did_not_get_far_can_be_drawn(tmp_path, trials):
    draw(report(trials), tmp_path / "search.png", title="a title", remark="mind this")
    assert (tmp_path / "search.png").stat().st_size > 5000
