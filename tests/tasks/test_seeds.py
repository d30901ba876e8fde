"""The vocabulary of seeds: the same words on the command line and in Python, and what each of them shows."""

import json
from collections import Counter

import pytest

import spri_dspy as spri
from spri_dspy.errors import DataError, UsageError
from spri_dspy.lms.replay import replay_lm
from spri_dspy.systems import load_system
from spri_dspy.tasks.seeds import SEEDS
from tests.command import assert_refused, write
from tests.command import spri as command
from tests.factories import chat
from tests.systems.heard import Heard

OWN = {"post": "My cat left.", "aim": "Help me wait.", "principles": "1. Name the cat.", "group": "cats"}
GROUPS = {"reappraisal": 6, "rubrics": 8, "sft": 1}
RUBRIC = {"criteria": "c"} | {f"score{n}_description": f"d{n}" for n in range(1, 6)}


@pytest.fixture(scope="module")
def task():
    return spri.load_task("reappraisal")


def both(task, seeds):
    """The program as Python makes it; the command line's has the same seeds."""
    ours, theirs = spri.SPRI(task, seeds=seeds), load_system("spri", task, seeds=seeds)
    for program in (ours, theirs, spri.SPRI.paper(task, seeds=seeds)):
        assert [d.toDict() for d in program.principles.generate.demos] == [
            d.toDict() for d in ours.principles.generate.demos
        ]
        assert program.principles.generate.show == ours.principles.generate.show
    return ours


@pytest.mark.parametrize(
    ("seeds", "held", "show"),
    [
        ("task", 6, "group"),
        ("none", 0, "group"),
        ("default", 6, "group"),
        ("all", 6, "all"),
        ("k:1", 6, "group"),
        ("nearest:3", 6, "nearest:3"),
    ],
)
def test_every_word_means_the_same_in_python_and_on_the_command_line(task, seeds, held, show):
    predictor = both(task, seeds).principles.generate
    assert (len(predictor.demos), predictor.show) == (held, show)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("count", [1, 2])
def test_k_takes_the_first_seeds_of_each_group(name, count):
    task = spri.load_task(name)
    held = both(task, f"k:{count}").principles.generate.demos
    counts = Counter(demo.get("group") for demo in held)
    assert len(counts) == GROUPS[name] and max(counts.values()) <= count
    assert [d.toDict() for d in held] == [
        dict(s) for s in task.seeds if dict(s) in [d.toDict() for d in held]
    ]


def test_group_and_all_differ_in_what_an_input_is_shown(task):
    def shown(seeds):
        script = Heard([("generate_principles", chat(principles="p"))])
        program = spri.SPRI(task, seeds=seeds)
        program.principles.generate.lm = replay_lm(script)
        program.principles.generate(post="x", aim="y", group=task.seeds[0]["group"])
        return sum(seed["principles"].splitlines()[0] in script.prompts[0] for seed in task.seeds)

    assert (shown("task"), shown("all"), shown("nearest:2"), shown("none")) == (1, 6, 2, 0)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json"])
def test_seeds_of_a_file_are_held_with_their_group(task, tmp_path, kind):
    path = tmp_path / f"mine.{kind}"
    if kind == "csv":
        path.write_text("post,aim,principles,group\nMy cat left.,Help me wait.,1. Name the cat.,cats\n")
    else:
        path.write_text(json.dumps([OWN] if kind == "json" else OWN))
    (demo,) = both(task, str(path)).principles.generate.demos
    assert demo.toDict() == OWN


def test_rows_and_examples_of_python_are_seeds_too(task):
    (demo,) = spri.SPRI(task, seeds=[OWN]).principles.generate.demos
    (same,) = spri.SPRI(task, seeds=[demo]).principles.generate.demos
    assert demo.toDict() == same.toDict() == OWN


def test_group_of_a_seed_is_told_by_its_aim(task):
    aim = task.seeds[2]["aim"]
    (demo,) = spri.SPRI(
        task, seeds=[{"post": "x", "aim": aim, "principles": "1. y"}]
    ).principles.generate.demos
    assert demo.group == task.seeds[2]["group"]


@pytest.mark.parametrize("principles", [RUBRIC, json.dumps(RUBRIC)])
def test_principles_of_a_type_are_checked(tmp_path, principles):
    path = write(tmp_path / "r.jsonl", {"instruction": "x", "principles": principles, "group": "safety"})
    (demo,) = both(spri.load_task("rubrics"), str(path)).principles.generate.demos
    assert demo.principles == RUBRIC
    write(path, {"instruction": "x", "principles": "be kind"})
    with pytest.raises(DataError, match=r"r.jsonl, line 1: the column 'principles' is no Rubric: "):
        spri.SPRI(spri.load_task("rubrics"), seeds=str(path))


@pytest.mark.parametrize(
    "seeds", ["", "all:2", "k", "k:0", "k:x", "nearest", "nearest:-1", "closest:2", "Task"]
)
def test_other_words_are_answered_with_the_menu(task, seeds):
    for make in (spri.SPRI, spri.SPRI.paper, lambda task, seeds: load_system("spri", task, seeds=seeds)):
        with pytest.raises(UsageError) as refused:
            make(task, seeds=seeds)
        assert all(word in str(refused.value) for word in SEEDS)


BAD = {
    "mine.jsonl": "mine.jsonl cannot be read: No such file",
    "empty.jsonl": "empty.jsonl has no rows",
    "part.jsonl": "part.jsonl, line 1: missing column 'aim'; it has post, principles",
    "bare.jsonl": "bare.jsonl, line 1: missing column 'principles'",
}


@pytest.mark.parametrize("name", BAD)
def test_file_of_seeds_that_cannot_be_used_is_one_line_on_the_command_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    write(tmp_path / "part.jsonl", {"post": "x", "principles": "y"})
    write(tmp_path / "bare.jsonl", {"post": "x", "aim": "y"})
    assert_refused(command("run", "reappraisal", "--set", f"seeds={name}", "--run", "new"), 2, BAD[name])


def test_command_line_runs_with_seeds_of_a_file_and_refuses_those_that_are_evaluated_on(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.jsonl", OWN)
    code, out, err = command(
        "run", "reappraisal", "--set", "seeds=mine.jsonl", "--limit", 1, "--run", "r", "--json"
    )
    assert code == 0 and json.loads(out)["outputs"]["principles"], err
    manifest = json.loads((tmp_path / "r/manifest.json").read_text())
    assert manifest["settings"]["seeds"] == "mine.jsonl" and manifest["seeds"] == {
        "principles.generate": {"cats": 1}
    }
    post = next(iter(spri.load_task("reappraisal").examples())).input_values["post"]
    write(tmp_path / "leak.jsonl", OWN | {"post": post})
    assert_refused(command("run", "reappraisal", "--set", "seeds=leak.jsonl", "--run", "s"), 2, "leak")
