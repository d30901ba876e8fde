"""SPCT: k samples with principles of their own, their mean, and the curve over k."""

import pytest

import spri_dspy as spri
from benchmarks import k_curve
from benchmarks.__main__ import main
from spri_dspy.errors import DataError, UsageError
from spri_dspy.records import Record
from spri_dspy.runs import RunDir
from tests.factories import chat
from tests.systems.heard import ANSWERED, make


def sample(score, feedback="fine", principles="be true"):
    return ("generate_response", chat(principles=principles, feedback=feedback, score=score))


def test_samples_are_averaged_and_all_kept():
    calls = [sample(2, "poor", "p1"), sample(5, "good", "p2"), sample(4, "near", "p3")]
    program, script = make("rubrics", "spct", *calls, k="3")
    found = program(**ANSWERED)
    assert found.response.score == pytest.approx(11 / 3) and found.response.feedback == "near"
    assert [each["score"] for each in found.samples] == [2, 5, 4]
    assert [each["principles"] for each in found.samples] == ["p1", "p2", "p3"]
    assert found.principles == "p1\n\np2\n\np3" and script.left == 0
    assert all(ANSWERED["answer"] in prompt for prompt in script.prompts)


def test_unreadable_sample_is_asked_again_and_then_left_out():
    calls = [*[sample("none")] * 3, sample("?"), sample(2), sample(5)]
    program, script = make("rubrics", "spct", *calls, k="3")
    found = program(**ANSWERED)
    assert [each["score"] for each in found.samples] == [None, 2, 5]
    assert found.response.score == 3.5 and script.left == 0


def test_without_any_readable_sample_there_is_no_score():
    program, _ = make("rubrics", "spct", *[sample("none")] * 6, k="2")
    assert program(**ANSWERED).response.score is None


def test_every_sample_is_another_draw():
    program = spri.load_system("spct", spri.load_task("rubrics"), k=3)
    step, rollouts = program.plan(ANSWERED), []
    answer = {"principles": "p", "feedback": "f", "score": 3}
    _, arguments = next(step)
    while True:
        rollouts.append(arguments["rollout"])
        try:
            _, arguments = step.send(answer)
        except StopIteration:
            break
    assert rollouts == [0, 3, 6]


def test_no_samples_are_refused():
    with pytest.raises(spri.UsageError, match="k must be at least 1, not 0"):
        make("rubrics", "spct", k="0")


LABELS, DRAWN = [1, 2, 3, 4], [[4, 1], [1, 3], [3, 3], [None, 4]]


def written(path, drawn, lm="hosted_vllm/m", **labels):
    records = [
        Record(
            str(n),
            {},
            {"samples": [{"score": score} for score in scores]} if scores else {},
            cluster=str(n // 2),
            labels={"human_score": label} | labels,
            error=None if scores else "CallError: no",
        )
        for n, (scores, label) in enumerate(zip(drawn, LABELS, strict=True))
    ]
    with RunDir.create(path, {"lms": {"base": lm}, "system": "spct", "sees": "responses"}) as run:
        for record in records:
            run.append(record)
    return records


def test_curve_reads_the_first_samples_of_one_run(tmp_path, capsys):
    records = written(tmp_path / "run", DRAWN)
    found = k_curve.scores_by_samples(records)
    assert [score.value for score in found[1]] == [4, 1, 3, None]
    assert [score.value for score in found[2]] == [2.5, 2, 3, 4]
    section = k_curve.curve(RunDir.read(tmp_path / "run"))
    assert [row["pair_accuracy"]["value"] for row in section.results] == [0, 0.5]
    assert [row[1] for row in section.rows] == ["3 of 4", "4 of 4"]
    assert main(["k_curve", str(tmp_path / "run")]) == 0
    assert "responses" in capsys.readouterr().out


def test_curve_keeps_failed_examples_missing(tmp_path):
    found = k_curve.scores_by_samples(written(tmp_path / "run", [*DRAWN[:3], []]))
    assert [scores[3].value for scores in found.values()] == [None, None]


def test_curve_refuses_what_is_none(tmp_path):
    written(tmp_path / "offline", DRAWN, lm="offline?seed=1")
    with pytest.raises(UsageError, match="offline stand-in"):
        k_curve.curve(RunDir.read(tmp_path / "offline"))
    with pytest.raises(DataError, match="one number of samples, not 1, 2"):
        k_curve.scores_by_samples(written(tmp_path / "mixed", [[1], *DRAWN[1:]]))
    with pytest.raises(DataError, match="'0' has no samples; spct"):
        k_curve.scores_by_samples([Record("0", {}, {"response": "words"})])
