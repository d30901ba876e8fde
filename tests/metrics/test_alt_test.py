"""The Alternative Annotator Test against scipy, by hand, and how often it passes a judge that it should not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from spri_dspy.metrics.alt_test import alt_test, benjamini_yekutieli
from spri_dspy.metrics.rated import FIRST, SECOND, TIE, Item, Ratings


def make_ratings(values, people, kind="pairs", clusters=None, swapped=None):
    """Rows from a judge's numbers, and one tuple a row of people's."""
    items = tuple(
        Item(
            str(i),
            value,
            tuple(row),
            cluster=clusters[i] if clusters else None,
            swapped=swapped[i] if swapped else None,
        )
        for i, (value, row) in enumerate(zip(values, people, strict=True))
    )
    names = tuple("abcdefgh"[: len(people[0])])
    return Ratings("judge", items, names, kind, both_orders=swapped is not None)


def published(values, people, epsilon, closeness, q=0.05):
    """The test as the paper states it, written anew with scipy alone."""
    m, pvalues, advantages = people.shape[1], [], []
    for out in range(m):
        others = np.delete(people, out, axis=1)
        judge = np.array([closeness(v, row) for v, row in zip(values, others, strict=True)])
        person = np.array([closeness(v, row) for v, row in zip(people[:, out], others, strict=True)])
        wins, losses = (judge >= person).astype(float), (person >= judge).astype(float)
        pvalues.append(stats.ttest_1samp(losses - wins, epsilon, alternative="less").pvalue)
        advantages.append(wins.mean())
    rejected = stats.false_discovery_control(pvalues, method="by") <= q
    return np.mean(advantages), rejected.mean(), pvalues


CLOSENESS = {
    "pairs": lambda value, others: np.mean(others == value),
    "scores": lambda value, others: -np.sqrt(np.mean((others - value) ** 2)),
}


@pytest.mark.parametrize("kind", ["pairs", "scores"])
@pytest.mark.parametrize(("epsilon", "skill"), [(0, 0.6), (0.1, 0.8), (0.2, 0.7), (0.2, 0.9)])
def test_result_is_the_published_procedures(kind, epsilon, skill):
    rng = np.random.default_rng(7)
    choices = [-1.0, 0.0, 1.0] if kind == "pairs" else [1.0, 2.0, 3.0, 4.0, 5.0]
    truth = rng.choice(choices, 60)
    people = np.where(rng.random((60, 4)) < 0.7, truth[:, None], rng.choice(choices, (60, 4)))
    values = np.where(rng.random(60) < skill, truth, rng.choice(choices, 60))
    rho, omega, pvalues = published(values, people, epsilon, CLOSENESS[kind])
    found = alt_test(make_ratings(values.tolist(), people.tolist(), kind), epsilon=epsilon)
    assert (found.rho, found.omega) == (pytest.approx(rho), pytest.approx(omega))
    assert [test.p for test in found.left_out] == pytest.approx(pvalues)
    assert found.passes == (omega >= 0.5)


def test_advantages_by_hand():
    # Row 1: all alike. Row 2: the judge says what b and c say, a does not. Row 3: the judge stands alone.
    found = alt_test(make_ratings([1, 1, -1], [(1, 1, 1), (-1, 1, 1), (1, 1, 1)]), fewest_rows=1)
    a, b, _ = found.left_out
    assert (a.advantage, a.annotator_advantage) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (b.advantage, b.annotator_advantage) == (pytest.approx(2 / 3), 1)


def test_judge_that_says_what_the_majority_says_passes():
    people = [(1, 1, -1), (1, -1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)] * 10
    found = alt_test(make_ratings([float(np.sign(sum(row))) for row in people], people))
    assert (found.rho, found.omega, found.passes) == (1.0, 1.0, True)


def test_false_discovery_control_is_scipys():
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.random(6) ** 4
        assert (
            benjamini_yekutieli(p.tolist())
            == (stats.false_discovery_control(p, method="by") <= 0.05).tolist()
        )


@pytest.mark.parametrize(
    ("people", "reason"),
    [
        ([(1, 1)] * 50, "needs at least 3 annotators, has 2"),
        ([(1, 1, 1)] * 29, "needs at least 30 rows an annotator, a has 29"),
        ([(1, 1, 1)] * 40 + [(1, 1, None)] * 5, None),
        ([(1, 1, 1)] * 20 + [(1, 1, None)] * 25, "needs at least 30 rows an annotator, c has 20"),
    ],
)
def test_says_when_it_does_not_apply(people, reason):
    found = alt_test(make_ratings([1.0] * len(people), people))
    assert found.reason == reason
    assert (found.passes is None) is (reason is not None)
    assert math.isnan(found.omega) is (reason is not None)


def test_missing_answers_leave_their_rows_out():
    found = alt_test(make_ratings([1.0] * 40 + [None] * 60, [(1, 1, 1)] * 100))
    assert [test.n for test in found.left_out] == [40, 40, 40]


def test_verdicts_in_both_orders_count_half_each():
    # Once right and once wrong is as close to the others as an annotator who says what one of them says.
    people = [(FIRST, FIRST, SECOND)] * 40
    found = alt_test(make_ratings([FIRST] * 40, people, swapped=[SECOND] * 40))
    assert [test.advantage for test in found.left_out] == [1, 1, 1]
    assert alt_test(make_ratings([TIE] * 40, people)).left_out[0].advantage == 0


def simulate(rng, accuracy, *, rows=60, per_cluster=1, own=0.8):
    """Three annotators right with probability 0.8; a judge that is right or wrong on whole clusters."""
    truth = rng.choice([FIRST, SECOND], rows)
    people = np.where(rng.random((rows, 3)) < own, truth[:, None], -truth[:, None])
    right = np.repeat(rng.random(rows // per_cluster) < accuracy, per_cluster)
    clusters = [str(i // per_cluster) for i in range(rows)] if per_cluster > 1 else None
    return make_ratings(np.where(right, truth, -truth).tolist(), people.tolist(), clusters=clusters)


# The expected advantage of an annotator over a judge who is right with probability b is 0.6 (0.8 - b): the two others
# are both right with probability 0.64 and both wrong with 0.04. At b = 0.8 - epsilon / 0.6 it is just epsilon.
BOUNDARY = 0.8 - 0.2 / 0.6


def test_simulated_world_has_the_advantage_that_is_claimed():
    found = alt_test(simulate(np.random.default_rng(1), BOUNDARY, rows=30_000))
    gaps = [test.annotator_advantage - test.advantage for test in found.left_out]
    assert gaps == pytest.approx([0.2] * 3, abs=0.02)


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_false_alarms_on_the_boundary_are_as_rare_as_claimed(per_cluster):
    rng = np.random.default_rng(11)
    worlds = (simulate(rng, BOUNDARY, rows=40 * per_cluster, per_cluster=per_cluster) for _ in range(300))
    found = [alt_test(world) for world in worlds]
    single = np.mean([[test.p < 0.05 for test in each.left_out] for each in found])
    assert single < 0.08
    assert np.mean([each.omega > 0 for each in found]) < 0.08


def test_clusters_that_are_ignored_make_false_alarms():
    rng = np.random.default_rng(12)
    worlds = [simulate(rng, BOUNDARY, rows=160, per_cluster=4) for _ in range(100)]
    alone = [replace(w, items=tuple(replace(i, cluster=None) for i in w.items)) for w in worlds]
    assert np.mean([alt_test(each).left_out[0].p < 0.05 for each in alone]) > 0.1


def test_judge_as_good_as_people_passes_mostly():
    rng = np.random.default_rng(13)
    assert np.mean([alt_test(simulate(rng, 0.85, rows=100)).passes for _ in range(100)]) > 0.9
