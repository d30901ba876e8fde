"""Prompt styles: how a signature becomes a prompt and how an answer is read back.

    chat        DSPy's `[[ ## field ## ]]` sections (default)
    json        one JSON object; with a schema where the LM can be held to one
    result_tag  plain sections; critics answer with feedback and `[RESULT] n` (Prometheus-2)

All three read answers with the same leniency: a model that forgets the frame around a single text answer is
still understood, and a critic's score is found wherever it was written (`reading.read_score`). A scale with
no readable number is None, which the program handles; a missing text is an AdapterParseError, which
`RolePredict` answers by asking again. No style makes a second call behind the caller's back.

DSPy 3.5 changes what `format` returns: everything that depends on it is in this file.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import dspy
from dspy.adapters.utils import format_field_value, parse_value
from dspy.utils.exceptions import AdapterParseError

from spri_dspy.errors import UnknownNameError
from spri_dspy.reading import read_score

_HEADER = re.compile(r"^[\s*#`]*\[\[\s*##\s*(\w+)\s*##\s*\]\][*`]*", re.MULTILINE)


def scale_of(annotation: Any) -> tuple[int, int] | None:
    """The ends of a rating scale if the type is a Literal of whole numbers, else None."""
    if get_origin(annotation) is not Literal:
        return None
    choices = get_args(annotation)
    if not choices or not all(isinstance(c, int) and not isinstance(c, bool) for c in choices):
        return None
    return min(choices), max(choices)


def is_verdict(signature: type[dspy.Signature]) -> bool:
    """True if the outputs are one text and one rating: a critique or a judgement."""
    annotations = [f.annotation for f in signature.output_fields.values()]
    return len(annotations) == 2 and str in annotations and any(scale_of(a) for a in annotations)


class ChatStyle(dspy.ChatAdapter):
    """DSPy's chat style, read leniently and without the hidden second call as JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read the sections of an answer.

        Raises:
            AdapterParseError: a field that is not a rating is missing or has the wrong type.
        """
        return _read_sections(signature, completion, _sections(signature, completion), type(self).__name__)


class JsonStyle(dspy.JSONAdapter):
    """DSPy's JSON style; a verdict that is no JSON is still read as text with a score in it."""

    def __init__(self) -> None:
        super().__init__(use_native_function_calling=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read one JSON object.

        Raises:
            AdapterParseError: it is not JSON, or a field that is not a rating is missing.
        """
        try:
            return super().parse(signature, completion)
        except AdapterParseError:
            if not is_verdict(signature) or not completion.strip():
                raise
            return _verdict_from_text(signature, completion)


class ResultTagStyle(dspy.Adapter):
    """Plain `###Section:` prompts. A verdict is feedback followed by `[RESULT] n`; anything else is plain text.

    Signatures with more than one output that are no verdict cannot be asked for in this style and are sent in
    chat style instead.
    """

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Messages for one call: instructions, demos, the sections to judge."""
        if not _is_plain(signature):
            return STYLES["chat"].format(signature, demos, inputs)
        system = signature.instructions
        if is_verdict(signature):
            low, high = _scale(signature)
            system += (
                f"\n\nAnswer in this form, with nothing after the number:\n"
                f"Feedback: (your feedback) [RESULT] (a whole number from {low} to {high})"
            )
        user = self.format_user_message_content(signature, inputs, main_request=True)
        return [
            {"role": "system", "content": system},
            *self.format_demos(signature, demos),
            {"role": "user", "content": user},
        ]

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """The input fields as sections, ending with the section that the model is to write."""
        parts = [prefix]
        for name, info in signature.input_fields.items():
            if name in inputs:
                parts.append(f"###{_title(name)}:\n{format_field_value(info, inputs[name])}")
        parts.append(
            "###Feedback:" if is_verdict(signature) else f"###{_title(next(iter(signature.output_fields)))}:"
        )
        return "\n\n".join(p for p in (*parts, suffix) if p)

    def format_assistant_message_content(
        self,
        signature: type[dspy.Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """A demo's answer in this style."""
        if is_verdict(signature):
            text, scale = _verdict_fields(signature)
            return f"Feedback: {outputs.get(text, missing_field_message)} [RESULT] {outputs.get(scale, '')}".rstrip()
        return str(outputs.get(next(iter(signature.output_fields)), missing_field_message))

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read feedback and `[RESULT] n`, or plain text.

        Raises:
            AdapterParseError: nothing was written.
        """
        if not _is_plain(signature):
            return STYLES["chat"].parse(signature, completion)
        return _read_sections(signature, completion, {}, type(self).__name__)


def _is_plain(signature: type[dspy.Signature]) -> bool:
    return is_verdict(signature) or [f.annotation for f in signature.output_fields.values()] == [str]


def _title(field: str) -> str:
    return field.replace("_", " ").title()


def _sections(signature: type[dspy.Signature], completion: str) -> dict[str, str]:
    """The text under each known header, the first of equal ones; "" holds what stands before any header."""
    found: dict[str, str] = {}
    name, start = "", 0
    for match in _HEADER.finditer(completion):
        if match.group(1) in signature.output_fields or match.group(1) == "completed":
            found.setdefault(name, completion[start : match.start()].strip())
            name, start = match.group(1), match.end()
    found.setdefault(name, completion[start:].strip())
    return found


def _read_sections(
    signature: type[dspy.Signature], completion: str, sections: dict[str, str], adapter: str
) -> dict[str, Any]:
    outputs = signature.output_fields
    framed = any(name in sections for name in outputs)
    text = sections.get("", completion.strip())
    if text and not framed:
        if is_verdict(signature):
            return _verdict_from_text(signature, text)
        if [f.annotation for f in outputs.values()] == [str]:
            return {next(iter(outputs)): text}
    values: dict[str, Any] = {}
    for name, info in outputs.items():
        scale = scale_of(info.annotation)
        if scale:
            values[name] = read_score(sections.get(name) or sections.get("feedback", ""), *scale)
        elif name in sections and (sections[name] or info.annotation is not str):
            values[name] = _parse_typed(signature, name, sections[name], completion, adapter)
        elif is_verdict(signature):
            values[name] = sections.get("", "")
        else:
            raise _unreadable(
                adapter, signature, completion, f"the answer has no text for the field {name!r}"
            )
    return values


def _parse_typed(signature: type[dspy.Signature], name: str, text: str, completion: str, adapter: str) -> Any:
    try:
        return parse_value(text, signature.output_fields[name].annotation)
    except ValueError as error:
        message = f"the field {name!r} cannot be read: {error}"
        raise _unreadable(adapter, signature, completion, message) from error


def _unreadable(adapter: str, signature: Any, completion: str, message: str) -> AdapterParseError:
    return AdapterParseError(
        adapter_name=adapter, signature=signature, lm_response=completion, message=message
    )


def _verdict_fields(signature: type[dspy.Signature]) -> tuple[str, str]:
    """Names of the text field and of the rating field."""
    names = list(signature.output_fields)
    return (
        (names[0], names[1])
        if scale_of(signature.output_fields[names[1]].annotation)
        else (names[1], names[0])
    )


def _scale(signature: type[dspy.Signature]) -> tuple[int, int]:
    scale = scale_of(signature.output_fields[_verdict_fields(signature)[1]].annotation)
    assert scale is not None
    return scale


def _verdict_from_text(signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
    """A critique without any frame: all of it is feedback, and the score is wherever it stands.

    The published prompts show this very text to the refinement, tag included; so do we.
    """
    text, scale = _verdict_fields(signature)
    return {text: completion.strip(), scale: read_score(completion, *_scale(signature))}


STYLES: dict[str, Any] = {"chat": ChatStyle(), "json": JsonStyle(), "result_tag": ResultTagStyle()}


def style(name: str) -> Any:
    """The adapter of a prompt style.

    Raises:
        UnknownNameError: no such style.
    """
    if name not in STYLES:
        raise UnknownNameError("prompt style", name, STYLES)
    return STYLES[name]
