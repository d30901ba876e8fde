"""OpenAI's batch API on the wire: upload, create, look, find again, fetch, cancel, delete.

    POST /files (multipart, purpose=batch), POST /batches, GET /batches/ID, GET /files/ID/content
    POST /batches/ID/cancel, DELETE /files/ID

Files go up and come down line by line, so memory does not grow with them. Requests carry the headers of the live call
that they stand for, key included. It knows bytes and files; it knows no LM and no run.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeGuard
from urllib.parse import quote

import orjson

from spri_dspy.errors import PrerequisiteError
from spri_dspy.lms.bodies import REDIRECTS
from spri_dspy.redaction import redact

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
"""For a connection, and for each piece of a body."""

TAG = "spri_batch"
"""The field of a batch's metadata that tells it from others."""

_MOST_STATUS = 4_000_000
"""Bytes of an answer that is no file."""

_CHUNK = 1 << 20
_ID = re.compile(r"(?!.*\.\.|\.$)[\w.:+/=-]{1,300}")
_LIMITS = re.compile(r"token_limit|enqueued|rate.?limit|quota|too many", re.IGNORECASE)
_CLOCKS_DIFFER_SECONDS = 3600.0


class Busy(Exception):
    """Not now: the server has too much to do, or cannot be reached.

    Attributes:
        retry_after: seconds that it asks for.
        is_refusal: it said no, so nothing came about; otherwise something may have.
    """

    def __init__(self, said: str, retry_after: float = 0.0, *, is_refusal: bool = False) -> None:
        super().__init__(redact(said))
        self.retry_after, self.is_refusal = retry_after, is_refusal


class NotYet(Busy):
    """The server answers, and cannot say it before something has come to its end."""


class Status(NamedTuple):
    """How far a batch is.

    Attributes:
        ended: nothing more will happen to it.
        files: what to fetch of an ended one.
        failed: why none of it was done, None if it was begun.
        is_limit: it was not begun because too much is waiting already.
        cancelled: it was asked to stop; one that is not ended yet has requests that are being finished.
        done, total: requests.
        tag, file_id: what it was created with, where the provider says so.
    """

    ended: bool
    files: tuple[str, ...] = ()
    failed: str | None = None
    is_limit: bool = False
    cancelled: bool = False
    done: int = 0
    total: int = 0
    tag: str | None = None
    file_id: str | None = None


class Answer(NamedTuple):
    """What became of one request of a batch: the live call's HTTP status and body; no status if it was not done."""

    custom_id: str
    status: int | None
    body: bytes


@dataclass(frozen=True)
class BatchAPI:
    """One provider's batch API, with one key.

    Attributes:
        base: its address, without a slash at the end.
        headers: of every request, the key among them.
        path: of its batches.
        has_files: requests and results are files of their own, which stay until they are deleted.
    """

    base: str
    headers: Mapping[str, str]
    path = "/batches"
    has_files = True
    most_requests = 50_000
    most_bytes = 200_000_000

    def line(self, custom_id: str, path: str, body: bytes) -> bytes:
        """One request as a line of the input file; `body` stands in it byte for byte."""
        where = f'{{"custom_id":"{custom_id}","method":"POST","url":{json.dumps(path)},"body":'
        return where.encode() + body + b"}\n"

    def upload(self, path: Path) -> str | None:
        """Send the input file; its id."""
        boundary = f"spri-{path.stat().st_mtime_ns}"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{boundary}\r\n'
            f'Content-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        size = len(head) + path.stat().st_size + len(tail)
        kind = f"multipart/form-data; boundary={boundary}"
        return id_of(self._json("POST", "/files", parts_of(head, path, tail), size, kind))

    def create(self, path: Path, file_id: str | None, tag: str, endpoint: str) -> str:
        """Begin the batch of an input file; its id."""
        asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        data = json.dumps({**asked, "metadata": {TAG: tag}}).encode()
        return id_of(self._json("POST", self.path, iter([data]), len(data)))

    def status(self, batch_id: str) -> Status:
        """How far a batch is."""
        return self._status(self._json("GET", f"{self.path}/{quote(batch_id, '')}"))

    def cancel(self, batch_id: str) -> None:
        """Ask that nothing more of a batch is begun; what is done by then is paid, and its results stay."""
        self._json("POST", f"{self.path}/{quote(batch_id, '')}/cancel", iter(()))

    def delete(self, file_id: str) -> None:
        """Delete a file; one that is gone already, and a server that deletes none, are no error."""
        try:
            self._open("DELETE", f"/files/{quote(file_id, '')}").close()
        except NotKnown as error:
            logger.debug("file %s: %s", file_id, error)

    def _status(self, said: dict[str, Any]) -> Status:
        state, counts = said.get("status"), said.get("request_counts") or {}
        files = tuple(said[k] for k in ("output_file_id", "error_file_id") if isinstance(said.get(k), str))
        done, total = counts.get("completed") or 0, counts.get("total") or 0
        meta, file_id = said.get("metadata"), said.get("input_file_id")
        tag = meta.get(TAG) if isinstance(meta, dict) else None
        from_us = {"tag": tag, "file_id": file_id if isinstance(file_id, str) else None}
        if state != "failed":
            ended, stops = state in ("completed", "expired", "cancelled"), str(state).startswith("cancel")
            return Status(ended, files, cancelled=stops, done=done, total=total, **from_us)
        errors = (said.get("errors") or {}).get("data") or [{}]
        why = f"{errors[0].get('code') or 'failed'}: {errors[0].get('message') or 'no reason was given'}"
        return Status(True, failed=redact(why)[:300], is_limit=bool(_LIMITS.search(why)), **from_us)

    def is_ours(self, status: Status, tag: str, file_id: str | None, n: int) -> bool:
        """Whether a batch is the one that a run created, as far as the provider tells; a run's files may say anything.

        Args:
            status: the batch's.
            tag: that it should have.
            file_id: the input file that it should have.
            n: how many requests it should have.
        """
        return status.tag == tag or (file_id is not None and status.file_id == file_id)

    def find(self, tag: str, file_id: str | None, sent: float, n: int, known: set[str]) -> str | None:
        """The id of the batch that was created under this tag, None if there is none.

        Args:
            tag: the batch's.
            file_id: its input file.
            sent: when it was created at the earliest, in seconds since 1970.
            n: how many requests it has.
            known: batches that are others.

        Raises:
            NotYet: that cannot be told yet.
        """
        for said in self._listed("after", sent):
            status = self._status(said)
            if self.is_ours(status, tag, file_id, n) and status.failed is None:
                return id_of(said)
        return None

    def fetch(self, files: tuple[str, ...]) -> Iterator[IO[bytes]]:
        """The files of an ended batch, open for reading."""
        for name in files:
            yield self._open("GET", f"/files/{quote(name, '')}/content")

    def read(self, line: bytes) -> Answer | None:
        """One line of a result; None if it is none."""
        said = json_object(line)
        if said is None or not isinstance(said.get("custom_id"), str):
            return None
        response, error = said.get("response"), said.get("error")
        if isinstance(response, dict) and response.get("body") is not None:
            status = response.get("status_code")
            return Answer(
                said["custom_id"], status if isinstance(status, int) else 200, orjson.dumps(response["body"])
            )
        code = error.get("code") if isinstance(error, dict) else None
        if not error or code in ("batch_expired", "batch_cancelled"):
            return Answer(said["custom_id"], None, b"")
        return Answer(said["custom_id"], 500, orjson.dumps({"error": error}))

    def _listed(self, after: str, sent: float) -> Iterator[dict[str, Any]]:
        """Batches of the account, the newest first, back to the given time."""
        cursor = ""
        for _ in range(100):
            try:
                page = self._json("GET", f"{self.path}?limit=100{cursor}")
            except NotKnown:  # a server that lists nothing
                return
            rows = [row for row in page.get("data") or () if isinstance(row, dict)]
            yield from (row for row in rows if _created(row) >= sent - _CLOCKS_DIFFER_SECONDS)
            if not rows or not page.get("has_more") or _created(rows[-1]) < sent - _CLOCKS_DIFFER_SECONDS:
                return
            cursor = f"&{after}={quote(id_of(rows[-1]), '')}"

    def _json(self, method: str, path: str, *body: Any) -> dict[str, Any]:
        """An answer that is an object; all else as `_open` says."""
        try:
            with self._open(method, path, *body) as answer:
                text = answer.read(_MOST_STATUS + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Busy(f"{self.base}: {error}") from error
        said = json_object(text) if len(text) <= _MOST_STATUS else None
        if said is None and text.lstrip()[:1] == b"<":
            raise PrerequisiteError(
                f"{self.base}{path.partition('?')[0]} answered with a web page instead of JSON: it is no batch API, or "
                "something stands in front of it; check the address of --batch (most end in /v1) and start the same "
                "command again, what is finished is kept"
            )
        if said is None:
            raise Busy(f"{self.base}{path} answered with no JSON object")
        return said

    def _open(
        self,
        method: str,
        path: str,
        data: Iterator[bytes] | None = None,
        size: int = 0,
        kind: str = "application/json",
    ) -> Any:
        """An answer, open for reading.

        Raises:
            Busy: later perhaps.
            PrerequisiteError: never.
        """
        headers = dict(self.headers)
        if data is not None:
            headers |= {"Content-Type": kind, "Content-Length": str(size)}
        request = urllib.request.Request(f"{self.base}{path}", data, headers, method=method)
        try:
            return _opener().open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in REDIRECTS:
                    to = (error.headers.get("Location") or "")[:200]
                    raise PrerequisiteError(
                        f"the batch API at {self.base} sends calls elsewhere ({error.code} to {to!r}), which is not "
                        "followed: give that address to --batch if it is right"
                    ) from None
                text = error.read(100_000)
            raise self._refusal(path, error.code, text, error.headers.get("Retry-After")) from None
        except (OSError, http.client.HTTPException) as error:
            raise Busy(f"{self.base} cannot be reached: {getattr(error, 'reason', error)}") from error

    def _refusal(self, path: str, code: int, text: bytes, retry_after: str | None) -> Exception:
        said = (json_object(text) or {}).get("error")
        message = said.get("message") if isinstance(said, dict) else None
        name = said.get("code") or said.get("type") if isinstance(said, dict) else None
        shown = f"{code} {name or ''} {message or text[:200].decode(errors='replace')}".replace("  ", " ")
        waits = float(retry_after) if retry_after and re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else 0.0
        if code == 429 or (code == 400 and _LIMITS.search(shown)):
            return Busy(shown, waits, is_refusal=True)
        if code in (408, 409) or (code >= 500 and code != 501):
            return Busy(shown, waits)
        kind = NotKnown if code in (404, 405, 501) else PrerequisiteError
        return kind(
            f"the batch API at {self.base}{path.partition('?')[0]} refuses: {shown[:300]}; mend that and start the "
            "same command again, what is finished is kept"
        )


class NotKnown(PrerequisiteError):
    """The server has no such path, no such batch, or no such file."""


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Stay)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """No answer sends a request, and the key with it, elsewhere."""


def parts_of(head: bytes, path: Path, tail: bytes, lines_to: bytes | None = None) -> Iterator[bytes]:
    """A body around a file; with `lines_to`, that stands in place of its line breaks, the last left out."""
    yield head
    left = path.stat().st_size - (lines_to is not None)
    with path.open("rb") as file:
        while left and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk if lines_to is None else chunk.replace(b"\n", lines_to)
    yield tail


def json_object(text: bytes) -> dict[str, Any] | None:
    """A JSON object, None if the text is none."""
    try:
        said = orjson.loads(text)
    except ValueError:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return said if isinstance(said, dict) else None


def is_id(found: Any) -> TypeGuard[str]:
    """Whether this may be a batch's or a file's id: a part of a path that leads nowhere else."""
    return isinstance(found, str) and _ID.fullmatch(found) is not None


def id_of(said: dict[str, Any]) -> str:
    """The id of what a server made or lists."""
    found = said.get("id")
    if not is_id(found):
        raise Busy("the server named no id")
    return found


def _created(said: dict[str, Any]) -> float:
    """When a batch was created, in seconds since 1970; now, so to say, if it does not say so."""
    at = said.get("created_at")
    if isinstance(at, str):
        try:
            return datetime.fromisoformat(at).timestamp()
        except ValueError:
            return float("inf")
    return float(at) if isinstance(at, int | float) else float("inf")
