"""Two systems on the same examples, and raters on the same units."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spri_dspy.metrics.comparison import Comparison, compare, holm, paired_t, permutation_p
from spri_dspy.metrics.ranks import spearman
from spri_dspy.metrics.set_level import Statistic, macro, mean, pair_accuracy, pearson
from spri_dspy.records import Score
from tests.metrics.test_set_level import make_judge, make_scores


def noisier(scores, seed=1, noise=1.5):
    rng = np.random.default_rng(seed)
    return [replace(s, value=float(np.clip(round(s.value + noise * rng.normal()), 1, 5))) for s in scores]


@pytest.mark.parametrize("is_macro", [False, True])
def test_better_judge_is_found_to_be_better(is_macro):
    good = make_judge(400, noise=0.7)
    bad = noisier(good)
    found = compare(pearson, good, bad, macro=is_macro)
    whole = (lambda s: macro(pearson, s, ci=False)) if is_macro else (lambda s: pearson(s, ci=False))
    assert found.difference == pytest.approx(whole(good).value - whole(bad).value)
    assert 0 < found.low < found.difference < found.high
    assert found.p == pytest.approx(1 / 4001)
    assert (found.n, found.dropped, found.reason) == (400, 0, None)
    back = compare(pearson, bad, good, macro=is_macro)
    assert (back.difference, back.low, back.high, back.p) == pytest.approx(
        (-found.difference, -found.high, -found.low, found.p)
    )


def test_pairing_makes_the_interval_of_two_like_judges_narrow():
    good = make_judge(400)
    similar = [replace(s, value=s.value % 5 + 1) if i % 40 == 0 else s for i, s in enumerate(good)]
    found = compare(pearson, good, similar)
    unpaired = math.hypot(*(e.high - e.low for e in (pearson(good), pearson(similar))))
    assert found.high - found.low < 0.7 * unpaired


def test_system_against_itself_differs_by_nothing():
    scores = make_judge(80)
    doubled = [replace(s, value=2 * s.value) for s in scores]
    for other in (scores, doubled):
        found = compare(pearson, scores, other)
        assert (found.difference, found.p) == (pytest.approx(0), 1.0)
        assert math.isnan(found.low) and found.reason == "no interval: no spread between clusters"


def test_only_common_readable_examples_are_compared():
    a = make_scores([1, 2, 3, None, 5, 4], [1, 2, 3, 4, 5, 5])
    b = make_scores([2, 2, 3, 4, None, 1, 1], [1, 2, 3, 4, 5, 5, 5])
    found = compare(mean, a, b)
    assert (found.n, found.dropped) == (4, 3)
    assert found.difference == pytest.approx((1 + 2 + 3 + 4) / 4 - (2 + 2 + 3 + 1) / 4)
    assert paired_t(a, b).n == 4


def test_groups_and_clusters_are_those_of_the_first_system():
    good = make_judge(200, groups=4)
    bad = noisier(good)
    bare = [Score(s.id, s.value, s.label) for s in bad]
    assert compare(pearson, good, bare, macro=True) == compare(pearson, good, bad, macro=True)


def test_label_of_either_side_is_enough():
    a = make_scores([1, 2, 3, 5], [1, 2, 3, 4])
    b = make_scores([1, 3, 2, 4])
    assert compare(pearson, a, b, resamples=20).difference == pytest.approx(pearson(a, ci=False).value - 0.8)


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
    found = compare(pearson, a, b)
    assert math.isnan(found.difference)
    assert math.isnan(found.p)
    assert found.reason == reason
    assert found.to_json()["p"] is None


def test_macro_comparison_leaves_out_groups_that_tell_nothing_and_counts_constant_scores_as_0():
    good = make_judge(200, groups=3, noise=0.5)
    flat = [replace(s, value=3.0) if s.group == "g1" else s for s in noisier(good)]
    found = compare(pearson, good, flat, macro=True, resamples=50)
    assert found.difference == pytest.approx(
        macro(pearson, good, ci=False).value - macro(pearson, flat, ci=False).value
    )
    assert (found.n, found.dropped) == (200, 0)
    alike = [replace(s, label=2.0) if s.group == "g1" else s for s in good]
    found = compare(pearson, alike, noisier(alike), macro=True, resamples=50)
    assert found.reason == "without g1 (constant labels)"
    assert found.n + found.dropped == 200 and found.dropped == sum(s.group == "g1" for s in good)
    nothing = compare(pearson, good, [replace(s, value=3.0) for s in good], macro=True, resamples=50)
    assert nothing.difference == pytest.approx(macro(pearson, good, ci=False).value)


def all_swaps(measure, a, b):
    """The exact p: every way to swap clusters, by computing both sides anew."""
    clusters = list(dict.fromkeys(s.cluster for s in a))
    observed, extreme = abs(measure(a) - measure(b)), 0
    for signs in itertools.product((False, True), repeat=len(clusters)):
        swapped = dict(zip(clusters, signs, strict=True))
        one = [y if swapped[x.cluster] else x for x, y in zip(a, b, strict=True)]
        two = [x if swapped[x.cluster] else y for x, y in zip(a, b, strict=True)]
        extreme += abs(measure(one) - measure(two)) >= observed - 1e-12
    return extreme / 2 ** len(clusters)


def on_one_scale(side):
    """The same correlations on one scale, which is what the permutation test of a correlation compares."""
    found = list(side)
    for group in {s.group for s in side}:
        values = np.array([s.value for s in side if s.group == group])
        z = iter((values - values.mean()) / values.std())
        found = [replace(s, value=float(next(z))) if s.group == group else s for s in found]
    return found


def level(scores):
    return sum(s.value for s in scores) / len(scores)


@pytest.mark.parametrize("draws", [4000, 100])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("statistic", [mean, pearson, Statistic.of(level)], ids=lambda s: s.name)
def test_permutation_test_agrees_with_every_swap(statistic, groups, draws):
    a = make_judge(18, seed=3, groups=groups, per_cluster=2, noise=0.5)
    b = noisier(a, seed=4)
    is_macro = statistic is pearson
    measure = (lambda s: macro(statistic, s, ci=False).value) if is_macro else level
    exact = all_swaps(measure, *((on_one_scale(s) for s in (a, b)) if is_macro else (a, b)))
    found = compare(statistic, a, b, macro=is_macro, resamples=20, draws=draws)
    is_exact = statistic.sums and draws == 4000
    if is_exact and is_macro:  # swaps of standardised scores are widened: p is a little larger
        assert exact <= found.p <= exact + 0.1
    else:
        assert found.p == pytest.approx(exact, abs=1e-12 if is_exact else 0.15)
    assert f"{draws} draws" in found.test and "permutation test of clusters" in found.test


@pytest.mark.parametrize("statistic", [pearson, spearman], ids=lambda s: s.name)
def test_permutation_test_of_a_correlation_does_not_care_for_scale(statistic):
    a = make_judge(40, groups=2)
    b = noisier(a)
    stretched = [replace(s, value=10 * s.value + 3) for s in a]
    ps = [compare(statistic, side, b, macro=True, resamples=20, draws=200).p for side in (a, stretched)]
    assert ps[0] == ps[1]


def test_swaps_of_standardised_scores_are_widened_by_the_clusters_of_each_group():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 12, 1))
    strata = [np.arange(4), np.arange(4, 12)]
    factor = np.repeat([(4 / 3) ** 0.5, (8 / 7) ** 0.5], [4, 8])
    half = (first - second)[:, 0] / 2
    signs = 1.0 - 2.0 * (np.arange(2**11)[:, None] >> np.arange(12) & 1)
    expected = (abs(signs @ (factor * half)) >= abs(half.sum()) - 1e-12).mean()
    p = permutation_p(first, second, lambda s: s[..., 0], draws=4000, rng=random.Random(0), strata=strata)
    assert p == pytest.approx(expected, abs=1e-12)
    assert p > permutation_p(first, second, lambda s: s[..., 0], draws=4000, rng=random.Random(0))


def test_copies_in_a_cluster_are_no_new_evidence():
    a, b = make_scores([3, 4, 4, 5, 3, 4, 5, 4]), make_scores([3, 3, 4, 4, 4, 4, 4, 3])
    copied = [[replace(s, id=f"{s.id}/{k}", cluster=s.id) for s in side for k in range(4)] for side in (a, b)]
    assert compare(mean, *copied).p == compare(mean, a, b).p
    assert paired_t(*copied).p < 0.5 * paired_t(a, b).p
    assert "independent" in paired_t(a, b).test


def test_single_cluster_has_a_difference_and_no_p():
    a, b = (make_scores(v, [1, 2, 3], cluster=lambda i: "c") for v in ([1, 2, 3], [1, 3, 2]))
    found = compare(pair_accuracy, a, b)
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


def test_comparison_goes_to_json_without_nan():
    json = Comparison("mean", 0.5, math.nan, 1.0, 0.2, 3, "paired t").to_json()
    assert (json["low"], json["difference"], json["n"]) == (None, 0.5, 3)
