"""Read the fields of a signature out of what an LM wrote, whatever frame it forgot, doubled or made up.

How `read_answer` decides:

1. Only the text after the last `</think>` counts.
2. A field is the text under its header, `[[ ## name ## ]]`, up to the next header, whichever that is. Of a field that
   comes again the first text counts; of a rating the last, for a critic may quote what it judges.
3. A placeholder of the prompt (`{response}`, or any name in braces with DSPy's `# note:` behind it) is no text, nor is
   a fence's code where something is scored, in a typed field's own texts too; what follows a mere copy of the
   prompt's form is read instead.
4. Else a JSON object with these names; else, where one field is asked for, the text without a frame or under a header
   of another name; else, of a critique, all of it, with the score wherever it was written (`parsing.read_score`).
5. A rating without a readable number is None. A missing text is an AdapterParseError, which `RolePredict` answers by
   asking again. A type with a `from_text` reads its own text.

Time is linear in the text. It knows signatures; it knows no prompt and no LM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.utils import parse_value
from dspy.utils.exceptions import AdapterParseError

from spri_dspy.parsing import (
    LONGEST_REPAIR,
    check_nesting,
    is_damaged,
    read_objects,
    read_score,
    read_score_as_published,
)
from spri_dspy.prompt_fencing import is_code
from spri_dspy.quotations import own_blocks, own_words

# Every repetition is bounded, so that reading stays linear on a runaway answer.
_HEADER_AT_START = re.compile(
    r"\[\[[ #]{0,6}(\w[\w ]{0,60}?)[ #]{0,6}\]\][*`]{0,3}:?"
)  # of a line, behind marks
_HEADER_INSIDE = re.compile(r"(?<=[\s*])\[\[ {0,2}## {0,2}(\w[\w ]{0,60}?) {0,2}## {0,2}\]\][*`]{0,3}:?")
_BRACKETS = "{<[("
_MARKS, _MOST_MARKS = " \t>*#`", 12
_NOTE = r"[ \t]{0,20}#[ \t]{0,2}note\b[^\n]{0,2000}"
"""What DSPy writes behind the placeholder of a field that is no text; it may be cut off anywhere."""
_END = re.compile(r"\[\[[ #]{0,6}completed[ #]{0,6}\]\]", re.IGNORECASE)
_RATINGS = ("score", "rating", "final_score", "overall_score", "total_score", "final_rating", "result")


class _Section(NamedTuple):
    """A header's name and the text up to the next one; the first of an answer, without a header, is named "" ."""

    name: str
    text: str


def scale_of(annotation: Any) -> tuple[int, int] | None:
    """The ends of a rating scale if the type is a Literal of whole numbers, else None."""
    if get_origin(annotation) is not Literal:
        return None
    choices = get_args(annotation)
    if not choices or not all(isinstance(c, int) and not isinstance(c, bool) for c in choices):
        return None
    return min(choices), max(choices)


@dataclass(frozen=True, eq=False)
class Shape:
    """What reading and writing need to know of a signature; DSPy works it out anew whenever it is asked.

    Attributes:
        inputs, outputs: fields by name.
        scales: of the outputs, by name; None of one that is no rating.
        is_verdict: the outputs are one text and one rating: a critique or a judgement.
        is_scoring: an output is a rating or a choice, or has one among its own fields.
        is_plain: outputs are texts and ratings, and no input is one that DSPy sends in a way of its own, such as tools.
        placeholder: what stands for a field's text in the form that prompts show, and the note that DSPy adds to it.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    scales: dict[str, tuple[int, int] | None]
    is_verdict: bool
    is_scoring: bool
    is_plain: bool
    placeholder: re.Pattern[str]


def shape_of(signature: type[dspy.Signature]) -> Shape:
    """The shape of a signature, whose fields never change: DSPy makes a new one instead."""
    found = _SHAPES.get(signature)
    if found is None:
        outputs = signature.output_fields
        kinds = {name: info.annotation for name, info in outputs.items()}
        scales = {name: scale_of(kind) for name, kind in kinds.items()}
        parts = [f.annotation for kind in kinds.values() for f in getattr(kind, "model_fields", {}).values()]
        is_verdict = len(kinds) == 2 and str in kinds.values() and any(scales.values())
        is_scoring = any(scale_of(kind) or hasattr(kind, "choices") for kind in (*kinds.values(), *parts))
        inputs = signature.input_fields
        is_plain = all(kind is str or scales[name] for name, kind in kinds.items()) and all(
            isinstance(kind := info.annotation, type) and not issubclass(kind, dspy.Type | dspy.History)
            for info in inputs.values()
        )
        placeholder = _placeholder_of((*inputs, *outputs))
        found = Shape(dict(inputs), dict(outputs), scales, is_verdict, is_scoring, is_plain, placeholder)
        _SHAPES[signature] = found
    return found


_SHAPES: WeakKeyDictionary[Any, Shape] = WeakKeyDictionary()


def is_verdict(signature: type[dspy.Signature]) -> bool:
    """True if the outputs are one text and one rating: a critique or a judgement."""
    return shape_of(signature).is_verdict


def verdict_fields(signature: type[dspy.Signature]) -> tuple[str, str]:
    """Names of a verdict's text and of its rating."""
    return _verdict_fields(shape_of(signature))


def _verdict_fields(shape: Shape) -> tuple[str, str]:
    first, second = shape.outputs
    return (first, second) if shape.scales[second] else (second, first)


def read_answer(
    signature: type[dspy.Signature], completion: str, adapter: str, *, json_first: bool = False
) -> dict[str, Any]:
    """Read an answer in whatever shape it came.

    Args:
        signature: whose outputs are read.
        completion: what the LM wrote.
        adapter: named in the error.
        json_first: look for a JSON object before sections.

    Raises:
        AdapterParseError: a field that is not a rating is missing or has the wrong type.
    """
    answer, shape, whole = completion.rpartition("</think>")[2], shape_of(signature), ""
    text = _before_end(answer).strip()
    found: dict[str, Any] = {} if json_first else _sections(shape, text)
    if not _is_all(shape, found):
        bare = _without_headers(text)
        if not (has_text := _has_content(shape, bare)):
            text = answer.strip()
            bare = _without_headers(text)
            has_text = _has_content(shape, bare)
            found = {} if json_first else _sections(shape, text)
        in_json = own_blocks(answer) if shape.is_verdict else answer
        if json_first:
            found = _json_fields(shape, in_json) or _sections(shape, text)
        else:
            found = found or _json_fields(shape, in_json, whole=True)
        if not found and has_text and shape.is_verdict:
            return _verdict_from_text(signature, text)
        found = found or _unframed(shape, text, is_json=json_first)
        whole = bare if shape.is_verdict and has_text else ""
    values: dict[str, Any] = {}
    for name, info in shape.outputs.items():
        if scale := shape.scales[name]:
            values[name] = _rating(found, name, scale)
        elif info.annotation is str:
            text = _as_text(found.get(name))
            is_copied = _is_copied(shape, text, beside=len(shape.outputs) > 1)
            values[name] = "" if is_copied else text or whole
        elif name in found:
            values[name] = _parse_typed(signature, name, found[name], completion, adapter)
        if values.get(name, "") == "":
            raise _unreadable(
                adapter, signature, completion, f"the answer has no text for the field {name!r}"
            )
    return values


def _split(shape: Shape, text: str) -> Iterator[_Section]:
    """The sections of an answer in order. Without its ## only an output's name makes a header: `[[1]]` is code.

    A rating's header that is quoted is text.
    """
    if "[[" not in text:
        yield _Section("", text.strip())
        return
    scales, own = shape.scales, own_words(text)
    name, header_end = "", 0
    for start, mark in _headers(text):
        following, end = _output_named(scales, mark[1]), mark.end()
        if following not in scales:
            is_header = "##" in text[start:end]
        else:
            is_header = own[start:end] == text[start:end] or not scales[following]
        if is_header:
            yield _Section(name, text[header_end:start].strip())
            name, header_end = following, end
    yield _Section(name, text[header_end:].strip())


def _headers(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Headers in order: where each begins, marks before it included, and its brackets with the name."""
    end, at = 0, text.find("[[")
    while at >= 0:
        start = _before_marks(text, at, end)
        found = _HEADER_AT_START.match(text, at) if start == 0 or text[start - 1] == "\n" else None
        if found is None:
            start, found = at, _HEADER_INSIDE.match(text, at)
        if found is not None:
            yield start, found
            end = found.end()
        at = text.find("[[", end if found else at + 1)


def _before_marks(text: str, at: int, least: int = 0) -> int:
    """Where the marks before a header begin."""
    start, least = at, max(least, at - _MOST_MARKS)
    while start > least and text[start - 1] in _MARKS:
        start -= 1
    return start


def _before_end(answer: str) -> str:
    """An answer up to the header that says that it is complete."""
    end = _END.search(answer) if "[[" in answer else None
    return answer[: _before_marks(answer, end.start())] if end else answer


def _is_all(shape: Shape, found: Mapping[str, str]) -> bool:
    """Whether every output has its own section, and they say more than the prompt's form."""
    scales = shape.scales
    texts = [said for name, said in found.items() if not scales[name]]
    is_each = found.keys() == scales.keys() and all(texts)
    return is_each and any(_has_content(shape, said) for said in texts)


def _sections(shape: Shape, text: str) -> dict[str, str]:
    """The text under each output's header, {} if there is none."""
    scales, found = shape.scales, dict[str, str]()
    for section in _split(shape, text):
        if section.name not in scales or shape.placeholder.fullmatch(section.text):
            continue
        is_rating = scales[section.name]
        found[section.name] = section.text if is_rating else found.get(section.name) or section.text
    return found


def _json_fields(shape: Shape, answer: str, *, whole: bool = False) -> dict[str, Any]:
    """The outputs in JSON objects, repaired if need be; {} if there are none. `whole`: only if that is all there is."""
    if "{" not in answer or (whole and not answer.lstrip("`json \n").startswith("{")):
        return {}
    try:
        objects = read_objects(answer)
    except ValueError:
        return {}
    named = (
        (_output_named(shape.scales, str(key)), value) for each in objects for key, value in each.items()
    )
    found = {name: value for name, value in named if name in shape.outputs}
    if found and shape.is_verdict and _verdict_fields(shape)[0] not in found:
        return {}  # a score alone may be a quotation: the whole text decides
    if found and is_damaged(answer):  # cut off before its rating, and what its texts quote is none
        found = {name: False for name, scale in shape.scales.items() if scale} | found
    return found


def _output_named(scales: Mapping[str, tuple[int, int] | None], heading: str) -> str:
    """A heading as the name of a field: that of the only rating, if it is another word for one."""
    name = heading.strip().casefold().replace(" ", "_")
    if name not in scales and name in _RATINGS:
        ratings = [each for each, scale in scales.items() if scale]
        return ratings[0] if len(ratings) == 1 else name
    return name


def _unframed(shape: Shape, text: str, *, is_json: bool) -> dict[str, str]:
    """The only output without a frame or under another name; {} if several sections could be it, or for broken JSON."""
    outputs = shape.outputs
    name, *others = outputs
    if others or outputs[name].annotation is not str:
        return {} if others or not text else {name: text}
    lead, *sections = _split(shape, text)
    given = [section for section in sections if section.text and section.name != "completed"]
    renamed = [section for section in given if f"improved_{section.name}" == name]
    if lead.text and not (given and lead.text.endswith(":")):
        text = lead.text
    else:
        text = given[0].text if len(given) == 1 else renamed[0].text if renamed else ""
    broken = is_json and text.startswith(("{", "["))
    return {} if not text or broken else {name: text}


def _without_headers(text: str) -> str:
    kept, end = list[str](), 0
    for start, mark in _headers(text):
        kept.append(text[end:start])
        end = mark.end()
    return "".join([*kept, text[end:]]).strip()


def _has_content(shape: Shape, bare: str) -> bool:
    """Whether an answer without its headers says anything beside placeholders."""
    if not any(bracket in bare for bracket in _BRACKETS):  # no placeholder is without one
        return bool(bare)
    return bool(shape.placeholder.sub("", bare).strip())


def _is_copied(shape: Shape, text: str, *, beside: bool, more: tuple[str, ...] = ()) -> bool:
    """True of a text that is a placeholder of the prompt's form and nothing else.

    Args:
        shape: whose fields placeholders name.
        text: stripped.
        beside: it stands beside others, as reasons beside a score do, where a fence's code is no text either.
        more: further names of placeholders.
    """
    if not any(mark in text for mark in _BRACKETS) and not (beside and is_code(text)):
        return False
    names = (*shape.inputs, *shape.outputs, *_RATINGS, *more)
    return bool(_placeholder_of(names).fullmatch(text)) or (beside and is_code(text))


@lru_cache(maxsize=256)
def _placeholder_of(names: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(re.escape(name).replace("_", "[_ ]") for name in names)
    return re.compile(
        rf"[`*_\"']{{0,3}}[{{<\[(]\s?(?:your )?(?:{either})\s?[}}>\])][`*_\"'.]{{0,4}}(?:{_NOTE})?"
        rf"|[`*_\"']{{0,3}}\{{\w[\w ]{{0,60}}\}}{_NOTE}",
        re.IGNORECASE,
    )


def _rating(found: Mapping[str, Any], name: str, scale: tuple[int, int]) -> int | None:
    """The score of a rating field; where that is empty, the one that another field states."""
    stated = found.get(name)
    if stated is None or stated == "":
        return next((s for v in found.values() if (s := read_score(_as_text(v), *scale))), None)
    text = _as_text(stated)
    if text.isascii() and text.isdigit() and len(text) < 10:  # a number alone, as nearly always
        score = int(text)
        return score if scale[0] <= score <= scale[1] else None
    return read_score(f"Score: {text}" if text.lstrip(" *_`([\"'")[:1].isdigit() else text, *scale)


def _as_text(value: Any) -> str:
    """A text or a number; a list or an object one line each; "" for what is neither."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return "\n".join(text for part in parts if (text := _as_text(part)))
    if value is None or isinstance(value, bool):
        return ""
    try:
        return str(value).strip()
    except ValueError:  # a whole number of thousands of digits
        return ""


def _parse_typed(
    signature: type[dspy.Signature], name: str, value: Any, completion: str, adapter: str
) -> Any:
    annotation = shape_of(signature).outputs[name].annotation
    read = getattr(annotation, "from_text", None)
    try:
        if callable(read) and isinstance(value, str):
            parsed = read(value)
        else:
            if isinstance(value, str) and annotation is not str:
                check_nesting(value)
                if len(value) > LONGEST_REPAIR:
                    raise ValueError("it is too long for its type")
            parsed = parse_value(value, annotation)
        for part, said in getattr(parsed, "__dict__", {}).items():
            if isinstance(said, str) and _is_copied(
                shape_of(signature), said.strip(), beside=True, more=(part,)
            ):
                raise ValueError(f"a placeholder stands for {part}")
        return parsed
    except (ValueError, TypeError, RecursionError) as error:
        message = f"the field {name!r} cannot be read: {error}"
        raise _unreadable(adapter, signature, completion, message) from error


def _verdict_from_text(signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
    """A critique without any frame: all of it is feedback, and the score is wherever it stands.

    The published prompts show this very text to the refinement, tag included; so do we, less the label before it.
    """
    text, rating = verdict_fields(signature)
    unlabelled = completion.strip().removeprefix("###").removeprefix("Feedback:").strip()
    info = shape_of(signature).outputs[rating]
    extra, scale = info.json_schema_extra, scale_of(info.annotation)
    published = isinstance(extra, dict) and extra.get("read") == "published"
    score = read_score_as_published(completion) if published else read_score(completion, *scale or ())
    return {text: unlabelled or completion, rating: score}


def _unreadable(adapter: str, signature: Any, completion: str, message: str) -> AdapterParseError:
    return AdapterParseError(
        adapter_name=adapter, signature=signature, lm_response=completion, message=message
    )
