"""The rule by which a tuned program replaces the start: it holds where nothing is better, and it sees what is."""

import itertools
import math
import random

import numpy as np
import pytest

from spri_dspy.records import Score
from spri_dspy.tuning.decision import decide, swap_test
from spri_dspy.tuning.metrics import Metric, own_judgement, pearson

MEAN = Metric("level", "mean", own_judgement)


def make_scores(values, *, labels=None, groups=1, per_cluster=1):
    labels = [None] * len(values) if labels is None else labels
    return [
        Score(
            f"e{i}",
            None if v is None else float(v),
            None if h is None else float(h),
            f"g{i // per_cluster % groups}",
            f"c{i // per_cluster}",
        )
        for i, (v, h) in enumerate(zip(values, labels, strict=True))
    ]


def judged(draw, worth, r, scale=1.0):
    """Five-point scores of things of that worth, by a judge of that correlation."""
    noise = draw.normal(size=len(worth))
    return np.clip(np.round(scale * 1.1 * (r * worth + math.sqrt(1 - r * r) * noise) + 3.2), 1, 5)


def pair(draw, n, *, first=0.4, second=0.4, groups=1, per_cluster=1, scale=1.0):
    """Two systems' scores of the same examples; clusters share a part of what they are worth."""
    worth = 0.8 * draw.normal(size=n) + 0.6 * np.repeat(draw.normal(size=n // per_cluster), per_cluster)
    labels = np.clip(np.round(worth * 1.1 + 3.2), 1, 5)
    return [
        make_scores(judged(draw, worth, r, s), labels=labels, groups=groups, per_cluster=per_cluster)
        for r, s in ((first, scale), (second, 1.0))
    ]


def all_swaps(metric, a, b):
    """The exact p: every way to swap clusters, by calling the metric."""
    clusters = list(dict.fromkeys(s.cluster for s in a))
    observed = abs(metric.measure(a) - metric.measure(b))
    extreme = 0
    for signs in itertools.product((False, True), repeat=len(clusters)):
        swapped = dict(zip(clusters, signs, strict=True))
        one = [y if swapped[x.cluster] else x for x, y in zip(a, b, strict=True)]
        two = [x if swapped[x.cluster] else y for x, y in zip(a, b, strict=True)]
        extreme += abs(metric.measure(one) - metric.measure(two)) >= observed - 1e-12
    return extreme / 2 ** len(clusters)


def standardised(side, groups):
    """The same correlations on one scale, which is what the swap test of a correlation compares."""
    found = list(side)
    for group in {s.group for s in side}:
        values = np.array([s.value for s in side if s.group == group])
        rank = iter((values - values.mean()) / values.std())
        found = [
            Score(s.id, float(next(rank)), s.label, s.group, s.cluster) if s.group == group else s
            for s in found
        ]
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("metric", [MEAN, pearson()], ids=["mean", "pearson"])
def test_swap_test_agrees_with_every_swap(metric, groups, seed):
    draw = np.random.default_rng(seed)
    a, b = pair(draw, 18, first=0.9, second=0.2, groups=groups, per_cluster=2)
    exact = all_swaps(
        metric, *((standardised(s, groups) for s in (a, b)) if metric.kind == "pearson" else (a, b))
    )
    assert swap_test(metric, a, b, rng=random.Random(1), draws=20000) == pytest.approx(exact, abs=0.01)


def test_swap_test_of_a_function_agrees_with_the_mean():
    draw = np.random.default_rng(6)
    a, b = pair(draw, 20, first=0.9, second=0.1)
    function = Metric.of(lambda scores: sum(s.value for s in scores) / len(scores))
    expected = swap_test(MEAN, a, b, rng=random.Random(1))
    assert swap_test(function, a, b, rng=random.Random(2)) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("side", ["first", "second"])
def test_swap_test_does_not_care_for_scale(side):
    draw = np.random.default_rng(7)
    a, b = pair(draw, 40, groups=2)
    stretched = [
        Score(s.id, 10 * s.value + 3, s.label, s.group, s.cluster) for s in (a if side == "first" else b)
    ]
    other = (stretched, b) if side == "first" else (a, stretched)
    assert swap_test(pearson(), *other, rng=random.Random(3)) == swap_test(
        pearson(), a, b, rng=random.Random(3)
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"n": 8},
        {"n": 24, "scale": 0.4},
        {"n": 40, "groups": 2, "per_cluster": 4},
        {"n": 60, "groups": 6},
        {"n": 30, "metric": MEAN},
    ],
    ids=["few", "other scale", "clusters", "groups", "mean"],
)
def test_equals_replace_each_other_in_five_of_a_hundred_at_most(shape):
    shape = dict(shape)
    metric = shape.pop("metric", pearson())
    draw, rng, taken = np.random.default_rng(11), random.Random(11), 0
    for _ in range(1000):
        a, b = pair(draw, **shape)
        p = swap_test(metric, a, b, rng=rng, draws=400)
        taken += p <= 0.05 and metric.measure(a) > metric.measure(b)
    assert taken <= 50


@pytest.mark.parametrize(("metric", "n"), [(pearson(), 60), (MEAN, 60)], ids=["pearson", "mean"])
def test_something_better_is_seen(metric, n):
    draw, rng = np.random.default_rng(12), random.Random(12)
    seen = 0
    for _ in range(100):
        a, b = pair(draw, n, first=0.85, second=0.3, groups=2)
        if metric is MEAN:
            a = [Score(s.id, s.value + 0.8, s.label, s.group, s.cluster) for s in a]
        seen += decide_quickly(metric, a, b, rng)
    assert seen >= 80


def decide_quickly(metric, a, b, rng):
    p = swap_test(metric, a, b, rng=rng, draws=400)
    return p <= 0.05 and metric.measure(a) > metric.measure(b)


def decision(a, b, metric=MEAN, level=0.05):
    return decide(metric, make_scores(a), make_scores(b), level=level, rng=random.Random(0))


def test_decision_for_the_better():
    found = decision([5, 4, 5, 5, 4, 5, 5, 4], [3, 3, 4, 3, 2, 3, 4, 3])
    assert found.improved and found.reason.startswith("better on rows")
    assert found.difference.difference == pytest.approx(1.5) and found.difference.p <= 0.05
    assert "swap test" in found.difference.test
    assert found.to_json()["candidate"]["value"] == pytest.approx(4.625)


@pytest.mark.parametrize(
    ("candidate", "start", "said"),
    [
        ([3] * 8, [4] * 8, "not better"),
        ([3] * 8, [3] * 8, "not better"),
        ([4, 3, 4, 3, 4, 3, 4, 4], [3, 4, 4, 3, 4, 4, 3, 3], "not significantly better"),
        ([5] * 5, [3] * 5, "not significantly better"),
        ([None] * 8, [3] * 8, "cannot be compared"),
        ([5] * 8 + [None] * 2, [3] * 10, "gives a result for 80% of the examples, the start for 100%"),
    ],
)
def test_decision_against(candidate, start, said):
    found = decision(candidate, start)
    assert not found.improved and said in found.reason


def test_decision_obeys_its_level():
    sides = [5, 4, 5, 5, 4, 5, 5, 4], [3, 3, 4, 3, 2, 3, 4, 3]
    assert not decision(*sides, level=0.001).improved


def test_decision_of_a_correlation_without_labels_is_against():
    draw = np.random.default_rng(1)
    found = decision(draw.normal(size=9), draw.normal(size=9), metric=pearson())
    assert not found.improved and "cannot be compared" in found.reason


def test_constant_scores_count_as_no_correlation():
    labels = [1, 2, 3, 4, 5] * 4
    constant, good = make_scores([3] * 20, labels=labels), make_scores(labels, labels=labels)
    found = decide(pearson(), good, constant, level=0.05, rng=random.Random(0))
    assert found.improved
    assert not decide(pearson(), constant, good, level=0.05, rng=random.Random(0)).improved
