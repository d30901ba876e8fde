"""Scores in columns: the Scores that went in, in little memory."""

import random
import tracemalloc

from spri_dspy.metrics.columns import ScoreColumns
from spri_dspy.metrics.set_level import by_group, macro, mean, pearson, share
from spri_dspy.records import Score

TEXTS = [
    "a",
    "a\0",
    "z",
    "\ud800",
    "\uffff",
    "\U0001f600",
    "",
    "a long name of an example, longer than a place",
]


def make_scores(n, clusters=True):
    rng = random.Random(n)
    names = [*TEXTS, *(f"example-{number}" for number in range(n))][:n]
    rng.shuffle(names)
    return [
        Score(
            name,
            rng.choice([None, 1.0, 2.0, 5.0]),
            rng.choice([None, 1.0, rng.random()]),
            rng.choice([None, "b", "c"]),
            rng.choice([None, "", f"c{rng.randrange(n)}"]) if clusters else None,
        )
        for name in names
    ]


def test_packed_scores_are_those_that_went_in():
    scores = make_scores(5000)
    packed = ScoreColumns.packed(iter(scores))
    assert list(packed) == scores
    assert packed[7] == scores[7]
    assert list(packed[10:12]) == scores[10:12]
    assert len(packed) == 5000


def test_order_is_by_group_cluster_and_id():
    scores = make_scores(300)
    for columns in (ScoreColumns.of(scores), ScoreColumns.packed(scores)):
        expected = sorted(scores, key=lambda s: (s.group or "(no group)", s.cluster or "", s.id))
        assert [scores[row] for row in columns.order] == expected


def test_packed_scores_have_the_same_statistics():
    scores = make_scores(3000)
    packed = ScoreColumns.packed(scores)
    for statistic in (mean, share, pearson):
        assert repr(statistic(packed)) == repr(statistic(scores))
        assert repr(by_group(statistic, packed)) == repr(by_group(statistic, scores))
        assert repr(macro(statistic, packed)) == repr(macro(statistic, scores))


def test_a_score_and_its_mean_take_little_memory():
    n = 40_000
    mean(ScoreColumns.packed(make_scores(100)))  # what is imported once
    scores = (Score(f"example-{number:07}", float(number % 5), None, "group") for number in range(n))
    tracemalloc.start()
    try:
        packed = ScoreColumns.packed(scores)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        mean(packed, ci=False)
        peak = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    assert held < 100 * n  # a Score with its texts and numbers takes 200
    assert peak < 200 * n  # beside them
