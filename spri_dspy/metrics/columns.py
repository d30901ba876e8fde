"""Scores in columns: a sequence of Scores that holds numbers in arrays, and makes a Score when one is asked for.

    scores = ScoreColumns.packed(rows)      # any iterable of Scores, read once; about 50 bytes each
    scores = ScoreColumns.of(scores)        # a view of a list, whose Scores stay as they are

Every statistic works on columns, so that a million judgements need no million objects. It knows scores, and nothing of
statistics, files or models.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from spri_dspy.records import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

NO_GROUP = "(no group)"
"""The name under which examples without a group are reported."""

Needs = Literal["value", "label", "pair"]
"""What a row must have to go in: a value, a value and a label, or its example and prediction."""

_ROWS_AT_A_TIME = 4096


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


@dataclass(frozen=True, eq=False)
class ScoreColumns(Sequence[Score]):
    """Scores as arrays of one length, in the order in which they came.

    Attributes:
        ids: texts.
        values, labels: numbers; nan where there is none.
        groups: each score's place in `group_names`, which are sorted; those without a group are in NO_GROUP.
        clusters: each score's place in `cluster_names`, which are sorted; -1 for a cluster of its own.
        given: the Scores themselves, if they were there before.
    """

    ids: NDArray[Any]
    values: Floats
    labels: Floats
    groups: Integers
    clusters: Integers
    group_names: Sequence[str]
    cluster_names: Sequence[str]
    given: Sequence[Score] | None = None

    @classmethod
    def of(cls, scores: Sequence[Score]) -> ScoreColumns:
        """Scores in columns, which keep the Scores; columns are returned as they are."""
        import numpy as np

        if isinstance(scores, ScoreColumns):
            return scores
        groups, clusters = _Names(), _Names()
        for score in scores:
            groups.add(group_of(score))
            clusters.add(score.cluster)
        return cls(
            np.array([s.id for s in scores], dtype=object),
            np.array([s.value for s in scores], dtype=np.float64),
            np.array([s.label for s in scores], dtype=np.float64),
            *(groups.coded(), clusters.coded(), sorted(groups.known), sorted(clusters.known)),
            given=scores,
        )

    @classmethod
    def packed(cls, scores: Iterable[Score]) -> ScoreColumns:
        """Scores in columns alone; their `pair` is not kept, and NO_GROUP is no group."""
        import numpy as np

        ids, groups, clusters = Texts(), _Names(), _Names()
        values, labels = array("d"), array("d")
        for score in scores:
            ids.add(score.id)
            values.append(math.nan if score.value is None else score.value)
            labels.append(math.nan if score.label is None else score.label)
            groups.add(group_of(score))
            clusters.add(score.cluster)
        return cls(
            *(ids.array(), np.frombuffer(values), np.frombuffer(labels)),
            *(groups.coded(), clusters.coded(), sorted(groups.known), sorted(clusters.known)),
        )

    def valued(self, values: Floats) -> ScoreColumns:
        """The same examples with other values, nan where there is none."""
        return replace(self, values=values, given=None)

    def take(self, rows: Integers | Flags) -> ScoreColumns:
        """The scores of these rows, or those that are flagged."""
        import numpy as np

        numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        given = None if self.given is None else [self.given[row] for row in numbers.tolist()]
        return replace(
            self,
            ids=self.ids[rows],
            values=self.values[rows],
            labels=self.labels[rows],
            groups=self.groups[rows],
            clusters=self.clusters[rows],
            given=given,
        )

    def of_groups(self, names: Collection[str]) -> ScoreColumns:
        """The scores of these groups."""
        import numpy as np

        return self.take(np.array([name in names for name in self.group_names], dtype=np.bool_)[self.groups])

    def by_group(self) -> Iterator[tuple[str, ScoreColumns]]:
        """The scores of each group that has some, in the order of their names."""
        for number, name in enumerate(self.group_names):
            rows = self.groups == number
            if rows.any():
                yield name, self.take(rows)

    def has(self, needs: Needs) -> Flags:
        """Which scores have what is needed."""
        import numpy as np

        if needs == "pair":
            return np.array([has(score, needs) for score in self], dtype=np.bool_)
        found = np.isfinite(self.values)
        return found if needs == "value" else found & np.isfinite(self.labels)

    @cached_property
    def order(self) -> Integers:
        """The rows by group, cluster and id, then by their numbers, so that nothing depends on how scores come."""
        import numpy as np

        numbers = (np.where(np.isnan(side), 0.0, side) for side in (self.labels, self.values))
        order = np.lexsort(tuple(numbers))
        order = order[np.argsort(self.ids[order], kind="stable")]
        # Those without a cluster stand where a cluster without a name would.
        clusters = self.clusters if self.cluster_names[:1] != [""] else np.maximum(self.clusters, 0)
        return order[np.lexsort((clusters[order], self.groups[order]))]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Score: ...
    @overload
    def __getitem__(self, index: slice) -> ScoreColumns: ...
    def __getitem__(self, index: int | slice) -> Score | ScoreColumns:
        import numpy as np

        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if self.given is not None:
            return self.given[index]
        group, cluster = self.group_names[int(self.groups[index])], int(self.clusters[index])
        value, label = float(self.values[index]), float(self.labels[index])
        return Score(
            str(self.ids[index]),
            None if math.isnan(value) else value,
            None if math.isnan(label) else label,
            None if group == NO_GROUP else group,
            None if cluster < 0 else self.cluster_names[cluster],
        )

    def __iter__(self) -> Iterator[Score]:
        return iter(self.given) if self.given is not None else map(self.__getitem__, range(len(self)))


class Texts:
    """Texts that come one by one, in 16 bytes each if they are short."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._last: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self._last.append(text)
        if len(self._last) == _ROWS_AT_A_TIME:
            self._pack()

    def _pack(self) -> None:
        import numpy as np

        try:
            part = np.array(self._last, dtype=np.dtypes.StringDType())
        except UnicodeEncodeError:  # half a surrogate pair
            part = np.array(self._last, dtype=object)
        self._parts.append(part)
        self._last = []

    def array(self) -> NDArray[Any]:
        """All of them."""
        import numpy as np

        self._pack()
        return np.concatenate(self._parts)


class _Names:
    """Texts that come again and again, as numbers.

    Attributes:
        known: each text's number, in the order in which they came.
    """

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self._numbers = array("q")

    def add(self, name: str | None) -> None:
        """One more; None has no number of its own."""
        self._numbers.append(-1 if name is None else self.known.setdefault(name, len(self.known)))

    def coded(self) -> Integers:
        """The place of each among the sorted names, -1 for None."""
        import numpy as np

        places = np.empty(len(self.known) + 1, dtype=np.int64)
        places[-1] = -1
        for place, name in enumerate(sorted(self.known)):
            places[self.known[name]] = place
        return places[np.frombuffer(self._numbers, dtype=np.int64)]
