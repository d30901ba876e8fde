"""Two systems on the same examples, and raters on the same units."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spri_dspy.metrics.comparison import Comparison, holm, krippendorff_alpha, paired_bootstrap, paired_t
from spri_dspy.metrics.set_level import macro, mean, pair_accuracy, pearson
from spri_dspy.records import Score
from tests.metrics.test_set_level import make_judge, make_scores, width

_ = None
# Krippendorff 2011: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


def noisier(scores, seed=1, noise=1.5):
    rng = np.random.default_rng(seed)
    return [replace(s, value=float(np.clip(round(s.value + noise * rng.normal()), 1, 5))) for s in scores]


@pytest.mark.parametrize("is_macro", [False, True])
def test_better_judge_is_found_to_be_better(is_macro):
    good = make_judge(400, noise=0.7)
    bad = noisier(good)
    found = paired_bootstrap(pearson, good, bad, macro=is_macro)
    whole = (lambda s: macro(pearson, s, ci=False)) if is_macro else (lambda s: pearson(s, ci=False))
    assert found.difference == pytest.approx(whole(good).value - whole(bad).value)
    assert 0 < found.low < found.difference < found.high
    assert found.p == pytest.approx(2 / 1001)
    assert (found.n, found.dropped, found.reason) == (400, 0, None)
    back = paired_bootstrap(pearson, bad, good, macro=is_macro)
    assert (back.difference, back.low, back.high, back.p) == pytest.approx(
        (-found.difference, -found.high, -found.low, found.p)
    )


def test_pairing_makes_the_interval_of_two_like_judges_narrow():
    good = make_judge(400)
    similar = [replace(s, value=s.value % 5 + 1) if i % 40 == 0 else s for i, s in enumerate(good)]
    found = paired_bootstrap(pearson, good, similar)
    unpaired = math.hypot(*(e.high - e.low for e in (pearson(good), pearson(similar))))
    assert found.high - found.low < 0.7 * unpaired


def test_system_against_itself_differs_by_nothing():
    scores = make_judge(80)
    doubled = [replace(s, value=2 * s.value) for s in scores]
    for other in (scores, doubled):
        found = paired_bootstrap(pearson, scores, other)
        assert (found.difference, found.low, found.high, found.p) == (pytest.approx(0), 0, 0, 1.0)


def test_p_values_of_equal_systems_are_spread_evenly():
    ps = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = (make_scores(rng.normal(size=40)) for _ in range(2))
        ps.append(paired_bootstrap(mean, a, b, resamples=200, rng=random.Random(seed)).p)
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.1
    assert 0.4 <= np.mean(ps) <= 0.6


def test_only_common_readable_examples_are_compared():
    a = make_scores([1, 2, 3, None, 5, 4], [1, 2, 3, 4, 5, 5])
    b = make_scores([2, 2, 3, 4, None, 1, 1], [1, 2, 3, 4, 5, 5, 5])
    found = paired_bootstrap(mean, a, b)
    assert (found.n, found.dropped) == (4, 3)
    assert found.difference == pytest.approx((1 + 2 + 3 + 4) / 4 - (2 + 2 + 3 + 1) / 4)
    assert paired_t(a, b).n == 4


def test_groups_and_clusters_are_those_of_the_first_system():
    good = make_judge(200, groups=4)
    bad = noisier(good)
    bare = [Score(s.id, s.value, s.label) for s in bad]
    assert paired_bootstrap(pearson, good, bare, macro=True) == paired_bootstrap(
        pearson, good, bad, macro=True
    )


def test_label_of_either_side_is_enough():
    a = make_scores([1, 2, 3, 5], [1, 2, 3, 4])
    b = make_scores([1, 3, 2, 4])
    assert paired_bootstrap(pearson, a, b, resamples=20).difference == pytest.approx(
        pearson(a, ci=False).value - 0.8
    )


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([], [], "no examples"),
        (make_scores([1, 2, 3], [1, 2, 3]), [], "no examples"),
        (make_scores([1, 2], [1, 2]), make_scores([1, 2], [1, 2]), "needs at least 3 examples, has 2"),
        (make_scores([4, 4, 4], [1, 2, 3]), make_scores([1, 2, 3], [1, 2, 3]), "constant scores"),
        (
            make_scores([1, 2, 3], [1, 2, 3]),
            make_scores([1, 2, 3], [1, 2, 4]),
            "labels differ, for example of '2'",
        ),
        (
            [Score("x", 1, 1), Score("x", 2, 2)],
            [Score("x", 1, 1)],
            "ids are not unique: examples cannot be paired",
        ),
    ],
)
def test_comparison_that_cannot_be_made_is_nan_with_a_reason(a, b, reason):
    found = paired_bootstrap(pearson, a, b)
    assert math.isnan(found.difference)
    assert math.isnan(found.p)
    assert found.reason == reason
    assert found.to_json()["p"] is None


def test_macro_comparison_leaves_out_groups_that_either_lacks():
    good = make_judge(200, groups=3, noise=0.5)
    flat = [replace(s, value=3.0) if s.group == "g1" else s for s in noisier(good)]
    found = paired_bootstrap(pearson, good, flat, macro=True)
    rest = [s for s in good if s.group != "g1"], [s for s in flat if s.group != "g1"]
    expected = macro(pearson, rest[0], ci=False).value - macro(pearson, rest[1], ci=False).value
    assert found.difference == pytest.approx(expected)
    assert found.reason == "without g1 (constant scores)"
    assert found.n + found.dropped == 200
    nothing = paired_bootstrap(pearson, good, [replace(s, value=3.0) for s in good], macro=True)
    assert math.isnan(nothing.difference)
    assert "g0 (constant scores)" in nothing.reason


def test_single_cluster_has_a_difference_and_no_p():
    a, b = (make_scores(v, [1, 2, 3], cluster=lambda i: "c") for v in ([1, 2, 3], [1, 3, 2]))
    found = paired_bootstrap(pair_accuracy, a, b)
    assert (found.difference, found.reason) == (pytest.approx(1 / 3), "a single cluster")
    assert math.isnan(found.p)


def test_t_test_is_scipys():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=30), rng.normal(size=30) + 0.5
    found = paired_t(make_scores(a), make_scores(b)[::-1])
    reference = stats.ttest_rel(a, b)
    assert (found.p, found.difference) == (pytest.approx(reference.pvalue), pytest.approx(np.mean(a - b)))
    assert (found.low, found.high) == pytest.approx(reference.confidence_interval(0.95))


@pytest.mark.parametrize(
    ("a", "b", "p", "reason"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0, "every difference is the same"),
        ([2, 3, 4], [1, 2, 3], math.nan, "every difference is the same"),
        ([1], [2], math.nan, "one common example"),
        ([], [], math.nan, "no common examples"),
    ],
)
def test_t_test_without_spread_says_so(a, b, p, reason):
    found = paired_t(make_scores(a), make_scores(b))
    assert found.p == pytest.approx(p, nan_ok=True)
    assert found.reason == reason


def test_holm_corrects_in_steps_and_keeps_nan_out():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_p_nor_changes_the_order(ps):
    corrected = holm(ps)
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    for i in range(len(ps)):
        for j in range(len(ps)):
            assert ps[i] > ps[j] or corrected[i] <= corrected[j]


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_example_is_the_printed_one(level, alpha):
    found = krippendorff_alpha(OBSERVERS, level=level)
    assert round(found.value, 3) == alpha
    assert (found.n, found.dropped) == (11, 1)
    assert found.low < found.value < found.high


def test_alpha_by_hand():
    # Coincidences 1-1: 2, 1-2: 1, 2-1: 1; middles 1.5 and 3.5: observed 8, expected 24/3.
    assert krippendorff_alpha([[1, 1], [1, 2]], ci=False).value == pytest.approx(0)


def test_alpha_does_not_depend_on_the_order_of_raters_or_units():
    columns = [*zip(*OBSERVERS, strict=True)]
    random.Random(5).shuffle(columns)
    shuffled = [list(rater) for rater in zip(*columns, strict=True)][::-1]
    assert krippendorff_alpha(shuffled, resamples=50) == krippendorff_alpha(OBSERVERS, resamples=50)


def test_alpha_interval_draws_clusters_of_units_together():
    rng = np.random.default_rng(2)
    first = rng.integers(1, 6, 60)
    second = np.clip(first + rng.integers(-1, 2, 60), 1, 5)
    copies = [np.repeat(side, 4).tolist() for side in (first, second)]
    alone = krippendorff_alpha([first.tolist(), second.tolist()])
    together = krippendorff_alpha(copies, clusters=[str(i // 4) for i in range(240)])
    assert width(together) == pytest.approx(width(alone), rel=0.15)
    assert width(krippendorff_alpha(copies)) < 0.6 * width(alone)


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        ([], "no unit has two ratings"),
        ([[1, None], [None, 2]], "no unit has two ratings"),
        ([[3, 3], [3, 3]], "constant ratings"),
    ],
)
def test_alpha_that_cannot_be_computed_is_nan_with_a_reason(ratings, reason):
    found = krippendorff_alpha(ratings)
    assert math.isnan(found.value)
    assert found.reason == reason


def test_alpha_refuses_raters_of_different_lengths():
    with pytest.raises(ValueError, match="zip"):
        krippendorff_alpha([[1, 2], [1]])


def test_comparison_goes_to_json_without_nan():
    json = Comparison("mean", 0.5, math.nan, 1.0, 0.2, 3, "paired t").to_json()
    assert (json["low"], json["difference"], json["n"]) == (None, 0.5, 3)
