"""Finished LM calls on disk: a SQLite file that survives the sudden death of its writer.

Two keys a call: one with the LM and its sampling, for resuming a run without paying a finished call twice, and
one of the prompt alone, for replaying a run's answers (`replay/RUN`). Where several processes write at once, each has
a shard of its own, a folder beside the file; `take_over_shards` makes one file of them when they are gone. It knows
keys and JSON outputs only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from spri_dspy.errors import DataError

logger = logging.getLogger(__name__)

FILE = "calls.sqlite"


class CallCache:
    """Finished calls of one run directory; memory does not grow with them.

    A write is in the operating system's hands when `put` returns: a killed process loses nothing, a machine
    that loses power may lose the last moments. Every call carries a checksum of all that is kept of it: one that does
    not fit is dropped with a warning and so is asked again. Thread-safe.

    Args:
        folder: made if needed.
        journal: "wal" is the quickest; "truncate" is for files that several machines see.
        read_only: write nothing, not even beside the file, so that a read-only folder will do.

    Raises:
        DataError: the folder cannot be used, or the file is no cache.
    """

    def __init__(
        self, folder: Path, journal: Literal["wal", "truncate"] = "wal", *, read_only: bool = False
    ) -> None:
        self.path, self._read_only = folder / FILE, read_only
        self._lock, self._n_damaged = threading.Lock(), 0
        with self._named_errors("cannot be used"):
            if os.path.lexists(self.path) and not self.path.is_file():
                raise DataError(f"the call cache {self.path} is not a regular file; remove it")
            self._db = self._connect(journal)
            self._db.text_factory = lambda data: data.decode(
                "utf-8", "replace"
            )  # a damaged text has no checksum
            if not read_only:
                self._db.execute(_TABLE)
            columns = [row[1] for row in self._db.execute("PRAGMA table_info(finished)")]
            if columns != _COLUMNS:
                raise sqlite3.DatabaseError("it has another schema")

    def _connect(self, journal: str) -> sqlite3.Connection:
        if self._read_only:
            address = f"file:{quote(str(self.path.absolute()))}?mode=ro"
            try:
                db = sqlite3.connect(address, uri=True, check_same_thread=False, timeout=30)
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:  # its journal cannot be opened for writing beside it
                db = sqlite3.connect(f"{address}&immutable=1", uri=True, check_same_thread=False)
            return db
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
        db.execute(f"PRAGMA journal_mode={journal}")
        db.execute("PRAGMA synchronous=OFF")
        return db

    @contextmanager
    def _named_errors(self, what: str) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except _ERRORS as error:
            raise self._named(error, what) from error

    def _named(self, error: Exception, what: str) -> DataError:
        return DataError(
            f"the call cache {self.path} {what}: {error}; mend that, or delete the file: its calls are asked again"
        )

    def get(self, key: str) -> list[Any] | None:
        """The outputs of a finished call, None if there is none.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with self._lock:
                row = self._db.execute("SELECT * FROM finished WHERE key = ?", (key,)).fetchone()
        except _ERRORS as error:
            raise self._named(error, "cannot be read") from error
        if row is None or _is_sound(row):
            return json.loads(row[2]) if row else None
        if not self._read_only:
            with self._named_errors("cannot be written"):
                self._db.execute("DELETE FROM finished WHERE key = ?", (key,))
        self._warn()
        return None

    def __contains__(self, key: str) -> bool:
        """Whether a call was ever finished, forgotten or not."""
        query = "SELECT 1 FROM finished WHERE key = ? OR (key > ? AND key < ?) LIMIT 1"
        with self._named_errors("cannot be read"):
            return self._db.execute(query, (key, f"{key}-", f"{key}.")).fetchone() is not None

    def _warn(self) -> None:
        self._n_damaged += 1
        if self._n_damaged == 1:
            logger.warning("%s: damaged calls were dropped, they are asked again", self.path)

    def put(
        self, key: str, prompt_key: str, outputs: list[Any], model: str, tokens_in: int, tokens_out: int
    ) -> None:
        """Store a finished call and what it took; the first one stored stands.

        Raises:
            DataError: it cannot be written (disk full, read-only).
        """
        is_text = len(outputs) == 1 and type(outputs[0]) is str
        said = f"[{quoted(outputs[0])}]" if is_text else json.dumps(outputs, default=_plain)
        row = (key, prompt_key, said, model, tokens_in, tokens_out)
        try:
            with self._lock:
                self._db.execute(
                    "INSERT OR IGNORE INTO finished VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _checksum(row))
                )
        except (sqlite3.Error, OverflowError) as error:
            raise DataError(
                f"a finished call cannot be stored in {self.path}: {error}; mend that and start the same command "
                "again, finished examples are kept"
            ) from error

    def forget(self, keys: Iterable[str]) -> None:
        """Let these calls be made again; what they took stays counted, and replay still knows their answers.

        Raises:
            DataError: it cannot be written.
        """
        renamed = "UPDATE finished SET key = key || '-' || hex(randomblob(8)) WHERE key = ?"
        with self._named_errors("cannot be written"):
            self._db.executemany(renamed, [(key,) for key in keys])

    def __len__(self) -> int:
        with self._named_errors("cannot be read"):
            return self._db.execute("SELECT count(*) FROM finished").fetchone()[0]

    def spent(self) -> dict[str, tuple[int, int, int]]:
        """Calls, input tokens and output tokens of all finished calls, by model; counts that are none are 0.

        Raises:
            DataError: the file is damaged.
        """
        counted = (
            f"sum(CASE WHEN typeof({n}) = 'integer' AND {n} BETWEEN 0 AND 1e12 THEN {n} ELSE 0 END)"
            for n in ("tokens_in", "tokens_out")
        )
        query = f"SELECT model, count(*), {', '.join(counted)} FROM finished GROUP BY model"
        with self._named_errors("cannot be read"):
            return {
                str(model): (n, given, got) for model, n, given, got in self._db.execute(query).fetchall()
            }

    def take_over(self, folder: Path) -> None:
        """Copy what another cache holds; calls that are here already stand.

        Raises:
            DataError: the other file is no cache, or this one cannot be written.
        """
        with self._named_errors(f"cannot take over {folder / FILE}"):
            self._db.execute("ATTACH DATABASE ? AS other", (str(folder / FILE),))
            try:
                self._db.execute("INSERT OR IGNORE INTO finished SELECT * FROM other.finished")
            finally:
                self._db.execute("DETACH DATABASE other")

    def by_prompt(self) -> dict[str, list[Any]]:
        """All outputs by prompt key, for replaying.

        Raises:
            DataError: the file is damaged.
        """
        found: dict[str, list[Any]] = {}
        with self._named_errors("cannot be read"):
            # Forgotten calls have longer keys: a later answer to the same prompt takes their place.
            rows = self._db.execute("SELECT * FROM finished ORDER BY length(key) DESC").fetchall()
        for row in rows:
            if _is_sound(row):
                found[row[1]] = json.loads(row[2])
            else:
                self._warn()
        return found

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        with self._lock:
            self._db.close()


_ERRORS = (OSError, sqlite3.Error, OverflowError, UnicodeDecodeError)
_COLUMNS = ["key", "prompt", "outputs", "model", "tokens_in", "tokens_out", "checksum"]
_TABLE = (
    "CREATE TABLE IF NOT EXISTS finished (key TEXT PRIMARY KEY, prompt TEXT, outputs TEXT, model TEXT, "
    "tokens_in INTEGER, tokens_out INTEGER, checksum TEXT)"
)


def _checksum(row: Sequence[Any]) -> str:
    """Of all columns; a forgotten call's key counts as it was before."""
    key, *others = row
    values = [str(key).partition("-")[0], *others]
    as_json = [quoted(v) if type(v) is str else str(v) if type(v) is int else json.dumps(v) for v in values]
    return hashlib.sha256(f"[{', '.join(as_json)}]".encode()).hexdigest()[:16]


def _is_sound(row: Sequence[Any]) -> bool:
    return all(not isinstance(value, bytes) for value in row) and row[6] == _checksum(row[:6])


class ShardedCache:
    """A cache whose writers each have a file of their own; every writer reads all of them.

    A writer takes the first shard that no living process holds, so that one which replaces a dead writer goes on with
    that writer's shard.

    Args:
        folder: of the whole cache; shards are folders in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for number in count():
            self._shard = folder / f"{_SHARD}{number}"
            self._held = _lock(self._shard)
            if self._held is not None:
                break
        self._own = CallCache(self._shard, "truncate")
        self._others: dict[Path, CallCache] = {}

    def get(self, key: str) -> list[Any] | None:
        """The outputs of a call that any writer finished."""
        found = self._own.get(key)
        others = self._readable()
        while found is None and (other := next(others, None)) is not None:
            found = other.get(key)
        return found

    def put(
        self, key: str, prompt_key: str, outputs: list[Any], model: str, tokens_in: int, tokens_out: int
    ) -> None:
        """Store a finished call in this writer's shard."""
        self._own.put(key, prompt_key, outputs, model, tokens_in, tokens_out)

    def forget(self, keys: Iterable[str]) -> None:
        """Let these calls be made again, whoever made them."""
        named = list(keys)
        for cache in (self._own, *self._readable()):
            cache.forget(named)

    def close(self) -> None:
        """Close all files and let the shard go."""
        for cache in (self._own, *self._others.values()):
            cache.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _readable(self) -> Iterator[CallCache]:
        """The other shards, and what earlier starts left."""
        for folder in (self._folder, *sorted(self._folder.glob(f"{_SHARD}*"))):
            if folder == self._shard or not (folder / FILE).exists():
                continue
            if folder not in self._others:
                self._others[folder] = CallCache(folder, "truncate")
            yield self._others[folder]


def take_over_shards(folder: Path, journal: Literal["wal", "truncate"] = "wal") -> None:
    """Put what is in shards into the one file that every reader looks at; shards whose writers are gone go away.

    The workers of a killed run live some seconds longer and go on with their calls; these are waited for.

    Raises:
        DataError: a shard is damaged, or the disk is full; the shard stays.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    for shard in sorted(folder.glob(f"{_SHARD}*")):
        held = _lock(shard, until)
        if (shard / FILE).exists():
            with closing(CallCache(folder, journal)) as cache:
                cache.take_over(shard)
        if held is not None:
            shutil.rmtree(shard)
            os.close(held)


_SHARD, _PATIENCE_SECONDS = "shard-", 15.0


def _lock(folder: Path, until: float = 0.0) -> int | None:
    """Hold a shard for the life of this process; None if another process still holds it at that time."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
        time.sleep(0.1)


def _plain(value: Any) -> Any:
    """Parts of an output that LiteLLM gives as objects of its own, such as logprobs."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
