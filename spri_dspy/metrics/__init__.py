"""Metrics: statistics of sets of scores with intervals, comparisons of systems, and `Metric`, which DSPy can call.

One metric a file, made by its `metric(**settings)`; `load_metric` finds these, installed ones (entry point group
`spri_dspy.metrics`), `path/to/file.py:NAME`, and takes any function. Nothing here imports DSPy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.lookup import lookup
from spri_dspy.metrics.judging import judge_inputs
from spri_dspy.metrics.metric import Metric

__all__ = ["Metric", "judge_inputs", "load_metric"]


def load_metric(metric: str | Metric | Callable[..., Any], **settings: Any) -> Metric:
    """A metric by its name, from a file, or of a function.

    A function is told apart by the names of what it takes:

    - `f(scores)` is over Scores (`Metric.of_scores`);
    - `f(examples, predictions)`, its second name a plural and no `trace` among them, is over a set (`Metric.of_set`);
    - every other one, such as `f(example, prediction, trace=None)` or `f(gold, pred, trace, pred_name, pred_trace)`,
      is of one example (`Metric.of_example`);
    - a function of a file that takes settings by keyword only makes a Metric.

    Args:
        metric: alignment, empathy, mix, pair_accuracy, pearson, score, an installed one, `path/to/file.py:NAME`, a
            function or any other callable; a Metric is returned as it is.
        **settings: of its maker, or of the `Metric.of_...`. A `judge` may be an LM string.

    Raises:
        UnknownNameError: no such metric, or it has no such setting.
        UsageError: a setting is wrong or missing, or the function cannot be told apart.
    """
    name = metric if isinstance(metric, str) else getattr(metric, "name", None) or repr(metric)
    found = lookup("metric", metric, "spri_dspy.metrics", "metric") if isinstance(metric, str) else metric
    if isinstance(found, Metric):
        if settings:
            raise UnknownNameError(f"setting of the metric {name}", next(iter(settings)), ())
        return found
    make = found if callable(found) and not _taken(found) else _maker(found, name)
    known = {n: p for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for setting in settings:
        if setting not in known:
            raise UnknownNameError(f"setting of the metric {name}", setting, known)
    for needed, parameter in known.items():
        if parameter.default is parameter.empty and needed not in settings:
            raise UsageError(f"the metric {name} needs a {needed}: give {needed}=")
    made = make(**settings) if make is found else make(found, **settings)
    if not isinstance(made, Metric):
        raise UsageError(f"{name} makes a {type(made).__name__}, not a Metric")
    return made


def _taken(function: Any) -> list[inspect.Parameter]:
    """What a callable takes by place."""
    try:
        found = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        raise UsageError(
            f"{function!r} does not say what it takes: use Metric.of_example, Metric.of_set or Metric.of_scores"
        ) from None
    return [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _maker(found: Any, name: str) -> Callable[..., Metric]:
    """The `Metric.of_...` for a function."""
    if not callable(found):
        raise UsageError(
            f"the metric {name} is a {type(found).__name__}: give a name, a function or a Metric"
        )
    taken = [p.name for p in _taken(found)]
    if taken[0] == "scores" or len(taken) == 1:
        return Metric.of_scores
    is_plural = taken[1].endswith("s") and not taken[1].endswith("ss")
    return Metric.of_set if is_plural and "trace" not in taken else Metric.of_example
