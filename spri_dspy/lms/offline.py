"""The offline stand-in: DSPy engines that answer any prompt by rules, with no key, no network and no model.

It reads back what DSPy printed (chat, JSON or `###Section:` style) and fills the outputs by their names and types:
principles take up key phrases of the input, a critique names what is left out, a refinement adds it. It knows no
task, and of English only `offline_words.json`. Answers depend on the prompt, the seeds and the rollout alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

from dspy.lm15 import Message, Request, Response, ServerError, TextPart, Usage, response_to_events

from spri_dspy.errors import UsageError
from spri_dspy.prompt_fencing import unfenced

WARNING = "offline stand-in: rule-based text, not a language model; results say nothing about SPRI's quality"
"""The one line to show wherever the stand-in is used; it is also logged once a process."""

_warn_once = cache(logging.getLogger(__name__).warning)
_Turns = list[tuple[str, str]]  # role and text of each message, the system message first
_HIGHEST = dict(latency=86_400, jitter=9, fail_rate=1, unscored_rate=1, garbage_rate=1, seed=2**63)
_READ = 20_000  # characters of a field that are read, so that a megabyte costs milliseconds
_CHAT = "Respond with the corresponding output fields, starting with the field "
_JSON = "Respond with a JSON object in the following order of fields: "
_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*", re.M)
_TITLE = re.compile(r"^###([A-Z][\w ()]{0,60}):[ \t]*$", re.M)
_DECLARED = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(.*?)(?=^\d+\. `\w+` \(|^All inter|\Z)", re.M | re.S)
_NOTE = re.compile(r'^(?:  "\w+": ")?\{(\w+)\} {8}# note: the value you produce must (.*?)(?:",?)?$', re.M)
_RANGE = re.compile(r"(\d+)(?:-|–| to |, less than or equal to: )(\d+)")
_MARKUP = re.compile(r"\[\[[ #]*|[ #]*\]\]|</?think>|\[RESULT\]")
_TOKEN = re.compile(r"\w(?:[\w'-]*\w)?|[.!?\n,;:()\"/—–]")
_BULLET = re.compile(r"^\s*([-*•](?=\s)|\(?\d{1,2}[.)](?!\d))\s*")


class OfflineEngine:
    """The stand-in for synchronous calls; copies of a program share it.

    Args:
        rollout: tells which sample of the same prompt is asked for, 0 if not given; it is not saved.
        knobs: numbers, 0 if not given. `latency`: seconds that a call waits, the median if there is jitter.
            `jitter`: sigma of the logarithm of the wait (lognormal). `fail_rate`: share of attempts that raise
            ServerError; asking again may succeed. `unscored_rate`: share of critiques and judgements without a
            readable number. `garbage_rate`: share of empty answers. `seed`: changes every choice and draw.
            One that is out of range is a UsageError.
    """

    def __init__(self, *, rollout: Callable[[], int] = int, **knobs: float) -> None:
        for name, value in knobs.items():
            if not 0 <= value <= _HIGHEST.get(name, -1):
                raise UsageError(f"{name} of the offline stand-in cannot be {value!r}; highest: {_HIGHEST}")
        self.knobs = dict.fromkeys(_HIGHEST, 0) | knobs
        self._rollout, self._attempts = rollout, Counter[bytes]()
        _warn_once(WARNING)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def complete(self, request: Request) -> Response:
        """Answer one request; raises DSPy's ServerError as often as `fail_rate` says."""
        turns, key, seconds = self._read(request)
        if seconds:
            time.sleep(seconds)
        return self._answer(request, turns, key)

    def stream(self, request: Request) -> Iterator[Any]:
        """The same answer as events."""
        yield from response_to_events(self.complete(request))

    def dump_state(self) -> dict[str, Any]:
        """The knobs."""
        return dict(self.knobs)

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Any:
        """An engine with these knobs, without a rollout."""
        return cls(**state)

    def _read(self, request: Request) -> tuple[_Turns, bytes, float]:
        """The messages without half characters, what all draws depend on, and the seconds that the call takes."""
        system = request.system if isinstance(request.system, str) else ""
        turns = [("system", system), *((message.role, message.text or "") for message in request.messages)]
        turns = [(role, text.encode("utf-8", "replace").decode()) for role, text in turns]
        seeds = self.knobs["seed"], request.config.seed, self._rollout()
        key = blake2b(repr((seeds, turns)).encode(), digest_size=16).digest()
        latency, jitter = self.knobs["latency"], self.knobs["jitter"]
        return turns, key, latency and latency * random.Random(key).lognormvariate(0.0, jitter)

    def _answer(self, request: Request, turns: _Turns, key: bytes) -> Response:
        def roll(name: str) -> float:  # in [0, 1), the same for the same name
            return int.from_bytes(blake2b(name.encode(), key=key, digest_size=6).digest()) / 2**48

        text, knobs = "", self.knobs
        if knobs["fail_rate"]:
            self._attempts[key] += 1
            if roll(f"fail {self._attempts[key]}") < knobs["fail_rate"]:
                raise ServerError("the offline stand-in fails this attempt, as its fail_rate says")
        if roll("garbage") >= knobs["garbage_rate"]:
            prompt = _Prompt(turns, (request.config.response_format or {}).get("schema") or {}, roll)
            text = prompt.answer(is_scored=roll("unscored") >= knobs["unscored_rate"])
        usage = Usage(input_tokens=sum(len(said) for _, said in turns) // 4, output_tokens=len(text) // 4)
        message = Message.assistant([TextPart(text)])
        return Response(id="offline", model=request.model, message=message, finish_reason="stop", usage=usage)


class AsyncOfflineEngine(OfflineEngine):
    """The stand-in for asynchronous calls, over a synchronous one: same knobs, answers and counters."""

    def __init__(self, engine: OfflineEngine | None = None, **knobs: Any) -> None:
        self.__dict__ = vars(engine or OfflineEngine(**knobs))

    async def complete(self, request: Request) -> Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer one request; waiting lets others run."""
        turns, key, seconds = self._read(request)
        await asyncio.sleep(seconds)
        return self._answer(request, turns, key)

    async def stream(self, request: Request) -> AsyncIterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The same answer as events."""
        for event in response_to_events(await self.complete(request)):
            yield event


def _sections(text: str, header: re.Pattern[str], order: Sequence[str] = ()) -> dict[str, str]:
    """The text under each header, found from the end: a header inside an earlier field stays its text."""
    found = [(m[1], m.start(), m.end()) for m in header.finditer(text)]
    names = dict.fromkeys(name for name, *_ in reversed(found))
    wanted, end, fields = [name for name in order if name in names] or [*names][::-1], len(text), {}
    for name, start, after in reversed(found):
        if wanted and name == wanted[-1]:
            fields[wanted.pop().lower().replace(" ", "_")] = unfenced(text[after:end].strip())[:_READ]
            end = start
    return dict(reversed(fields.items()))


@lru_cache(256)
def _declared(system: str) -> tuple[list[str], dict[str, Any]]:
    """The inputs that DSPy's system message declares, and its outputs with their types as JSON schemas."""
    inputs, _, outputs = system.partition("\nYour output fields are:\n")
    notes = dict(_NOTE.findall(outputs))
    schemas = {n: _schema(kind, notes.get(n, ""), about) for n, kind, about in _DECLARED.findall(outputs)}
    return [name for name, *_ in _DECLARED.findall(inputs)], schemas


def _schema(kind: str, note: str, about: str) -> dict[str, Any]:
    """A type as a JSON schema, from what DSPy prints about it; a string if that cannot be read."""
    if kind in ("int", "float"):
        low, high = sorted(map(int, m.groups())) if (m := _RANGE.search(about)) else (1, 5)
        return {"type": "integer" if kind == "int" else "number", "minimum": low, "maximum": high}
    schema, choices = note.partition("JSON schema: ")[2], note.partition("one of: ")[2]
    with suppress(ValueError, RecursionError):
        if kind.startswith("Literal["):
            return {"enum": json.loads(kind.removeprefix("Literal"))}
        if schema:  # the JSON style prints it inside a JSON string
            return json.loads(json.loads(f'"{schema}"') if '\\"' in schema else schema)
    return {"enum": choices.split("; ")} if choices else {"type": "boolean" if kind == "bool" else "string"}


class _Prompt:
    """One request, read: its style, its inputs by what they are for, and the outputs that it asks for."""

    def __init__(self, turns: _Turns, schema: Any, roll: Callable[[str], float]) -> None:
        at = max(i for i, (role, _) in enumerate(turns) if role == "user" or i == 0)
        system, text, self.roll = turns[0][1], turns[at][1].rstrip(), roll
        self.demos = [*zip(turns[1:at:2], turns[2:at:2], strict=False)]  # what was said, what was answered
        self.definitions, before, last = dict(schema.get("$defs", {})), *text.rpartition("\n")[::2]
        if title := _TITLE.fullmatch(last):
            self.style, name = "tag", title[1].lower().replace(" ", "_")
            score = {"score": _schema("int", "", system.rpartition("\n\n")[2])} if name == "feedback" else {}
            self.asked, inputs = {name: {"type": "string"}, **score}, _sections(before, _TITLE)
        else:
            cut = max(text.rfind(_CHAT), text.rfind(_JSON)) % (len(text) + 1)
            self.style = "json" if schema or text.startswith(_JSON, cut) else "chat" if text[cut:] else ""
            names, outputs = _declared(system) if self.style else ([], {})
            self.asked = outputs or schema.get("properties") or {"text": {"type": "string"}}
            inputs = _sections(text[:cut], _HEADER, names)
        inputs = inputs or {"text": text[:_READ]}
        # What is to be rewritten: `principles` for `improved_principles`.
        old = next((name for out in self.asked for name in inputs if out.endswith("_" + name)), "")
        self.base = inputs.pop(old, "")
        roles: dict[str, str] = dict.fromkeys(("context", "feedback", "criteria", "goal", "reference"), "")
        for name, said in inputs.items():
            role = _role(name)
            if role == "candidate" and role in roles:  # the last is judged, the others are context
                roles["context"] += "\n" + roles.pop(role)
            roles[role] = f"{roles.get(role, '')}\n{said}".strip()
        self.roles, self.context, self.feedback = roles, roles["context"], roles["feedback"]
        is_ours = "candidate" not in roles or "response" in inputs or self.base
        stated = re.search(r"(\d{2,4}) words", system) if is_ours else None
        self.limit = int(stated[1]) if stated else 128 if is_ours else 9999  # in words
        self.stems, self.topics = _gist(self.context)
        about_me = re.findall(r"\b(?:I|[Mm]y|me)\b", self.context)
        self.frames = _words()["story" if len(about_me) > 2 else "request"]

    def answer(self, *, is_scored: bool) -> str:
        """The answer in the style asked for; the numbers of a verdict are unreadable if it is not to be scored."""
        values = {name: self.fill(schema, name) for name, schema in self.asked.items()}
        if len(values) > 1 and not is_scored:
            values = {n: re.sub(r"\d+", "some", v) if isinstance(v, str) else "?" for n, v in values.items()}
        if self.style == "json":
            return json.dumps(values, indent=2, ensure_ascii=False)
        if self.style == "chat":
            shown = [(n, v if isinstance(v, str) else json.dumps(v)) for n, v in values.items()]
            return "\n\n".join(f"[[ ## {n} ## ]]\n{v}" for n, v in [*shown, ("completed", "")])
        text, *score = values.values()
        return f"Feedback: {text}" + (f" [RESULT] {score[0]}" if is_scored else "") if score else text

    def fill(self, schema: Any, name: str, depth: int = 0) -> Any:
        """A value that fits a JSON schema: numbers and choices follow the critic, texts the name of their field."""
        self.definitions.update(schema.get("$defs", {}))
        if "$ref" in schema:
            schema = self.definitions.get(schema["$ref"].rpartition("/")[2], {})
        options = [p for p in schema.get("anyOf", ()) if (p.get("type") == "null") == (depth > 4)]
        schema = options[0] if options else schema
        kind, (quality, feedback) = schema.get("type"), self.reading
        quality *= not re.search("harm|toxic|unsafe|offens", name)  # of which nothing was found
        if choices := [False, True] if kind == "boolean" else schema.get("enum"):
            is_scale = all(isinstance(c, int | float) for c in choices)
            if is_scale or str(choices[0]).casefold() == "yes":
                choices = sorted(choices) if is_scale else choices[::-1]
                return choices[int(quality * (len(choices) - 1) + 0.5)]
            return max(choices, key=lambda c: len(_gist(str(c))[0] & self.stems))
        if kind in ("integer", "number"):
            low = schema.get("minimum", 1)
            value = low + quality * (schema.get("maximum", low + 4) - low)
            return int(value + 0.5) if kind == "integer" else round(float(value), 2)
        if kind == "array":
            part, n = schema.get("items", {}), 3 if depth < 4 else 0
            return self.topics[:n] if part == {"type": "string"} else [self.fill(part, name, depth + 1)] * n
        if kind == "object":
            return {k: self.fill(part, k, depth + 1) for k, part in schema.get("properties", {}).items()}
        return _MARKUP.sub("", self.text(name, feedback, depth))  # markup that is quoted would cut the answer

    def text(self, name: str, feedback: str, depth: int) -> str:
        """The text of a field, by its name; inside an object it is a part of a rubric or of a judgement."""
        role = _role(name)
        if role == "feedback" and not (self.base and not depth):
            new = self.missing(feedback) if self.feedback else []  # an improved judgement deals with it
            return feedback + (f" Weighed as well: {_listed(new)}." if new else "")
        if depth:
            kept = [t for t in self.topics if _has(self.base, t)][:6]
            topics = kept + self.missing(self.base) if self.base else self.topics[:3]
            line = _words()["rubric"][(re.findall("[1-5]", name) or ["criteria"])[0]]
            return line.format(all=_listed(topics), one=_listed(topics[:1]))
        if self.base:
            return self.refine(is_plan=role == "criteria")
        return self.draft() if role == "criteria" else self.respond()

    @cached_property
    def reading(self) -> tuple[float, str]:
        """What a critic makes of the candidate, or of the principles if there is none: quality, 0 to 1, and words."""
        is_plan, criteria = "candidate" not in self.roles, self.roles["criteria"]
        judged = self.roles.get("candidate", criteria)
        lines, have = _ideas(judged)[0], _gist(judged)[0]
        wanted = self.topics[: min(4 + len(self.context) // 180, 9) if is_plan else 4]
        rows = [[t] for t in (wanted if is_plan else _gist(self.roles["reference"])[1][:8])]
        if not is_plan:
            asked = [[t for t in self.topics if _has(line, t)] for line in _ideas(criteria)[0][:12]]
            rows += [wanted, *asked]
        met = [sum(_has(judged, t) for t in row) / len(row) for row in rows if row] or [0.5]
        gaps = [*dict.fromkeys(t for row in rows for t in row if not _has(judged, t))]
        taken = [*dict.fromkeys(t for t in wanted + self.topics if _has(judged, t))]
        n_words, is_plain = len(judged.split()), not judged.startswith("{")
        is_long, is_vague = n_words > self.limit * 1.15, len(have & self.stems) < 0.12 * len(have)
        faults = {
            "Much of it would fit any input.": is_vague,
            "Put one idea on a line.": is_plan and any(len(line.split()) > 32 for line in lines),
            f"It has {n_words} words, and the limit is {self.limit}.": is_plain and is_long,
        }
        says = [f"It takes up {_listed(taken[:3])}." if taken else "Nothing in it belongs to this input."]
        says += [f"It does not mention {_listed(gaps[:2], 'or')}." if gaps else "Nothing is missing from it."]
        quality = sum(met) / len(met) - 0.15 * sum(faults.values()) if lines else 0.0
        return max(quality, 0.0), " ".join([*says, *(fault for fault, is_so in faults.items() if is_so)])

    def missing(self, have: str) -> list[str]:
        """At most three phrases that the feedback asks for and a text lacks; if it names none, two of the input."""
        asked = re.findall(r'"(\w[^"]*)"', self.feedback.partition("does not mention")[2].partition(". ")[0])
        new = [t for t in asked or self.topics if not _has(have, t) and (asked or _has(self.feedback, t))]
        return new[:3] if new or asked else [t for t in self.topics if not _has(have, t)][:2]

    def draft(self) -> str:
        """Principles: a line for each of the heaviest phrases, laid out like the demo with the most similar input."""
        near = max(self.demos, key=lambda demo: len(self.stems & _gist(demo[0][1][:_READ])[0]), default=None)
        model, joint, bullet = _ideas(_HEADER.sub("", near[1][1][:_READ] if near else ""))
        n = min(max(len(model), 3), 6) if model else 3 + int(self.roll("lines") * 3)
        topics = _gist(self.context[: max(300, len(self.context) // 2)])[1][: n + 1]
        if len(topics) > n:
            del topics[int(self.roll("skip") * len(topics))]
        topics.sort(key=lambda t: self.context.casefold().find(t.casefold()))
        lines = self.written("plans", topics) or _words()["no_topic"]
        goal = " ".join(self.roles["goal"].split()[:24]).strip(". ")
        aim = [f"{_words()['aim']} {goal[0].lower()}{goal[1:]}."] if goal else []
        return _lay_out(lines + aim, joint, bullet) if model else _lay_out(lines + aim, "\n", "- ")

    def respond(self) -> str:
        """Sentences to the reader: one for each of the first four or five principles, or for the heaviest phrases."""
        lines, topics = _ideas(self.roles["criteria"])[0][: 4 + int(self.roll("lines") * 2)], self.topics
        rows = [[t for t in topics if _has(line, t) and t.partition(" ")[2] in line] for line in lines]
        said = self.written("replies", [*dict.fromkeys(row[0] for row in rows if row)] or topics[:4])
        first, last = (self.frames[k][int(self.roll(k) * 2)] for k in ("openings", "closings"))
        return " ".join([first, *said, last] if said else [first, _words()["no_reply"]])

    def refine(self, *, is_plan: bool) -> str:
        """The old text with what the feedback asks for added, one idea a line, within the limit."""
        (lines, joint, bullet), new = _ideas(self.base), self.missing(self.base)
        at, keep = len(lines) - (len(lines) > 1), new + self.topics[:8]  # the last line closes the text
        lines[at:at] = self.written("plans" if is_plan else "replies", new)
        while len(lines) > 1 and len(" ".join(lines).split()) > self.limit:
            lines.remove(min(lines, key=lambda line: (sum(_has(line, t) for t in keep), -len(line))))
        return _lay_out(lines, joint, bullet) or (self.draft() if is_plan else self.respond())

    def written(self, kind: str, topics: list[str]) -> list[str]:
        """A sentence for each topic, in an order of `offline_words.json`; in a refinement none that it has already."""
        orders, whose = self.frames[kind], "their" if kind == "plans" else "your"
        order = orders[int(self.roll(kind) * 2)]
        if self.base:
            order = [f for f in orders[0][1:] + orders[1][1:] if f.partition("{x}")[0] not in self.base]
        return [frame.format(x=_listed([t], whose=whose)) for frame, t in zip(order, topics, strict=False)]


@cache
def _words() -> dict[str, Any]:
    found = json.loads(files("spri_dspy.lms").joinpath("offline_words.json").read_text("utf-8"))
    return found | {"tags": {w: tag for tag, lines in found["tags"].items() for w in " ".join(lines).split()}}


@lru_cache(1024)
def _role(name: str) -> str:
    """What a field is for, by a part of its name."""
    return next((role for role, marks in _words()["roles"].items() if re.search(marks, name)), "context")


@lru_cache(8192)
def _tag(word: str) -> tuple[str, str]:
    """A word's letter and stem: as listed, else number (n), mark (.), -ing (g), plural (p) or other (c)."""
    tags, plain = _words()["tags"], word.casefold().partition("'")[0]
    tag = tags.get(plain) or ("n" if plain[0].isdigit() or tags.get(plain.partition("-")[0]) == "n" else "")
    looks = "g" if plain.endswith(("ing", "ed", "ly")) else "p" if re.search(r"[^siu]s$", plain) else "c"
    looks = "s" if len(plain) < 3 or "n't" in word else looks
    return tag or (looks if plain[0].isalpha() else "."), re.sub(r"(?<=...)(?:ing|ed|es|s|ly)$", "", plain)


@lru_cache(1024)
def _gist(text: str) -> tuple[frozenset[str], list[str]]:
    """The stems of the words that say something, and the key phrases as they stand, heaviest first, at most 40.

    Phrases are found in the words' tags, one for each last word. One gains weight whenever that word recurs.
    """
    tokens, weight, known = _TOKEN.findall(text.replace("’", "'")), Counter[str](), dict[str, str]()
    tags, stems = "".join(_tag(token)[0] for token in tokens), [_tag(token)[1] for token in tokens]
    for m in re.finditer(_words()["phrase"], tags):
        words, kind, stem = tokens[m.start() : m.end()], m[0][0], stems[m.end() - 1]
        is_name = words[0][0].isupper() and tags[m.start() - 1 : m.start()] not in (".", "")
        weight[stem] += 30 if kind == "m" else 20 if kind in "adn" else 12 if is_name else 4
        if stem not in known or (kind == "m" and not known[stem].startswith(("my ", "our "))):
            words[0] = words[0] if kind in "cp" else words[0].casefold()
            known[stem] = " ".join(words).removesuffix("'s")
    said = frozenset(stem for stem, tag in zip(stems, tags, strict=True) if tag in "cpgvj")
    return said, [known[stem] for stem, _ in weight.most_common(40)]


def _has(text: str, phrase: str) -> bool:
    return _tag(phrase.rpartition(" ")[2])[1] in _gist(text)[0] or phrase in text


def _listed(phrases: list[str], word: str = "and", whose: str = "") -> str:
    """Phrases in quotes; what is "my" becomes `whose` ("their", "your") if that is given."""
    own = whose and ("my ", "our ")
    said = [f"{whose} {t.partition(' ')[2]}" if own and t.startswith(own) else f'"{t}"' for t in phrases]
    return f" {word} ".join(filter(None, (", ".join(said[:-1]), (said or ["what is asked"])[-1])))


def _ideas(text: str) -> tuple[list[str], str, str]:
    """The lines of a text, or the sentences of one paragraph; what stands between them and what before each."""
    text = text.strip()
    with suppress(ValueError, RecursionError):
        text = "\n".join(map(str, json.loads(text).values())) if text.startswith("{") else text
    bullet, is_list = _BULLET.match(text), "\n" in text
    parts = text.splitlines() if bullet or is_list else re.split(r"(?<=[.!?])\s+", text)
    lines = [_BULLET.sub("", part, count=1).strip() for part in parts if re.search(r"\w", part)]
    return lines, "\n" if bullet or is_list else " ", f"{bullet[1]} " if bullet else ""


def _lay_out(lines: list[str], joint: str, bullet: str) -> str:
    return joint.join(re.sub(r"\d+", str(n), bullet) + line for n, line in enumerate(lines, 1))
