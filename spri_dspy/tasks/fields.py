"""For those who write a task: rows of files, and the columns of one row, checked before anything runs.

    def read_row(row, number):
        return [make_example(row_id(row, number), {"question": text(row, "question")}, optional_text(row, "topic"))]

`text`, `optional_text` and `rating` read a column; `row_id` gives a row its id; `read_rows` reads a file and
`package_rows` one that comes with the package. A blank cell (none, no text, NaN as pandas writes it) is a missing one.
Every complaint is a DataError that says what is wrong and what to do; the reader of the file adds its name, the line
and the row's id.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.tasks._hub import hub_rows
from spri_dspy.tasks._reading import file_rows

LONGEST = 200_000
"""Characters in one text; about fifty thousand tokens, more than any stage can use."""


def read_rows(
    source: str | Path, *, columns: Mapping[str, str] | None = None, needed: tuple[str, ...] = ()
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (place, number, row) for every row of a data source, read piece by piece.

    The place is for complaints: "posts.jsonl, line 3"; of a JSON array, whose lines say nothing, "posts.json, item 3".

    Args:
        source: a file (JSON lines, a JSON array, CSV, TSV, each also as .gz, or parquet), or hf:NAME:SPLIT for a data
            set of the Hugging Face hub (NAME may be a local folder in the hub's layout; SPLIT is "train" by default).
        columns: columns to rename: {"post": "selftext"} reads the file's `selftext` as `post`.
        needed: the columns that the caller reads, by their new names; () for all. Of a parquet file others are None.

    Raises:
        DataError: it does not exist, is a folder or empty, or a row cannot be read; or a column to rename is not there.
    """
    shown, renamed = str(source), dict(columns or {})
    wanted = tuple(renamed.get(name, name) for name in needed)
    rows = hub_rows(shown, wanted) if shown.startswith("hf:") else file_rows(Path(source), wanted)
    is_first = True
    for where, number, row in rows:
        for new, old in renamed.items() if is_first else ():
            if old not in row:
                raise DataError(f"{shown} has no column {old!r} to rename to {new!r}; it has {names_of(row)}")
        is_first = False
        if renamed:
            kept = {name: value for name, value in row.items() if name not in renamed.values()}
            row = kept | {new: row[old] for new, old in renamed.items() if old in row}
        yield f"{shown}, {where}", number, row
    if is_first:
        raise DataError(f"{shown} has no rows; write one JSON object a line, or a table with a header")


def place_of(place: str, row: Any) -> str:
    """A row's place with its id, where it has one: "posts.jsonl, line 3, id 'b'"."""
    given = row.get("id") if isinstance(row, Mapping) else None
    is_id = isinstance(given, str | int) and not isinstance(given, bool) and not is_blank(given)
    return f"{place}, id {shown(given)}" if is_id else place


def text(row: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    """A column that holds text, stripped of nothing.

    Args:
        row: from a file.
        name: the column.
        default: what a missing or blank one stands for; None if there must be text.

    Raises:
        DataError: it is missing (and there is no default), blank, no text, too long, or not encodable.
    """
    value = row.get(name)
    if default is not None and is_blank(value):
        return default
    if name not in row:
        raise DataError(f"missing column {name!r}; it has {names_of(row)}; --map {name}=COLUMN renames one")
    return checked_text(value, f"the column {name!r}")


def optional_text(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these columns that is not blank; None if there is none.

    Raises:
        DataError: it is no text, too long, or not encodable.
    """
    return next((text(row, name) for name in names if not is_blank(row.get(name))), None)


def checked_text(value: Any, what: str) -> str:
    """A value that has to be text; `what` names it in the message.

    Raises:
        DataError: it is blank, no text, too long, or not encodable.
    """
    if is_blank(value):
        raise DataError(f"{what} is empty")
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, not {type(value).__name__}")
    if len(value) > LONGEST:
        raise DataError(f"{what} has {len(value):,} characters; shorten it to {LONGEST:,} at most")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} has half a surrogate pair at character {error.start}; "
            "it was cut in the middle of a character: export it again as UTF-8"
        ) from None
    return value


def rating(
    row: Mapping[str, Any], name: str, low: float, high: float, *, none: float | None = None
) -> float | None:
    """A column that holds a number from low to high, as such or as text; None if it is missing or blank.

    Args:
        row: from a file.
        name: the column.
        low: the lowest, included.
        high: the highest, included.
        none: a number that stands for none, such as -1.

    Raises:
        DataError: it is no number, or out of range.
    """
    value = row.get(name)
    if is_blank(value):
        return None
    found = _as_number(value)
    if found is not None and found == none:
        return None
    if found is not None and low <= found <= high:
        return int(found) if found == int(found) else float(found)
    besides = "" if none is None else f", or {none:g} for none"
    raise DataError(
        f"the column {name!r} must be a number from {low:g} to {high:g}{besides}, not {shown(value)}"
    )


def _as_number(value: Any) -> Any:
    """A number, of any of the libraries' types, or of a text; None for what is none."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, numbers.Real) and not isinstance(value, bool) else None


def row_id(row: Mapping[str, Any], number: int) -> str:
    """The row's `id` as text, or its number.

    Raises:
        DataError: the id is neither text nor a whole number.
    """
    value = number if is_blank(row.get("id")) else row["id"]
    if isinstance(value, bool) or not isinstance(value, str | numbers.Integral):
        raise DataError(f"the column 'id' must be text or a whole number, not {type(value).__name__}")
    return checked_text(str(value), "the column 'id'")


def is_blank(value: Any) -> bool:
    """True for what stands for nothing: None, text without a letter, NaN."""
    return value is None or (
        not value.strip() if isinstance(value, str) else isinstance(value, float) and value != value
    )


def shown(value: Any) -> str:
    """A value as it may stand in a message, whatever it is."""
    try:
        said = repr(value)
    except Exception:  # a number of 5,000 digits, a nest of a thousand lists, an object of the user's
        said = f"a value of type {type(value).__name__}"
    return said if len(said) <= 60 else f"{said[:57]}..."


def names_of(row: Mapping[str, Any]) -> str:
    """The columns of a row as they may stand in a message."""
    names = [str(name)[:40] for name in row]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "no columns"


def package_file(name: str) -> Path:
    """A data file that comes with the package."""
    return Path(str(files("spri_dspy"))) / name


def package_rows(name: str) -> list[dict[str, Any]]:
    """All rows of a small data file that comes with the package."""
    return [json.loads(line) for line in package_file(name).read_text("utf-8").splitlines() if line.strip()]
