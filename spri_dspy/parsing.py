"""Read a score or a choice out of what a critic or judge wrote.

One reader for the whole project. It knows the shapes that real critics produce and nothing of models,
stages or files. It never guesses: a text that states no score, half a score (`4.5`) or a score on
another scale (`10` of 5, `80/100`) gives None, and None is asked again or dropped by whoever called.
Both readers take time linear in the text.

How `read_score` decides:

1. Only the text after the last `</think>` counts, and of that the last 200,000 characters.
2. Statements have four strengths, and the strongest kind that states anything decides:
   a tag (`[RESULT] 4`, `<score>4</score>`, `[Score: 4]`, `"score": 4`); a labelled overall score
   (`Overall Score: 4`, `final score is 4`); a labelled score (`Score: 4 out of 5`); a last line that
   holds little else (`4`, `(4)`, `**4**`, `4/5`).
3. Within that kind the last statement decides, also where earlier ones differ: critics weigh before
   they conclude. Of tags the first decides: what follows a tag is a model that runs on. (On 326 recorded
   judgements whose tags differ, the first agrees with people, the last does not; see benchmarks/LOG.md.)
   A statement whose number is no whole number within the scale is a statement all the
   same, so `[RESULT] 4 ... [RESULT] 4.5` is None. A tag that holds no number (`<score>A</score>`, an
   echoed `[YOUR SCORE]`) or only the scale itself (`1-5`) states nothing.
4. What is quoted is another's statement: in a fence, a block of lines that begin with `>`, backticks or quotation
   marks, closed or cut off. See `own_words`. JSON or a tag in a fence that begins or ends the text is the author's
   own, unless another score stands outside it: then there is none.
5. A ladder is no statement: every score of the scale in order, up or down, is a rubric being quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spri_dspy.quotations import OVERALL, TAG, own_blocks, own_words, unwrapped, without_quotes

_LONGEST = 200_000
"""Characters of a text that are read."""

_PHRASE = re.compile(
    rf"(?<!\w)(?P<overall>{OVERALL}\s{{1,4}})?(?:score|rating)"
    r"(?:[ \t]{0,4}[(\[][^()\[\]\n]{0,40}[)\]])?"  # the scale between label and colon: "Score (1-5): 4"
    r"[*_\"'`)\]\s]{0,8}(?:[:=：]|\s[-–—]\s|(?=\n)|(?P<verb>\b(?:is|of)\s))",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[sſrSR](?i:core|ating|esult)")
_OPENED = re.compile(r"[\[<\"][^\[<\"]{0,15}\Z")
_OVERALL_BEFORE = re.compile(rf"(?<!\w){OVERALL}\s{{1,4}}\Z", re.IGNORECASE)
_BOUND = re.compile(
    r"(?:max|maximum|min|minimum|highest|lowest|possible|perfect|top)[\s_-]{1,4}\Z", re.IGNORECASE
)
_NUMBER = re.compile(
    r"(?P<lead>[\s\[\](){}<>\"'`*_#:=：]{0,40})(?P<sign>[+\-−–]?)"
    r"(?P<whole>[0-9]{1,9})(?:(?P<point>[.,])(?P<fraction>[0-9]{1,9}))?"
)
_RANGE = re.compile(r"[ \t]{0,4}(?:[-–—~|,]|to\b|or\b|and\b)[ \t]{0,4}(?P<other>[0-9]{1,9})")
_OUT_OF = re.compile(
    r"[*_ \t]{0,4}(?:(?:points?|stars?)[ \t]{1,4})?(?:/|(?:out[ \t]{1,4})?of\b)[ \t]{0,4}"
    r"(?P<high>[0-9]{1,9})(?:\.0{1,9})?(?![0-9/]|\.[0-9])"
)
_SPOILED = re.compile(
    r"[\w/%½¼¾⅓⅔]|[.,][0-9]|[ \t]{1,4}[0-9½¼¾⅓⅔%]|[ \t]{0,4}(?:[<>≤≥=→]|->|=>|!=){1,2}[ \t]{0,4}[0-9]"
)
_LINE_END = re.compile(r"[^\w\n]{0,20}(?:\n|\Z|</)")
_TOLERATED = r"[\s*_#>\[\](){}\"'`=:]{0,20}"
_LAST_LINE = re.compile(
    rf"{_TOLERATED}(?P<label>(?:(?:{OVERALL}|my)\s{{1,4}})?(?:score|rating|result|grade|verdict|answer)\b)?"
    rf"{_TOLERATED}(?P<number>[0-9]{{1,9}}(?:\.0{{1,9}})?)"
    rf"(?P<scale>[ \t]{{0,4}}(?:/|out of)[ \t]{{0,4}}(?P<high>[0-9]{{1,9}}))?(?P<stop>[.!)]?){_TOLERATED}\Z",
    re.IGNORECASE,
)
_LINE_TAIL = re.compile(
    r"(?<![\w./,-])(?P<mark>\*\*)?(?P<number>[0-9]{1,9}(?:\.0{1,9})?)"
    r"(?P<scale>[ \t]{0,4}(?:/|out of)[ \t]{0,4}(?P<high>[0-9]{1,9}))?(?(mark)\*\*)[.!)\]\"'*_]{0,4}\Z",
    re.IGNORECASE,
)
_PUBLISHED = re.compile(r"\[RESULT\][^0-9]{0,40}([0-9])")


def read_score(text: str, low: int = 1, high: int = 5) -> int | None:
    """Read the score that a text states, low to high inclusive, or None if it states none.

    `4.0` is 4; `4.5`, `4,5`, `4-5`, `-4` and any other scale (`8/10` where high is 5) are None. A bare
    `score of 4` in running text is not a statement: critics also write what a score of 4 would take.
    Never raises on any string. See the module's text for which statement wins.
    """
    answer = unwrapped(text[-_LONGEST:].rpartition("</think>")[2])
    own = own_blocks(answer)
    stated = _labelled(own, low, high)
    outside = own_blocks(answer, at_ends_too=True) if stated else own
    if outside != own:  # a fence may hold the answer or a quotation
        others = _labelled(outside, low, high)
        stated = stated if not others or others == stated else [None]
    return stated[0] if stated else _read_last_line(without_quotes(own)[1], low, high)


def _labelled(text: str, low: int, high: int) -> list[int | None]:
    """The statement that decides, of a tag or a label, in a text without quoted blocks; [] if there is none."""
    without_closed, without_any = without_quotes(text)
    tags = _without_ladders(list(_tags(without_closed, low, high)), low, high)
    if tags:
        return tags[:1]
    phrases = list(_phrases(without_any, low, high))
    for is_overall in (True, False):
        stated = _without_ladders([score for overall, score in phrases if overall is is_overall], low, high)
        if stated:
            return stated[-1:]
    return []


def read_score_as_published(text: str) -> int | None:
    """Read a critique as the released experiment did: the first digit after `[RESULT]`, 1 to 5, or None.

    Quirk: `[RESULT] 4.5` is 4 and `[RESULT] 10` is 1. Only for replaying recorded runs; the recordings
    hold no critique with two tags, so which of two would win is not known. The first is read here, as the
    released judgements' scores were. Source: the recorded runs of the released experiment.
    """
    found = _PUBLISHED.search(text)
    return int(found[1]) if found and 1 <= int(found[1]) <= 5 else None


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """Read which of a few answers a text gives, spelled as in `choices`, or None.

    Case and markup do not matter, and the longest choice wins where one is part of another ("Not Harmful"
    over "Harmful"). Read are: a text that is nothing else; the last labelled answer (`Answer: No`,
    `<answer>No</answer>`, `[RESULT] No`); else the first words, if a stop or the line's end follows
    (`Yes, because ...`), and the last line, if it is nothing else. First words and last line that differ
    are None. A choice somewhere in running text is never read: "no" is a common word.
    """
    spelled = {" ".join(choice.casefold().split()): choice for choice in choices}
    if not spelled:
        return None
    answer = own_words(text[-_LONGEST:].rpartition("</think>")[2].strip())
    longest_first = sorted(spelled, key=len, reverse=True)
    alternatives = [r"\s{1,4}".join(map(re.escape, c.split())) for c in longest_first]
    choice = rf"(?P<choice>{'|'.join(alternatives)})"
    label = r"(?:(?:final )?answer|result|verdict|label|choice|judge?ment)"
    labelled = rf"(?:\[{label}\]|<{label}>|(?<!\w){label}[*_\"'`]{{0,3}}[:=])[\s\[\](){{}}\"'`*_:]{{0,9}}"
    mark = r"[\s\[\](){}<>\"'`*_#.:]{0,9}"
    stop = r"[*_\"'`)\]]{0,4}(?:[.,;:!]|\s[-–—]\s|\n|\Z)"

    def read(match: re.Match[str] | None) -> str | None:
        return None if match is None else spelled[" ".join(match["choice"].casefold().split())]

    found = [*re.finditer(labelled + choice + r"(?!\w)", answer, re.IGNORECASE)]
    if found:
        return read(found[-1])
    first = read(re.match(mark + choice + stop, answer, re.IGNORECASE))
    last = read(re.fullmatch(mark + choice + r"(?!\w)" + mark, _last_line(answer), re.IGNORECASE))
    return (first or last) if first is None or last is None or first == last else None


DEEPEST = 20
"""Brackets in brackets that any answer needs."""

LONGEST_REPAIR = 20_000
"""Characters of damaged JSON that are repaired; that takes about a second at worst."""

MOST_BRACKETS = 100_000
"""Brackets of one text; more are no answer."""

MOST_OBJECTS = 100
"""Objects of one text that are read."""

_JSON = json.JSONDecoder(strict=False)


def read_objects(text: str) -> list[dict[str, Any]]:
    """Read the JSON objects that stand in a text one after another, and pass over what stands around them.

    One that is cut off inside its last text is closed; a text that is damaged otherwise is repaired if it is short.

    Raises:
        ValueError: there is none, it nests deeper than DEEPEST, or is damaged and longer than LONGEST_REPAIR.
    """
    text = text[text.find("{") if "{" in text else len(text) :].rstrip()
    if not text:
        raise ValueError("no JSON object")
    check_nesting(text)
    found: list[Any] = []
    at = 0
    while len(found) < MOST_OBJECTS and (at := text.find("{", at)) >= 0:
        value, at = _decoded(text, at)
        if value is None:
            break
        found.append(value)
    is_damaged = at >= 0 and len(found) < MOST_OBJECTS
    if is_damaged and len(text) <= LONGEST_REPAIR:
        import json_repair

        try:
            repaired: Any = json_repair.loads(text)
        except RecursionError:
            raise ValueError("damaged JSON, and too deep to be repaired") from None
        found = repaired if isinstance(repaired, list) else [repaired]
    elif not found:
        raise ValueError("damaged JSON, and too long to be repaired")
    return [each for each in found if isinstance(each, dict)]


def is_damaged(text: str) -> bool:
    """True if the first JSON object of a text is cut off or otherwise no JSON."""
    try:
        _JSON.raw_decode(text, max(text.find("{"), 0))
    except (ValueError, RecursionError):
        return True
    return False


def check_nesting(text: str) -> None:
    """Refuse a text that no answer needs and that takes minutes to repair.

    Raises:
        ValueError: its brackets nest deeper than DEEPEST, or are more than MOST_BRACKETS.
    """
    depth = 0
    for number, bracket in enumerate(re.finditer(r"[][{}]", text), 1):
        depth = max(depth + (1 if bracket[0] in "[{" else -1), 0)
        if depth > DEEPEST:
            raise ValueError(f"brackets nest deeper than {DEEPEST}")
        if number > MOST_BRACKETS:
            raise ValueError(f"more than {MOST_BRACKETS:,} brackets")


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """The object at a place, closed if it is cut off inside its last text, and its end; None for a damaged one."""
    for end in ("", '"}', "}"):
        try:
            return _JSON.raw_decode(text + end if end else text, at)
        except (ValueError, RecursionError):  # texts with brackets in them may hide how deep a nest is
            continue
    return None, at


def is_degenerate(text: str, *, is_cut_off: bool = False) -> bool:
    """True if a text ends in a group of characters repeated on and on, as a model writes that has lost its way.

    The repetition covers at least 300 characters and holds at least 6 copies of the group (`[#] [#] [#] ...`, a line or
    a sentence over and over); the last copy may be cut off. Looks at the last 8,000 characters; time is linear in them.

    Args:
        text: an answer, or a part of one.
        is_cut_off: it ended because it may not be longer: then 100 characters and 3 copies are enough, for it would
            have gone on.
    """
    least, copies = (100, 3) if is_cut_off else (300, 6)
    tail = text[-_TAIL:].rstrip()
    # The quick look settles nearly all.
    if len(tail) < least or tail.count(tail[-12:]) < copies - 1:
        return False
    # Borders: of each prefix, the longest proper prefix that also ends it.
    backwards, borders = tail[::-1], [0]
    for length in range(1, len(backwards)):
        border = borders[-1]
        while border and backwards[length] != backwards[border]:
            border = borders[border - 1]
        border += backwards[length] == backwards[border]
        borders.append(border)
        covered, period = length + 1, length + 1 - border
        if covered >= least and covered >= copies * period:
            return True
    return False


_TAIL = 8_000


def _tags(text: str, low: int, high: int) -> Iterator[int | None]:
    """Every number that a tag states, in order; None for one that is no score on this scale."""
    end = 0
    for word in _WORDS.finditer(text):  # trying the pattern at every place takes ten times as long
        opened = _OPENED.search(text, max(end, word.start() - 16), word.start())
        tag = TAG.match(text, opened.start()) if opened else None
        if tag:
            end = tag.end()
            yield from _stated(text, end, low, high)


def _phrases(text: str, low: int, high: int) -> Iterator[tuple[bool, int | None]]:
    """Every number that a labelled score states, and whether it is an overall one."""
    end = 0
    for word in _WORDS.finditer(text):
        if word.start() < end:
            continue
        overall = _OVERALL_BEFORE.search(text, max(end, word.start() - 11), word.start())
        phrase = _PHRASE.match(text, overall.start() if overall else word.start())
        if phrase is None:
            continue
        end = phrase.end()
        is_overall = phrase["overall"] is not None
        if phrase["verb"] and not is_overall:
            continue
        for score in _stated(text, end, low, high):
            if not _BOUND.search(text[max(0, phrase.start() - 14) : phrase.start()]):
                yield is_overall, score


def _stated(text: str, start: int, low: int, high: int) -> Iterator[int | None]:
    """Nothing if no number stands at `start`, else one item: the score, or None if it is no score."""
    number = _NUMBER.match(text, start)
    if number is None:
        return
    end = number.end()
    out_of = _OUT_OF.match(text, end)
    spread = None if out_of else _RANGE.match(text, end)
    if spread and (int(number["whole"]), int(spread["other"])) == (low, high):
        return
    if "\n" in number["lead"] and not _LINE_END.match(text, out_of.end() if out_of else end):
        return  # on a line of its own a number followed by words opens a list or a sentence
    if spread or (out_of and int(out_of["high"]) != high) or (not out_of and _SPOILED.match(text, end)):
        yield None
        return
    is_whole = not number["point"] or (number["point"] == "." and int(number["fraction"]) == 0)
    score = int(number["whole"])
    yield score if is_whole and number["sign"] in ("", "+") and low <= score <= high else None


def _without_ladders(stated: list[int | None], low: int, high: int) -> list[int | None]:
    """The statements less every run that climbs or descends the whole scale one by one."""
    rising = list(range(low, high + 1))
    width = len(rising)
    if width < 3:
        return stated
    kept: list[int | None] = []
    for score in stated:
        kept.append(score)
        if kept[-width:] in (rising, rising[::-1]):
            del kept[-width:]
    return kept


def _last_line(text: str) -> str:
    """The last line that is not blank, at most its last 200 characters."""
    stripped = text.rstrip()
    return stripped[max(stripped.rfind("\n") + 1, len(stripped) - 200, 0) :]


def _read_last_line(text: str, low: int, high: int) -> int | None:
    """The score of a last line that is little more than a score."""
    line = _last_line(text)
    match = _LAST_LINE.match(line)
    if match and match["stop"] in (".", ")") and not (match["label"] or match["scale"] or "(" in line):
        # "4." is a score as a whole answer, but the start of a cut-off list at the end of a longer one.
        match = match if line.strip() == text.strip() else None
    match = match or _LINE_TAIL.search(line)
    if match is None or (match.re is _LINE_TAIL and not (match["mark"] or match["scale"])):
        return None
    score = int(match["number"].split(".")[0])
    return score if low <= score <= high and (not match["scale"] or int(match["high"]) == high) else None
