"""What a run's manifest says: written in one way for every command. It knows LM strings and files, and no task."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spri_dspy.lms.spec import LMSpec
from spri_dspy.runs import INFORMATIVE, file_fingerprint, fingerprint

PACKAGES = ("spri-dspy", "dspy", "litellm", "datasets", "scipy")
"""Packages whose version shapes results."""


def make_manifest(specs: Mapping[str, LMSpec], **fields: Any) -> dict[str, Any]:
    """A manifest: the fields given, and the LMs by role.

    Args:
        specs: LMs by role, as they are asked.
        **fields: what is asked beside LMs, as plain JSON types.
    """
    return {
        **fields,
        "models": {role: spec.identity for role, spec in specs.items()},
        "lms": {role: spec.portable for role, spec in specs.items()},
        "versions": versions(),
    }


def identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run this run: a manifest without its informative fields."""
    return {name: value for name, value in manifest.items() if name not in INFORMATIVE}


def folder_name(name: str, manifest: Mapping[str, Any]) -> str:
    """A directory's name: what it holds, as far as a name may say it, and a hash of all that decides it."""
    spoken = re.sub(r"[^\w.=-]+", "-", name).strip("-.")[:60]
    return f"{spoken}-{fingerprint(identity(manifest))[:8]}"


def short_name(name: str) -> str:
    """The name of a task, a system or an optimizer as a folder's name says it: of `path/to/file.py:NAME` file-NAME."""
    path, colon, inside = name.rpartition(":")
    return f"{Path(path).stem}-{inside}" if colon else Path(name).stem if "/" in name else name


def versions(*more: str) -> dict[str, str]:
    """Versions of Python, of PACKAGES, and of these packages too."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def source_fingerprint(source: str) -> str:
    """What tells a data source from others: its content, or the name of a data set of the hub.

    Raises:
        DataError: it is a pipe or the like, which could not be read a second time.
    """
    if not source.startswith("hf:"):
        return file_fingerprint(source)
    name, _, split = source.removeprefix("hf:").partition(":")
    if not Path(name).is_dir():
        return source
    files = sorted(p for p in Path(name).rglob("*") if p.is_file() and not p.name.startswith("."))
    return fingerprint([split, [(str(p.relative_to(name)), file_fingerprint(p)) for p in files]])
