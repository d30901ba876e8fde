"""Scores of a run, of both kinds: values, labels, groups and clusters, and nothing made up where one is missing."""

import pytest

import spri_dspy as spri
from spri_dspy.metrics.set_level import pearson
from spri_dspy.records import Record
from spri_dspy.report.figures import as_json, criteria_of, findings, lines, own_lines, scores_of
from spri_dspy.runs import RunDir


def make_run(path, *records, **manifest):
    with RunDir.create(path, {"task": "rubrics", **manifest}) as run:
        for record in records:
            run.append(record)
    return run.path


def judgement(name, score, human=None, group="g", **more):
    labels = {} if human is None else {"human_score": human}
    outputs = {"response": {"feedback": "so", "score": score}}
    return Record(name, {"answer": "x"}, outputs, group=group, cluster="c", labels=labels, **more)


def judged(name, group="g", details=None, human=None, **scores):
    labels = {} if human is None else {"human_score": human}
    outputs = {"scores": scores, "details": details or {}}
    return Record(name, {"answer": "x"}, outputs, group=group, labels=labels)


def test_scores_of_a_rubrics_run_are_its_judgements(tmp_path):
    run = make_run(tmp_path / "r", judgement("a", 4, 3), judgement("b", 2, -1), judgement("c", 5))
    assert scores_of(run) == [
        spri.Score("a", 4.0, 3.0, "g", "c"),
        spri.Score("b", 2.0, None, "g", "c"),
        spri.Score("c", 5.0, None, "g", "c"),
    ]


def test_failed_example_is_a_score_without_a_value(tmp_path):
    failed = Record("b", {"answer": "x"}, labels={"human_score": 2}, error="UnreadableAnswer: no")
    unanswered = Record("c", {"instruction": "x"}, {"principles": "y"})
    run = make_run(tmp_path / "r", judgement("a", 4, 3), failed, unanswered)
    assert [(s.id, s.value, s.label) for s in scores_of(run)] == [("a", 4.0, 3.0), ("b", None, 2.0)]
    assert pearson(scores_of(run)).dropped == 1


def test_scores_of_a_judged_run_are_those_of_one_criterion(tmp_path):
    run = make_run(
        tmp_path / "r",
        judged("a", alignment=8, harmful=0.0, human=4),
        judged("b", alignment=None, harmful=1.0),
        judge="reappraisal",
    )
    assert criteria_of(RunDir.read(run)) == ["alignment", "harmful"]
    assert [(s.value, s.label) for s in scores_of(run, "alignment")] == [(8.0, 4.0), (None, None)]
    assert [s.value for s in scores_of(RunDir.read(run), "harmful")] == [0.0, 1.0]


def test_criterion_must_be_named_and_known(tmp_path):
    run = make_run(tmp_path / "r", judged("a", alignment=8, harmful=0.0), judge="reappraisal")
    with pytest.raises(spri.UsageError, match="name one of alignment, harmful"):
        scores_of(run)
    with pytest.raises(spri.UnknownNameError, match="unknown criterion 'warmth'; known: alignment, harmful"):
        scores_of(run, "warmth")


@pytest.mark.parametrize(
    "records", [(), (Record("a", {}, {"response": "text"}),), (Record("a", {}, error="E"),)]
)
def test_run_without_scores_says_how_to_make_some(tmp_path, records):
    run = make_run(tmp_path / "r", *records, task="sft")
    with pytest.raises(spri.DataError, match="holds no scores; spri judge"):
        scores_of(run)


def test_findings_hold_means_coverage_groups_agreement_and_gap(tmp_path):
    swapped = {"score": {"gap": 1.0}}
    run = make_run(
        tmp_path / "r",
        judged("a", "g1", swapped, 1, score=2),
        judged("b", "g1", {"score": {"gap": None}}, 2, score=3),
        judged("c", "g2", {"score": {"gap": 0.0}}, 3, score=4),
        judged("d", "g2", swapped, score=None),
        judge="generic",
    )
    (found,) = findings(run)
    assert (found.overall.value, found.overall.n, found.overall.dropped) == (3.0, 3, 1)
    assert {name: e.value for name, e in found.groups.items()} == {"g1": 2.5, "g2": 4.0}
    assert found.agreement[0].value == pytest.approx(1.0)
    assert (found.gap.value, found.gap.n, found.gap.dropped) == (pytest.approx(2 / 3), 3, 1)
    table = [line.split() for line in lines(RunDir.read(run))]
    assert table[1][:3] == ["score", "all", "3.00"] and table[1][-3:] == ["3", "of", "4"]
    assert ["order", "gap"] in [line[:2] for line in table]
    pearson_rows = [line for line in table if line and line[0] in ("g1", "g2", "all", "mean", "score")][-4:]
    assert [row[-3:] for row in pearson_rows] == [
        ["2", "of", "2"],
        ["1", "of", "2"],
        ["3", "of", "4"],
        ["0", "of", "4"],
    ]


def test_share_of_a_yes_or_no_criterion_has_an_interval_at_zero(tmp_path):
    records = [judged(name, harmful=0.0) for name in "abcde"]
    run = make_run(tmp_path / "r", *records, judge="reappraisal", criteria={"harmful": "share"})
    (found,) = findings(run)
    assert (found.overall.name, found.overall.value) == ("share", 0.0)
    assert 0.3 < found.overall.high < 0.7


def test_ratings_that_are_all_one_are_a_mean_and_no_share(tmp_path):
    """A run of scores 1 on a scale of 1 to 5 was told as a share with an interval of 0.34 to 1.00."""
    records = [judged(name, score=1.0) for name in "abc"]
    run = make_run(tmp_path / "r", *records, judge="generic", criteria={"score": "scale"})
    (found,) = findings(run)
    assert (found.overall.name, found.overall.value) == ("mean", 1.0)
    assert not 0.3 < found.overall.low < 0.4


def test_correlation_is_told_by_capability_and_as_their_mean(tmp_path):
    given = [("a", 1, 2), ("b", 3, 3), ("c", 5, 4), ("d", 2, 5)]
    records = [judgement(f"{g}{n}", value, human, group=g) for g in ("g1", "g2") for n, value, human in given]
    run = make_run(tmp_path / "r", *records, lms={"base": "openai/gpt-4o-mini"})
    (found,) = findings(run)
    assert list(found.agreement_by_group) == ["g1", "g2"]
    text = "\n".join(own_lines(RunDir.read(run)))
    for name in ("g1", "g2", "all", "mean of groups"):
        assert any(name in line and "0.38" in line for line in text.splitlines()), text


def test_scores_of_the_offline_lm_are_counted_and_make_no_figure(tmp_path):
    records = [judgement(name, score, 3) for name, score in zip("abcd", (1, 5, 2, None), strict=True)]
    run = RunDir.read(make_run(tmp_path / "r", *records, lms={"base": "offline?seed=3"}))
    assert as_json(run) == {"offline": True, "findings": [{"criterion": "score", "n": 3, "dropped": 1}]}
    told = list(lines(run))
    assert told[1].split() == ["score", "3", "of", "4"]
    assert not any("pearson" in line or "interval" in line for line in told)
    assert list(own_lines(run)) == []


def test_real_judge_of_offline_answers_makes_figures(tmp_path):
    manifest = {"judge": "generic", "lms": {"judge": "openai/gpt-4o"}}
    run = RunDir.read(make_run(tmp_path / "r", judged("a", score=2), judged("b", score=4), **manifest))
    assert as_json(run)["findings"][0]["overall"]["value"] == 3.0
