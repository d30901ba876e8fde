"""Which examples are drawn together, how often, and what interval follows.

Examples of one cluster share their luck: the four answers to one instruction are not four independent
examples. So whole clusters are drawn with replacement, separately in every group (a group keeps its number
of clusters). Statistics of one's own have their intervals from such resamples; of every other figure each cluster is
left out once (`jackknife`).

It knows scores and counts, not statistics: a statistic hands in an Evaluator, which turns "how often was each
cluster drawn" into values. It knows nothing of DSPy, files or models.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spri_dspy.metrics.jackknife import Blocks, Interval, hall
from spri_dspy.records import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

NO_GROUP = "(no group)"
"""The name under which examples without a group are reported."""

_CHUNK = 2_000_000  # resampled weights held at a time: 16 MB

Needs = Literal["value", "label", "pair"]
"""What a row must have to go in: a value, a value and a label, or its example and prediction."""

Evaluator = Callable[["Floats"], "Floats"]
"""Maps how often each cluster was drawn (resamples x clusters) to one value a resample; nan: undefined."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Scores as arrays of one length, sorted by group, cluster and id; built by `collect`.

    Attributes:
        scores: the rows themselves.
        values, labels: their numbers; nan where there is none and none is needed.
        clusters: each row's cluster, 0 to n_clusters - 1.
        groups: each row's group.
        n_clusters: how many clusters there are; a part of the rows (`only`) keeps the whole's number.
        strata: cluster numbers that are resampled among themselves: one array a group. A cluster belongs
            to the first group it occurs in; clusters that are alone in their group share one stratum.
    """

    scores: list[Score]
    values: Floats
    labels: Floats
    clusters: Integers
    groups: list[str]
    n_clusters: int
    strata: list[Integers]

    def only(self, group: str) -> Columns:
        """The rows of one group; clusters keep their numbers."""
        import numpy as np

        rows = np.flatnonzero([g == group for g in self.groups])
        scores, groups = [self.scores[row] for row in rows], [group] * len(rows)
        values, labels, clusters = self.values[rows], self.labels[rows], self.clusters[rows]
        return Columns(scores, values, labels, clusters, groups, self.n_clusters, self.strata)


def is_number(value: float | None) -> bool:
    """True for a finite number; everything else counts as missing."""
    return value is not None and math.isfinite(value)


def group_of(score: Score) -> str:
    """The score's group, or NO_GROUP."""
    return NO_GROUP if score.group is None else score.group


def has(score: Score, needs: Needs) -> bool:
    """Whether a score has what is needed; what is no finite number is missing."""
    if needs == "pair":
        return score.pair is not None
    return is_number(score.value) and (needs == "value" or is_number(score.label))


def collect(scores: Sequence[Score], needs: Needs = "value") -> Columns:
    """Turn the scores that have what is needed into arrays."""
    import numpy as np

    usable = [s for s in scores if has(s, needs)]
    usable.sort(key=_order)
    numbers: dict[tuple[str, str | int], int] = {}
    home: list[str] = []
    clusters: list[int] = []
    for position, score in enumerate(usable):
        own = ("example", position) if score.cluster is None else ("cluster", score.cluster)
        if own not in numbers:
            numbers[own] = len(numbers)
            home.append(group_of(score))
        clusters.append(numbers[own])
    return Columns(
        usable,
        np.array([s.value for s in usable], dtype=np.float64),
        np.array([s.label for s in usable], dtype=np.float64),
        np.array(clusters, dtype=np.int64),
        [group_of(s) for s in usable],
        len(home),
        _strata(home),
    )


def _order(score: Score) -> tuple[Any, ...]:
    """A key that does not depend on the order in which scores come."""
    return group_of(score), score.cluster or "", score.id, score.value or 0.0, score.label or 0.0


def draw_counts(columns: Columns, resamples: int, rng: random.Random | None = None) -> Iterator[Floats]:
    """Yield how often each cluster is drawn (resamples x clusters), in chunks that fit into memory.

    Depends only on `rng` (None means `random.Random(0)`), the strata and the number of rows.
    """
    return draw_clusters(columns.strata, resamples, rng, width=len(columns.groups))


def draw_clusters(
    strata: Sequence[Integers], resamples: int, rng: random.Random | None = None, *, width: int
) -> Iterator[Floats]:
    """The same for clusters that are given by number, those of each stratum drawn among themselves.

    Args:
        strata: every cluster's number once.
        resamples: how many.
        rng: None means `random.Random(0)`.
        width: numbers that are held for each resample; decides the chunks.
    """
    import numpy as np

    generator = np.random.default_rng((rng or random.Random(0)).getrandbits(64))
    size = max(1, _CHUNK // max(1, width))
    for start in range(0, resamples, size):
        counts = np.zeros((min(size, resamples - start), sum(map(len, strata))))
        for stratum in strata:
            even = np.full(len(stratum), 1 / len(stratum))
            counts[:, stratum] = generator.multinomial(len(stratum), even, size=len(counts))
        yield counts


def bootstrap_interval(
    value: float, columns: Columns, evaluator: Evaluator, resamples: int, rng: random.Random | None = None
) -> Interval:
    """The interval of a figure of which nothing is known but its resamples.

    Their variance and skewness go into Student's t with Hall's correction, so that the figure need not be smooth.
    Undefined resamples (a group without examples) are left out: said in the note where they are more than one in
    twenty, and no interval where they are more than half.
    """
    import numpy as np

    few = Blocks.of(columns.strata).too_few()
    if few:
        return Interval(note=few)
    values = np.concatenate([evaluator(c) for c in draw_counts(columns, resamples, rng)])
    defined = values[np.isfinite(values)]
    told = f"{len(defined)} of {len(values)} resamples"
    if not len(defined) or 2 * len(defined) < len(values):
        return Interval(note=f"no interval: a value in only {told}")
    away = defined - defined.mean()
    if float(np.ptp(defined)) <= 1e-11 * float(abs(defined).max()):
        return Interval(note="no interval: every resample gives this value")
    n = sum(map(len, columns.strata))
    free = n - len(columns.strata)
    variance = float((away**2).mean())
    skewness = float((away**3).mean()) / variance**1.5
    low, high, _ = hall(value, math.sqrt(variance * n / free), skewness, free)
    return Interval(low, high, f"interval from {told}" if len(defined) < 0.95 * len(values) else None)


def _strata(home: Sequence[str]) -> list[Integers]:
    """Cluster numbers by group; clusters that are alone in their group come together, last."""
    import numpy as np

    members: dict[str, list[int]] = {}
    for number, group in enumerate(home):
        members.setdefault(group, []).append(number)
    alone = [m[0] for m in members.values() if len(m) == 1]
    strata = [np.array(m, dtype=np.int64) for m in members.values() if len(m) > 1]
    return strata + ([np.array(alone, dtype=np.int64)] if alone else [])
