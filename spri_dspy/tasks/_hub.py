"""Data sets as the Hugging Face hub lays them out: hf:NAME:SPLIT, from the hub or from a local folder.

A folder from somebody else may name any file or address as its data, in its README or by a link; only files inside it
are read. It knows data sets and no task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.tasks._reading import Rows, file_rows

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def hub_rows(source: str, columns: tuple[str, ...] = ()) -> Rows:
    """The rows of hf:NAME:SPLIT (SPLIT is "train" by default); of a folder those of its files, one after another.

    Of a data set with several configurations, SPLIT is CONFIGURATION/SPLIT.

    Raises:
        DataError: it cannot be had or read, or it names data outside itself.
    """
    name, _, split = source.removeprefix("hf:").partition(":")
    split, number = split or "train", 0
    asked = split
    configuration, _, split = split.rpartition("/")
    is_folder = Path(name).exists()
    try:
        if is_folder:
            _refuse_outside_names(Path(name))
        with _without_chatter():
            import datasets

            builder = datasets.load_dataset_builder(name, configuration or None)
            files = {
                str(key): [str(file) for file in each]
                for key, each in (builder.config.data_files or {}).items()
            }
        _refuse_outside_files(name, files, is_folder)
        if split not in files:
            raise DataError(
                f"the data set {name!r} has no split {split!r}; it has {', '.join(files) or 'none'}"
            )
        if is_folder:
            for file in files[split]:
                for where, _, row in file_rows(Path(file), columns):
                    number += 1
                    yield f"{Path(file).name}, {where}", number, row
            return
        with _without_chatter():
            rows = iter(builder.as_streaming_dataset(split=split))
        while (row := _next(rows)) is not None:
            number += 1
            yield f"row {number}", number, dict(row)
    except DataError:
        raise
    except Exception as error:  # datasets raises a dozen unrelated types for "cannot be had"
        said = " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
        where = f"split {asked!r}" + (f", after row {number}" if number else "")
        raise DataError(
            f"the data set {name!r} ({where}) cannot be loaded: {said}; {_remedy(name, asked)}"
        ) from None


def _refuse_outside_names(folder: Path) -> None:
    """Refuse what a folder's README or .huggingface.yaml names outside it, before anything is looked up.

    Raises:
        DataError: an address, an absolute path, or one that leaves the folder.
    """
    import yaml
    from huggingface_hub.repocard import metadata_load

    said: list[Any] = []
    if (folder / "README.md").is_file():
        said.append(metadata_load(folder / "README.md"))
    if (folder / ".huggingface.yaml").is_file():
        said.append(yaml.safe_load((folder / ".huggingface.yaml").read_text("utf-8")))
    configs = [config for each in said if isinstance(each, Mapping) for config in each.get("configs") or []]
    queue: list[Any] = [
        c.get(key) for c in configs if isinstance(c, Mapping) for key in ("data_files", "data_dir")
    ]
    seen: set[int] = set()  # YAML's aliases make a few bytes a tree of any size; each part is looked at once
    while queue:
        part = queue.pop()
        if isinstance(part, str):
            if "://" in part or "::" in part or Path(part).is_absolute() or ".." in Path(part).parts:
                raise _outside(str(folder), part)
        elif id(part) not in seen:
            seen.add(id(part))
            queue += [*part.values()] if isinstance(part, Mapping) else part if isinstance(part, list) else []


def _refuse_outside_files(name: str, files: Mapping[str, list[str]], is_folder: bool) -> None:
    """Refuse files outside a folder, which links may lead to, and outside the hub for a data set of the hub."""
    for file in (file for each in files.values() for file in each):
        inside = (
            Path(file).resolve().is_relative_to(Path(name).resolve())
            if is_folder
            else file.startswith("hf://datasets/")
        )
        if not inside:
            raise _outside(name, file)


def _outside(name: str, file: str) -> DataError:
    return DataError(
        f"the data set {name!r} names {file!r} as its data, which is outside it and is not read; "
        "bring that file into the folder if you trust it"
    )


def _next(rows: Iterator[Any]) -> Any:
    with _without_chatter():
        return next(rows, None)


def _remedy(name: str, split: str) -> str:
    """What to do about a data set that cannot be loaded."""
    if Path(name).exists():
        return "write hf:FOLDER:SPLIT; the folder holds parquet, JSON-lines or CSV files in the hub's layout"
    if not _HUB_NAME.fullmatch(name):
        return "there is no such folder"
    return (
        f"where the hub cannot be reached, bring a folder with its files (hf download {name} --repo-type dataset "
        f"--local-dir FOLDER) and give --data hf:FOLDER:{split}"
    )


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep the hub's client from logging every retry: what matters comes as an error. Not so with --verbose."""
    import datasets  # noqa: F401  (its import sets the levels, and so stands before what is set here)

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
