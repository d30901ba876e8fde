"""Rows of a user's data and of the package's own, and the fields of one row, checked before anything runs.

Every complaint names file, line and field and says what to do.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError

LONGEST = 200_000
"""Characters in one text field; about fifty thousand tokens, more than any stage can use."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def read_rows(source: str | Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (place, number, row) for every row of a data source, read piece by piece.

    Args:
        source: a JSON-lines file, a .parquet file, or hf:NAME:SPLIT for a data set of the Hugging Face hub
            (NAME may be a local folder in the hub's layout; SPLIT is "train" by default).

    Raises:
        DataError: it does not exist, is a folder or empty, or a row cannot be read.
    """
    shown = str(source)
    if shown.startswith("hf:"):
        rows = _hub_rows(shown)
    elif shown.endswith(".parquet") and Path(shown).is_file():
        rows = _parquet_rows(shown)
    else:
        rows = _lines(shown)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{shown} has no rows; write one JSON object a line")


def _lines(shown: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    if Path(shown).is_dir():
        raise DataError(
            f"{shown} is a folder; name a JSON-lines file in it, or hf:{shown} for a data set's folder"
        )
    if Path(shown).exists() and not Path(shown).is_file():
        raise DataError(f"{shown} can be read only once, the data is read twice; write it to a file first")
    try:
        with open(shown, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{shown}, line {number}", number, _row(f"{shown}, line {number}", line)
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror}; check the path of the data") from None


def _parquet_rows(shown: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(shown).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield f"{shown}, row {number}", number, row
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{shown} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _hub_rows(shown: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Stream a data set through `datasets`; every failure to get it is the user's to see in one line."""
    import datasets

    name, _, split = shown.removeprefix("hf:").partition(":")
    split, number = split or "train", 0
    try:
        with _without_chatter():
            rows = iter(datasets.load_dataset(name, split=split, streaming=True))
        while (row := _next(rows)) is not None:
            number += 1
            yield f"{shown}, row {number}", number, dict(row)
    except Exception as error:  # datasets raises a dozen unrelated types for "cannot be had"
        said = " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
        where = f"split {split!r}" + (f", after row {number}" if number else "")
        raise DataError(
            f"the data set {name!r} ({where}) cannot be loaded: {said}; {_remedy(name, split)}"
        ) from None


def _next(rows: Iterator[Any]) -> Any:
    with _without_chatter():
        return next(rows, None)


def _remedy(name: str, split: str) -> str:
    """What to do about a data set that cannot be loaded."""
    if Path(name).exists():
        return "write hf:FOLDER:SPLIT; the folder holds parquet or JSON-lines files in the hub's layout"
    if not _HUB_NAME.fullmatch(name):
        return "there is no such folder"
    return (
        f"where the hub cannot be reached, bring a folder with its files (hf download {name} --repo-type dataset "
        f"--local-dir FOLDER) and give --data hf:FOLDER:{split}"
    )


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep the hub's client from logging every retry: what matters comes as an error. Not so with --verbose."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    try:
        if not logging.getLogger("spri_dspy").isEnabledFor(logging.DEBUG):
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _row(place: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig").rstrip(), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON: {error.msg} at column {error.colno}; write one JSON object a line"
        ) from None
    except (RecursionError, ValueError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{place}: not usable JSON: {said}; mend that row") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be a JSON object with named fields, not {type(row).__name__}")
    return row


def _no_number(constant: str) -> None:
    """Python reads NaN and Infinity, but no JSON has them and no later reader of the run would."""
    raise ValueError(f"{constant} is no JSON number")


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
    value = number if row.get("id") is None else row["id"]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"the field 'id' must be text or a whole number, not {type(value).__name__}")
    return text({"id": str(value)}, "id")


def package_file(name: str) -> Path:
    """A data file that comes with the package."""
    return Path(str(files("spri_dspy"))) / name


def package_rows(name: str) -> list[dict[str, Any]]:
    """All rows of a small data file that comes with the package."""
    return [json.loads(line) for line in package_file(name).read_text("utf-8").splitlines() if line.strip()]
