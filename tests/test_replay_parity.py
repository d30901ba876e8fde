"""The published loop, replayed: every recorded run must come out of `SPRI.paper` exactly as it was recorded.

Real GPT-4o-mini and Llama outputs with a real Prometheus-2 critic; more recordings in the same shape are picked
up as they appear.
"""

import collections

import pytest

import spri_dspy as spri
from benchmarks import recorded_runs
from spri_dspy.lms.replay import replay_lm, script_of
from tests.command import spri as spri_command
from tests.data import data_file, data_files, rows

TRACES = data_files("reappraisal/traces/*.jsonl")


def clean(text):
    return text.strip("\n#").strip()


def replay(program, recorded, post):
    script = script_of(recorded["calls"])
    lm = replay_lm(script)
    prediction = program.set_lms(base=lm, critic=lm)(post=post["post"], aim=post["aim"])
    return prediction, script


@pytest.fixture(scope="module")
def posts():
    return {(r["id"], r["dimension_id"]): r for r in rows(data_file("reappraisal/eval_30.jsonl"))}


@pytest.mark.parametrize("path", TRACES, ids=lambda p: getattr(p, "stem", "none"))
def test_paper_settings_replay_every_recorded_run(path, posts):
    task = spri.load_task("reappraisal")
    recorded_runs = rows(path)
    assert recorded_runs
    for recorded in recorded_runs:
        program = spri.SPRI.paper(task)
        prediction, script = replay(program, recorded, posts[recorded["id"], recorded["dimension_id"]])
        counts = collections.Counter(r.stage for r in prediction.trace)
        assert script.left == 0, recorded["id"]
        assert counts["principles"] == recorded["principle_rounds"], recorded["id"]
        assert counts["response"] == recorded["response_rounds"], recorded["id"]
        assert clean(prediction.principles) == clean(recorded["final_principles"]), recorded["id"]
        assert clean(prediction.response) == clean(recorded["final_response"]), recorded["id"]


@pytest.mark.parametrize(
    ("verdict", "ends"),
    [
        ("Fine. [RESULT] 4.5", "accepted"),
        ("Fine. [RESULT] 10", "exhausted"),
        ("Fine. Overall Score: 4", "unscored"),
    ],
)
def test_paper_settings_read_scores_as_the_released_experiment_did(verdict, ends):
    calls = [("generate_principles", "p"), ("critique_principles", verdict)]
    calls += [("generate_response", "r"), ("critique_response", "Fine. [RESULT] 5")]
    program = spri.SPRI.paper(spri.load_task("reappraisal"), max_critiques=1)
    lm = replay_lm(script_of({"stage": stage, "output": output} for stage, output in calls))
    prediction = program.set_lms(base=lm, critic=lm)(post="I lost my keys.", aim="Help them.")
    assert prediction.stop_reasons["principles"] == ends


def test_recorded_runs_become_run_directories_that_can_be_exported(tmp_path):
    name = "llama-3-1-70b-instruct__one_seed_per_dimension.jsonl"
    source = data_file(f"reappraisal/traces/{name}")
    assert recorded_runs.write(source, data_file("reappraisal/eval_30.jsonl"), tmp_path / "run") == 30
    recorded = {f"{row['id']}/{row['dimension_id']}": row for row in rows(source)}
    for record in spri.RunDir.read(tmp_path / "run").records():
        assert clean(record.outputs["response"]) == clean(recorded[record.id]["final_response"])
    out = tmp_path / "pairs" / "dpo.jsonl"
    spri_command("export", tmp_path / "run", "--format", "dpo", "--out", out)
    (pair,) = rows(out)
    said = [clean(call["output"]) for call in recorded[pair["id"]]["calls"] if "response" in call["stage"]]
    assert clean(pair["chosen"][0]["content"]) in said and clean(pair["rejected"][0]["content"]) in said
    assert pair["margin"] >= 1
    with pytest.raises(spri.DataError, match="has no reappraisal/traces"):
        recorded_runs.main(["--recordings", str(tmp_path), "--out", str(tmp_path / "none")])
