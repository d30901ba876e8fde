"""GGUF files: what is in their header, whether they can be run, and what tells one from another.

    model = read_gguf(Path("models/smollm2.gguf"))
    model.parameters, model.quantisation, model.context_tokens      # 134515008, "Q4_1", 8192

A model may be split over several files (NAME-00001-of-00003.gguf); the first one names them all. Only headers are
read here; the weights are llama.cpp's business. Source: the GGUF specification of the ggml project, versions 2 and 3.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import Struct
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.runs import file_fingerprint, fingerprint

_SCALARS = {
    code: Struct(f"<{form}")
    for code, form in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)

_FILE_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS"), 16)),
    **dict(enumerate(("IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 24)),
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}
"""Names of `general.file_type`, as llama.cpp prints them."""

_BYTES_OF_256 = {
    **{0: 1024, 1: 512, 2: 144, 3: 160, 6: 176, 7: 192, 8: 272},
    **{10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 30: 512},
}
"""Bytes that 256 numbers take, by type of tensor; of other types it is at least 32."""

_NO_WRITERS = ("clip", "bert", "nomic-bert", "t5encoder")
"""Architectures that read images or texts and write none."""


@dataclass(frozen=True)
class GGUF:
    """What the header of a model says.

    Attributes:
        path: the file, or the first of several.
        size: bytes of all its files.
        architecture: as llama.cpp names it, such as "llama".
        parameters: numbers in all tensors.
        quantisation: such as "Q4_K_M"; "" where the file does not say.
        context_tokens: the longest text it was trained on, None where the file does not say.
        tokenizer: kind of its tokenizer, "" if it has none.
    """

    path: Path
    size: int
    architecture: str
    parameters: int
    quantisation: str
    context_tokens: int | None
    tokenizer: str

    @property
    def unfit(self) -> str | None:
        """Why it can answer no prompt, None if it can."""
        if self.architecture in _NO_WRITERS:
            return f"a {self.architecture} model writes no text"
        return None if self.tokenizer not in ("", "no_vocab", "none") else "it holds no tokenizer"


def read_gguf(path: Path) -> GGUF:
    """Read the header of a model.

    Raises:
        DataError: there is no such file, or it is no GGUF file, cut off, damaged, or not the first of its parts.
    """
    files = _parts(path)
    headers = [_read_header(file) for file in files]
    about: Mapping[str, Any] = headers[0][0]
    architecture = str(about.get("general.architecture", ""))
    if not architecture:
        raise DataError(f"{path} is damaged: its header names no architecture")
    context = about.get(f"{architecture}.context_length")
    return GGUF(
        path=path,
        size=sum(file.stat().st_size for file in files),
        architecture=architecture,
        parameters=sum(count for _, count in headers),
        quantisation=_FILE_TYPES.get(about.get("general.file_type", -1), ""),
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        tokenizer=str(about.get("tokenizer.ggml.model", "")),
    )


def gguf_fingerprint(path: Path) -> str:
    """A short hash of all bytes of a model. A file that did not change is read once a process.

    Raises:
        DataError: as `read_gguf`.
    """
    read_gguf(path)
    states = [(file, (found := file.stat()).st_size, found.st_mtime_ns) for file in _parts(path)]
    prints = [_print_of(*state) for state in states]
    return prints[0] if len(prints) == 1 else fingerprint(prints)


@lru_cache(maxsize=64)
def _print_of(
    path: Path, size: int, mtime_ns: int
) -> str:  # the last two say whether it is the same file still
    return file_fingerprint(path)


def _parts(path: Path) -> list[Path]:
    """The files of a model; all of them are there."""
    if not path.exists():
        raise DataError(f"there is no file {path}; spri models lists the models on this machine")
    if not path.is_file():
        what = "a directory: name the .gguf file in it" if path.is_dir() else "no regular file"
        raise DataError(f"the model {path} is {what}")
    split = _SPLIT.fullmatch(path.name)
    if split is None:
        return [path]
    start, number, total, end = split.groups()
    files = [path.with_name(f"{start}-{i:05d}-of-{total}{end}") for i in range(1, int(total) + 1)]
    if int(number) != 1:
        raise DataError(f"{path} is one part of a model: name the first, {files[0].name}")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{path} is one of {int(total)} files, and missing beside it: {', '.join(missing[:3])}"
        )
    return files


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Metadata without its long lists, and the number of parameters."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise DataError(f"{path} is no GGUF file")
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                return _parse(path, data)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError):
        raise DataError(f"{path} is cut off or damaged: its header makes no sense; fetch it again") from None


def _parse(path: Path, data: mmap) -> tuple[dict[str, Any], int]:
    reader = _Reader(data)
    version, n_tensors, n_values = reader.scalar(_U32), reader.scalar(_U64), reader.scalar(_U64)
    if version not in (2, 3):
        raise DataError(f"{path} is GGUF of version {version}, which is not read: versions 2 and 3 are")
    about = {reader.string(): reader.value(reader.scalar(_U32)) for _ in range(n_values)}
    parameters = end = 0
    for _ in range(n_tensors):
        reader.string()
        count = math.prod(reader.scalar(_U64) for _ in range(reader.scalar(_U32)))
        kind, offset = reader.scalar(_U32), reader.scalar(_U64)
        parameters, end = parameters + count, max(end, offset + count * _BYTES_OF_256.get(kind, 32) // 256)
    step = about.get("general.alignment") or 32
    end += -(-reader.position // step) * step if n_tensors else 0
    if len(data) < end:
        raise DataError(f"{path} is cut off: {len(data):,} bytes of at least {end:,}; fetch it again")
    return about, parameters


class _Reader:
    """Reads values one after another, little-endian; what is beyond the end raises struct.error or IndexError."""

    def __init__(self, data: mmap) -> None:
        self._data = data
        self.position = 4

    def scalar(self, form: Struct) -> Any:
        (value,) = form.unpack_from(self._data, self.position)
        self.position += form.size
        return value

    def string(self) -> str:
        return self._take(self.scalar(_U64)).decode()

    def value(self, kind: int) -> Any:
        """A value; of a list only that it is one, for vocabularies are long."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        kind, count = self.scalar(_U32), self.scalar(_U64)
        if kind == _STRING:
            for _ in range(count):
                self._take(self.scalar(_U64))
        else:
            self._take(_SCALARS[kind].size * count)
        return ()

    def _take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self._data):
            raise IndexError(self.position)
        return self._data[start : self.position]
