"""Samplers propose what is allowed and new, and learn which seeds are good, group by group."""

import builtins
import math
import random

import pytest

from spri_dspy.errors import PrerequisiteError, UnknownNameError, UsageError
from spri_dspy.tuning.samplers import Space, Trial, make_sampler, propose_new, ranked, steadied, together

GOOD = {1, 4, 7}
NAMES = ["greedy", "mixed", "optuna", "random"]


def make_space(max_seeds=2, start=(0, 6), shared=0):
    """Six seeds for a, three for b, and some that both are shown."""
    slots = [("s", "a")] * 6 + [("s", "b")] * 3 + [("s", None)] * shared
    return Space(slots, max_seeds, start, ["a", "b"])


def worth(space, candidate, group=None):
    """What a set is worth: every good seed counts, all others cost a little."""
    shown = space.shown(candidate, group)
    return sum(1.0 if i in GOOD else -0.1 for i in shown)


def tried(space, candidate, n=50):
    groups = {g: (worth(space, candidate, g), n) for g in ("a", "b")}
    return Trial(candidate, worth(space, candidate), n, groups)


def walk(name, space, n, seed=0):
    """So many proposals, each judged before the next."""
    sampler, rng = make_sampler(name, space), random.Random(seed)
    history = [tried(space, space.start)]
    for _ in range(n):
        candidate = propose_new(sampler, space, history, rng)
        if candidate is None:
            break
        history.append(tried(space, candidate))
    return history


@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_proposals_are_allowed_and_new(name, shared):
    space = make_space(shared=shared)
    found = [t.candidate for t in walk(name, space, 25)]
    assert len(set(found)) == len(found) == 26
    for candidate in found:
        assert candidate == tuple(sorted(set(candidate)))
        for group in ("a", "b"):
            assert len(space.shown(candidate, group)) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_proposals_depend_on_the_seed_alone(name):
    first, again, other = (walk(name, make_space(), 8, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", ["greedy", "mixed", "optuna"])
def test_samplers_that_learn_find_more_than_chance(name):
    def late(which):
        return sum(t.value for seed in range(5) for t in walk(which, make_space(), 24, seed)[-8:])

    assert late(name) > late("random") + 5


def test_an_exhausted_space_has_no_more_proposals():
    space = Space([("s", "a")] * 2, 1, (), ["a"])
    assert {t.candidate for t in walk("random", space, 9)} == {(), (0,), (1,)}


def test_every_number_of_seeds_is_proposed():
    space, rng = make_space(max_seeds=3), random.Random(0)
    sizes = {len(space.shown(space.random(rng), "a")) for _ in range(60)}
    assert sizes == {0, 1, 2, 3}


def test_no_seeds_at_all_may_be_all_that_is_allowed():
    space = make_space(max_seeds=0, start=())
    assert walk("mixed", space, 3) == [tried(space, ())]


def test_a_start_that_is_too_large_is_kept_and_its_neighbours_fit():
    space = make_space(start=(0, 1, 2, 3))
    assert space.start == (0, 1, 2, 3)
    moved = space.moved(space.start, random.Random(0))
    assert len(space.shown(moved, "a")) <= 2


def test_stages_have_room_of_their_own():
    space = Space([("s", None)] * 2 + [("t", None)] * 2, 2, (0, 1, 2, 3))
    assert space.trimmed((0, 1, 2, 3), random.Random(0)) == (0, 1, 2, 3)
    assert space.shown((0, 2), None) == (0, 2)


def test_the_best_of_each_group_is_put_together():
    space = make_space()
    history = [tried(space, c) for c in [(0, 6), (1, 4, 6), (2, 7), (5, 8)]]
    assert together(space, history) == (1, 4, 7)


def test_with_seeds_for_all_groups_the_best_candidate_stays_whole():
    space = make_space(shared=1)
    history = [tried(space, c) for c in [(0, 6), (1, 4), (7,)]]
    assert together(space, history) == (1, 4)


def test_examples_of_no_group_put_nothing_together():
    space = Space([("s", "a")] * 3, 1, (), ["a", None])
    history = [Trial((i,), v, 50, {"a": (v, 40), None: (v, 10)}) for i, v in enumerate((0.1, 0.9, 0.5))]
    assert together(space, history) == (1,)


def test_nothing_known_leaves_the_start():
    assert together(make_space(), []) == (0, 6)


def test_few_examples_are_trusted_less():
    lucky, sound = Trial((1,), 1.0, 2), Trial((2,), 0.8, 60)
    unknown = Trial((3,), math.nan, 0)
    assert [t.candidate for t in ranked([lucky, sound, Trial((4,), 0.1, 60), unknown])] == [(2,), (1,), (4,)]
    assert steadied(1.0, 10, 0.0) == 0.5


def test_a_sampler_of_one_s_own():
    class Last:
        def __init__(self, space):
            self.space = space

        def propose(self, history, rng):
            return (8,)

    space = make_space()
    assert propose_new(make_sampler(Last, space), space, [], random.Random(0)) == (8,)


def test_unknown_samplers_are_answered_with_the_menu():
    with pytest.raises(UnknownNameError, match="greedy, mixed, optuna, random"):
        make_sampler("genetic", make_space())
    with pytest.raises(UsageError, match="0 or more"):
        make_space(max_seeds=-1)


def test_without_optuna_mixed_goes_on_and_optuna_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert len(walk("mixed", make_space(), 6)) == 7
    with pytest.raises(PrerequisiteError, match=r"pip install 'spri-dspy\[optimize\]'"):
        make_sampler("optuna", make_space())
