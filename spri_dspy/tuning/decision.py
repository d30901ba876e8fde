"""Whether a tuned program replaces the start: decided on fresh rows, once.

A search looks at many candidates and takes the luckiest, so its own scores prove nothing. The rule here:

1. The rows of the decision were never seen by the search, and exactly one candidate comes to them.
2. It replaces the start only if its metric is higher there AND the difference is significant: two-sided p at most
   `level` in a swap test, so that in a world without effect it happens in `level` / 2 of all searches at most.
3. It must not fail more often: results for at most 5 points fewer of the examples than the start.

The swap test is the permutation test for pairs: if candidate and start are alike, each cluster's results might as well
have come the other way round. It makes no assumption about distributions and holds for few rows, where a bootstrap is
too sure of itself. For a correlation both sides are standardised in each group first: a correlation does not care for
scale. "No improvement" is a normal outcome. What it cannot do: tell a small improvement on few rows from luck.

It knows metrics and Scores; how the candidate was found is of no interest here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spri_dspy.metrics.bootstrap import group_of
from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate, Score
from spri_dspy.tuning._functions import paired_scores

if TYPE_CHECKING:
    from spri_dspy.metrics.bootstrap import Floats
    from spri_dspy.tuning.metrics import Metric

FEWEST_CLUSTERS = 6
"""With fewer clusters no swap test can reach p = 0.05: 2 of 2**5 swaps are as extreme as the observed one."""

COVERAGE_LOSS = 0.05
"""By how much the share of examples with a result may fall."""

_DRAWS, _DRAWS_OF_FUNCTION, _CHUNK = 4000, 1000, 500


@dataclass(frozen=True)
class Decision:
    """Whether the candidate replaces the start, and why.

    Attributes:
        improved: True if it does.
        reason: in a sentence.
        start, candidate: the metric of each on the rows of the decision.
        difference: candidate less start; p is the swap test's, the interval a paired bootstrap's.
    """

    improved: bool
    reason: str
    start: Estimate | None = None
    candidate: Estimate | None = None
    difference: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        parts = {"start": self.start, "candidate": self.candidate, "difference": self.difference}
        return {"improved": self.improved, "reason": self.reason} | {
            name: part.to_json() if part else None for name, part in parts.items()
        }


def decide(
    metric: Metric, candidate: Sequence[Score], start: Sequence[Score], *, level: float, rng: random.Random
) -> Decision:
    """Decide between the start and one candidate, on rows that the search has not seen.

    Args:
        metric: what counts.
        candidate: its scores.
        start: the start's scores on the same examples.
        level: two-sided p that must not be exceeded.
        rng: decides the swaps and the resamples.
    """
    difference = metric.compare(candidate, start, rng=rng)
    first, second = paired_scores(candidate, start)
    gain = metric.measure(first) - metric.measure(second) if first else math.nan
    p = swap_test(metric, candidate, start, rng=rng)
    difference = replace(difference, p=p, test=f"swap test of clusters; interval: {difference.test}")
    reason = _against(gain, p, level, candidate, start)
    said = reason or f"better on rows that the search had not seen (by {gain:.3g}, p = {p:.2g})"
    return Decision(
        reason is None, said, metric.value(start, rng=rng), metric.value(candidate, rng=rng), difference
    )


def _against(
    gain: float, p: float, level: float, candidate: Sequence[Score], start: Sequence[Score]
) -> str | None:
    """What speaks against the candidate, None if nothing does."""
    if math.isnan(gain) or math.isnan(p):
        return "start and candidate cannot be compared on rows that the search had not seen"
    if gain <= 0:
        return f"not better on rows that the search had not seen (by {gain:.3g})"
    if p > level:
        return f"not significantly better on rows that the search had not seen (by {gain:.3g}, p = {p:.2g})"
    with_result = [sum(s.value is not None for s in side) / len(side) for side in (candidate, start)]
    if with_result[0] < with_result[1] - COVERAGE_LOSS:
        return (
            f"it gives a result for {with_result[0]:.0%} of the examples, the start for {with_result[1]:.0%}"
        )
    return None


def swap_test(
    metric: Metric,
    a: Sequence[Score],
    b: Sequence[Score],
    *,
    rng: random.Random,
    draws: int | None = None,
) -> float:
    """Two-sided p of the difference of a metric between two systems under random swaps of whole clusters.

    Never below 1 / (draws + 1); nan where nothing can be compared. Depends on the scores' order only through `rng`.

    Args:
        metric: a macro Pearson and a mean are computed from sums, a function by calling it for every swap.
        a: one system's scores; groups, clusters and labels are taken from here.
        b: the other's, paired by id.
        rng: decides the swaps.
        draws: how many; None: 4000, or 1000 for a function.
    """
    import numpy as np

    first, second = paired_scores(a, b)
    if not first:
        return math.nan
    generator = np.random.default_rng(rng.getrandbits(64))
    names = [f"cluster {s.cluster}" if s.cluster is not None else f"example {s.id}" for s in first]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    cluster = np.array([numbers[name] for name in names])
    if metric.function is not None:
        return _swap_function(metric, first, second, cluster, draws or _DRAWS_OF_FUNCTION, generator)
    sums = _pearson_sums if metric.kind == "pearson" else _mean_sums
    constant, swapped = sums(first, second, cluster)
    if not constant.shape[0]:
        return math.nan
    draws = draws or _DRAWS
    observed = float(_difference(constant, swapped.sum(axis=0)[None])[0])
    extreme = 0
    for begin in range(0, draws, _CHUNK):
        signs = generator.choice((-1.0, 1.0), size=(min(_CHUNK, draws - begin), len(numbers)))
        drawn = _difference(constant, np.tensordot(signs, swapped, 1))
        extreme += int((np.abs(drawn) >= abs(observed) - 1e-12).sum())
    return (1 + extreme) / (1 + draws)


def _pearson_sums(first: list[Score], second: list[Score], cluster: Any) -> tuple[Floats, Floats]:
    """Sums from which r of both sides follows after any swap.

    With m the mean of both standardised scores and d half their difference, a swap turns m + d into m - d. Returns what
    no swap changes (groups x [n, sum m, sum mm + dd, sum my]) and what changes sign with its cluster (clusters x
    groups x [sum d, 2 sum md, sum dy]). Groups whose labels are all alike are left out.
    """
    import numpy as np

    names = [group_of(s) for s in first]
    label = np.array([math.nan if s.label is None else s.label for s in first], dtype=float)
    x, z = (np.array([s.value for s in side], dtype=float) for side in (first, second))
    kept: list[tuple[Floats, Floats]] = []
    n_clusters = int(cluster.max()) + 1
    for name in dict.fromkeys(names):
        at = np.array([g == name for g in names]) & np.isfinite(label)
        if not at.any() or np.ptp(label[at]) <= 1e-12 * abs(label[at]).max():
            continue
        one, two, y = (_standard(side[at]) for side in (x, z, label))
        m, d = (one + two) / 2, (one - two) / 2
        fixed = np.array([len(y), m.sum(), (m * m + d * d).sum(), (m * y).sum()])
        moving = np.zeros((n_clusters, 3))
        np.add.at(moving, cluster[at], np.stack([d, 2 * m * d, d * y], axis=1))
        kept.append((fixed, moving))
    if not kept:
        return np.zeros((0, 4)), np.zeros((n_clusters, 0, 3))
    return np.stack([fixed for fixed, _ in kept]), np.stack([moving for _, moving in kept], axis=1)


def _mean_sums(first: list[Score], second: list[Score], cluster: Any) -> tuple[Floats, Floats]:
    """The same for a mean: only the differences matter."""
    import numpy as np

    d = np.array([(one.value or 0.0) - (two.value or 0.0) for one, two in zip(first, second, strict=True)])
    moving = np.zeros((int(cluster.max()) + 1, 1, 1))
    np.add.at(moving[:, 0, 0], cluster, d / len(d))
    return np.zeros((1, 1)), moving


def _difference(constant: Floats, moved: Floats) -> Floats:
    """The metric of the first side less the second's, from sums (draws x groups x sums)."""
    import numpy as np

    if moved.shape[-1] == 1:
        return moved[:, 0, 0]
    n = constant[:, 0]
    sides: list[Floats] = []
    for sign in (1.0, -1.0):
        mean = (constant[:, 1] + sign * moved[..., 0]) / n
        variance = (constant[:, 2] + sign * moved[..., 1]) / n - mean**2
        covariance = (
            constant[:, 3] + sign * moved[..., 2]
        ) / n  # labels are standardised: mean 0, variance 1
        usable = variance > 1e-12
        sides.append(np.where(usable, covariance / np.sqrt(np.where(usable, variance, 1.0)), 0.0))
    return (sides[0] - sides[1]).mean(axis=-1)


def _standard(side: Floats) -> Floats:
    """Mean 0 and variance 1; all 0 if constant."""
    centred = side - side.mean()
    spread = float(centred.std())
    return centred / spread if spread > 1e-12 * float(abs(side).max() or 1.0) else centred * 0.0


def _swap_function(
    metric: Metric, first: list[Score], second: list[Score], cluster: Any, draws: int, generator: Any
) -> float:
    """The swap test of an arbitrary function, by calling it twice a draw."""
    observed = metric.measure(first) - metric.measure(second)
    if not math.isfinite(observed):
        return math.nan
    extreme = 0
    for _ in range(draws):
        stays = (generator.random(int(cluster.max()) + 1) < 0.5)[cluster]
        sides = [(x, y) if stay else (y, x) for x, y, stay in zip(first, second, stays, strict=True)]
        drawn = metric.measure([x for x, _ in sides]) - metric.measure([y for _, y in sides])
        extreme += not math.isfinite(drawn) or abs(drawn) >= abs(observed) - 1e-12
    return (1 + extreme) / (1 + draws)
