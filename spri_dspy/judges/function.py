"""A judge that is a function: what it is shown by name, a number or several back, and no LM.

def length(answer):                       # spri judge RUN --judge my_judges.py:length
    return min(5, 1 + len(answer) // 200)

async def tone(post, response):           # several criteria at once; None where there is no number
    return {"warm": 3, "formal": None}
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import dspy

from spri_dspy.errors import CallError, UsageError
from spri_dspy.lookup import where_raised
from spri_dspy.runs import fingerprint


class FunctionJudge(dspy.Module):
    """Gives the numbers that a function returns.

    Args:
        function: takes what it is shown by name (the names are those of the run: instruction, answer, post, response,
            rubric, ...); a parameter with a default may stay away. Returns a number, None, or a dict of these.
        name: in records and tables.

    Attributes:
        version: the name with a hash of the function's source: another function is another judge.
        criteria: empty; the names of a dict's numbers are known when it is called.
    """

    criteria: Mapping[str, Any] = {}

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__()
        parameters = inspect.signature(function).parameters.values()
        self.function, self.name = function, name
        self.inputs = tuple(p.name for p in parameters if p.default is p.empty)
        self.optional = tuple(p.name for p in parameters if p.default is not p.empty)
        self.version = f"{name}/{fingerprint(_source(function))[:8]}"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers: the function itself."""
        return {"function": self.version}

    def set_lms(self, judge: Any) -> FunctionJudge:
        """Nothing to set, as every judge may be told its LM: a function asks none."""
        return self

    def calls(self, inputs: Mapping[str, Any]) -> int:
        """No LM is asked."""
        return 0

    def forward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Judge one answer.

        Raises:
            CallError: the function fails, or returns no number; says where.
        """
        if inspect.iscoroutinefunction(self.function):
            return asyncio.run(self.aforward(group, **inputs))
        try:
            return self._prediction(self.function(**inputs))
        except Exception as error:  # whatever is wrong in a user's function is theirs to see, in one line
            raise self._failed(error) from error

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        """Judge one answer; a function that is not asynchronous has a thread to itself."""
        try:
            if inspect.iscoroutinefunction(self.function):
                return self._prediction(await self.function(**inputs))
            return self._prediction(await asyncio.to_thread(self.function, **inputs))
        except Exception as error:  # as above
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CallError:
        return error if isinstance(error, CallError) else CallError(where_raised(error, self.function))

    def _prediction(self, returned: Any) -> dspy.Prediction:
        numbers = returned if isinstance(returned, Mapping) else {"score": returned}
        scores = {str(name): self._number(value) for name, value in numbers.items()}
        said = ", ".join(f"{name} {'?' if v is None else format(v, 'g')}" for name, v in scores.items())
        details = {name: {"value": value} for name, value in scores.items()}
        judge = {"name": self.name, "version": self.version}
        return dspy.Prediction(judgement=said, scores=scores, details=details, judge=judge, usage={})

    def _number(self, value: Any) -> float | None:
        if value is None:
            return None
        try:
            number = float(value) if not isinstance(value, str | bytes) else math.nan
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise CallError(f"the judge {self.name} must return numbers or None, not {value!r:.60}")
        return number


def is_scoring_function(made: Any) -> bool:
    """True of a function that takes what it is shown; False of a maker, whose parameters are settings with defaults."""
    if not inspect.isfunction(made):
        return False
    parameters = inspect.signature(made).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.kind in named and p.default is p.empty for p in parameters)


def check_judge(name: str, made: Any) -> Any:
    """What a maker returned, if it is a judge.

    Raises:
        UsageError: it is not.
    """
    if all(hasattr(made, attribute) for attribute in ("inputs", "acall")):
        return made
    raise UsageError(
        f"the judge {name} must return a Judge, not {type(made).__name__}; a function that scores names what it is "
        "shown: def judge(instruction, answer)"
    )


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return repr(function)
