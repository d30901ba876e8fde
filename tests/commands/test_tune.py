"""spri tune and python -m optimize: one command from a recipe to a program that runs elsewhere with other LMs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optimize import __main__ as shelf
from tests.command import assert_refused, files, spri, write
from tests.servers.openai_mock import MockConfig

REPOSITORY = Path(__file__).parents[2]
POSTS = (REPOSITORY / "optimize" / "data" / "reappraisal.jsonl").read_text("utf-8").splitlines()
RECIPE = """
task = "reappraisal"
[data]
file = "posts.jsonl"
limit = 48
[metric]
name = "mix"
[optimizer]
name = "labeled_few_shot"
stages = ["principles.generate"]
[output]
run = "tuned"
plot = false
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A recipe in a place of its own."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "posts.jsonl", *POSTS)
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    return tmp_path / "recipe.toml"


def python(*arguments, **environment):
    """A fresh interpreter in the current directory."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
    )


def test_a_recipe_is_run_resumed_and_reported(path):
    code, out, err = spri("tune", path)
    assert code == 0, err
    assert out.startswith("reappraisal, labeled_few_shot by mix: ")
    assert " programs scored; " in out and " LM calls, " in out
    assert "the offline LM answered: its figures say nothing about quality and are left out" in out
    assert "next: spri run reappraisal --program tuned/program.json" in err
    before = files(path.parent / "tuned" / "trials")
    code, again, _ = spri("tune", path)
    assert (code, again) == (0, out)
    assert files(path.parent / "tuned" / "trials") == before


def test_json_is_one_line_with_the_outcome(path):
    code, out, _ = spri(
        "tune",
        path,
        "--json",
        "--limit",
        "40",
        "--seed",
        "3",
        "--run",
        "elsewhere",
        "--lm",
        "judge=offline?seed=9",
    )
    assert code == 0 and out.count("\n") == 1
    found = json.loads(out)
    assert found["run"] == "elsewhere"
    assert sum(part["examples"] for part in found["splits"].values()) == 40
    assert found["lms"] == {"base": "offline?seed=3", "judge": "offline?seed=9"}
    assert {"decision", "test", "costs", "stopped", "winner"} <= set(found)
    assert not {"trials", "pool"} & set(found)


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(path):
    before = files(path.parent)
    code, out, _ = spri("tune", path, "--dry-run", "--max-calls", "500")
    assert code == 0 and out.endswith("nothing was run and nothing was written\n")
    assert "10 train, 12 search, 12 holdout, 14 test examples; budget: max_calls 500" in out
    code, out, _ = spri("tune", path, "--dry-run", "--json")
    assert json.loads(out)["calls"]["most"] > 100
    assert files(path.parent) == before


def test_a_budget_ends_the_search_and_is_kept(path):
    code, out, _ = spri("tune", path, "--max-calls", "60")
    assert code == 0 and "stopped early: the budget of 60 LM calls is spent" in out
    saved = json.loads((path.parent / "tuned" / "program.json").read_text("utf-8"))
    about = saved["metadata"]["tuning"]
    assert about["costs"]["calls"] <= 60 and not about["decision"]["improved"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.toml"], "the recipe gone.toml cannot be read"),
        (["{}", "--lm", "boss=offline"], "unknown role 'boss'; known: base, critic, judge"),
        (["{}", "--lm", "base"], "--lm takes ROLE=STRING"),
        (["{}", "--limit", "0"], "the command line: the field 'data.limit'"),
        (["{}", "--limit", "12"], "give more examples, or a higher limit"),
        (["{}", "--max-calls", "0"], "the command line: the field 'budget.max_calls'"),
        (["{}", "--data", "gone.jsonl"], "gone.jsonl cannot be read"),
    ],
)
def test_mistakes_are_one_line(path, arguments, said):
    assert_refused(spri("tune", *(part.format(path) for part in arguments)), 2, said)


def test_another_search_in_the_same_place_is_refused_by_name_unless_fresh(path):
    assert spri("tune", path)[0] == 0
    refused = spri("tune", path, "--seed", "1")
    assert_refused(refused, 2, "tuned holds another run", "seed: 0 there, 1 now", "--fresh")
    assert spri("tune", path, "--seed", "1", "--fresh")[0] == 0


def test_leaks_are_refused_unless_allowed_and_then_marked(path):
    write(path.parent / "test.jsonl", *POSTS[30:50])
    write(path.parent / "train.jsonl", *POSTS[:31])
    path.write_text(
        RECIPE.replace('file = "posts.jsonl"', 'train = "train.jsonl"\ntest = "test.jsonl"'), "utf-8"
    )
    assert_refused(spri("tune", path), 2, "leak: 1 pair matches", "post-31", "--allow-leak")
    code, out, _ = spri("tune", path, "--allow-leak", "--json")
    assert code == 0 and "post-31" in json.loads(out)["splits"]["leaks"][0]


def test_the_tuned_program_runs_in_a_fresh_process_with_other_lms(path):
    assert spri("tune", path)[0] == 0
    saved = json.loads((path.parent / "tuned" / "program.json").read_text("utf-8"))
    # Whether the search found something or not, the file is read; so give it words that only it can have brought.
    state = saved["principles.generate"]
    state["signature"]["instructions"] = "Write principles, and mind the walrus."
    state["demos"] = state["demos"][:2]
    (path.parent / "tuned" / "program.json").write_text(json.dumps(saved), "utf-8")
    command = "from spri_dspy.cli import main; main()"
    arguments = [
        "--program",
        "tuned/program.json",
        "--lm",
        "base=offline?temperature=0.2",
        "--lm",
        "critic=offline?seed=8",
    ]
    done = python("-c", command, "run", "reappraisal", "--limit", "2", "--run", "run", *arguments)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((path.parent / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["lms"] == {"base": "offline?temperature=0.2", "critic": "offline?seed=8"}
    records = [
        json.loads(line) for line in (path.parent / "run" / "records.jsonl").read_text("utf-8").splitlines()
    ]
    assert [r["error"] for r in records] == [None, None] and all(r["outputs"]["response"] for r in records)
    code = (
        "import sys, spri_dspy as spri; from pathlib import Path; from spri_dspy.program import load_program\n"
        "p = spri.SPRI(spri.load_task('reappraisal')).set_lms(base='offline?seed=4')\n"
        "p.load('tuned/program.json')\n"
        "g = p.principles.generate; print(g.signature.instructions, len(g.demos), str(g.lm.spec))"
    )
    assert (
        python("-c", code).stdout.split("\n")[-2] == "Write principles, and mind the walrus. 2 offline?seed=4"
    )


def test_the_shelf_lists_its_recipes_and_refuses_others(capsys):
    assert shelf.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name}" in listed for name in ("reappraisal", "rubrics", "sft"))
    assert shelf.main(["nothing"]) == 2
    assert "unknown recipe 'nothing'; known: reappraisal, rubrics, sft" in capsys.readouterr().err


def test_a_recipe_of_the_shelf_runs_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = python("-m", "optimize", "sft", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sft, bootstrap_random_search by score: 21 train")
    assert not list(tmp_path.iterdir())


def test_made_up_examples_are_what_their_script_writes(tmp_path, monkeypatch):
    from optimize import made_up

    monkeypatch.setattr(made_up, "FOLDER", tmp_path)
    made_up.main()
    there = REPOSITORY / "optimize" / "data"
    for name in ("reappraisal", "rubrics", "sft"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (there / f"{name}.jsonl").read_bytes()


def test_calls_over_http_are_counted_kept_and_stopped_by_the_budget(path, start_mock):
    mock = start_mock(MockConfig(accept=0.6, rates={"rate_limit": 0.02}, retry_after_seconds=0.01))
    recipe = RECIPE.replace("labeled_few_shot", "bootstrap_random_search").replace('"mix"', '"empathy"')
    path.write_text(recipe, "utf-8")
    lm = f"hosted_vllm/mock?api_base={mock.base_url}"
    arguments = [part for role in ("base", "critic", "judge") for part in ("--lm", f"{role}={lm}")]
    code, out, err = spri("tune", path, *arguments, "--json", "--max-calls", "700")
    assert code == 0, err
    found, stats = json.loads(out), mock.stats
    assert found["costs"]["calls"] == stats.n_answered <= 700
    assert found["costs"]["input_tokens"] == stats.input_tokens
    assert found["stopped"] is None or "budget" in found["stopped"]
    again = json.loads(spri("tune", path, *arguments, "--json", "--max-calls", "700")[1])
    assert again == found and mock.stats.n_answered == stats.n_answered


def requests(mock):
    """Chat requests that a mock server got."""
    return mock.stats.received


def real(mock, *roles):
    """Options that give roles the LM of a mock server."""
    lm = f"hosted_vllm/mock?api_base={mock.base_url}"
    return [part for role in roles for part in ("--lm", f"{role}={lm}")]


@pytest.mark.parametrize(
    ("recipe", "roles", "said"),
    [
        (RECIPE, ["base"], "the judge would be the offline LM, .* pass --lm judge=PROVIDER/MODEL"),
        (RECIPE, ["base", "critic"], "--lm judge="),
        (
            RECIPE.replace("[metric]", '[lms]\ncritic = "offline"\n[metric]'),
            ["base", "judge"],
            "--lm critic=",
        ),
    ],
)
def test_what_is_paid_for_is_not_scored_by_the_offline_lm(path, start_mock, recipe, roles, said):
    mock = start_mock(MockConfig())
    path.write_text(recipe, "utf-8")
    code, out, err = spri("tune", path, *real(mock, *roles))
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert re.search(said, err), err
    assert requests(mock) == 0 and not (path.parent / "tuned").exists()


def test_without_a_critic_the_base_criticises(path, start_mock):
    mock = start_mock(MockConfig())
    path.write_text(RECIPE.replace('"mix"', '"empathy"'), "utf-8")
    code, _, err = spri("tune", path, *real(mock, "base", "judge"), "--max-calls", "60", "--json")
    assert code == 0, err
    manifest = json.loads((path.parent / "tuned" / "manifest.json").read_text("utf-8"))
    assert manifest["models"] == {"base": "hosted_vllm/mock", "critic": "hosted_vllm/mock"}


def test_labels_that_are_missing_cost_no_call(path, start_mock):
    mock = start_mock(MockConfig())
    path.write_text(RECIPE.replace('"mix"', '"pearson"'), "utf-8")
    assert_refused(
        spri("tune", path, *real(mock, "base")), 2, "posts.jsonl", "no label human_score", "post-1", "43 more"
    )
    assert requests(mock) == 0 and not (path.parent / "tuned").exists()


def test_a_judge_that_is_shown_what_no_row_has_costs_no_call(path, start_mock):
    mock = start_mock(MockConfig())
    rows = [json.loads(row) for row in POSTS[:48]]
    path.write_text(RECIPE.replace('name = "mix"', 'name = "score"\njudge = "strict.py:judge"'), "utf-8")
    (path.parent / "strict.py").write_text(
        "from spri_dspy.judges import load_judge\n"
        "def judge():\n"
        "    made = load_judge('generic')\n"
        "    made.inputs = ('instruction', 'answer', 'rubric', 'diagnosis')\n"
        "    return made\n"
    )
    refused = spri("tune", path, *real(mock, "base", "judge"))
    assert rows and requests(mock) == 0
    assert_refused(refused, 2, "is shown", "diagnosis")


def test_a_first_batch_without_any_score_ends_the_tuning_with_the_reason(path, start_mock):
    mock = start_mock(MockConfig())  # whose judgements name no harm, which mix needs
    code, out, err = spri("tune", path, *real(mock, "base", "judge"), "--max-calls", "5000")
    assert (code, out) == (3, ""), err
    assert "none of the first 8 examples could be scored, so the search was not begun" in err
    assert requests(mock) <= 8 * (16 + 3 * 4)
    n_before = requests(mock)
    code, _, err = spri("tune", path, *real(mock, "base", "judge"), "--max-calls", "5000")
    assert code == 3 and requests(mock) - n_before <= 8 * 3 * 4


def test_a_first_batch_that_fails_says_what_the_first_failure_was(path, start_mock):
    mock = start_mock(MockConfig(rates={"null_content": 1.0}))
    code, _, err = spri("tune", path, *real(mock, "base", "judge"))
    assert code == 3 and "none of the first 8 examples could be scored" in err
    assert "UnreadableAnswer: generate_principles: no readable answer in 3 samples" in err
    assert requests(mock) == 8 * 3
