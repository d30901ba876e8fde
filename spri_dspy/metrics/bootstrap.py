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
from typing import TYPE_CHECKING

from spri_dspy.metrics.columns import Needs, ScoreColumns
from spri_dspy.metrics.jackknife import Blocks, Interval, hall
from spri_dspy.records import Score

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats, Integers

_CHUNK = 2_000_000  # resampled weights held at a time: 16 MB

Evaluator = Callable[["Floats"], "Floats"]
"""Maps how often each cluster was drawn (resamples x clusters) to one value a resample; nan: undefined."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The scores that a statistic is of as arrays of one length, sorted by group, cluster and id; built by `collect`.

    Attributes:
        every: the scores that these were taken from.
        rows: which of them, in order.
        values, labels: their numbers; nan where there is none and none is needed.
        clusters: each row's cluster, 0 to n_clusters - 1.
        n_clusters: how many clusters there are; a part of the rows (`only`) keeps the whole's number.
        strata: cluster numbers that are resampled among themselves: one array a group. A cluster belongs
            to the first group it occurs in; clusters that are alone in their group share one stratum.
    """

    every: ScoreColumns
    rows: Integers
    values: Floats
    labels: Floats
    clusters: Integers
    n_clusters: int
    strata: list[Integers]

    @property
    def scores(self) -> ScoreColumns:
        """The scores themselves."""
        return self.every.take(self.rows)

    def only(self, group: str) -> Columns:
        """The rows of one group; clusters keep their numbers."""
        here = self.every.groups[self.rows] == self.every.group_names.index(group)
        parts = self.rows[here], self.values[here], self.labels[here], self.clusters[here]
        return Columns(self.every, *parts, self.n_clusters, self.strata)


def collect(scores: Sequence[Score], needs: Needs = "value") -> Columns:
    """Turn the scores that have what is needed into arrays."""
    import numpy as np

    every = ScoreColumns.of(scores)
    rows = every.order[every.has(needs)[every.order]]
    names, places = every.clusters[rows], np.arange(len(rows))
    shared = names >= 0
    first = np.empty(len(every.cluster_names), dtype=np.int64)
    first[names[shared][::-1]] = places[shared][::-1]  # of a name's rows, the first
    begins = places.copy()
    begins[shared] = first[names[shared]]
    is_first = begins == places
    clusters = (np.cumsum(is_first) - 1)[begins]
    homes = every.groups[rows][is_first]
    return Columns(
        *(every, rows, every.values[rows], every.labels[rows], clusters, len(homes)), _strata(homes)
    )


def draw_counts(columns: Columns, resamples: int, rng: random.Random | None = None) -> Iterator[Floats]:
    """Yield how often each cluster is drawn (resamples x clusters), in chunks that fit into memory.

    Depends only on `rng` (None means `random.Random(0)`), the strata and the number of rows.
    """
    return draw_clusters(columns.strata, resamples, rng, width=len(columns.rows))


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


def _strata(homes: Integers) -> list[Integers]:
    """Cluster numbers by group, from the group of each; clusters that are alone in their group come last, together."""
    import numpy as np

    members = np.split(np.arange(len(homes)), np.flatnonzero(np.diff(homes)) + 1)
    alone = [m[0] for m in members if len(m) == 1]
    strata = [m for m in members if len(m) > 1]
    return strata + ([np.array(alone, dtype=np.int64)] if alone else [])
