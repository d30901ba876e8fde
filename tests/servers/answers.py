"""What the mock answers by itself: every output field that was asked for, and one known score.

It reads the endings of DSPy's chat and JSON styles, `response_format` schemas and the `[RESULT]` of tagged
critics. It knows no task: a field's text is its name, a mark of the prompt and filler.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

_FILLER = "plain words that fill the answer up to the length that was asked for"


def prompt_digest(messages: Sequence[Mapping[str, Any]]) -> str:
    """32 hex digits that stand for the roles and contents of a prompt, and nothing else of the request."""
    digest = blake2b(digest_size=16)
    for message in messages:
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
        digest.update(f"{message.get('role')}\x1f{text}\x1e".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def uniform(seed: int, purpose: str, key: str) -> float:
    """A number in (0, 1) that depends on nothing but the arguments."""
    raw = blake2b(f"{seed}\x1f{purpose}\x1f{key}".encode(), digest_size=6).digest()
    return (int.from_bytes(raw) + 0.5) / 2**48


@dataclass(frozen=True, slots=True)
class Author:
    """Writes the answer to one prompt.

    Attributes:
        digest: the prompt's digest; free text carries its first 12 digits, so no two prompts get the same.
        score: the number of every numeric field, and of every choice that offers it.
        n_words: filler words in every free-text field.
    """

    digest: str
    score: int
    n_words: int

    def answer(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> str:
        """Follow response_format, else DSPy's chat or JSON style, else `[RESULT]`, else plain text."""
        wanted = body.get("response_format") or {}
        last = messages[-1].get("content") if messages else ""
        last = last if isinstance(last, str) else json.dumps(last)
        if wanted.get("type") == "json_schema":
            schema = wanted["json_schema"]["schema"]
            return json.dumps(self._fill("answer", schema, schema.get("$defs", {})))
        style, asked = _asked_fields(last[max(last.rfind("Respond with "), 0) :])
        values = {name: self._fill(name, schema, {}) for name, schema in asked.items()}
        if style == "chat":
            shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
            sections = [f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in shown.items()]
            return "".join(sections) + "[[ ## completed ## ]]"
        if style == "json" or wanted.get("type") == "json_object":
            return json.dumps(values or {"answer": self.text("answer")})
        if any("[RESULT]" in str(message.get("content")) for message in messages):
            return f"Feedback: {self.text('feedback')} [RESULT] {self.score}"
        return self.text("answer")

    def text(self, name: str) -> str:
        """Words for one field, different for every prompt and field name."""
        return f"{name} {self.digest[:12]} {_filler(self.n_words)}"

    def _fill(self, name: str, schema: dict[str, Any], defs: dict[str, Any]) -> Any:
        """A value that the schema allows; the score wherever the field is a number or `score`."""
        if "$ref" in schema:
            return self._fill(name, defs[schema["$ref"].rsplit("/", 1)[-1]], defs)
        if "anyOf" in schema:
            return self._fill(name, schema["anyOf"][0], defs)
        options = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if options:
            return self.score if self.score in options else options[int(self.digest[:8], 16) % len(options)]
        match schema.get("type"):
            case "object":
                return {key: self._fill(key, sub, defs) for key, sub in schema.get("properties", {}).items()}
            case "array":
                return [self._fill(name, schema.get("items", {}), defs)] * max(1, schema.get("minItems", 1))
            case "boolean":
                return self.score >= 4
            case "integer" | "number":
                low, high = schema.get("minimum", self.score), schema.get("maximum", self.score)
                return min(max(self.score, low), high)
        return self.text(name)[: schema.get("maxLength")]


@functools.cache
def _filler(n_words: int) -> str:
    words = _FILLER.split()
    return " ".join(words[i % len(words)] for i in range(n_words))


_FIELD = re.compile(
    r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`"  # the name, in DSPy's chat or JSON style
    r"(?: \(must be formatted as a valid Python (.*?)\)(?=[,.]))?"
)


@functools.lru_cache(maxsize=1024)  # a program asks with a handful of endings, thousands of times
def _asked_fields(ending: str) -> tuple[Literal["chat", "json", "plain"], dict[str, dict[str, Any]]]:
    """The output fields that DSPy's last lines ask for, each with a JSON schema for its Python type."""
    if ending.startswith("Respond with the corresponding output fields") and "`[[ ## " in ending:
        style = "chat"
    elif ending.startswith("Respond with a JSON object"):
        style = "json"
    else:
        return "plain", {}
    found = {name: _schema_of(name, kind) for name, kind in _FIELD.findall(ending)}
    return style, {name: schema for name, schema in found.items() if name != "completed"}


def _schema_of(name: str, kind: str) -> dict[str, Any]:
    if kind.startswith("Literal["):
        return {"enum": ast.literal_eval(kind.removeprefix("Literal"))}
    if kind.startswith("list["):
        return {"type": "array", "items": _schema_of(name, kind[5:-1])}
    known = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    return {"type": known.get(kind, "integer" if name == "score" else "string")}
