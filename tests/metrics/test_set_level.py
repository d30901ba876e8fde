"""Metrics against hand-computed values, scipy, and what must not change them."""

import math
import random
import time

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from spri_dspy.metrics.bootstrap import bootstrap_interval, collect, draw_counts
from spri_dspy.metrics.columns import NO_GROUP
from spri_dspy.metrics.jackknife import wilson
from spri_dspy.metrics.ranks import kendall, spearman
from spri_dspy.metrics.set_level import (
    Statistic,
    by_group,
    macro,
    mae,
    mean,
    mean_over_groups,
    pair_accuracy,
    pair_ties,
    pearson,
    share,
)
from spri_dspy.records import Estimate, Score

ALL = [pearson, spearman, kendall, mae, mean, share, pair_accuracy, pair_ties]
CORRELATIONS = [pearson, spearman, kendall]


def make_scores(values, labels=None, *, group=None, cluster=None, prefix=""):
    labels = labels if labels is not None else [None] * len(values)
    return [
        Score(f"{prefix}{i}", value, label, group(i) if group else None, cluster(i) if cluster else None)
        for i, (value, label) in enumerate(zip(values, labels, strict=True))
    ]


def width(estimate):
    return estimate.high - estimate.low


def make_judge(n, seed=0, *, groups=8, per_cluster=4, noise=1.0):
    """Ratings 1 to 5 by a human and a judge, in groups of clusters of responses to one instance."""
    rng = np.random.default_rng(seed)
    hard = np.repeat(rng.normal(size=-(-n // per_cluster)), per_cluster)[:n]
    human = np.clip(np.round(3 + hard + rng.normal(size=n)), 1, 5)
    judge = np.clip(np.round(human + noise * rng.normal(size=n)), 1, 5)
    return make_scores(
        judge.tolist(),
        human.tolist(),
        group=lambda i: f"g{i // per_cluster % groups}",
        cluster=lambda i: f"c{i // per_cluster}",
    )


@pytest.mark.parametrize(
    ("metric", "values", "labels", "expected"),
    [
        (pearson, [2, 1, 4, 3, 5], [1, 2, 3, 4, 5], 0.8),
        (spearman, [20, 10, 400, 300, 5000], [1, 2, 3, 4, 5], 0.8),
        (kendall, [2, 1, 4, 3, 5], [1, 2, 3, 4, 5], 0.6),
        (kendall, [1, 1, 2], [1, 2, 3], 2 / math.sqrt(6)),
        (mae, [1, 2, 5], [2, 2, 3], 1.0),
        (mean, [1, 2, 6], [2, 2, 3], 3.0),
        (share, [0, 1, 1, 0], [2, 2, 3, 3], 0.5),
    ],
)
def test_metric_gives_the_value_computed_by_hand(metric, values, labels, expected):
    estimate = metric(make_scores(values, labels), ci=False)
    assert estimate.value == pytest.approx(expected)
    assert (estimate.n, estimate.dropped, estimate.name) == (len(values), 0, metric.name)
    assert math.isnan(estimate.low)


def test_pairs_count_within_clusters_and_only_where_labels_differ():
    # Cluster a: 5 > 3 is tied, 5 > 3 is right, 3 = 3 is no pair. Cluster b: 2 > 1 is wrong.
    scores = make_scores([4, 4, 2, 1, 2], [5, 3, 3, 2, 1], cluster=lambda i: "aaabb"[i])
    assert pair_accuracy(scores, ci=False).value == pytest.approx(1 / 3)
    assert pair_ties(scores, ci=False).value == pytest.approx(1 / 3)


def test_pairs_have_no_value_where_no_pair_can_be_told_apart():
    estimate = pair_accuracy(make_scores([1, 2, 3], [1, 2, 3]))
    assert math.isnan(estimate.value)
    assert estimate.reason == "no two examples of a cluster differ in their labels"


@pytest.mark.parametrize(
    ("metric", "reference"),
    [(pearson, stats.pearsonr), (spearman, stats.spearmanr), (kendall, stats.kendalltau)],
)
def test_correlation_of_resamples_is_scipys_on_the_repeated_rows(metric, reference):
    columns = collect(make_judge(60, groups=3), "label")
    counts = next(draw_counts(columns, 40, random.Random(1)))
    values = metric.prepare(columns, math.nan)(counts)
    for drawn, value in zip(counts, values, strict=True):
        rows = np.repeat(np.arange(60), drawn[columns.clusters].astype(int))
        assert value == pytest.approx(reference(columns.values[rows], columns.labels[rows]).statistic)


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
def test_resampling_every_cluster_once_gives_the_value_itself(metric):
    for scores in (
        make_judge(80),
        make_scores(np.linspace(0, 1, 30) ** 3, np.cos(np.arange(30)), cluster=lambda i: f"{i % 7}"),
    ):
        columns = collect(scores, metric.needs)
        once = metric.prepare(columns, math.nan)(np.ones((1, columns.n_clusters)))
        assert once[0] == pytest.approx(metric(scores, ci=False).value)


@pytest.mark.parametrize("metric", [mean, mae, pair_accuracy], ids=lambda m: m.name)
def test_resample_counts_a_cluster_as_often_as_it_was_drawn(metric):
    scores = make_judge(40, groups=1)
    columns = collect(scores, "label")
    counts = next(draw_counts(columns, 5, random.Random(2)))
    names = sorted({s.cluster for s in scores})
    for drawn, value in zip(counts, metric.prepare(columns, math.nan)(counts), strict=True):
        repeated = [
            Score(f"{s.id}/{k}", s.value, s.label, s.group, f"{s.cluster}/{k}")
            for s in scores
            for k in range(int(drawn[names.index(s.cluster)]))
        ]
        assert value == pytest.approx(metric(repeated, ci=False).value)


def test_resamples_keep_the_number_of_clusters_of_every_group():
    columns = collect(make_judge(200, groups=5), "label")
    counts = np.concatenate([*draw_counts(columns, 50, random.Random(0))])
    assert counts.shape == (50, 50)
    assert [len(stratum) for stratum in columns.strata] == [10] * 5
    for stratum in columns.strata:
        assert set(counts[:, stratum].sum(axis=1)) == {len(stratum)}
    assert counts.std() > 0


def test_groups_of_one_cluster_are_drawn_together():
    columns = collect(make_scores([1, 2, 3], group=lambda i: f"g{i}"), "value")
    assert [len(s) for s in columns.strata] == [3]


def test_interval_knows_that_copies_in_a_cluster_are_no_new_evidence():
    base = make_judge(150, groups=1, per_cluster=1)
    copies = [Score(f"{s.id}/{k}", s.value, s.label, s.group, s.id) for s in base for k in range(4)]
    once, clustered = pearson(base), pearson(copies)
    alone = pearson([Score(s.id, s.value, s.label) for s in copies])
    assert width(clustered) == pytest.approx(width(once), rel=0.1)
    assert width(alone) < 0.6 * width(once)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=80)
        y = 0.6 * x + 0.8 * rng.normal(size=80)
        estimate = pearson(make_scores(x, y), resamples=300, rng=random.Random(seed))
        hits += estimate.low <= 0.6 <= estimate.high
    assert 180 <= hits <= 199


def test_share_of_nothing_keeps_an_open_end():
    estimate = share(make_scores([0] * 30))
    assert (estimate.value, estimate.low) == (0, 0)
    assert estimate.high == pytest.approx(wilson(0, 30, stats.t.isf(0.025, 29)).high)
    assert wilson(0.4, 20)[:2] == pytest.approx(stats.binomtest(8, 20).proportion_ci(method="wilson"))


def test_examples_without_score_or_label_are_dropped_and_counted():
    scores = make_scores([1, None, 3, 4, math.nan, 2], [1, 2, None, 4, 5, 3])
    estimate = pearson(scores, ci=False)
    assert (estimate.n, estimate.dropped, estimate.value) == (3, 3, pytest.approx(13 / 14))
    assert estimate.coverage == 0.5
    assert mean(scores, ci=False).n == 4


@pytest.mark.parametrize("metric", CORRELATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("values", "labels", "reason"),
    [
        ([], [], "no examples"),
        ([1, 2, 3], [None] * 3, "no labels"),
        ([None] * 3, [1, 2, 3], "no scores"),
        ([1, None], [None, 2], "no example has both a score and a label"),
        ([1, 2], [1, 2], "needs at least 3 examples, has 2"),
        ([4, 4, 4, 4], [1, 2, 3, 4], "constant scores"),
        ([1, 2, 3, 4], [0.1 + 0.2, 0.3, 0.3, 0.3], "constant labels"),
    ],
)
def test_correlation_that_cannot_be_computed_is_nan_with_a_reason(metric, values, labels, reason):
    flat = reason == "constant scores"
    for estimate in (
        metric(make_scores(values, labels)),
        *([] if flat else [macro(metric, make_scores(values, labels))]),
    ):
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.low)
        assert estimate.reason == reason
    assert metric(make_scores(values, labels)).n + metric(make_scores(values, labels)).dropped == len(values)


@pytest.mark.parametrize("metric", [mean, mae, share], ids=lambda m: m.name)
def test_average_of_nothing_is_nan_with_a_reason(metric):
    assert metric([]).reason == "no examples"
    assert metric(make_scores([None, None], [1, 2])).reason == "no scores"
    assert math.isnan(metric([]).value)


def test_single_cluster_has_a_value_and_no_interval():
    estimate = mean(make_scores([1, 2, 3], cluster=lambda i: "c"))
    assert estimate.value == 2
    assert math.isnan(estimate.low)
    assert estimate.reason == "no interval: a single cluster"


@pytest.mark.parametrize(
    ("values", "labels", "reason"),
    [
        ([1, 2, 3, 4], [4, 2, 3, 1], "4 clusters are too few"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], "no spread between clusters"),
        ([1, 2, 3, 4, 5, 5], [1, 1, 1, 1, 1, 2], "few clusters, and most rows have one and the same number"),
        (
            [1, 1, 1, 1, 2] * 3,
            [1, 2, 3, 4, 5] * 3,
            "few clusters, and most rows have one and the same number",
        ),
        ([*range(24)], [1] * 23 + [2], "the value hangs on a single cluster"),
    ],
)
def test_correlation_whose_interval_would_not_hold_has_none_and_says_why(values, labels, reason):
    estimate = pearson(make_scores(values, labels))
    assert math.isfinite(estimate.value) and math.isnan(estimate.low)
    assert estimate.reason == f"no interval: {reason}"


def test_scores_without_spread_have_no_interval():
    estimate = mean(make_scores([5] * 9))
    assert (estimate.value, estimate.reason) == (5, "no interval: no spread between clusters")
    assert math.isnan(estimate.low)


def test_undefined_resamples_are_left_out_and_told():
    columns = collect(make_scores([*range(6)]))

    def note(values):
        return bootstrap_interval(1.5, columns, lambda counts: np.array(values), 12).note

    assert note([1.0] * 5 + [2.0] * 5 + [np.nan] * 2) == "interval from 10 of 12 resamples"
    assert note([1.0, 2.0] + [np.nan] * 10) == "no interval: a value in only 2 of 12 resamples"
    assert note([1.0] * 12) == "no interval: every resample gives this value"


def test_macro_is_the_plain_mean_of_the_groups():
    a = make_scores([2, 1, 4, 3, 5], [1, 2, 3, 4, 5], group=lambda i: "a")
    b = make_scores([1, 2, 3], [1, 2, 3], group=lambda i: "b", prefix="b")
    estimates = by_group(pearson, b + a, ci=False)
    assert [(g, round(e.value, 9), e.n) for g, e in estimates.items()] == [("a", 0.8, 5), ("b", 1.0, 3)]
    whole = macro(pearson, a + b, ci=False)
    assert (whole.name, whole.value, whole.n) == ("macro pearson", pytest.approx(0.9), 8)


def test_macro_names_the_groups_it_leaves_out_and_those_that_tell_nothing_apart():
    a = make_scores([2, 1, 4, 3, 5], [1, 2, 3, 4, 5], group=lambda i: "a")
    b = make_scores([3, 3, 3], [1, 2, 3], group=lambda i: "b", prefix="b")
    c = make_scores([3, 3], [None, None], group=lambda i: "c", prefix="c")
    d = make_scores([1, 2, 3, None], [4, 4, 4, 1], group=lambda i: "d", prefix="d")
    estimate = macro(pearson, a + b + c + d)
    assert (estimate.value, estimate.n, estimate.dropped) == (pytest.approx(0.4), 8, 6)
    assert estimate.reason.startswith(
        "without c (no labels), d (constant labels); b counted as 0 (constant scores)"
    )
    assert estimate.low < 0.4 < estimate.high
    nothing = macro(pearson, c + d)
    assert math.isnan(nothing.value)
    assert nothing.reason == "without c (no labels), d (constant labels)"
    assert (nothing.n, nothing.dropped) == (0, 6)
    assert macro(pearson, b, ci=False).value == 0


@pytest.mark.parametrize("metric", CORRELATIONS, ids=lambda m: m.name)
def test_resample_that_tells_nothing_apart_counts_as_0_in_a_mean_over_groups(metric):
    scores = make_scores([1, 1, 1, 5], [1, 2, 3, 3])
    columns = collect(scores, "label")
    drawn = np.array([[2.0, 1, 1, 0], [0, 0, 2, 2], [1, 1, 1, 1]])  # constant scores; constant labels; all
    once = metric.prepare(columns, math.nan)(drawn)
    grouped = mean_over_groups(metric, columns, [NO_GROUP])(drawn)
    assert np.isnan(once[:2]).all() and grouped[0] == 0
    # Without a value of its own, a group has that of all its rows.
    assert grouped[1] == grouped[2] == pytest.approx(once[2]) and once[2] > 0


def largest(scores):
    return max(s.value for s in scores)


def test_any_function_of_scores_is_a_statistic():
    scores = make_scores([1, 2, 3, 4, 5, None], cluster=lambda i: f"c{i}")
    estimate = Statistic.of(largest)(scores)
    assert (estimate.name, estimate.value, estimate.n, estimate.dropped) == ("largest", 5, 5, 1)
    assert estimate.low < 5 <= estimate.high
    assert math.isnan(Statistic.of(lambda scores: math.nan, "nothing")(scores).value)
    by_function = Statistic.of(lambda scores: sum(s.value for s in scores) / len(scores))
    judged = make_judge(160, groups=1)
    assert by_function(judged).low == pytest.approx(mean(judged).low, abs=0.03)


def test_examples_without_a_group_are_a_group():
    assert [*by_group(mean, make_scores([1, 2]), ci=False)] == [NO_GROUP]


def test_macro_interval_matches_a_plain_bootstrap_loop():
    scores = make_judge(160, groups=2, seed=4)
    clusters = {}
    for s in scores:
        clusters.setdefault(s.group, {}).setdefault(s.cluster, []).append((s.value, s.label))
    rng = np.random.default_rng(9)
    means = []
    for _ in range(1500):
        values = []
        for members in clusters.values():
            drawn = rng.choice(len(members), len(members))
            rows = np.array([row for k in drawn for row in [*members.values()][k]])
            values.append(np.corrcoef(rows.T)[0, 1])
        means.append(np.mean(values))
    estimate = macro(pearson, scores, resamples=1500)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.03)


def test_cluster_over_two_groups_is_drawn_as_one():
    scores = make_scores([1, 2, 3, 5, 4], group=lambda i: "abbaa"[i], cluster=lambda i: "xxyzw"[i])
    columns = collect(scores, "value")
    assert sum(len(s) for s in columns.strata) == columns.n_clusters == 4
    counts = np.array([[2.0, 0, 0, 0]])
    x = columns.clusters[columns.values == 1][0]
    counts = np.where(np.arange(4) == x, 2.0, 0.0)[None]
    assert mean_over_groups(mean, columns, ["a", "b"])(counts)[0] == pytest.approx((1 + 2) / 2)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-3, 3) | st.none()
names = st.sampled_from(["a", "b", None])


@settings(max_examples=100, deadline=None)
@example([(1.7e308, 1.7e308, "a", "a"), (1.7e308, 1.0, "b", "a"), (-1.7e308, 2.0, "a", None)])
@given(st.lists(st.tuples(numbers, numbers, names, names), max_size=12))
def test_no_scores_make_a_metric_fail(rows):
    scores = [Score(str(i), *row) for i, row in enumerate(rows)]
    for metric in ALL:
        for estimate in (metric(scores, resamples=20), macro(metric, scores, resamples=20)):
            assert estimate.n + estimate.dropped == len(scores)
            assert not math.isnan(estimate.value) or estimate.reason
            Estimate.from_json(estimate.to_json())


ratings = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=3, max_size=30)


@settings(max_examples=60, deadline=None)
@given(ratings, st.sampled_from(CORRELATIONS), st.floats(0.1, 10), st.floats(-5, 5))
def test_correlation_is_in_range_and_blind_to_scale_and_shift(rows, metric, scale, shift):
    scores = make_scores(*zip(*rows, strict=True))
    estimate = metric(scores, resamples=50)
    assume(not math.isnan(estimate.value))
    assert -1 - 1e-9 <= estimate.value <= 1 + 1e-9
    assert math.isnan(estimate.low) or -1 - 1e-9 <= estimate.low <= estimate.high <= 1 + 1e-9
    moved = metric([Score(s.id, s.value * scale + shift, s.label) for s in scores], resamples=50)
    assert moved.value == pytest.approx(estimate.value, abs=1e-9)
    assert moved.low == pytest.approx(estimate.low, abs=1e-9, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(ratings, st.sampled_from(ALL), st.randoms(use_true_random=False))
def test_order_of_the_scores_changes_nothing(rows, metric, rng):
    scores = make_scores(
        *zip(*rows, strict=True),
        group=lambda i: "ab"[i % 2],
        cluster=lambda i: f"c{i // 3}" if i % 5 else None,
    )
    shuffled = rng.sample(scores, len(scores))
    assert repr(metric(shuffled, resamples=30)) == repr(metric(scores, resamples=30))
    assert repr(macro(metric, shuffled, resamples=30)) == repr(macro(metric, scores, resamples=30))


def test_only_intervals_of_ones_own_functions_depend_on_the_seed():
    scores = make_judge(80)
    own = Statistic.of(lambda scores: sum(s.value for s in scores) / len(scores), "average")
    assert pearson(scores) == pearson(scores, rng=random.Random(1))
    assert own(scores) == own(scores, rng=random.Random(0))
    assert own(scores).low != own(scores, rng=random.Random(1)).low


def test_large_sets_are_resampled_in_chunks():
    scores = make_judge(2780)
    columns = collect(scores, "label")
    chunks = [*draw_counts(columns, 1000, random.Random(0))]
    assert len(chunks) > 1
    assert sum(map(len, chunks)) == 1000


def test_a_thousand_resamples_of_a_benchmark_take_a_moment():
    scores = make_judge(2780)
    macro(pearson, scores, ci=False)  # scipy is imported now
    for metric in (pearson, kendall):
        start = time.perf_counter()
        estimate = macro(metric, scores)
        assert time.perf_counter() - start < 2
        assert estimate.low < estimate.value < estimate.high
