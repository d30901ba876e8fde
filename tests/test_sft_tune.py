"""Tuning a tiny random model on exported responses and scoring it, where the packages for that are installed."""

import importlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import sft_tune
from benchmarks.finetune import choices, held, rows
from benchmarks.finetune.report import sections
from spri_dspy.errors import DataError, LeakError, PrerequisiteError, UsageError
from spri_dspy.tasks import load_task
from tests.servers.tiny_gguf import write_tiny_gguf

REPOSITORY = Path(__file__).parents[1]
HAS_PACKAGES = all(
    importlib.util.find_spec(name) for name in ("torch", "transformers", "trl", "peft", "lm_eval")
)
needs_packages = pytest.mark.skipif(
    not HAS_PACKAGES,
    reason="needs torch==2.13.0 and the extras sft and eval (make test-integrations has them)",
)
QUESTIONS = [
    ("What falls from a cloud?", {"Rain.": 1, "Coins.": 0}, {"Rain.": 1, "Snow.": 1, "Coins.": 0}),
    ("How many legs has a spider?", {"Six.": 0, "Eight.": 1}, {"Eight.": 1, "Six.": 0}),
    (
        "Where does the sun come up?",
        {"In the east.": 1, "In the west.": 0},
        {"In the east.": 1, "In the west.": 0},
    ),
]


def lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
    return path


def talk(asked, said):
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def export_file(path, n=6, said=("yes", "no")):
    asked = [(f"Is the number {number} even? Answer in one word.", said[number % 2]) for number in range(n)]
    return lines(path, ({"id": str(at), "messages": talk(*pair)} for at, pair in enumerate(asked)))


def question_file(path, shape=dict):
    return lines(
        path, ({"question": q, "mc1_targets": shape(a), "mc2_targets": shape(b)} for q, a, b in QUESTIONS)
    )


def held_file(path, n=6):
    return lines(
        path,
        (
            {"instruction": f"Name fruit number {at} of the list, please.", "response": f"Fruit {at * 7}"}
            for at in range(n)
        ),
    )


def hub_shape(targets):
    return {"choices": list(targets), "labels": list(targets.values())}


def test_export_is_read_and_a_row_of_something_else_is_refused_by_line(tmp_path):
    path = export_file(tmp_path / "sft.jsonl", 2)
    data = rows.read(f"mine={path}", "sft")
    assert (data.name, [row["completion"][0]["content"] for row in data.rows]) == ("mine", ["yes", "no"])
    assert data.rows[0]["prompt"] == [
        {"role": "user", "content": "Is the number 0 even? Answer in one word."}
    ]
    path.write_text(path.read_text("utf-8") + '{"instruction": "x"}\n', "utf-8")
    with pytest.raises(DataError, match=r"line 3: no row of spri export --format sft; it needs messages"):
        rows.read(str(path), "sft")
    with pytest.raises(DataError, match=r"line 1: no row of spri export --format dpo; it needs prompt"):
        rows.read(str(path), "dpo")


def test_grid_trains_on_the_examples_that_all_data_sets_have(tmp_path):
    first = rows.read(str(export_file(tmp_path / "a.jsonl", 6)), "sft")
    second = rows.read(str(export_file(tmp_path / "b.jsonl", 4, said=("ja", "nein"))), "sft")
    made = rows.on_the_same([first, second])
    assert [[row["id"] for row in each.rows] for each in made] == [["0", "1", "2", "3"]] * 2
    other = rows.TrainingData("c", tuple({**row, "id": f"x{row['id']}"} for row in first.rows))
    with pytest.raises(DataError, match="a, c have no example in common"):
        rows.on_the_same([first, other])


@pytest.mark.parametrize("place", ["asked", "said"])
def test_evaluation_questions_in_training_data_are_refused(tmp_path, place):
    questions = choices.read_questions(question_file(tmp_path / "q.jsonl"))
    text = "Tell me, how many legs has a spider?"
    messages = talk(text, "Many.") if place == "asked" else talk("Write a question.", text)
    path = lines(tmp_path / "sft.jsonl", [{"id": "9", "messages": messages}])
    data = rows.read(str(path), "sft")
    with pytest.raises(LeakError, match="1 of the training texts of sft match evaluation questions"):
        rows.refuse_leaks([data], questions, "q.jsonl")
    rows.refuse_leaks([rows.read(str(export_file(tmp_path / "ok.jsonl")), "sft")], questions, "q.jsonl")


@pytest.mark.parametrize("shape", [dict, hub_shape])
def test_questions_are_read_in_both_shapes_and_others_refused_by_line(tmp_path, shape):
    path = question_file(tmp_path / "q.jsonl", shape)
    read = choices.read_questions(path, 2)
    assert [q.text for q in read] == [q for q, _, _ in QUESTIONS[:2]]
    assert read[0].answers == ("Rain.", "Coins.", "Snow.")
    lines(path, [{"question": "q", "mc1_targets": shape({"a": 1, "b": 1}), "mc2_targets": shape({"a": 1})}])
    with pytest.raises(DataError, match="line 1: mc1_targets needs one true answer"):
        choices.read_questions(path)
    lines(path, [{"question": "q"}])
    with pytest.raises(DataError, match="line 1: no multiple-choice question"):
        choices.read_questions(path)


def test_mc1_and_mc2_of_long_answers_do_not_underflow():
    question = choices.Question("1", "q", {"a": 1, "b": 0}, {"a": 1, "b": 0, "c": 1})
    found = choices.figures(question, {"a": -2000.0, "b": -2000.0 + math.log(2), "c": -2000.0})
    assert (found.mc1, found.mc2) == (0.0, pytest.approx(0.5))
    assert choices.figures(question, {"a": -1.0, "b": -1.0, "c": -9.0}).mc1 == 1.0


def cell(name, values, seed=0, **more):
    scores = [{"id": str(n), "mc1": round(v), "mc2": v} for n, v in enumerate(values)]
    return {"base": "tiny", "method": "sft", "seed": seed, "name": name, "choices": scores, **more}


def test_report_is_in_percent_and_says_that_a_tiny_model_is_none():
    tuned = {
        "trained": {"rows": 6, "steps": 3, "loss": 1.0, "seconds": 2.0},
        "scoring": {"seconds": 1.0, "peak_mb": 100},
        "counts": {"records": 8, "accepted": None, "cut_off": 2, "degenerate": 1, "failed": 0},
    }
    found = sections(
        [
            cell("untuned", (0.2, 0.4) * 3),
            cell("mine", (0.3, 0.6) * 3, **tuned),
            cell("mine", (0.3, 0.4) * 3, seed=1, **tuned),
        ]
    )
    scores, differences, data = found
    assert "not a language model" in scores.title
    assert [row[:2] for row in scores.rows] == [("untuned", "-"), ("mine", "2")]
    assert scores.rows[0][3].startswith("30.00 [")
    assert scores.rows[1][3].startswith("40.00 [") and scores.rows[1][3].endswith("; 7.07")
    assert differences.rows[0][3].startswith("+10.00")
    assert data.rows[0][:6] == ("mine", "6", "-", "2 of 8", "1 of 8", "0 of 8")


def test_rows_of_response_choice_hold_the_own_response_and_three_others(tmp_path):
    examples = list(load_task("sft").examples(str(held_file(tmp_path / "held.jsonl"))))
    made = held.choice_rows(examples)
    assert len(made) == 6
    for row, example in zip(made, examples, strict=True):
        assert len(set(row["choices"])) == 4
        assert row["choices"][row["answer"]] == example.label_values["reference_answer"]
    with pytest.raises(DataError, match="fewer than 4 rows"):
        held.read_held(str(held_file(tmp_path / "few.jsonl", 3)), 60)


def test_folder_without_scores_and_data_without_base_say_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="nothing that is scored; name --base and --data"):
        sft_tune.main(["--out", str(tmp_path)])


def test_dry_run_says_what_would_be_trained(tmp_path, capsys):
    path, out = export_file(tmp_path / "sft.jsonl", 6), tmp_path / "out"
    settings = [
        "--base",
        "tiny",
        "--seeds",
        "0,1",
        "--epochs",
        "1.5",
        "--out",
        str(out),
        "--dry-run",
        "--json",
    ]
    assert sft_tune.main(["--data", f"mine={path}", *settings]) == 0
    planned = json.loads(capsys.readouterr().out)["plan"]["results"]
    assert planned == [{"model": "mine", "rows": 6, "steps": 3}] and not out.exists()
    other = export_file(tmp_path / "other.jsonl", 4)
    for more, expected in (([], [4, 4]), (["--own-rows"], [6, 4])):
        assert sft_tune.main(["--data", f"mine={path}", "--data", str(other), *settings, *more]) == 0
        planned = json.loads(capsys.readouterr().out)["plan"]["results"]
        assert [row["rows"] for row in planned] == expected
    with pytest.raises(UsageError, match="mine, mine: every one needs its own name"):
        sft_tune.main(["--data", f"mine={path}", "--data", f"mine={path}", *settings])
    with pytest.raises(UsageError, match="--data needs --base"):
        sft_tune.main(["--data", str(path), "--out", str(out)])


@pytest.mark.skipif(HAS_PACKAGES, reason="torch and the like are installed")
def test_missing_packages_are_named_with_the_line_that_brings_them(tmp_path):
    path = export_file(tmp_path / "sft.jsonl")
    with pytest.raises(PrerequisiteError, match=r"torch.*pip install"):
        sft_tune.main(["--data", str(path), "--base", "tiny", "--out", str(tmp_path / "out")])


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def command(*arguments):
    return {
        "args": [sys.executable, "-m", "benchmarks", "sft_tune", *map(str, arguments)],
        "cwd": REPOSITORY,
        "env": {**os.environ, **OFFLINE},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def run(*arguments):
    done = subprocess.run(**command(*arguments), timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def paths(tmp_path):
    data = export_file(tmp_path / "mine.jsonl", 8)
    questions = question_file(tmp_path / "questions.jsonl")
    return ["--base", "tiny", "--device", "cpu", "--data", data, "--questions", questions]


@pytest.mark.slow
@needs_packages
def test_tiny_model_is_tuned_scored_like_lm_eval_and_found_again(tmp_path, paths):
    out = tmp_path / "tuned"
    settings = [
        "--out",
        out,
        "--max-steps",
        3,
        "--learning-rate",
        0.01,
        "--held",
        held_file(tmp_path / "held.jsonl"),
    ]
    document = json.loads(run(*paths, *settings, "--lm-eval", 3, "--json"))
    untuned, tuned = document["sft_tune"]["results"]
    assert untuned["mc2"]["n"] == tuned["mc2"]["n"] == len(QUESTIONS)
    assert 0 < untuned["mc2"]["value"] < 100 and untuned["mc2"]["value"] != tuned["mc2"]["value"]
    assert untuned["loss"]["value"] != tuned["loss"]["value"]
    compared = untuned["lm_eval"]
    assert compared["questions"] == 3 and compared["undefined"] == 0
    assert compared["mc1"] == 0 and compared["mc2"] < 0.0005
    assert (out / "mine" / "seed-0" / "adapter" / "adapter_model.safetensors").is_file()
    again = json.loads(run("--out", out, "--json"))
    assert again == document
    refused = subprocess.run(**command(*paths, "--out", out, "--max-steps", 3), timeout=300, check=False)
    assert refused.returncode == 2 and "learning_rate 0.01, now 0.0001" in refused.stderr


@pytest.mark.slow
@needs_packages
def test_gguf_is_trained_from_its_dequantized_weights(tmp_path, paths):
    pytest.importorskip("gguf")
    paths[paths.index("--base") + 1] = write_tiny_gguf(tmp_path / "tiny.gguf")
    out = tmp_path / "tuned"
    document = json.loads(run(*paths, "--max-steps", 2, "--learning-rate", 0.01, "--out", out, "--json"))
    untuned, tuned = document["sft_tune"]["results"]
    assert untuned["mc2"]["value"] != tuned["mc2"]["value"]
    assert (out / "mine" / "seed-0" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@needs_packages
def test_training_and_scoring_that_are_killed_go_on_to_the_same_adapter_and_scores(tmp_path, paths):
    settings = ["--max-steps", 40, "--learning-rate", 0.01, "--save-steps", 5]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(*paths, *settings, "--out", whole)
    cell = killed / "mine" / "seed-0"

    def kill_when(is_time):
        process = subprocess.Popen(**command(*paths, *settings, "--out", killed))
        while process.poll() is None and not is_time():
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()

    kill_when(lambda: any(killed.glob("untuned/choices-*.jsonl")))
    kill_when(lambda: (cell / "checkpoints" / "checkpoint-10" / "trainer_state.json").is_file())
    assert not (cell / "trained.json").exists()
    # As if the kill had come in the middle of a checkpoint, and of a line.
    latest = max((cell / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
    (latest / "trainer_state.json").write_text('{"global_st')
    kill_when(lambda: any(cell.glob("choices-*.jsonl")))
    with next(cell.glob("choices-*.jsonl")).open("a") as file:
        file.write('{"id": "2", "mc1": 1')
    document = json.loads(run(*paths, *settings, "--out", killed, "--json"))
    expected = json.loads(run("--out", whole, "--json"))
    assert document["sft_tune"]["results"] == expected["sft_tune"]["results"]
    trained = json.loads((cell / "trained.json").read_text("utf-8"))
    assert trained["steps"] == 40 and trained["starts"] >= 2
    name = Path("mine") / "seed-0" / "adapter" / "adapter_model.safetensors"
    load = importlib.import_module("safetensors.torch").load_file
    first, second = load(whole / name), load(killed / name)
    assert all(float((first[part] - second[part]).abs().max()) < 1e-6 for part in first)


@pytest.mark.slow
@needs_packages
def test_exported_pairs_train_by_dpo(tmp_path, paths):
    pairs = [
        {
            "id": str(n),
            "prompt": [{"role": "user", "content": f"Name fruit number {n}."}],
            "chosen": [{"role": "assistant", "content": "An apple."}],
            "rejected": [{"role": "assistant", "content": "A stone."}],
        }
        for n in range(6)
    ]
    paths[paths.index("--data") + 1] = lines(tmp_path / "dpo.jsonl", pairs)
    out = tmp_path / "tuned"
    document = json.loads(
        run(*paths, "--method", "dpo", "--max-steps", 6, "--learning-rate", 0.01, "--out", out, "--json")
    )
    untuned, tuned = document["sft_tune"]["results"]
    assert untuned["mc2"]["value"] != tuned["mc2"]["value"]
    (facts,) = document["data"]["results"]
    assert facts["trained"][0]["loss"] < math.log(2), "the loss of a policy that prefers neither"
