"""Do 95 % intervals hold, and do tests at 5 % reject as often as they say? Measured on made-up judges and people.

Two judges of equal quality and three people score the responses to instances in groups; marks are ordinal, 1 to 5, and
share an effect of the instance, which is the cluster. Or two judges choose the better of two responses, in both orders.
The truth of each figure is computed from very many such instances. Printed for every figure that the program prints:
the share of intervals that hold the truth (coverage), how many miss it from below and from above, and their mean width;
for every test: the share of p under 0.05 between the equal judges (size). It knows nothing of LMs and files; the
Alt-Test's own simulation is in `agree --simulate`.

    python -m benchmarks intervals [--repeats 400] [--seed 0] [--only NAME]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.metrics.agreement import calibration, figures_of
from spri_dspy.metrics.ceiling import footings
from spri_dspy.metrics.comparison import Comparison, compare, paired_t
from spri_dspy.metrics.kappa import quadratic_kappa
from spri_dspy.metrics.krippendorff import alpha_in_place
from spri_dspy.metrics.ranks import kendall, spearman
from spri_dspy.metrics.rated import AgreeSettings, Item, Ratings
from spri_dspy.metrics.set_level import by_group, macro, mae, mean, pair_accuracy, pearson, share
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

EVEN, SKEWED = (0.2, 0.2, 0.2, 0.2, 0.2), (0.02, 0.05, 0.10, 0.25, 0.58)
"""Shares of the marks 1 to 5, of people and judges alike."""

SKILLS = (0.35, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
"""How closely a judge's latent score follows the latent label, by group."""

TRUTH, TRUTH_OF_ALPHA = 50_000, 10_000
"""Instances a group from which the true figures are computed; those of panels take longer."""

DRAWS = 999
"""Swaps of a permutation test."""

STATISTICS = (pearson, spearman, kendall, quadratic_kappa, pair_accuracy, mean, mae, share)
COMPARED = (pearson, quadratic_kappa, mean, mae, share)
MACRO = (pearson, quadratic_kappa, mae)
"""What is measured in every group, between the judges, and over groups; `share` is of marks of at least 4."""

SETTINGS_OF_ALL = AgreeSettings()


class Sample(NamedTuple):
    """One group: the first person's marks, both judges' and the further people's (each instances x responses)."""

    labels: Floats
    judges: tuple[Floats, Floats]
    others: tuple[Floats, ...]


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes:
        groups: how many groups.
        instances: least and most instances of a group.
        responses: responses to an instance, which form a cluster.
        marks: shares of the marks 1 to 5.
    """

    groups: int
    instances: tuple[int, int]
    responses: int = 4
    marks: tuple[float, ...] = EVEN

    def sample(self, sizes: Sequence[int], generator: np.random.Generator) -> Iterator[Sample]:
        """One sample a group."""
        for size, skill in zip(sizes, SKILLS, strict=False):
            rest = (1 - skill * skill) ** 0.5
            shape, once = (size, self.responses), (size, 1)
            latent = 0.6 * generator.standard_normal(once) + 0.8 * generator.standard_normal(shape)
            shared = 0.5 * generator.standard_normal(once) + 0.5 * generator.standard_normal(shape)
            judges = [
                skill * latent + rest * (shared + 0.5**0.5 * generator.standard_normal(shape)) for _ in "ab"
            ]
            others = [0.8 * latent + 0.6 * generator.standard_normal(shape) for _ in "bc"]
            first, second, *people = (self._mark(side) for side in (*judges, *others))
            yield Sample(self._mark(latent), (first, second), tuple(people))

    def _mark(self, latent: Floats) -> Floats:
        import numpy as np
        from scipy import stats

        cuts = stats.norm.ppf(np.cumsum(self.marks)[:-1])
        return np.digitize(latent, cuts).astype(np.float64) + 1

    def draw(self, generator: np.random.Generator) -> list[Sample]:
        """The groups of one draw."""
        least, most = self.instances
        sizes = generator.integers(least, most + 1, size=self.groups).tolist()
        return list(self.sample(sizes, generator))


@dataclass(frozen=True)
class Pairs:
    """Pairs of which a judge says in both orders which is better.

    Attributes:
        pairs: how many.
        right: how often a verdict is people's.
    """

    pairs: int
    right: float

    def ratings(self, n: int, generator: np.random.Generator) -> list[Ratings]:
        """Two equal judges' verdicts on the same pairs, which are hard for both alike."""
        from scipy import stats

        cut = stats.norm.ppf(self.right)
        hard = generator.standard_normal(n)
        best = generator.choice((1.0, -1.0), size=n)
        found: list[Ratings] = []
        for name in "ab":
            own = 0.6 * hard + 0.6 * generator.standard_normal(n)
            orders = [own + 0.28**0.5 * generator.standard_normal(n) < cut for _ in range(2)]
            verdicts = [(best * (2 * right - 1)).tolist() for right in orders]
            rows = zip(*verdicts, best.tolist(), strict=True)
            items = (Item(str(i), v, (p,), swapped=s) for i, (v, s, p) in enumerate(rows))
            found.append(Ratings(name, tuple(items), ("people",), kind="pairs", both_orders=True))
        return found


SETTINGS: dict[str, Setting | Pairs] = {
    "20-85": Setting(8, (20, 85)),
    "20-85-skewed": Setting(8, (20, 85), marks=SKEWED),
    "5-8": Setting(8, (5, 8)),
    "5-8-skewed": Setting(8, (5, 8), marks=SKEWED),
    "one-group-of-10": Setting(1, (10, 10)),
    "one-group-of-10-skewed": Setting(1, (10, 10), marks=SKEWED),
    "8-examples": Setting(1, (8, 8), responses=1),
    "8-examples-skewed": Setting(1, (8, 8), responses=1, marks=SKEWED),
    "46-pairs": Pairs(46, 0.85),
    "134-pairs": Pairs(134, 0.92),
    "20-pairs": Pairs(20, 0.7),
}
"""Eight groups of usual and of small size, the smallest sets that people compare on, and subsets of pairs."""


class Tally:
    """Counts how often something was tried, held, and missed from below and above."""

    def __init__(self) -> None:
        self.tried = self.below = self.above = self.without = 0
        self.width = 0.0

    def interval(self, low: float, high: float, truth: float) -> None:
        """Count one interval; `below` if it lies below the truth."""
        if not low <= high:
            self.without += 1
            return
        self.tried += 1
        self.width += high - low
        self.below += high < truth - 1e-9
        self.above += low > truth + 1e-9

    def test(self, p: float) -> None:
        """Count one test; a p that could not be computed rejects nothing."""
        self.tried += 1
        self.below += p < 0.05

    def __str__(self) -> str:
        none = f", {self.without} without an interval" if self.without else ""
        if not self.tried:
            return f"none{none}"
        missed = self.below + self.above
        error = 100 * (missed / self.tried * (1 - missed / self.tried) / self.tried) ** 0.5
        held = f"{100 * (1 - missed / self.tried):5.1f} % ± {error:.1f}"
        ends = f"below {self.below}, above {self.above} of {self.tried}"
        return f"{held}, {ends}, width {self.width / self.tried:.3f}{none}"

    def size(self) -> str:
        """The share of rejections, with its standard error."""
        rate = self.below / self.tried
        return f"{100 * rate:5.1f} % ± {100 * (rate * (1 - rate) / self.tried) ** 0.5:.1f}"


class Found:
    """Coverage by figure and size by test."""

    def __init__(self) -> None:
        self.coverage: dict[str, Tally] = {}
        self.size: dict[str, Tally] = {}

    def covered(self, name: str, estimate: Estimate, truth: float) -> None:
        """Count an interval."""
        self.coverage.setdefault(name, Tally()).interval(estimate.low, estimate.high, truth)

    def compared(self, name: str, test: Callable[[], Comparison]) -> None:
        """Count a test of equal judges and its interval, which is to hold 0."""
        found = test()
        self.size.setdefault(f"permutation test of {name}", Tally()).test(found.p)
        tally = self.coverage.setdefault(f"difference of {name}", Tally())
        tally.interval(found.low, found.high, 0.0)


def scores(groups: Sequence[Sample], judge: int) -> list[Score]:
    """A judge's marks against the first person's."""
    return [
        Score(f"{g}-{c}-{r}", value, label, f"g{g}", f"{g}-{c}")
        for g, sample in enumerate(groups)
        for c, rows in enumerate(zip(sample.judges[judge].tolist(), sample.labels.tolist(), strict=True))
        for r, (value, label) in enumerate(zip(*rows, strict=True))
    ]


def panel(groups: Sequence[Sample]) -> Ratings:
    """The first judge's marks and all three people's."""
    items = (
        Item(
            f"{g}-{c}-{r}",
            float(sample.judges[0][c, r]),
            tuple(float(p[c, r]) for p in people),
            None,
            f"{g}-{c}",
        )
        for g, sample in enumerate(groups)
        for people in [(sample.labels, *sample.others)]
        for c in range(len(sample.labels))
        for r in range(sample.labels.shape[1])
    )
    return Ratings("judge", tuple(items), ("anna", "ben", "cara"))


def good(marks: Sequence[Score]) -> list[Score]:
    """The same scores as 0 or 1: at least 4."""
    return [replace(s, value=float((s.value or 0) >= 4)) for s in marks]


def measure(setting: Setting, repeats: int, seed: int) -> Found:
    """Coverage and size where marks are given."""
    import numpy as np

    generator, found = np.random.default_rng(seed), Found()
    truths = _truths(setting, np.random.default_rng(seed + 1))
    of_panel = _truths_of_panel(setting, np.random.default_rng(seed + 2))
    for repeat in range(repeats):
        groups, rng = setting.draw(generator), random.Random(repeat)
        a, b = (scores(groups, judge) for judge in (0, 1))
        marked = {statistic.name: (a, b) for statistic in STATISTICS} | {"share": (good(a), good(b))}
        for statistic in STATISTICS:
            for group, estimate in by_group(statistic, marked[statistic.name][0], rng=rng).items():
                found.covered(
                    f"{statistic.name} of a group", estimate, truths[statistic.name][int(group[1:])]
                )
        for statistic in MACRO if setting.groups > 1 else ():
            truth = float(np.mean(truths[statistic.name]))
            found.covered(f"macro {statistic.name}", macro(statistic, a, rng=rng), truth)
        for part in calibration([s for s in a if s.group == "g0"], SETTINGS_OF_ALL):
            found.covered("calibration, a bin of a group", part.people, truths["calibration"][int(part.low)])
        for statistic in COMPARED:
            name, sides = statistic.name, marked[statistic.name]
            is_macro = statistic is pearson and setting.groups > 1
            found.compared(name, lambda: compare(statistic, *sides, macro=is_macro, draws=DRAWS, rng=rng))  # noqa: B023
        found.size.setdefault("paired t-test, clusters ignored", Tally()).test(paired_t(a, b).p)
        for name, estimate in _of_panel(panel(groups[:1])).items():
            found.covered(name, estimate, of_panel[name])
    return found


def _of_panel(ratings: Ratings) -> dict[str, Estimate]:
    """Figures of a judge and three people: alpha, and people's own ceiling."""
    people = [[item.people[place] for item in ratings.items] for place in range(3)]
    clusters = [str(item.cluster) for item in ratings.items]
    alpha = alpha_in_place(people, [item.value for item in ratings.items], clusters=clusters)
    found = {f"alpha of a group, {name}": estimate for name, estimate in alpha._asdict().items()}
    for statistic in (pearson, quadratic_kappa, mae):
        footing = footings(ratings, [statistic], SETTINGS_OF_ALL)[statistic.name]
        for name in ("judge", "people", "difference"):
            found[f"ceiling of a group, {statistic.name}, {name}"] = getattr(footing, name)
    return found


def measure_pairs(setting: Pairs, repeats: int, seed: int) -> Found:
    """Coverage and size where the better of two responses is chosen."""
    import numpy as np

    generator, found = np.random.default_rng(seed), Found()
    many = setting.ratings(TRUTH, np.random.default_rng(seed + 1))[0]
    truths = {name: f.statistic(f.scores(many), ci=False).value for name, f in figures_of(many).items()}
    for repeat in range(repeats):
        judges, rng = setting.ratings(setting.pairs, generator), random.Random(repeat)
        for name, figure in figures_of(judges[0]).items():
            sides = [figure.scores(judge) for judge in judges]
            found.covered(name, figure.statistic(sides[0], rng=rng), truths[name])
            statistic = figure.statistic
            found.compared(name, lambda: compare(statistic, *sides, draws=DRAWS, rng=rng))  # noqa: B023
    return found


def _truths(setting: Setting, generator: np.random.Generator) -> Mapping[str, Sequence[float]]:
    """True figures by group; of calibration the first group's, by the judge's mark."""
    import numpy as np
    from scipy import stats

    found: dict[str, list[float]] = {statistic.name: [] for statistic in STATISTICS}
    for labels, (values, _), _ in setting.sample([TRUTH] * setting.groups, generator):
        x, y = values.ravel(), labels.ravel()
        covariance = np.cov(x, y)
        ranked: Any = [stats.spearmanr(x, y)[0], stats.kendalltau(x, y)[0]]
        found["pearson"].append(float(np.corrcoef(x, y)[0, 1]))
        found["quadratic_kappa"].append(
            float(2 * covariance[0, 1] / (np.trace(covariance) + (x.mean() - y.mean()) ** 2))
        )
        found["spearman"].append(float(ranked[0]))
        found["kendall"].append(float(ranked[1]))
        pairs = np.triu_indices(setting.responses, 1)
        apart = [np.sign(side[:, pairs[0]] - side[:, pairs[1]]) for side in (values, labels)]
        told = apart[1] != 0
        found["pair_accuracy"].append(float((apart[0] == apart[1])[told].mean()) if told.any() else np.nan)
        found["mean"].append(float(x.mean()))
        found["mae"].append(float(abs(x - y).mean()))
        found["share"].append(float((x >= 4).mean()))
        found.setdefault("calibration", [np.nan, *(float(y[x == mark].mean()) for mark in range(1, 6))])
    return found


def _truths_of_panel(setting: Setting, generator: np.random.Generator) -> dict[str, float]:
    """True figures of the judge and people of the first group."""
    (sample,) = replace(setting, groups=1).sample([TRUTH_OF_ALPHA], generator)
    return {name: estimate.value for name, estimate in _of_panel(panel([sample])).items()}


def main(argv: Sequence[str]) -> int:
    """Print coverage and size of every setting; 0 if it ran, whatever it found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks intervals", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help=f"one of {', '.join(SETTINGS)}")
    options = parser.parse_args(argv)
    if options.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, not {options.repeats}")
    if options.only and options.only not in SETTINGS:
        raise UnknownNameError("setting", options.only, SETTINGS)
    for name in [options.only] if options.only else SETTINGS:
        setting = SETTINGS[name]
        measured = measure_pairs if isinstance(setting, Pairs) else measure
        found = measured(setting, options.repeats, options.seed)  # pyright: ignore
        sys.stdout.write(f"{name}: {setting}\n")
        sys.stdout.writelines(f"  coverage  {figure:44}{tally}\n" for figure, tally in found.coverage.items())
        sys.stdout.writelines(f"  size      {test:44}{tally.size()}\n" for test, tally in found.size.items())
        sys.stdout.flush()
    return 0
