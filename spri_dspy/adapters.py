"""Prompt styles: how a signature becomes a prompt and how an answer is read back.

    chat        DSPy's `[[ ## field ## ]]` sections (default)
    json        one JSON object; with a schema where the LM can be held to one
    result_tag  plain sections; critics answer with feedback and `[RESULT] n` (Prometheus-2)

All three read answers with the same leniency: a model that forgets the frame around a single text answer is
still understood, and a critic's score is found wherever it was written (`reading.read_score`). A scale with
no readable number is None, which the program handles; a type with a `from_text` reads its own text; a missing
text is an AdapterParseError, which `RolePredict` answers by asking again. No style makes a second call behind
the caller's back.

DSPy 3.5 changes what `format` returns: everything that depends on it is in this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.utils import format_field_value, parse_value
from dspy.utils.exceptions import AdapterParseError

from spri_dspy.errors import UnknownNameError
from spri_dspy.parsing import (
    LONGEST_REPAIR,
    read_objects,
    read_score,
    read_score_as_published,
    refuse_runaway,
)
from spri_dspy.prompt_fencing import NOTICE, fence, neutral

# Every repetition is bounded, so that reading stays linear on a runaway answer.
_HEADER = re.compile(r"^[ \t>*#`]{0,12}\[\[[ #]{0,6}(\w[\w ]{0,60}?)[ #]{0,6}\]\][*`]{0,3}:?", re.MULTILINE)
_END = re.compile(r"[ \t>*#`]{0,12}\[\[[ #]{0,6}completed[ #]{0,6}\]\]", re.IGNORECASE)


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


def is_scoring(signature: type[dspy.Signature]) -> bool:
    """True if an output is a rating or a choice, or has one among its own fields: then the inputs are fenced."""
    kinds = [f.annotation for f in signature.output_fields.values()]
    kinds += [f.annotation for kind in kinds for f in getattr(kind, "model_fields", {}).values()]
    return any(scale_of(kind) or hasattr(kind, "choices") for kind in kinds)


def _shown(signature: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, str]:
    """The inputs that there are, as they stand in the prompt.

    What is to be scored, and all that comes with it, is fenced; what it is scored by (a `signatures.measure`) is
    only kept from passing for the prompt's structure.
    """
    fields = signature.input_fields
    given = {name: inputs[name] for name in fields if name in inputs}
    # DSPy's formatting of a value costs a third of a call's CPU, and text needs none.
    shown = {n: v if isinstance(v, str) else str(format_field_value(fields[n], v)) for n, v in given.items()}
    if not is_scoring(signature):
        return shown
    is_fenced = {name: _extra(fields[name]).get("fenced", True) for name in shown}
    return {name: (fence if is_fenced[name] else neutral)(said) for name, said in shown.items()}


def _instructions(signature: type[dspy.Signature]) -> str:
    """The instructions, and what fences mean where there are any."""
    return f"{signature.instructions}\n\n{NOTICE}" if is_scoring(signature) else signature.instructions


class _QuickPrompts(dspy.ChatAdapter):
    """DSPy's own prompts, with what depends on the signature alone made once: a fifth of a call's CPU."""

    def format_task_description(self, signature: type[dspy.Signature]) -> str:
        """The instructions."""
        return super().format_task_description(signature.with_instructions(_instructions(signature)))

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """Fields, their structure and the instructions."""
        return _remembered(self, "system", signature, super().format_system_message)

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """The input fields as sections, and what to answer with."""
        shown = _shown(signature, inputs)
        sections = [prefix, *(f"[[ ## {name} ## ]]\n{value}" for name, value in shown.items())]
        if main_request:
            sections.append(_remembered(self, "asks", signature, self.user_message_output_requirements))
        return "\n\n".join([*sections, suffix]).strip()


_PARTS: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()
"""Parts of prompts by signature."""


def _remembered(adapter: Any, part: str, signature: Any, make: Callable[[Any], str]) -> str:
    made = _PARTS.setdefault(signature, {})
    # Some optimisers change a signature's instructions, its docstring, in place.
    key = f"{type(adapter).__name__} {part} {signature.__doc__}"
    if key not in made:
        made[key] = make(signature)
    return made[key]


class ChatStyle(_QuickPrompts):
    """DSPy's chat style, read leniently and without the hidden second call as JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read the sections of an answer.

        Raises:
            AdapterParseError: a field that is not a rating is missing or has the wrong type.
        """
        return _read(signature, completion, type(self).__name__)


class JsonStyle(_QuickPrompts, dspy.JSONAdapter):
    """DSPy's JSON style.

    An LM that can be held to a JSON schema gets one, in which a text that another field follows is at most
    `lm.max_chars` long, if the LM states that: the score behind a feedback is then always reached.
    """

    def __init__(self) -> None:
        dspy.JSONAdapter.__init__(self, use_native_function_calling=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read one JSON object, or what was written instead of it.

        Raises:
            AdapterParseError: a field that is not a rating is missing or has the wrong type.
        """
        return _read(signature, completion, type(self).__name__, json_first=True)

    def _prepare_response_format(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: type[dspy.Signature]
    ) -> None:
        super()._prepare_response_format(lm, lm_kwargs, signature)
        schema = getattr(lm_kwargs.get("response_format"), "model_json_schema", None)
        if schema is not None and getattr(lm, "max_chars", None):
            _bound_texts(schema(), lm.max_chars)  # made anew for every call, and the one that is sent


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
        system = _instructions(signature)
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
        parts += [f"###{_title(name)}:\n{said}" for name, said in _shown(signature, inputs).items()]
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
            said = str(outputs.get(text, missing_field_message)).removeprefix("Feedback:").strip()
            if "[RESULT]" in said:  # a critique that was read as a whole keeps its tag
                return f"Feedback: {said}"
            return f"Feedback: {said} [RESULT] {outputs.get(scale, '')}".rstrip()
        return str(outputs.get(next(iter(signature.output_fields)), missing_field_message))

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read feedback and `[RESULT] n`, or plain text.

        Raises:
            AdapterParseError: nothing was written.
        """
        if not _is_plain(signature):
            return STYLES["chat"].parse(signature, completion)
        return _read(signature, completion, type(self).__name__)


def _is_plain(signature: type[dspy.Signature]) -> bool:
    return is_verdict(signature) or [f.annotation for f in signature.output_fields.values()] == [str]


def _title(field: str) -> str:
    return field.replace("_", " ").title()


def _read(
    signature: type[dspy.Signature], completion: str, adapter: str, *, json_first: bool = False
) -> dict[str, Any]:
    """Read an answer in whatever shape it came: sections, a JSON object, or the text alone."""
    answer = completion.rpartition("</think>")[2]
    text = _END.split(answer, maxsplit=1)[0].strip()
    if json_first:
        found = _json_fields(signature, answer) or _sections(signature, text)
    else:
        found = _sections(signature, text) or _json_fields(signature, answer, whole=True)
    if not found and is_verdict(signature) and text:
        return _verdict_from_text(signature, text)
    found = found or _unframed(signature, text, is_json=json_first)
    whole = _HEADER.sub("", text).strip() if is_verdict(signature) else ""
    values: dict[str, Any] = {}
    for name, info in signature.output_fields.items():
        scale = scale_of(info.annotation)
        if scale:
            values[name] = _rating(found, name, scale)
        elif info.annotation is str:
            values[name] = _as_text(found.get(name)) or whole
        elif name in found:
            values[name] = _parse_typed(signature, name, found[name], completion, adapter)
        if values.get(name, "") == "":
            raise _unreadable(
                adapter, signature, completion, f"the answer has no text for the field {name!r}"
            )
    return values


def _sections(signature: type[dspy.Signature], text: str) -> dict[str, str]:
    """The text under each output's header, {} if there is none.

    The first header that has text counts; of a rating the last, for a critic may quote what it judges.
    """
    outputs = signature.output_fields
    marks = [(name, m) for m in _HEADER.finditer(text) if (name := _output_named(outputs, m.group(1)))]
    ends = [m.start() for _, m in marks[1:]] + [len(text)]
    found: dict[str, str] = {}
    for (name, mark), end in zip(marks, ends, strict=False):
        if not found.get(name) or scale_of(outputs[name].annotation):
            found[name] = text[mark.end() : end].strip()
    return found


def _json_fields(signature: type[dspy.Signature], answer: str, *, whole: bool = False) -> dict[str, Any]:
    """The outputs in a JSON object, repaired if need be; {} if there is none. `whole`: only if it is all there is."""
    if whole and not answer.lstrip("`json \n").startswith("{"):
        return {}
    try:
        parts = read_objects(answer)
    except ValueError:
        return {}
    fields = ((_output_named(signature.output_fields, str(k)), v) for part in parts for k, v in part.items())
    return {name: value for name, value in fields if name}


def _output_named(outputs: Mapping[str, Any], heading: str) -> str | None:
    name = heading.strip().casefold().replace(" ", "_")
    return name if name in outputs else None


def _unframed(signature: type[dspy.Signature], text: str, *, is_json: bool) -> dict[str, str]:
    """An answer without a frame, or under another name, is the only output; broken JSON is nothing."""
    headers = list(_HEADER.finditer(text))
    if len(headers) == 1:
        text = text[headers[0].end() :].strip()
    name, *others = signature.output_fields
    broken = is_json and signature.output_fields[name].annotation is str and text.startswith(("{", "["))
    return {} if others or not text or broken else {name: text}


def _rating(found: dict[str, Any], name: str, scale: tuple[int, int]) -> int | None:
    """The score of a rating field; where that is empty, the one that another field states."""
    stated = found.get(name)
    if stated is None or stated == "":
        return next((s for v in found.values() if (s := read_score(str(v), *scale))), None)
    stated = str(stated)
    return read_score(f"Score: {stated}" if stated.lstrip(" *_`([\"'")[:1].isdigit() else stated, *scale)


def _as_text(value: Any) -> str:
    """A text or a number; a list or an object one line each; "" for what is neither."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return "\n".join(text for part in parts if (text := _as_text(part)))
    if value is None or isinstance(value, bool):
        return ""
    return str(value).strip()


def _parse_typed(
    signature: type[dspy.Signature], name: str, value: Any, completion: str, adapter: str
) -> Any:
    annotation = signature.output_fields[name].annotation
    read = getattr(annotation, "from_text", None)
    try:
        if isinstance(value, str) and callable(read):
            return read(value)
        if isinstance(value, str):
            refuse_runaway(value)
            if len(value) > LONGEST_REPAIR:
                value = json.loads(value)  # or DSPy would repair it, which takes minutes
        return parse_value(value, annotation)
    except (ValueError, TypeError) as error:
        message = f"the field {name!r} cannot be read: {error}"
        raise _unreadable(adapter, signature, completion, message) from error


def _bound_texts(schema: dict[str, Any], longest: int) -> None:
    """Bound every text that another field follows, in place."""
    for part in (schema, *schema.get("$defs", {}).values()):
        for field in list(part.get("properties", {}).values())[:-1]:
            if field.get("type") == "string":
                field.setdefault("maxLength", longest)


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


def _extra(field: Any) -> dict[str, Any]:
    """What a signature says of a field beside its type and description."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _verdict_from_text(signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
    """A critique without any frame: all of it is feedback, and the score is wherever it stands.

    The published prompts show this very text to the refinement, tag included; so do we, less the label before it.
    """
    text, scale = _verdict_fields(signature)
    unlabelled = completion.strip().removeprefix("###").removeprefix("Feedback:").strip()
    published = _extra(signature.output_fields[scale]).get("read") == "published"
    score = read_score_as_published(completion) if published else read_score(completion, *_scale(signature))
    return {text: unlabelled or completion, scale: score}


STYLES: dict[str, Any] = {"chat": ChatStyle(), "json": JsonStyle(), "result_tag": ResultTagStyle()}


def style(name: str) -> Any:
    """The adapter of a prompt style.

    Raises:
        UnknownNameError: no such style.
    """
    if name not in STYLES:
        raise UnknownNameError("prompt style", name, STYLES)
    return STYLES[name]


def adapter_of(lm: Any) -> Any:
    """The adapter that an LM's calls go through: of its own prompt style, else the one DSPy is configured with."""
    stated = getattr(lm, "prompt_style", None)
    return style(stated) if stated else dspy.settings.adapter or STYLES["chat"]
