"""How the leak guard compares two texts: by their character 5-grams, and by the order of their characters.

Knows nothing of a third text (`matching` does), nor of collections.

A text is the set of its character 5-grams, over words in plain letters joined by one space. Two texts may be edits of
one another if the Dice coefficient of their grams, 2 shared / (left + right), reaches the threshold. If one is much
longer, the passage of it that shares most is compared instead. Below `SURE`, characters in common must also stand in
one order, which texts that only share phrases do not do. Of short texts few grams stay whole, so that there the order
of characters counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spri_dspy.leaks.folding import fold_case, plain, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAM = 5
"""Characters of a gram."""

SHORT = 160
"""Characters up to which a text is compared character by character."""

SHORTEST = 24
"""Fewest characters for anything but an exact match."""

SHORT_SHARE = 0.8
"""Smallest share of characters in common, in order, for short texts."""

QUOTED = 40
"""Fewest characters of a short text that is found where it stands whole in another."""

SURE = 0.75
"""Dice coefficient from which on shared phrases will do for the order: sentences may have moved."""

SURE_PHRASES = 0.72
"""Smallest Dice coefficient of runs of three words then."""

ORDERED_SHARE = 0.82
"""Smallest share of characters in common, in order, below `SURE`."""

LONG = 4_000
"""Characters up to which that is asked, for it takes time with the square of the length; beyond, `SURE_LONG` does."""

SURE_LONG = 0.45
"""Smallest Dice coefficient of longer texts, which by chance are less alike."""

LONG_PHRASES = 0.08
"""Smallest Dice coefficient of the runs of three words of longer texts."""

PASSAGE_RATIO = 1.3
"""From how many times the grams of the shorter text on only a passage of the longer one is compared."""


class Read(NamedTuple):
    """A text ready to be compared.

    Attributes:
        key: its words, joined; as written where there are none; "" matches nothing.
        letters: its words in plain letters, joined by a space.
        grams: hashes of its 5-grams in order, uint64, shape (len(letters) - 2,); empty below `SHORTEST`.
        distinct: the same, sorted and each once.
    """

    key: str
    letters: str
    grams: NDArray[Any]
    distinct: NDArray[Any]


def read(text: str) -> Read:
    """Read one text; linear in its length."""
    import numpy as np

    key = letters = " ".join(words(text))
    if not text.isascii():
        letters = " ".join(words(plain(text)))
    grams = _grams(letters) if len(letters) >= SHORTEST else np.empty(0, np.uint64)
    return Read(key or fold_case(text), letters or fold_case(text), grams, _distinct(grams))


def _grams(letters: str) -> NDArray[Any]:
    import numpy as np

    codes = np.frombuffer(f" {letters} ".encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    n = len(codes) - GRAM + 1
    hashes = np.zeros(n, np.uint64)
    for i, factor in enumerate(_FACTORS):
        hashes += codes[i : i + n] * np.uint64(factor)
    return hashes


def _distinct(grams: NDArray[Any]) -> NDArray[Any]:
    """Sorted, each once; several times quicker than `numpy.unique` for a few thousand."""
    import numpy as np

    ordered = np.sort(grams)
    is_new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]


def is_in(grams: NDArray[Any], distinct: NDArray[Any]) -> NDArray[Any]:
    """Which of `grams` are in the sorted `distinct`, bool, of the shape of `grams`."""
    import numpy as np

    if not len(distinct):
        return np.zeros(len(grams), bool)
    at = np.searchsorted(distinct, grams)
    at[at == len(distinct)] = 0
    return distinct[at] == grams


# Odd 64-bit numbers without a pattern: the sum is another for another five characters, but for chance.
_FACTORS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
)


@dataclass(slots=True)
class Pair:
    """An earlier and a later text that match, if they are alike in what is their own, too.

    Attributes:
        kind: as of `Leak`.
        similarity: as of `Leak`.
        how: as of `Leak`.
        left: index of the earlier text.
        order: which of the later texts it is.
    """

    kind: Literal["exact", "near", "contained"]
    similarity: float
    how: str
    left: int
    order: int


class Overlap(NamedTuple):
    """What two texts share.

    Attributes:
        key: the other text's `Read.key`.
        shared: which of the earlier text's distinct grams the other holds, bool, shape (distinct grams,).
        n_other: distinct grams of the other text, or of its passage, that the earlier one lacks.
        is_passage: whether only a passage of one of them was compared.
    """

    key: str
    shared: NDArray[Any]
    n_other: int
    is_passage: bool


@dataclass(frozen=True, slots=True)
class Alike:
    """Two texts, or a text and a passage, that share enough 5-grams to be an edit of one another.

    Attributes:
        left: the earlier one.
        right: the later one.
        is_short: whether what is compared next is characters: the whole texts, of which one is short.
        n_shared: distinct grams that both hold.
        overlap: the same for the whole earlier text.
    """

    left: Read
    right: Read
    is_short: bool
    n_shared: int
    overlap: Overlap

    def match(self, i: int, order: int, threshold: float) -> Pair | None:
        """The pair of earlier text `i` and later text `order`, if one is an edit of the other."""
        if self.is_short:
            return self._match_short(i, order, max(SHORT_SHARE, threshold))
        sizes = len(self.left.distinct), len(self.right.distinct)
        if not self._is_ordered(2 * self.n_shared / sum(sizes)):
            return None
        share = self.n_shared / min(sizes)
        if self.overlap.is_passage:
            return Pair(
                "contained", share, f"{share:.0%} of its character 5-grams are in the other", i, order
            )
        return Pair("near", share, f"edited, {share:.0%} of its character 5-grams", i, order)

    def _match_short(self, i: int, order: int, needed: float) -> Pair | None:
        left, right = self.left.letters, self.right.letters
        shorter, longer = sorted((left, right), key=len)
        if len(shorter) >= QUOTED and f" {shorter} " in f" {longer} ":
            return Pair("contained", 1.0, "the whole text is in the other", i, order)
        dice = 2 * self.n_shared / (len(self.left.distinct) + len(self.right.distinct))
        # The second cannot be reached by texts of very different lengths, and takes time with both.
        is_far = 2 * len(shorter) < needed * (len(shorter) + len(longer))
        share = dice if is_far else max(dice, in_order(left, right))
        if share < needed or only_numbers_differ(left, right):
            return None
        return Pair("near", share, f"edited, {share:.0%} of its characters", i, order)

    def _is_ordered(self, dice: float) -> bool:
        left, right = self.left.letters, self.right.letters
        if dice >= SURE and shared_phrases(left, right) >= SURE_PHRASES:
            return True
        if max(len(left), len(right)) > LONG:
            return dice >= SURE_LONG and shared_phrases(left, right) >= LONG_PHRASES
        return in_order(left, right) >= ORDERED_SHARE


def alike(known: Read, other: Read, threshold: float) -> Alike | None:
    """What two texts share, if one may be an edit of the other: Dice coefficient `threshold`, or one is short."""
    ours, theirs = passages(known, other)
    n_shared = int(is_in(ours.distinct, theirs.distinct).sum())
    n_grams = len(ours.distinct) + len(theirs.distinct)
    is_short = min(len(known.letters), len(other.letters)) <= SHORT
    if not is_short and 2 * n_shared < threshold * n_grams:
        return None
    shared = is_in(known.distinct, theirs.distinct)
    is_passage = ours is not known or theirs is not other
    overlap = Overlap(other.key, shared, len(theirs.distinct) - int(shared.sum()), is_passage)
    if is_short:
        return Alike(known, other, is_short, int(shared.sum()), overlap)
    return Alike(ours, theirs, is_short, n_shared, overlap)


def passages(left: Read, right: Read) -> tuple[Read, Read]:
    """Both texts; of a much longer one the passage, a quarter longer than the other, that shares most with it."""
    if len(right.distinct) > PASSAGE_RATIO * len(left.distinct):
        return left, _passage(right, left)
    if len(left.distinct) > PASSAGE_RATIO * len(right.distinct):
        return _passage(left, right), right
    return left, right


def _passage(longer: Read, shorter: Read) -> Read:
    import numpy as np

    size = min(len(longer.grams), round(1.25 * len(shorter.grams)))
    sums = np.cumsum(np.concatenate([[0], is_in(longer.grams, shorter.distinct)]))
    start = int(np.argmax(sums[size:] - sums[:-size]))
    grams = longer.grams[start : start + size]
    return Read(longer.key, longer.letters[start : start + size], grams, _distinct(grams))


def shared_phrases(left: str, right: str) -> float:
    """Dice coefficient of the runs of three words, which texts of few words in another order do not share."""
    a, b = (set(zip(w, w[1:], w[2:], strict=False)) for w in (left.split(), right.split()))
    return 2 * len(a & b) / max(1, len(a) + len(b))


def only_numbers_differ(left: str, right: str) -> bool:
    """Whether two texts have the same words, but for numbers and operators: then they are different questions."""
    a, b = ([word for word in text.split() if word.isalpha()] for text in (left, right))
    return a == b and left != right


def in_order(left: str, right: str) -> float:
    """Share of the characters of both that stand in both in one order: 2 common / (left + right).

    The longest common subsequence takes len(right) steps on numbers of len(left) bits.
    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for i, character in enumerate(left):
        places[character] = places.get(character, 0) | 1 << i
    missing = everything = (1 << len(left)) - 1
    for character in right:
        matched = missing & places.get(character, 0)
        missing = (missing + matched | missing - matched) & everything
    return 2 * (len(left) - missing.bit_count()) / (len(left) + len(right))
