"""Any function of Scores as a metric: its interval, and the comparison of two systems by it.

Whole clusters are resampled within groups, by calling the function on every resample, so it is slow beside the metrics
that `scoring` knows; those are done there. It knows Scores and functions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from spri_dspy.metrics.bootstrap import group_of, middle
from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate, Score

_RESAMPLES = 300

Measure = Callable[[Sequence[Score]], float]


def with_interval(
    name: str,
    measure: Measure,
    scores: Sequence[Score],
    rng: random.Random | None,
) -> Estimate:
    """An arbitrary function with an interval from resampled clusters, group by group."""
    import numpy as np

    n = sum(s.value is not None for s in scores)
    value = measure(scores)
    if not math.isfinite(value):
        return Estimate(name, math.nan, n, len(scores) - n, reason="the function gives no number")
    drawn = [measure([scores[i] for i in rows]) for rows in _resampled(scores, rng)]
    interval = middle(np.array(drawn, dtype=float))
    return Estimate(name, value, n, len(scores) - n, interval.low, interval.high, interval.note)


def compared(
    name: str,
    measure: Measure,
    a: Sequence[Score],
    b: Sequence[Score],
    rng: random.Random | None,
) -> Comparison:
    """The difference of an arbitrary function between two systems, with the same draws for both."""
    import numpy as np

    first, second = paired_scores(a, b)
    test, dropped = (
        f"paired bootstrap, {_RESAMPLES} resamples",
        len({s.id for s in (*a, *b)}) - len(first),
    )
    difference = measure(first) - measure(second) if first else math.nan
    if not math.isfinite(difference):
        nothing = (math.nan, math.nan, math.nan)
        return Comparison(name, math.nan, *nothing, len(first), test, dropped, "the function gives no number")
    drawn = np.array(
        [
            measure([first[i] for i in rows]) - measure([second[i] for i in rows])
            for rows in _resampled(first, rng)
        ]
    ).round(12)
    interval, defined = middle(drawn), drawn[np.isfinite(drawn)]
    smaller = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    p = min(1.0, 2 * (smaller + 1) / (len(defined) + 1)) if 2 * len(defined) >= len(drawn) else math.nan
    return Comparison(
        name, difference, interval.low, interval.high, p, len(first), test, dropped, interval.note
    )


def paired_scores(a: Sequence[Score], b: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """The scores of the examples that both have a value for, in the order of `a`."""
    other = {s.id: s for s in b if s.value is not None}
    first = [s for s in a if s.value is not None and s.id in other]
    return first, [other[s.id] for s in first]


def _resampled(scores: Sequence[Score], rng: random.Random | None) -> list[list[int]]:
    """Positions of resamples: whole clusters, drawn with replacement within the group of their first example."""
    rng = rng or random.Random(0)
    clusters: dict[str, list[int]] = {}
    for i, s in enumerate(scores):
        clusters.setdefault(f"cluster {s.cluster}" if s.cluster is not None else f"example {i}", []).append(i)
    strata: dict[str, list[list[int]]] = {}
    for rows in clusters.values():
        strata.setdefault(group_of(scores[rows[0]]), []).append(rows)
    return [
        [i for members in strata.values() for rows in rng.choices(members, k=len(members)) for i in rows]
        for _ in range(_RESAMPLES)
    ]
