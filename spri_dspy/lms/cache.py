"""Finished LM calls on disk: a SQLite file that survives the sudden death of its writer.

Two keys a call: one with the LM and its sampling, for resuming a run without paying a finished call twice, and
one of the prompt alone, for replaying a run's answers (`replay/RUN`). It knows keys and JSON outputs only.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError

FILE = "calls.sqlite"


class CallCache:
    """Finished calls of one run directory; memory does not grow with them.

    A write is in the operating system's hands when `put` returns: a killed process loses nothing, a machine
    that loses power may lose the last moments. Thread-safe.

    Raises:
        DataError: the folder cannot be written, or the file is no cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
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


def _plain(value: Any) -> Any:
    """Parts of an output that LiteLLM gives as objects of its own, such as logprobs."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
