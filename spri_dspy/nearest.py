"""Which texts are nearest to a text: TF-IDF by default, any embedder on request.

It knows texts and numbers; it knows no demo, seed or task.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

Embedder = Callable[[list[str]], Sequence[Sequence[float]]]
"""One vector a text, in the same order; texts may be embedded again at any time."""


def nearest(text: str, others: Sequence[str], k: int, embed: Embedder | None = None) -> list[int]:
    """Indices of the k nearest of `others`, the nearest first; of equally near ones the earlier first."""
    closeness = similarities(text, tuple(others)) if embed is None else cosines(text, others, embed)
    return sorted(range(len(others)), key=lambda i: (-closeness[i], i))[:k]


def cosines(text: str, others: Sequence[str], embed: Embedder) -> list[float]:
    """Cosine of each of the others' vectors with the text's; 0 where a vector has no length."""
    vectors = [[float(x) for x in vector] for vector in embed([text, *others])]
    asked, lengths = vectors[0], [math.hypot(*vector) for vector in vectors]
    return [
        sum(a * b for a, b in zip(asked, vector, strict=True)) / ((lengths[0] * length) or 1.0)
        for vector, length in zip(vectors[1:], lengths[1:], strict=True)
    ]


def similarities(text: str, others: tuple[str, ...]) -> list[float]:
    """How near each of the others is to a text: cosine of their TF-IDF weights, up to a common factor.

    Words are compared without case; frequencies count as their logarithm, and the rarity of a word is told from
    `others` alone. Zero or more; 0 if no word is shared. One figure per text of `others`, in their order.
    """
    asked = Counter(_words(text))
    return [
        sum(_weight(asked[word]) * rarity * weight for word, (weight, rarity) in own.items()) / (norm or 1.0)
        for own, norm in _weighted(others)
    ]


@lru_cache(16)
def _weighted(texts: tuple[str, ...]) -> list[tuple[dict[str, tuple[float, float]], float]]:
    """Of each text the weight and rarity of its words, and the length of the weights' vector."""
    counts = [Counter(_words(text)) for text in texts]
    texts_with = Counter(word for count in counts for word in count)
    weighted: list[tuple[dict[str, tuple[float, float]], float]] = []
    for count in counts:
        rarity = {word: math.log((1 + len(texts)) / (0.5 + texts_with[word])) for word in count}
        own = {word: (_weight(n) * rarity[word], rarity[word]) for word, n in count.items()}
        weighted.append((own, math.sqrt(sum(weight**2 for weight, _ in own.values()))))
    return weighted


def _weight(n: int) -> float:
    return math.log1p(n)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
