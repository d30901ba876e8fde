"""Systems: SPRI and everything that its tables compare it with, one file each, all DSPy modules.

A system is made by its file's `system(task, *, paper=False, **settings)` and is a `program.Program`: it takes the
task's inputs, has LM roles, and returns `response` (and `principles` where it has any) with usage and trace.
`load_system` finds built-in systems, installed ones (entry point group `spri_dspy.systems`) and
`path/to/file.py:NAME`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.lookup import lookup
from spri_dspy.program import Program


def load_system(name: str, task: Any, *, paper: bool = False, **settings: Any) -> Program:
    """Make the system of a name for a task.

    Args:
        name: built in, installed, or path/to/file.py:NAME.
        task: from `load_task`.
        paper: the published behaviour, faults included.
        **settings: what the system's maker takes; text values become numbers, true or false where the maker's
            default is one.

    Raises:
        UnknownNameError: no such system, or it has no such setting.
        UsageError: the system cannot do this task, or a setting's value is wrong.
    """
    make = lookup("system", name, "spri_dspy.systems", "system")
    return make(task, paper=paper, **_typed(name, make, settings))


def _typed(name: str, make: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the types of the maker's defaults."""
    known = {
        p.name: p for p in inspect.signature(make).parameters.values() if p.name not in ("task", "paper")
    }
    typed: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            raise UnknownNameError(f"setting of the system {name}", key, known)
        wanted = type(known[key].default)
        try:
            typed[key] = _READ[wanted](value) if wanted in _READ and isinstance(value, str) else value
        except (ValueError, KeyError):
            kind = "true or false" if wanted is bool else "a number"
            raise UsageError(f"the setting {key} of {name} must be {kind}, not {value!r}") from None
    return typed


_YES_OR_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_READ: dict[type, Callable[[str], Any]] = {int: int, float: float, bool: lambda v: _YES_OR_NO[v.casefold()]}
