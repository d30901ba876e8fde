"""Agreement of judges with people: against scipy, by hand, and in simulated worlds whose truth is known."""

import itertools
import math
import random
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from spri_dspy.metrics.agreement import agreement, calibration
from spri_dspy.metrics.ceiling import footings
from spri_dspy.metrics.kappa import quadratic_kappa
from spri_dspy.metrics.krippendorff import alpha_in_place, krippendorff_alpha
from spri_dspy.metrics.rated import FIRST, SECOND, TIE, AgreeSettings, Item, Ratings
from spri_dspy.metrics.set_level import mae, pearson

QUICK = AgreeSettings(resamples=100)


def make_world(n=120, people=3, seed=0, noise=1.0, per_cluster=4):
    """A judge and people who see one truth, each with errors of their own; rows share a cluster's luck."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.normal(size=-(-n // per_cluster)), per_cluster)[:n] + rng.normal(size=n)

    def mark(side):
        return np.clip(np.round(3 + side), 1, 5).tolist()

    rated = [mark(truth + 0.8 * rng.normal(size=n)) for _ in range(people)]
    judge = mark(truth + noise * rng.normal(size=n))
    items = tuple(
        Item(
            str(i),
            judge[i],
            tuple(each[i] for each in rated),
            f"g{i // per_cluster % 3}",
            f"c{i // per_cluster}",
        )
        for i in range(n)
    )
    return Ratings("judge", items, tuple("abcdefgh"[:people]))


def pairs(*rows, both=False, ties="half"):
    """Pairs from (judge, people) or (judge, swapped, people)."""
    items = tuple(
        Item(str(i), row[0], tuple(row[-1]), swapped=row[1] if both else None) for i, row in enumerate(rows)
    )
    return Ratings("judge", items, tuple("abcdefgh"[: len(rows[0][-1])]), "pairs", both, ties)


def test_figures_of_scores_are_those_of_scipy():
    ratings = make_world()
    found = agreement([ratings], settings=QUICK).judges[0].figures
    values = [i.value for i in ratings.items]
    labels = [fmean(i.people) for i in ratings.items]
    assert found["pearson"].value == pytest.approx(stats.pearsonr(values, labels).statistic)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(values, labels).statistic)
    assert found["kendall"].value == pytest.approx(stats.kendalltau(values, labels).statistic)
    assert found["mae"].value == pytest.approx(np.abs(np.subtract(values, labels)).mean())
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high
        assert (estimate.n, estimate.dropped) == (120, 0)


def test_pair_accuracy_is_of_pairs_in_one_cluster_that_people_tell_apart():
    ratings = make_world(24)
    right = total = 0
    for a, b in itertools.combinations(ratings.items, 2):
        gap = fmean(a.people) - fmean(b.people)
        if a.cluster == b.cluster and gap:
            total += 1
            right += (a.value - b.value) * gap > 0
    assert agreement([ratings], settings=QUICK).judges[0].figures["pair_accuracy"].value == right / total


def test_figures_of_pairs_by_hand():
    found = agreement(
        [
            pairs(
                (FIRST, FIRST, [FIRST]),  # right in both orders
                (FIRST, SECOND, [FIRST]),  # what stands first, both times
                (SECOND, FIRST, [SECOND]),  # what stands second, both times
                (SECOND, SECOND, [FIRST]),  # wrong in both
                (FIRST, None, [FIRST]),  # one order was not answered
                (TIE, FIRST, [FIRST]),
                both=True,
            )
        ],
        settings=QUICK,
    )
    figures = found.judges[0].figures
    assert figures["accuracy"].value == pytest.approx((1 + 0.5 + 0.5 + 0 + 0.75) / 5)
    assert figures["both_orders_agree"].value == pytest.approx(2 / 5)
    assert figures["first_shown"].value == pytest.approx((0.5 + 1 + 0 + 0.5 + 0.25) / 5)
    assert {(e.n, e.dropped) for e in figures.values()} == {(5, 1)}


@pytest.mark.parametrize(("ties", "accuracy"), [("half", 0.75), ("wrong", 0.5)])
def test_tie_of_a_judge_counts_as_it_is_said(ties, accuracy):
    ratings = pairs((FIRST, [FIRST]), (TIE, [SECOND]), ties=ties)
    assert agreement([ratings], settings=QUICK).judges[0].figures["accuracy"].value == accuracy


def test_people_who_are_split_give_no_label():
    ratings = pairs((FIRST, [FIRST, SECOND]), (FIRST, [FIRST, FIRST]), (SECOND, [SECOND, None]))
    figure = agreement([ratings], settings=QUICK).judges[0].figures["accuracy"]
    assert (figure.value, figure.n, figure.dropped) == (1, 2, 1)


def test_missing_scores_are_missing_never_zero():
    ratings = make_world(40)
    holes = replace(
        ratings, items=tuple(replace(i, value=None) if int(i.id) % 4 == 0 else i for i in ratings.items)
    )
    kept = replace(ratings, items=tuple(i for i in ratings.items if int(i.id) % 4))
    with_holes, without = (agreement([r], settings=QUICK).judges[0] for r in (holes, kept))
    for name, estimate in with_holes.figures.items():
        assert estimate.value == without.figures[name].value
        assert (estimate.n, estimate.dropped) == (30, 10)
    assert with_holes.footing["pearson"].judge.n == 30
    assert with_holes.alpha.judge.value == without.alpha.judge.value


def test_groups_have_figures_of_their_own_and_a_mean():
    ratings = make_world()
    judge = agreement([ratings], settings=QUICK).judges[0]
    assert [*judge.groups] == ["g0", "g1", "g2"]
    part = [i for i in ratings.items if i.group == "g1"]
    r = stats.pearsonr([i.value for i in part], [fmean(i.people) for i in part]).statistic
    assert judge.groups["g1"]["pearson"].value == pytest.approx(r)
    assert judge.means["pearson"].value == pytest.approx(
        fmean(g["pearson"].value for g in judge.groups.values())
    )


def test_footing_holds_judge_and_people_against_the_same_others():
    ratings = make_world(60)
    values = np.array([i.value for i in ratings.items])
    people = np.array([i.people for i in ratings.items])
    others = [np.delete(people, out, axis=1).mean(axis=1) for out in range(3)]
    found = footings(ratings, [pearson, mae, quadratic_kappa], QUICK)
    judge = fmean(stats.pearsonr(values, other).statistic for other in others)
    ceiling = fmean(stats.pearsonr(people[:, out], other).statistic for out, other in enumerate(others))
    assert found["pearson"].judge.value == pytest.approx(judge)
    assert found["pearson"].people.value == pytest.approx(ceiling)
    assert found["pearson"].difference.value == pytest.approx(judge - ceiling)
    assert found["mae"].people.value == pytest.approx(
        fmean(np.abs(people[:, out] - other).mean() for out, other in enumerate(others))
    )


def test_footing_of_pairs_is_the_share_of_the_others_who_say_the_same():
    found = footings(pairs((FIRST, [FIRST, FIRST, SECOND]), (SECOND, [FIRST, FIRST, FIRST])), (), QUICK)
    # Of the first row the judge has 1/2, 1/2 and 1 of the others, people 1/2, 1/2 and 0; of the second nothing and 1.
    assert found["accuracy"].judge.value == pytest.approx((2 / 3 + 0) / 2)
    assert found["accuracy"].people.value == pytest.approx((1 / 3 + 1) / 2)


def test_judge_that_is_an_annotator_more_reaches_the_ceiling_and_no_more():
    differences = []
    for seed in range(40):
        ratings = make_world(80, seed=seed, noise=0.8)
        differences.append(footings(ratings, [pearson], QUICK)["pearson"].difference)
    assert abs(fmean(d.value for d in differences)) < 0.02
    assert sum(d.low <= 0 <= d.high for d in differences) >= 34


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_in_place_is_the_mean_of_the_panels(level):
    ratings = make_world(50, people=3)
    people = [[i.people[p] for i in ratings.items] for p in range(3)]
    people[1][4] = people[2][9] = None
    judge = [i.value for i in ratings.items]
    judge[7] = None
    people_there = [[None if j is None else v for v, j in zip(p, judge, strict=True)] for p in people]
    panels = [[judge, *(p for at, p in enumerate(people_there) if at != out)] for out in range(3)]
    # A unit with a missing person still counts for the panels in which two raters remain.
    found = alpha_in_place(people, judge, level=level, resamples=50)
    assert found.people.value == pytest.approx(krippendorff_alpha(people_there, level=level, ci=False).value)
    assert found.judge.value == pytest.approx(
        fmean(krippendorff_alpha(panel, level=level, ci=False).value for panel in panels)
    )
    assert found.difference.value == pytest.approx(found.judge.value - found.people.value)
    assert (found.judge.n, found.judge.dropped) == (49, 1)


def test_alpha_with_one_person_is_that_of_the_two():
    one, two = [1, 2, 3, 4, 4], [1, 2, 3, 3, 4]
    found = alpha_in_place([one], two, resamples=50)
    assert found.judge.value == pytest.approx(krippendorff_alpha([one, two], ci=False).value)
    assert found.people.reason == "one person"


def test_alpha_of_too_many_numbers_is_refused_before_memory_is_full():
    values = [float(i) for i in range(3000)]
    found = alpha_in_place([values], values, resamples=10)
    assert found.judge.reason == "too many distinct ratings for so many units"
    assert krippendorff_alpha([values, values]).reason == found.judge.reason


def test_calibration_has_a_bin_a_number_or_ten():
    ratings = make_world(100)
    bins = calibration(ratings.scores(), QUICK)
    assert [b.low for b in bins] == [1, 2, 3, 4, 5]
    fours = [fmean(i.people) for i in ratings.items if i.value == 4]
    assert bins[3].people.value == pytest.approx(fmean(fours))
    fine = replace(ratings, items=tuple(replace(i, value=i.value + int(i.id) / 1000) for i in ratings.items))
    many = calibration(fine.scores(), QUICK)
    assert [b.people.n for b in many] == [10] * 10
    assert all(a.high < b.low for a, b in itertools.pairwise(many))


def test_judges_are_compared_in_pairs_with_holms_correction():
    good, bad = make_world(200, noise=0.3), make_world(200, noise=3)
    middle = replace(make_world(200, noise=0.6), name="middle")
    judges = [replace(good, name="good"), middle, replace(bad, name="bad")]
    found = [
        each for each in agreement(judges, settings=QUICK).comparisons if each.comparison.metric == "pearson"
    ]
    assert [(each.first, each.second) for each in found] == [
        ("good", "middle"),
        ("good", "bad"),
        ("middle", "bad"),
    ]
    assert found[1].comparison.p < 0.001
    assert all(each.p_holm >= each.comparison.p for each in found)
    assert min(each.p_holm for each in found) == pytest.approx(3 * min(each.comparison.p for each in found))


def test_judges_of_different_rows_are_not_compared():
    one = make_world(50)
    moved = replace(one, items=tuple(replace(i, people=tuple(6 - p for p in i.people)) for i in one.items))
    found = agreement([one, replace(moved, name="other")], settings=QUICK).comparisons
    assert all(math.isnan(each.comparison.p) for each in found)
    assert "people differ, for example on" in found[0].comparison.reason


def test_furthest_rows_come_first():
    items = tuple(Item(str(i), value, (3.0,)) for i, value in enumerate([3, 5, 2, None]))
    judge = agreement([Ratings("judge", items, ("a",))], settings=QUICK).judges[0]
    assert [item.id for item in judge.furthest()] == ["1", "2"]


def test_people_are_held_against_each_other_without_a_judge():
    ratings = make_world(60)
    found = agreement([], ratings, QUICK)
    people = np.array([i.people for i in ratings.items])
    r = stats.pearsonr(people[:, 1], people[:, [0, 2]].mean(axis=1)).statistic
    assert found.people.left_out["b"]["pearson"].value == pytest.approx(r)
    assert found.people.alpha.value == pytest.approx(krippendorff_alpha(people.T.tolist(), ci=False).value)
    assert (found.judges, found.comparisons) == ([], [])


def test_result_does_not_depend_on_the_order_of_rows():
    ratings = make_world(40)
    shuffled = list(ratings.items)
    random.Random(3).shuffle(shuffled)
    turned = replace(ratings, items=tuple(shuffled))
    assert agreement([turned], settings=QUICK).to_json() == agreement([ratings], settings=QUICK).to_json()


@pytest.mark.slow
def test_intervals_hold_the_truth_of_a_simulated_world():
    # The truth of each figure from very many rows; 95 % intervals of 160 rows in 40 clusters.
    truth = footings(make_world(40_000), [pearson, quadratic_kappa], AgreeSettings(resamples=1))
    held = {"judge": 0, "people": 0, "difference": 0, "kappa": 0}
    worlds = [make_world(160, seed=seed) for seed in range(1, 61)]
    for world in worlds:
        found = footings(world, [pearson, quadratic_kappa], AgreeSettings(resamples=200))
        for name in ("judge", "people", "difference"):
            estimate = getattr(found["pearson"], name)
            held[name] += estimate.low <= getattr(truth["pearson"], name).value <= estimate.high
        kappa = found["quadratic_kappa"].judge
        held["kappa"] += kappa.low <= truth["quadratic_kappa"].judge.value <= kappa.high
    assert all(52 <= n <= 60 for n in held.values()), held
