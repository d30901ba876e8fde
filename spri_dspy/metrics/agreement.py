"""How well judges agree with people: figures, groups, calibration, order bias, people's own ceiling, comparisons.

    found = agreement([ratings_of_one_judge, ratings_of_another])
    found.judges[0].figures["pearson"]          # an Estimate, with coverage and a cluster interval

Figures of scores: pearson, spearman, kendall (tau-b), pair_accuracy, mae, quadratic_kappa. Of pairs: accuracy (the mean
over both orders, where both were asked), both_orders_agree, first_shown and quadratic_kappa. Correlations do not
care for scales; mae, kappa and alpha compare numbers as they are.

It knows rows of ratings, nothing of files, tasks, models or DSPy. What cannot be computed is nan with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

from spri_dspy.metrics.alt_test import AltTest, alt_test
from spri_dspy.metrics.ceiling import Footing, footings
from spri_dspy.metrics.columns import ScoreColumns, group_of
from spri_dspy.metrics.comparison import Comparison, compare, holm
from spri_dspy.metrics.kappa import quadratic_kappa
from spri_dspy.metrics.krippendorff import InPlace, alpha_in_place, krippendorff_alpha
from spri_dspy.metrics.ranks import kendall, spearman
from spri_dspy.metrics.rated import AgreeSettings, Item, Kind, Ratings
from spri_dspy.metrics.set_level import Statistic, macro, mae, mean, pair_accuracy, pearson, share
from spri_dspy.records import Estimate, Score

OF_SCORES: tuple[Statistic, ...] = (pearson, spearman, kendall, pair_accuracy, mae, quadratic_kappa)
MOST_BINS = 10
"""Bins of a calibration; a judge with no more distinct numbers has one for each."""


class Figure(NamedTuple):
    """A figure: the statistic and the scores that it is of."""

    statistic: Statistic
    scores: Callable[[Ratings], list[Score]]


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows to which the judge gave numbers from low to high.

    Attributes:
        low, high: the judge's least and greatest number here.
        judge: the mean of the judge's numbers.
        people: the mean of people's numbers.
    """

    low: float
    high: float
    judge: float
    people: Estimate


@dataclass(frozen=True)
class JudgeAgreement:
    """How well one judge agrees with people.

    Attributes:
        ratings: its rows.
        figures: by name.
        groups: by group, then by name; empty if there is one group.
        means: the means of the figures over groups; empty if there is one group.
        calibration: from the judge's lowest numbers to its highest.
        alpha: Krippendorff's alpha of people, and with the judge in the place of one.
        footing: by figure, the judge beside people's own ceiling; empty with one annotator.
        alt_test: the Alternative Annotator Test.
    """

    ratings: Ratings
    figures: Mapping[str, Estimate]
    groups: Mapping[str, Mapping[str, Estimate]]
    means: Mapping[str, Estimate]
    calibration: Sequence[Bin]
    alpha: InPlace
    footing: Mapping[str, Footing]
    alt_test: AltTest

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.ratings.name

    def furthest(self, most: int = 10) -> list[Item]:
        """The rows on which judge and people differ most, the largest difference first."""
        scores = [*zip(self.ratings.items, self.ratings.scores(), strict=True)]
        apart = [
            (abs(s.value - s.label), item)
            for item, s in scores
            if s.value is not None and s.label is not None and s.value != s.label
        ]
        return [item for _, item in sorted(apart, key=lambda found: (-found[0], found[1].id))[:most]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows; of these, the ids of those that differ most."""
        return {
            "judge": self.name,
            "rows": len(self.ratings.items),
            "both_orders": self.ratings.both_orders,
            "ties": self.ratings.ties if self.ratings.kind == "pairs" else None,
            "figures": _json(self.figures),
            "groups": {group: _json(figures) for group, figures in self.groups.items()},
            "means": _json(self.means),
            "calibration": [
                {"low": b.low, "high": b.high, "judge": b.judge, "people": b.people.to_json()}
                for b in self.calibration
            ],
            "krippendorff_alpha": _json(self.alpha._asdict()),
            "ceiling": {
                name: {"judge": f.judge.to_json(), "people": f.people.to_json()}
                | {"difference": f.difference.to_json()}
                for name, f in self.footing.items()
            },
            "alt_test": self.alt_test.to_json(),
            "furthest": [item.id for item in self.furthest()],
        }


@dataclass(frozen=True, slots=True)
class PeopleAgreement:
    """How well people agree among themselves, on all rows, whatever the judges rated.

    Attributes:
        annotators: their names.
        alpha: Krippendorff's alpha.
        left_out: by annotator, the figures of that annotator as the judge of the rest; empty with one annotator.
    """

    annotators: Sequence[str]
    alpha: Estimate
    left_out: Mapping[str, Mapping[str, Estimate]]

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        left_out = {name: _json(figures) for name, figures in self.left_out.items()}
        return {
            "annotators": [*self.annotators],
            "krippendorff_alpha": self.alpha.to_json(),
            "left_out": left_out,
        }


@dataclass(frozen=True, slots=True)
class JudgePair:
    """A paired test of two judges on one figure.

    Attributes:
        first, second: the judges' names.
        comparison: first less second, its interval, and p of the permutation test.
        p_holm: corrected for all pairs of judges on this figure.
    """

    first: str
    second: str
    comparison: Comparison
    p_holm: float

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types, but for a nan of `p_holm`."""
        return (
            {"first": self.first, "second": self.second} | self.comparison.to_json() | {"p_holm": self.p_holm}
        )


@dataclass(frozen=True)
class Agreement:
    """How well judges agree with people.

    Attributes:
        kind: scores or pairs.
        people: people among themselves.
        judges: one result a judge, in the order given.
        comparisons: every two judges on the figures that are compared; empty with one judge.
        settings: how intervals and tests were made.
        notes: what has to be known to read the figures.
    """

    kind: Kind
    people: PeopleAgreement
    judges: Sequence[JudgeAgreement]
    comparisons: Sequence[JudgePair]
    settings: AgreeSettings
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """The whole result; numbers that are not finite are None."""
        return {
            "kind": self.kind,
            "people": self.people.to_json(),
            "judges": [judge.to_json() for judge in self.judges],
            "comparisons": [pair.to_json() for pair in self.comparisons],
            "resamples": self.settings.resamples,
            "seed": self.settings.seed,
            "epsilon": self.settings.epsilon,
            "notes": [*self.notes],
        }


def agreement(
    judges: Sequence[Ratings], people: Ratings | None = None, settings: AgreeSettings | None = None
) -> Agreement:
    """Measure how well judges agree with people.

    Args:
        judges: one Ratings a judge; of one kind, with the same annotators, and of pairs all with one `ties`.
        people: rows that hold all that people said; None takes the first judge's.
        settings: of intervals and tests.

    Raises:
        ValueError: there are no ratings at all.
    """
    how = settings or AgreeSettings()
    every = people or next(iter(judges), None)
    if every is None:
        raise ValueError("no ratings: give judges, or people")
    found = [_judge(ratings, how) for ratings in judges]
    return Agreement(every.kind, _people(every, how), found, comparisons(judges, how), how)


def figures_of(ratings: Ratings) -> dict[str, Figure]:
    """The figures that apply to a judge's rows, by name."""
    if ratings.kind == "scores":
        return {statistic.name: Figure(statistic, Ratings.scores) for statistic in OF_SCORES}
    found = {"accuracy": Figure(share, Ratings.right)}
    if ratings.both_orders:
        found |= {
            "both_orders_agree": Figure(share, Ratings.alike),
            "first_shown": Figure(share, Ratings.first_shown),
        }
    return found | {quadratic_kappa.name: Figure(quadratic_kappa, Ratings.scores)}


def compared(ratings: Ratings) -> dict[str, Figure]:
    """The figures on which judges are compared: those that follow from sums and that more of is better, or less."""
    names = (
        ("pearson", "mae", "quadratic_kappa")
        if ratings.kind == "scores"
        else ("accuracy", "both_orders_agree")
    )
    return {name: figure for name, figure in figures_of(ratings).items() if name in names}


def comparisons(judges: Sequence[Ratings], settings: AgreeSettings) -> list[JudgePair]:
    """Every two judges by the paired permutation test, p corrected by Holm's rule for all pairs on a figure."""
    found: list[JudgePair] = []
    shared = set.intersection(*(set(compared(each)) for each in judges)) if judges else set[str]()
    for name in (n for n in compared(judges[0]) if n in shared) if judges else ():
        figure = compared(judges[0])[name]
        scores = [figure.scores(each) for each in judges]
        tests = [
            (judges[a].name, judges[b].name, _compare(name, figure.statistic, scores[a], scores[b], settings))
            for a, b in combinations(range(len(judges)), 2)
        ]
        corrected = holm([test.p for *_, test in tests])
        found += [JudgePair(*test, p_holm=p) for test, p in zip(tests, corrected, strict=True)]
    return found


def _compare(
    name: str, statistic: Statistic, a: Sequence[Score], b: Sequence[Score], settings: AgreeSettings
) -> Comparison:
    labels = {score.id: score.label for score in a}
    differ = next((s.id for s in b if s.id in labels and labels[s.id] != s.label), None)
    if differ is not None:  # rows of one id are of different things, or people were read differently
        a = b = ()
    made = replace(compare(statistic, a, b, **settings.drawn), metric=name)
    return made if differ is None else replace(made, reason=f"people differ, for example on {differ!r}")


def _judge(ratings: Ratings, settings: AgreeSettings) -> JudgeAgreement:
    figures = figures_of(ratings)
    groups = sorted({group_of(score) for score in ratings.scores()})
    apart: dict[str, dict[str, Estimate]] = {}
    means: dict[str, Estimate] = {}
    if len(groups) > 1:
        for group in groups:
            part = replace(ratings, items=tuple(i for i in ratings.items if group_of(_as_score(i)) == group))
            apart[group] = _estimates(part, figures, settings)
        means = {
            name: replace(macro(f.statistic, f.scores(ratings), **settings.drawn), name=f"macro {name}")
            for name, f in figures.items()
        }
    people = [[item.people[place] for item in ratings.items] for place in range(len(ratings.annotators))]
    clusters = [_cluster(item) for item in ratings.items]
    alpha = alpha_in_place(
        people,
        [ratings.value(item) for item in ratings.items],
        level=settings.level_of(ratings.kind),
        clusters=clusters,
        resamples=settings.resamples,
    )
    return JudgeAgreement(
        ratings,
        _estimates(ratings, figures, settings),
        apart,
        means,
        calibration(ratings.scores(), settings),
        alpha,
        footings(ratings, OF_SCORES, settings),
        alt_test(ratings, epsilon=settings.epsilon),
    )


def _estimates(
    ratings: Ratings, figures: Mapping[str, Figure], settings: AgreeSettings
) -> dict[str, Estimate]:
    return {
        name: replace(figure.statistic(figure.scores(ratings), **settings.drawn), name=name)
        for name, figure in figures.items()
    }


def _people(every: Ratings, settings: AgreeSettings) -> PeopleAgreement:
    ratings = [[item.people[place] for item in every.items] for place in range(len(every.annotators))]
    clusters = [_cluster(item) for item in every.items]
    level = settings.level_of(every.kind)
    alpha = krippendorff_alpha(ratings, level=level, clusters=clusters, resamples=settings.resamples)
    left_out: dict[str, dict[str, Estimate]] = {}
    for place in range(len(ratings)) if len(ratings) > 1 else ():
        alone = every.without(place)
        left_out[alone.name] = _estimates(alone, figures_of(alone), settings)
    return PeopleAgreement(every.annotators, alpha, left_out)


def calibration(scores: Sequence[Score], settings: AgreeSettings) -> list[Bin]:
    """People's mean number by the judge's: one bin a distinct number, or ten bins of about as many rows each."""
    import numpy as np

    every = ScoreColumns.of(scores)
    rows = every.take(every.has("label"))
    values = rows.values
    distinct = np.unique(values)
    if not len(distinct):
        return []
    if len(distinct) <= MOST_BINS:
        places = np.searchsorted(distinct, values)
    else:
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, MOST_BINS + 1)[1:-1]))
        places = np.searchsorted(cuts, values, side="right")
    bins: list[Bin] = []
    for place in np.unique(places):
        here = values[places == place]
        part = rows.take(places == place)
        people = part.valued(part.labels)
        estimate = replace(mean(people, **settings.drawn), name="people")
        bins.append(Bin(float(here.min()), float(here.max()), float(here.mean()), estimate))
    return bins


def _as_score(item: Item) -> Score:
    return Score(item.id, item.value, None, item.group, item.cluster)


def _cluster(item: Item) -> str:
    return f"row {item.id}" if item.cluster is None else f"cluster {item.cluster}"


def _json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}
