"""Append to files and replace them so that neither a failure nor a kill on the way loses what was there.

It knows files and folders; it knows nothing of runs and exports.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.strict_json import to_text

EARLIER = ".earlier"
"""The folder that holds, while a run is replaced, what was there before."""


def append_line(out: int, value: Any, path: str | Path) -> bytes:
    """Append one JSON line whole or not at all; returns it.

    Raises:
        UsageError: it cannot be written.
    """
    # Half a surrogate pair is no UTF-8; its escape is, and JSON reads it back.
    line = (to_text(value) + "\n").encode("utf-8", "backslashreplace")
    try:
        start = os.lseek(out, 0, os.SEEK_END)
        if os.write(out, line) != len(line):
            os.ftruncate(out, start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}; mend that and start the same command again, finished "
            "examples are kept"
        ) from None
    return line


def last_line_start(file: Any) -> int:
    """Seek to the start of the last line and tell where that is."""
    end = file.seek(0, os.SEEK_END)
    position, step = end - 1, 1 << 16
    while position > 0:
        begin = max(0, position - step)
        file.seek(begin)
        found = file.read(position - begin).rfind(b"\n")
        if found >= 0:
            return file.seek(begin + found + 1)
        position = begin
    return file.seek(0)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)


@contextmanager
def set_aside(folder: Path, names: Sequence[str], proof: str) -> Iterator[None]:
    """Keep files and folders aside while the block writes new ones: back if it fails, gone for good if it does not.

    A process that is killed meanwhile leaves the folder EARLIER, which `put_back` looks after.

    Args:
        folder: where they are.
        names: those that are kept aside; they need not be there.
        proof: a file that the block replaces, as the last thing it does.
    """
    aside = folder / EARLIER
    aside.mkdir()
    try:
        if (folder / proof).exists():
            shutil.copyfile(folder / proof, aside / proof)
        for name in names:
            if (folder / name).exists():
                (folder / name).rename(aside / name)
        yield
    except BaseException:
        put_back(folder, proof)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def put_back(folder: Path, proof: str) -> None:
    """Finish what `set_aside` was stopped in: what was there before comes back, unless the new is there already."""
    aside = folder / EARLIER
    if not aside.is_dir():
        return
    there, before = folder / proof, aside / proof
    if before.exists() and there.exists() and there.read_bytes() != before.read_bytes():
        shutil.rmtree(aside, ignore_errors=True)
        return
    for path in aside.iterdir():
        if path != before:
            path.rename(folder / path.name)
    shutil.rmtree(aside, ignore_errors=True)


def start_over(folder: Path) -> None:
    """Put an empty folder in place of one with content, which is lost only when the empty one is there.

    Raises:
        OSError: that is not possible; the folder is as it was.
    """
    aside = folder.with_name(f".{folder.name}{EARLIER}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        folder.mkdir()
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
