"""What `spri agree` makes of recorded judges and people, against figures computed anew from the rows."""

from collections import Counter
from statistics import fmean

import pytest
from scipy import stats

import spri_dspy as spri
from benchmarks.agree import How, false_alarms, longer, n_words, pandalm
from spri_dspy.errors import UsageError
from tests.command import spri as command
from tests.data import data_file, data_files, rows

QUICK = spri.AgreeSettings(resamples=20)

# As the recordings' own description has them: accuracy averaged over both orders, both orders alike.
DESCRIBED = {
    "gpt-4__vanilla": ("0.845", "0.928"),
    "gpt-4__cot": ("0.813", "0.893"),
    "gpt-4__metrics": ("0.857", "0.909"),
    "gpt-4__metrics_reference": ("0.872", "0.916"),
    "gpt-4__rating": ("0.839", None),
    "gpt-4__rating_metrics": ("0.854", None),
}


@pytest.mark.parametrize(
    "path", data_files("judging/llmbar_judges/*.jsonl"), ids=lambda p: p.stem if p else "none"
)
def test_recorded_judges_of_llmbar_come_out_as_recorded(path):
    figures = spri.agree(path, "preferred", pairs=True, settings=QUICK).judges[0].figures
    both = [row for row in rows(path) if row["winner"] and row["winner_swapped"]]
    right = fmean(
        (r["winner"] == r["preferred"]) / 2 + (r["winner_swapped"] == r["preferred"]) / 2 for r in both
    )
    accuracy, alike = figures["accuracy"], figures["both_orders_agree"]
    assert accuracy.value == pytest.approx(right, abs=1e-9)
    assert alike.value == pytest.approx(fmean(r["winner"] == r["winner_swapped"] for r in both), abs=1e-9)
    assert (accuracy.n, accuracy.n + accuracy.dropped) == (len(both), 419)
    described = DESCRIBED.get(path.stem)
    if described:
        assert f"{accuracy.value:.3f}" == described[0]
        assert described[1] in (None, f"{alike.value:.3f}")


@pytest.mark.parametrize(
    ("name", "of_scores"), [("gpt-4__rating", "0.841"), ("gpt-4__rating_metrics", "0.854")]
)
def test_ties_of_ratings_count_half(name, of_scores):
    path = data_file(f"judging/llmbar_judges/{name}.jsonl")
    columns = spri.AgreeColumns(score="scores")
    half, wrong = (
        spri.agree(path, "preferred", pairs=True, columns=columns, ties=ties, settings=QUICK)
        .judges[0]
        .figures["accuracy"]
        for ties in (None, "wrong")
    )
    assert (
        f"{half.value:.3f}" == of_scores
    )  # two ratings of the first were not given: missing, where `winner` has a half
    assert half.value - wrong.value == pytest.approx(
        fmean(r["scores"][0] == r["scores"][1] for r in rows(path) if None not in r["scores"]) / 2
    )


def nominal_alpha(units):
    """Alpha of units that all have three votes, from the definition: disagreeing pairs within, over those at large."""
    within = fmean(len(set(pair)) > 1 for u in units for pair in ((u[0], u[1]), (u[0], u[2]), (u[1], u[2])))
    tally = Counter(vote for unit in units for vote in unit)
    n = sum(tally.values())
    return 1 - within / (1 - sum(c * (c - 1) for c in tally.values()) / (n * (n - 1)))


def test_annotators_of_pandalm_have_the_alpha_of_the_definition():
    path = data_file("judging/pandalm_999.jsonl")
    votes = [row["annotators"] for row in rows(path)]
    columns = spri.AgreeColumns(score=longer, cluster="instruction")
    found = spri.agree(path, "annotators", pairs=True, columns=columns, settings=QUICK)
    assert found.people.alpha.value == pytest.approx(nominal_alpha(votes))
    assert found.people.alpha.value == pytest.approx(0.864, abs=5e-4)
    judge = found.judges[0]
    assert judge.alt_test.passes is False
    assert judge.alt_test.rho == pytest.approx(0.654, abs=5e-4)
    wide = max(judge.footing["accuracy"].people.value, judge.footing["accuracy"].judge.value)
    assert wide == judge.footing["accuracy"].people.value == pytest.approx(0.920, abs=5e-4)


def test_two_annotators_of_pandalm_are_too_few_for_the_alt_test():
    section = pandalm([data_file("judging/pandalm_999.jsonl")], How(20, 0))
    assert [row[-1] for row in section.rows] == ["no", "no", *["needs at least 3 annotators, has 2"] * 3]


def test_rule_on_topical_chat_is_scipys():
    path = data_file("judging/topical_chat_360.jsonl")
    columns = spri.AgreeColumns(score=n_words)
    found = spri.agree(path, "human.engagingness", columns=columns, settings=QUICK).judges[0]
    words = [len(row["response"].split()) for row in rows(path)]
    people = [row["human"]["engagingness"] for row in rows(path)]
    assert found.figures["pearson"].value == pytest.approx(stats.pearsonr(words, people).statistic)
    assert found.figures["spearman"].value == pytest.approx(stats.spearmanr(words, people).statistic)
    assert found.figures["kendall"].value == pytest.approx(stats.kendalltau(words, people).statistic)
    assert {item.cluster for item in found.ratings.items} == {row["id"] for row in rows(path)}


@pytest.mark.parametrize(
    ("measure", "alpha", "r"), [("alignment_with_standards", "0.48", "0.50"), ("empathy", "0.39", "0.45")]
)
def test_experts_on_reappraisals_agree_as_known(measure, alpha, r):
    path = data_file("reappraisal/human_227.jsonl")
    columns = spri.AgreeColumns(score=f"annotation_1.{measure}")
    judge = spri.agree(path, f"annotation_2.{measure}", columns=columns, settings=QUICK).judges[0]
    assert (f"{judge.alpha.judge.value:.2f}", f"{judge.figures['pearson'].value:.2f}") == (alpha, r)
    assert judge.alt_test.reason == "needs at least 3 annotators, has 1"


def test_command_reads_the_recordings_without_preparation():
    path = data_file("judging/llmbar_judges/gpt-4__vanilla.jsonl")
    code, out, _ = command(
        "agree", path, "--people", "preferred", "--pairs", "--group", "subset", "--resamples", 50
    )
    assert code == 0
    assert "0.845" in out and "0.928" in out and "neighbor" in out


def test_simulated_false_alarms_are_counted():
    section = false_alarms(20, 0)
    assert [row[0] for row in section.rows] == ["40", "100", "160"]
    assert all(0 <= result["passed"] <= 0.3 for result in section.results)


def test_folder_without_recordings_is_refused(tmp_path):
    from benchmarks.agree import main

    with pytest.raises(UsageError, match="nothing to measure"):
        main(["--recordings", str(tmp_path)])
