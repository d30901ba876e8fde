"""How the leak guard finds the earlier texts that match a later one, and what is their own in a family of templates.

1. Candidates of a later text are the earlier ones that share a quarter of the grams of the shorter of the two. Only
   the first `MOST_HOLDERS` holders of a gram are looked up, so phrases that everybody uses cost little.
2. Candidates are compared one to one (`comparing`).
3. Texts that are alike to one earlier text are its family. What they share is a template or the text itself, so each
   gram weighs 1 / (1 + n)^3, n the others of the family that hold it, and a pair must share enough of what then has
   weight. Copies of one text, each edited elsewhere, take weight from all of it alike and still match.

Knows texts by their place. Knows no collections, no ids, no errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from spri_dspy.leaks.comparing import Overlap, Pair, Read, alike, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

OWN_SHARE = 0.35
"""Smallest weighted share of a text's own grams, where others share a template with it."""

CANDIDATE_SHARE = 0.25
"""Share of the shorter text's grams that makes a candidate."""

MOST_HOLDERS = 25
"""Earlier texts that are looked up for one gram."""

MOST_MEMBERS = 64
"""Members of a family that are counted; those that come later are decided by these."""


class _Family:
    """Texts that are alike to one earlier text of `n` distinct grams, and pairs that are not decided yet."""

    def __init__(self, n: int) -> None:
        import numpy as np

        self._n = n
        self._members: dict[str, bytes] = {}
        self._held = np.zeros(n, np.int32)
        self.pending: list[tuple[Pair, Overlap | None]] = []
        self.has_siblings = False

    @property
    def is_full(self) -> bool:
        """Whether it counts no more members."""
        return len(self._members) >= MOST_MEMBERS

    def add(self, overlap: Overlap) -> None:
        """Count a member, unless it is known or there are enough."""
        import numpy as np

        if not self.is_full and overlap.key not in self._members:
            self._members[overlap.key] = np.packbits(overlap.shared).tobytes()
            self._held += overlap.shared

    def is_own(self, overlap: Overlap) -> bool:
        """Whether a text is alike in what is not a template of the family."""
        import numpy as np

        others = self._held
        if mine := self._members.get(overlap.key):
            others = others - np.unpackbits(np.frombuffer(mine, np.uint8), count=self._n)
        weights = (1.0 + others) ** -3
        common = float(weights[overlap.shared].sum())
        return common >= OWN_SHARE * min(float(weights.sum()), common + overlap.n_other)


class Index:
    """Earlier texts, and what is known of their families; later texts are looked up one at a time.

    Args:
        texts: the earlier texts.
        threshold: smallest Dice coefficient of a pair.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        import numpy as np

        self._threshold = threshold
        self._texts = list(texts)
        self._exact: dict[str, list[int]] = {}
        self._keys: list[str] = []
        self._lengths: list[int] = []
        self._families: dict[int, _Family] = {}
        self._read = lru_cache(maxsize=256)(self._read_again)
        distinct: list[NDArray[Any]] = []
        for i, text in enumerate(self._texts):
            known = read(text)
            distinct.append(known.distinct)
            self._keys.append(known.key)
            self._lengths.append(len(known.letters))
            if known.letters:
                self._exact.setdefault(known.letters, []).append(i)
        sizes = np.array([len(d) for d in distinct], np.int64)
        together = np.concatenate([*distinct, np.empty(0, np.uint64)])
        self._known, ids = np.unique(together, return_inverse=True)
        self._ids = np.split(ids.astype(np.int32), np.cumsum(sizes)[:-1]) if distinct else []
        owners = np.repeat(np.arange(len(distinct), dtype=np.int32), sizes)
        order = np.argsort(ids, kind="stable")
        self._holders = owners[order]
        held = np.bincount(ids, minlength=len(self._known))
        self._starts = np.cumsum(held) - held
        self._n_holders = np.minimum(held, MOST_HOLDERS)
        is_listed = np.arange(len(order)) - self._starts[ids[order]] < MOST_HOLDERS
        self._n_listed = np.bincount(self._holders[is_listed], minlength=len(distinct))

    def _read_again(self, i: int) -> Read:
        return read(self._texts[i])

    def look_up(self, later: Read, order: int) -> bool:
        """Compare one later text; whether anything is alike, of which `decided` tells what matches."""
        same = self._exact.get(later.letters, ())
        n_alike = len(same)
        for i in same:
            is_written_so = self._keys[i] == later.key
            how = "the same text" if is_written_so else "the same text in look-alike letters"
            self._family(i).pending.append((Pair("exact", 1.0, how, i, order), None))
        for i in self._candidates(later):
            if i not in same:
                n_alike += self._compare(i, later, order)
        return n_alike > 0

    def decided(self) -> Iterator[Pair]:
        """Pairs that match, of those looked up since the last call, in no order."""
        for i, family in list(self._families.items()):
            if any(overlap for _, overlap in family.pending) and not family.has_siblings:
                self._add_siblings(i, family)
            for pair, overlap in family.pending:
                if overlap is None or family.is_own(overlap):
                    yield pair
            family.pending.clear()

    def _family(self, i: int) -> _Family:
        if i not in self._families:
            self._families[i] = _Family(len(self._ids[i]))
        return self._families[i]

    def _add_siblings(self, i: int, family: _Family) -> None:
        """Earlier texts that are alike to an earlier text tell of templates too."""
        family.has_siblings = True
        known = self._read(i)
        for sibling in self._candidates(known):
            if family.is_full:
                return
            other = self._read(sibling)
            if other.letters != known.letters and (found := alike(known, other, self._threshold)):
                family.add(found.overlap)

    def _candidates(self, later: Read) -> list[int]:
        import numpy as np

        if not len(later.distinct) or not len(self._known):
            return []
        at = np.searchsorted(self._known, later.distinct)
        at[at == len(self._known)] = 0
        hits = at[self._known[at] == later.distinct]
        if not len(hits):
            return []
        counts = self._n_holders[hits]
        ends = np.cumsum(counts)
        places = np.arange(ends[-1]) + np.repeat(self._starts[hits] - ends + counts, counts)
        shared = np.bincount(self._holders[places], minlength=len(self._ids))
        needed = CANDIDATE_SHARE * np.minimum(self._n_listed, len(later.distinct))
        return np.flatnonzero((shared >= needed) & (shared > 0)).tolist()

    def _compare(self, i: int, later: Read, order: int) -> bool:
        """Whether text `i` and a later one are alike; then they wait in the family of `i`."""
        known = self._read(i)
        found = alike(known, later, self._threshold)
        if found is None:
            return False
        family = self._family(i)
        family.add(found.overlap)
        # In a full family the cheap question comes first: most share no more than its template.
        if family.is_full and not family.is_own(found.overlap):
            return False
        if pair := found.match(i, order, self._threshold):
            family.pending.append((pair, found.overlap))
        return pair is not None
