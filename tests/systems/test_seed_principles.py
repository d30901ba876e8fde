"""Seed principles: which seed is used, what the prompt says of it, and that the leak guard knows."""

import json
import math
from dataclasses import replace

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.systems import load_system
from spri_dspy.systems.seed_principles import similarities
from spri_dspy.tasks.rubrics import Rubric
from tests.systems.heard import ANSWERED, ASKED, drafted, judged, make

SEEDS = spri.load_task("rubrics").seeds


def test_nearest_seed_of_the_capability_is_the_rubric():
    for seed in (SEEDS[1], SEEDS[5], SEEDS[-1]):
        program, script = make("rubrics", "seed_principles", judged(2))
        words = seed["instruction"].split()
        prediction = program(instruction=" ".join(words[::-1][:12]), answer="a", group=seed["group"])
        assert prediction.principles == Rubric(**seed["principles"])
        assert json.dumps(seed["principles"]["criteria"], ensure_ascii=False) in script.prompts[0]
        assert "written for another instruction" in script.prompts[0]


def test_nearest_seed_stays_within_the_capability():
    program, _ = make("rubrics", "seed_principles", judged())
    other, group = SEEDS[0], SEEDS[-1]["group"]
    prediction = program(instruction=other["instruction"], answer="a", group=group)
    assert prediction.principles in [Rubric(**s["principles"]) for s in SEEDS if s["group"] == group]


@pytest.mark.parametrize("group", [None, "generic"])
def test_without_a_known_capability_all_seeds_are_looked_through(group):
    program, _ = make("rubrics", "seed_principles", judged())
    prediction = program(instruction=SEEDS[-1]["instruction"], answer="a", group=group)
    assert prediction.principles == Rubric(**SEEDS[-1]["principles"])


def test_all_seeds_are_those_of_the_capability():
    program, script = make("rubrics", "seed_principles", judged(), which="all")
    program(**ANSWERED, group="safety")
    for seed in SEEDS:
        assert (seed["principles"]["criteria"] in script.prompts[0]) is (seed["group"] == "safety")


def test_published_judge_scores_everything_with_one_rubric():
    program, script = make("rubrics", "seed_principles", judged(), judged(), paper=True)
    for group in ("safety", "planning"):
        assert program(**ANSWERED, group=group).principles == Rubric(**SEEDS[0]["principles"])
    assert not any("another instruction" in prompt for prompt in script.prompts)


def test_six_seeds_stand_in_the_prompt_for_sft():
    program, script = make("sft", "seed_principles", drafted("scattering"))
    prediction = program(**ASKED)
    seeds = spri.load_task("sft").seeds
    assert len(seeds) == 6
    for text in (prediction.principles, script.prompts[0]):
        assert [text.count(seed["principles"]) for seed in seeds] == [1] * 6
        assert all(seed["instruction"] in text for seed in seeds)


@pytest.mark.parametrize(("which", "expected"), [("first", 0), ("nearest", 4)])
def test_one_seed_stands_in_the_prompt_for_sft_on_request(which, expected):
    program, script = make("sft", "seed_principles", drafted(), which=which)
    program(instruction="Which SQL query lists all members?")
    shown = [seed["principles"] in script.prompts[0] for seed in spri.load_task("sft").seeds]
    assert shown == [n == expected for n in range(6)]


def test_demos_of_the_program_are_the_seeds_or_demos():
    program, script = make("sft", "seed_principles", drafted(), drafted())
    demo = dspy.Example(instruction="Name a tree.", principles="be brief", response="Oak")
    program.generate.demos = [{"instruction": "Tuned.", "principles": "a tuned seed"}, demo]
    assert "a tuned seed" in program(**ASKED).principles
    assert script.prompts[0].count("a tuned seed") == 1
    assert "Name a tree." in script.prompts[0] and "lunar eclipse" not in script.prompts[0]
    program.generate.demos = [demo]
    assert "lunar eclipse" in program(**ASKED).principles


def test_leak_guard_sees_the_seeds(tmp_path):
    row = {"instruction": SEEDS[3]["instruction"], "response": "r"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(spri.LeakError):
        plan(RunRequest(task="rubrics", system="seed_principles", data=tmp_path / "rows.jsonl"))


def test_unknown_choice_and_missing_seeds_are_refused():
    with pytest.raises(spri.UsageError, match="which must be nearest, all, first, not 'best'"):
        make("sft", "seed_principles", which="best")
    with pytest.raises(spri.UsageError, match="sft has no seeds"):
        load_system("seed_principles", replace(spri.load_task("sft"), seeds=()))


def test_similarity_is_the_cosine_of_hand_computed_weights():
    common, rare = math.log(3 / 2.5), math.log(3 / 1.5)  # of 2 texts, a word in both and a word in one
    first, second = similarities("lake", ("old lake", "old mill"))
    assert first == pytest.approx(math.log(2) * rare**2 / math.hypot(common, rare))
    assert second == 0


def test_rare_words_decide_what_is_near():
    texts = ("the cat and the hat", "the dog and the log", "the dog")
    near = similarities("where is the log", texts)
    assert near[1] == max(near)
    assert similarities("nothing shared", texts) == [0.0, 0.0, 0.0]
    assert similarities("THE DOG", texts)[2] == max(similarities("the dog", texts))
