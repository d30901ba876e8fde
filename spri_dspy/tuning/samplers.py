"""Which sets of seeds are possible, and which one to try next.

A Candidate is a set of seeds, as numbers of the pool. A Space says what is allowed; a Sampler proposes one candidate,
from what is known so far:

    random    any number of seeds in every group, any of them
    greedy    the best sets so far put together, and one seed added, dropped or swapped in every group
    optuna    a model of which seeds go with high values (TPE), group by group
    mixed     these in turn

An example sees its own group's seeds only, so groups are separate searches that share every run: one candidate tries
something in all of them at once, and what is best in each can be put together. It knows numbers, not texts or LMs.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from spri_dspy.errors import PrerequisiteError, UnknownNameError, UsageError

Candidate = tuple[int, ...]
"""Numbers of seeds in the pool, ascending."""

Slot = tuple[str, str | None]
"""A stage and a group; None for seeds that all groups are shown."""

_STEADY = 10.0
"""A value from so many examples is pulled half-way to what is usual: few examples make many lucky candidates."""
_TRIES = 50


@dataclass(frozen=True)
class Trial:
    """What is known of one candidate.

    Attributes:
        value: the metric so far; nan if nothing is known.
        n: examples it is based on.
        by_group: value and number of examples of each group.
        paid: scores that had been paid for when something was first known of it.
    """

    candidate: Candidate
    value: float
    n: int
    by_group: Mapping[str | None, tuple[float, int]] = field(default_factory=dict)
    paid: int = 0


class Space:
    """The sets of seeds that are allowed.

    Args:
        slots: of each seed in the pool, its stage and group.
        max_seeds: most seeds that an example may be shown in a stage.
        start: the start's set, which is allowed whatever its size.
        groups: all groups of the examples.
    """

    def __init__(
        self, slots: Sequence[Slot], max_seeds: int, start: Candidate, groups: Sequence[str | None] = ()
    ) -> None:
        if max_seeds < 0:
            raise UsageError(f"the number of seeds must be 0 or more, not {max_seeds}")
        self.of, self.max_seeds, self.start = tuple(slots), max_seeds, tuple(sorted(start))
        self.slots: dict[Slot, list[int]] = {}
        for number, slot in enumerate(slots):
            self.slots.setdefault(slot, []).append(number)
        self.groups = tuple(dict.fromkeys((*groups, *(group for _, group in slots))))

    def shown(self, candidate: Candidate, group: str | None) -> Candidate:
        """The seeds of a candidate that an example of this group is shown."""
        if group is None:
            return candidate
        return tuple(i for i in candidate if self.of[i][1] in (None, group))

    def named(self, candidate: Candidate) -> str:
        """A candidate's name in reports."""
        if candidate == self.start:
            return "start"
        return "seeds " + " ".join(map(str, candidate)) if candidate else "no seeds"

    def room(self, candidate: Sequence[int], slot: Slot) -> int:
        """How many more seeds the slot can take; below 0 if it has too many."""
        stage, group = slot
        here = [self.of[i][1] for i in candidate if self.of[i][0] == stage]
        if group is not None:
            return self.max_seeds - sum(g in (None, group) for g in here)
        fullest = max((here.count(g) for g in dict.fromkeys(here) if g is not None), default=0)
        return self.max_seeds - here.count(None) - fullest

    def trimmed(self, candidate: Sequence[int], rng: random.Random) -> Candidate:
        """The candidate without as many seeds, taken at random, as are too many."""
        kept = list(candidate)
        for slot, members in self.slots.items():
            while self.room(kept, slot) < 0 and (here := [i for i in kept if i in members]):
                kept.remove(rng.choice(here))
        return tuple(sorted(kept))

    def random(self, rng: random.Random) -> Candidate:
        """Any number of seeds in every slot, each number alike, and any seeds."""
        chosen: list[int] = []
        for slot, members in self.slots.items():
            most = min(len(members), max(0, self.room(chosen, slot)))
            chosen += rng.sample(members, rng.randint(0, most))
        return tuple(sorted(chosen))

    def moved(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """One seed more, one less, or one swapped, in every slot."""
        moved = list(self.trimmed(candidate, rng))
        for slot, members in self.slots.items():
            here, others = [i for i in moved if i in members], [i for i in members if i not in moved]
            moves = (["add", "add"] if others and self.room(moved, slot) > 0 else []) + (
                ["drop"] if here else []
            )
            moves += ["swap", "swap"] if here and others else []
            move = rng.choice(moves) if moves else None
            if move in ("drop", "swap"):
                moved.remove(rng.choice(here))
            if move in ("add", "swap"):
                moved.append(rng.choice(others))
        return tuple(sorted(moved))


class Sampler(Protocol):
    """Proposes candidates. Depends only on the space, the history and `rng`."""

    def propose(self, history: Sequence[Trial], rng: random.Random) -> Candidate:
        """One candidate, best of all one that is not in the history."""
        ...


@dataclass
class RandomSampler:
    """Proposes anything."""

    space: Space

    def propose(self, history: Sequence[Trial], rng: random.Random) -> Candidate:
        """Any candidate."""
        return self.space.random(rng)


@dataclass
class GreedySampler:
    """Proposes what is next to the best: first the best sets put together, then that with a move in every group."""

    space: Space

    def propose(self, history: Sequence[Trial], rng: random.Random) -> Candidate:
        """The best of all groups together if that is new, else one move away from it."""
        base = together(self.space, history)
        return base if all(base != t.candidate for t in history) else self.space.moved(base, rng)


@dataclass
class OptunaSampler:
    """Proposes by Optuna's tree-structured Parzen estimator over which seeds are in, one model a slot.

    Raises:
        PrerequisiteError: Optuna is not installed.
    """

    space: Space

    def __post_init__(self) -> None:
        find_optuna("the sampler optuna")

    def propose(self, history: Sequence[Trial], rng: random.Random) -> Candidate:
        """What the models find promising; chance decides while little is known."""
        chosen: list[int] = []
        for slot, members in self.space.slots.items():
            known: dict[Candidate, float] = {}
            for trial in history:
                value = _value_in(trial, slot[1])
                if not math.isnan(value):
                    known[tuple(i for i in trial.candidate if i in members)] = value
            chosen += _promising(members, known, rng.getrandbits(32))
        return self.space.trimmed(sorted(chosen), rng)


@dataclass
class MixedSampler:
    """Lets several samplers propose in turn."""

    samplers: Sequence[Sampler]
    _turn: int = 0

    def propose(self, history: Sequence[Trial], rng: random.Random) -> Candidate:
        """What the one whose turn it is proposes."""
        sampler = self.samplers[self._turn % len(self.samplers)]
        self._turn += 1
        return sampler.propose(history, rng)


def _mixed(space: Space) -> MixedSampler:
    samplers: list[Sampler] = [RandomSampler(space), GreedySampler(space)]
    with contextlib.suppress(PrerequisiteError):
        samplers.append(OptunaSampler(space))
    return MixedSampler(samplers)


_MAKERS: dict[str, Callable[[Space], Sampler]] = {
    "greedy": GreedySampler,
    "mixed": _mixed,
    "optuna": OptunaSampler,
    "random": RandomSampler,
}


def make_sampler(name: str | Callable[[Space], Sampler], space: Space) -> Sampler:
    """The sampler of a name, or one that a given maker makes.

    Raises:
        UnknownNameError: no such sampler.
        PrerequisiteError: it needs a package that is missing.
    """
    if isinstance(name, str) and name not in _MAKERS:
        raise UnknownNameError("sampler", name, _MAKERS)
    return (_MAKERS[name] if isinstance(name, str) else name)(space)


def propose_new(
    sampler: Sampler, space: Space, history: Sequence[Trial], rng: random.Random
) -> Candidate | None:
    """A candidate that is not in the history, None if none is found.

    What a sampler repeats is moved at random until it is new; it is not asked for ever.
    """
    tried = {trial.candidate for trial in history}
    for _ in range(_TRIES):
        candidate = sampler.propose(history, rng)
        if candidate not in tried:
            return candidate
        candidate = space.moved(candidate, rng)
        if candidate not in tried:
            return candidate
    return None


def steadied(value: float, n: int, usual: float) -> float:
    """A value pulled to what is usual, the more the fewer examples it is based on."""
    return usual + (value - usual) * n / (n + _STEADY)


def ranked(history: Sequence[Trial]) -> list[Trial]:
    """Trials with a value, the best first; of equals the earlier."""
    known = [t for t in history if not math.isnan(t.value)]
    usual = fmean(t.value for t in known) if known else 0.0
    return sorted(known, key=lambda t: -steadied(t.value, t.n, usual))


def together(space: Space, history: Sequence[Trial]) -> Candidate:
    """The best set of each group so far, put together; the best candidate where seeds are for all groups."""
    best = ranked(history)
    if not best:
        return space.start
    if any(group is None for _, group in space.slots):
        return best[0].candidate
    chosen: list[int] = []
    for group in dict.fromkeys(group for _, group in space.slots):
        parts = [
            Trial(space.shown(t.candidate, group), *t.by_group[group]) for t in history if group in t.by_group
        ]
        top = ranked(parts)
        chosen += top[0].candidate if top else space.shown(best[0].candidate, group)
    return tuple(sorted(set(chosen)))


def _value_in(trial: Trial, group: str | None) -> float:
    return trial.value if group is None else trial.by_group.get(group, (math.nan, 0))[0]


def _promising(members: Sequence[int], known: Mapping[Candidate, float], seed: int) -> list[int]:
    """The members that Optuna would have in, given the value of other sets of them."""
    optuna = find_optuna("the sampler optuna")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        choices = {str(i): optuna.distributions.IntDistribution(0, 1) for i in members}
        for chosen, value in known.items():
            params = {str(i): int(i in chosen) for i in members}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=choices, value=value))
        asked = study.ask(choices).params
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [i for i in members if asked[str(i)]]


def find_optuna(user: str) -> Any:
    """The package Optuna.

    Args:
        user: what needs it.

    Raises:
        PrerequisiteError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise PrerequisiteError(f"{user} needs Optuna: pip install 'spri-dspy[optimize]'") from None
    return optuna
