"""A run directory: what was asked (manifest.json), what came out (records.jsonl), finished calls (cache/).

A public, versioned format that reports, notebooks and resuming read; the files are the truth about progress.
Records are appended one line at a time and never rewritten, so a killed process loses at most the line it was
writing, and that line's example runs again. One process at a time writes a run: the lock dies with its owner.

It knows files and records. It knows nothing of programs, LMs or DSPy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

from spri_dspy.durable import append_line, last_line_start, put_back, set_aside, write_whole
from spri_dspy.ends import End, Ends, Finished
from spri_dspy.errors import DataError, RunMismatchError, UsageError
from spri_dspy.records import SCHEMA, Record, is_record
from spri_dspy.strict_json import from_text, to_text

logger = logging.getLogger(__name__)

MANIFEST, RECORDS, CALLS, CACHE, LOCK = "manifest.json", "records.jsonl", "calls.jsonl", "cache", "lock"
BATCHES, INDEX = "batches", "records.index"
PARTIAL = f"{MANIFEST}.partial"
MADE_FROM_IT = ("judged", "exports")
"""Folders in a run directory of what was made from the run; they go with it."""

INFORMATIVE = ("schema", "created", "versions", "lms", "command", "input", "sees")
"""Manifest fields that may differ when a run is resumed; every other field must be equal."""


class RunDir:
    """One run on disk, open for writing or only for reading.

    Use `RunDir.create` to start or resume a run, `RunDir.read` to look at one. Closing releases the lock; it is
    a context manager.

    Attributes:
        path: the directory.
        manifest: what the run was asked, as written when it began.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self._records = str(path / RECORDS)
        self._lock: int | None = None
        self._out: int | None = None
        self._unreadable: set[int] = set()
        self._ends: Ends | None = None

    @classmethod
    def create(cls, path: str | Path, manifest: Mapping[str, Any], *, fresh: bool = False) -> RunDir:
        """Start a run, or resume the one that is there.

        Args:
            path: the directory, made if needed.
            manifest: what is asked now. Fields outside INFORMATIVE must equal those of the run that is there.
            fresh: throw the run that is there away and start anew.

        Raises:
            RunMismatchError: another run is there; names the fields that differ.
            UsageError: the directory holds something else, is in use, or cannot be written.
        """
        folder = Path(path)
        run = cls(folder, {})
        try:
            _refuse_foreign(folder)
            folder.mkdir(parents=True, exist_ok=True)
            run._take_lock()
            run._begin(dict(manifest), fresh)
        except OSError as error:
            run.close()
            raise UsageError(
                f"the run directory {folder} cannot be written: {error.strerror}; mend that or name another"
            ) from None
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: str | Path) -> RunDir:
        """Open a run for reading; it may still be running.

        Raises:
            DataError: there is no run, or a newer version wrote it.
        """
        folder = Path(path)
        for name in (MANIFEST, RECORDS):
            _refuse_irregular(folder / name)
        if not (folder / MANIFEST).is_file():
            raise DataError(f"{folder} is no run directory: it has no {MANIFEST}")
        try:
            manifest: dict[str, Any] = from_text((folder / MANIFEST).read_bytes())
            schema = manifest["schema"]
            if type(schema) is not int or schema < 1:
                raise ValueError(f"its schema is {schema!r}")
        except OSError as error:
            raise DataError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{folder / MANIFEST} is no manifest of a run ({error}); name another directory"
            ) from None
        if schema > SCHEMA:
            raise DataError(
                f"{folder} was written by a newer spri-dspy (format {schema}); upgrade to read it"
            )
        return cls(folder, manifest)

    def _begin(self, manifest: dict[str, Any], fresh: bool) -> None:
        for name in (MANIFEST, RECORDS):
            _refuse_irregular(self.path / name)
        put_back(self.path, MANIFEST)
        if (self.path / MANIFEST).exists() and not fresh:
            self.manifest = RunDir.read(self.path).manifest
            self._compare(manifest)
            if self.manifest["schema"] != SCHEMA:  # the records that follow are of this version
                self.manifest["schema"] = SCHEMA
                self._write_manifest()
        else:
            self.manifest = {
                "schema": SCHEMA,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                **manifest,
            }
            with set_aside(self.path, (RECORDS, INDEX, CALLS, CACHE, BATCHES, *MADE_FROM_IT), MANIFEST):
                self._write_manifest()
        self._mend_last_line()
        self._out = os.open(self.path / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _write_manifest(self) -> None:
        write_whole(self.path / MANIFEST, to_text(self.manifest, indent=2) + "\n")

    def _take_lock(self) -> None:
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = None
            raise UsageError(
                f"{self.path} is in use by another process (pid {owner}); wait for it or stop it"
            ) from None
        _OPEN.add(self)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _compare(self, manifest: Mapping[str, Any]) -> None:
        was, now = self.manifest, from_text(to_text(manifest))
        differ = sorted(k for k in {*was, *now} - set(INFORMATIVE) if was.get(k) != now.get(k))
        # A hash says less than the settings that it follows from.
        differ = [k for k in differ if k not in ("program", "seeds")] or differ
        if differ:
            pairs = {k: _differing(was.get(k), now.get(k)) for k in differ}
            shown = "; ".join(f"{k}: {_short(a)} there, {_short(b)} now" for k, (a, b) in pairs.items())
            raise RunMismatchError(
                f"{self.path} holds another run ({shown}); use another --run, or --fresh to throw it away"
            )

    def _mend_last_line(self) -> None:
        """Drop a torn last line; end a whole one that only lacks its newline."""
        path = self.path / RECORDS
        if not path.exists() or not path.stat().st_size:
            return
        with path.open("rb+") as file:
            end = last_line_start(file)
            tail = file.read()
            if tail.endswith(b"\n"):
                return
            if _record(tail) is not None:
                file.write(b"\n")
                return
            file.truncate(end)
            logger.warning("%s: dropped a torn last line; its example runs again", path)

    def append(self, record: Record) -> None:
        """Write one record; when this returns, a killed process has not lost it.

        Raises:
            UsageError: it cannot be written (a full disk); what was written before is whole.
        """
        assert self._out is not None, "the run is not open for writing"
        self.check_there()
        line = append_line(self._out, record.to_json(), self._records)
        if self._ends is not None and self._ends.stamp is None:
            self._ends.add(line, End.of(record))

    def check_there(self) -> None:
        """Refuse to go on with a run whose files somebody removed or replaced; a run open for reading is not looked at.

        Raises:
            UsageError: they are gone; says what is lost.
        """
        if self._out is None:
            return
        ours = os.fstat(self._out)
        try:
            is_there = os.path.samestat(ours, os.stat(self._records))
        except OSError:
            is_there = False
        if not is_there:
            what = "replaced" if (self.path / RECORDS).exists() else "removed"
            kept = "" if self._ends is None else f" {self._ends.n_finished:,}"
            raise UsageError(
                f"{self.path / RECORDS} was {what} while the run went on: its{kept} finished examples are lost; start "
                "the same command again"
            )

    def records(self, ids: Set[str] | None = None, *, failed: bool = False) -> Iterator[Record]:
        """Finished examples in the order in which they finished; of an example that ran twice, the last.

        A line that cannot be read is passed over with a warning: its example counts as not finished.

        Args:
            ids: only those with these ids; the others are not parsed.
            failed: only those that failed.
        """
        ends = self._read_ends()
        is_wanted = ends.is_failure if failed else ends.is_last
        among = None if ids is None else {abs(ends.lines.get(name)) for name in ids}
        for number, line in self._lines():
            is_meant = is_wanted(number) and (among is None or number in among)
            record = _record(line) if is_meant else None
            if record is not None and (ids is None or record.id in ids):
                yield record

    def finished(self, *, retry_errors: bool = False) -> Finished:
        """Ids of the examples that are finished now; those that failed are left out with `retry_errors`."""
        return Finished(self._lines, self._read_ends(), retry_errors=retry_errors)

    @property
    def counts(self) -> tuple[int, int]:
        """How many examples are finished, and how many of these failed."""
        ends = self._read_ends()
        return ends.n_finished, ends.n_failed

    @property
    def stops(self) -> Counter[str]:
        """How many finished examples have each stop reason, such as "response accepted"."""
        return self._read_ends().stops()

    def _read_ends(self) -> Ends:
        """How each example ended. Read once by the one who writes, by others when the file changes."""
        path = self.path / RECORDS
        now = None if self._out is not None else _stamp(path)
        if self._ends is not None and self._ends.stamp == now:
            return self._ends
        _refuse_irregular(path)
        self._ends = Ends.read(path, self.path / INDEX, now)
        for number in self._ends.unreadable:
            if number not in self._unreadable:
                logger.warning("%s, line %d cannot be read; its example counts as not finished", path, number)
        self._unreadable.update(self._ends.unreadable)
        return self._ends

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines with their numbers, from 1."""
        path = self.path / RECORDS
        _refuse_irregular(path)
        if path.exists():
            with path.open("rb") as lines:
                yield from enumerate(lines, 1)

    def close(self) -> None:
        """Release the lock; more calls do nothing."""
        if self._out is not None and self._ends is not None:
            self._ends.stamp = _stamp_of(os.fstat(self._out))
        for name in ("_out", "_lock"):
            descriptor = getattr(self, name)
            setattr(self, name, None)
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_OPEN: WeakSet[RunDir] = WeakSet()
"""Runs that this process writes."""


def _leave_to_the_parent() -> None:
    """Close a forked child's copies: the lock would outlive the parent, and records have one writer."""
    for run in list(_OPEN):
        run.close()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class CallLog:
    """Prompt and answer of every call of a run, one JSON line a call, in calls.jsonl beside the records.

    Lines are appended whole, from any thread. An example that is run again appends its calls again, those that the
    cache answered marked as `cached`.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._lock = folder / CALLS, threading.Lock()
        try:
            self._out: int | None = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"calls cannot be kept in {self.path}: {error.strerror}") from None

    def __call__(self, call: Mapping[str, Any]) -> None:
        """Append one call.

        Raises:
            UsageError: it cannot be written (a full disk); what was written before is whole.
        """
        with self._lock:
            if self._out is not None:
                append_line(self._out, call, self.path)

    def close(self) -> None:
        """Close the file; what is appended later is lost, and closing again does nothing."""
        with self._lock:
            if self._out is not None:
                os.close(self._out)
            self._out = None


def fingerprint(value: Any) -> str:
    """A short hash of anything that is JSON, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    """A short hash of a file's bytes, read in pieces.

    Raises:
        DataError: it is a pipe or the like, which could not be read a second time.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path} is no file that can be read more than once")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; () if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return _stamp_of(found)


def _stamp_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _record(line: bytes) -> Record | None:
    try:
        value = from_text(line)
        return Record.from_json(value) if is_record(value) else None
    except (ValueError, TypeError, KeyError, RecursionError):  # what a broken line may raise
        return None


def _refuse_irregular(path: Path) -> None:
    """Refuse what is there and is no regular file: reading a pipe would never end.

    Raises:
        DataError: it is a folder, a pipe, or a link to nothing.
    """
    if os.path.lexists(path) and not path.is_file():
        raise DataError(f"{path} is not a regular file; remove it, or name another run directory")


def _refuse_foreign(folder: Path) -> None:
    """Refuse a path that is no directory, or one of other files: nothing is written among them.

    Raises:
        UsageError: it is a file, or holds files and no run.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the run directory {folder} is a file; name a directory")
    there = {p.name for p in folder.iterdir()} if folder.exists() else set[str]()
    if MANIFEST not in there and there - {LOCK, PARTIAL}:
        raise UsageError(f"{folder} holds other files and no run; name an empty or a new directory")


def _differing(was: Any, now: Any) -> tuple[Any, Any]:
    """Two values; of two objects, only their members that differ."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return cast("Any", was), now
    a, b = cast("dict[str, Any]", was), cast("dict[str, Any]", now)
    names = [k for k in {**a, **b} if k not in a or k not in b or a[k] != b[k]]
    return {k: a[k] for k in names if k in a}, {k: b[k] for k in names if k in b}


def _short(value: Any) -> str:
    text = to_text(value)
    return text if len(text) <= 60 else text[:57] + "..."
