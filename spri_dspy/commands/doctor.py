"""What `spri doctor` looks at: Python, the packages that shape results, keys by name, and whether an LM answers.

Keys are named, their values are never read further than to see that they are set.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from spri_dspy.errors import SpriError
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.lms.spec import KEY_NAMES, LMSpec, check_roles, load_lm
from spri_dspy.redaction import error_line, redact

_PACKAGES = ("spri-dspy", "dspy", "litellm", "datasets", "scipy")


def versions() -> dict[str, str]:
    """Python and the packages that shape results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def examine(lms: Mapping[str, str]) -> dict[str, Any]:
    """What `spri doctor` finds: versions, names of keys that are set, and whether each LM answers one call."""
    return {
        "versions": versions(),
        "keys_set": sorted(name for name in KEY_NAMES if os.environ.get(name)),
        "keys_not_set": sorted(name for name in KEY_NAMES if not os.environ.get(name)),
        "lms": {
            name: _try_lm(each)
            for role, spec in ({"base": LMSpec("offline")} | check_roles(lms)).items()
            for name, each in _addresses(role, spec)
        },
    }


def _addresses(role: str, spec: LMSpec) -> Iterator[tuple[str, LMSpec]]:
    """An LM with a name for it; one at several addresses is as many."""
    if len(spec.addresses) < 2:
        yield role, spec
    else:
        for number, address in enumerate(spec.addresses, 1):
            yield f"{role} {number}", LMSpec(spec.model, {**spec.options, "api_base": address})


def _try_lm(spec: LMSpec) -> dict[str, Any]:
    text = str(spec)
    try:
        with use_scope(Scope(retry=Retry(attempts=1))):
            answer = load_lm(spec)("Answer with the one word: ready")
    except Exception as error:  # whatever is wrong with an LM is what the doctor is asked for
        return {
            "lm": text,
            "ok": False,
            "said": str(error) if isinstance(error, SpriError) else error_line(error),
        }
    first = answer[0]
    said = redact(first if isinstance(first, str) else str(first.get("text") or ""))
    return {"lm": text, "ok": bool(said.strip()), "said": " ".join(said.split())[:80] or "an empty answer"}


def flatten(findings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The doctor's findings as lines."""
    yield from findings["versions"].items()
    yield "keys set", ", ".join(findings["keys_set"]) or "none"
    yield "keys not set", ", ".join(findings["keys_not_set"]) or "none"
    for role, answer in findings["lms"].items():
        verdict = "answers" if answer["ok"] else "DOES NOT ANSWER"
        yield f"{role} LM {answer['lm']}", f"{verdict}: {answer['said']}"
