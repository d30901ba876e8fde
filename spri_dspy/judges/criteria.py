"""What judges are asked for: criteria, choices that are read leniently, scales that can be turned round.

It knows signatures and their texts. It asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import dspy
from pydantic_core import core_schema

from spri_dspy.adapters import scale_of
from spri_dspy.parsing import read_choice
from spri_dspy.signatures import measure

MEASURES = ("standards", "rubric", "principles")
"""Inputs that a judge scores by."""

Kind = Literal["scale", "share", "choice"]
"""A rating, a yes or no (a share, from 0 to 1), or one of several answers with a number each."""


@dataclass(frozen=True)
class Criterion:
    """One thing that a judge gives a number for.

    Attributes:
        name: in records and tables, such as "alignment".
        signature: what is asked, with a rating or a choice among its outputs.
        output: the output that holds it.
        values: the number of each answer of a choice; None for a rating, whose number is the rating.
    """

    name: str
    signature: type[dspy.Signature]
    output: str
    values: Mapping[str, float] | None = None

    @property
    def scale(self) -> tuple[int, int] | None:
        """Ends of a rating scale; None for a choice."""
        return scale_of(self.signature.output_fields[self.output].annotation)

    @property
    def kind(self) -> Kind:
        """What its numbers come to, whatever they turn out to be: see `Kind`."""
        if self.values is None:
            return "scale"
        return "share" if set(self.values.values()) <= {0, 1} else "choice"


class Choice(str):
    """One of a few answers, read leniently out of whatever an LM wrote; `choice_type` makes the types."""

    choices: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_text(cls, text: str) -> Choice:
        """Read the answer.

        Raises:
            ValueError: the text gives none of the choices.
        """
        found = read_choice(text, cls.choices)
        if found is None:
            raise ValueError(f"none of {', '.join(cls.choices)}")
        return cls(found)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(
            lambda value: cls.from_text(str(value)), serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "enum": list(cls.choices)}


def choice_type(name: str, choices: Sequence[str]) -> type[Choice]:
    """A type whose values are these answers; `name` is shown in prompts."""
    return type(name, (Choice,), {"choices": tuple(choices)})


def make_signature(name: str, instructions: str, inputs: Mapping[str, str], **outputs: Any) -> Any:
    """A signature from texts: inputs as name -> description, outputs as name=(type, description).

    In prompts the inputs are fenced, but for MEASURES: these are what the judge scores by.
    """
    fields: dict[str, Any] = {
        n: (str, measure(about) if n in MEASURES else dspy.InputField(desc=about))
        for n, about in inputs.items()
    }
    fields |= {n: (kind, dspy.OutputField(desc=about)) for n, (kind, about) in outputs.items()}
    return dspy.make_signature(fields, instructions, name)


@lru_cache(maxsize=256)
def reversed_scale(signature: Any) -> Any:
    """The signature with the `answer = description` lines of its instructions in the other order; None without any."""
    turned = _reversed_lines(signature.instructions, _LEVEL)
    return None if turned is None else signature.with_instructions(turned)


_LEVEL = re.compile(r"[\w ]{1,30} = \S")


def _reversed_lines(text: str, level: re.Pattern[str]) -> str | None:
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if level.match(line)]
    if len(places) < 2:
        return None
    turned = list(lines)
    for place, source in zip(places, reversed(places), strict=True):
        turned[place] = lines[source]
    return "\n".join(turned)
