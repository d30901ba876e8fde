"""The text work of the offline stand-in: salient words, drafts, critiques, refinements, replies, rubrics.

Plain rules over plain strings, deterministic: the same texts and the same `roll` give the same words. It
knows nothing of prompts, engines or tasks, has no facts, and of grammar only short English word lists.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from spri_dspy.lms.offline_words import (
    AIM,
    LADDER,
    MODIFIERS,
    NO_REPLY,
    NO_TOPIC,
    OPENINGS,
    OWNERS,
    PLANS,
    REPLIES,
    STOP,
    VAGUE,
)

Roll = Callable[[str], int]
"""A whole number >= 0 for a name; the same name gives the same number within one prompt."""

READ = 20_000
"""Characters of a text that are worth reading; callers cut longer ones, so that a megabyte costs milliseconds."""

_TOKEN = re.compile(r"[^\W\d_](?:[\w'’-]*\w)?|[.!?,;:()\n]")
_BULLET = re.compile(r"\s*((?:[-*•])(?=\s)|\(?\d{1,2}[.)](?!\d))\s*")
_FIRST_PERSON = re.compile(r"\b(?:I|[Mm]y|me)\b")
_EMPTY = STOP | MODIFIERS
_MISSING = "does not mention: "


class Topic(NamedTuple):
    """A salient word: stem, spelling, and how it stood: "my" (somebody's own), "the", or "" (bare)."""

    stem: str
    word: str
    owner: str = ""

    def said(self, whose: str) -> str:
        """The word with what it needs in front of it; `whose` is "your", "their" or "the"."""
        if self.owner:
            return f"{whose if self.owner == 'my' else 'the'} {self.word}"
        return self.word if self.word[0].isupper() or self.word.endswith("s") else f'"{self.word}"'


class Reading(NamedTuple):
    """What a critique measured: quality in [0, 1] and feedback in words, never empty."""

    quality: float
    feedback: str


def _stem(word: str) -> str:
    word = word.casefold().replace("’", "'").removesuffix("'s")
    for suffix in ("ing", "ed", "es", "s", "ly"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix)
    return word


def _is_content(word: str) -> bool:
    low = word.casefold().replace("’", "'")
    return len(low) > 2 and low.partition("'")[0] not in _EMPTY and "n't" not in low


@lru_cache(2048)
def _stems(text: str) -> frozenset[str]:
    return frozenset(_stem(w) for w in _TOKEN.findall(text) if _is_content(w))


@lru_cache(1024)
def salient(text: str) -> tuple[Topic, ...]:
    """The salient words of a text, heaviest first, at most 40; () if it has none.

    A word weighs more if it recurs and if it is long, and much more if it stands where a noun stands: at the
    end of one or two content words behind an article or a possessive ("my driving test").
    """
    weight: Counter[str] = Counter()
    known: dict[str, Topic] = {}
    owner, row, opens = "", [], True
    for token in (*_TOKEN.findall(text), "."):
        if _is_content(token):
            word = token.replace("’", "'").removesuffix("'s")
            stem = _stem(word)
            # What opens a sentence is often a verb, and its capital says nothing.
            weight[stem] += min(len(word), 9) if len(word) > 3 and not opens else 0
            known.setdefault(stem, Topic(stem, word.casefold() if opens else word))
            row.append(word)
            opens = False
            continue
        low = token.casefold()
        opens = token in ".!?:\n"
        if owner and 0 < len(row) < 3 and low not in VAGUE:
            phrase = _noun(row, low)
            stem = _stem(phrase.rpartition(" ")[2])
            weight[stem] += 25
            if known[stem].owner != "my":
                known[stem] = Topic(stem, phrase, owner)
        owner, row = (owner if low in MODIFIERS and not row else OWNERS.get(low, "")), []
    heavy = sorted((s for s in weight if weight[s]), key=lambda s: -weight[s])[:40]
    return tuple(known[s] for s in heavy)


def _noun(row: Sequence[str], after: str) -> str:
    """What is spoken of in one or two content words, judged by their endings and the word after them."""
    if len(row) == 1 or row[1].endswith(("ed", "ing", "ly")):
        return row[0]
    if not after.isalpha() or after in ("and", "or", "of", "is", "was", "in", "for"):
        return " ".join(row)
    return row[0] if row[1].endswith("s") else row[1]


def shares_words(text: str, other: str) -> bool:
    """True if any content word of one text is in the other."""
    return bool(_stems(text) & _stems(other))


@lru_cache(512)
def _is_story(text: str) -> bool:
    """True if somebody speaks of themselves."""
    return len(_FIRST_PERSON.findall(text)) >= 3


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


def ideas(text: str) -> list[str]:
    """The lines of a text without bullets; its sentences if it is one paragraph; a JSON object's values."""
    text = text.strip()
    if text.startswith("{"):
        try:
            return [str(v) for v in json.loads(text).values()]
        except (ValueError, RecursionError):
            pass
    lines = [_BULLET.sub("", line, count=1).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    return lines if len(lines) > 1 else _sentences(" ".join(lines))


def _count(lines: Sequence[str]) -> int:
    return sum(len(line.split()) for line in lines)


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _marker(text: str) -> str | None:
    """The bullet of a text's first line ("-", "1."), "" for plain lines, None for one paragraph."""
    text = text.strip()
    match = _BULLET.match(text)
    if match:
        return match.group(1)
    return "" if "\n" in text else None


def _lay_out(lines: Sequence[str], marker: str | None) -> str:
    if marker is None:
        return " ".join(lines)
    if re.search(r"\d", marker):
        return "\n".join(f"{re.sub(r'[0-9]+', str(i), marker)} {line}" for i, line in enumerate(lines, 1))
    return "\n".join(f"{marker} {line}".strip() for line in lines)


def _in_mood(line: str, model: str) -> str:
    """An imperative line put the way that the first words of `model` go: gerund, "should", or as it is."""
    verb, _, rest = line.partition(" ")
    first = model.partition(" ")[0]
    if first.endswith("ing"):
        return f"{verb.removesuffix('e')}ing {rest}"
    if " should " in model[:40]:
        return f"The response should {verb.lower()} {rest}"
    return line


def draft(context: str, goal: str, examples: Sequence[tuple[str, str]], roll: Roll) -> str:
    """Principles for an input, laid out like the nearest example (by shared words of its input).

    Args:
        context: the input.
        goal: what the answer is for, "" if that is not stated; it gets a line of its own.
        examples: (input, principles) pairs. Their layout is copied: number of lines, bullets, verb form.
        roll: picks the frames and which word is passed over.

    It reads only the opening and the end of the input, one word a line: longer inputs leave it incomplete.
    """
    words = _stems(context)
    shared = [len(words & _stems(said)) / (1 + len(_stems(said))) for said, _ in examples]
    near = examples[shared.index(max(shared))][1] if examples else ""
    model = ideas(near)
    n = min(max(len(model), 3), 6) if model else 3 + roll("lines") % 3
    topics = salient(f"{context[:350]}\n{context[-150:]}" if len(context) > 500 else context)
    nouns = [t for t in topics if t.owner]
    topics = nouns if len(nouns) > 2 else list(topics)
    if len(topics) > n:
        del topics[roll("skip") % (n + 1)]
    pairs = zip(_plan_frames(context, roll), topics[:n], strict=False)
    lines = [frame.format(x=topic.said("their")) for frame, topic in pairs] or [*NO_TOPIC]
    aim = " ".join(goal.split()[:24]).strip(". ")
    lines += [AIM.format(x=aim[0].lower() + aim[1:])] if aim else []
    lines = [_in_mood(line, model[0] if model else "") for line in lines]
    return _lay_out(lines, _marker(near) if model else "-")


def _plan_frames(context: str, roll: Roll) -> tuple[str, ...]:
    sets = PLANS[_is_story(context)]
    return sets[roll("frames") % len(sets)]


def critique(
    candidate: str,
    *,
    context: str,
    criteria: str = "",
    reference: str = "",
    limit: int = 0,
    is_plan: bool = False,
) -> Reading:
    """Measure a candidate and name what it leaves out, at most two words.

    Args:
        candidate: principles if `is_plan`, else a response.
        context: the input that it belongs to.
        criteria: principles, a rubric or standards that a response should meet, one a line.
        reference: a reference answer.
        limit: words that the candidate may have; 0 for no limit.
        is_plan: principles are measured by how many of the input's salient words they take up, how much of
            them belongs to this input, and one idea a line; responses by how many of the criteria they take
            up, and by shared words with the reference and the input.
    """
    lines = ideas(candidate)
    if not lines:
        return Reading(0.0, "There is nothing to judge.")
    have = _stems("\n".join(lines))
    wanted = salient(context)[: min(3 + len(context) // 250, 8) if is_plan else 4]
    gaps = [t for t in wanted if t.stem not in have]
    coverage = 1 - len(gaps) / len(wanted) if wanted else 1.0
    if is_plan:
        own = len(have & _stems(context)) / len(have) if have else 0.0
        quality = 0.8 * coverage + 0.2 * min(own / 0.2, 1.0)
    else:
        own = 1.0
        quality, unmet = _adherence(have, criteria, reference, context, coverage)
        gaps = [*unmet, *(t for t in gaps if t not in unmet)]
    words, crowded = _count(lines), sum(len(line.split()) > 32 for line in lines) if is_plan else 0
    over = limit and words > limit
    quality -= 0.1 * bool(crowded) + (0.1 + min(words / limit - 1, 1) * 0.2 if over else 0)
    taken = [t.word for t in wanted if t.stem in have][:3]
    say = [f"It takes up {_and(taken)}." if taken else "Nothing in it belongs to this input."]
    say += [f"It {_MISSING}{', '.join(t.word for t in gaps[:2])}."] if gaps else []
    say += ["Much of it would fit any input."] if own < 0.12 else []
    say += ["Put one idea on a line."] if crowded else []
    say += [f"It has {words} words where {limit} is the limit."] if over else []
    say += ["Nothing that matters is missing."] if len(say) == 1 and taken else []
    return Reading(min(max(quality, 0.0), 1.0), " ".join(say))


def _adherence(
    have: frozenset[str], criteria: str, reference: str, context: str, coverage: float
) -> tuple[float, list[Topic]]:
    """Quality of a response in [0, 1] and the words of the criteria that it does not take up."""
    parts = [(0.25, min(coverage / 0.75, 1.0))]
    unmet: list[Topic] = []
    if criteria:
        known, met = _stems(context), []
        for line in ideas(criteria)[:12]:
            words = _stems(line)
            named = words & known
            # A line that speaks of nothing in the input cannot be followed word by word.
            share = len((named or words) & have) / (len(named) or 0.3 * len(words) or 1)
            share = min(share, 1.0)
            met.append(share)
            if share < 0.5:
                unmet += [t for t in salient(line) if t.stem in named and t.stem not in have][:1]
        parts.append((0.75, sum(met) / len(met) if met else 1.0))
    if reference:
        shared = [t.stem in have for t in salient(reference)[:12]]
        parts.append((0.5, min(sum(shared) / (0.7 * len(shared)), 1.0) if shared else 1.0))
    unmet = list(dict.fromkeys(unmet))
    return sum(w * q for w, q in parts) / sum(w for w, _ in parts), unmet


def missing(feedback: str, context: str, have: str) -> list[Topic]:
    """The words that a feedback asks for and `have` does not contain, at most three.

    Without any such word in the feedback, the heaviest two words of the input that `have` leaves out.
    """
    known, stems = {t.stem: t for t in salient(context)}, _stems(have)
    after = feedback.partition(_MISSING)[2].partition(".")[0]
    asked = after.split(", ") if after else [w for w in _TOKEN.findall(feedback) if _stem(w) in known]
    named = {_stem(phrase.rpartition(" ")[2]): phrase.strip() for phrase in asked if phrase.strip()}
    topics = [known.get(stem) or Topic(stem, phrase) for stem, phrase in named.items() if stem not in stems]
    return topics[:3] or [t for t in known.values() if t.stem not in stems][: 0 if after else 2]


def refine(candidate: str, feedback: str, *, context: str, limit: int, is_plan: bool, roll: Roll) -> str:
    """The candidate with what the feedback asks for added, one idea a line, within `limit` words."""
    new = missing(feedback, context, candidate)
    story = _is_story(context)
    frames = itertools.chain.from_iterable(PLANS[story] if is_plan else (f for _, f in REPLIES[story]))
    # A sentence whose opening words stand there already would read as if it had been copied.
    frames = sorted(frames, key=lambda f: (f.partition("{x}")[0] in candidate, roll(f)))
    lines = [line for line in ideas(candidate)[:60] if any(c.isalpha() for c in line)]
    marker = _marker(candidate)
    if is_plan and any(len(line.split()) > 32 for line in lines):
        lines = [s for line in lines for s in _sentences(line)]
        marker = marker or "-"
    model = lines[0] if lines else ""
    for frame, topic in zip(frames, new, strict=False):
        line = frame.format(x=topic.said("their" if is_plan else "your"))
        lines.append(_in_mood(line, model) if is_plan else line)
    keep = {t.stem for t in (*salient(context)[:8], *new)}
    while len(lines) > 1 and _count(lines) > limit:
        del lines[min(range(len(lines)), key=lambda i: (len(_stems(lines[i]) & keep), -len(lines[i])))]
    if not lines:
        return draft(context, "", (), roll) if is_plan else respond(context, "", roll)
    return _lay_out(lines, marker)


def respond(context: str, principles: str, roll: Roll) -> str:
    """A few sentences to the reader: one for each of the first six principles, or for the salient words."""
    story, topics = _is_story(context), list(salient(context))
    used: Counter[str] = Counter()
    said, asked = set[str](), _stems(principles)
    sentences = [OPENINGS[story][roll("opening") % 2]]
    for line in ideas(principles)[:6] or [""] * 4:
        stems = _stems(line)
        own = [t for t in topics if t.stem in stems]
        own = [t for t in own if t.owner] or own[:1] or [t for t in topics if t.stem not in said | asked][:1]
        own = own or list(salient(line))
        if not own:
            continue
        said.update(t.stem for t in own[:2])
        want, frames = next(
            (w, f) for w, f in REPLIES[story] if not w or re.search(rf"\b(?:{w})", line, re.I)
        )
        frame = frames[(roll("frames") + used[want]) % len(frames)]
        used[want] += 1
        sentences.append(frame.format(x=_and([t.said("your") for t in own[:2]])))
    return " ".join(sentences if len(sentences) > 1 else [*sentences, NO_REPLY])


def rubric_line(key: str, topics: Sequence[Topic]) -> str:
    """The text of one field of a rubric: a question for "criteria", a rung of the ladder for "score3_...".

    Any other field says what the input is about.
    """
    words = [t.said("the") for t in topics] or ["what is asked"]
    rung = re.search(r"score_?(\d+)", key)
    if rung:
        return LADDER[min(max(int(rung.group(1)), 1), 5) - 1].format(all=_and(words), one=words[0])
    if "criteri" in key:
        return f"Does the response deal with {_and(words)} as the instruction asks?"
    return f"This is about {_and(words)}."


def rubric_topics(context: str, candidate: str, feedback: str) -> list[Topic]:
    """What a rubric should name: three salient words at first; later those it has and the missing ones."""
    topics = salient(context)
    if not candidate:
        return list(topics[:3])
    stems = _stems("\n".join(ideas(candidate)))
    return [t for t in topics if t.stem in stems][:9] + missing(feedback, context, candidate)
