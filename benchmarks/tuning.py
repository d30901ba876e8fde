"""Who finds the best candidate for a budget: racing, halving, random search and a surrogate, seed by seed.

The candidates are the recorded systems of a model: their scores on every row are known, so that a pick can
be checked. A method sees a score only by paying for it. Regret is the best candidate's macro Pearson over
all rows, less the pick's.

    python -m benchmarks tuning --recordings DIR [--models A,B] [--seeds N] [--made-up N] [--json]

Methods, all on the same budgets and seeds:
  racing         `spri_dspy.tuning.racing.race.race`, as it is.
  halving        successive halving: ceil(log2 k) rounds of equal budget; each evaluates all survivors on new
                 rows, the same for all and stratified by group, and keeps floor(m/2) of m by macro Pearson on
                 all rows so far (Jamieson and Talwalkar 2016). A last survivor ends it, with budget left.
  halving, slow  the same, but it keeps ceil(m/2) (Karnin et al. 2013): it spends all, and is the better one.
  equal split    every candidate on the same stratified rows.
  random search  every score is of a random candidate on a random row.
  surrogate      halving by the mean of a per-example stand-in for r, its moments taken from one candidate.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sections import Section, as_json, print_sections
from benchmarks.worlds import Meter, World, macro_pearson, made_up_world, recorded_worlds
from spri_dspy.errors import UsageError
from spri_dspy.metrics.bootstrap import draw_clusters, wilson
from spri_dspy.metrics.set_level import correlation, pearson_rows, standardised
from spri_dspy.tuning.racing.race import race

if TYPE_CHECKING:
    from benchmarks.worlds import Floats, Integers

Method = Callable[[World, Meter, random.Random], int]
"""Picks a candidate (a number), seeing scores through the meter only."""

BASELINE = "halving"
_COLUMNS = ("method", "picks the best", "mean regret", "of halving's", "budget used, at most")
_REGIMES = ((0, 20, "fewer than 20"), (20, 100, "20 to 100"), (100, math.inf, "more than 100"))
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method did: one regret, pick and cost a run, in the order of the runs."""

    regrets: list[float]
    spent: list[float]

    @property
    def hits(self) -> int:
        """Runs that picked the best, or its equal."""
        return sum(regret < 1e-12 for regret in self.regrets)


def main(argv: list[str]) -> int:
    """Race and print; returns 0.

    Raises:
        SpriError: the folder or a row in it cannot be used.
    """
    options = _options().parse_args(argv)
    if not options.recordings and not options.made_up:
        raise UsageError("nothing to race: give --recordings DIR, or --made-up N")
    if options.seeds < 1 or options.made_up < 0:
        raise UsageError("--seeds is 1 or more, --made-up 0 or more")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    models = options.models.split(",") if options.models else None
    worlds = recorded_worlds(options.recordings, models) if options.recordings else []
    sections = [recorded_section(world, seeds) for world in worlds]
    if options.made_up:
        sections += made_up_sections(range(options.first_seed, options.first_seed + options.made_up))
    if options.json:
        sys.stdout.write(
            as_json(sections, schema=1, seeds=options.seeds, first_seed=options.first_seed) + "\n"
        )
    else:
        print_sections(sections)
    return 0


def recorded_section(world: World, seeds: Sequence[int]) -> Section:
    """Every method in one world, once a seed."""
    outcomes = {name: _run(method, [(world, seed) for seed in seeds]) for name, method in METHODS.items()}
    title = (
        f"{world.name}: {len(world.candidates)} candidates, {len(world.rows)} rows, budget {world.share:.0%}"
    )
    section = _section(f"{world.name}, {world.share:.0%}", title, outcomes)
    truth = dict(sorted(zip(world.candidates, world.truth.tolist(), strict=True), key=lambda t: -t[1]))
    section.notes.append("true macro Pearson: " + ", ".join(f"{c} {r:.4f}" for c, r in truth.items()))
    for result in section.results:
        result |= {"world": world.name, "budget": world.budget, "share": world.share, "truth": truth}
    return section


def made_up_sections(seeds: Sequence[int]) -> list[Section]:
    """Every method once in every made-up world, the worlds sorted by how many rows a group can be paid."""
    worlds = [made_up_world(seed) for seed in seeds]
    sections: list[Section] = []
    for low, high, words in _REGIMES:
        here = [w for w in worlds if low <= w.budget / len(w.candidates) / (w.groups.max() + 1) < high]
        if here:
            runs = [(world, number) for number, world in enumerate(here)]
            outcomes = {name: _run(method, runs) for name, method in METHODS.items()}
            title = f"made up: {len(here)} worlds, {words} rows a group and candidate at an equal split"
            sections.append(_section(f"made up, {words}", title, outcomes))
    return sections


def racing(world: World, meter: Meter, rng: random.Random) -> int:
    """The engine, with its defaults."""
    number = {name: i for i, name in enumerate(world.candidates)}
    result = race(
        world.candidates,
        world.rows,
        lambda candidate, rows: meter.pay(number[candidate], rows).tolist(),
        budget=world.budget,
        rng=rng,
    )
    return number[result.winner]


def halving(world: World, meter: Meter, rng: random.Random) -> int:
    """Successive halving, keeping the smaller half."""
    return _halve(world, meter, rng, lambda m: max(1, m // 2))


def slow_halving(world: World, meter: Meter, rng: random.Random) -> int:
    """Successive halving, keeping the larger half."""
    return _halve(world, meter, rng, lambda m: (m + 1) // 2)


def equal_split(world: World, meter: Meter, rng: random.Random) -> int:
    """All candidates on the same rows."""
    import numpy as np

    k = len(world.candidates)
    rows = _stratified(world, rng)[: world.budget // k]
    scores = np.stack([meter.pay(c, rows) for c in range(k)])
    return int(macro_pearson(scores, world.labels[rows], world.groups[rows]).argmax())


def random_search(world: World, meter: Meter, rng: random.Random) -> int:
    """Random candidates on random rows, no pair twice."""
    import numpy as np

    n, scores = len(world.rows), np.full_like(world.scores, np.nan)
    drawn = np.array(rng.sample(range(scores.size), world.budget), dtype=np.int64)
    for c in range(len(scores)):
        rows = drawn[drawn // n == c] % n
        scores[c, rows] = meter.pay(c, rows)
    return int(macro_pearson(scores, world.labels, world.groups).argmax())


def surrogate(world: World, meter: Meter, rng: random.Random) -> int:
    """Halving by the mean of the influence form of r about one candidate's moments.

    It is r0 + z_h z_s - r0/2 (z_h^2 + z_s^2), where z_s uses the mean and spread that a random candidate
    shows on the first round's rows, r0 is its r there, and z_h uses the labels of all rows.
    """
    fixed: list[Floats] = []
    reference = rng.randrange(len(world.candidates))

    def value(scores: Floats, rows: Integers) -> Floats:
        if not fixed:
            fixed.append(_moments(scores[reference], rows, world))
        return _surrogate_means(scores, rows, world, fixed[0])

    return _halve(world, meter, rng, lambda m: max(1, m // 2), value)


METHODS: dict[str, Method] = {
    "racing": racing,
    BASELINE: halving,
    "halving, slow": slow_halving,
    "equal split": equal_split,
    "random search": random_search,
    "surrogate": surrogate,
}


def _halve(
    world: World,
    meter: Meter,
    rng: random.Random,
    keep: Callable[[int], int],
    value: Callable[[Floats, Integers], Floats] | None = None,
) -> int:
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
        values = value(seen, rows) if value else macro_pearson(seen, world.labels[rows], world.groups[rows])
        alive = alive[np.argsort(-values, kind="stable")[: keep(len(alive))]]
        if len(alive) == 1:
            break
    return int(alive[0])


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


def _surrogate_means(scores: Floats, rows: Integers, world: World, moments: Floats) -> Floats:
    """Macro mean of the surrogate, one per line of scores."""
    import numpy as np

    group = world.groups[rows]
    mean_h, sd_h, mean_s, sd_s, r = moments[group].T
    z_h, z_s = (world.labels[rows] - mean_h) / sd_h, (scores - mean_s) / sd_s
    each = r + z_h * z_s - r / 2 * (z_h**2 + z_s**2)
    means = []
    for line in each:
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


def _run(method: Method, runs: Sequence[tuple[World, int]]) -> Outcome:
    outcome = Outcome([], [])
    for world, seed in runs:
        meter = Meter(world)
        pick = method(world, meter, random.Random(seed))
        outcome.regrets.append(float(world.truth.max() - world.truth[pick]))
        outcome.spent.append(meter.spent / world.scores.size)
    return outcome


def _section(name: str, title: str, outcomes: dict[str, Outcome]) -> Section:
    section = Section(name, title, _COLUMNS)
    for method, outcome in outcomes.items():
        result = _result(method, outcome, outcomes[BASELINE])
        section.results.append(result)
        section.rows.append(
            (
                method,
                _with_interval(result, "best", "{:.1%}"),
                _with_interval(result, "regret", "{:.5f}"),
                _with_interval(result, "relative", "{:.0%}"),
                f"{result['spent_share']:.2%}",
            )
        )
    return section


def _result(method: str, outcome: Outcome, baseline: Outcome) -> dict[str, Any]:
    """Numbers with 95 % intervals: Wilson's for the share, bootstrap over the runs (paired) for regrets."""
    import numpy as np

    n = len(outcome.regrets)
    mine, base = np.array(outcome.regrets), np.array(baseline.regrets)
    counts = np.concatenate([*draw_clusters([np.arange(n)], _RESAMPLES, width=n)])
    means, base_means = counts @ mine / n, counts @ base / n
    ratios = means[base_means > 0] / base_means[base_means > 0]
    share = wilson(outcome.hits / n, n)
    result: dict[str, Any] = {"method": method, "runs": n, "best": outcome.hits / n, "regret": mine.mean()}
    result |= {"best_low": share.low, "best_high": share.high, "relative": None}
    result |= dict(zip(("regret_low", "regret_high"), np.quantile(means, (0.025, 0.975)), strict=True))
    if base.any():
        result["relative"] = mine.mean() / base.mean()
        result |= dict(
            zip(("relative_low", "relative_high"), np.quantile(ratios, (0.025, 0.975)), strict=True)
        )
    result["spent_share"] = max(outcome.spent)
    return {k: float(v) if isinstance(v, np.floating) else v for k, v in result.items()}


def _with_interval(result: dict[str, Any], name: str, form: str) -> str:
    if result[name] is None:
        return "-"
    low, high = (form.format(result[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{form.format(result[name])} [{low}, {high}]"


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tuning", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--recordings", type=Path, metavar="DIR", help="holds MODEL__SYSTEM.jsonl, or rubrics/judge_scores")
    add("--models", metavar="A,B", help="which models (default: all)")
    add(
        "--seeds",
        type=int,
        default=200,
        metavar="N",
        help="runs of every method in every recorded world (200)",
    )
    add("--first-seed", type=int, default=0, metavar="N", help="the first run's seed (0)")
    add("--made-up", type=int, default=0, metavar="N", help="race in N made-up worlds, too (0)")
    add("--json", action="store_true", help="print one JSON document")
    return parser
