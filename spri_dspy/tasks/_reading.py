"""Files of rows: JSON lines, a JSON array, CSV, TSV, each also as .gz, and parquet.

The ending tells the kind; where it does not, the first characters do. Rows are read piece by piece, so that memory
holds a few of them whatever a file unpacks to. It knows files and rows, and no task.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from spri_dspy.errors import DataError

ROW_BYTES = 16_000_000
"""The longest row of a file, unpacked, in bytes or characters."""

_BUFFER_BYTES = 1 << 16  # with Python's own, reading lines takes twice as long

ARRAY_BYTES = 256_000_000
"""The longest JSON array: it is the one kind of file that is read whole."""

Rows = Iterator[tuple[str, int, dict[str, Any]]]
"""Rows with where they stand ("line 3", of an array "item 3", of parquet "row 3") and their numbers from 1, which are
ids where a row has none: of JSON lines that is the line; of a table the header is not counted."""

_KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


def file_rows(path: Path, columns: tuple[str, ...] = ()) -> Rows:
    """The rows of a file.

    Args:
        path: the file.
        columns: what is needed; of a parquet file nothing else is decoded. () for all.

    Raises:
        DataError: it cannot be opened or read; names the file and, where a row is to blame, its line.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it, or hf:{path} for a data set's folder")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} can be read only once, the data is read twice; write it to a file first")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        is_packed = start[:2] == b"\x1f\x8b"
        with gzip.open(path) if is_packed else io.BufferedReader(path.open("rb", 0), _BUFFER_BYTES) as file:
            kind = _KINDS.get(Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower())
            kind = kind or _kind_by_content(file)
            if kind == "parquet":
                if is_packed:
                    raise DataError(
                        f"{path} is a packed parquet file; unpack it, parquet packs its own columns"
                    )
                from spri_dspy.tasks._parquet import parquet_rows

                yield from ((f"row {number}", number, row) for number, row in parquet_rows(path, columns))
            elif kind == "json":
                is_array = file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
                file.seek(0)
                yield from (_array if is_array else _lines)(file, str(path))
            elif kind in ("csv", "tsv"):
                yield from _table(file, str(path), kind)
            else:
                raise DataError(
                    f"{path} is none of the files that are read: JSON lines, a JSON array, CSV, TSV (each also as .gz) "
                    "and parquet; name it by its kind, such as rows.csv"
                )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}; pack it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path of the data") from None


def _kind_by_content(file: io.BufferedIOBase) -> str | None:
    """The kind of a file whose ending says nothing."""
    start = file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"{", b"[")):
        return "json"
    header = start.partition(b"\n")[0]
    return "tsv" if b"\t" in header else "csv" if b"," in header or b";" in header else None


def _lines(file: io.BufferedIOBase, shown: str) -> Rows:
    """One JSON object a line."""
    for number, line in enumerate(iter(partial(file.readline, ROW_BYTES + 1), b""), 1):
        if len(line) > ROW_BYTES:
            raise _too_long(f"{shown}, line {number}")
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:  # nothing, what else Python's own reads, or a mistake to be named
            if not line.strip():
                continue
            row = _decoded(line, f"{shown}, line {number}")
        where = f"line {number}"
        yield where, number, row if isinstance(row, dict) else _checked(f"{shown}, {where}", row)


def _decoded(line: bytes, place: str) -> Any:
    try:
        text = line.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from None
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _no_json(place, error) from None


def _array(file: io.BufferedIOBase, shown: str) -> Rows:
    """One JSON array of objects, read whole."""
    content = file.read(ARRAY_BYTES + 1)
    if len(content) > ARRAY_BYTES:
        raise DataError(
            f"{shown} is an array of more than {ARRAY_BYTES:,} bytes; write one JSON object a line"
        )
    try:
        rows = _DECODER.decode(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise _no_json(shown, error) from None
    for number, row in enumerate(rows, 1):
        yield f"item {number}", number, _checked(f"{shown}, item {number}", row)


def _table(file: io.BufferedIOBase, shown: str, kind: str) -> Rows:
    """A header and its rows; a cell without text is one that is missing."""
    # A setting of the whole process, there is no other: the longest cell that the module csv takes.
    csv.field_size_limit(max(csv.field_size_limit(), ROW_BYTES))
    raw: Any = file
    with io.TextIOWrapper(raw, "utf-8-sig", newline="") as source:
        delimiter = "\t" if kind == "tsv" else max(",;\t", key=source.readline(ROW_BYTES).count)
        source.seek(0)
        yield from _cells(csv.reader(source, delimiter=delimiter, strict=True), shown, kind)


def _cells(reader: Any, shown: str, kind: str) -> Rows:
    """The rows under a header."""
    number = ended = 0
    try:
        header = next(reader, [])
        ended = reader.line_num
        twice = [name for name in header if name and header.count(name) > 1]
        if twice:
            raise DataError(f"{shown} has two columns {twice[0]!r}; rename one")
        for cells in reader:
            # A row goes on in the next line where a cell has a line break.
            line, ended = ended + 1, reader.line_num
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{shown}, line {line}: {len(cells)} cells under a header of {len(header)}; put quotes around "
                    "texts with separators or line breaks in them"
                )
            row = {name: cell or None for name, cell in zip(header, cells, strict=True) if name}
            yield f"line {line}", number, row
    except csv.Error as error:
        raise DataError(
            f"{shown}, line {ended + 1}: not valid {kind.upper()}: {error}; mend that row"
        ) from None


def _no_number(constant: str) -> None:
    """Python reads NaN and Infinity, but no JSON has them and no later reader of the run would."""
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _checked(place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be a JSON object with named columns, not {type(row).__name__}")
    return row


def _no_json(place: str, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        said = f"{error.msg} at {line}column {error.colno}; write one JSON object a line, or one array of objects"
        return DataError(f"{place}: not valid JSON: {said}")
    said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DataError(f"{place}: not usable JSON: {said}; mend that row")


def _too_long(place: str) -> DataError:
    return DataError(f"{place} has more than {ROW_BYTES:,} characters; is a line break missing?")
