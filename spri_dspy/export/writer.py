"""Where an export goes: a file with its data card beside it, or a folder in the layout of the Hugging Face hub.

Rows are written beside their place as they come and moved there when they are whole; nothing but an
earlier export is ever replaced, and that only when asked. It knows files and rows, neither runs nor what a card says.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.export.card import CARD, is_card_of
from spri_dspy.strict_json import to_text

HUB_FILE = "data/train-00000-of-00001.parquet"
"""Where the rows lie in a folder of the hub's layout."""

_BATCH = 1000
"""Rows held in memory, and in a row group of a parquet file."""

_SUFFIXES = {"jsonl": (".jsonl", ".json"), "parquet": (".parquet",)}


@dataclass(frozen=True)
class Output:
    """Where an export goes: a file with its card beside it, or a folder with both.

    Attributes:
        path: the file, or the folder.
        file: the data file, relative to the card.
    """

    path: Path
    file: str

    @property
    def is_folder(self) -> bool:
        """True for a folder in the hub's layout."""
        return self.file == HUB_FILE

    @property
    def is_parquet(self) -> bool:
        """True if the rows are written as parquet, which wants their types."""
        return self.file.endswith(".parquet")

    @property
    def card(self) -> Path:
        """The data card."""
        return (self.path if self.is_folder else self.path.parent) / CARD

    def refuse_what_is_there(self, fresh: bool) -> None:
        """Refuse to replace an export without `fresh`, and anything else at all.

        Raises:
            UsageError: something is there.
        """
        try:
            is_ours = self.card.is_file() and is_card_of(self.card, self.file)
            is_there = self._refuse_folder(is_ours) if self.is_folder else self._refuse_file(is_ours)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}; name another place") from None
        if is_there and not fresh:
            raise UsageError(f"{self.path} exists; name another, or --fresh to replace it")

    def _refuse_folder(self, is_ours: bool) -> bool:
        """Refuse what is no export; True if one is there."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; name a folder")
        there = (
            {str(p.relative_to(self.path)) for p in self.path.rglob("*")}
            if self.path.exists()
            else set[str]()
        )
        if there and not (is_ours and there <= {CARD, "data", HUB_FILE}):
            raise UsageError(f"{self.path} holds other files; name an empty or a new folder")
        return bool(there)

    def _refuse_file(self, is_ours: bool) -> bool:
        """Refuse what is no export; True if one is there."""
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a folder; name a file in it, or use --to hf:{self.path}")
        if self.card.exists() and not is_ours:
            raise UsageError(
                f"{self.card} is not the data card of {self.file} and would be lost; name a file in a folder of its own"
            )
        if self.path.exists() and not is_ours:
            raise UsageError(f"{self.path} is there and is no export with a data card; name another file")
        return self.path.exists()

    def write(self, rows: Iterable[dict[str, Any]], schema: Any, make_card: Callable[[], str]) -> None:
        """Write rows and card beside their place, and move them there when they are whole.

        Args:
            rows: read once.
            schema: the rows' pyarrow schema; used for parquet only.
            make_card: called when the rows are written.

        Raises:
            UsageError: it cannot be written; nothing is left behind.
        """
        staging = self.path.with_name(f".{self.path.name}.partial")
        try:
            shutil.rmtree(staging, ignore_errors=True)
            (staging / self.file).parent.mkdir(parents=True)
            if self.is_parquet:
                _write_parquet(staging / self.file, rows, schema)
            else:
                _write_jsonl(staging / self.file, rows)
            (staging / CARD).write_text(make_card(), "utf-8")
            self._move(staging)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written: {error.strerror or error}; mend that or name another place"
            ) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _move(self, staging: Path) -> None:
        """Put what is whole in its place; what is there comes back if that fails."""
        earlier = staging.with_suffix(".old")
        moves = [(staging, self.path)]
        if not self.is_folder:  # the card first: rows never stand without one
            moves = [(staging / CARD, self.card), (staging / self.file, self.path)]
        shutil.rmtree(earlier, ignore_errors=True)
        earlier.mkdir()
        done: list[tuple[Path, Path]] = []
        try:
            for number, (new, place) in enumerate(moves):
                if place.exists():  # an earlier export, or an empty folder: refuse_what_is_there has looked
                    place.replace(earlier / str(number))
                    done.append((earlier / str(number), place))
                new.replace(place)
        except BaseException:
            for old, place in done:
                if place.is_dir():
                    shutil.rmtree(place)
                old.replace(place)
            raise
        finally:
            shutil.rmtree(earlier, ignore_errors=True)


def output(to: str | None, out: Path | None, default: Path) -> Output:
    """The place that `--to` and `--out` name.

    Args:
        to: "jsonl", "parquet" or "hf:DIR"; None for what `out` ends in, else jsonl.
        out: the file.
        default: the name without a suffix, if `out` is None; each kind of file gets a folder of its own there.

    Raises:
        UnknownNameError: `to` is none of these.
        UsageError: the two do not fit together.
    """
    if to is not None and to.startswith("hf:"):
        return _hub_folder(to, out)
    kind = to or ("parquet" if out is not None and out.suffix == ".parquet" else "jsonl")
    if kind not in _SUFFIXES:
        raise UnknownNameError("export target", kind, (*_SUFFIXES, "hf:DIR", "hub:USER/NAME"))
    path = out or default.with_name(f"{default.name}-{kind}") / f"{default.name}.{kind}"
    if path.suffix not in _SUFFIXES[kind]:
        raise UsageError(f"--out must end in {' or '.join(_SUFFIXES[kind])} for {kind}, not {path.name!r}")
    return Output(path, path.name)


def _hub_folder(to: str, out: Path | None) -> Output:
    if out is not None:
        raise UsageError("--to hf:DIR and hub:USER/NAME name the place already; leave --out away")
    folder = Path(to.removeprefix("hf:"))
    if folder.name in ("", ".."):
        raise UsageError(f"--to hf:DIR needs the name of a folder, such as hf:my-data, not {to!r}")
    return Output(folder, HUB_FILE)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_text(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]], schema: Any) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    with parquet.ParquetWriter(path, schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in chain(rows, [None]):
            if row is not None:
                batch.append(row)
            if batch and (row is None or len(batch) == _BATCH):
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
                batch = []
