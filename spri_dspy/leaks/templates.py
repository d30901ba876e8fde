"""Whether two texts that share most of what they say are a copy, or two texts under one preamble.

An edit changes a copy here and there, or adds to it, or cuts it: then the differences are spread over the text, or one
of the two has nothing that the other lacks. Under a shared preamble (a system prompt, a list of tools, a page) a long
passage is the same in both, and what differs is together at the other end, where each text has something of its own.
Then what remains beyond the shared passage decides: alike, the texts are a copy with slips; unlike, two texts.

Knows two texts and nothing of a third one (`matching` does): a copy that is the same but for one passage at its
beginning or end, written anew, is taken for another text under the same preamble.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from spri_dspy.leaks.reading import FACTORS, GRAM, Read, distinct, in_order, is_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHRASE = 16
"""Fewest characters in one place that make a text's own phrase: more than a word or a slip."""

HELD = 0.5
"""Smallest share of a text's own characters that stand in phrases: single words here and there are an edit."""

PREAMBLE = 1_000
"""Fewest characters of a shared passage that make a preamble; and it is half of either text."""

SHORT_PREAMBLE = 500
"""The same, where the texts share less than `ALIKE` and `HELD_SHORT` of their own characters stand in phrases."""

HELD_SHORT = 0.7
"""Smallest share of a text's own characters that stand in phrases there."""

ALIKE = 0.75
"""Dice coefficient of 5-grams from which on texts without a long preamble are one text with a passage written anew."""

CLOSING = 64
"""Most characters, such as "Answer:", after (or before) what is a text's own."""

SLIPS = 0.7
"""Share of the characters of two remainders that stand in one order, from which on they are the same with slips."""

MOST_COMPARED = 1_500
"""Characters of a remainder that are compared, for it takes time with their square."""


class _Remainder(NamedTuple):
    """What one text has beyond what it shares with another.

    Attributes:
        n: characters of the text.
        own: its own characters.
        in_phrases: those of them that stand in phrases.
        shared: characters of its longest stretch without a phrase.
        before: characters before the first that is its own.
        after: characters after the last.
        text: its phrases, joined.
    """

    n: int
    own: int
    in_phrases: int
    shared: int
    before: int
    after: int
    text: str


def share_a_preamble(left: Read, right: Read, dice: float) -> bool:
    """Whether both have something of their own beyond a long shared passage, and what they have is unlike.

    Linear in the length of both. Runs of 20 characters show where two texts part that are otherwise the same; runs
    of 5 also do if the passage differs a little, such as in its line ends.

    Args:
        left: a text, or a passage of it.
        right: the other.
        dice: Dice coefficient of their 5-grams.
    """
    for k in (4, 1):
        a, b = _remainder(left, right, k), _remainder(right, left, k)
        is_long = all(_is_apart(side, HELD, PREAMBLE) for side in (a, b))
        is_loose = (
            k > 1 and dice < ALIKE and all(_is_apart(side, HELD_SHORT, SHORT_PREAMBLE) for side in (a, b))
        )
        is_at_one_end = max(a.after, b.after) <= CLOSING or max(a.before, b.before) <= CLOSING
        if (is_long or is_loose) and is_at_one_end:
            return in_order(a.text[:MOST_COMPARED], b.text[:MOST_COMPARED]) < SLIPS
    return False


def _is_apart(side: _Remainder, held: float, preamble: int) -> bool:
    """Whether what is a text's own stands together, beside a shared passage."""
    return side.in_phrases >= max(1.0, held * side.own) and side.shared >= max(preamble, side.n / 2)


def _remainder(text: Read, other: Read, k: int) -> _Remainder:
    import numpy as np

    size = k * GRAM
    runs = _joined(text.grams, k)
    own = ~is_in(runs, distinct(_joined(other.grams, k)))
    n = len(own)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], own, [False]])))
    starts, ends = edges[::2], edges[1::2]
    if k == 1 and len(starts):  # a few grams in common by chance do not end a phrase
        is_apart = starts[1:] - ends[:-1] >= GRAM
        starts, ends = starts[np.append(True, is_apart)], ends[np.append(is_apart, True)]
    # A run is a text's own if one character of it is: a change reaches size - 1 runs back, but at the ends.
    first = np.where(starts > 0, starts + size - 1, starts)
    last = np.where(ends < n, ends, ends + size - 1)
    lengths = np.maximum(last - first, 0)
    is_phrase, is_change = lengths >= PHRASE, lengths > GRAM - 2
    borders = np.concatenate([[0], np.stack([starts, ends], 1)[is_phrase].ravel(), [n]])
    changed = np.flatnonzero(is_change)
    return _Remainder(
        n=n,
        own=int(lengths.sum()),
        in_phrases=int(lengths[is_phrase].sum()),
        shared=int((borders[1::2] - borders[::2]).max()),
        before=int(starts[changed[0]]) if len(changed) else n,
        after=n - int(ends[changed[-1]]) if len(changed) else n,
        text=" ".join(
            f" {text.letters} "[i:j] for i, j in zip(first[is_phrase], last[is_phrase], strict=True)
        ),
    )


def _joined(grams: NDArray[Any], k: int) -> NDArray[Any]:
    """Hashes of the runs of k grams that follow one another, uint64, shape (grams - (k - 1) * GRAM,) or empty."""
    import numpy as np

    n = max(0, len(grams) - (k - 1) * GRAM)
    if k == 1:
        return grams
    hashes = np.zeros(n, np.uint64)
    for i in range(k):
        hashes += grams[i * GRAM : i * GRAM + n] * np.uint64(FACTORS[i])
    return hashes
