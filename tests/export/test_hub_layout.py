"""Data sets as they lie on the hub, from local folders of the same layout; no hub is reached."""

import json
import logging
import os
import subprocess
import sys

import pytest

from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.errors import DataError
from spri_dspy.tasks import load_task

RUBRIC = {"criteria": "Does the answer read the timetable correctly?"} | {
    f"score{n}_description": f"The answer reads {n} of the five departures correctly." for n in range(1, 6)
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """As with HF_HUB_OFFLINE=1 and HF_DATASETS_OFFLINE=1, which are read when the packages are imported."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_parquet(path, rows):
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def human_eval_row(instance, model, human_score):
    return {
        "id": f"planning_ferry_{instance}",
        "capability": "planning",
        "task": "ferry",
        "instance_idx": instance,
        "system_prompt": "You plan journeys.",
        "input": f"The ferry leaves at {instance}:40. When do I have to be at the quay?",
        "reference_answer": f"At {instance}:20.",
        "score_rubric": RUBRIC,
        "model_name": model,
        "response": f"{model} would go a little earlier.",
        "human_score": human_score,
    }


@pytest.fixture
def biggen(tmp_path):
    """The human-scored results as on the hub: named splits in data/, some files belong to none of them."""
    folder = tmp_path / "BiGGen-Bench-Results"
    human = [
        human_eval_row(instance, model, score)
        for instance in (6, 7)
        for model, score in (("a-lab/writer-7b", 4), ("other-13b", -1), ("a-lab/writer-70b-chat", 2))
    ]
    write_parquet(folder / "data/human_eval-00000-of-00001.parquet", human)
    machine = [human_eval_row(8, "other-13b", 3)]
    write_parquet(folder / "data/llm_as_a_judge-00000-of-00001.parquet", machine)
    write_parquet(folder / "data/train-00000-of-00001.parquet", [{"left_over": 1}])
    names = ("human_eval", "llm_as_a_judge")
    splits = "".join(f"  - split: {name}\n    path: data/{name}-*\n" for name in names)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n# Results\n"
    (folder / "README.md").write_text(card)
    return folder


def test_answers_of_one_instance_have_their_own_ids_and_one_cluster(biggen):
    examples = list(load_task("rubrics").examples(f"hf:{biggen}:human_eval"))
    assert [example.id for example in examples] == [
        "planning_ferry_6/a-lab/writer-7b",
        "planning_ferry_6/other-13b",
        "planning_ferry_6/a-lab/writer-70b-chat",
        "planning_ferry_7/a-lab/writer-7b",
        "planning_ferry_7/other-13b",
        "planning_ferry_7/a-lab/writer-70b-chat",
    ]
    assert [example.cluster for example in examples] == ["planning_ferry_6"] * 3 + ["planning_ferry_7"] * 3
    assert {example.group for example in examples} == {"planning"}


def test_human_scores_and_references_are_labels_and_minus_one_is_none(biggen):
    examples = list(load_task("rubrics").examples(f"hf:{biggen}:human_eval"))
    assert [example.label_values.get("human_score") for example in examples] == [4, None, 2] * 2
    first = examples[0]
    asked = "You plan journeys.\n\nThe ferry leaves at 6:40. When do I have to be at the quay?"
    assert first.input_values == {
        "instruction": asked,
        "answer": "a-lab/writer-7b would go a little earlier.",
    }
    assert first.label_values["rubric"] == RUBRIC
    assert first.label_values["reference_answer"] == "At 6:20."


def test_a_split_is_chosen_by_its_name_and_not_by_what_lies_in_the_folder(biggen):
    (example,) = load_task("rubrics").examples(f"hf:{biggen}:llm_as_a_judge")
    assert example.id == "planning_ferry_8/other-13b"
    with pytest.raises(DataError, match=r"no split 'train'; it has human_eval, llm_as_a_judge"):
        list(load_task("rubrics").examples(f"hf:{biggen}"))


def test_one_answer_twice_is_refused_with_its_place(biggen):
    twice = [human_eval_row(6, "other-13b", 1), human_eval_row(6, "other-13b", 5)]
    write_parquet(biggen / "data/human_eval-00000-of-00001.parquet", twice)
    with pytest.raises(
        DataError,
        match=r"human_eval, .*parquet, row 2: the id 'planning_ferry_6/other-13b' is that of row 1 too",
    ):
        list(load_task("rubrics").examples(f"hf:{biggen}:human_eval"))


def test_a_rubrics_run_writes_one_rubric_an_instance(biggen, tmp_path):
    planned = plan(RunRequest(task="rubrics", data=f"hf:{biggen}:human_eval"))
    with planned.open(tmp_path / "run") as run:
        planned.execute(run)
        records = list(run.records())
    rubrics = {(record.cluster, json.dumps(record.outputs["principles"])) for record in records}
    assert len(records) == 6 and len(rubrics) == 2


def test_dolly_rows_become_instructions_with_their_context(tmp_path):
    rows = [
        {
            "instruction": "Who keeps the lighthouse?",
            "context": "Ana keeps the lighthouse on Rona.",
            "response": "Ana.",
            "category": "closed_qa",
        },
        {"instruction": "Name a knot.", "context": "", "response": "Bowline.", "category": "open_qa"},
    ]
    write_lines(tmp_path / "databricks-dolly-15k/databricks-dolly-15k.jsonl", rows)
    (tmp_path / "databricks-dolly-15k/README.md").write_text("---\nlicense: cc-by-sa-3.0\n---\n# Dolly\n")
    first, second = load_task("sft").examples(f"hf:{tmp_path / 'databricks-dolly-15k'}:train")
    assert (first.id, second.id) == ("1", "2")
    assert first.input_values == {
        "instruction": "Who keeps the lighthouse?\n\nAna keeps the lighthouse on Rona."
    }
    assert first.label_values == {"reference_answer": "Ana.", "category": "closed_qa"}
    assert second.input_values == {"instruction": "Name a knot."}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_mix_instruct_rows_may_have_no_instruction_and_keep_their_ids(tmp_path, split):
    candidates = [{"decoding_method": "top_p", "model": "m", "text": "Owl.", "scores": {"logprobs": -2.5}}]
    for name in ("train", "val", "test"):
        rows = [
            {
                "id": f"{name}/1",
                "instruction": "",
                "input": "Name a bird.",
                "output": "Owl.",
                "candidates": candidates,
            },
            {
                "id": f"{name}/2",
                "instruction": "Sort it.",
                "input": "b a",
                "output": "a b",
                "candidates": candidates,
            },
        ]
        write_lines(tmp_path / f"mix-instruct/{name}_data_prepared.jsonl", rows)
    first, second = load_task("sft").examples(f"hf:{tmp_path / 'mix-instruct'}:{split}")
    assert (first.id, second.id) == (
        f"{split.removesuffix('idation')}/1",
        f"{split.removesuffix('idation')}/2",
    )
    assert first.input_values == {"instruction": "Name a bird."}
    assert second.input_values == {"instruction": "Sort it.\n\nb a"}
    assert second.label_values == {"reference_answer": "a b"}


def spri(*arguments, at):
    """One command as a process of its own, for which there is no hub."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(at / "hf")}
    command = [sys.executable, "-c", "from spri_dspy.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, check=False, text=True, cwd=at, env={**os.environ, **offline}
    )


def test_an_unreachable_hub_is_one_line_that_says_how_to_do_without(tmp_path):
    found = spri("run", "rubrics", "--data", "hub", "--run", "run", at=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1 and found.stderr.startswith("spri: "), found.stderr
    assert "--data hf:FOLDER:human_eval" in found.stderr
    assert "hf download prometheus-eval/BiGGen-Bench-Results --repo-type dataset" in found.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_does_not_exist_is_not_taken_for_a_data_set_of_the_hub(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        list(load_task("sft").examples(f"hf:{tmp_path / 'nowhere'}"))


def write_broken(folder, at_row):
    lines = [json.dumps({"instruction": f"Name the {n}th tree of the avenue, please."}) for n in range(9000)]
    lines.insert(at_row - 1, '{"instruction": ')
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("at_row", [1, 9000])
def test_a_broken_file_of_a_folder_is_an_error_about_the_data(tmp_path, at_row):
    write_broken(tmp_path / "broken", at_row)
    said = rf"^.*/broken/train.jsonl, line {at_row}: not valid JSON: "
    with pytest.raises(DataError, match=said):
        list(load_task("sft").examples(f"hf:{tmp_path / 'broken'}"))


def test_what_the_loader_logs_besides_its_error_is_not_shown(tmp_path):
    write_broken(tmp_path / "broken", 1)
    found = spri("run", "sft", "--data", "hf:broken", at=tmp_path)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.stderr
    assert found.stderr.startswith("spri: "), found.stderr
    assert "broken/train.jsonl, line 1: not valid JSON" in found.stderr


def test_the_hubs_loggers_are_as_they_were_afterwards(biggen):
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    before = [logger.level for logger in loggers]
    rows = load_task("rubrics").examples(f"hf:{biggen}:human_eval")
    next(rows)
    assert [logger.level for logger in loggers] == before


SECRET = {"instruction": "the secret of this machine"}


@pytest.mark.parametrize(
    "named",
    [
        "../secret.jsonl",
        "data/../../secret.jsonl",
        "{home}/secret.jsonl",
        "http://127.0.0.1:9/secret.jsonl",
        "file://{home}/secret.jsonl",
        "zip://x.jsonl::{home}/secret.zip",
    ],
)
@pytest.mark.parametrize("where", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("shape", ["{!r}", "[{{split: train, path: {!r}}}]", "[a.jsonl, {!r}]"])
def test_a_folder_that_names_data_outside_itself_is_refused(tmp_path, named, where, shape):
    write_lines(tmp_path / "secret.jsonl", [SECRET])
    write_lines(tmp_path / "given/a.jsonl", [{"instruction": "Name a knot."}])
    configs = f"configs:\n- config_name: default\n  data_files: {shape.format(named.format(home=tmp_path))}\n"
    text = f"---\n{configs}---\n# Rows\n" if where == "README.md" else configs
    (tmp_path / "given" / where).write_text(text)
    with pytest.raises(DataError, match="outside it and is not read") as refused:
        list(load_task("sft").examples(f"hf:{tmp_path / 'given'}"))
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_named_by_its_card_as_elsewhere_is_refused(tmp_path):
    write_lines(tmp_path / "secret/train.jsonl", [SECRET])
    write_lines(tmp_path / "given/train.jsonl", [{"instruction": "Name a knot."}])
    (tmp_path / "given/README.md").write_text("---\nconfigs:\n- config_name: x\n  data_dir: ../secret\n---\n")
    with pytest.raises(DataError, match="outside it and is not read"):
        list(load_task("sft").examples(f"hf:{tmp_path / 'given'}"))


@pytest.mark.parametrize("link", ["train.jsonl", "data"])
def test_links_out_of_a_folder_are_not_followed(tmp_path, link):
    write_lines(tmp_path / "elsewhere/train-0.jsonl", [SECRET])
    (tmp_path / "given").mkdir()
    target = tmp_path / ("elsewhere" if link == "data" else "elsewhere/train-0.jsonl")
    (tmp_path / "given" / link).symlink_to(target)
    with pytest.raises(DataError, match=r"outside it and is not read|cannot be loaded"):
        list(load_task("sft").examples(f"hf:{tmp_path / 'given'}"))


def test_a_link_within_a_folder_is_followed(tmp_path):
    write_lines(tmp_path / "given/blobs/1", [{"instruction": "Name a knot."}])
    (tmp_path / "given/train.jsonl").symlink_to(tmp_path / "given/blobs/1")
    (example,) = load_task("sft").examples(f"hf:{tmp_path / 'given'}")
    assert example.input_values == {"instruction": "Name a knot."}


def test_rows_of_several_files_are_numbered_on(tmp_path):
    for number in range(2):
        write_lines(
            tmp_path / f"given/data/train-{number}.jsonl", [{"instruction": f"Name knot {number}."}] * 2
        )
    assert [e.id for e in load_task("sft").examples(f"hf:{tmp_path / 'given'}")] == ["1", "2", "3", "4"]
