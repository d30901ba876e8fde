"""Data cards: what they say of a run, and that nothing of the machine goes along."""

import json

import pytest

from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.export.formats import export_run
from spri_dspy.records import Round, Usage, Verdict
from spri_dspy.runs import RunDir
from tests.command import files
from tests.export_parts import card_of, make_record, make_run, run_offline


@pytest.fixture
def reappraisals(tmp_path):
    return run_offline(tmp_path / "run", task="reappraisal", settings={"seeds": "k:1"})


def test_the_cards_header_is_what_the_hub_and_load_dataset_read(reappraisals, tmp_path):
    done = export_run(reappraisals, "sft", to=f"hf:{tmp_path / 'hub'}")
    header, body, _ = card_of(done.card)
    assert header == {
        "license": "unknown",
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["spri-dspy", "synthetic", "sft"],
    }
    assert "\n# Chat rows for supervised fine-tuning\n" in body
    assert "No licence is stated, because none is known" in body


def test_the_card_says_how_the_rows_were_made(reappraisals):
    manifest = reappraisals.manifest
    _, body, cells = card_of(export_run(reappraisals, "sft").card)
    assert cells["task"] == ["reappraisal"]
    assert cells["system"] == ["spri"]
    assert cells["program hash"] == [f"`{manifest['program']}`"]
    assert cells["base LM"] == ["`offline`"]
    assert cells["seeds"][0].startswith("6 in principles.generate (by group: self-responsibility 1, ")
    assert cells["data"] == [f"a file with hash `{manifest['data']['file']}`"]
    assert cells["settings"] == ["default behaviour, seeds=k:1"]
    assert cells["random seed"] == ["0"]
    assert f"dspy {manifest['versions']['dspy']}" in cells["versions"][0]
    assert cells["run begun"] == [manifest["created"]]
    assert "**No language model wrote this.**" in body


def test_the_card_counts_what_the_records_say(tmp_path):
    usage = {"base": Usage(3, 1, 1500, 20), "critic": Usage(2, 0, 10, 5)}
    scored = (Round("principles", "p", Verdict("?", None)), Round("principles", "p", Verdict("", 4), 1))
    records = [
        make_record("a", 2, 4, usage=usage),
        make_record("b", 5, usage=usage, stop_reasons={"principles": "accepted", "response": "accepted"}),
        make_record("c", 3, trace=(*scored, Round("response", "r", Verdict("", None))), reason="unscored"),
        make_record("d", error="ServerError: at http://10.0.0.7", outputs={}, trace=(), reason=None),
    ]
    run = make_run(tmp_path / "run", *records)
    _, body, cells = card_of(export_run(run, "sft").card)
    assert cells["records of the run"] == ["4"]
    assert cells["finished well"] == ["3"]
    assert cells["failed: ServerError 1"] == ["1"]
    assert cells["**rows**"] == ["**2**"]
    assert cells["coverage: rows of all records"] == ["50.0%"]
    assert cells["without a row: response unscored"] == ["1"]
    assert "| principles | 1 | 0 | 0 |" in body
    assert "| response | 2 | 0 | 1 |" in body
    assert "| principles | first drafts | 0 | 0 | 0 | 1 | 0 | 0 |" in body
    assert "| response | first drafts | 0 | 1 | 0 | 0 | 1 | 1 |" in body
    assert "| response | all candidates | 0 | 1 | 0 | 1 | 1 | 1 |" in body
    assert cells["base"] == ["6", "2", "3,000", "40"]
    assert cells["critic"] == ["4", "0", "20", "10"]
    assert "10.0.0.7" not in body


def test_the_card_marks_a_leak_and_the_published_behaviour(tmp_path):
    records = [make_record("a", 5)]
    marked = make_run(tmp_path / "marked", *records, leaks=["a is seed 1"], settings={"paper": True})
    plain = make_run(tmp_path / "plain", *records, settings={"paper": False})
    _, body, cells = card_of(export_run(marked, "sft").card)
    assert "> **Leak allowed.**" in body and "> **Published behaviour**" in body
    assert cells["settings"] == ["published behaviour, leak allowed"]
    _, body, cells = card_of(export_run(plain, "sft").card)
    assert "Leak" not in body and "Published" not in body and "No language model" not in body
    assert cells["settings"] == ["default behaviour"]


def test_a_card_without_anything_recorded_says_so(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        run.append(make_record("a", 5))
    _, _, cells = card_of(export_run(RunDir.read(tmp_path / "run"), "sft", to="parquet").card)
    for name in ("task", "system", "data", "random seed", "versions"):
        assert cells[name] == ["not recorded"]
    assert cells["seeds"] == ["not known: the run is older than this note"]


def test_seeds_are_told_by_predictor_and_group(tmp_path):
    seeds = {"principles.generate": {"a": 2, "b": 1}, "response.generate": {"": 1}}
    run = make_run(tmp_path / "run", make_record("a", 5), settings={"paper": False}, seeds=seeds)
    _, _, cells = card_of(export_run(run, "sft").card)
    assert cells["seeds"] == ["3 in principles.generate (by group: a 2, b 1); 1 in response.generate"]


@pytest.mark.parametrize("format", ["sft", "rubrics"])
def test_no_key_address_or_path_of_the_machine_goes_out(tmp_path, monkeypatch, format):
    monkeypatch.setenv("ANAS_KEY", "sk-hidden")
    data, rows = (
        tmp_path / "ana-private",
        [{"instruction": "Say which lock takes the longest key.", "response": "x"}],
    )
    data.mkdir()
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_offline(tmp_path / "recorded", task="sft", limit=1)
    lms = {
        "base": "hosted_vllm/writer?api_base=http://gpu-7.lan:8000/v1&key_env=ANAS_KEY&temperature=0.3",
        "critic": f"replay/{tmp_path}/recorded",
    }
    planned = plan(RunRequest(task="rubrics", data=f"hf:{data}", lms=lms))
    manifest = {**planned.manifest, "settings": {"recipe": f"{tmp_path}/recipe.toml", "model": "lab/m"}}
    rubric = {"criteria": "c"} | {f"score{n}_description": str(n) for n in range(1, 6)}
    outputs = {"principles": rubric, "response": "Padlock."}
    run = make_run(tmp_path / "run", make_record("a", 5, outputs=outputs), **manifest)
    done = export_run(run, format, out=tmp_path / "out/rows.jsonl")
    written = "".join(content.decode() for content in files(done.path.parent).values())
    for secret in ("sk-hidden", "ANAS_KEY", "gpu-7", str(tmp_path), "api_base"):
        assert secret not in written
    _, _, cells = card_of(done.card)
    assert cells["base LM"] == ["`hosted_vllm/writer?temperature=0.3`"]
    assert cells["critic LM"] == ["`replay/recorded`"]
    assert cells["data"][0].startswith("the local folder `ana-private`; data with hash `")
    assert cells["settings"] == ["default behaviour, recipe=recipe.toml, model=lab/m"]


@pytest.mark.parametrize(
    "name", ["hf:databricks/databricks-dolly-15k:train", "hf:prometheus-eval/BiGGen-Bench-Results:human_eval"]
)
def test_a_data_set_of_the_hub_is_named(tmp_path, name):
    run = make_run(tmp_path / "run", make_record("a", 5), data={"hub": name})
    assert card_of(export_run(run, "sft").card)[2]["data"] == [f"`{name}`"]


def test_hostile_names_do_not_break_the_cards_tables(tmp_path):
    run = make_run(
        tmp_path / "run",
        make_record("a", 5),
        make_record("b", error="Odd|Name\n\n# Heading: x", outputs={}),
        settings={"note": "a | b\n\n## c"},
    )
    _, body, _ = card_of(export_run(run, "sft").card)
    assert "failed: Odd\\|Name # Heading 1 | 1 |" in body
    assert "note=a \\| b ## c |" in body
