"""Prompt styles: how a signature becomes a prompt and how an answer is read back.

    chat        DSPy's `[[ ## field ## ]]` sections (default)
    json        one JSON object; with a schema where the LM can be held to one
    result_tag  plain sections; critics answer with feedback and `[RESULT] n` (Prometheus-2)

All three read answers with the same leniency, see `answers`. No style makes a second call behind the caller's back.

DSPy 3.5 changes what `format` returns: everything that depends on it is in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters._legacy_type_markers import _expand_legacy_custom_type_markers_in_chat_message
from dspy.adapters.utils import format_field_value

from spri_dspy.answers import is_verdict, read_answer, scale_of, shape_of, verdict_fields
from spri_dspy.errors import UnknownNameError
from spri_dspy.prompt_fencing import NOTICE, fence, neutral


def _shown(signature: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, str]:
    """The inputs that there are, as they stand in the prompt.

    Where an output is a score, what is to be scored, and all that comes with it, is fenced; what it is scored by (a
    `signatures.measure`) is only kept from passing for the prompt's structure.
    """
    shape = shape_of(signature)
    fields = shape.inputs
    given = {name: inputs[name] for name in fields if name in inputs}
    # DSPy's formatting of a value costs a third of a call's CPU, and text needs none.
    shown = {n: v if isinstance(v, str) else str(format_field_value(fields[n], v)) for n, v in given.items()}
    if not shape.is_scoring:
        return shown
    is_fenced = {name: _extra(fields[name]).get("fenced", True) for name in shown}
    return {name: (fence if is_fenced[name] else neutral)(said) for name, said in shown.items()}


def _instructions(signature: type[dspy.Signature]) -> str:
    """The instructions, and what fences mean where there are any."""
    return (
        f"{signature.instructions}\n\n{NOTICE}" if shape_of(signature).is_scoring else signature.instructions
    )


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


_PARTS: WeakKeyDictionary[Any, dict[tuple[Any, ...], str]] = WeakKeyDictionary()
"""Parts of prompts by signature."""


def _remembered(adapter: Any, part: str, signature: Any, make: Callable[[Any], str]) -> str:
    # Some optimisers change a signature's instructions, its docstring, in place.
    made, key = _PARTS.setdefault(signature, {}), (type(adapter).__name__, part, signature.__doc__)
    if (found := made.get(key)) is None:
        found = made[key] = make(signature)
    return found


class ChatStyle(_QuickPrompts):
    """DSPy's chat style, read leniently and without the hidden second call as JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def messages(
        self, signature: type[dspy.Signature], demos: list[Any], inputs: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """What `format` gives for inputs that are neither tools nor a history, without looking for these."""
        asked = self.format_user_message_content(signature, dict(inputs), main_request=True)
        turns = [
            {"role": "system", "content": self.format_system_message(signature)},
            *(self.format_demos(signature, demos) if demos else ()),
            *([{"role": "user", "content": asked}] if asked else ()),
        ]
        return [_expand_legacy_custom_type_markers_in_chat_message(turn) for turn in turns]

    def read(self, signature: type[dspy.Signature], outputs: list[Any], lm: Any) -> list[dict[str, Any]]:
        """The fields of each output, as DSPy reads them: outputs of LMs are texts, or texts with something about them.

        Raises:
            AdapterParseError: as `parse`, or there is no text.
        """
        if all(type(output) is str and output for output in outputs):
            return [read_answer(signature, output, type(self).__name__) for output in outputs]
        return self._call_postprocess(signature, signature, outputs, lm, {})

    def format_field_with_value(self, fields_with_values: dict[Any, Any]) -> str:
        """Fields as sections, each with its value; DSPy's own text, which takes longer for a value that is a text."""
        shown = (
            f"[[ ## {field.name} ## ]]\n{v if isinstance(v, str) else format_field_value(field.info, v)}"
            for field, v in fields_with_values.items()
        )
        return "\n\n".join(shown).strip()

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Read the sections of an answer.

        Raises:
            AdapterParseError: a field that is not a rating is missing or has the wrong type.
        """
        return read_answer(signature, completion, type(self).__name__)


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
        return read_answer(signature, completion, type(self).__name__, json_first=True)

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
            _, scale = verdict_fields(signature)
            low, high = scale_of(signature.output_fields[scale].annotation) or (1, 5)
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
            text, scale = verdict_fields(signature)
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
        return read_answer(signature, completion, type(self).__name__)


def _is_plain(signature: type[dspy.Signature]) -> bool:
    return is_verdict(signature) or [f.annotation for f in signature.output_fields.values()] == [str]


def _title(field: str) -> str:
    return field.replace("_", " ").title()


def _bound_texts(schema: dict[str, Any], longest: int) -> None:
    """Bound every text that another field follows, in place."""
    for part in (schema, *schema.get("$defs", {}).values()):
        for field in list(part.get("properties", {}).values())[:-1]:
            if field.get("type") == "string":
                field.setdefault("maxLength", longest)


def _extra(field: Any) -> dict[str, Any]:
    """What a signature says of a field beside its type and description."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


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
