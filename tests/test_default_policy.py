"""Recorded critiques through our settings instead of the published ones, and the counting of what that changes."""

import json

import pytest

import spri_dspy as spri
from benchmarks import parity
from benchmarks.parity import Counts, Retold
from spri_dspy.lms.replay import replay_lm
from tests.data import data_files, rows
from tests.factories import chat, critique, make_task

TRACES = data_files("reappraisal/traces/*.jsonl")


def recorded(*calls, principle_rounds=1, response_rounds=1, principles="be kind", response="hello", **other):
    """A recorded run in the shape of the research data."""
    return {
        "id": "a",
        "dimension_id": 1,
        "calls": [{"stage": stage, "output": output} for stage, output in calls],
        "principle_rounds": principle_rounds,
        "response_rounds": response_rounds,
        "final_principles": principles,
        "final_response": response,
        **other,
    }


def stage_one(*scores):
    """Principles that are drafted once and then refined after every critique but the last."""
    calls = [("generate_principles", chat(principles="be kind"))]
    for number, score in enumerate(scores):
        if number:
            calls.append(("refine_principles", chat(improved_principles=f"be kind {number}")))
        calls.append(("critique_principles", critique(score)))
    return calls


STAGE_TWO = [("generate_response", chat(response="hello")), ("critique_response", critique(5))]


def test_accepted_run_is_the_same_under_both_settings():
    row = recorded(*stage_one(4), *STAGE_TWO)
    assert parity.difference_from_recording(row) == ""
    assert parity.count_ours(row) == Counts(runs=1, accepted=2, candidates=2)


def test_unscored_critique_is_asked_again_in_vain_where_nothing_more_was_recorded():
    row = recorded(*stage_one("?"), *STAGE_TWO)
    assert parity.difference_from_recording(row) == ""
    assert parity.count_ours(row) == Counts(
        runs=1, accepted=1, ended_unscored=1, candidates=2, unscored=1, asked_again=2
    )


def test_unscored_critique_takes_the_next_recorded_one():
    row = recorded(*stage_one("?"), ("critique_principles", critique(4)), *STAGE_TWO)
    assert parity.count_ours(row) == Counts(runs=1, accepted=2, candidates=2, unscored=1, asked_again=1)


def test_best_candidate_is_kept_where_the_last_was():
    row = recorded(*stage_one(2, 3, 1, 2), *STAGE_TWO, principle_rounds=4, principles="be kind 3")
    assert parity.difference_from_recording(row) == ""
    ours = parity.count_ours(row)
    assert ours == Counts(runs=1, accepted=1, exhausted=1, candidates=5, best_differs=1)


def test_run_that_needs_what_nobody_recorded_is_counted_apart():
    row = recorded(*stage_one(2), *STAGE_TWO)
    assert parity.count_ours(row) == Counts(left=1)
    assert "program asks for refine_principles" in parity.difference_from_recording(row)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"principle_rounds": 2}, "principle critiques"),
        ({"final_response": "goodbye"}, "final response"),
        ({"final_principles": "x", "response_rounds": 3}, "response critiques, final principles"),
    ],
)
def test_difference_from_the_recording_is_named(change, said):
    assert parity.difference_from_recording(recorded(*stage_one(4), *STAGE_TWO, **change)) == said


def test_outputs_left_over_are_a_difference():
    row = recorded(*stage_one(4), *STAGE_TWO, ("refine_response", "more"))
    assert parity.difference_from_recording(row) == "outputs left over"


def test_only_a_critique_that_is_asked_again_repeats_itself():
    program = spri.SPRI(make_task())
    program.set_lms(base=replay_lm(Retold(recorded(*stage_one(2, 2), *STAGE_TWO)["calls"])))
    with pytest.raises(spri.ReplayMiss, match="nobody recorded another refine_principles"):
        program(question="why?")


def written(tmp_path, *runs, name="model__seeds"):
    folder = tmp_path / "reappraisal" / "traces"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    return tmp_path


def test_report_counts_every_file_and_the_total(tmp_path, capsys):
    fine, unscored = recorded(*stage_one(4), *STAGE_TWO), recorded(*stage_one("?"), *STAGE_TWO)
    written(tmp_path, fine, unscored)
    written(tmp_path, fine, name="other__seeds")
    assert parity.main(["--recordings", str(tmp_path)]) == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.startswith("model__seeds: replay parity 2 of 2; ours: 2 runs (0 left the recording)")
    assert second.startswith("other__seeds: replay parity 1 of 1; ours: 1 runs")
    assert total.startswith("total: replay parity 3 of 3; ours: 3 runs")
    assert "1 of 6 first critiques unscored, 2 asked again" in total


def test_report_fails_and_names_the_run_that_differs(tmp_path, capsys):
    folder = written(tmp_path, recorded(*stage_one(4), *STAGE_TWO, final_response="goodbye"))
    assert parity.main(["--recordings", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0]["different"] == ["a/1: final response"]
    assert found["total"] == found["files"][0]["ours"]


def test_folders_without_recorded_runs_are_refused(tmp_path):
    with pytest.raises(spri.DataError, match="has no reappraisal/traces"):
        parity.main(["--recordings", str(tmp_path)])
    with pytest.raises(spri.DataError, match="a row lacks calls"):
        parity.main(["--recordings", str(written(tmp_path, {"id": 1, "dimension_id": 1}))])


@pytest.mark.parametrize("path", TRACES, ids=lambda p: getattr(p, "stem", "none"))
def test_recorded_runs_add_up_under_our_settings(path):
    found = parity.replay_file(path)
    ours, n = found.ours, len(rows(path))
    assert (found.recorded, found.equal, found.different) == (n, n, ())
    assert ours.runs + ours.left == n > 0
    assert ours.accepted + ours.exhausted + ours.ended_unscored == 2 * ours.runs
    assert ours.ended_unscored <= ours.unscored <= ours.asked_again <= 2 * ours.unscored
    assert 2 * ours.runs <= ours.candidates <= 8 * ours.runs
    assert ours.best_differs <= ours.exhausted + ours.ended_unscored
