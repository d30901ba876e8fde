"""`spri judge --ablate`: the same answers with the run's rubric, with none and with a general one; and the gate."""

import json
import re
from dataclasses import replace

import pytest

import spri_dspy as spri
from spri_dspy.errors import UsageError
from spri_dspy.gate import Gate, load_gate
from spri_dspy.program import fingerprint
from spri_dspy.records import Record, Usage
from spri_dspy.runs import RunDir
from tests.command import spri as command
from tests.judge_parts import make_run, rubric

GENERAL = rubric("anyone's")


def say(score):
    return f"[[ ## feedback ## ]]\nas said\n\n[[ ## score ## ]]\n{score}\n\n[[ ## completed ## ]]"


def answers(messages, body):
    """A judge: told the quality by a general rubric roughly, by own ones exactly, or the other way round in "bad"."""
    text = messages[-1]["content"]
    quality, number = int(re.search(r"quality (\d)", text)[1]), int(re.search(r"number (\d+)", text)[1])
    if "the run's" in text:
        return say(6 - quality if "bad instruction" in text else quality)
    if "Taking accuracy" in text:
        return say(min(5, max(1, quality + (-1, 0, 1)[number % 3])))
    return say(1 + number % 5)


def judged_answers(groups=("bad", "good"), instances=7, **labels):
    number = 0
    for group in groups:
        for instance in range(instances):
            for quality in (1, 2, 4, 5):
                number += 1
                yield Record(
                    f"{group}{instance}-{quality}",
                    {
                        "instruction": f"{group} instruction {instance}: {words(number)}",
                        "answer": f"quality {quality} number {number}",
                    },
                    {"principles": rubric("the run's"), "response": {"feedback": "fair", "score": 3}},
                    group=group,
                    cluster=f"{group}{instance}",
                    usage={"base": Usage(3, 0, 300, 30, 0)},
                    stop_reasons={"principles": "exhausted" if group == "bad" else "accepted"},
                    labels=labels or {"human_score": quality},
                )


def words(number):
    return " ".join(f"{word}{number}" for word in ("alder", "birch", "cedar", "elm", "fir", "holly", "larch"))


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def judge(start_mock):
    return f"judge=hosted_vllm/m?api_base={start_mock(reply=answers).base_url}"


def test_own_rubrics_are_compared_with_none_and_a_general_one(inside, judge):
    make_run(*judged_answers(), task="rubrics")
    code, out, err = command("judge", "r", "--ablate", "--lm", judge, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["measure"] == "macro pearson" and found["n"] == 56
    arms = {name: arm["agreement"]["value"] for name, arm in found["arms"].items()}
    assert arms["own"] == pytest.approx(0, abs=1e-9)
    assert 0.8 < arms["general"] < 1 and abs(arms["none"]) < 0.3
    by_group = {each["where"]: each for each in found["groups"]}
    assert by_group["good"]["low"] > 0 and by_group["bad"]["high"] < 0
    assert by_group["good"]["n"] == 28
    ends = {each["where"]: each["difference"] for each in found["stop_reasons"]}
    assert ends == {
        name: by_group[group]["difference"] for name, group in (("accepted", "good"), ("exhausted", "bad"))
    }
    assert [arm["usage"]["calls"] for arm in found["arms"].values()] == [56, 56, 56]
    assert found["written"]["calls"] == 3 * 56
    assert len(list((RunDir.read("r").path / "judged").iterdir())) == 3


def test_people_read_the_same_in_a_table(inside, judge):
    make_run(*judged_answers(), task="rubrics")
    code, out, err = command("judge", "r", "--ablate", "--lm", judge)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "arm" and "macro pearson" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["own", "none", "general"]
    assert any(line.startswith("own less general") for line in lines)
    assert "next: spri report r" in err
    again = command("judge", "r", "--ablate", "--lm", judge)
    assert again[0] == 0 and "56 finished before" in again[2]


def test_preferences_are_told_by_pairs(inside, judge):
    records = [replace(r, labels={"preference": float(int(r.id[-1]) > 2)}) for r in judged_answers()]
    make_run(*records, task="rubrics")
    found = json.loads(command("judge", "r", "--ablate", "--lm", judge, "--json")[1])
    assert found["measure"] == "pair_accuracy"
    assert found["arms"]["own"]["agreement"]["value"] == pytest.approx(0.5)
    assert found["arms"]["general"]["agreement"]["value"] > 0.9


def test_without_labels_it_says_what_it_does_not_say(inside, judge):
    make_run(*judged_answers(instances=3, source="x"), task="rubrics")
    code, out, err = command("judge", "r", "--ablate", "--lm", judge)
    assert code == 0 and "not whether it helps" in out, err
    assert "own less general" in out
    code, out, err = command("judge", "r", "--ablate", "--gate", "gate.json", "--lm", judge, "--fresh")
    assert code == 2 and out == "" and "decided by people's labels" in err
    assert err.count("\n") == 1, "nothing is judged before"


@pytest.mark.parametrize(
    ("task", "general", "said"),
    [
        ("reappraisal", "general", "runs of the task rubrics"),
        ("rubrics", "be.txt", "a general rubric with criteria"),
    ],
)
def test_what_makes_no_gate_is_refused_before_anything_is_judged(inside, task, general, said):
    (inside / "be.txt").write_text("Be right.")
    make_run(*judged_answers(instances=1), task=task)
    code, out, err = command("judge", "r", "--ablate", "--gate", "g.json", "--set", f"rubric={general}")
    assert code == 2 and out == "" and said in err and err.count("\n") == 1, err
    assert not (inside / "r" / "judged").exists()


def test_offline_scores_make_no_figures_and_no_gate(inside):
    make_run(*judged_answers(instances=2), task="rubrics")
    code, out, err = command("judge", "r", "--ablate", "--gate", "g.json")
    assert code == 0 and "pearson" not in out and "16 of 16" in out
    assert "no gate was written" in err and not (inside / "g.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ablate", "--judge", "rubric"], "leave --judge"),
        (["--ablate", "--set", "reference=true"], "no judge without a rubric takes"),
        (["--ablate", "--set", "rubric=run"], "one for all answers"),
        (["--ablate", "--set", "rubric=none.txt"], "no such rubric"),
        (["--gate", "g.json"], "add --ablate"),
    ],
)
def test_what_does_not_go_together_is_refused(inside, arguments, said):
    make_run(*judged_answers(instances=1), task="rubrics")
    code, out, err = command("judge", "r", *arguments)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1, err


def test_a_run_without_rubrics_has_nothing_to_leave_out(inside):
    make_run(Record("a", {"instruction": "i", "answer": "a"}, {"response": {"score": 3}}), task="rubrics")
    code, _, err = command("judge", "r", "--ablate")
    assert code == 2 and "wrote no rubrics" in err


def test_forecast_counts_all_arms(inside, judge):
    make_run(*judged_answers(instances=1), task="rubrics")
    code, out, _ = command("judge", "r", "--ablate", "--lm", judge, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["calls"]["fewest"] == 24
    assert not (inside / "r" / "judged").exists()


# The gate


def test_gate_is_decided_by_group_and_used_by_runs(inside, judge):
    make_run(*judged_answers(), task="rubrics")
    code, _, err = command("judge", "r", "--ablate", "--gate", "gates/g.json", "--lm", judge)
    assert code == 0, err
    assert (
        "own rows, bad, after a rubric's loop that ended exhausted" in err
        and "112 judge calls" in err
        and "2.5 %" in err
    )
    gate = load_gate("gates/g.json")
    assert gate.groups == {"bad": True, "good": False} and gate.stop_reasons == {"exhausted"}
    assert gate.everywhere, "over both groups own rubrics hurt"
    assert len(gate.validated_on) == 56 and gate.evidence["ablation"]["n"] == 56
    rows = [
        {
            "id": f"t{n}",
            "capability": group,
            "instruction": f"Say {word} in {n} languages.",
            "response": "No.",
        }
        for n, (group, word) in enumerate([("bad", "hello"), ("good", "farewell"), ("new", "thanks a lot")])
    ]
    data = inside / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("run", "rubrics", "--data", data, "--run", "t", "--set", "gate=gates/g.json")
    code, _, err = command(*asked, "--set", "seeds=none")
    assert code == 0, err
    records = {record.id: record for record in RunDir.read("t").records()}
    assert records["t0"].outputs["principles_from"] == "general"
    assert records["t0"].outputs["principles"] == load_gate("gates/g.json").general
    assert not any(r.stage == "principles" for r in records["t0"].trace)
    assert records["t1"].outputs["principles_from"] == "generated"
    assert any(r.stage == "principles" for r in records["t1"].trace)
    assert records["t2"].outputs["principles_from"] == "general", "its group decided nothing"


def test_rows_that_decided_a_gate_are_no_test_rows(inside):
    instruction = "Write a letter to the harbour office about the crane that has stood still for nine days."
    (inside / "g.json").write_text(Gate(GENERAL, everywhere=True, validated_on=(instruction,)).to_text())
    (inside / "d.jsonl").write_text(
        json.dumps({"id": "a", "instruction": instruction, "response": "Dear crane"})
    )
    asked = (
        "run",
        "rubrics",
        "--data",
        "d.jsonl",
        "--run",
        "t",
        "--set",
        "gate=g.json",
        "--set",
        "seeds=none",
    )
    code, _, err = command(*asked)
    assert code == 2 and "leak" in err and "gate 1" in err
    assert command(*asked, "--allow-leak")[0] == 0
    assert RunDir.read("t").manifest["leaks"]


def program(**gate):
    task = spri.load_task("rubrics")
    return spri.SPRI(task, seeds="none", gate=Gate(GENERAL, **gate) if gate else None).set_lms(base="offline")


ASKED = {"instruction": "Name the capital of Peru and the river at it.", "answer": "Lima, at the Rimac."}


def test_a_loop_that_ended_badly_is_replaced_after_it_ran():
    found = program(stop_reasons=frozenset({"accepted"}))(**ASKED, group="any")
    assert found.stop_reasons["principles"] == "accepted" and found.principles.criteria == GENERAL["criteria"]
    assert found.principles_from == "general after accepted"
    kept = program(stop_reasons=frozenset({"exhausted"}))(**ASKED)
    assert kept.principles_from == "generated" and kept.principles.criteria != GENERAL["criteria"]


def test_groups_decide_before_the_rest_and_the_first_stage_alone_obeys_too():
    gated = program(everywhere=True, groups={"kept": False})
    assert gated.situate(**{"instruction": ASKED["instruction"]}, group="kept").principles_from == "generated"
    found = gated.situate(instruction=ASKED["instruction"], group="other")
    assert found.principles_from == "general" and found.usage == {} and found.stop_reasons == {}


def test_a_gate_is_part_of_what_a_program_is():
    assert fingerprint(program()) == fingerprint(spri.SPRI(spri.load_task("rubrics"), seeds="none"))
    one, other = program(everywhere=True), program(groups={"a": True})
    assert len({fingerprint(program()), fingerprint(one), fingerprint(other)}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("{}", "is no gate"),
        ('{"format": "spri-gate/1"}', "needs general principles"),
        ('{"format": "spri-gate/1", "general": "x", "groups": {"a": "yes"}}', "damaged"),
        ('{"format": "spri-gate/1", "general": "x", "stop_reasons": ["bad"]}', "not 'bad'"),
        ('{"format": "spri-gate/1", "general": "x"}', "do not fit this task"),
    ],
)
def test_a_file_that_is_no_gate_is_refused(inside, text, said):
    (inside / "g.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        spri.SPRI(spri.load_task("rubrics"), gate="g.json")


def test_the_published_system_has_no_gate():
    with pytest.raises(UsageError, match="no gate"):
        spri.load_system("spri", spri.load_task("rubrics"), paper=True, gate="g.json")
