"""How the leak guard compares two texts: by their character 5-grams, and by the order of their characters.

Knows nothing of a third text (`matching` does), nor of collections.

Two texts may be edits of one another if the Dice coefficient of their 5-grams, 2 shared / (left + right), reaches the
threshold. If one is much longer, the passage of it that shares most is compared instead. Below `SURE`, characters in
common must also stand in one order, which texts that only share phrases do not do. Two that share a preamble are none
(`templates`). Of short texts few grams stay whole, so that there the order of characters counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spri_dspy.leaks.reading import Read, in_order, is_in, n_in_order
from spri_dspy.leaks.templates import share_a_preamble

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT = 160
"""Characters up to which a text is compared character by character."""

SHORT_SHARE = 0.8
"""Smallest share of characters in common, in order, for short texts."""

QUOTED = 40
"""Fewest characters of a short text that is found where it stands whole in another."""

SURE = 0.75
"""Dice coefficient from which on shared phrases will do for the order: sentences may have moved."""

SURE_PHRASES = 0.72
"""Smallest Dice coefficient of runs of three words then."""

ORDERED_SHARE = 0.81
"""Smallest share of characters in common, in order, below `SURE`."""

LONG = 2_000
"""Characters up to which that is asked of whole texts, for it takes time with the square of the length."""

PIECE = 800
"""Characters of a piece of a longer text, which is compared with the passage that shares most with it."""

N_PIECES = 8
"""Pieces, spread evenly over the text, that are compared."""

PASSAGE_RATIO = 1.3
"""From how many times the grams of the shorter text on only a passage of the longer one is compared."""


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
        dice = 2 * self.n_shared / sum(sizes)
        if share_a_preamble(self.left, self.right, dice) or not self._is_ordered(dice):
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
            return _pieces_in_order(*sorted((self.left, self.right), key=lambda text: len(text.letters)))
        return in_order(left, right) >= ORDERED_SHARE


def _pieces_in_order(shorter: Read, longer: Read) -> bool:
    """Whether pieces of one text stand in the other, character by character."""
    starts = range(0, max(1, len(shorter.grams) - PIECE), max(1, len(shorter.grams) // N_PIECES))
    n_common = n = 0
    for start in starts:
        piece = cut(shorter, start, PIECE)
        n += len(piece.letters)
        n_common += n_in_order(piece.letters, _passage(longer, piece).letters)
    return n_common >= ORDERED_SHARE * n


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
    return cut(longer, start, size)


def cut(text: Read, start: int, n: int) -> Read:
    """`n` characters of a text from `start` on, with its key."""
    return Read(text.key, text.letters[start : start + n], text.grams[start : start + n])


def shared_phrases(left: str, right: str) -> float:
    """Dice coefficient of the runs of three words, which texts of few words in another order do not share."""
    a, b = (set(zip(w, w[1:], w[2:], strict=False)) for w in (left.split(), right.split()))
    return 2 * len(a & b) / max(1, len(a) + len(b))


def only_numbers_differ(left: str, right: str) -> bool:
    """Whether two texts have the same words, but for numbers and operators: then they are different questions."""
    a, b = ([word for word in text.split() if word.isalpha()] for text in (left, right))
    return a == b and left != right
