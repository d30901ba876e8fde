"""Anthropic's batch API on the wire: no file of its own, and no metadata.

    POST /messages/batches, GET /messages/batches/ID, GET /messages/batches/ID/results, POST /messages/batches/ID/cancel

A batch is known again by its custom ids. It knows bytes; it knows no LM and no run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import orjson

from spri_dspy.lms.batches.api import Answer, BatchAPI, NotYet, Status, id_of, json_object, parts_of


class AnthropicAPI(BatchAPI):
    """Anthropic's dialect: no file of its own, and no metadata, so a batch is known again by its custom ids."""

    path = "/messages/batches"
    has_files = False
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
        data = parts_of(head, path, tail, lines_to=b",")
        return id_of(self._json("POST", self.path, data, size))

    def _status(self, said: dict[str, Any]) -> Status:
        counts = {k: v for k, v in (said.get("request_counts") or {}).items() if isinstance(v, int)}
        done = counts.get("succeeded", 0) + counts.get("errored", 0)
        # The path alone: the key goes to no other host.
        path = urlsplit(str(said.get("results_url") or "")).path
        ended, stops = said.get("processing_status") == "ended", bool(said.get("cancel_initiated_at"))
        files = (path,) if path.startswith("/") else ()
        return Status(ended, files, cancelled=stops, done=done, total=sum(counts.values()))

    def is_ours(self, status: Status, tag: str, file_id: str | None, n: int) -> bool:
        """Whether a batch has as many requests as a run's: more is not told of it before it is ended."""
        return status.total == n

    def find(self, tag: str, file_id: str | None, sent: float, n: int, known: set[str]) -> str | None:
        """The id of the batch whose custom ids begin with this tag; those that are not ended cannot be told yet."""
        waits = False
        for said in self._listed("after_id", sent):
            status, batch_id = self._status(said), id_of(said)
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
        said = json_object(line)
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


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
