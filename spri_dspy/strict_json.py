"""JSON as the standard has it: no NaN and no Infinity, neither written nor read as a number.

What has no word in JSON is null, which everything here takes for a missing number. It knows values, and no file.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson


def to_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """A value as JSON that every reader takes; numbers that are not finite are null, other types their text."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), indent=indent, ensure_ascii=ascii_only, default=str, allow_nan=False)


def finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key


def from_text(text: str | bytes) -> Any:
    """Read JSON, what Python and others write of it included: NaN, Infinity, 1e999 and 10**400 are None.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it nests too deep.
    """
    try:
        return orjson.loads(text)
    except (
        orjson.JSONDecodeError
    ):  # half a surrogate pair, NaN, a huge number, or really broken: Python's own decides
        return json.loads(text, parse_constant=_missing, parse_float=_number, parse_int=_whole)


def _missing(word: str) -> None:
    """NaN, Infinity or -Infinity."""


def _number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _whole(digits: str) -> int | None:
    """None for what no float holds: every use of it as a figure would end in an OverflowError."""
    return int(digits) if len(digits) <= 308 else None
