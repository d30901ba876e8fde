"""The built-in author fills exactly what a prompt asks for, in the style it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.servers.answers import Author, prompt_digest

CHAT_ENDING = (
    "Respond with the corresponding output fields, starting with the field `[[ ## feedback ## ]]`, "
    "then `[[ ## score ## ]]` (must be formatted as a valid Python Literal[1, 2, 3, 4, 5]), "
    "then `[[ ## harmful ## ]]` (must be formatted as a valid Python Literal['yes', 'no']), "
    "then `[[ ## points ## ]]` (must be formatted as a valid Python list[str]), "
    "and then ending with the marker for `[[ ## completed ## ]]`."
)
JSON_ENDING = (
    "Respond with a JSON object in the following order of fields: `feedback`, "
    "then `score` (must be formatted as a valid Python int), then `share` (must be formatted as a valid "
    "Python float), then `fine` (must be formatted as a valid Python bool)."
)
SCHEMA = {
    "type": "object",
    "properties": {
        "feedback": {"type": "string", "maxLength": 12},
        "score": {"enum": [1, 2, 3, 4, 5]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}, "minItems": 2},
        "share": {"type": "number", "maximum": 1},
        "remark": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "version": {"const": "v1"},
    },
    "$defs": {"Part": {"type": "object", "properties": {"ok": {"type": "boolean"}}}},
}


def answer(content: Any, *, score: int = 5, n_words: int = 30, **body: Any) -> str:
    messages = [{"role": "system", "content": "Judge."}, {"role": "user", "content": content}]
    return Author(prompt_digest(messages), score, n_words).answer(messages, body)


@pytest.mark.parametrize("score", [3, 5])
def test_chat_style_gets_every_field_and_no_input(score: int):
    prompt = f"[[ ## post ## ]]\n`[[ ## decoy ## ]]` Respond with care.\n\n{CHAT_ENDING}"
    sections = answer(prompt, score=score).split("[[ ## ")[1:]
    fields = dict(section.split(" ## ]]", 1) for section in sections)
    assert list(fields) == ["feedback", "score", "harmful", "points", "completed"]
    assert len(sections) == len(fields)
    assert fields["score"].strip() == str(score)
    assert fields["harmful"].strip() in ("yes", "no")
    assert len(json.loads(fields["points"])) == 1


def test_json_style_gets_an_object_of_the_types_asked_for():
    fields = json.loads(answer(f"post\n\n{JSON_ENDING}", score=3, response_format={"type": "json_object"}))
    assert list(fields) == ["feedback", "score", "share", "fine"]
    assert (fields["score"], fields["share"], fields["fine"]) == (3, 3, False)


def test_json_schema_goes_before_the_ending():
    wanted = {"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA}}
    fields = json.loads(answer(CHAT_ENDING, score=3, response_format=wanted))
    assert list(fields) == ["feedback", "score", "parts", "share", "remark", "version"]
    assert (fields["score"], fields["share"], fields["version"]) == (3, 1, "v1")
    assert len(fields["feedback"]) == 12
    assert fields["parts"] == [{"ok": False}, {"ok": False}]
    assert fields["remark"].startswith("remark ")


def test_tagged_critic_gets_a_tagged_score():
    text = answer("Write it as: Feedback: ... [RESULT] (a number from 1 to 5)")
    assert text.startswith("Feedback: ")
    assert text.endswith(" [RESULT] 5")


def test_free_text_is_as_long_as_asked_and_unique_to_the_prompt():
    assert len(answer("a", n_words=100).split()) == 102
    assert answer("a") == answer("a") != answer("b")


def test_content_in_parts_is_read_like_text():
    assert "[RESULT] 5" in answer([{"type": "text", "text": "End with [RESULT]"}])


def test_digest_ignores_all_but_roles_and_contents():
    message = {"role": "user", "content": "a"}
    plain = prompt_digest([message])
    assert plain == prompt_digest([{"content": "a", "role": "user", "name": "x"}])
    assert len({plain, prompt_digest([message | {"role": "system"}]), prompt_digest([message, message])}) == 3
