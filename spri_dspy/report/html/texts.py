"""Text of others on its way into a page: no key, no private address, nothing that turns the reading direction.

It cleans and stores texts; escaping for HTML and for a script element is the page's business.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from spri_dspy.redaction import redact
from spri_dspy.screen import printable

LONGEST = 20_000
"""Characters of a text that a page holds, unless it is asked for all."""

ADDRESS = "[private address]"

_MADE_UP = re.compile(r"\bown-[0-9a-f]{10}\b")
"""Names of addresses of one's own, made in a process that is gone; see `lms.factory`."""

_URL = re.compile(r"(?i)\b(?:https?|wss?|grpc|ray|redis)://[^\s\"'<>()]+")
_HOST = re.compile(r"(?i)\b(?:localhost|(?:\d{1,3}\.){3}\d{1,3})(?::\d{1,5})?\b|\bhost [\w.-]+:\d{1,5}")
_PRIVATE_ENDS = (".local", ".internal", ".lan", ".intranet", ".corp", ".home", ".localdomain")


class Cleaner:
    """Makes texts of one run fit to be shown.

    Args:
        manifests: of the run and of what was judged of it; the addresses that they name are replaced everywhere.
        longest: characters of a text; None keeps all.
    """

    def __init__(self, manifests: Iterable[Mapping[str, Any]] = (), longest: int | None = LONGEST) -> None:
        named = {part for manifest in manifests for part in _addresses(manifest)}
        parts = sorted(map(re.escape, named), key=len, reverse=True)
        self._own = re.compile("|".join(parts)) if parts else None
        self.longest = longest

    def text(self, value: Any) -> str:
        """Text of a data set or a model: as it is, but for keys, the run's own addresses, and control characters."""
        text = str(value)
        if self.longest is not None and len(text) > self.longest + 200:
            text = f"{text[: self.longest]}\n[cut: {len(text):,} characters in all]"
        if self._own is not None:
            text = self._own.sub(ADDRESS, text)
        text = _MADE_UP.sub("own", redact(text.replace("\r\n", "\n")))
        return printable(text)

    def message(self, value: Any) -> str:
        """Text of a machine (an error, a setting): every private address is replaced too."""
        text = _URL.sub(lambda found: ADDRESS if is_private(found[0]) else found[0], self.text(value))
        return _HOST.sub(_host, text)


class Store:
    """Texts by number, each once: a prompt's system message stands in every call of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, text: str) -> int:
        """The number of a text."""
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number


def is_private(url: str) -> bool:
    """True for an address that only a network of one's own knows."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_ENDS)


def _host(found: re.Match[str]) -> str:
    text = found[0]
    if text[:1].isdigit():
        try:
            if ipaddress.ip_address(text.partition(":")[0]).is_global:
                return text
        except ValueError:  # a version number, such as 1.2.3.400
            return text
    return ADDRESS


def _addresses(manifest: Mapping[str, Any]) -> Iterable[str]:
    """The addresses in a manifest's LM strings: whole, and as host:port."""
    lms = manifest.get("lms")
    for text in lms.values() if isinstance(lms, Mapping) else ():
        options = dict(parse_qsl(str(text).partition("?")[2]))
        for address in filter(None, (a.strip() for a in options.get("api_base", "").split(","))):
            yield address
            host = address.rpartition("://")[2].partition("/")[0]
            if ":" in host and not host.startswith(("localhost", "127.")):
                yield host


def words(value: Any) -> str:
    """An input or an output as text: a judgement as its score and feedback, a rubric a line a field."""
    if isinstance(value, Mapping):
        if set(value) <= {"score", "feedback"} and "score" in value:
            return f"{value['score']}: {value.get('feedback', '')}"
        return "\n".join(f"{name}: {words(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(words(part) for part in value)
    return "" if value is None else str(value)
