"""Do 95 % intervals hold, and do tests at 5 % reject as often as they say? Measured on made-up judges.

Two judges of equal quality score the responses to instances in groups; labels and scores are ordinal, 1 to 5, and share
an effect of the instance, which is the cluster. The truth of each figure is computed from very many such instances.
Printed for every figure: the share of intervals that hold the truth (coverage) and how many miss it from below and from
above; for every test: the share of p under 0.05 between the equal judges (size). It knows nothing of LMs and files.

    python -m benchmarks intervals [--repeats 400] [--seed 0] [--only NAME]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.metrics.comparison import Comparison, compare, paired_t
from spri_dspy.metrics.set_level import by_group, macro, mae, mean, pearson, share
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

EVEN, SKEWED = (0.2, 0.2, 0.2, 0.2, 0.2), (0.02, 0.05, 0.10, 0.25, 0.58)
"""Shares of the marks 1 to 5, of labels and scores alike."""

SKILLS = (0.35, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
"""How closely a judge's latent score follows the latent label, by group."""

TRUTH = 200_000
"""Instances a group from which the true figures are computed."""


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
        """One sample a group: labels and two judges' scores, each instances x responses."""
        for size, skill in zip(sizes, SKILLS, strict=False):
            rest = (1 - skill * skill) ** 0.5
            shape, once = (size, self.responses), (size, 1)
            latent = 0.6 * generator.standard_normal(once) + 0.8 * generator.standard_normal(shape)
            shared = 0.5 * generator.standard_normal(once) + 0.5 * generator.standard_normal(shape)
            judges = (
                skill * latent + rest * (shared + 0.5**0.5 * generator.standard_normal(shape)) for _ in "ab"
            )
            yield tuple(self._mark(side) for side in (latent, *judges))

    def _mark(self, latent: Floats) -> Floats:
        import numpy as np
        from scipy import stats

        cuts = stats.norm.ppf(np.cumsum(self.marks)[:-1])
        return np.digitize(latent, cuts).astype(np.float64) + 1

    def scores(self, generator: np.random.Generator) -> tuple[list[Score], list[Score]]:
        """The two judges' scores of one draw."""
        least, most = self.instances
        sizes = generator.integers(least, most + 1, size=self.groups).tolist()
        sides: tuple[list[Score], list[Score]] = ([], [])
        for group, (labels, *judges) in enumerate(self.sample(sizes, generator)):
            for side, values in zip(sides, judges, strict=True):
                side.extend(
                    Score(
                        f"{group}-{c}-{r}",
                        float(values[c, r]),
                        float(labels[c, r]),
                        f"g{group}",
                        f"{group}-{c}",
                    )
                    for c in range(len(values))
                    for r in range(self.responses)
                )
        return sides


Sample = tuple["Floats", ...]

SETTINGS = {
    "20-85": Setting(8, (20, 85)),
    "20-85-skewed": Setting(8, (20, 85), marks=SKEWED),
    "5-8": Setting(8, (5, 8)),
    "5-8-skewed": Setting(8, (5, 8), marks=SKEWED),
    "one-group-of-10": Setting(1, (10, 10)),
    "8-examples": Setting(1, (8, 8), responses=1),
}
"""Eight groups of usual and of small size, and the smallest sets that people compare on."""


class Tally:
    """Counts how often something was tried, held, and missed from below and above."""

    def __init__(self) -> None:
        self.tried = self.below = self.above = self.without = 0

    def interval(self, estimate: Estimate, truth: float) -> None:
        """Count one interval; `below` if it lies below the truth."""
        if not estimate.low <= estimate.high:
            self.without += 1
            return
        self.tried += 1
        self.below += estimate.high < truth
        self.above += estimate.low > truth

    def test(self, p: float) -> None:
        """Count one test; a p that could not be computed rejects nothing."""
        self.tried += 1
        self.below += p < 0.05

    def __str__(self) -> str:
        if not self.tried:
            return "none"
        missed = self.below + self.above
        error = 100 * (missed / self.tried * (1 - missed / self.tried) / self.tried) ** 0.5
        none = f", {self.without} without an interval" if self.without else ""
        return f"{100 * (1 - missed / self.tried):5.1f} % ± {error:.1f}, below {self.below}, above {self.above}{none}"

    def size(self) -> str:
        """The share of rejections, with its standard error."""
        rate = self.below / self.tried
        return f"{100 * rate:5.1f} % ± {100 * (rate * (1 - rate) / self.tried) ** 0.5:.1f}"


def good(scores: Sequence[Score]) -> list[Score]:
    """The same scores as 0 or 1: at least 4."""
    return [Score(s.id, float((s.value or 0) >= 4), s.label, s.group, s.cluster) for s in scores]


def measure(setting: Setting, repeats: int, seed: int) -> tuple[dict[str, Tally], dict[str, Tally]]:
    """Coverage by figure and size by test."""
    import numpy as np

    generator = np.random.default_rng(seed)
    truths = _truths(setting, np.random.default_rng(seed + 1))
    coverage: dict[str, Tally] = {}
    size: dict[str, Tally] = {}

    def covered(name: str, estimate: Estimate, truth: float) -> None:
        coverage.setdefault(name, Tally()).interval(estimate, truth)

    for repeat in range(repeats):
        a, b = setting.scores(generator)
        rng = random.Random(repeat)
        if setting.groups > 1:
            covered("macro pearson", macro(pearson, a, rng=rng), float(np.mean(truths["pearson"])))
        for number, estimate in enumerate(by_group(pearson, a, rng=rng).values()):
            covered("pearson of a group", estimate, truths["pearson"][number])
        for name, statistic, scores in (("mean", mean, a), ("mae", mae, a), ("share", share, good(a))):
            for number, estimate in enumerate(by_group(statistic, scores, rng=rng).values()):
                covered(f"{name} of a group", estimate, truths[name][number])
        tests: list[tuple[str, Callable[[], Comparison]]] = [
            ("pearson", lambda: compare(pearson, a, b, macro=setting.groups > 1, rng=rng)),  # noqa: B023
            ("mean", lambda: compare(mean, a, b, rng=rng)),  # noqa: B023
            ("mae", lambda: compare(mae, a, b, rng=rng)),  # noqa: B023
        ]
        for name, test in tests:
            comparison = test()
            size.setdefault(f"permutation test of {name}", Tally()).test(comparison.p)
            difference = Estimate(name, comparison.difference, 0, 0, comparison.low, comparison.high)
            covered(f"difference of {name}", difference, 0.0)
        size.setdefault("paired t-test, clusters ignored", Tally()).test(paired_t(a, b).p)
    return coverage, size


def _truths(setting: Setting, generator: np.random.Generator) -> dict[str, list[float]]:
    import numpy as np

    found: dict[str, list[float]] = {"pearson": [], "mean": [], "mae": [], "share": []}
    for labels, values, _ in setting.sample([TRUTH] * setting.groups, generator):
        found["pearson"].append(float(np.corrcoef(labels.ravel(), values.ravel())[0, 1]))
        found["mean"].append(float(values.mean()))
        found["mae"].append(float(abs(values - labels).mean()))
        found["share"].append(float((values >= 4).mean()))
    return found


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
        coverage, size = measure(SETTINGS[name], options.repeats, options.seed)
        sys.stdout.write(f"{name}: {SETTINGS[name]}\n")
        sys.stdout.writelines(f"  coverage  {figure:32}{tally}\n" for figure, tally in coverage.items())
        sys.stdout.writelines(f"  size      {test:32}{tally.size()}\n" for test, tally in size.items())
        sys.stdout.flush()
    return 0
