"""How the leak guard finds the earlier texts that match a later one, and what is their own in a family of templates.

1. Candidates of a later text are the earlier ones that share a quarter of the grams of the shorter of the two. Of
   longer texts one gram in `SAMPLE` is looked up, chosen by its hash, so the same on both sides. A gram that more
   than `MOST_HOLDERS` earlier texts hold is looked up only for a text that has little else, and then for the first of
   them: so phrases that everybody uses, and preambles, cost little.
2. Candidates are compared one to one (`comparing`).
3. Texts that are alike to one earlier text are its family. What they share is a template or the text itself, so each
   gram weighs 1 / (1 + n)^3, n the others of the family that hold it, and a pair must share enough of what then has
   weight. Copies of one text, each edited elsewhere, take weight from all of it alike and still match.

Knows texts by their place. Knows no collections, no ids, no errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from spri_dspy.leaks.comparing import SHORT, Overlap, Pair, alike
from spri_dspy.leaks.reading import Read, distinct, is_in, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

OWN_SHARE = 0.35
"""Smallest weighted share of a text's own grams, where others share a template with it."""

CANDIDATE_SHARE = 0.25
"""Share of the shorter text's grams that makes a candidate."""

QUOTED_SHARE = 0.6
"""The same where only a quotation of a short text is looked for, by a sample of its grams."""

MOST_HOLDERS = 25
"""Earlier texts that are looked up for one gram."""

LITTLE = 0.1
"""Share of a text's grams; texts with fewer that `MOST_HOLDERS` or fewer hold are looked up by the others, too."""

SAMPLE = 4
"""One gram in this many is looked up of a text."""

SAMPLED = 2**64 // SAMPLE
"""Hashes below are those."""

FEW = 400
"""Grams up to which a text is also looked up by all of them, for a sample of few is of chance."""

MOST_MEMBERS = 64
"""Members of a family that are counted; those that come later are decided by these."""


class _Family:
    """Texts that are alike to one earlier text, of these distinct grams, and pairs that are not decided yet."""

    def __init__(self, grams: NDArray[Any]) -> None:
        import numpy as np

        self._grams, self._n = grams, len(grams)
        self._members: dict[str, bytes] = {}
        self._held = np.zeros(self._n, np.int32)
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

    def is_far(self, sample: NDArray[Any]) -> bool:
        """Whether the sampled grams of a text leave no hope that `is_own`, half of what that asks for being enough."""
        is_shared = is_in(self._sample, sample)
        common = float(self._sample_weights[is_shared].sum())
        n_other = len(sample) - int(is_shared.sum())
        return common < OWN_SHARE / 2 * min(float(self._sample_weights.sum()), common + n_other)

    @cached_property
    def _sample(self) -> NDArray[Any]:
        return self._grams[: int(self._grams.searchsorted(SAMPLED))]

    @cached_property
    def _sample_weights(self) -> NDArray[Any]:
        """Weights of a full family's sample."""
        return (1.0 + self._held[: len(self._sample)]) ** -3

    def is_own(self, overlap: Overlap) -> bool:
        """Whether a text is alike in what is not a template of the family."""
        import numpy as np

        others = self._held
        if mine := self._members.get(overlap.key):
            others = others - np.unpackbits(np.frombuffer(mine, np.uint8), count=self._n)
        weights = (1.0 + others) ** -3
        common = float(weights[overlap.shared].sum())
        return common >= OWN_SHARE * min(float(weights.sum()), common + overlap.n_other)


class _Postings:
    """Which texts hold a gram.

    Args:
        grams: those of each text, sorted and each once.
        shares: smallest share of a text's grams that makes it a candidate, one a text.
    """

    def __init__(self, grams: Sequence[NDArray[Any]], shares: Sequence[float]) -> None:
        import numpy as np

        self._shares = np.array(shares, float)
        sizes = np.array([len(g) for g in grams], np.int64)
        together = np.concatenate([*grams, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(grams), dtype=np.int32), sizes)
        self._known, ids, held = np.unique(together, return_inverse=True, return_counts=True)
        is_rare = held[ids] <= MOST_HOLDERS
        n_rare = np.bincount(owners[is_rare], minlength=len(grams))
        has_little_else = n_rare < LITTLE * sizes
        order = np.argsort(ids, kind="stable")
        place = np.empty(len(order), np.int64)  # among the holders of its gram
        place[order] = np.arange(len(order)) - (np.cumsum(held) - held)[ids[order]]
        is_listed = is_rare | (has_little_else[owners] & (place < MOST_HOLDERS))
        listed = order[is_listed[order]]
        self._holders = owners[listed]
        self._counts = np.bincount(ids[listed], minlength=len(self._known))
        self._starts = np.cumsum(self._counts) - self._counts
        self._n_listed = np.bincount(self._holders, minlength=len(grams))

    def candidates(self, grams: NDArray[Any], share: float) -> set[int]:
        """Texts that share enough of the grams of the text that has fewer: at least `share` or what they ask for."""
        import numpy as np

        if not len(grams) or not len(self._known):
            return set()
        at = self._known.searchsorted(grams)
        at[at == len(self._known)] = 0
        hits = at[self._known[at] == grams]
        counts = self._counts[hits]
        n_common = int((counts == 0).sum())
        ends = counts.cumsum()
        if not len(hits) or not ends[-1]:
            return set()
        places = np.arange(ends[-1]) + np.repeat(self._starts[hits] - ends + counts, counts)
        shared = np.bincount(self._holders[places], minlength=len(self._n_listed))
        needed = np.maximum(share, self._shares) * np.minimum(self._n_listed, len(grams) - n_common)
        return set(np.flatnonzero((shared >= needed) & (shared > 0)).tolist())


def _sampled_share(text: Read) -> float:
    return QUOTED_SHARE if len(text.letters) <= SHORT else CANDIDATE_SHARE


def _sample(text: Read) -> NDArray[Any]:
    return distinct(text.grams[text.grams < SAMPLED])


class Index:
    """Earlier texts, and what is known of their families; later texts are looked up one at a time.

    Args:
        texts: the earlier texts.
        threshold: smallest Dice coefficient of a pair.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        self._threshold = threshold
        self._texts = list(texts)
        self._exact: dict[str, list[int]] = {}
        self._keys: list[str] = []
        self._families: dict[int, _Family] = {}
        self._read = lru_cache(maxsize=256)(self._read_again)
        sampled: list[NDArray[Any]] = []
        short: list[NDArray[Any]] = []
        shares: list[float] = []
        for i, text in enumerate(self._texts):
            known = read(text)
            sampled.append(_sample(known))
            short.append(known.distinct if len(known.grams) <= FEW else known.grams[:0])
            shares.append(_sampled_share(known))
            self._keys.append(known.key)
            if known.letters:
                self._exact.setdefault(known.letters, []).append(i)
        self._sampled = _Postings(sampled, shares)
        self._short = _Postings(short, [CANDIDATE_SHARE] * len(short))

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
        sample = _sample(later)
        for i in self._candidates(later, sample):
            if i not in same:
                n_alike += self._compare(i, later, sample, order)
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
            self._families[i] = _Family(self._read(i).distinct)
        return self._families[i]

    def _add_siblings(self, i: int, family: _Family) -> None:
        """Earlier texts that are alike to an earlier text tell of templates too."""
        family.has_siblings = True
        known = self._read(i)
        for sibling in self._candidates(known, _sample(known)):
            if family.is_full:
                return
            other = self._read(sibling)
            if other.letters != known.letters and (found := alike(known, other, self._threshold)):
                family.add(found.overlap)

    def _candidates(self, later: Read, sample: NDArray[Any]) -> list[int]:
        found = self._sampled.candidates(sample, _sampled_share(later))
        if len(later.grams) <= 2 * FEW:
            found |= self._short.candidates(later.distinct, CANDIDATE_SHARE)
        return sorted(found)

    def _compare(self, i: int, later: Read, sample: NDArray[Any], order: int) -> bool:
        """Whether text `i` and a later one are alike; then they wait in the family of `i`."""
        family = self._families.get(i)
        # In a full family the cheap questions come first: most share no more than its template.
        if family and family.is_full and family.is_far(sample):
            return False
        known = self._read(i)
        found = alike(known, later, self._threshold)
        if found is None:
            return False
        family = self._family(i)
        family.add(found.overlap)
        if family.is_full and not family.is_own(found.overlap):
            return False
        if pair := found.match(i, order, self._threshold):
            family.pending.append((pair, found.overlap))
        return pair is not None
