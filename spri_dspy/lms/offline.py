"""The offline stand-in: DSPy engines that answer any prompt by rules, with no key, no network and no model.

It reads back what DSPy printed (chat, JSON or `###Section:` style) and fills the outputs by their names and types:
principles and responses name frequent words of the input, a critique scores by the share of them that is named and
says which are missing, a refinement adds those. It knows no task and claims no quality: it is for demos and tests.
Answers depend on the prompt, the seeds and the rollout alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from typing import Any

from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events

from spri_dspy.errors import UsageError
from spri_dspy.prompt_fencing import unfenced

WARNING = "offline stand-in: rule-based text, not a language model; results say nothing about SPRI's quality"
"""The one line to show wherever the stand-in is used; it is also logged once a process."""

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
# Frequent words of four letters and more that say nothing about one input.
_STOP = re.compile(
    "about|after|because|been|before|being|could|from|have|into|just|like|more|only|other|really|should|some|that|their"
    "|them|then|there|these|they|this|those|time|very|want|were|what|when|where|which|with|would|your",
)
_PLANS = [
    "Name {}.",
    "Say what can be done about {}.",
    "Offer a step about {}.",
    "Do not judge {}.",
    "End with {}.",
]
_REPLIES = ["Much turns on {}.", "Look at {} as a friend would.", "A step could begin with {}."]
_SHARES = ["no part of", "little of", "a part of", "most of", "all of"]
_ROLES = {
    "feedback": "feedback|critique|reason|expla",
    "reference": "reference",
    "candidate": "response|answer",
}
_ROLES |= {"aim": "^aim$|system_prompt", "criteria": "principle|rubric|criteri"}


class OfflineEngine:
    """The stand-in for synchronous calls; copies of a program share it.

    Args:
        rollout: tells which sample of the same prompt is asked for, 0 if not given; it is not saved.
        knobs: numbers, 0 if not given; a UsageError if out of range. `latency`: seconds that a call waits.
            `unscored_rate`: share of critiques and judgements without a readable number. `garbage_rate`: share of
            empty answers. `seed`: changes every choice and draw.
    """

    def __init__(self, *, rollout: Callable[[], int] = int, **knobs: float) -> None:
        for name, value in knobs.items():
            if not 0 <= value <= _HIGHEST.get(name, -1):
                raise UsageError(f"{name} of the offline stand-in cannot be {value!r}; highest: {_HIGHEST}")
        self.knobs = dict.fromkeys(_HIGHEST, 0) | knobs
        self._rollout = rollout
        _warn_once(WARNING)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

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
        system = request.system if isinstance(request.system, str) else ""
        turns = [system, *(message.text or "" for message in request.messages)]
        turns = [text.encode("utf-8", "replace").decode() for text in turns]  # half characters become ?
        seeds = self.knobs["seed"], request.config.seed, self._rollout()
        key = blake2b(repr((seeds, turns)).encode(), digest_size=16).digest()

        def roll(name: str) -> float:  # in [0, 1), the same for the same name
            return int.from_bytes(blake2b(name.encode(), key=key, digest_size=6).digest()) / 2**48

        text = ""
        if roll("garbage") >= self.knobs["garbage_rate"]:
            prompt = _Prompt(turns, (request.config.response_format or {}).get("schema") or {}, roll)
            text = prompt.answer(is_scored=roll("unscored") >= self.knobs["unscored_rate"])
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
    parts = [part.strip() for part in header.split(text)[1:]]
    names = [name.lower().replace(" ", "_") for name in parts[::2]]
    return {name: unfenced(said)[:_READ] for name, said in zip(names, parts[1::2], strict=True)}


@lru_cache(256)
def _outputs(system: str) -> dict[str, Any]:
    """The outputs that DSPy's system message declares, with their types as JSON schemas."""
    outputs = system.partition("\nYour output fields are:\n")[2]
    notes = dict(_NOTE.findall(outputs))
    return {n: _schema(kind, notes.get(n, ""), about) for n, kind, about in _DECLARED.findall(outputs)}


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

    def __init__(self, turns: list[str], schema: Any, roll: Callable[[str], float]) -> None:
        system, text, self.roll, self.demos = turns[0], turns[-1].rstrip(), roll, turns[2:-1:2]
        self.definitions, before, last = dict(schema.get("$defs", {})), *text.rpartition("\n")[::2]
        if title := _TITLE.fullmatch(last):
            self.style, name = "tag", title[1].lower().replace(" ", "_")
            score = {"score": _schema("int", "", system.rpartition("\n\n")[2])} if name == "feedback" else {}
            self.asked, inputs = {name: {"type": "string"}, **score}, _sections(before, _TITLE)
        else:
            cut = max(text.rfind(_CHAT), text.rfind(_JSON)) % (len(text) + 1)
            self.style = "json" if schema or text.startswith(_JSON, cut) else "chat" if text[cut:] else ""
            outputs = _outputs(system) if self.style else {}
            self.asked = outputs or schema.get("properties") or {"text": {"type": "string"}}
            inputs = _sections(text[:cut], _HEADER)
        inputs = inputs or {"text": text[:_READ]}
        # What is to be rewritten: `principles` for `improved_principles`.
        old = next((name for out in self.asked for name in inputs if out.endswith("_" + name)), "")
        self.base = inputs.pop(old, "")
        self.inputs = dict.fromkeys(("context", *_ROLES), "")
        for name, said in inputs.items():
            role = _role(name)
            if role == "candidate":  # the last is judged, the others are context
                self.inputs["context"] += "\n" + self.inputs.pop(role)
            self.inputs[role] = f"{self.inputs.get(role, '')}\n{said}".strip()
        self.topics = _topics(self.inputs["context"])

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
        if "$ref" in schema:
            schema = self.definitions.get(schema["$ref"].rpartition("/")[2], {})
        schema = next((p for p in schema.get("anyOf", ()) if p.get("type") != "null"), schema)
        kind, quality = schema.get("type"), self.verdict[0] * ("harm" not in name)
        if choices := [False, True] if kind == "boolean" else schema.get("enum"):
            choices = choices[::-1] if str(choices[0]).casefold() == "yes" else choices
            is_scale = all(isinstance(choice, int | float) for choice in choices) or choices[-1] == "yes"
            return choices[int(quality * (len(choices) - 1) + 0.5) if is_scale else 0]
        if kind in ("integer", "number"):
            low = schema.get("minimum", 1)
            value = low + quality * (schema.get("maximum", low + 4) - low)
            return int(value + 0.5) if kind == "integer" else round(float(value), 2)
        if kind == "array":
            part, n = schema.get("items", {}), 3 if depth < 4 else 0
            return self.topics[:n] if part == {"type": "string"} else [self.fill(part, name, depth + 1)] * n
        if kind == "object":
            return {k: self.fill(part, k, depth + 1) for k, part in schema.get("properties", {}).items()}
        return _MARKUP.sub("", self.text(name, depth))  # markup that is quoted would cut the answer

    def text(self, name: str, depth: int) -> str:
        """The text of a field, by its name; inside an object it is a part of a rubric or of a judgement."""
        kept = [topic for topic in self.topics if _has(self.base, topic)]
        if _role(name) == "feedback" and (depth or not self.base):
            return self.verdict[1] + (f" Weighed as well: {_quoted(self.missing)}." if self.missing else "")
        if depth:
            named, level = _quoted([*kept, *self.missing] or self.topics[:3]), re.search("[1-5]", name)
            if not level:
                return f"Does the response deal with {named}?"
            return f"The response deals with {_SHARES[int(level[0]) - 1]} {named}."
        is_plan, drawn = _role(name) == "criteria", [t for t in self.topics if self.roll(f"draw {t}") < 0.6]
        planned = [topic for topic in self.topics if _has(self.inputs["criteria"], topic)]
        demos = [[line for line in _HEADER.sub("", d).splitlines() if line.strip()] for d in self.demos]
        n_lines = max(map(len, demos), default=5) if is_plan else 5
        topics = self.missing if self.base else (drawn if is_plan else planned or drawn)[:n_lines]
        frames, start = (_PLANS if is_plan else _REPLIES), int(self.roll("frame") * 5)
        lines = [frames[(start + i) % len(frames)].format(_quoted([t])) for i, t in enumerate(topics)]
        bullet, joint = ("- ", "\n") if is_plan else ("", " ")
        return joint.join(filter(None, [self.base, *(bullet + line for line in lines)])) or "Say more."

    @cached_property
    def missing(self) -> list[str]:
        """At most three phrases that the feedback asks for and the text to be rewritten lacks."""
        said = self.inputs["feedback"]
        asked = re.findall(r'"(\w[^"]*)"', said.partition("does not mention")[2].partition(". ")[0])
        asked = asked or [topic for topic in self.topics if _has(said, topic)] or self.topics
        return [topic for topic in asked if not _has(self.base, topic)][:3] if self.base else []

    @cached_property
    def verdict(self) -> tuple[float, str]:
        """Of the candidate, or of the principles if there is none: quality in [0, 1], and words."""
        criteria, judged = self.inputs["criteria"], self.inputs.get("candidate") or self.inputs["criteria"]
        asked = (
            [topic for topic in self.topics[:12] if _has(criteria, topic)] if judged is not criteria else []
        )
        wanted = asked + _topics(self.inputs["reference"])[:8] or self.topics[:6]
        met, gaps = ([topic for topic in wanted if _has(judged, topic) == so] for so in (True, False))
        said = f"It names {_quoted(met[:3])}." if met else "It names nothing of this input."
        said += f" It does not mention {_quoted(gaps[:3])}." if gaps else " Nothing is missing from it."
        return len(met) / max(1, len(wanted)), said


@lru_cache(1024)
def _role(name: str) -> str:
    """What a field is for, by a part of its name."""
    return next((role for role, marks in _ROLES.items() if re.search(marks, name)), "context")


@lru_cache(1024)
def _topics(text: str) -> list[str]:
    """The words of four letters and more that say something, at most 40, most frequent first; "my car" as a whole."""
    weight, shown = Counter[str](), dict[str, str]()
    for my, word in _WORD.findall(text):
        if my or (len(word) > 3 and word[0].isalpha() and not _STOP.fullmatch(word.casefold())):
            weight[word.casefold()] += 3 if my else 1
            shown[word.casefold()] = f"my {word}" if my else shown.get(word.casefold()) or word
    return [shown[word] for word, _ in weight.most_common(40)]


def _has(text: str, topic: str) -> bool:
    return topic.rpartition(" ")[2].casefold() in text.casefold()


def _quoted(topics: list[str]) -> str:
    return " and ".join(f'"{topic}"' for topic in topics) or "what is asked"
