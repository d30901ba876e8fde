"""Writing the stand-in's answer: a value for every output that a prompt asks for, in the style it asks for.

What an output is to hold is decided by its name (principles, feedback, a response, improved_...) and its type,
a JSON schema; numbers and choices follow what the critic measured. It knows no task and no signature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spri_dspy.lms.offline_prompt import ROLES, Asked, Prompt
from spri_dspy.lms.offline_text import (
    Topic,
    draft,
    missing,
    refine,
    respond,
    rubric_line,
    rubric_topics,
    salient,
    shares_words,
)

_COMMENTS = ("feedback", "critique", "comment", "rationale", "reason", "expla", "analysis", "justif")
_HURTFUL = re.compile(
    r"\b(?:worthless|pathetic|shut up|your own fault|nobody cares|kill yourself|idiot)\b", re.I
)
_ABSOLUTE = re.compile(r"\b(?:always|never|guaranteed|everybody|nobody|definitely|certainly)\b", re.I)
_MARKUP = re.compile(r"\[\[[ #]*|[ #]*\]\]|</?think>")


def written(prompt: Prompt, *, unscored: bool = False) -> str:
    """The answer in the style that the prompt asks for; `unscored` leaves the numbers of a verdict unreadable."""
    if not prompt.asked:
        return respond(prompt.roles["context"], "", prompt.roll)
    unscored = unscored and len(prompt.asked) > 1
    values = {asked.name: _value(prompt, asked, unscored) for asked in prompt.asked}
    if prompt.style == "json":
        text = json.dumps(values, indent=2, ensure_ascii=False)
    elif prompt.style == "tag":
        first, *score = values.values()
        text = f"Feedback: {first}{'' if unscored else f' [RESULT] {score[0]}'}" if score else first
    else:
        shown = {n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in values.items()}
        parts = [f"[[ ## {name} ## ]]\n{text}" for name, text in shown.items()]
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
    is_plan = any(mark in name for mark in ROLES["criteria"])
    if base is not None:
        return refine(
            _MARKUP.sub("", base),  # what is repeated must not cut the answer
            roles["feedback"],
            context=roles["context"],
            limit=prompt.limit,
            is_plan=is_plan,
            roll=prompt.roll,
        )
    if is_plan:
        return draft(roles["context"], roles.get("goal", ""), prompt.examples(name), prompt.roll)
    if _is_comment(name):
        return prompt.reading.feedback
    return respond(roles["context"], roles.get("criteria", ""), prompt.roll)


def _is_comment(name: str) -> bool:
    return any(mark in name for mark in _COMMENTS)


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
                text = self._comment() if _is_comment(name) else rubric_line(name, self.topics)
                return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")

    def _comment(self) -> str:
        """What the critic says, and what a feedback on it asks for."""
        roles, text = self.prompt.roles, self.prompt.reading.feedback
        for topic in missing(roles["feedback"], roles["context"], text) if "feedback" in roles else ():
            verb = "speaks" if shares_words(topic.word, roles.get("candidate", "")) else "does not speak"
            text += f" It {verb} of {topic.said('the')}."
        return text

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
