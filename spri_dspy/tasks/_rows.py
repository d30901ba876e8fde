"""Rows of a user's JSON-lines file, and the fields of one row, checked before anything runs.

Every complaint names file, line and field and says what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError

LONGEST = 200_000
"""Characters in one text field; about fifty thousand tokens, more than any stage can use."""


def read_rows(path: str | Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (place, line number, row) for every line of a JSON-lines file that is not blank.

    Raises:
        DataError: no such file, a folder, an empty file, a line that is not a JSON object or not UTF-8.
    """
    file, shown = Path(path), str(path)
    if file.is_dir():
        raise DataError(f"{shown} is a folder; name a JSON-lines file in it")
    number = found = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found += 1
                    yield f"{shown}, line {number}", number, _row(f"{shown}, line {number}", line)
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror}") from None
    if not found:
        raise DataError(f"{shown} has no rows; write one JSON object a line")


def _row(place: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise DataError(f"{place}: not usable JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be a JSON object with named fields, not {type(row).__name__}")
    return row


def text(row: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    """A text field of a row, stripped of nothing.

    Raises:
        DataError: it is missing (and there is no default), empty, no text, too long, or not encodable.
    """
    value = row.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise DataError(
            f"the field {name!r} is missing; the row has {', '.join(sorted(map(str, row))) or 'no fields'}"
        )
    if not isinstance(value, str):
        raise DataError(f"the field {name!r} must be text, not {type(value).__name__}")
    if not value.strip():
        raise DataError(f"the field {name!r} is empty")
    if len(value) > LONGEST:
        raise DataError(
            f"the field {name!r} has {len(value):,} characters; shorten it to {LONGEST:,} at most"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the field {name!r} has half a surrogate pair at character {error.start}; "
            "it was cut in the middle of a character: export it again as UTF-8"
        ) from None
    return value


def row_id(row: Mapping[str, Any], number: int) -> str:
    """The row's `id` as text, or its line number.

    Raises:
        DataError: the id is neither text nor a whole number.
    """
    value = row.get("id", number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"the field 'id' must be text or a whole number, not {type(value).__name__}")
    return text({"id": str(value)}, "id")
