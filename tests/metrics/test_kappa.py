"""Quadratic kappa against the confusion matrix that defines it, against Lin's coefficient, and by hand."""

import math

import numpy as np
import pytest

from spri_dspy.metrics.comparison import compare
from spri_dspy.metrics.kappa import quadratic_kappa
from tests.metrics.test_set_level import make_judge, make_scores


def by_confusion_matrix(values, labels):
    """The textbook's: weighted disagreement observed over expected, over a grid of categories."""
    categories = np.arange(min(*values, *labels), max(*values, *labels) + 1)
    observed = np.array([[np.mean((values == a) & (labels == b)) for b in categories] for a in categories])
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0))
    weights = (categories[:, None] - categories) ** 2
    return 1 - (weights * observed).sum() / (weights * expected).sum()


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_the_confusion_matrix(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, 80)
    values = np.clip(labels + rng.integers(-2, 3, 80), 1, 5)
    found = quadratic_kappa(make_scores(values.tolist(), labels.tolist()), ci=False)
    assert found.value == pytest.approx(by_confusion_matrix(values, labels), abs=1e-12)


def test_kappa_of_two_categories_by_hand():
    # 6 of 8 alike; by chance half of them: (0.75 - 0.5) / 0.5.
    assert (
        quadratic_kappa(make_scores([1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0, 0, 0]), ci=False).value
        == 0.5
    )


def test_kappa_of_numbers_is_lins_coefficient():
    rng = np.random.default_rng(4)
    x, y = rng.normal(3, 1, 50), rng.normal(3.5, 2, 50)
    lin = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert quadratic_kappa(make_scores(x.tolist(), y.tolist()), ci=False).value == pytest.approx(lin)


def test_kappa_minds_a_shift_that_pearson_does_not_see():
    assert quadratic_kappa(make_scores([2, 3, 4, 5], [1, 2, 3, 4]), ci=False).value == pytest.approx(
        1 - 1 / 3.5
    )


@pytest.mark.parametrize(
    ("values", "labels", "kappa"),
    [([3, 3, 3], [1, 2, 3], 0), ([1, 2, 3], [1, 2, 3], 1), ([2, 2], [2, 2], math.nan)],
)
def test_kappa_at_its_ends(values, labels, kappa):
    assert quadratic_kappa(make_scores(values, labels), ci=False).value == pytest.approx(kappa, nan_ok=True)


def test_missing_scores_are_dropped_not_zero():
    found = quadratic_kappa(make_scores([1, 2, None, 3], [1, 2, 3, None]))
    assert (found.value, found.n, found.dropped) == (1, 2, 2)


def test_judges_can_be_compared_by_kappa():
    good = make_judge(200, noise=0.5)
    worse = make_judge(200, noise=3)
    found = compare(quadratic_kappa, good, worse)
    assert found.p < 0.05
    assert found.low <= found.difference <= found.high
