"""How a number is read from an example and a prediction, whatever kinds these are: DSPy's, a record's fields, a dict.

It knows names of fields and shapes of values; what the numbers come to is in `metric`.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from spri_dspy.errors import UsageError
from spri_dspy.lookup import lookup
from spri_dspy.metrics.columns import is_number


class Outputs(dict[str, Any]):
    """Fields of a prediction, as items and as attributes, like those of a dspy.Prediction."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def own_judgement(example: Any, prediction: Any) -> Any:
    """The score that a program's own response states (the rubrics task), None if it states none."""
    score = get(get(prediction, "response"), "score")
    return score if is_score(score) else None


def only_score(example: Any, prediction: Any) -> Any:
    """The number of a judge with one criterion.

    Raises:
        UsageError: it has several.
    """
    scores = get(prediction, "scores") or {}
    if len(scores) > 1:
        raise UsageError(f"the judge gives {', '.join(scores)}: say which one with read=")
    return next(iter(scores.values()), None)


def criterion(name: str) -> Callable[[Any, Any], Any]:
    """Reads one criterion of a judge."""
    return lambda example, prediction: (get(prediction, "scores") or {}).get(name)


def is_score(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number, and neither True nor False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and is_number(value)


def get(owner: Any, name: str) -> Any:
    """A field of a mapping, a prediction or a typed output; None if it has no such field."""
    return owner.get(name) if hasattr(owner, "get") else getattr(owner, name, None)


def parts_of(example: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Inputs and labels of a spri Example, a dspy.Example, or a dict (whose fields are all both)."""
    if hasattr(example, "input_values"):
        return example.input_values, example.label_values
    fields = dict(example.items())
    marked: Any = getattr(example, "_input_keys", None) or fields
    return {k: v for k, v in fields.items() if k in marked}, fields


def number_of(found: Any) -> float | None:
    """What a function of an example returned, as a number; None if it holds none that is finite."""
    score = found.get("score") if isinstance(found, Mapping) else getattr(found, "score", found)
    if score is None or isinstance(score, str):
        return None
    try:
        number = float(score)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of an example with as many of DSPy's five arguments as it takes.

    It gets trace, pred_name and pred_trace where it has places for them (the last two only where it has both), and no
    Nones that it does not ask for: a further parameter may have a default of its own.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        found = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        return function(*arguments[:2])
    taken = [p for p in found if p.kind in kinds]
    needed = sum(p.default is p.empty for p in taken)
    given = max((n for n, each in enumerate(arguments, 1) if each is not None), default=2)
    arguments = (*arguments, *[None] * (5 - len(arguments)))
    return function(*arguments[: max(needed, min(given, 5 if len(taken) >= 5 else min(len(taken), 3)))])


def scale_of(judge: Any) -> tuple[float, float] | None:
    """The scale of a judge's only criterion; 1 to 5 of a program's own judgement."""
    if judge is None:
        return 1, 5
    scales = [each.scale for each in getattr(judge, "criteria", {}).values()]
    return scales[0] if len(scales) == 1 else None


def judge_of(judge: Any, name: str) -> Any:
    """A judge as it is; a text is an LM string, for the judge of that name."""
    return (
        lookup("judge", name, "spri_dspy.judges", "judge")().set_lms(judge)
        if isinstance(judge, str)
        else judge
    )


def name_of(function: Any) -> str:
    """A function's name, or its class's."""
    return getattr(function, "__name__", type(function).__name__)


def source_of(function: Any) -> str:
    """A fingerprint of a function's text, so that another function of its name is another metric."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = f"{getattr(function, '__module__', '')}.{name_of(function)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
