"""Reading a prompt back: from the messages of one LM call to inputs, demos and the outputs asked for.

It knows three styles: DSPy's chat style (`[[ ## field ## ]]`), DSPy's JSON style, and plain sections
(`###Field Name:`, the last one being the one to write). It reads what DSPy prints, and a `response_format`;
it has no access to signatures. Where a field's text looks like a header, the order of the input fields that
the system message declares decides. Any other prompt is one field "text" and asks for no output by name.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from spri_dspy.lms.offline_text import READ, Reading, Roll, critique, rubric_line, salient

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
ROLES = {
    "feedback": ("feedback", "critique"),
    "reference": ("reference",),
    "candidate": ("response", "answer", "candidate", "completion", "judg"),
    "goal": ("aim", "goal", "purpose", "system_prompt"),
    "criteria": ("principle", "rubric", "standard", "criteri", "guideline"),
}
"""What a field is for, by a part of its name; a field with none of these is context."""


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
    if at < 0 or len(text) - at > READ:
        return Layout("plain", text, "")
    return Layout(style, text[:at], text[at:])


def _sections(text: str, header: re.Pattern[str], order: Sequence[str] = ()) -> dict[str, str]:
    """The text under each header; with `order`, only these names in this order count as headers."""
    found = [(m.group(1), m.start(), m.end()) for m in header.finditer(text)]
    kept: list[tuple[str, int, int]] = []
    for name in order or dict.fromkeys(f[0] for f in found):
        after = kept[-1][2] if order and kept else 0
        kept += next(([f] for f in found if f[0] == name and f[1] >= after), [])
    ends = [*(start for _, start, _ in kept[1:]), len(text)]
    spans = zip(kept, ends, strict=False)
    return {name.lower().replace(" ", "_"): text[after:end].strip() for (name, _, after), end in spans}


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
        score = (
            (Asked("score", _number("integer", system.rpartition("\n\n")[2])),) if name == "feedback" else ()
        )
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
        inputs: the last user message's fields by name, in order; each cut to what is worth reading.
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
        fields = _sections(inputs, header, _declared(system)) or {"text": inputs.strip()}
        self.inputs = {name: text[:READ] for name, text in fields.items()}

    @cached_property
    def roles(self) -> dict[str, str]:
        """The inputs by what they are for; of several candidates the last is judged, others are context.

        What a refinement starts from is none of them: an improved judgement still judges the answer.
        """
        roles = {"context": ""}
        rewritten = {self._rewritten(asked.name) for asked in self.asked}
        for name, text in self.inputs.items():
            if name in rewritten:
                continue
            role = next((r for r, marks in ROLES.items() if any(m in name for m in marks)), "context")
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
        return [(said[:READ], output[:READ]) for said, a in pairs if (output := self._output(name, a))]

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
        known = self._rewritten(name)
        return None if known is None else self.inputs[known]

    def _rewritten(self, name: str) -> str | None:
        known = [n for n in self.inputs if n != name and name.endswith(n)]
        has_feedback = any(mark in n for n in self.inputs for mark in ROLES["feedback"])
        return known[-1] if known and has_feedback else None
