"""What the leak guard reads of a text: its words, and the same words in plain letters.

Case, Unicode forms (NFKC), white space, punctuation, emoji and characters that cannot be seen make no difference
to `words`. `plain` also takes letters of other scripts that look like Latin ones for those.
It knows nothing of other texts.
"""

from __future__ import annotations

import re
import unicodedata

# Whatever is not ASCII was made a word's character or a separator before this is applied. A hyphen or a
# star before a number may be an operator; elsewhere it is punctuation, a bullet or emphasis.
_WORD = re.compile(r"[a-z0-9\x80-\U0010ffff]+|[+=$]+|[-*/%^<>](?=\s*\d)")
_SIGN = re.compile(r"[+=$]|[-*/%^<>]\s*\d")
_SPACED = {code: " " for code in range(128) if not chr(code).isalnum()}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def words(text: str) -> str:
    """The words of `text` in order, in lower case, joined by one space.

    Words of their own are `+`, `=`, currency and mathematical signs, and `- * / % ^ < >` in front of a number.
    In scripts written without spaces (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese) every character is one.
    """
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        folded = _NOT_ASCII.sub(lambda run: run.group().translate(_SEPARATED), folded)
    if _SIGN.search(folded):
        return " ".join(_WORD.findall(folded))
    return " ".join(folded.translate(_SPACED).split())  # the same where there is none, several times quicker


def fold_case(text: str) -> str:
    """`text` in one Unicode form and without case, otherwise as written but for white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def plain(text: str) -> str:
    """`text` with look-alike letters as Latin ones ; ASCII text as it is."""
    if text.isascii():
        return text
    return _NOT_ASCII.sub(lambda run: run.group().translate(_LATIN), unicodedata.normalize("NFKC", text))


def _table(*rows: tuple[str, str]) -> dict[int, str]:
    return {ord(other): latin for latin, others in rows for other in others}


# Letters that a reader takes for Latin ones (Unicode's confusables, those that need no look at the font), a
# small capital for its letter. Full-width and mathematical letters are NFKC's affair.
_LATIN = _table(
    ("A", "\u0391\u0410\u13aa\ua4ee"),
    ("B", "\u0392\u0412\u13f4\ua4d0"),
    ("C", "\u0421\u03f9\u13df\ua4da"),
    ("D", "\u13a0\ua4d3"),
    ("E", "\u0395\u0415\u13ac\ua4f0"),
    ("F", "\u03dc\ua4dd"),
    ("G", "\u050c\u13c0\ua4d6"),
    ("H", "\u0397\u041d\u13bb\ua4e7"),
    ("I", "\u0399\u0406\u04c0\ua4f2"),
    ("J", "\u0408\u037f\u13ab\ua4d9"),
    ("K", "\u039a\u041a\u13e6\ua4d7"),
    ("L", "\u13de\ua4e1"),
    ("M", "\u039c\u041c\u13b7\ua4df"),
    ("N", "\u039d\ua4e0"),
    ("O", "\u039f\u041e\u0555\ua4f3"),
    ("P", "\u03a1\u0420\u13e2\ua4d1"),
    ("Q", "\u051a"),
    ("R", "\u13a1\ua4e3"),
    ("S", "\u0405\u054f\u13da\ua4e2"),
    ("T", "\u03a4\u0422\u13a2\ua4d4"),
    ("U", "\u054d\ua4f4"),
    ("V", "\u0474\u13d9\ua4e6"),
    ("W", "\u051c\u13b3\ua4ea"),
    ("X", "\u03a7\u0425\ua4eb"),
    ("Y", "\u03a5\u0423\u04ae\ua4ec"),
    ("Z", "\u0396\u13c3\ua4dc"),
    ("a", "\u0251\u03b1\u0430\u1d00"),
    ("b", "\u0432\u0184\u0299\u042c\u044c"),
    ("c", "\u03f2\u0441\u1d04"),
    ("d", "\u0501\u0257\u1d05"),
    ("e", "\u0435\u212e\u04bd\u1d07"),
    ("f", "\ua730\u0192\u1e9d"),
    ("g", "\u0261\u0581\u0262\u018d"),
    ("h", "\u04bb\u0570\u043d\u029c"),
    ("i", "\u0131\u03b9\u0456\u0269\u026a\u04cf"),
    ("j", "\u0458\u03f3\u1d0a"),
    ("k", "\u043a\u03ba\u1d0b"),
    ("l", "\u01c0\u029f\u217c"),
    ("m", "\u043c\u1d0d"),
    ("n", "\u0578\u057c\u03b7\u0274"),
    ("o", "\u03bf\u043e\u03c3\u0585\u1d0f\u00f8"),
    ("p", "\u0440\u03c1\u1d18"),
    ("q", "\u051b\u0563\u0566"),
    ("r", "\u0433\u0280\u1d26"),
    ("s", "\u0455\ua731\u01bd"),
    ("t", "\u0442\u03c4\u1d1b"),
    ("u", "\u03c5\u057d\u028b\u1d1c"),
    ("v", "\u03bd\u0475\u1d20"),
    ("w", "\u051d\u0461\u026f\u1d21"),
    ("x", "\u0445\u03c7\u04b3"),
    ("y", "\u0443\u03b3\u04af\u028f\u0263"),
    ("z", "\u1d22\u0290"),
)

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
        if category == "Cf" or is_variation_selector or code in _UNSEEN:
            # Soft hyphens, joiners and byte order marks stand inside words and cannot be seen.
            replacement = ""
        elif category == "Pd" or code == 0x2212:
            replacement = "-"  # a minus sign before a number, in whatever length it is written
        elif category in ("Sm", "Sc") or any(code in block for block in _UNSPACED):
            replacement = f" {character} "
        else:
            replacement = character if category[0] in "LMN" else " "
        return self.setdefault(code, replacement)


_UNSEEN = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)
"""Fillers and joiners that Unicode calls letters or marks, and that are not drawn."""

_SEPARATED = _Separated()
