"""Reading a prompt back, and writing an answer in its style.

From the messages of one LM call to its input fields, demos and the outputs asked for; from those to text
that the same style's reader can parse. It knows three styles: DSPy's chat style (`[[ ## field ## ]]`),
DSPy's JSON style, and plain sections (`###Field Name:`, the last one being the one to write). It reads what
DSPy prints, and a `response_format`; it has no access to signatures. Where a field's text looks like a
header, the order of the input fields that the system message declares decides. Any other prompt is one
field "text" and asks for no output by name.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from spri_dspy.lms.offline_text import (
    Reading,
    Roll,
    Topic,
    critique,
    draft,
    refine,
    respond,
    rubric_line,
    rubric_topics,
    salient,
    shares_words,
)

_WORD_LIMIT = 128  # of principles and responses, where the prompt states none
_REQUESTS = {
    "chat": "Respond with the corresponding output fields, starting with the field ",
    "json": "Respond with a JSON object in the following order of fields: ",
}
_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*", re.MULTILINE)
_TITLE = re.compile(r"^###([A-Z][\w ()]{0,60}):[ \t]*$", re.MULTILINE)
_DECLARED = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(.*?)(?=^\d+\. `\w+` \(|\Z)", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r'^(?:  "\w+": ")?\{(\w+)\} {8}# note: the value you produce (.*)$', re.MULTILINE)
_ASKED = re.compile(
    r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`(?: \(must be formatted as a valid Python (.+?)\))?"
    r"(?=, then|, and then|\.\s*\Z)"
)
_ROLES = {  # what a field is for, by a part of its name; a field with none of these is context
    "feedback": ("feedback", "critique"),
    "reference": ("reference",),
    "candidate": ("response", "answer", "candidate", "completion", "judg"),
    "goal": ("aim", "goal", "purpose", "system_prompt"),
    "criteria": ("principle", "rubric", "standard", "criteri", "guideline"),
}
_COMMENTS = ("feedback", "critique", "comment", "rationale", "reason", "expla", "analysis", "justif")
_HURTFUL = re.compile(
    r"\b(?:worthless|pathetic|shut up|your own fault|nobody cares|kill yourself|idiot)\b", re.I
)
_ABSOLUTE = re.compile(r"\b(?:always|never|guaranteed|everybody|nobody|definitely|certainly)\b", re.I)
_FRAME = re.compile(r"\[\[\s*##\s*(\w+)\s*##\s*\]\]")


class Asked(NamedTuple):
    """One output field that a prompt asks for: its name, and its type as a JSON schema."""

    name: str
    schema: Mapping[str, Any]


class Layout(NamedTuple):
    """Where the last message divides: its style, the text with the inputs, the text with the request."""

    style: str
    inputs: str
    request: str


def divide(text: str) -> Layout:
    """Find a message's style ("chat", "json", "tag", "plain") and its request, which stands at its end."""
    last = text.rstrip().rpartition("\n")[2]
    if _TITLE.fullmatch(last):
        return Layout("tag", text[: text.rindex(last)], last)
    at, style = max((text.rfind(mark), style) for style, mark in _REQUESTS.items())
    return Layout(style, text[:at], text[at:]) if at >= 0 else Layout("plain", text, "")


def _sections(text: str, header: re.Pattern[str], order: Sequence[str] = ()) -> dict[str, str]:
    """The text under each header; with `order`, only these names in this order count as headers."""
    found = [(m.group(1), m.start(), m.end()) for m in header.finditer(text)]
    kept: list[tuple[str, int, int]] = []
    for name in order or dict.fromkeys(f[0] for f in found):
        after = kept[-1][2] if order and kept else 0
        kept += next(([f] for f in found if f[0] == name and f[1] >= after), [])
    ends = [*(f[1] for f in kept[1:]), len(text)]
    return {
        f[0].lower().replace(" ", "_"): text[f[2] : end].strip() for f, end in zip(kept, ends, strict=True)
    }


@lru_cache(256)
def _declared(system: str) -> tuple[str, ...]:
    """The input fields that DSPy's system message lists, () if it lists none."""
    listed = system.partition("Your input fields are:\n")[2].partition("\nYour output fields are:")[0]
    return tuple(m.group(1) for m in _DECLARED.finditer(listed))


@lru_cache(256)
def asked_fields(system: str, style: str, request: str) -> tuple[Asked, ...]:
    """The output fields that a prompt asks for, in order; () for a plain prompt."""
    if style == "tag":
        name = next(iter(_sections(request, _TITLE)))
        score = (Asked("score", _number("integer", system)),) if name == "feedback" else ()
        return (Asked(name, {"type": "string"}), *score)
    listed = system.partition("\nYour output fields are:\n")[2].partition("\nAll interactions will be")[0]
    notes = {m.group(1): m.group(2) for m in _NOTE.finditer(system)}
    about = {m.group(1): m.group(3) for m in _DECLARED.finditer(listed)}
    fields = [(m.group(1), m.group(2) or "str") for m in _ASKED.finditer(request)]
    if style == "chat" and fields:
        fields.pop()  # the closing marker `[[ ## completed ## ]]`
    return tuple(Asked(n, _schema(kind, notes.get(n, ""), about.get(n, ""), style)) for n, kind in fields)


def _schema(kind: str, note: str, about: str, style: str) -> dict[str, Any]:
    """A field's type as a JSON schema, from what DSPy prints about it; a string if that cannot be read."""
    if kind in ("int", "float"):
        return _number("integer" if kind == "int" else "number", about)
    if kind == "bool":
        return {"type": "boolean"}
    try:
        if style == "json" and note:
            note = json.loads('"' + re.sub(r'",?$', "", note) + '"')
        if kind.startswith("Literal["):
            return {"enum": list(ast.literal_eval(kind.removeprefix("Literal")))}
        if note.startswith("must adhere to the JSON schema: "):
            return json.loads(note.partition("schema: ")[2])
    except (ValueError, SyntaxError):
        pass
    choices = note.partition("one of: ")[2]
    return {"enum": choices.split("; ")} if choices else {"type": "string"}


def _number(kind: str, about: str) -> dict[str, Any]:
    """A number with the bounds stated as constraints or as "1-10", "from 1 to 5"; 1 to 5 if none are."""
    low = re.search(r"greater than or equal to: (-?\d+)", about)
    high = re.search(r"less than or equal to: (-?\d+)", about)
    span = re.search(r"(?<![\d.])(\d+)\s*(?:-|–|to|and|\.\.)\s*(\d+)(?!\.?\d)", about)
    ends = sorted(map(int, span.groups())) if span else [1, 5]
    bounds = {
        "minimum": int(low.group(1)) if low else ends[0],
        "maximum": int(high.group(1)) if high else ends[1],
    }
    return {"type": kind} | bounds


class Prompt:
    """One request, read.

    Attributes:
        style: "chat", "json", "tag" or "plain".
        asked: the output fields, () if the prompt names none.
        inputs: the last user message's fields by name, in order.
        schema: the whole `response_format` schema, {} if there is none.
        roll: whole numbers that depend on the request only.
    """

    def __init__(
        self, system: str, turns: Sequence[tuple[str, str]], schema: Mapping[str, Any] | None, roll: Roll
    ) -> None:
        at = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=0)
        self.style, inputs, request = divide(turns[at][1] if turns else "")
        self.system, self.turns, self.schema, self.roll = system, turns[:at], schema or {}, roll
        self.asked = asked_fields(system, self.style, request)
        if self.schema:
            self.style = "json"
            self.asked = tuple(Asked(n, s) for n, s in self.schema.get("properties", {}).items())
        header = _TITLE if self.style == "tag" else _HEADER
        self.inputs = _sections(inputs, header, _declared(system)) or {"text": inputs.strip()}

    @cached_property
    def roles(self) -> dict[str, str]:
        """The inputs by what they are for; of several candidates the last is judged, others are context."""
        roles = {"context": ""}
        for name, text in self.inputs.items():
            role = next((r for r, marks in _ROLES.items() if any(m in name for m in marks)), "context")
            if role == "candidate" and role in roles:
                roles["context"] = f"{roles['context']}\n{roles[role]}"
            elif roles.get(role):
                text = f"{roles[role]}\n{text}"
            roles[role] = text
        return roles

    @cached_property
    def limit(self) -> int:
        """Words that principles or a response may have: as the instructions say, else 128."""
        stated = re.search(r"(\d{2,4}) words", self.system)
        return int(stated.group(1)) if stated else _WORD_LIMIT

    @cached_property
    def reading(self) -> Reading:
        """What a critic makes of the candidate; with nothing to judge, 0.5 and what the input is about."""
        roles = self.roles
        candidate, criteria = roles.get("candidate"), roles.get("criteria")
        if candidate is None and criteria is None:
            return Reading(0.5, rubric_line("", salient(roles["context"])[:3]))
        is_plan = candidate is None
        is_ours = not (criteria or "").startswith("{") if is_plan else "response" in self.inputs
        return critique(
            (criteria if is_plan else candidate) or "",
            context=roles["context"],
            criteria="" if is_plan else criteria or "",
            reference=roles.get("reference", ""),
            limit=self.limit if is_ours else 0,
            is_plan=is_plan,
        )

    def examples(self, name: str) -> list[tuple[str, str]]:
        """(input, output) of each demo for one output field, in prompt order."""
        pairs = [(said, a) for (role, said), (_, a) in itertools.pairwise(self.turns) if role == "user"]
        return [(said, output) for said, a in pairs if (output := self._output(name, a))]

    def _output(self, name: str, answer: str) -> str:
        if self.style == "tag":
            return answer
        if self.style != "json":
            return _sections(answer, _HEADER).get(name, "")
        try:
            value = json.loads(answer)[name]
        except (ValueError, KeyError, TypeError):
            return ""
        return value if isinstance(value, str) else json.dumps(value)

    def base(self, name: str) -> str | None:
        """The text that a refinement (`improved_principles`) starts from; None for other outputs."""
        known = [n for n in self.inputs if n != name and name.endswith(n)]
        return self.inputs[known[-1]] if known and "feedback" in self.roles else None


def written(prompt: Prompt, *, unscored: bool = False) -> str:
    """The answer in the style that the prompt asks for; `unscored` leaves a critique's number unreadable."""
    if not prompt.asked:
        return respond(prompt.roles["context"], "", prompt.roll)
    values = {asked.name: _value(prompt, asked, unscored) for asked in prompt.asked}
    if prompt.style == "json":
        text = json.dumps(values, indent=2, ensure_ascii=False)
    elif prompt.style == "tag":
        first, *score = values.values()
        text = f"Feedback: {first}{'' if unscored else f' [RESULT] {score[0]}'}" if score else first
    else:
        shown = {n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in values.items()}
        # A refinement repeats the candidate: a header in it must not cut the answer.
        parts = [f"[[ ## {name} ## ]]\n" + _FRAME.sub(r"\1", text) for name, text in shown.items()]
        text = "\n\n".join([*parts, "[[ ## completed ## ]]"])
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _value(prompt: Prompt, asked: Asked, unscored: bool) -> Any:
    schema = asked.schema
    if schema.get("type") == "string" and "enum" not in schema:
        text = _text(prompt, asked.name)[: schema.get("maxLength")]
        return re.sub(r"\d+", "some", text) if unscored else text
    base = prompt.base(asked.name) or ""
    topics = rubric_topics(prompt.roles["context"], base, prompt.roles.get("feedback", ""))
    value = _Filler(prompt, prompt.schema or schema, topics).fill(schema, asked.name)
    return "cannot say" if unscored and isinstance(value, int | float) else value


def _text(prompt: Prompt, name: str) -> str:
    """The text of one output field, by what its name says it is."""
    roles, base = prompt.roles, prompt.base(name)
    is_plan = any(mark in name for mark in _ROLES["criteria"])
    if base is not None:
        return refine(
            base,
            roles["feedback"],
            context=roles["context"],
            limit=prompt.limit,
            is_plan=is_plan,
            roll=prompt.roll,
        )
    if is_plan:
        return draft(roles["context"], roles.get("goal", ""), prompt.examples(name), prompt.roll)
    if any(mark in name for mark in _COMMENTS):
        return prompt.reading.feedback
    return respond(roles["context"], roles.get("criteria", ""), prompt.roll)


def _quality(prompt: Prompt, name: str) -> float:
    """How much of what a field's name asks about was found, in [0, 1]."""
    candidate = prompt.roles.get("candidate", "")
    if any(mark in name for mark in ("harm", "toxic", "unsafe", "offens")):
        return float(bool(_HURTFUL.search(candidate)))
    if "fact" in name:
        return max(1 - 0.35 * len(_ABSOLUTE.findall(candidate)), 0.0)
    if "empath" in name:
        return min(len(re.findall(r"\byou", candidate, re.I)) / 6, 1.0)
    return prompt.reading.quality


class _Filler(NamedTuple):
    """Fills JSON schemas for one prompt: `root` holds the definitions, texts inside name `topics`."""

    prompt: Prompt
    root: Mapping[str, Any]
    topics: Sequence[Topic]

    def fill(self, schema: Mapping[str, Any], name: str, depth: int = 0) -> Any:
        """A value that fits a schema; beyond eight levels only null or an empty value."""
        schema = self._resolved(schema, depth)
        choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if choices:
            return self._chosen(choices, name)
        match schema.get("type", "string"):
            case "integer" | "number" as kind:
                return self._number(schema, name, kind)
            case "boolean":
                return _quality(self.prompt, name) >= 0.6
            case "null":
                return None
            case "array":
                return self._array(schema, name, depth)
            case "object":
                fields = {} if depth > 8 else schema.get("properties", {})
                return {key: self.fill(part, key, depth + 1) for key, part in fields.items()}
            case _:
                text = rubric_line(name, self.topics)
                return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        for _ in range(20):
            parts = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
            if "$ref" in schema:
                schema = self.root.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2], {})
            elif parts:
                ends_here = [p for p in parts if p.get("type") == "null"] if depth > 8 else []
                schema = (ends_here or [p for p in parts if p.get("type") != "null"] or parts)[0]
            else:
                break
        return schema

    def _number(self, schema: Mapping[str, Any], name: str, kind: str) -> float:
        step = 1 if kind == "integer" else 0.01
        low = schema.get(
            "minimum", schema["exclusiveMinimum"] + step if "exclusiveMinimum" in schema else None
        )
        high = schema.get(
            "maximum", schema["exclusiveMaximum"] - step if "exclusiveMaximum" in schema else None
        )
        if low is None:
            low = 1 if high is None or high > 1 else high - 4
        value = low + _quality(self.prompt, name) * ((low + 4 if high is None else high) - low)
        return int(value + 0.5) if kind == "integer" else round(float(value), 2)

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        part = schema.get("items") or {}
        n = max(min(3, schema.get("maxItems", 3)), schema.get("minItems", 0))
        if "prefixItems" in schema:
            return [self.fill(p, name, depth + 1) for p in schema["prefixItems"]]
        if depth > 8:
            return []
        words = [t.word for t in salient(self.prompt.roles["context"])[:n]]
        if part.get("type") == "string" and "enum" not in part and len(words) == n:
            return words
        return [self.fill(part, name, depth + 1) for _ in range(n)]

    def _chosen(self, choices: Sequence[Any], name: str) -> Any:
        """Of numbers, or yes and no, the one at the measured quality; else the one the input speaks of."""
        choices = [c for c in choices if c is not None] or choices
        if all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
            target = min(choices) + _quality(self.prompt, name) * (max(choices) - min(choices))
            return min(choices, key=lambda c: (abs(c - target), -c))
        by_word = {str(c).casefold(): c for c in choices}
        if "yes" in by_word and "no" in by_word:
            between = [c for word, c in by_word.items() if word not in ("yes", "no")]
            quality = _quality(self.prompt, name)
            middle = between[0] if between else by_word["yes" if quality >= 0.45 else "no"]
            return by_word["yes"] if quality >= 0.6 else by_word["no"] if quality < 0.3 else middle
        spoken = [c for c in choices if shares_words(str(c), self.prompt.roles["context"])]
        return spoken[0] if spoken else choices[self.prompt.roll(name) % len(choices)]
