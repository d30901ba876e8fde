"""Edits that a copied text may have undergone, by kind and strength: what the leak guard must see through.

Each edit takes a text, a strength in (0, 1] (the share of the text that it touches; at least one place), a generator
and words to write with, and returns the edited text; the same generator state gives the same text.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence

Edit = Callable[[str, float, random.Random, Sequence[str]], str]

LOOK_ALIKES = dict(zip("aceopxyisjhdAEOPCTHBKMX", "асеорхуіѕјһԁАЕОРСТНВКМХ", strict=True))
"""Latin letters and the Cyrillic ones that are drawn like them."""


def _n_places(strength: float, n: int) -> int:
    return min(n, max(1, round(strength * n)))


def case_changed(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Letters change their case."""
    return _letters_changed(text, strength, rng, str.isalpha, str.swapcase)


def spaces_changed(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """White space between words is doubled, broken, of another kind, or (one in five) gone."""
    pieces = re.split(r"(\s+)", text)
    places = range(1, len(pieces), 2)
    for i in rng.sample(places, min(len(places), _n_places(strength, len(places)))):
        pieces[i] = rng.choice(("  ", "\n", "\t", "\u00a0", ""))
    return "".join(pieces)


def unicode_forms(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Letters become full-width or mathematical ones, accents stand apart from their letters."""
    text = unicodedata.normalize("NFD", text)
    forms = (lambda a: chr(ord(a) + 0xFEE0), lambda a: chr(ord(a) - 97 + 0x1D41A))
    return _letters_changed(text, strength, rng, lambda a: "a" <= a <= "z", lambda a: rng.choice(forms)(a))


def zero_width(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Characters that cannot be seen stand before letters."""
    unseen = "\u200b\u200c\u200d\u2060\u00ad\ufeff"
    return _letters_changed(text, strength, rng, lambda _: True, lambda a: rng.choice(unseen) + a)


def quotes_changed(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Quotes, dashes and dots take typographic forms throughout; words here and there stand in quotes."""
    text = text.translate({ord("'"): "\u2019", ord('"'): "\u201d", ord("-"): "\u2013"}).replace(
        "...", "\u2026"
    )
    pieces = re.split(r"(\s+)", text)
    places = [i for i in range(0, len(pieces), 2) if pieces[i]]
    for i in rng.sample(places, _n_places(strength, len(places))):
        pieces[i] = f"\u201c{pieces[i]}\u201d"
    return "".join(pieces)


def _letters_changed(
    text: str,
    strength: float,
    rng: random.Random,
    is_place: Callable[[str], bool],
    change: Callable[[str], str],
) -> str:
    letters = list(text)
    places = [i for i, letter in enumerate(letters) if is_place(letter)]
    for i in rng.sample(places, min(len(places), _n_places(strength, len(letters)))):
        letters[i] = change(letters[i])
    return "".join(letters)


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
    return _letters_changed(text, strength, rng, LOOK_ALIKES.__contains__, LOOK_ALIKES.__getitem__)


def sentences_moved(text: str, strength: float, rng: random.Random, _vocabulary: Sequence[str]) -> str:
    """Sentences or lines are taken out and put in elsewhere."""
    sentences = re.split(r"(?<=[.!?\n])\s+", text)
    for _ in range(_n_places(strength, len(sentences))):
        moved = sentences.pop(rng.randrange(len(sentences)))
        sentences.insert(rng.randrange(len(sentences) + 1), moved)
    return " ".join(sentences)


def passages_rewritten(text: str, strength: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Passages of ten words in different places become other words."""
    words = text.split()
    n = _n_places(strength, len(words))
    for start in range(0, n, 10):
        _rewrite(words, min(10, n - start), rng, vocabulary)
    return " ".join(words)


def passage_rewritten(text: str, strength: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """One passage becomes other words."""
    words = text.split()
    _rewrite(words, _n_places(strength, len(words)), rng, vocabulary)
    return " ".join(words)


def _rewrite(words: list[str], n: int, rng: random.Random, vocabulary: Sequence[str]) -> None:
    start = rng.randrange(len(words) - n + 1)
    words[start : start + n] = rng.choices(vocabulary, k=n)


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
    "case": case_changed,
    "spaces": spaces_changed,
    "unicode forms": unicode_forms,
    "zero-width": zero_width,
    "quotes": quotes_changed,
    "words replaced": words_replaced,
    "typos": typos,
    "look-alike letters": look_alikes,
    "sentences moved": sentences_moved,
    "passages rewritten": passages_rewritten,
    "one passage rewritten": passage_rewritten,
    "preamble": preamble,
    "postscript": postscript,
    "part cut": part_cut,
}
