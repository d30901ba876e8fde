"""Who finds the best candidate for a budget: racing, halving, paired tests and others, seed by seed.

The candidates are the recorded systems of a model: their scores on every row are known, so that a pick can
be checked. A method sees a score only by paying for it. Regret is the best candidate's metric over
all rows, less the pick's.

    python -m benchmarks tuning --recordings DIR [--models A,B] [--seeds N] [--made-up N [--share X]] [--null N]

The methods, ours and those that others use, are those of `contestants`. --null N asks another question, N times a
method and world at 10 %: how often a method says that something is better than the start (the first candidate) where
labels are permuted, so that all candidates are equal, and where the start is the best.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import BASELINE, METHODS, UNLIMITED, Method
from benchmarks.sections import Section, put_out
from benchmarks.worlds import Meter, World, made_up_world, recorded_worlds
from spri_dspy.errors import UsageError
from spri_dspy.metrics.bootstrap import draw_clusters
from spri_dspy.metrics.jackknife import wilson

_NULL_SHARE = 0.1
_COLUMNS = ("method", "picks the best", "mean regret", "of halving's", "cost, on average")
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
    if options.share is not None and not 0 < options.share <= 1:
        raise UsageError(f"--share lies in (0, 1], not {options.share:g}")
    if options.seeds < 1 or min(options.made_up, options.null) < 0:
        raise UsageError("--seeds is 1 or more, --made-up and --null 0 or more")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    models = options.models.split(",") if options.models else None
    worlds = recorded_worlds(options.recordings, models) if options.recordings else []
    sections = [recorded_section(world, seeds) for world in worlds]
    if options.null:
        names = {world.name: world for world in worlds if world.share == _NULL_SHARE}
        sections += [null_section(w, range(seeds.start, seeds.start + options.null)) for w in names.values()]
    if options.made_up:
        sections += made_up_sections(
            range(options.first_seed, options.first_seed + options.made_up), options.share
        )
    put_out(sections, options, schema=1, seeds=options.seeds, first_seed=options.first_seed)
    return 0


def recorded_section(world: World, seeds: Sequence[int]) -> Section:
    """Every method in one world, once a seed."""
    outcomes = {
        name: _run(name, method, [(world, seed) for seed in seeds]) for name, method in METHODS.items()
    }
    title = (
        f"{world.name}: {len(world.candidates)} candidates, {len(world.rows)} rows, budget {world.share:.0%}"
    )
    section = _section(f"{world.name}, {world.share:.0%}", title, outcomes)
    truth = dict(sorted(zip(world.candidates, world.truth.tolist(), strict=True), key=lambda t: -t[1]))
    section.notes.append(
        f"true {world.objective.name}: " + ", ".join(f"{c} {r:.4f}" for c, r in truth.items())
    )
    for result in section.results:
        result |= {"world": world.name, "budget": world.budget, "share": world.share, "truth": truth}
    return section


def null_section(world: World, seeds: Sequence[int]) -> Section:
    """How often every method says that something is better than the start when nothing is."""
    title = f"{world.name}, {world.share:.0%}: says that something is better than the start"
    columns = ("method", "all are equal (permuted labels)", "the start is the best")
    section, best_first = Section(f"{world.name}, null", title, columns), world.best_first()
    for name, method in METHODS.items():
        worlds = {"equal": world.shuffled, "best_first": lambda seed: best_first}
        result: dict[str, Any] = {"method": name, "runs": len(seeds)}
        for key, made in worlds.items():
            said = sum(
                method(w, Meter(w, unlimited=name in UNLIMITED), random.Random(seed)).is_better()
                for seed, w in ((seed, made(seed)) for seed in seeds)
            )
            share = wilson(said / len(seeds), len(seeds))
            result |= {key: said / len(seeds), f"{key}_low": share.low, f"{key}_high": share.high}
        section.results.append(result)
        section.rows.append((name, *(_with_interval(result, key, "{:.1%}") for key in worlds)))
    return section


def made_up_sections(seeds: Sequence[int], share: float | None = None) -> list[Section]:
    """Every method once in every made-up world, the worlds sorted by how many rows a group can be paid."""
    worlds = [made_up_world(seed, share) for seed in seeds]
    sections: list[Section] = []
    for low, high, words in _REGIMES:
        here = [w for w in worlds if low <= w.budget / len(w.candidates) / (w.groups.max() + 1) < high]
        if here:
            runs = [(world, number) for number, world in enumerate(here)]
            outcomes = {name: _run(name, method, runs) for name, method in METHODS.items()}
            title = f"made up: {len(here)} worlds, {words} rows a group and candidate at an equal split"
            sections.append(_section(f"made up, {words}", title, outcomes))
    return sections


def _run(name: str, method: Method, runs: Sequence[tuple[World, int]]) -> Outcome:
    outcome = Outcome([], [])
    for world, seed in runs:
        meter = Meter(world, unlimited=name in UNLIMITED)
        pick = method(world, meter, random.Random(seed)).candidate
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
                f"{result['cost']:.1%}",
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
    result |= {"cost": sum(outcome.spent) / n, "spent_share": max(outcome.spent)}
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
    add(
        "--share",
        type=float,
        metavar="X",
        help="budget in made-up worlds, in (0, 1] (default: drawn, 0.15 to 0.4)",
    )
    add(
        "--null", type=int, default=0, metavar="N", help="count false improvements in N runs of each kind (0)"
    )
    add("--json", action="store_true", help="print one JSON document")
    return parser
