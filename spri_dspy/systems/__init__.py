"""Systems: SPRI and everything that its tables compare it with, one file each, all DSPy modules.

A system is made by its file's `system(task, *, paper=False, **settings)` and is a `program.Program`: it takes the
task's inputs, has LM roles, states what it `sees`, and returns `response` (and `principles` where it has any) with
usage and trace. `load_system` finds built-in systems, installed ones (entry point group `spri_dspy.systems`) and
`path/to/file.py:NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from spri_dspy.errors import SpriError, UnknownNameError, UsageError
from spri_dspy.lookup import lookup, parameters_of, where_raised
from spri_dspy.program import Program, Sees


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
        UsageError: the system cannot do this task, a setting's value is wrong, or what was named makes no system.
    """
    make = lookup("system", name, "spri_dspy.systems", "system")
    if not callable(make):
        raise UsageError(
            f"{name} must be a class or a function that makes a system, not {type(make).__name__}"
        )
    typed = _typed(name, make, settings)
    parameters = parameters_of(make)
    if "paper" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        typed["paper"] = paper
    elif paper:
        raise UsageError(f"the system {name} has no published behaviour; leave --paper out")
    try:
        made = make(task, **typed)
    except SpriError:
        raise
    except Exception as error:  # whatever is wrong in a user's file is theirs to see, in one line
        raise UsageError(f"the system {name} cannot be made: {where_raised(error, make)}") from error
    if not isinstance(made, Program):
        raise UsageError(f"the system {name} must be a spri_dspy.program.Program, not {type(made).__name__}")
    return made


def view_of(program: Any) -> Sees:
    """The most that a system's criteria are made from, see `Program.sees`; one that is shown labels sees labels.

    Raises:
        UsageError: it states none of the three.
    """
    sees: Any = "labels" if getattr(program, "label_inputs", ()) else getattr(program, "sees", "input")
    if sees not in get_args(Sees):
        raise UsageError(f"what a system sees is one of {', '.join(get_args(Sees))}, not {sees!r}")
    return sees


def check_evaluable(program: Any) -> None:
    """Refuse a system that makes seeds out of labels where systems are evaluated.

    Raises:
        UsageError: it has `held_out`, the rows that must not be among its own.
    """
    if hasattr(program, "held_out"):
        raise UsageError(
            f"the system {type(program).__name__.casefold()} makes seeds from the labels of training rows and is "
            "never evaluated; run it by itself, and evaluate a system with its seeds"
        )


def _typed(name: str, make: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the types of the maker's defaults."""
    known = {
        p.name: p
        for p in parameters_of(make).values()
        if p.name not in ("task", "paper") and p.default is not p.empty
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
