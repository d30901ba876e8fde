"""The offline stand-in: DSPy engines that answer any prompt by rules, with no key, no network and no model.

It reads what DSPy printed (chat, JSON or `###Section:` style) and fills the outputs by their names and types: texts
name frequent words of the input, a critique scores by the share that is named, a refinement adds what is missing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from random import Random
from typing import Any

from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events

from spri_dspy.errors import UsageError
from spri_dspy.prompt_fencing import unfenced

WARNING = "offline stand-in: rule-based text, not a language model; results say nothing about SPRI's quality"

_warn_once = cache(logging.getLogger(__name__).warning)
_HIGHEST = dict(latency=86_400, unscored_rate=1, garbage_rate=1, seed=2**63)
_READ = 20_000  # characters of a field that are read, so that a megabyte costs milliseconds
_CHAT = "Respond with the corresponding output fields, starting with the field "
_JSON = "Respond with a JSON object in the following order of fields: "
_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*", re.M)
_TITLE = re.compile(r"^###([A-Z][\w ()]{0,60}):[ \t]*$", re.M)
_DECLARED = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(.*?)(?=^\d+\. `\w+` \(|^All inter|\Z)", re.M | re.S)
_NOTE = re.compile(r'^(?:  "\w+": ")?\{(\w+)\} {8}# note: the value you produce must (.*?)(?:",?)?$', re.M)
_RANGE = re.compile(r"(\d+)(?:-|–| to |, less than or equal to: )(\d+)")
_MARKUP = re.compile(r"\[\[[ #]*|[ #]*\]\]|</?think>|\[RESULT\]")
_WORD = re.compile(r"(?:\b([Mm]y) )?(\w[\w'-]*)")
_FREQUENT = re.compile(
    "about|after|because|been|could|from|have|into|just|like|should|that|their|them|they|this|very|what|when|with|would"
)
_PLANS = ["- Name {}.", "- Say what can be done about {}.", "- Offer a step about {}.", "- End with {}."]
_REPLIES = ["Much turns on {}.", "Look at {} as a friend would.", "A step could begin with {}."]
_SHARES = ["no part of", "little of", "a part of", "most of", "all of"]
_ROLE = re.compile(  # what a field is for, by a part of its name
    "(?P<feedback>feedback|critique|reason|expla)|(?P<reference>reference)|(?P<candidate>response|answer)"
    r"|(?P<aim>^aim$|system_prompt)|(?P<criteria>principle|rubric|criteri|checklist)|(?P<context>\Z)"
)


class OfflineEngine:
    """The stand-in for synchronous calls. `rollout` tells which sample of the same prompt is asked for.

    Knobs, 0 if not given: `latency` in seconds; `unscored_rate` and `garbage_rate`, shares of the calls; `seed`.
    """

    def __init__(self, *, rollout: Callable[[], int] = int, **knobs: float) -> None:
        for name, value in knobs.items():
            if not 0 <= value <= _HIGHEST.get(name, -1):
                raise UsageError(f"{name} of the offline stand-in cannot be {value!r}; highest: {_HIGHEST}")
        self.knobs, self._rollout = dict.fromkeys(_HIGHEST, 0) | knobs, rollout
        _warn_once(WARNING)

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        time.sleep(self.knobs["latency"])
        return self._answer(request)

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

    def _answer(self, request: Request) -> Response:
        turns = [str(request.system or ""), *(message.text or "" for message in request.messages)]
        turns = [text.encode("utf-8", "replace").decode() for text in turns]  # half characters become ?
        seeds = self.knobs["seed"], request.config.seed, self._rollout()
        schema = (request.config.response_format or {}).get("schema") or {}
        prompt = _Prompt(turns, schema, key=f"{Random(repr((seeds, turns))).random()} ")
        is_garbage, is_unscored = (prompt.roll(n) < self.knobs[n] for n in ("garbage_rate", "unscored_rate"))
        text = "" if is_garbage else prompt.answer(is_scored=not is_unscored)
        usage = Usage(input_tokens=sum(map(len, turns)) // 4, output_tokens=len(text) // 4)
        message = Message.assistant([TextPart(text)])
        return Response(id="offline", model=request.model, message=message, finish_reason="stop", usage=usage)


class AsyncOfflineEngine(OfflineEngine):
    """The stand-in for asynchronous calls, over a synchronous one: same knobs and answers."""

    def __init__(self, engine: OfflineEngine | None = None, **knobs: Any) -> None:
        self.__dict__ = vars(engine or OfflineEngine(**knobs))

    async def complete(self, request: Request) -> Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer one request; waiting lets others run."""
        await asyncio.sleep(self.knobs["latency"])
        return self._answer(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The same answer as events."""
        for event in response_to_events(await self.complete(request)):
            yield event


def _sections(text: str, header: re.Pattern[str]) -> dict[str, str]:
    """The text under each header; of two with one name, the last."""
    names, texts = (header.split(text)[start::2] for start in (1, 2))
    names = [name.lower().replace(" ", "_") for name in names]
    return {name: unfenced(said.strip())[:_READ] for name, said in zip(names, texts, strict=True)}


def _schema(kind: str, note: str, about: str) -> dict[str, Any]:
    """A type as a JSON schema, from what DSPy prints about it; a string if that cannot be read."""
    if kind in ("int", "float"):
        low, high = sorted(map(int, m.groups())) if (m := _RANGE.search(about)) else (1, 5)
        return {"type": "integer" if kind == "int" else "number", "minimum": low, "maximum": high}
    schema, choices = note.partition("JSON schema: ")[2], note.partition("one of: ")[2]
    if choices:
        return {"enum": [int(choice) if choice.isdigit() else choice for choice in choices.split("; ")]}
    with suppress(ValueError, RecursionError):  # the JSON style prints it inside a JSON string
        return json.loads(json.loads(f'"{schema}"') if '\\"' in schema else schema)
    return {"type": "boolean" if kind == "bool" else "string"}


class _Prompt:
    """One request, read: its style, its inputs by what they are for, and the outputs that it asks for."""

    def __init__(self, turns: list[str], schema: Any, key: str) -> None:
        system, text, self.key = turns[0], turns[-1].rstrip(), key
        self.definitions, before, last = dict(schema.get("$defs", {})), *text.rpartition("\n")[::2]
        if title := _TITLE.fullmatch(last):
            self.style, name = "tag", title[1].lower().replace(" ", "_")
            score = {"score": _schema("int", "", system.rpartition("\n\n")[2])} if name == "feedback" else {}
            self.asked, inputs = {name: {"type": "string"}, **score}, _sections(before, _TITLE)
        else:
            cut = max(text.rfind(_CHAT), text.rfind(_JSON)) % (len(text) + 1)
            self.style = "json" if schema or text.startswith(_JSON, cut) else "chat" if text[cut:] else ""
            declared = system.partition("\nYour output fields are:\n")[2] if self.style else ""
            notes, fields = dict(_NOTE.findall(declared)), _DECLARED.findall(declared)
            self.asked = {name: _schema(kind, notes.get(name, ""), about) for name, kind, about in fields}
            self.asked = self.asked or schema.get("properties") or {"text": {"type": "string"}}
            inputs = _sections(text[:cut], _HEADER)
        rewritten = next((name for out in self.asked for name in inputs if out.endswith("_" + name)), "")
        self.base, self.inputs = inputs.pop(rewritten, ""), dict.fromkeys(_ROLE.groupindex, "")
        for name, said in (inputs or {"text": text[:_READ]}).items():
            role = _role(name)  # of two candidates the last is judged
            self.inputs[role] = said if role == "candidate" else f"{self.inputs[role]}\n{said}".strip()
        self.topics = _topics(self.inputs["context"])
        self.missing, (self.quality, self.verdict) = self.lacking(), self.judge()

    def roll(self, name: str) -> float:  # in [0, 1), the same for the same name
        return Random(self.key + name).random()

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
        """A value that fits a JSON schema: numbers and scales follow the verdict, texts the name of their field."""
        self.definitions.update(schema.get("$defs", {}))
        schema = self.definitions.get(schema.get("$ref", "").rpartition("/")[2], schema)
        schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
        kind, quality = schema.get("type"), self.quality * ("harm" not in name)
        if choices := [False, True] if kind == "boolean" else schema.get("enum"):
            choices = choices[::-1] if str(choices[0]).casefold() == "yes" else choices
            is_scale = all(isinstance(choice, int | float) for choice in choices) or choices[-1] == "yes"
            return choices[int(quality * (len(choices) - 1) + 0.5) if is_scale else 0]
        if kind in ("integer", "number"):
            low = schema.get("minimum", 1)
            value = low + quality * (schema.get("maximum", low + 4) - low)
            return int(value + 0.5) if kind == "integer" else round(float(value), 2)
        if kind == "array":
            parts = [self.fill(schema.get("items", {}), name, depth + 1)] * 3 if depth < 4 else []
            return self.topics[:3] if schema.get("items") == {"type": "string"} else parts
        if kind == "object":
            return {k: self.fill(part, k, depth + 1) for k, part in schema.get("properties", {}).items()}
        return _MARKUP.sub("", self.text(name, depth))  # markup that is quoted would cut the answer

    def text(self, name: str, depth: int) -> str:
        """The text of a field, by its name; inside an object it is a part of a rubric or of a judgement."""
        if _role(name) == "feedback" and (depth or not self.base):
            return self.verdict + (f" Weighed as well: {_quoted(self.missing)}." if self.missing else "")
        if depth:
            named, level = _among(self.topics, self.base) + self.missing, re.search("[1-5]", name)
            share = _SHARES[int(level[0]) - 1] if level else "each of"
            return f"The response deals with {share} {_quoted(named or self.topics[:3])}."
        is_plan, drawn = _role(name) == "criteria", [t for t in self.topics if self.roll(f"draw {t}") < 0.6]
        planned = [] if is_plan else _among(self.topics, self.inputs["criteria"])
        topics = self.missing if self.base else (planned or drawn)[: 3 + int(self.roll("length") * 4)]
        frames, joint = (_PLANS, "\n") if is_plan else (_REPLIES, " ")
        start = int(self.roll("frame") * len(frames))
        lines = [frames[(start + i) % len(frames)].format(_quoted([t])) for i, t in enumerate(topics)]
        return joint.join(filter(None, [self.base, *lines])) or "Say more."

    def lacking(self) -> list[str]:
        """At most three phrases that the feedback asks for and the text to be rewritten lacks."""
        said = self.inputs["feedback"]
        asked = re.findall(r'"(\w[^"]*)"', said.partition("does not mention")[2].partition(". ")[0])
        asked = asked or _among(self.topics, said) or self.topics
        return [topic for topic in asked if not _among([topic], self.base)][:3] if self.base else []

    def judge(self) -> tuple[float, str]:
        """Of the candidate, or of the principles if there is none: quality in [0, 1], and words."""
        asked = _among(self.topics[:12], self.inputs["criteria"]) if self.inputs["candidate"] else []
        wanted = asked + _topics(self.inputs["reference"])[:8] or self.topics[:6]
        met = _among(wanted, self.inputs["candidate"] or self.inputs["criteria"])
        said = f"It names {_quoted(met[:3])}." if met else "It names nothing of this input."
        gaps = [topic for topic in wanted if topic not in met][:3]
        said += f" It does not mention {_quoted(gaps)}." if gaps else " Nothing is missing from it."
        return len(met) / max(1, len(wanted)), said


def _role(name: str) -> str:
    return next(_ROLE.finditer(name)).lastgroup or ""


@lru_cache(1024)
def _topics(text: str) -> list[str]:
    """The words of four letters and more that say something, at most 40, most frequent first; "my car" as a whole."""
    weight, shown = dict[str, int](), dict[str, str]()
    for my, word in _WORD.findall(text):
        if my or (len(word) > 3 and word[0].isalpha() and not _FREQUENT.fullmatch(word.casefold())):
            weight[word.casefold()] = weight.get(word.casefold(), 0) + (3 if my else 1)
            shown[word.casefold()] = f"my {word}" if my else shown.get(word.casefold()) or word
    return [shown[word] for word in sorted(weight, key=weight.__getitem__, reverse=True)[:40]]


def _among(topics: list[str], text: str) -> list[str]:
    text = text.casefold()
    return [topic for topic in topics if topic.rpartition(" ")[2].casefold() in text]


def _quoted(topics: list[str]) -> str:
    return " and ".join(f'"{topic}"' for topic in topics) or "what is asked"
