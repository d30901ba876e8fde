"""What people and a judge said of the same things: the rows that agreement is measured on.

Two kinds. Scores: everybody gives a number. Pairs: everybody says which of two responses is better: FIRST, SECOND or
TIE; a judge may be asked twice, with the two responses in either order. What nobody said is None and stays None.

It knows rows and people's common label, and computes no statistic; `agreement` does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from spri_dspy.metrics.columns import is_number
from spri_dspy.metrics.krippendorff import Level
from spri_dspy.records import Score

Kind = Literal["scores", "pairs"]
"""Whether numbers were given, or one of two responses was preferred."""

Ties = Literal["half", "wrong"]
"""What a judge's tie counts where people prefer one response."""


@dataclass(frozen=True, slots=True)
class AgreeSettings:
    """How intervals and tests are made.

    Attributes:
        resamples: how often a figure is computed anew at most for its interval; see `set_level.Statistic`.
        seed: of each permutation test.
        epsilon: the Alt-Test's.
        level: of Krippendorff's alpha; None: ordinal for scores, nominal for pairs.
    """

    resamples: int = 1000
    seed: int = 0
    epsilon: float = 0.2
    level: Level | None = None

    @property
    def drawn(self) -> dict[str, Any]:
        """What a Statistic takes; a fresh generator each time, so that every number stands alone."""
        return {"resamples": self.resamples, "rng": random.Random(self.seed)}

    def level_of(self, kind: Kind) -> Level:
        """The level of alpha."""
        return self.level or ("nominal" if kind == "pairs" else "ordinal")


FIRST, TIE, SECOND = 1.0, 0.0, -1.0
"""Verdicts on a pair, as numbers whose order is the order of preference."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was rated.

    Attributes:
        id: unique among the rows of one judge; judges are compared on rows of the same id.
        value: the judge's number or verdict.
        people: one number or verdict an annotator.
        group: for figures by group.
        cluster: rows of one cluster are resampled together; None stands alone.
        swapped: the verdict on the pair shown in the other order, already mapped back; of scores None.
    """

    id: str
    value: float | None
    people: tuple[float | None, ...]
    group: str | None = None
    cluster: str | None = None
    swapped: float | None = None

    def verdicts(self, both: bool) -> tuple[float, ...]:
        """What the judge said, in one order or in both; empty unless all of it is there."""
        said = (self.value, self.swapped) if both else (self.value,)
        given = tuple(each for each in said if each is not None and is_number(each))
        return given if len(given) == len(said) else ()


@dataclass(frozen=True)
class Ratings:
    """The rows of one judge.

    Attributes:
        name: the judge's.
        items: its rows.
        annotators: names of the people, in the order of `Item.people`.
        kind: scores or pairs.
        both_orders: pairs were shown in both orders; a row counts only where both were answered.
        ties: see Ties.
    """

    name: str
    items: tuple[Item, ...]
    annotators: tuple[str, ...]
    kind: Kind = "scores"
    both_orders: bool = False
    ties: Ties = "half"

    def label(self, item: Item) -> float | None:
        """What people say together: the mean of scores; of votes the most frequent one, None if two are."""
        given = [each for each in item.people if is_number(each)]
        numbers = [each for each in given if each is not None]
        if not numbers:
            return None
        if self.kind == "scores":
            return fmean(numbers)
        ranked = Counter(numbers).most_common(2)
        return None if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]

    def value(self, item: Item) -> float | None:
        """The judge's number or verdict; TIE where it changed its mind with the order."""
        said = item.verdicts(self.both_orders)
        if not said:
            return None
        return said[0] if len(set(said)) == 1 else TIE

    def scores(self) -> list[Score]:
        """Every row as a Score: the judge's value against people's label."""
        return [self._score(i, self.value(i), self.label(i)) for i in self.items]

    def right(self) -> list[Score]:
        """Of pairs: how far each verdict is people's, in [0, 1], the mean over the orders it was asked in."""
        return [self._score(item, self._right(item), self.label(item)) for item in self.items]

    def alike(self) -> list[Score]:
        """Of pairs judged in both orders: 1 where both verdicts are the same, else 0."""
        orders = [(item, item.verdicts(True)) for item in self.items]
        return [self._score(i, float(v[0] == v[1]) if v else None, None) for i, v in orders]

    def first_shown(self) -> list[Score]:
        """Of pairs judged in both orders: the share of verdicts for what was shown first; a tie counts half."""
        orders = [(item, item.verdicts(True)) for item in self.items]
        return [self._score(i, (2 + v[0] - v[1]) / 4 if v else None, None) for i, v in orders]

    def credit(self, verdict: float, label: float) -> float:
        """What one verdict on a pair is worth: 1 if it is the label, else 0; a tie as `ties` has it."""
        if verdict == label:
            return 1.0
        return 0.5 if verdict == TIE and self.ties == "half" else 0.0

    def agreement_with(self, item: Item, others: Sequence[float | None], verdicts: Sequence[float]) -> float:
        """Of pairs: the mean credit of verdicts by the votes of others; nan without either."""
        votes = [vote for vote in others if vote is not None]
        credits = [self.credit(verdict, vote) for verdict in verdicts for vote in votes]
        return fmean(credits) if credits else float("nan")

    def without(self, annotator: int) -> Ratings:
        """The same rows with one annotator as the judge and the rest as the people."""
        items = tuple(
            replace(
                item,
                value=item.people[annotator],
                people=item.people[:annotator] + item.people[annotator + 1 :],
                swapped=None,
            )
            for item in self.items
        )
        names = self.annotators[:annotator] + self.annotators[annotator + 1 :]
        return replace(
            self, name=self.annotators[annotator], items=items, annotators=names, both_orders=False
        )

    def _right(self, item: Item) -> float | None:
        label, said = self.label(item), item.verdicts(self.both_orders)
        return fmean(self.credit(verdict, label) for verdict in said) if said and label is not None else None

    def _score(self, item: Item, value: float | None, label: float | None) -> Score:
        return Score(item.id, value, label, item.group, item.cluster)
