"""Keys, passwords and tokens leave no trace: one redaction for every text that is shown, logged, written or raised.

    add_secret(os.environ["OPENAI_API_KEY"])       # `load_lm` does so for every key that it finds
    redact("Incorrect API key provided: sk-...")   # "Incorrect API key provided: [redacted]"

Known secrets are found wherever they stand; what looks like one (an Authorization header, credentials or a token in an
address, `sk-...`) is found by its shape. All of it takes time linear in the text. Names that this package made up for
itself are replaced in the same texts by those that the user gave. It knows no LM and no file.
"""

from __future__ import annotations

import json
import logging
import os
import re
from urllib.parse import quote

MARK = "[redacted]"

LEAST = 6
"""Characters of a secret at least: what is shorter would be found in ordinary words."""

_PLACEHOLDERS = {"ollama", "lm-studio", "not-needed", "no-key-required", "placeholder", "anything"}
"""What people give a server that wants some key and takes any."""

_SECRET_NAME = re.compile(r"(?:API_?KEY|ACCESS_?KEY|SECRET_?KEY|TOKEN|SECRET|PASSWORD)$", re.I)

_SHAPES = re.compile(
    r"""
      (?P<address> ://) [^\s/?\#]* @  # user:password@
    | (?P<query> [?&;] (?:api[-_]?key|key|access[-_]?token|token|auth|secret|password|sig|signature) =)
      [^\s&\#"'<>]+
    | (?P<header> \b (?:proxy-)?authorization ["']? \s* [:=] \s* ["']? (?:\w+\ +)?
                | \b (?:x-|x-goog-)?api[-_]key ["']? \s* [:=] \s* ["']?
                | \b (?:set-)?cookie ["']? \s* : \s* ["']?
                | \b bearer \s+ (?=[^\s"',;<>]{16}|[^\s"',;<>\d]{0,15}\d) )
      [^\s"',;<>]{6,}
    | \b (?:sk-|sk_|rk_|pk_|gsk_|xai-|hf_|pplx-|nvapi-|r8_|ghp_|github_pat_|AIza) [\w-]{8,}
    """,
    re.VERBOSE | re.IGNORECASE,
)

_known: dict[str, str] = {}
"""Patterns of the secrets, by secret."""

_finder: re.Pattern[str] | None = None


def add_secret(value: str) -> None:
    """Register a secret, to be found as it is, escaped, and with its line breaks in any form.

    Args:
        value: ignored below LEAST characters, and if it is a well-known placeholder.
    """
    global _finder
    parts = [part for part in value.split() if len(part) >= LEAST and part.casefold() not in _PLACEHOLDERS]
    if value in _known or not parts:
        return
    forms = dict.fromkeys(
        form for p in parts for form in (p, repr(p)[1:-1], json.dumps(p)[1:-1], quote(p, ""))
    )
    whole = r"(?:\s|\\[nrt])+".join(map(re.escape, value.split()))
    _known[value] = "|".join([whole, *map(re.escape, forms)])
    # Longest first: a secret may begin with another one.
    _finder = re.compile("|".join(sorted(_known.values(), key=len, reverse=True)))


def add_environment() -> None:
    """Register the values of all environment variables that are named like a key, a token or a password.

    A short value of letters alone, or of digits alone, is taken for a setting.
    """
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and (len(value) >= 16 or not (value.isalpha() or value.isdigit())):
            add_secret(value)


_made_up: dict[str, str] = {}
"""The user's names for ours."""


def add_made_up(name: str, users: str) -> None:
    """Register a name that no user has seen, and what the user calls the same thing."""
    _made_up[name] = users


def redact(text: str) -> str:
    """The text with every known secret, and all that looks like one, replaced by MARK; made-up names are the user's."""
    if _finder is not None:
        text = _finder.sub(MARK, text)
    for name, users in _made_up.items():
        text = text.replace(name, users)
    return _SHAPES.sub(_marked, text)


def _marked(found: re.Match[str]) -> str:
    kept = found["address"] or found["query"] or found["header"] or ""
    return kept + MARK + ("@" if found["address"] else "")


def scrub(error: BaseException) -> None:
    """Redact an exception and all that it was raised from, in place, so that its traceback can be shown."""
    seen, line = set[int](), [error]
    while line:
        each = line.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.args = tuple(redact(a) if isinstance(a, str) else a for a in each.args)
        held = vars(each)
        held.update({name: redact(value) for name, value in held.items() if isinstance(value, str)})
        line += [e for e in (each.__cause__, each.__context__) if e is not None]


def error_line(error: BaseException, longest: int = 300) -> str:
    """Name and first line of an error, redacted and short: an LM's error may hold a whole prompt, or a key."""
    lines = redact(str(getattr(error, "message", None) or error)).strip().splitlines() or [""]
    said = lines[0][:longest].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class RedactingFormatter(logging.Formatter):
    """Formats a log record, traceback included, and redacts what comes out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line to log."""
        return redact(super().format(record))
