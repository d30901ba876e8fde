"""People's own ceiling: how well an annotator agrees with the others, and the judge with the same others.

A judge is held against the mean of several people, which is steadier than any of them; so a judge may look better than
people are. On an equal footing each annotator is held against the others, and the judge against the same others; both
are means over the annotators, on the rows that the judge and all of them rated.

It knows rows of ratings and statistics; what cannot be computed is nan with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spri_dspy.metrics.bootstrap import collect
from spri_dspy.metrics.columns import is_number
from spri_dspy.metrics.jackknife import LOPSIDED, Blocks, Interval, Scale, is_lopsided, jackknife_interval
from spri_dspy.metrics.rated import AgreeSettings, Item, Ratings
from spri_dspy.metrics.set_level import Statistic, share
from spri_dspy.records import Estimate, Score

if TYPE_CHECKING:
    from spri_dspy.metrics.columns import Floats


@dataclass(frozen=True, slots=True)
class Footing:
    """One figure of the judge and of people, each against the others; see this module.

    Attributes:
        judge: the judge against the annotators without one, the mean over who is left out.
        people: the one left out against the same annotators: the ceiling.
        difference: judge less people.
    """

    judge: Estimate
    people: Estimate
    difference: Estimate


def footings(
    ratings: Ratings, statistics: Sequence[Statistic], settings: AgreeSettings
) -> dict[str, Footing]:
    """The judge and each annotator against the same others, by figure; empty with fewer than two annotators.

    Args:
        ratings: the judge's rows.
        statistics: of scores; pairs have the one figure accuracy, the mean share of the others who say the same.
        settings: of the intervals.
    """
    people = range(len(ratings.annotators))
    if len(people) < 2:
        return {}
    whole = [i for i in ratings.items if i.verdicts(ratings.both_orders) and all(map(is_number, i.people))]
    dropped = len(ratings.items) - len(whole)
    kept = replace(ratings, items=tuple(whole))
    sides = [(_without(kept, place), kept.without(place)) for place in people]
    found: dict[str, Footing] = {}
    if ratings.kind == "pairs":
        votes = [
            ([_voted(judge, i) for i in judge.items], [_voted(person, i) for i in person.items])
            for judge, person in sides
        ]
        found["accuracy"] = _footing("accuracy", share, votes, dropped, settings)
        return found
    scored = [(judge.scores(), person.scores()) for judge, person in sides]
    for statistic in statistics:
        found[statistic.name] = _footing(statistic.name, statistic, scored, dropped, settings)
    return found


def _without(ratings: Ratings, place: int) -> Ratings:
    """The judge's rows without what one annotator said."""
    items = tuple(replace(i, people=i.people[:place] + i.people[place + 1 :]) for i in ratings.items)
    return replace(ratings, items=items)


def _voted(ratings: Ratings, item: Item) -> Score:
    """How far a judge or person says what each of the others said."""
    said = item.verdicts(ratings.both_orders)
    return Score(item.id, ratings.agreement_with(item, item.people, said), None, item.group, item.cluster)


def _footing(
    name: str,
    statistic: Statistic,
    sides: Sequence[tuple[Sequence[Score], Sequence[Score]]],
    dropped: int,
    settings: AgreeSettings,
) -> Footing:
    """The mean of a statistic over who is left out, of the judge and of people."""
    import numpy as np

    n = len(sides[0][0])
    titles = [f"{name}, {of}" for of in ("judge", "people", "difference")]
    alone = [[statistic(side, ci=False) for side in pair] for pair in sides]
    reason = next((e.reason for pair in alone for e in pair if math.isnan(e.value)), None)
    if reason:
        return Footing(*(Estimate(title, math.nan, n, dropped, reason=reason) for title in titles))
    columns = [[collect(side, statistic.needs) for side in pair] for pair in sides]
    prepared = [[statistic.prepare(each, math.nan) for each in pair] for pair in columns]

    def both(counts: Floats) -> Floats:
        return np.array([[evaluate(counts) for evaluate in pair] for pair in prepared]).mean(axis=0)

    points = np.array([[e.value for e in pair] for pair in alone]).mean(axis=0)
    blocks = Blocks.of(columns[0][0].strata, settings.resamples)
    width = len(columns[0][0].rows)
    without = np.concatenate([both(c) for c in blocks.counts(width)], axis=1)
    values = (*points, points[0] - points[1])
    scales: tuple[Scale, ...] = (statistic.scale or "mean", statistic.scale or "mean", "gap")
    ends = [
        jackknife_interval(float(value), each, blocks, scale)
        for value, each, scale in zip(
            values, (*without, (without[0] - without[1]).round(12)), scales, strict=True
        )
    ]
    if scales[0] == "correlation":
        numbers = [side for pair in columns for each in pair for side in (each.values, each.labels)]
        ends = [Interval(note=LOPSIDED)] * 3 if is_lopsided(columns[0][0].n_clusters, numbers) else ends
    return Footing(
        *(
            Estimate(title, float(value), n, dropped, end.low, end.high, end.note)
            for title, value, end in zip(titles, values, ends, strict=True)
        )
    )
