"""The rule by which a tuned program replaces the start: it holds where nothing is better, and it sees what is."""

import math
import random

import numpy as np
import pytest

from spri_dspy.metrics import Metric
from spri_dspy.metrics.comparison import compare
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.metrics.readers import own_judgement
from spri_dspy.metrics.set_level import mean
from spri_dspy.metrics.set_level import pearson as pearson_statistic
from spri_dspy.records import Score
from spri_dspy.tuning.decision import decide

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


@pytest.mark.slow
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
def test_equals_replace_each_other_in_25_of_1000_at_most(shape):
    shape = dict(shape)
    metric = shape.pop("metric", pearson())
    draw, rng, taken = np.random.default_rng(11), random.Random(11), 0
    for _ in range(1000):
        a, b = pair(draw, **shape)
        p = p_of(metric, a, b, rng)
        taken += p <= 0.05 and metric.measure(a) > metric.measure(b)
    assert taken <= 25, taken


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


def p_of(metric, a, b, rng):
    statistic = pearson_statistic if metric.kind == "pearson" else mean
    return compare(statistic, a, b, macro=metric.kind == "pearson", resamples=2, draws=400, rng=rng).p


def decide_quickly(metric, a, b, rng):
    p = p_of(metric, a, b, rng)
    return p <= 0.05 and metric.measure(a) > metric.measure(b)


def decision(a, b, metric=MEAN, level=0.05):
    return decide(metric, make_scores(a), make_scores(b), level=level, rng=random.Random(0))


def test_decision_for_the_better():
    found = decision([5, 4, 5, 5, 4, 5, 5, 4], [3, 3, 4, 3, 2, 3, 4, 3])
    assert found.improved and found.reason.startswith("better on rows")
    assert found.difference.difference == pytest.approx(1.5) and found.difference.p <= 0.05
    assert "permutation test of clusters" in found.difference.test
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
