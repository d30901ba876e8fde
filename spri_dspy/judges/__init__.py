"""LLM judges: DSPy modules that give an answer numbers, each with a version that goes into every record.

One judge a file, made by its `judge(**settings)`. `load_judge` finds built-in judges, installed ones (entry point
group `spri_dspy.judges`) and `path/to/file.py:NAME`; `Panel` makes one judge of several.

A judge has `name`, `version`, `inputs` and `optional` (names of what it is shown), and a call that takes these inputs
and `group` and returns `scores` (criterion -> number, None where nothing readable was said) and `usage`.

A function that scores is a judge too, see `function.FunctionJudge`.

What is judged is text of others: see `prompt_fencing` for how it is kept from passing for anything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import dspy

from spri_dspy.errors import SpriError, UnknownNameError, UsageError
from spri_dspy.judges.criteria import Choice, Criterion, choice_type, make_signature
from spri_dspy.judges.function import FunctionJudge, check_judge, is_scoring_function
from spri_dspy.judges.judge import Judge
from spri_dspy.judges.panel import Panel
from spri_dspy.lookup import lookup, parameters_of, where_raised

__all__ = ["Choice", "Criterion", "Judge", "Panel", "choice_type", "load_judge", "make_signature"]

_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def load_judge(name: str, **settings: Any) -> Any:
    """The judge of a name.

    Args:
        name: reappraisal, rubric, generic, an installed one, or path/to/file.py:NAME, where NAME is a maker, a judge,
            or a function that scores.
        **settings: what the judge's maker takes by keyword (`samples`, `logprobs`, `swap`, ...; a maker with
            `**settings` takes those of `Judge`); text values get the type of the default.

    Raises:
        UnknownNameError: no such judge, or it has no such setting.
        UsageError: a setting's value is wrong, or what was named makes no judge.
    """
    made = lookup("judge", name, "spri_dspy.judges", "judge")
    if isinstance(made, dspy.Module) or is_scoring_function(made):
        if settings:
            raise UnknownNameError(f"setting of the judge {name}", next(iter(settings)), ())
        return made if isinstance(made, dspy.Module) else FunctionJudge(made, made.__name__)
    if not callable(made):
        return check_judge(name, made)
    typed = _typed(name, made, settings)
    try:
        return check_judge(name, made(**typed))
    except SpriError:
        raise
    except Exception as error:  # whatever is wrong in a user's file is theirs to see, in one line
        raise UsageError(f"the judge {name} cannot be made: {where_raised(error, made)}") from error


def _typed(name: str, make: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    known = parameters_of(make)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        known = {**parameters_of(Judge), **known}
    known = {n: p for n, p in known.items() if p.default is not inspect.Parameter.empty}
    typed: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            raise UnknownNameError(f"setting of the judge {name}", key, known)
        typed[key] = _value(name, key, value, known[key].default) if isinstance(value, str) else value
    return typed


def _value(judge: str, key: str, value: str, default: Any) -> Any:
    """A text as the type of a default; a switch may be given as a number too."""
    if isinstance(default, bool):
        if value.lower() in _WORDS:
            return _WORDS[value.lower()]
        if not value.isdecimal():
            raise UsageError(f"the setting {key} of the judge {judge} must be true or false, not {value!r}")
        return int(value)
    if not isinstance(default, int | float):
        return value
    try:
        return type(default)(value)
    except ValueError:
        raise UsageError(f"the setting {key} of the judge {judge} must be a number, not {value!r}") from None
