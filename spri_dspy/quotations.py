"""What an author says in his own words, and what he quotes: a critic may quote what it judges, with a score in it.

Markdown's fences and block quotes, the fences of judges' prompts, backticks and quotation marks. Every repetition in
these patterns is bounded, so that looking takes time linear in the text. It knows no scale; it reads no score.
"""

from __future__ import annotations

import re

_WORD = r"(?:score|rating|result)"
OVERALL = r"(?:overall|final|total)"

TAG = re.compile(
    rf"\[\s{{0,4}}(?:{OVERALL}\s{{1,4}})?{_WORD}\s{{0,4}}(?:\]|[:=]|(?=\s[+-]?[0-9.,]{{1,9}}\s{{0,4}}\]))"
    rf"|<\s{{0,4}}(?:{OVERALL}[\s_-]{{1,4}})?{_WORD}(?:\s[^<>\n]{{0,40}})?>"
    rf'|"(?:{OVERALL}[\s_-])?{_WORD}"\s{{0,8}}:',
    re.IGNORECASE,
)
_BLOCK_MARKS = ("```", "~~~", ">", "<<<")
_INLINE_MARKS = ("`", "~~~", '"', "“", "„", "«", "‹", "「", "'", "‘")
_MARK = re.compile("[`~><\"“„«‹「'‘]")  # what every one of these begins with
_PAIRS = ('""', "“”", "«»", "``", "''", "‘’")
_FENCE_LINE = re.compile(r"^[ \t]{0,8}(?:`{3}|~{3})", re.MULTILINE)
_WHOLE_FENCE = re.compile(r"(?:`{3}|~{3})[^\n]{0,40}\n(?P<inside>.*)\n[ \t]{0,8}(?:`{3}|~{3})", re.DOTALL)
_JSON_FENCE = re.compile(
    r"[ \t]{0,8}(?:`{3,9}|~{3,9})[ \t]{0,4}(?:json[0-9c]?)?\s{0,9}(?:\{|\[\s{0,9}\{)", re.IGNORECASE
)
_BLOCK = re.compile(
    r"^[ \t]{0,8}(?P<fence>`{3,20}|~{3,20})[^\n]*\n"
    r"(?:(?![ \t]{0,8}(?P=fence)[`~ \t]{0,20}$)[^\n]*(?:\n|\Z))*(?:[ \t]{0,8}(?P=fence)[^\n]*)?"
    r"|^[ \t]{0,8}<<<[ \t](?P<code>[0-9a-f]{12})\n"  # the fence of a judge's prompt
    r"(?:(?!(?P=code)[ \t]>>>)[^\n]*(?:\n|\Z))*(?:(?P=code)[ \t]>>>)?"
    r"|(?:^[ \t]{0,8}(?:[-*+][ \t]{1,4}|[0-9]{1,3}[.)][ \t]{1,4})?>[^\n]*(?:\n|\Z))+",
    re.MULTILINE,
)
_PARAGRAPH = r"|\n(?!\s{0,20}\n)"
_INLINE = re.compile(
    # Each branch begins with its mark: that is what makes looking for them quick. Closed ones may span paragraphs.
    r"(?:`[^`\n]{1,2000}"
    r"|\"(?<![\w\"]\")(?=\S)(?:[^\"\\]|\\.){1,2000}(?<=\S)(?=\"(?!\w))"
    rf"|\"(?<![\w\"]\")(?=\S)(?:[^\"\\\n]|\\.{_PARAGRAPH}){{1,2000}}"
    rf"|“(?:[^”]{{1,2000}}(?=”)|(?:[^”\n]{_PARAGRAPH}){{1,2000}})"
    rf"|„(?:[^“”]{{1,2000}}(?=[“”])|(?:[^“”\n]{_PARAGRAPH}){{1,2000}})"
    rf"|«(?:[^»]{{1,2000}}(?=»)|(?:[^»\n]{_PARAGRAPH}){{1,2000}})"
    rf"|‹(?:[^›]{{1,2000}}(?=›)|(?:[^›\n]{_PARAGRAPH}){{1,2000}})"
    rf"|「(?:[^」]{{1,2000}}(?=」)|(?:[^」\n]{_PARAGRAPH}){{1,2000}})"
    r"|‘(?:[^‘’\n]|(?<=\w)’(?=\w)){1,300}(?=’)"
    r"|'(?<![\w']')(?=\S)(?:[^'\n]|(?<=\w)'(?=\w)){1,300}(?='))"
    r"(?P<end>[`\"”“»›」’'])?"
)
_STATEMENT = re.compile(
    r"(?:score|rating|result|grade|verdict|answer|label|choice|judge?ment)s?\b"
    r"(?:[^\n]{0,60}(?:[0-9:=\]>]|\bis\b)|[^\n]{0,20}\n[^\n]{0,20}[0-9])",
    re.IGNORECASE,
)


def own_words(text: str) -> str:
    """The text with blanks in place of every quotation that states a score or an answer; as long as it was.

    Quotations are fences, blocks of lines that begin with `>`, and what stands in backticks or quotation marks; one
    without a statement stays (`Score: "4"`), as does a fence of JSON or a tag that begins or ends the text.
    What is never closed quotes to the end of the text, of its paragraph or of its line. A text that is quoted as a
    whole is its author's own.
    """
    return without_quotes(own_blocks(unwrapped(text)))[1] if _MARK.search(text) else text


def own_blocks(text: str, *, at_ends_too: bool = False) -> str:
    """The same for quotations of whole lines alone: fences, and lines that begin with `>`.

    Args:
        text: what a critic or judge wrote.
        at_ends_too: take fences of JSON or a tag that begin or end the text for quotations, too.
    """
    if not any(mark in text for mark in _BLOCK_MARKS):
        return text

    first, last = len(text) - len(text.lstrip()), len(text.rstrip())

    def blank(block: re.Match[str]) -> str:
        if not block["fence"]:
            return _blank(block)
        is_last = block.end() >= last and block[0].rstrip().endswith(block["fence"])
        is_answer = (is_last or block.start() <= first) and (
            _JSON_FENCE.match(block[0]) or TAG.search(block[0])
        )
        return block[0] if is_answer and not at_ends_too else _blank(block)

    return _BLOCK.sub(blank, text)


def without_quotes(text: str) -> tuple[str, str]:
    """The text with blanks for quotations inside lines: for those that are closed, and for all."""
    if not any(mark in text for mark in _INLINE_MARKS):
        return text, text
    closed, every, end = list[str](), list[str](), 0
    for quote in _INLINE.finditer(text):
        blank = _blank(quote)
        if blank is not quote[0]:
            before = text[end : quote.start()]
            closed += (before, blank if quote["end"] else quote[0])
            every += (before, blank)
            end = quote.end()
    return ("".join([*closed, text[end:]]), "".join([*every, text[end:]])) if end else (text, text)


def unwrapped(text: str) -> str:
    """The text with blanks for a fence or marks that hold all of it."""
    inside = _whole_quotation(text) if any(mark in text for mark in _INLINE_MARKS) else None
    if inside is None:
        return text
    at = text.index(inside)
    return " " * at + unwrapped(inside) + " " * (len(text) - at - len(inside))


def _whole_quotation(text: str) -> str | None:
    """What stands inside, where one fence or one pair of marks holds the whole text."""
    body = text.strip()
    fence = _WHOLE_FENCE.fullmatch(body)
    if fence and not _FENCE_LINE.search(fence["inside"]):
        return fence["inside"]
    inside = body[1:-1]
    is_whole = len(body) > 1 and body[0] + body[-1] in _PAIRS and not {body[0], body[-1]} & set(inside)
    return inside if is_whole else None


def _blank(quotation: re.Match[str]) -> str:
    """A quotation as blanks if it states something, else as it is."""
    said = quotation[0]
    return re.sub(r"\S", " ", said) if _STATEMENT.search(said) else said
