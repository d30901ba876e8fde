"""What a server may answer, whichever client carries the call: so many bytes, to the address that was asked, readable.

    cap        a body ends the call when it is longer than `max_body`, counted as it is decoded, so that an endless or a
               compressed one costs no memory
    redirects  a call is never sent elsewhere: the key and the prompt would go with it
    sound      numbers that cannot be read (usage, logprobs) are missing numbers and cost no answer; an error that calls
               itself 200 is an error

It knows bytes and the JSON of chat completions; no connection and no LM.
"""

from __future__ import annotations

import json
import math
import zlib
from contextvars import ContextVar
from typing import Any

import orjson

from spri_dspy.errors import CallError, UsageError

MAX_BODY_MB = 16.0
"""`max_body` of an LM whose string states none, in megabytes."""

MAX_BODY: ContextVar[float] = ContextVar("spri_max_body", default=MAX_BODY_MB)
"""The cap of the call in progress, in megabytes."""

_CODINGS = {"gzip", "x-gzip", "deflate"}


class Body:
    """A body as it comes in; use it once.

    Args:
        encoding: the Content-Encoding header, "" if there is none.
        max_body: the cap in megabytes; that of the call in progress by default.

    Raises:
        CallError: the encoding is none that is known here.
    """

    def __init__(self, encoding: str, max_body: float | None = None) -> None:
        codings = [
            c for c in (part.strip().lower() for part in encoding.split(",")) if c not in ("", "identity")
        ]
        if unknown := sorted({*codings} - _CODINGS):
            raise CallError(f"the server's answer is encoded as {', '.join(unknown)}, which nobody asked for")
        self._layers = [_inflater() for _ in codings]
        self._most = int((max_body or MAX_BODY.get()) * 1_000_000)
        self._received = self._decoded = 0

    def feed(self, data: bytes) -> bytes:
        """The next bytes, decoded.

        Raises:
            CallError: the body is too long, or not encoded as it says.
        """
        self._received += len(data)
        for number, layer in enumerate(self._layers):
            data = self._inflate(number, layer, data)
        self._decoded += len(data)
        # Some frames are longer than what they hold: a chunk of one byte takes six.
        self._check(max(self._decoded, self._received // 8))
        return data

    def _inflate(self, number: int, layer: Any, data: bytes) -> bytes:
        try:
            found = layer.decompress(data, self._most + 1)
            self._check(len(found))
            while layer.eof and layer.unused_data.strip(b"\0"):  # gzip allows several members
                data, layer = layer.unused_data, _inflater()
                self._layers[number] = layer
                found += layer.decompress(data, self._most + 1)
                self._check(len(found))
        except zlib.error as error:
            raise CallError(f"the server's answer is not encoded as it says: {error}") from None
        return found

    def _check(self, length: int) -> None:
        if length > self._most:
            raise CallError(
                f"the server's answer is longer than {self._most / 1e6:g} MB; if that is right, allow more in the LM "
                f"string: max_body={math.ceil(2 * self._most / 1e6)}"
            )


def _inflater() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes


REDIRECTS = (301, 302, 303, 307, 308)
"""Statuses that send a request elsewhere."""


def refuse_redirect(status: int, location: str) -> None:
    """Let no answer send a call elsewhere.

    Raises:
        UsageError: this one does, and so would every other; it names where to.
    """
    if status in REDIRECTS:
        raise UsageError(
            f"the server sends calls elsewhere ({status} to {location[:200]!r}), which is not followed: write that "
            "address into api_base if it is right"
        )


def sound(status: int, body: bytes) -> tuple[int, bytes]:
    """An answer that costs no call: without numbers that cannot be read, and with the status that its error has."""
    if status != 200:
        return status, body
    try:
        answer = orjson.loads(body)
    except ValueError:  # NaN, half a surrogate pair, or no JSON at all
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return status, body
    if not isinstance(answer, dict):
        return status, body
    if answer.get("error") and not (
        answer.get("choices") or answer.get("content") or answer.get("candidates")
    ):
        return _error(answer["error"])
    changed = False
    for name in ("usage", "usageMetadata"):
        if answer.get(name) is not None and (mended := _usage(answer[name])) != answer[name]:
            answer[name], changed = mended, True
    for choice in answer["choices"] if isinstance(answer.get("choices"), list) else ():
        found = choice.get("logprobs") if isinstance(choice, dict) else None
        if found is not None and (mended := _logprobs(found)) != found:
            choice["logprobs"], changed = mended, True
    return status, json.dumps(answer).encode() if changed else body


def _error(error: Any) -> tuple[int, bytes]:
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        error = {"message": error if isinstance(error, str) else json.dumps(error)}
    return status, json.dumps({"error": error}).encode()


def _usage(usage: Any) -> dict[str, Any] | None:
    """The counts of tokens that are counts; all else as it is."""
    if not isinstance(usage, dict):
        return None
    kept: dict[str, Any] = {}
    for name, value in usage.items():
        if name.lower().endswith("details") and isinstance(value, dict):
            kept[name] = _usage(value)
        elif (
            not name.lower().endswith(("tokens", "tokencount", "details"))
            or value is None
            or _is_count(value)
        ):
            kept[name] = value
    return kept


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _logprobs(value: Any) -> dict[str, Any] | None:
    tokens = _tokens(value.get("content")) if isinstance(value, dict) else []
    return value | {"content": tokens} if tokens else None


def _tokens(entries: Any) -> list[dict[str, Any]]:
    """The tokens that have a text and the logarithm of a probability, each with those of its alternatives that do."""
    kept: list[dict[str, Any]] = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
            continue
        logprob, shown = entry.get("logprob"), entry.get("bytes")
        if not isinstance(logprob, int | float) or not math.isfinite(logprob):
            continue
        if shown is not None and not (isinstance(shown, list) and {*map(type, shown)} <= {int}):
            entry = entry | {"bytes": None}
        kept.append(
            entry | {"top_logprobs": _tokens(entry["top_logprobs"])} if "top_logprobs" in entry else entry
        )
    return kept
