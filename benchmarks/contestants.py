"""Who races: the ways to find the best of a world's candidates, ours and those that others use.

Each sees scores through a meter only, and returns a Pick. Methods that keep to the world's budget:

  racing         `spri_dspy.tuning.racing.race.race`, as it is.
  halving        successive halving: ceil(log2 k) rounds of equal budget; each evaluates all survivors on new
                 rows, the same for all and stratified by group, and keeps floor(m/2) of m by the metric on
                 all rows so far (Jamieson and Talwalkar 2016). A last survivor ends it, with budget left.
  halving, slow  the same, but it keeps ceil(m/2) (Karnin et al. 2013): it spends all, and is the better one.
  equal split    every candidate on the same stratified rows.
  random search  every score is of a random candidate on a random row.
  paired tests   blocks of 30 rows for all survivors; whoever is worse than another by a one-sided paired t-test
                 at 0.2 is dropped, as CAPO does (Zehle et al. 2025); of the last survivors the best mean. It
                 needs one number a row: of a correlation, that of `surrogate`.
  surrogate      halving by the mean of a per-example stand-in for r, its moments taken from one candidate.
  one by one, same budget   as below: the start and as many others, at random, as can be paid for.

Methods that spend what they spend, whatever the budget is:

  one by one     candidate after candidate on all rows; the better one is kept, as TruLens does.
  median stopping   candidate after candidate in a random order, in ten steps on the same rows; one whose value
                 falls below the median of those before it at the same step is given up (Golovin et al. 2017).

It knows how methods go about it; who wins, and what a world holds, is not its business.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.worlds import Meter, World, mean_of_scored
from spri_dspy.metrics.set_level import correlation, pearson_rows, standardised
from spri_dspy.tuning.racing.race import MacroPearson, race

if TYPE_CHECKING:
    from benchmarks.worlds import Floats, Integers

BASELINE = "halving"
_BLOCK, _LEVEL = 30, 0.2  # CAPO's block of rows, and the level of its tests
_STEPS = 10  # looks of median stopping at a candidate


class Pick(NamedTuple):
    """What a method takes.

    Attributes:
        candidate: its number.
        is_better: whether the method says that it is better than the start, candidate 0. Methods without a test say so
            of whatever else they take.
    """

    candidate: int
    is_better: Callable[[], bool]


Method = Callable[[World, Meter, random.Random], Pick]


def racing(world: World, meter: Meter, rng: random.Random) -> Pick:
    """The engine, with its defaults; better is what `compare` finds to be so."""
    number = {name: i for i, name in enumerate(world.candidates)}
    result = race(
        world.candidates,
        world.rows,
        lambda candidate, rows: meter.pay(number[candidate], rows).tolist(),
        budget=world.budget,
        rng=rng,
        objective=world.objective,
    )
    start = world.candidates[0]
    return Pick(
        number[result.winner], lambda: result.winner != start and result.compare(result.winner, start).low > 0
    )


def _taken(candidate: int) -> Pick:
    return Pick(candidate, lambda: candidate != 0)


def halving(world: World, meter: Meter, rng: random.Random) -> Pick:
    """Successive halving, keeping the smaller half."""
    return _halve(world, meter, rng, lambda m: max(1, m // 2))


def slow_halving(world: World, meter: Meter, rng: random.Random) -> Pick:
    """Successive halving, keeping the larger half."""
    return _halve(world, meter, rng, lambda m: (m + 1) // 2)


def equal_split(world: World, meter: Meter, rng: random.Random) -> Pick:
    """All candidates on the same rows."""
    import numpy as np

    k = len(world.candidates)
    rows = _stratified(world, rng)[: world.budget // k]
    scores = np.stack([meter.pay(c, rows) for c in range(k)])
    return _taken(int(world.measure(scores, rows).argmax()))


def random_search(world: World, meter: Meter, rng: random.Random) -> Pick:
    """Random candidates on random rows, no pair twice."""
    import numpy as np

    n, scores = len(world.rows), np.full_like(world.scores, np.nan)
    drawn = np.array(rng.sample(range(scores.size), world.budget), dtype=np.int64)
    for c in range(len(scores)):
        rows = drawn[drawn // n == c] % n
        scores[c, rows] = meter.pay(c, rows)
    return _taken(int(world.measure(scores, np.arange(n)).argmax()))


def surrogate(world: World, meter: Meter, rng: random.Random) -> Pick:
    """Halving by the mean of the influence form of r about one candidate's moments.

    It is r0 + z_h z_s - r0/2 (z_h^2 + z_s^2), where z_s uses the mean and spread that a random candidate
    shows on the first round's rows, r0 is its r there, and z_h uses the labels of all rows.
    """
    fixed: list[Floats] = []
    reference = rng.randrange(len(world.candidates))

    def value(scores: Floats, rows: Integers) -> Floats:
        if not isinstance(world.objective, MacroPearson):
            return mean_of_scored(scores)  # the metric has one number an example already
        if not fixed:
            fixed.append(_moments(scores[reference], rows, world))
        return _surrogate_means(scores, rows, world, fixed[0])

    return _halve(world, meter, rng, lambda m: max(1, m // 2), value)


def paired_tests(world: World, meter: Meter, rng: random.Random) -> Pick:
    """Racing by paired t-tests on blocks."""
    import numpy as np

    k, order = len(world.candidates), _stratified(world, rng)
    alive, n, values = list(range(k)), 0, np.full_like(world.scores, np.nan)
    moments: Floats | None = None
    reference = rng.randrange(k)
    while n < len(order) and (len(alive) > 1 or not n):
        step = min(_BLOCK, (meter.budget - meter.spent) // len(alive), len(order) - n)
        if step < 1:
            break
        new = order[n : n + step]
        scores = {c: meter.pay(c, new) for c in alive}
        if isinstance(world.objective, MacroPearson):
            moments = _moments(scores[reference], new, world) if moments is None else moments
            scores = {c: _surrogate(line, new, world, moments) for c, line in scores.items()}
        for c, line in scores.items():
            values[c, n : n + step] = line
        n += step
        alive = [
            c for c in alive if not any(_is_worse(values[c, :n], values[d, :n]) for d in alive if d != c)
        ]
    return _taken(alive[int(mean_of_scored(values[alive, :n]).argmax())])


def _is_worse(mine: Floats, other: Floats) -> bool:
    """Whether a one-sided paired t-test at _LEVEL finds it so."""
    import numpy as np
    from scipy.special import stdtrit

    off = (other - mine)[np.isfinite(other - mine)]
    if len(off) < 2 or not off.std():
        return False
    return bool(off.mean() / (off.std(ddof=1) / math.sqrt(len(off))) > stdtrit(len(off) - 1, 1 - _LEVEL))


def one_by_one(world: World, meter: Meter, rng: random.Random) -> Pick:
    """The start and others in a random order, each on every row, as many as can be paid for."""
    import numpy as np

    k, rows = len(world.candidates), np.arange(len(world.rows))
    affordable = min(k, meter.budget // len(rows))
    if affordable < 2:
        return _taken(0)
    tried = [0, *rng.sample(range(1, k), affordable - 1)]
    scores = np.stack([meter.pay(c, rows) for c in tried])
    return _taken(tried[int(world.measure(scores, rows).argmax())])


def median_stopping(world: World, meter: Meter, rng: random.Random) -> Pick:
    """Candidates in a random order, given up below the median of those before them."""
    import numpy as np

    k, order = len(world.candidates), _stratified(world, rng)
    ends = [round(len(order) * step / _STEPS) for step in range(_STEPS + 1)]
    curves: list[list[float]] = []
    best, top = 0, -math.inf
    for c in rng.sample(range(k), k):
        scores = np.full(len(order), np.nan)
        curve: list[float] = []
        for step in range(_STEPS):
            scores[ends[step] : ends[step + 1]] = meter.pay(c, order[ends[step] : ends[step + 1]])
            curve.append(float(world.measure(scores[None, : ends[step + 1]], order[: ends[step + 1]])[0]))
            before = [other[step] for other in curves if len(other) > step]
            if before and curve[-1] < float(np.median(before)):
                break
        else:
            best, top = (c, curve[-1]) if curve[-1] > top else (best, top)
        curves.append(curve)
    return _taken(best)


METHODS: dict[str, Method] = {
    "racing": racing,
    BASELINE: halving,
    "halving, slow": slow_halving,
    "equal split": equal_split,
    "random search": random_search,
    "paired tests": paired_tests,
    "surrogate": surrogate,
    "one by one, same budget": one_by_one,
    "one by one": one_by_one,
    "median stopping": median_stopping,
}
UNLIMITED = ("one by one", "median stopping")
"""Methods that need not keep to the budget."""


def _halve(
    world: World,
    meter: Meter,
    rng: random.Random,
    keep: Callable[[int], int],
    value: Callable[[Floats, Integers], Floats] | None = None,
) -> Pick:
    """Successive halving; `value` gives one number per line of scores on these rows."""
    import numpy as np

    k, order = len(world.candidates), _stratified(world, rng)
    rounds, alive, n = math.ceil(math.log2(k)), np.arange(k), 0
    scores = np.full_like(world.scores, np.nan)
    for _ in range(rounds):
        new = order[n : n + world.budget // (rounds * len(alive))]
        n += len(new)
        for c in alive:
            scores[c, new] = meter.pay(int(c), new)
        rows = order[:n]
        seen = scores[np.ix_(alive, rows)]
        values = value(seen, rows) if value else world.measure(seen, rows)
        alive = alive[np.argsort(-values, kind="stable")[: keep(len(alive))]]
        if len(alive) == 1:
            break
    return _taken(int(alive[0]))


def _moments(scores: Floats, rows: Integers, world: World) -> Floats:
    """By group: the labels' mean and spread over all rows, the scores' mean, spread and r over these."""
    import numpy as np

    out = np.tile([0.0, 1.0, 0.0, 1.0, 0.0], (int(world.groups.max()) + 1, 1))
    for g, line in enumerate(out):
        every = world.labels[world.groups == g]
        mine = (world.groups[rows] == g) & np.isfinite(scores)
        x, y = scores[mine], world.labels[rows][mine]
        line[:2] = every.mean(), every.std() or 1.0
        if len(x) > 2 and float(np.ptp(x)) > 0 and float(np.ptp(y)) > 0:
            line[2:] = (
                x.mean(),
                x.std(),
                correlation(pearson_rows(standardised(x), standardised(y)).sum(axis=0)),
            )
    return out


def _surrogate(scores: Floats, rows: Integers, world: World, moments: Floats) -> Floats:
    """One number a score: its row's share in r, about these moments."""
    mean_h, sd_h, mean_s, sd_s, r = moments[world.groups[rows]].T
    z_h, z_s = (world.labels[rows] - mean_h) / sd_h, (scores - mean_s) / sd_s
    return r + z_h * z_s - r / 2 * (z_h**2 + z_s**2)


def _surrogate_means(scores: Floats, rows: Integers, world: World, moments: Floats) -> Floats:
    """Macro mean of the surrogate, one per line of scores."""
    import numpy as np

    group = world.groups[rows]
    means = []
    for line in _surrogate(scores, rows, world, moments):
        scored = np.isfinite(line)
        n = np.bincount(group[scored], minlength=len(moments))
        sums = np.bincount(group[scored], line[scored], len(moments))
        means.append((sums / np.maximum(n, 1)).mean())
    return np.array(means)


def _stratified(world: World, rng: random.Random) -> Integers:
    """All rows in a random order, every beginning of which has its share of each group."""
    import numpy as np

    draw = np.random.default_rng(rng.getrandbits(64))
    due = np.empty(len(world.rows))
    for g in np.unique(world.groups):
        members = np.flatnonzero(world.groups == g)
        due[members] = (draw.permutation(len(members)) + draw.random()) / len(members)
    return np.argsort(due, kind="stable")
