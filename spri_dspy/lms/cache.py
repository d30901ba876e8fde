"""Finished LM calls on disk: a SQLite file that survives the sudden death of its writer.

Two keys a call: one with the LM and its sampling, for resuming a run without paying a finished call twice, and
one of the prompt alone, for replaying a run's answers (`replay/RUN`). Where several processes write at once, each has
a shard of its own, a folder beside the file; `take_over_shards` makes one file of them when they are gone. It knows
keys and JSON outputs only.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, Literal

from spri_dspy.errors import DataError

FILE = "calls.sqlite"


class CallCache:
    """Finished calls of one run directory; memory does not grow with them.

    A write is in the operating system's hands when `put` returns: a killed process loses nothing, a machine
    that loses power may lose the last moments. Thread-safe.

    Args:
        folder: made if needed.
        journal: "wal" is the quickest; "truncate" is for files that several machines see.

    Raises:
        DataError: the folder cannot be written, or the file is no cache.
    """

    def __init__(self, folder: Path, journal: Literal["wal", "truncate"] = "wal") -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute(f"PRAGMA journal_mode={journal}")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, prompt TEXT, outputs TEXT, model TEXT, "
                "tokens_in INTEGER, tokens_out INTEGER) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"the call cache {self.path} cannot be used: {error}; delete the folder or fix it"
            ) from error

    def get(self, key: str) -> list[Any] | None:
        """The outputs of a finished call, None if there is none.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with self._lock:
                row = self._db.execute("SELECT outputs FROM calls WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise DataError(f"the call cache {self.path} cannot be read: {error}; delete it") from error
        return json.loads(row[0]) if row else None

    def put(
        self, key: str, prompt_key: str, outputs: list[Any], model: str, tokens_in: int, tokens_out: int
    ) -> None:
        """Store a finished call and what it took; the first one stored stands.

        Raises:
            DataError: it cannot be written (disk full, read-only).
        """
        try:
            with self._lock:
                self._db.execute(
                    "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?)",
                    (key, prompt_key, json.dumps(outputs, default=_plain), model, tokens_in, tokens_out),
                )
        except sqlite3.Error as error:
            raise DataError(
                f"a finished call cannot be stored in {self.path}: {error}; mend that and start the same command "
                "again, finished examples are kept"
            ) from error

    def forget(self, keys: Iterable[str]) -> None:
        """Let these calls be made again; what they took stays counted, and replay still knows their answers.

        Raises:
            DataError: it cannot be written.
        """
        renamed = "UPDATE calls SET key = key || '-' || hex(randomblob(8)) WHERE key = ?"
        try:
            with self._lock:
                self._db.executemany(renamed, [(key,) for key in keys])
        except sqlite3.Error as error:
            raise DataError(f"the call cache {self.path} cannot be written: {error}") from error

    def __len__(self) -> int:
        with self._lock:
            return self._db.execute("SELECT count(*) FROM calls").fetchone()[0]

    def spent(self) -> dict[str, tuple[int, int, int]]:
        """Calls, input tokens and output tokens of all finished calls, by model."""
        query = "SELECT model, count(*), sum(tokens_in), sum(tokens_out) FROM calls GROUP BY model"
        with self._lock:
            return {model: (n, given, got) for model, n, given, got in self._db.execute(query).fetchall()}

    def take_over(self, folder: Path) -> None:
        """Copy what another cache holds; calls that are here already stand.

        Raises:
            DataError: the other file is no cache, or this one cannot be written.
        """
        try:
            with self._lock:
                self._db.execute("ATTACH DATABASE ? AS other", (str(folder / FILE),))
                try:
                    self._db.execute("INSERT OR IGNORE INTO calls SELECT * FROM other.calls")
                finally:
                    self._db.execute("DETACH DATABASE other")
        except sqlite3.Error as error:
            raise DataError(
                f"the call cache {folder / FILE} cannot be read into {self.path}: {error}; mend that or delete it"
            ) from error

    def by_prompt(self) -> dict[str, list[Any]]:
        """All outputs by prompt key, for replaying."""
        with self._lock:
            # Forgotten calls have longer keys: a later answer to the same prompt takes their place.
            rows = self._db.execute("SELECT prompt, outputs FROM calls ORDER BY length(key) DESC").fetchall()
        return {prompt: json.loads(outputs) for prompt, outputs in rows}

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        with self._lock:
            self._db.close()


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
