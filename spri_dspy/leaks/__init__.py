"""The leak guard (contamination guard): which texts of one collection stand, exactly or edited, in another.

    leaks = find_leaks([Text("a", post, "seeds")], [Text("b", edited, "test")])
    print(leaks[0])  # 'a' of 'seeds' and 'b' of 'test' (near: edited, 87 % of its character 5-grams)

How two texts are compared:

1. *Words.* Unicode NFKC and casefold; invisible characters are dropped; punctuation, emoji and white space only
   separate words. Kept as words: `+`, `=`, currency and mathematical signs, and operators before a number, so
   that "12 - 4" and "12 / 4" stay two questions. In unspaced scripts every character is a word (`folding`).
2. *Exact*: the same words in the same order, also if some are written in look-alike letters of another script.
   Texts without a word are compared as written, but for case and white space; an empty text matches nothing.
3. *Near*: the texts, or the shorter one and a passage of the longer one (then *contained*), share enough of their
   character 5-grams: a Dice coefficient of 0.75 with most runs of three words in common, or of 0.25 if 81 % of
   their characters stand in one order. It finds texts with typos, replaced words, moved sentences, additions and cuts.
4. *Short texts*, up to 160 characters: four fifths of their characters in one order, or of their 5-grams; only
   other numbers make another question. Below 24 characters a text matches exactly or not at all.
5. *Shared preambles.* Under a long passage that both have (instructions, a list of tools, a page) what remains
   decides: two texts that part at one end and have unlike phrases of their own there are no match (`templates`).
   Shorter templates show in third texts: what others that are alike to a text share with it counts little.
6. *Paraphrases*, only if an embedder is given: the cosine similarity of the vectors that it returns.

A match is a reason to look, no proof: one replaced word is an edit of a long text and may make another question of
a short one. Nor is no match a proof: of a copy of more than 1,000 characters whose first or last sentence alone was
written anew, rule 5 says that it is another text. `benchmarks/LOG.md` has recall and false matches by kind and length.

Cost: linear in the length of each text; a look-up for one 5-gram in four. Earlier collections are held in memory
(about 4 kB for 1,000 characters, 26 kB while they are read in). The last one is streamed; of it only texts that match
an earlier one, as far as the two tell, are kept. Of one text that is there more than 25 times, the first 25 may be
all that is named. Duplicates within one collection are not looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal

from spri_dspy.errors import LeakError, UsageError
from spri_dspy.leaks.matching import Index
from spri_dspy.leaks.reading import read

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLD = 0.25
"""Smallest Dice coefficient of two texts' character 5-grams by default: 2 shared / (left + right)."""

N_NAMED = 5
"""Pairs that an error names before it only counts."""

BATCH = 256
"""Texts that an embedder is given at once."""

Embedder = Callable[[Sequence[str]], Any]
"""Texts to vectors, one a text in the same order: anything that numpy makes an array of shape (texts, d) of."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text to compare.

    Attributes:
        id: names the text in its source; need not be unique.
        text: what is compared: every input of the example, joined (an instruction alone may be common to
            different questions).
        source: where it comes from, such as a file or a collection's name; only shown.
    """

    id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Leak:
    """Two texts of different collections that are the same, or nearly.

    Attributes:
        kind: "exact" for the same words in the same order, "near" for an edited text, "contained" if one text is
            in a passage of the other, "paraphrase" if only the embedder finds them alike.
        similarity: in (0, 1]. 1.0 if exact; else the share of the shorter text's distinct character 5-grams that
            the other (its passage, if contained) has; of short texts the share of characters that
            stand in both in one order; of a paraphrase the cosine.
        left: the text of the earlier collection.
        right: the text of the later collection.
        how: the kind of match in words, with its figure.
    """

    kind: Literal["exact", "near", "contained", "paraphrase"]
    similarity: float
    left: Text
    right: Text
    how: str = ""

    def __str__(self) -> str:
        sides = f"{self.left.id!r} of {self.left.source!r} and {self.right.id!r} of {self.right.source!r}"
        return f"{sides} ({self.kind}: {self.how or format(self.similarity, '.2f')})"


def find_leaks(
    seeds: Sequence[Text],
    evaluation: Iterable[Text],
    *,
    threshold: float = THRESHOLD,
    embed: Embedder | None = None,
    min_cosine: float = 0.9,
) -> list[Leak]:
    """Find every pair of a seed and an evaluation text that match, by evaluation text, then by seed.

    Args:
        seeds: the smaller side, such as training texts; held in memory.
        evaluation: streamed once.
        threshold: smallest Dice coefficient of the character 5-grams of a near match, in (0, 1]; above the
            default it asks for more than rules 3 and 4 do.
        embed: finds paraphrases too: called with at most `BATCH` texts, returns a vector for each. Nothing is
            downloaded; a sentence encoder's `encode` will do. Costs its calls, and a product of all by all.
        min_cosine: smallest cosine similarity of a paraphrase, in (0, 1]; depends on the embedder.

    Raises:
        UsageError: `threshold` or `min_cosine` is outside (0, 1], or `embed` does not return a vector a text.
    """
    index = _Collection(seeds, threshold, embed, min_cosine)
    return _compare([index], evaluation, kept=None)


def check_leaks(
    collections: Mapping[str, Iterable[Text]],
    *,
    allow: bool = False,
    embed: Embedder | None = None,
    min_cosine: float = 0.9,
) -> tuple[Leak, ...]:
    """Compare every collection with every later one, at the default threshold, and refuse matches.

    Seeds that were drawn from the training data belong to "train": leave them out of "seeds", or each of
    them is a leak.

    Args:
        collections: by name, in the order of use: seeds, train, validation, then test or evaluation. Each
            is read once; all but the last are held in memory, so the longest goes last.
        allow: return the matches instead of raising, so that the result can be marked.
        embed: as for `find_leaks`.
        min_cosine: as for `find_leaks`.

    Returns:
        The matches, in the order of the later collection; empty if there are none.

    Raises:
        LeakError: something matches and `allow` is false. Names the first five pairs and what to do.
        UsageError: as for `find_leaks`.
    """
    earlier: list[_Collection] = []
    leaks: list[Leak] = []
    for position, texts in enumerate(collections.values(), 1):
        is_last = position == len(collections)
        kept: list[Text] = []
        leaks += _compare(earlier, texts, None if is_last else kept)
        if not is_last:
            earlier.append(_Collection(kept, THRESHOLD, embed, min_cosine))
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


class _Collection:
    """An earlier collection: finds its texts that match later ones."""

    def __init__(
        self, texts: Sequence[Text], threshold: float, embed: Embedder | None, min_cosine: float
    ) -> None:
        for name, value in (("threshold", threshold), ("min_cosine", min_cosine)):
            if not 0 < value <= 1:
                raise UsageError(f"{name} must be above 0 and at most 1, not {value!r}")
        self.texts, self.index = texts, Index((text.text for text in texts), threshold)
        self.embed, self._min_cosine = embed, min_cosine
        self._vectors = [_unit_vectors(embed, batch) for batch in _batches(texts)] if embed else []

    def paraphrases(self, rows: Any) -> Iterator[tuple[int, int, float]]:
        """(row, index of the earlier text, cosine) of those alike; `rows` are unit vectors, shape (texts, d)."""
        import numpy as np

        for block, mine in enumerate(self._vectors):
            if mine.shape[1] != rows.shape[1]:
                raise UsageError(f"embed returned vectors of {mine.shape[1]} and of {rows.shape[1]} numbers")
            cosines = rows @ mine.T
            for i, j in np.argwhere(cosines >= self._min_cosine).tolist():
                yield i, block * BATCH + j, min(1.0, float(cosines[i, j]))


def _compare(earlier: Sequence[_Collection], texts: Iterable[Text], kept: list[Text] | None) -> list[Leak]:
    """Matches of a later collection with the earlier ones, by later text; its texts are added to `kept`."""
    found: dict[tuple[int, int, int], Leak] = {}
    alike: dict[int, Text] = {}
    embed = earlier[0].embed if earlier else None
    for first, batch in zip(count(step=BATCH), _batches(texts), strict=False):
        for order, text in enumerate(batch if earlier else (), first):
            later = read(text.text)
            if sum([c.index.look_up(later, order) for c in earlier]):
                alike[order] = text
        rows = _unit_vectors(embed, batch) if embed else ()
        for c, collection in enumerate(earlier if len(rows) else ()):
            for i, j, cosine in collection.paraphrases(rows):
                how = f"cosine {cosine:.2f}"
                found[first + i, c, j] = Leak("paraphrase", cosine, collection.texts[j], batch[i], how)
        if kept is not None:
            kept += batch
    for c, collection in enumerate(earlier):
        for p in collection.index.decided():
            left = collection.texts[p.left]
            found[p.order, c, p.left] = Leak(p.kind, p.similarity, left, alike[p.order], p.how)
    return [found[place] for place in sorted(found)]


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _unit_vectors(embed: Embedder, texts: Sequence[Text]) -> NDArray[Any]:
    """The embedder's vectors, made of length 1, float64, shape (texts, d); a zero vector stays zero."""
    import numpy as np

    vectors = np.asarray(embed([text.text for text in texts]), np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise UsageError(
            f"embed must return a finite vector for each of {len(texts)} texts, not {vectors.shape}"
        )
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
