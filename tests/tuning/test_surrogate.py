"""The stand-in for a correlation: right at the incumbent, right in direction near it, and never a zero for a gap."""

import random
from statistics import fmean

import pytest

from spri_dspy.metrics import Metric
from spri_dspy.records import Score
from spri_dspy.tuning.surrogate import NEUTRAL, fit

PEARSON = Metric("pearson", "pearson", lambda example, prediction: None, label="human_score")
MEAN = Metric("score", "mean", lambda example, prediction: None)


def scores_of(pairs, group="a", first=0):
    """Scores of (value, label) pairs."""
    return [Score(f"{group}{first + i}", v, h, group) for i, (v, h) in enumerate(pairs)]


def drawn(rng, n_groups, *, skill=0.5, constant=False):
    """A judge of several groups; values are None now and then, and labels of one group may be constant."""
    found = []
    for g in range(n_groups):
        labels = [rng.randint(1, 5) for _ in range(rng.randint(1, 12))]
        values = [h if rng.random() < skill else rng.randint(1, 5) for h in labels]
        if constant and not g:
            labels = [3] * len(labels)
        pairs = [
            (None if rng.random() < 0.1 else float(v), float(h)) for v, h in zip(values, labels, strict=True)
        ]
        found += scores_of(pairs, f"g{g}")
    return found


def raw_mean(surrogate, scores):
    return fmean(raw for s in scores if (raw := surrogate.raw(s)) is not None)


def test_hand_computed_values_of_one_group():
    scores = scores_of(
        [(1.0, 1.0), (3.0, 2.0), (2.0, 3.0)]
    )  # r = 0.5; z of both sides are -1.22, 0, 1.22 in some order
    surrogate = fit(PEARSON, scores)
    assert [surrogate.raw(s) for s in scores] == pytest.approx([1.25, 0.125, 0.125])
    assert surrogate.centre == pytest.approx(0.5)


def test_groups_weigh_alike_whatever_their_size():
    small, large = (
        scores_of([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]),
        scores_of([(1.0, 3.0), (3.0, 1.0)] * 3, "b"),
    )
    surrogate = fit(PEARSON, [*small, *large])
    assert (surrogate.groups["a"].weight, surrogate.groups["b"].weight) == pytest.approx((9 / 6, 9 / 12))
    assert raw_mean(surrogate, [*small, *large]) == pytest.approx(0.0)  # the mean of r = 1 and r = -1


@pytest.mark.parametrize("seed", range(30))
def test_mean_at_the_incumbent_is_its_macro_pearson(seed):
    scores = drawn(random.Random(seed), 1 + seed % 4, constant=seed % 3 == 0)
    surrogate, measured = fit(PEARSON, scores), PEARSON.measure(scores)
    if measured == measured:  # no group with labels that differ: nothing to measure
        assert raw_mean(surrogate, scores) == pytest.approx(measured)
        assert surrogate.centre == pytest.approx(measured)


@pytest.mark.parametrize("seed", range(20))
def test_values_lie_in_the_unit_interval_and_the_incumbents_mean_is_neutral(seed):
    rng = random.Random(seed)
    scores = drawn(rng, 3)
    surrogate = fit(PEARSON, scores)
    usable = [s for s in scores if surrogate.raw(s) is not None]
    assert fmean(surrogate.value(s) for s in usable) == pytest.approx(NEUTRAL)
    wild = [Score("x", rng.uniform(-100, 100), s.label, s.group) for s in usable]
    assert all(0 <= surrogate.value(s) <= 1 for s in [*usable, *wild])


@pytest.mark.parametrize("seed", range(10))
def test_a_better_judge_of_the_same_examples_gets_more(seed):
    rng = random.Random(seed)
    labels = [rng.randint(1, 5) for _ in range(60)]

    def judge(skill):
        values = [h if rng.random() < skill else rng.randint(1, 5) for h in labels]
        return scores_of([(float(v), float(h)) for v, h in zip(values, labels, strict=True)])

    start, better = judge(0.3), judge(0.9)
    surrogate = fit(PEARSON, start)
    assert fmean(map(surrogate.value, better)) > fmean(map(surrogate.value, start)) + 0.02


def test_telling_answers_apart_is_rewarded_where_the_incumbent_does_not():
    start = scores_of([(3.0, 1.0), (3.0, 3.0), (3.0, 5.0)])
    surrogate = fit(PEARSON, start)
    better, worse = (
        scores_of([(2.0, 1.0), (3.0, 3.0), (4.0, 5.0)]),
        scores_of([(4.0, 1.0), (3.0, 3.0), (2.0, 5.0)]),
    )
    assert [fmean(map(surrogate.value, side)) for side in (worse, start, better)] == sorted(
        fmean(map(surrogate.value, side)) for side in (worse, start, better)
    )
    assert fmean(map(surrogate.value, better)) > NEUTRAL


@pytest.mark.parametrize("metric", [PEARSON, MEAN])
def test_a_missing_score_is_neutral_and_no_zero(metric):
    surrogate = fit(metric, scores_of([(1.0, 1.0), (2.0, 2.0), (4.0, 5.0), (5.0, 4.0)]))
    missing = Score("x", None, 3.0, "a")
    assert surrogate.value(missing) == NEUTRAL
    assert surrogate.is_good(missing) is False


def test_a_row_without_a_label_or_of_a_new_group_is_no_evidence():
    surrogate = fit(PEARSON, scores_of([(1.0, 1.0), (2.0, 2.0), (4.0, 5.0)]))
    assert surrogate.value(Score("x", 5.0, None, "a")) == NEUTRAL
    assert surrogate.value(Score("x", 5.0, 5.0, "elsewhere")) == NEUTRAL


@pytest.mark.parametrize(
    "scores", [[], scores_of([(None, 3.0)]), scores_of([(2.0, 3.0)]), scores_of([(2.0, 3.0)] * 9)]
)
@pytest.mark.parametrize("metric", [PEARSON, MEAN])
def test_too_little_to_fit_gives_numbers_all_the_same(metric, scores):
    surrogate = fit(metric, scores)
    assert 0 <= surrogate.value(Score("x", 4.0, 1.0, "a")) <= 1
    assert isinstance(surrogate.is_good(Score("x", 4.0, 1.0, "a")), bool)


def test_half_of_the_incumbents_examples_are_good_enough_to_show():
    scores = drawn(random.Random(3), 3)
    surrogate = fit(PEARSON, scores)
    in_large = [s for s in scores if s.value is not None and surrogate.groups[s.group].r is not None]
    share = sum(surrogate.is_good(s) for s in in_large) / len(in_large)
    assert 0.5 <= share <= 0.8
    assert all(type(surrogate.is_good(s)) is bool for s in scores)


def test_a_mean_is_its_own_stand_in():
    surrogate = fit(MEAN, scores_of([(2.0, None), (4.0, None)]))
    values = [surrogate.value(Score("x", v)) for v in (2.0, 3.0, 4.0, 5.0)]
    assert values[1] == NEUTRAL
    assert values == sorted(set(values))
    assert [surrogate.is_good(Score("x", v)) for v in (2.9, 3.0)] == [False, True]
