"""The leak guard: which texts of one collection stand, exactly or nearly, in another.

How two texts are compared:

1. *Words.* Unicode NFKC and casefold; punctuation, emoji and white space only separate words. Kept as
   words of their own: `+`, `=` and currency and mathematical signs, and `- * / % ^ < >` in front of a
   number, so that "12 - 4" and "12 / 4" stay two questions. In scripts written without spaces (Chinese,
   Japanese kana, Thai, Lao, Khmer, Burmese) every character is a word.
2. *Exact*: the same words in the same order. Texts without a word are compared as written, but for case
   and white space; an empty text matches nothing.
3. *Near*: shingles are the distinct runs of three words. Two texts are near if the Jaccard similarity of
   their shingles (shared / in either) reaches the threshold, or if one holds the other: at least 90 % of
   the shingles of the one with fewer, which are 28 or more (about 30 words), are in the other, which has
   at most three times as many.
4. *Short texts*: below 8 distinct shingles (about 10 words) a text matches exactly or not at all.

The comparison is symmetric. Figures are exact up to a collision of 64-bit hashes.

Cost: linear in the length of each text, a lookup per shingle. Of a long list of earlier texts, only those
that share a rare shingle with the text at hand are compared one to one. Earlier collections are held in
memory (about 26 kB per 1,000 characters); the last one is streamed.

It does not know meaning: a paraphrase, a translation, or an edit of every few words is not found. It does
not know templates either: two questions under the same long preamble are near, because most of their words
are the same; leave the preamble out of `Text.text` where that is not wanted. It compares what it is given
and does not look for duplicates within one collection.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain
from typing import Literal, NamedTuple

from spri_dspy.errors import LeakError, UsageError

MIN_SHINGLES = 8
"""Fewest distinct shingles (runs of three words) a text needs for a near match."""

HELD_SHARE = 0.9
"""Share of the smaller text's shingles that the larger one must have to count as holding it."""

HELD_MIN_SHINGLES = 28
"""Fewest distinct shingles of a text that can be held by another; shorter ones are quoted by chance."""

HELD_MAX_RATIO = 3
"""How many times the shingles of the held text the holding one may have."""

N_NAMED = 5
"""Pairs that an error names before it only counts."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text to compare.

    Attributes:
        id: names the text in its source; need not be unique.
        text: what is compared: every input of the example, joined (an instruction alone may be common to
            different questions), without a preamble that all examples share.
        source: where it comes from, such as a file or a collection's name; only shown.
    """

    id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Leak:
    """Two texts of different collections that are the same, or nearly.

    Attributes:
        kind: "exact" for the same words in the same order, else "near".
        similarity: in (0, 1]. 1.0 if exact; the Jaccard similarity if that reached the threshold; else the
            share of the smaller text's shingles that the larger one holds, at least 0.9. A near match can
            be 1.0 too: the same shingles in another order.
        left: the text of the earlier collection.
        right: the text of the later collection.
    """

    kind: Literal["exact", "near"]
    similarity: float
    left: Text
    right: Text

    def __str__(self) -> str:
        sides = f"{self.left.id!r} of {self.left.source!r} and {self.right.id!r} of {self.right.source!r}"
        return f"{sides} ({self.kind}, {self.similarity:.2f})"


def find_leaks(seeds: Sequence[Text], evaluation: Iterable[Text], *, threshold: float = 0.8) -> list[Leak]:
    """Find every pair of a seed and an evaluation text that match, by evaluation text, then by seed.

    Args:
        seeds: the smaller side; held in memory.
        evaluation: streamed once; nothing of it is kept but the texts that match.
        threshold: smallest Jaccard similarity t of a near match, in (0, 1]. For held texts it raises the
            90 % to 2 t / (1 + t) where that is more, so that they are not a way around it.

    Raises:
        UsageError: `threshold` is outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold must be above 0 and at most 1, not {threshold!r}")
    index = _Index(seeds, threshold)
    return [leak for text in evaluation for leak in index.matches(_prepare(text))]


def check_leaks(collections: Mapping[str, Iterable[Text]], *, allow: bool = False) -> tuple[Leak, ...]:
    """Compare every collection with every later one, at the default threshold, and refuse matches.

    Seeds that were drawn from the training data belong to "train": leave them out of "seeds", or each of
    them is a leak.

    Args:
        collections: by name, in the order of use: seeds, train, validation, then test or evaluation. Each
            is read once; all but the last are held in memory, so the longest goes last.
        allow: return the matches instead of raising, so that the result can be marked.

    Returns:
        The matches, in the order of the later collection; empty if there are none.

    Raises:
        LeakError: something matches and `allow` is false. Names the first five pairs and what to do.
    """
    earlier: list[_Index] = []
    leaks: list[Leak] = []
    for position, texts in enumerate(collections.values(), 1):
        kept: list[Text] = []
        for text in texts:
            prepared = _prepare(text)
            leaks.extend(chain.from_iterable(index.matches(prepared) for index in earlier))
            if position < len(collections):
                kept.append(text)
        earlier.append(_Index(kept))
    if leaks and not allow:
        raise LeakError(_refusal(leaks, list(collections)))
    return tuple(leaks)


def _refusal(leaks: Sequence[Leak], names: Sequence[str]) -> str:
    pairs = "; ".join(map(str, leaks[:N_NAMED]))
    more = f"; and {len(leaks) - N_NAMED} more" if len(leaks) > N_NAMED else ""
    count = "1 pair matches" if len(leaks) == 1 else f"{len(leaks)} pairs match"
    return (
        f"leak: {count} across {', '.join(names)}: {pairs}{more}. "
        "Remove one text of each pair, or pass --allow-leak to go on with the result marked"
    )


class _Prepared(NamedTuple):
    """A text ready to be looked up: its exact key ("" matches nothing) and its shingles' hashes."""

    text: Text
    key: str
    shingles: set[int]


class _Index:
    """The earlier side: finds the texts that match another without comparing with each.

    Two bounds make it exact. With t the threshold and c the share for held texts (c >= t), a near match
    shares at least t of the left text's shingles, or at least c of the right text's if that is the held
    one. So one of any |left| - ceil(t |left|) + 1 shingles of the left, or one of any
    |right| - ceil(c |right|) + 1 of the right, is shared; looking only at the rarest keeps phrases that
    everybody uses, and shared preambles, from making everything a candidate.
    """

    def __init__(self, texts: Iterable[Text], threshold: float = 0.8) -> None:
        self._threshold = threshold
        # The second is what a Jaccard similarity of `threshold` amounts to for texts of one length.
        self._held_share = max(HELD_SHARE, 2 * threshold / (1 + threshold))
        self._texts: list[Text] = []
        self._exact: dict[str, list[int]] = {}
        # Arrays take 8 bytes a shingle where a set takes about 70.
        self._shingles: list[array[int]] = []
        self._holders: dict[int, list[int]] = {}
        self._rare_holders: dict[int, list[int]] = {}
        for text in texts:
            self._add(_prepare(text))
        for i, shingles in enumerate(self._shingles):
            n_looked_up = len(shingles) - _at_least(threshold, len(shingles)) + 1
            for shingle in nsmallest(n_looked_up, shingles, key=self._n_holders):
                self._rare_holders.setdefault(shingle, []).append(i)

    def _add(self, prepared: _Prepared) -> None:
        i = len(self._texts)
        self._texts.append(prepared.text)
        self._shingles.append(array("q", prepared.shingles))
        if prepared.key:
            self._exact.setdefault(prepared.key, []).append(i)
        # Most shingles have one holder: they share this list, which is therefore never appended to.
        alone = [i]
        for shingle in prepared.shingles:
            holders = self._holders.setdefault(shingle, alone)
            if len(holders) > 1:
                holders.append(i)
            elif holders is not alone:
                self._holders[shingle] = [*holders, i]

    def _n_holders(self, shingle: int) -> int:
        return len(self._holders[shingle])

    def matches(self, right: _Prepared) -> Iterator[Leak]:
        """Every text here that matches, in the order of this side."""
        same = set(self._exact.get(right.key, ()))
        known = self._holders.keys() & right.shingles
        for i in sorted(same | self._candidates(right.shingles, known)):
            if i in same:
                yield Leak("exact", 1.0, self._texts[i], right.text)
            elif similarity := self._near(i, right.shingles, len(known)):
                yield Leak("near", similarity, self._texts[i], right.text)

    def _candidates(self, shingles: set[int], known: set[int]) -> set[int]:
        found = {i for shingle in self._rare_holders.keys() & known for i in self._rare_holders[shingle]}
        n_unknown = len(shingles) - len(known)
        # An unknown shingle is the rarest of all, and looking it up finds nothing.
        n_looked_up = len(shingles) - _at_least(self._held_share, len(shingles)) + 1 - n_unknown
        for shingle in nsmallest(n_looked_up, known, key=self._n_holders):
            found.update(self._holders[shingle])
        return found

    def _near(self, i: int, right: set[int], n_known: int) -> float:
        """The similarity to text `i` if that is near, else 0. At most `n_known` shingles are shared."""
        left = self._shingles[i]
        smaller, larger = sorted((len(left), len(right)))
        needed = _at_least(self._threshold / (1 + self._threshold), smaller + larger)
        can_be_held = smaller >= HELD_MIN_SHINGLES and larger <= HELD_MAX_RATIO * smaller
        if can_be_held:
            needed = min(needed, _at_least(self._held_share, smaller))
        if min(smaller, n_known) < needed:
            return 0.0
        n_shared = len(right.intersection(left))
        jaccard = n_shared / (smaller + larger - n_shared)
        if jaccard >= self._threshold:
            return jaccard
        return n_shared / smaller if can_be_held and n_shared / smaller >= self._held_share else 0.0


def _at_least(share: float, n: int) -> int:
    """The smallest whole number that is `share` of `n` or more; slack for binary fractions (0.7 * 10)."""
    return math.ceil(share * n - 1e-9)


def _prepare(text: Text) -> _Prepared:
    words = _words(text.text)
    shingles = set(map(hash, zip(words, words[1:], words[2:], strict=False)))
    if len(shingles) < MIN_SHINGLES:
        shingles = set()
    key = " ".join(words or _fold_case(text.text).split())
    return _Prepared(text, key, shingles)


# Whatever is not ASCII was made a word's character or a separator before this is applied. A hyphen or a
# star before a number may be an operator; elsewhere it is punctuation, a bullet or emphasis.
_WORD = re.compile(r"[a-z0-9\x80-\U0010ffff]+|[+=$]+|[-*/%^<>](?=\s*\d)")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def _words(text: str) -> list[str]:
    folded = _fold_case(text)
    if not folded.isascii():
        folded = _NOT_ASCII.sub(lambda run: run.group().translate(_SEPARATED), folded)
    return _WORD.findall(folded)


def _fold_case(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


_UNSPACED = (
    *(range(0x0E00, 0x0F00), range(0x1000, 0x10A0), range(0x1780, 0x1800)),  # Thai, Lao; Burmese; Khmer
    *(range(0x3005, 0x3008), range(0x3041, 0x3100), range(0x31F0, 0x3200)),  # kana and iteration marks
    *(range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x3FFFF)),  # Han
)


class _Separated(dict[int, str]):
    """What a character outside ASCII is replaced with, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        is_variation_selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
        if category == "Cf" or is_variation_selector:
            # Soft hyphens, joiners and byte order marks stand inside words and cannot be seen.
            replacement = ""
        elif category in ("Sm", "Sc") or any(code in block for block in _UNSPACED):
            replacement = f" {character} "
        else:
            replacement = character if category[0] in "LMN" else " "
        return self.setdefault(code, replacement)


_SEPARATED = _Separated()
