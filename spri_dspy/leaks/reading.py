"""What the leak guard compares of a text: its words in plain letters, and their character 5-grams.

A text is the set of its 5-grams over words joined by one space. Hashes are of 64 bits and the same on every machine.
Knows one text at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spri_dspy.leaks.folding import fold_case, plain, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAM = 5
"""Characters of a gram."""

SHORTEST = 24
"""Fewest characters for anything but an exact match; shorter texts have no grams."""

FACTORS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xD6E8FEB86659FD93,
)
"""Odd 64-bit numbers without a pattern, that numbers are multiplied with to hash them."""


@dataclass(frozen=True)
class Read:
    """A text ready to be compared.

    Attributes:
        key: its words, joined; as written where there are none; "" matches nothing.
        letters: its words in plain letters, joined by a space.
        grams: hashes of its 5-grams in order, uint64, shape (len(letters) - 2,); empty below `SHORTEST`.
    """

    key: str
    letters: str
    grams: NDArray[Any]

    @cached_property
    def distinct(self) -> NDArray[Any]:
        """The grams, sorted and each once."""
        return distinct(self.grams)


def read(text: str) -> Read:
    """Read one text; linear in its length."""
    import numpy as np

    key = letters = words(text)
    if not text.isascii() and (latin := plain(text)) != text:
        letters = words(latin)
    grams = _grams(letters) if len(letters) >= SHORTEST else np.empty(0, np.uint64)
    return Read(key or fold_case(text), letters or fold_case(text), grams)


def _grams(letters: str) -> NDArray[Any]:
    import numpy as np

    n = len(letters) + 2 - GRAM + 1
    if letters.isascii():
        # Eight bytes from each byte on, of which five are the gram.
        packed = np.ndarray((n,), "<u8", f" {letters}     ".encode("ascii"), strides=(1,))
        return (packed & np.uint64(0xFF_FFFF_FFFF)) * np.uint64(FACTORS[0])
    codes = np.frombuffer(f" {letters} ".encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    # Codes above a byte overlap when they are packed: scattered over 64 bits they hardly ever make the same sum.
    codes = np.where(codes < 128, codes, codes * np.uint64(FACTORS[1]))
    packed = np.zeros(n, np.uint64)
    for i in range(GRAM):
        packed += codes[i : i + n] << np.uint64(8 * i)
    return packed * np.uint64(FACTORS[0])


def distinct(grams: NDArray[Any]) -> NDArray[Any]:
    """Sorted, each once; several times quicker than `numpy.unique` for a few thousand."""
    import numpy as np

    ordered = np.sort(grams)
    is_new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]


def is_in(grams: NDArray[Any], known: NDArray[Any]) -> NDArray[Any]:
    """Which of `grams` are in the sorted `known`, bool, of the shape of `grams`."""
    import numpy as np

    if not len(known):
        return np.zeros(len(grams), bool)
    at = known.searchsorted(grams)
    at[at == len(known)] = 0
    return known[at] == grams


def n_in_order(left: str, right: str) -> int:
    """Length of the longest common subsequence: the characters that stand in both in one order.

    Takes len(right) steps on numbers of len(left) bits.
    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for i, character in enumerate(left):
        places[character] = places.get(character, 0) | 1 << i
    missing = everything = (1 << len(left)) - 1
    for character in right:
        matched = missing & places.get(character, 0)
        missing = (missing + matched | missing - matched) & everything
    return len(left) - missing.bit_count()


def in_order(left: str, right: str) -> float:
    """Share of the characters of both that stand in both in one order: 2 common / (left + right); 1 of none."""
    n = len(left) + len(right)
    return 2 * n_in_order(left, right) / n if n else 1.0
