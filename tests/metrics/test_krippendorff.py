"""Krippendorff's alpha against its author's example, by hand, and by clusters of units."""

import math
import random

import numpy as np
import pytest

from spri_dspy.metrics.krippendorff import krippendorff_alpha
from tests.metrics.test_set_level import width

_ = None
# Krippendorff 2011: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


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
