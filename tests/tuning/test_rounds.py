"""The search without any LM: it finds what is there, pays within its limit, and its luck does not pass the decision."""

import itertools
import math
import random
from hashlib import blake2b

import pytest

from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.metrics import Metric
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.metrics.readers import own_judgement
from spri_dspy.records import Score
from spri_dspy.tuning.decision import decide
from spri_dspy.tuning.racing.objectives import objective_of
from spri_dspy.tuning.racing.race import Row
from spri_dspy.tuning.racing.rounds import Racing, search_sets
from spri_dspy.tuning.samplers import Space, make_sampler

METRICS = {"pearson": pearson(), "mean": Metric("level", "mean", own_judgement)}


class Sim:
    """Groups of five seeds, two of which help; scores are what a judge would give, without asking one."""

    def __init__(self, seed, *, kind="pearson", effect=0.0, base=0.3, n_search=30, n_holdout=30, groups=2):
        self.seed, self.metric, self.effect, self.base = seed, METRICS[kind], effect, base
        self.n_search, self.groups = n_search, [f"g{i}" for i in range(groups)]
        rng = random.Random(f"{seed}/world")
        n = n_search + n_holdout
        self.worth = [rng.gauss(0, 1) for _ in range(n)]
        slots = [("stage", g) for g in self.groups for _ in range(5)]
        self.good = {i for g in range(groups) for i in rng.sample(range(5 * g + 1, 5 * g + 5), 2)}
        self.space = Space(slots, 3, tuple(5 * g for g in range(groups)), self.groups)
        self.rows = [Row(self.five(self.worth[i]), self.groups[i % groups]) for i in range(n)]
        self.asked = []

    def five(self, x):
        return float(min(5, max(1, round(1.1 * x + 3.2))))

    def score(self, candidate, i):
        shown = self.space.shown(candidate, self.rows[i].group)
        helping = len(self.good & set(shown))
        digest = blake2b(f"{self.seed} {shown} {i}".encode(), digest_size=8).digest()
        noise = random.Random(int.from_bytes(digest)).gauss(0, 1)
        if self.metric.kind == "mean":
            return self.five(0.5 * self.worth[i] + self.effect * helping + 0.7 * noise)
        r = min(0.97, self.base + self.effect * helping)
        return self.five(r * self.worth[i] + math.sqrt(1 - r * r) * noise)

    def answer(self, asks):
        self.asked += [(self.space.shown(c, self.rows[i].group), i) for c, rows in asks for i in rows]
        return [[self.score(c, i) for i in rows] for c, rows in asks]

    def search_sets(self, *, sampler="mixed", proposals=8, most=None, answer=None, measure=None, racing=None):
        racing = racing or Racing()
        return search_sets(
            self.space,
            self.rows[: self.n_search],
            answer or self.answer,
            sampler=make_sampler(sampler, self.space),
            objective=objective_of(self.metric),
            proposals=proposals,
            most=int(racing.share * (proposals + 2) * self.n_search) if most is None else most,
            racing=racing,
            seed=self.seed,
            measure=measure,
        )

    def fresh(self, candidate):
        places = range(self.n_search, len(self.rows))
        return [
            Score(str(i), self.score(candidate, i), self.rows[i].label, self.rows[i].group) for i in places
        ]

    def is_adopted(self, **settings):
        """Whether the whole procedure replaces the start."""
        winner = self.search_sets(**settings).winner
        if winner == self.space.start:
            return False
        sides = self.fresh(winner), self.fresh(self.space.start)
        return decide(self.metric, *sides, level=0.05, rng=random.Random(self.seed)).improved

    def n_helping(self, candidate):
        return len(self.good & set(candidate))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), [("pearson", {"groups": 2}), ("mean", {"groups": 1})])
def test_without_any_effect_there_is_no_improvement_in_95_of_100_searches(kind, settings):
    adopted = sum(Sim(seed, kind=kind, **settings).is_adopted(proposals=6) for seed in range(40))
    assert adopted <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [
        {"n_search": 24, "n_holdout": 24, "base": 0.4},
        {"n_search": 40, "n_holdout": 20, "groups": 4},
        {"kind": "mean", "groups": 1},
    ],
    ids=["small", "groups", "mean"],
)
def test_without_any_effect_there_is_no_improvement_in_95_of_100_searches_at_length(world):
    adopted = sum(Sim(seed, **world).is_adopted() for seed in range(1000, 1400))
    assert adopted <= 0.05 * 400


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "effect"), [("pearson", 0.33), ("mean", 0.6)])
def test_an_effect_is_found_and_adopted(kind, effect):
    worlds = [Sim(seed, kind=kind, effect=effect, n_search=40, n_holdout=40) for seed in range(30)]
    assert sum(world.is_adopted(proposals=12) for world in worlds) >= 23


@pytest.mark.parametrize("sampler", ["random", "greedy", "optuna", "mixed"])
def test_winners_hold_more_that_helps_than_the_start(sampler):
    worlds = [Sim(seed, effect=0.33, n_search=60) for seed in range(5)]
    helping = [world.n_helping(world.search_sets(sampler=sampler, proposals=12).winner) for world in worlds]
    assert sum(helping) >= 5  # of 20 that could be had; the start has none


@pytest.mark.parametrize(("seed", "most"), [(0, 40), (1, 60), (1, 120), (7, 150), (3, 300)])
def test_no_more_is_paid_than_allowed_and_nothing_twice(seed, most):
    world = Sim(seed, effect=0.3)
    found = world.search_sets(most=most)
    assert found.paid == len(world.asked) <= most
    assert len(set(world.asked)) == len(world.asked)


@pytest.mark.parametrize("seed", range(3))
def test_all_rounds_walk_along_one_order_of_rows(seed):
    world = Sim(seed, effect=0.3, groups=1, n_search=60)
    before_finals = world.search_sets(proposals=12).decisions[-2]["paid_so_far"]
    seen = {}
    for candidate, row in world.asked[:before_finals]:
        seen.setdefault(candidate, set()).add(row)
    by_size = sorted(seen.values(), key=len)
    assert len(by_size) > 8
    assert all(fewer <= more for fewer, more in itertools.pairwise(by_size))


def test_all_proposals_are_tried_where_they_can_be_paid_for():
    found = Sim(4, n_search=60).search_sets(proposals=9)
    # Beside them the start, no seeds, and perhaps the best of all groups put together.
    assert 11 <= len(found.trials) <= 12
    assert found.stopped is None and len(found.decisions) == 4


def test_start_and_no_seeds_are_always_among_the_candidates():
    found = Sim(5).search_sets()
    tried = [t.candidate for t in found.trials]
    assert tried[:2] == [(0, 5), ()]


def test_too_little_to_search_with_says_so():
    found = Sim(6).search_sets(most=12)
    assert found.winner == (0, 5) and found.paid == 0
    assert found.stopped.startswith("12 scores may be paid for, too few to search with")


def test_a_spent_budget_ends_the_search_with_what_is_known():
    world = Sim(7, effect=0.3)

    def answer(asks):
        if len(world.asked) > 60:
            raise BudgetSpent("enough")
        return world.answer(asks)

    found = world.search_sets(answer=answer)
    assert found.stopped == "the part of the budget that is for the search was spent" and found.trials
    assert found.winner in {t.candidate for t in found.trials}


def test_the_search_depends_on_its_arguments_alone():
    first, again = (Sim(8, effect=0.2).search_sets() for _ in range(2))
    assert first == again


def test_missing_scores_do_no_harm():
    world = Sim(9, effect=0.33, n_search=60)

    def answer(asks):
        return [
            [None if i % 7 == 3 or c == () else number for i, number in zip(rows, numbers, strict=True)]
            for (c, rows), numbers in zip(asks, world.answer(asks), strict=True)
        ]

    found = world.search_sets(answer=answer)
    assert found.winner != () and next(t for t in found.trials if not t.candidate).n == 0


def mean_of(scores):
    return sum(s.value for s in scores) / len(scores)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_metric_that_cannot_be_raced_chooses_itself(share):
    worlds = [Sim(10, kind="mean", effect=0.5, n_search=40) for _ in range(2)]
    racing = Racing(share=share)
    highest = worlds[0].search_sets(measure=mean_of, racing=racing)
    lowest = worlds[1].search_sets(measure=lambda scores: -mean_of(scores), racing=racing)
    assert worlds[0].n_helping(lowest.winner) < worlds[0].n_helping(highest.winner)
    for found, world in zip((lowest, highest), worlds, strict=True):
        choice = found.decisions[-1]
        best = choice["candidates"][choice["values"].index(max(choice["values"]))]
        names = {"start": (0, 5), "no seeds": ()}
        assert found.winner == names.get(
            best, tuple(int(word) for word in best.split()[1:] if word.isdecimal())
        )
        assert found.paid == len(world.asked) <= share * 10 * 40
    assert highest.decisions[-1]["rows"] <= 40


def test_rows_without_labels_cannot_be_searched_on():
    world = Sim(11)
    world.rows = [Row(None, row.group) for row in world.rows]
    with pytest.raises(UsageError, match="none of the 30 rows"):
        world.search_sets()


@pytest.mark.parametrize("settings", [{"batch": 0}, {"share": 0}, {"share": 1.5}, {"finalists": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        Racing(**settings)
