"""Edits that a copied text may have undergone, by kind and strength: what the leak guard must see through.

Each edit takes a text, a strength in (0, 1] (the share of the text that it touches; at least one place), a generator
and words to write with, and returns the edited text; the same generator state gives the same text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Edit = Callable[[str, float, random.Random, Sequence[str]], str]

LOOK_ALIKES = dict(zip("aceopxyisjhdAEOPCTHBKMX", "асеорхуіѕјһԁАЕОРСТНВКМХ", strict=True))
"""Latin letters and the Cyrillic ones that are drawn like them."""


def _n_places(strength: float, n: int) -> int:
    return min(n, max(1, round(strength * n)))


def words_replaced(text: str, strength: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Words here and there become other words."""
    pieces = re.split(r"(\s+)", text)
    places = [i for i in range(0, len(pieces), 2) if pieces[i]]
    for i in rng.sample(places, _n_places(strength, len(places))):
        pieces[i] = rng.choice(vocabulary)
    return "".join(pieces)


def typos(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Characters are inserted, deleted, or swapped with the next, one in three each."""
    letters = list(text)
    for _ in range(_n_places(strength, len(letters))):
        i, kind = rng.randrange(len(letters)), rng.randrange(3)
        if kind == 0:
            letters.insert(i, rng.choice("etaoinshrdlu"))
        elif kind == 1 and len(letters) > 1:
            del letters[i]
        elif i + 1 < len(letters):
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters)


def look_alikes(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Latin letters become the Cyrillic ones that are drawn like them."""
    letters = list(text)
    places = [i for i, letter in enumerate(letters) if letter in LOOK_ALIKES]
    for i in rng.sample(places, min(len(places), _n_places(strength, len(letters)))):
        letters[i] = LOOK_ALIKES[letters[i]]
    return "".join(letters)


def sentences_moved(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Sentences or lines are taken out and put in elsewhere."""
    sentences = re.split(r"(?<=[.!?\n])\s+", text)
    for _ in range(_n_places(strength, len(sentences))):
        moved = sentences.pop(rng.randrange(len(sentences)))
        sentences.insert(rng.randrange(len(sentences) + 1), moved)
    return " ".join(sentences)


def preamble(text: str, strength: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Other words stand before the text."""
    return " ".join([*rng.choices(vocabulary, k=_n_places(strength, len(text.split()))), text])


def postscript(text: str, strength: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Other words stand after the text."""
    return " ".join([text, *rng.choices(vocabulary, k=_n_places(strength, len(text.split())))])


def part_cut(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """One stretch is gone: the beginning, the end, or one between them."""
    n = _n_places(strength, len(text))
    start = rng.choice((0, len(text) - n, rng.randrange(len(text) - n + 1)))
    return text[:start] + text[start + n :]


EDITS: dict[str, Edit] = {
    "words replaced": words_replaced,
    "typos": typos,
    "look-alike letters": look_alikes,
    "sentences moved": sentences_moved,
    "preamble": preamble,
    "postscript": postscript,
    "part cut": part_cut,
}
