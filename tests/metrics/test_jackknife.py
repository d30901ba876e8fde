"""Intervals from leaving clusters out, against textbook formulas."""

import math

import numpy as np
import pytest
from scipy import stats

from spri_dspy.metrics.jackknife import Blocks, hall, jackknife_interval, wilson

VALUES = np.array([1.0, 4, 2, 8, 5, 7, 1, 3])
STRATA = [np.arange(8)]


def mean_without(values, blocks):
    return np.concatenate([c @ values / c.sum(axis=1) for c in blocks.counts()])


def interval(values, scale, strata=STRATA, **settings):
    blocks = Blocks.of(strata)
    return jackknife_interval(float(values.mean()), mean_without(values, blocks), blocks, scale, **settings)


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_difference_of_means_has_students_interval(level):
    found = stats.ttest_1samp(VALUES, 0).confidence_interval(1 - level)
    assert interval(VALUES, "difference", level=level)[:2] == pytest.approx(found)


def test_two_groups_of_unlike_spread_have_welchs_degrees_of_freedom():
    groups = np.split(VALUES, [3])
    values, strata = np.concatenate(groups), [np.arange(3), np.arange(3, 8)]

    def difference(counts):
        return (counts[:, :3] @ groups[0]) / counts[:, :3].sum(1) - (counts[:, 3:] @ groups[1]) / counts[
            :, 3:
        ].sum(1)

    blocks = Blocks.of(strata)
    without = np.concatenate([difference(c) for c in blocks.counts()])
    found = jackknife_interval(float(difference(np.ones((1, len(values))))[0]), without, blocks, "difference")
    welch = stats.ttest_ind(*groups, equal_var=False).confidence_interval()
    assert found[:2] == pytest.approx(tuple(welch))


def test_pooled_mean_of_two_groups_has_the_stratified_standard_error():
    groups = np.split(VALUES, [3])
    strata, blocks = [np.arange(3), np.arange(3, 8)], Blocks.of([np.arange(3), np.arange(3, 8)])
    low, high, _ = interval(VALUES, "difference", strata)
    variances = [(len(g) / 8) ** 2 * g.var(ddof=1) / len(g) for g in groups]
    freedom = sum(variances) ** 2 / sum(v * v / (len(g) - 1) for v, g in zip(variances, groups, strict=True))
    assert (high - low) / 2 == pytest.approx(stats.t.isf(0.025, freedom) * sum(variances) ** 0.5)
    assert [float(c.sum()) for part in blocks.counts() for c in part] == pytest.approx([8.0] * 8)


def test_gap_has_the_wider_ends_of_two_intervals():
    values, strata = np.append(VALUES, [2.0, 9.0]), [np.arange(10)]
    gap, plain, bent = (interval(values, scale, strata) for scale in ("gap", "difference", "mean"))
    assert gap[:2] == (min(plain.low, bent.low), max(plain.high, bent.high))


def test_gap_of_fewer_than_ten_clusters_has_no_interval():
    assert interval(VALUES, "gap").note == "no interval: 8 clusters are too few"


def test_correlation_pays_for_the_means_and_spreads_of_two_sides():
    z = np.arctanh(0.3) + 0.05 * np.array([-1.0, 1] * 4)
    blocks = Blocks.of(STRATA)
    low, high, _ = jackknife_interval(0.3, np.tanh(z), blocks, "rank correlation")
    error = (7 / 8 * 8 * 0.05**2) ** 0.5  # of the jackknife, on Fisher's z
    half = (np.arctanh(high) - np.arctanh(low)) / 2
    assert half == pytest.approx(stats.t.isf(0.025, 8 - 1 - 2) * error)


def test_mean_of_skewed_clusters_has_the_longer_arm_where_they_reach_far():
    skewed = np.array([5.0, 5, 5, 4, 5, 1, 5, 5])
    low, high, _ = interval(skewed, "mean")
    plain = interval(skewed, "difference")
    assert skewed.mean() - low > 1.5 * (high - skewed.mean()) and low < plain.low and high < plain.high
    even = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    assert interval(even, "mean")[:2] == pytest.approx(interval(even, "difference")[:2], abs=1e-4)
    assert hall(0, 1, 0.3, 9).high == pytest.approx(-hall(0, 1, -0.3, 9).low)


def test_share_has_wilsons_interval_of_as_many_as_the_variance_says():
    right = np.array([1.0, 0, 1, 1, 1, 0, 1, 1])
    t = stats.t.isf(0.025, 7)
    assert interval(right, "share")[:2] == pytest.approx(
        wilson(0.75, 7, t)[:2]
    )  # the variance is that of n - 1
    assert wilson(0.4, 20)[:2] == pytest.approx(stats.binomtest(8, 20).proportion_ci(method="wilson"))


def test_correlation_has_the_wider_ends_of_two_scales_and_stays_in_range():
    without = 0.7 + 0.2 * (VALUES - VALUES.mean()) / 7
    blocks = Blocks.of(STRATA)
    both, z, plain = (
        jackknife_interval(0.7, without, blocks, scale)
        for scale in ("correlation", "rank correlation", "difference")
    )
    assert z.low < plain.low and z.high < plain.high
    assert both.low == pytest.approx(z.low) and both.high == pytest.approx(min(1.0, plain.high), abs=0.02)
    far = jackknife_interval(0.7, 0.7 + 5 * (without - 0.7), blocks, "correlation")
    assert -1 <= far.low < 0.7 < far.high <= 1


def test_far_off_clusters_take_degrees_of_freedom_from_a_correlation():
    blocks = Blocks.of([np.arange(40)])
    even = 0.2 + 0.01 * np.tile([-1.0, 1], 20)
    far = np.full(40, 0.2)
    far[[0, 1]] = 0.2 + 0.01 * 20**0.5 * np.array([-1, 1])  # the same variance, held by two clusters
    narrow, wide = (jackknife_interval(0.2, each, blocks, "correlation") for each in (even, far))
    assert wide.high - wide.low > 1.1 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("strata", "note"),
    [
        ([np.arange(1)], "no interval: a single cluster"),
        ([np.arange(4)], "no interval: 4 clusters are too few"),
        ([np.arange(3), np.arange(3, 5)], "no interval: 5 clusters in 2 groups are too few"),
        ([np.arange(5)], None),
        ([np.arange(3), np.arange(3, 6)], None),
    ],
)
def test_few_clusters_have_no_interval(strata, note):
    blocks = Blocks.of(strata)
    assert blocks.too_few() == note
    without = np.arange(float(len(blocks.members)))
    assert jackknife_interval(1.0, without, blocks, "mean").note == note


def test_what_hangs_on_one_cluster_or_has_no_spread_has_no_interval():
    blocks = Blocks.of(STRATA)
    for without, why in ((np.array([1.0] * 7 + [math.nan]), "hangs"), (np.full(8, 1.0), "spread")):
        found = jackknife_interval(1.0, without, blocks, "mean")
        assert math.isnan(found.low) and why in found.note


def test_many_clusters_are_left_out_in_blocks_and_give_the_same_interval():
    values = np.random.default_rng(0).exponential(size=3000)
    strata = [np.arange(1000), np.arange(1000, 3000)]
    ends = []
    for most in (5000, 1200):
        blocks = Blocks.of(strata, most)
        without = mean_without(values, blocks)
        ends.append(jackknife_interval(float(values.mean()), without, blocks, "mean")[:2])
    assert sorted(np.concatenate(blocks.members).tolist()) == [*range(3000)] and len(blocks.members) <= 1200
    assert ends[1][1] - ends[1][0] == pytest.approx(ends[0][1] - ends[0][0], rel=0.06)
