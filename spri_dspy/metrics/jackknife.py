"""95 % intervals from what becomes of a figure when each cluster is left out: Student's t with the cluster jackknife.

The standard error is the jackknife's, stratum by stratum, and the quantile is Student's with Satterthwaite's degrees
of freedom, so that few clusters make a wide interval. What the figure is decides on which scale it is made (`Scale`);
`python -m benchmarks intervals` measures what the intervals hold. Where they would not hold there is none, and the
note says why: fewer than FEWEST clusters, no spread between clusters, or a figure that hangs on a single cluster.

It knows clusters and numbers, nothing of scores, statistics, files or models.
Sources: Hall 1992, "On the removal of skewness by transformation"; Wilson 1927, with the effective sample size of Korn
and Graubard 1998; Fisher 1915; Satterthwaite 1946.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

Scale = Literal["mean", "share", "correlation", "rank correlation", "difference", "gap"]
"""What a figure is, which decides how its interval is made.

- mean: Hall's transformation corrects Student's t for the skewness of the clusters.
- share: in [0, 1]; Wilson's interval with the effective sample size p (1 - p) / variance.
- correlation: in [-1, 1], at most 1 for equal numbers; the wider of the ends on Fisher's z and on the plain scale,
  there with fewer degrees of freedom if few clusters hold most of the variance: rare numbers decide a correlation.
- rank correlation: Fisher's z; ranks have no far-off numbers.
- difference: of two systems that are alike; Student's t.
- gap: of two things that are not; the wider of Student's ends and Hall's.
"""

FEWEST = 5
"""With fewer clusters no interval is given: nothing shows how skewed they are, and t's quantile explodes."""

FEWEST_OF_GAP = 10
"""The same for how far two agreements lie apart that are not alike: their intervals do not hold for fewer."""

FITTED = 2
"""Degrees of freedom that a correlation takes beside its mean: it fits the means and spreads of two sides."""

MOST_ALIKE, LOPSIDED_BELOW = 0.65, 20
"""A correlation of fewer clusters has no interval if more than this share of one side's numbers are one number."""

LOPSIDED = "no interval: few clusters, and most rows have one and the same number"
"""The reason of it: a few rows decide such a correlation."""

_WEIGHTS = 2_000_000  # how often clusters count, held at a time: 16 MB


class Interval(NamedTuple):
    """The two ends of an interval, nan if there is none, and what to know about it."""

    low: float = math.nan
    high: float = math.nan
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """Clusters that are left out together: each alone, unless there are too many.

    Attributes:
        members: the numbers of the clusters of each block.
        stratum: each block's stratum, 0 and up.
        sizes: clusters of each stratum.
    """

    members: list[Integers]
    stratum: Integers
    sizes: Integers

    @classmethod
    def of(cls, strata: Sequence[Integers], most: int = 1000) -> Blocks:
        """One block a cluster; about `most` blocks, two a stratum at least, where there are more clusters."""
        import numpy as np

        n = sum(map(len, strata))
        members: list[Integers] = []
        stratum: list[int] = []
        for number, clusters in enumerate(strata):
            blocks = len(clusters) if n <= most else min(len(clusters), max(2, most * len(clusters) // n))
            members += [clusters[start::blocks] for start in range(blocks)]
            stratum += [number] * blocks
        sizes = np.array([len(clusters) for clusters in strata], dtype=np.int64)
        return cls(members, np.array(stratum, dtype=np.int64), sizes)

    def counts(self, width: int = 1) -> Iterator[Floats]:
        """How much each cluster counts without each block (blocks x clusters), in chunks.

        Those of the block count 0, the others 1; of several strata the block's keeps its weight by those that remain.

        Args:
            width: numbers that are held for each block, if more than there are clusters.
        """
        import numpy as np

        n = int(self.sizes.sum())
        step = max(1, _WEIGHTS // max(1, n, width))
        homes = [
            np.concatenate([self.members[block] for block in np.flatnonzero(self.stratum == number)])
            for number in range(len(self.sizes))
        ]
        for start in range(0, len(self.members), step):
            part = range(start, min(start + step, len(self.members)))
            counts = np.ones((len(part), n))
            for row, block in zip(counts, part, strict=True):
                home, left = homes[self.stratum[block]], self.members[block]
                if len(homes) > 1:
                    row[home] = len(home) / max(1, len(home) - len(left))
                row[left] = 0.0
            yield counts

    def too_few(self, fewest: int = FEWEST) -> str | None:
        """Why there can be no interval; None if there can.

        Args:
            fewest: clusters that are enough, in one stratum.
        """
        n = int(self.sizes.sum())
        if n < 2:
            return "no interval: a single cluster"
        if n - len(self.sizes) < fewest - 1:
            among = f" in {len(self.sizes)} groups" if len(self.sizes) > 1 else ""
            return f"no interval: {n} clusters{among} are too few"
        return None


class _Moments(NamedTuple):
    """What the jackknife says of a figure: its standard error, its skewness, degrees of freedom."""

    error: float
    skewness: float
    freedom: float


def jackknife_interval(
    value: float, without: Floats, blocks: Blocks, scale: Scale, *, level: float = 0.05
) -> Interval:
    """The interval of a figure.

    Args:
        value: the figure.
        without: the figure without each block, in the order of `blocks`; nan where it has none.
        blocks: what was left out.
        scale: what the figure is.
        level: how often the interval may miss.
    """
    import numpy as np

    few = blocks.too_few(FEWEST_OF_GAP if scale == "gap" else FEWEST)
    if few:
        return Interval(note=few)
    if not np.isfinite(without).all():
        return Interval(note="no interval: the value hangs on a single cluster")
    if scale == "share":
        return _of_share(value, _moments(value, without, blocks), int(blocks.sizes.sum()), level)
    with np.errstate(over="ignore"):
        furthest = float(abs(without - value).max())
    if furthest <= 1e-11 * max(float(abs(without).max()), abs(value)):
        return Interval(note="no interval: no spread between clusters")
    if not furthest < 1e300:
        return Interval(note="no interval: numbers are too large")
    if scale == "mean":
        return hall(value, *_moments(value, without, blocks), level=level)
    if scale in ("difference", "gap"):
        moments = _moments(value, without, blocks)
        plain = _student(value, moments, level)
        bent = hall(value, *moments, level=level) if scale == "gap" else plain
        return Interval(min(plain.low, bent.low), max(plain.high, bent.high))
    most = 1 - 1e-15
    z = [np.arctanh(np.clip(each, -most, most)) for each in (np.array(value), without)]
    ends = _student(float(z[0]), _moments(float(z[0]), z[1], blocks), level, FITTED)
    low, high = math.tanh(ends.low), math.tanh(ends.high)
    if scale == "correlation":
        plain = _student(value, _moments(value, without, blocks, by_tails=True), level, FITTED)
        low, high = min(low, max(-1.0, plain.low)), max(high, min(1.0, plain.high))
    return Interval(min(low, value), max(high, value))


def is_lopsided(n_clusters: int, sides: Iterable[Floats]) -> bool:
    """Whether a few rows decide how far sides agree: few clusters, and nearly all numbers of a side are the same."""
    import numpy as np

    if n_clusters >= LOPSIDED_BELOW:
        return False
    return any(len(x) and np.unique(x, return_counts=True)[1].max() > MOST_ALIKE * len(x) for x in sides)


def hall(value: float, error: float, skewness: float, freedom: float, *, level: float = 0.05) -> Interval:
    """Student's interval, corrected for skewness by Hall's cubic transformation.

    Args:
        value: the figure.
        error: its standard error.
        skewness: of the figure, not of what it is made of.
        freedom: degrees of freedom.
        level: how often the interval may miss.
    """
    t = _quantile(level, freedom)
    a = skewness if abs(skewness) > 1e-6 else 1e-6
    low, high = (3 / a * (math.cbrt(1 + a * (end - a / 6)) - 1) for end in (t, -t))
    # Of a very skewed figure both could lie on one side.
    return Interval(value - error * max(low, 0.0), value - error * min(high, 0.0))


def _quantile(level: float, freedom: float) -> float:
    """Student's t that is exceeded on either side with probability `level`."""
    from scipy.special import stdtrit  # scipy.stats takes ten times as long to import

    return -float(stdtrit(freedom, level / 2))


def _student(value: float, moments: _Moments, level: float, fitted: int = 0) -> Interval:
    half = _quantile(level, max(1.0, moments.freedom - fitted)) * moments.error
    return Interval(value - half, value + half)


def _of_share(share: float, moments: _Moments, n: int, level: float) -> Interval:
    """Wilson's interval; without any variance, of as many as there are clusters."""
    spread = share * (1 - share)
    effective = spread / moments.error**2 if spread > 1e-12 and moments.error**2 > 1e-12 * spread else n
    return wilson(share, effective, _quantile(level, moments.freedom))


def wilson(share: float, n: float, z: float = 1.959963984540054) -> Interval:
    """Wilson's interval of a share out of n: it is not a point at 0 and 1."""
    middle_share = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding may put an end a hair inside the share itself.
    return Interval(min(share, max(0.0, middle_share - half)), max(share, min(1.0, middle_share + half)))


def _moments(value: float, without: Floats, blocks: Blocks, *, by_tails: bool = False) -> _Moments:
    """Standard error, skewness and degrees of freedom from the values without each block.

    Args:
        value: the figure.
        without: without each block.
        blocks: what was left out.
        by_tails: far-off clusters make the variance less certain, so they take degrees of freedom.
    """
    import numpy as np

    stratum, sizes = blocks.stratum, blocks.sizes
    size = np.array([len(members) for members in blocks.members])
    n, parts = sizes[stratum], np.bincount(stratum, minlength=len(sizes))
    moved = (value - without) * (n - size) / n
    moved = moved - size / n * np.bincount(stratum, moved, len(sizes))[stratum]
    unit = float(abs(moved).max()) or 1.0  # powers of very large and small numbers are none
    moved = moved / unit
    free = np.maximum(parts - 1, 1)
    bessel = parts / free
    squares = np.bincount(stratum, moved**2, len(sizes))
    by_stratum = squares * bessel
    variance = float(by_stratum.sum())
    third = float((np.bincount(stratum, moved**3, len(sizes)) * bessel**1.5).sum())
    alike = float((squares**2 / parts).sum())
    excess = max(0.0, float((moved**4).sum()) / alike - 3) if by_tails and alike > 0 else 0.0
    doubt = float((by_stratum**2 * (2 / free + excess / parts)).sum())
    if variance <= 0 or doubt <= 0:
        return _Moments(0.0, 0.0, float(parts.sum() - len(parts)))
    return _Moments(unit * math.sqrt(variance), third / variance**1.5, 2 * variance**2 / doubt)
