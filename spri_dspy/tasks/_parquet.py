"""Rows of a parquet file, whose few bytes may stand for any amount of data.

Columns are packed by dictionary and run length: 800 bytes can hold one text a million times over, or a cell of 300
million numbers. What a row group says of itself, and the longest text in each dictionary, are looked at before anything
is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError

LONGEST_TEXT = 1_000_000
"""Characters of a text in a dictionary."""

MOST_VALUES = 10_000_000
"""Values of a list column in one row group."""

BATCH_BYTES = 256_000_000
"""What a batch of rows may unpack to."""

_MOST_PACKED = 1_000  # times that a chunk may unpack to; text packs 10 to 50 times


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, a batch at a time.

    Args:
        path: the file.
        columns: those that are decoded, () for all; the others are None in every row.

    Raises:
        DataError: it cannot be read, or a column unpacks to more than a data set needs.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        file: Any = parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
        wanted = [name for name in names if not columns or name in columns]
        if not wanted:
            yield from ((n, dict.fromkeys(names)) for n in range(1, file.metadata.num_rows + 1))
            return
        for group in range(file.num_row_groups):
            kept = _as_dictionaries(path, file, group, wanted)
            reader: Any = parquet.ParquetFile(path, read_dictionary=kept) if kept else file
            # A dictionary is made anew for each batch, so such batches are larger.
            size = 1024 if kept else 64
            for batch in reader.iter_batches(batch_size=size, row_groups=[group], columns=wanted):
                for row in _unpacked(path, batch) if kept else batch.to_pylist():
                    number += 1
                    yield number, dict.fromkeys(names) | row
    except (OSError, pyarrow.ArrowException) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as parquet: {said}; write it anew") from None


def _as_dictionaries(path: Path, file: Any, group: int, wanted: Sequence[str]) -> list[str]:
    """Columns of texts in lists that must stay packed until a row is reached; refuses what no data set needs."""
    from pyarrow import parquet

    found, schema = file.metadata.row_group(group), file.metadata.schema
    chunks = [
        (found.column(n), schema.column(n).max_repetition_level > 0)
        for n in range(found.num_columns)
        if found.column(n).path_in_schema.partition(".")[0] in wanted
    ]
    for chunk, is_list in chunks:
        packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
        if (is_list and chunk.num_values > MOST_VALUES) or (
            unpacked > BATCH_BYTES and unpacked > packed * _MOST_PACKED
        ):
            raise _too_much(path, chunk.path_in_schema)
    texts = [
        (c.path_in_schema, c.num_values, is_list) for c, is_list in chunks if c.physical_type == "BYTE_ARRAY"
    ]
    probe: Any = parquet.ParquetFile(path, read_dictionary=[name for name, *_ in texts])
    first = next(probe.iter_batches(batch_size=1, row_groups=[group], columns=list(wanted)), None)
    longest = {} if first is None else _longest_texts(first)
    for name, longest_text in longest.items():
        if longest_text > LONGEST_TEXT:
            raise _too_much(path, name)
    return [
        name
        for name, n, is_list in texts
        if is_list and n * longest.get(name.partition(".")[0], 0) > BATCH_BYTES
    ]


def _longest_texts(batch: Any) -> dict[str, int]:
    """Bytes of the longest text in the dictionaries of each column."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    lengths = (
        (name, [compute.max(compute.binary_length(leaf.dictionary)).as_py() or 0 for leaf in _leaves(column)])
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    )
    return {name: max(found, default=0) for name, found in lengths}


def _leaves(array: Any) -> Iterator[Any]:
    """The dictionary-coded parts of a column."""
    from pyarrow import types

    if types.is_dictionary(array.type):
        yield array
    elif types.is_list(array.type) or types.is_large_list(array.type):
        yield from _leaves(array.flatten())
    elif types.is_struct(array.type):
        for part in array.flatten():
            yield from _leaves(part)


def _unpacked(path: Path, batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch, each unpacked when it is reached."""
    longest = _longest_texts(batch)
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        for name, column in zip(row.schema.names, row.columns, strict=True):
            if sum(len(leaf) for leaf in _leaves(column)) * longest[name] > BATCH_BYTES:
                raise _too_much(path, name)
        yield row.to_pylist()[0]


def _too_much(path: Path, column: str) -> DataError:
    return DataError(
        f"{path}: the column {column.partition('.')[0]!r} unpacks to far more than its file holds; leave it out"
    )
