"""The batch APIs on the wire: upload, create, look, find again, fetch; in OpenAI's dialect and in Anthropic's.

    OpenAI      POST /files (multipart, purpose=batch), POST /batches, GET /batches/ID, GET /files/ID/content
    Anthropic   POST /messages/batches, GET /messages/batches/ID, GET /messages/batches/ID/results

Files go up and come down line by line, so memory does not grow with them. Requests carry the headers of the live call
that they stand for, key included. It knows bytes and files; it knows no LM and no run.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit

import orjson

from spri_dspy.errors import PrerequisiteError
from spri_dspy.lms.bodies import REDIRECTS
from spri_dspy.redaction import redact

TIMEOUT_SECONDS = 60.0
"""For a connection, and for each piece of a body."""

TAG = "spri_batch"
"""The field of a batch's metadata that tells it from others."""

_MOST_STATUS = 4_000_000
"""Bytes of an answer that is no file."""

_CHUNK = 1 << 20
_ID = re.compile(r"[\w.:+/=-]{1,300}")
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
        done, total: requests.
    """

    ended: bool
    files: tuple[str, ...] = ()
    failed: str | None = None
    is_limit: bool = False
    done: int = 0
    total: int = 0


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
    """

    base: str
    headers: Mapping[str, str]
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
        return _id_of(self._json("POST", "/files", _parts(head, path, tail), size, kind))

    def create(self, path: Path, file_id: str | None, tag: str, endpoint: str) -> str:
        """Begin the batch of an input file; its id."""
        asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        data = json.dumps({**asked, "metadata": {TAG: tag}}).encode()
        return _id_of(self._json("POST", "/batches", iter([data]), len(data)))

    def status(self, batch_id: str) -> Status:
        """How far a batch is."""
        return self._status(self._json("GET", f"/batches/{quote(batch_id, '')}"))

    def _status(self, said: dict[str, Any]) -> Status:
        state, counts = said.get("status"), said.get("request_counts") or {}
        files = tuple(said[k] for k in ("output_file_id", "error_file_id") if isinstance(said.get(k), str))
        done, total = counts.get("completed") or 0, counts.get("total") or 0
        if state != "failed":
            ended = state in ("completed", "expired", "cancelled")
            return Status(ended, files, done=done, total=total)
        errors = (said.get("errors") or {}).get("data") or [{}]
        why = f"{errors[0].get('code') or 'failed'}: {errors[0].get('message') or 'no reason was given'}"
        return Status(True, failed=redact(why)[:300], is_limit=bool(_LIMITS.search(why)))

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
        for said in self._listed("/batches", "after", sent):
            meta = said.get("metadata") or {}
            is_ours = meta.get(TAG) == tag or (file_id is not None and said.get("input_file_id") == file_id)
            if is_ours and said.get("status") != "failed":
                return _id_of(said)
        return None

    def fetch(self, files: tuple[str, ...]) -> Iterator[IO[bytes]]:
        """The files of an ended batch, open for reading."""
        for name in files:
            yield self._open("GET", f"/files/{quote(name, '')}/content")

    def read(self, line: bytes) -> Answer | None:
        """One line of a result; None if it is none."""
        said = _object(line)
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

    def _listed(self, path: str, after: str, sent: float) -> Iterator[dict[str, Any]]:
        """Batches of the account, the newest first, back to the given time."""
        cursor = ""
        for _ in range(100):
            try:
                page = self._json("GET", f"{path}?limit=100{cursor}")
            except NotKnown:  # a server that lists nothing
                return
            rows = [row for row in page.get("data") or () if isinstance(row, dict)]
            yield from (row for row in rows if _created(row) >= sent - _CLOCKS_DIFFER_SECONDS)
            if not rows or not page.get("has_more") or _created(rows[-1]) < sent - _CLOCKS_DIFFER_SECONDS:
                return
            cursor = f"&{after}={quote(_id_of(rows[-1]), '')}"

    def _json(self, method: str, path: str, *body: Any) -> dict[str, Any]:
        """An answer that is an object; all else as `_open` says."""
        try:
            with self._open(method, path, *body) as answer:
                text = answer.read(_MOST_STATUS + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Busy(f"{self.base}: {error}") from error
        said = _object(text) if len(text) <= _MOST_STATUS else None
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
        said = (_object(text) or {}).get("error")
        message = said.get("message") if isinstance(said, dict) else None
        name = said.get("code") or said.get("type") if isinstance(said, dict) else None
        shown = f"{code} {name or ''} {message or text[:200].decode(errors='replace')}".replace("  ", " ")
        waits = float(retry_after) if retry_after and re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else 0.0
        if code == 429 or (code == 400 and _LIMITS.search(shown)):
            return Busy(shown, waits, is_refusal=True)
        if code in (408, 409) or code >= 500:
            return Busy(shown, waits)
        kind = NotKnown if code in (404, 405) else PrerequisiteError
        return kind(
            f"the batch API at {self.base}{path.partition('?')[0]} refuses: {shown[:300]}; mend that and start the "
            "same command again, what is finished is kept"
        )


class NotKnown(PrerequisiteError):
    """The server has no such path, or no such batch."""


class AnthropicAPI(BatchAPI):
    """Anthropic's dialect: no file of its own, and no metadata, so a batch is known again by its custom ids."""

    most_requests = 100_000
    most_bytes = 256_000_000

    def line(self, custom_id: str, path: str, body: bytes) -> bytes:
        """One request as a line of the input file."""
        return f'{{"custom_id":"{custom_id}","params":'.encode() + body + b"}\n"

    def upload(self, path: Path) -> str | None:
        """Nothing: the requests go with the creation."""
        return None

    def create(self, path: Path, file_id: str | None, tag: str, endpoint: str) -> str:
        """Begin the batch of an input file; its id."""
        head, tail = b'{"requests":[', b"]}"
        size = len(head) + path.stat().st_size - 1 + len(tail)
        data = _parts(head, path, tail, lines_to=b",")
        return _id_of(self._json("POST", "/messages/batches", data, size))

    def status(self, batch_id: str) -> Status:
        """How far a batch is."""
        return self._status(self._json("GET", f"/messages/batches/{quote(batch_id, '')}"))

    def _status(self, said: dict[str, Any]) -> Status:
        counts = {k: v for k, v in (said.get("request_counts") or {}).items() if isinstance(v, int)}
        total, waiting = sum(counts.values()), counts.get("processing", 0)
        # The path alone: the key goes to no other host.
        path = urlsplit(str(said.get("results_url") or "")).path
        ended = said.get("processing_status") == "ended"
        return Status(ended, (path,) if path else (), done=total - waiting, total=total)

    def find(self, tag: str, file_id: str | None, sent: float, n: int, known: set[str]) -> str | None:
        """The id of the batch whose custom ids begin with this tag; those that are not ended cannot be told yet."""
        waits = False
        for said in self._listed("/messages/batches", "after_id", sent):
            status, batch_id = self._status(said), _id_of(said)
            if status.total != n or batch_id in known:
                continue
            if not status.ended:
                waits = True
                continue
            for file in self.fetch(status.files):
                with file:
                    first = self.read(file.readline(16_000_000))
                if first is not None and first.custom_id.startswith(tag):
                    return batch_id
        if waits:
            raise NotYet("a batch of as many requests is not ended, and may be this one")
        return None

    def fetch(self, files: tuple[str, ...]) -> Iterator[IO[bytes]]:
        """The results of an ended batch, open for reading."""
        origin = urlsplit(self.base)
        for path in files:
            here = BatchAPI(f"{origin.scheme}://{origin.netloc}", self.headers)
            yield here._open("GET", path)

    def read(self, line: bytes) -> Answer | None:
        """One line of a result; None if it is none."""
        said = _object(line)
        if said is None or not isinstance(said.get("custom_id"), str):
            return None
        result = _dict(said.get("result"))
        if result.get("type") == "succeeded":
            return Answer(said["custom_id"], 200, orjson.dumps(result.get("message")))
        if result.get("type") != "errored":
            return Answer(said["custom_id"], None, b"")
        error = _dict(result.get("error"))
        inner = _dict(error.get("error")) or error
        return Answer(
            said["custom_id"], _STATUS.get(str(inner.get("type")), 500), orjson.dumps({"error": inner})
        )


_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
"""Of Anthropic's kinds of errors, the status that a live call would have got."""

APIS = {"openai": BatchAPI, "anthropic": AnthropicAPI}


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Stay)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """No answer sends a request, and the key with it, elsewhere."""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _parts(head: bytes, path: Path, tail: bytes, lines_to: bytes | None = None) -> Iterator[bytes]:
    """A body around a file; with `lines_to`, that stands in place of its line breaks, the last left out."""
    yield head
    left = path.stat().st_size - (lines_to is not None)
    with path.open("rb") as file:
        while left and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk if lines_to is None else chunk.replace(b"\n", lines_to)
    yield tail


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        said = orjson.loads(text)
    except ValueError:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return said if isinstance(said, dict) else None


def _id_of(said: dict[str, Any]) -> str:
    found = said.get("id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
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
