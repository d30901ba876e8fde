"""What one example leaves behind: frozen values that go to JSON and come back equal.

Verdict (a critic's feedback and score) -> Round (one critique of one candidate) -> Record (one finished
example) -> Score (one number about one example) -> Estimate (one number about a set, with its interval).

It knows shapes only: nothing of DSPy, files, statistics or prompts. A score that could not be read is
None here and stays None; nothing in this project turns it into a number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

SCHEMA = 2
"""Version of the record format. Readers refuse a higher one and accept every lower one. 2 added flags and failure."""

StopReason = Literal["accepted", "exhausted", "unscored"]
"""Why a critique-refine loop ended: gate reached, rounds used up, or a critic that gave no readable score."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A critic's reading of one candidate.

    Attributes:
        feedback: the critic's text, never empty for a scored verdict of a real critic.
        score: 1 to 5, or None if no score could be read.
    """

    feedback: str
    score: int | None


@dataclass(frozen=True, slots=True)
class Round:
    """One critique of one candidate.

    Attributes:
        stage: "principles" or "response".
        candidate: the text that was judged.
        verdict: what the critic said; None if the stage has no critic.
        attempt: 0 for the first sample of this critique, 1 and 2 when the critic was asked again.
    """

    stage: str
    candidate: str
    verdict: Verdict | None
    attempt: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Round:
        """Read what `dataclasses.asdict` wrote."""
        verdict = value.get("verdict")
        return cls(
            stage=value["stage"],
            candidate=value["candidate"],
            verdict=Verdict(verdict["feedback"], verdict["score"]) if verdict else None,
            attempt=value.get("attempt", 0),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and calls of one role; calls answered from the run's own cache count in `cached` only.

    Attributes:
        reused_tokens: of `input_tokens` those that the server had read before (its prefix cache), by its own word.
    """

    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reused_tokens: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Usage:
        """Read what `dataclasses.asdict` wrote."""
        return cls(
            value["calls"],
            value["cached"],
            value["input_tokens"],
            value["output_tokens"],
            value.get("reused_tokens", 0),
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.cached + other.cached,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.reused_tokens + other.reused_tokens,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Where and how an example failed.

    Attributes:
        stage: whose call failed, such as "critique_response"; "" if it was no call.
        attempt: the samples of that call that were taken before, from 0.
        answer: the raw answer that could not be read; "" if there is none.
        chain: the exception and what it was raised from, each as "Name: message (file.py:12 in function)".
    """

    stage: str = ""
    attempt: int = 0
    answer: str = ""
    chain: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Failure:
        """Read what `dataclasses.asdict` wrote."""
        chain = tuple(value.get("chain", ()))
        return cls(value.get("stage", ""), value.get("attempt", 0), value.get("answer", ""), chain)


def _fields(part: Any) -> dict[str, Any]:
    """A dataclass's fields by name; `dataclasses.asdict` also copies what is in them, which takes ten times as long."""
    return {name: getattr(part, name) for name in part.__slots__}


@dataclass(frozen=True, slots=True)
class Record:
    """One finished example of a run, whether it went well or not.

    Attributes:
        id: the example's id, unique in its run.
        inputs: the program's inputs, as given.
        outputs: what the program returned, by field name ("principles", "response", ...); empty on error.
        stop_reasons: one a stage that has a critic.
        trace: every critique in order; of a failed example those that were made.
        usage: by role ("base", "critic", "judge"), of a failed example too.
        seconds: wall-clock time from start to finish; informative only.
        group: the example's group (a dimension, a capability), if the task has groups.
        cluster: the source it shares with other examples (the instance of several answers), if any.
        labels: what is known about the example and not shown to the program (human scores, standards).
        error: "ErrorName: message" if the example failed, else None.
        flags: "truncated:STAGE" (an answer was cut off at max_tokens) and "degenerate:STAGE" (an answer repeats
            itself to its end), once a stage, retries included.
        failure: where and how the example failed, None if it did not or an older version wrote the record.
    """

    id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)
    stop_reasons: dict[str, StopReason] = field(default_factory=dict)
    trace: tuple[Round, ...] = ()
    usage: dict[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    group: str | None = None
    cluster: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    flags: tuple[str, ...] = ()
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        """True if the program finished."""
        return self.error is None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types; `from_json` gives an equal record back."""
        value = _fields(self)
        parts = {
            "trace": [
                _fields(r) | {"verdict": None if r.verdict is None else _fields(r.verdict)}
                for r in self.trace
            ],
            "usage": {role: _fields(used) for role, used in self.usage.items()},
            "failure": _fields(self.failure) if self.failure else None,
        }
        return value | parts

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        """Read a record; unknown keys, of its parts too, are ignored, so that newer minor fields do no harm."""
        known = {name: value[name] for name in cls.__slots__ if name in value}
        known["trace"] = tuple(Round.from_json(r) for r in value.get("trace", ()))
        known["usage"] = {role: Usage.from_json(u) for role, u in value.get("usage", {}).items()}
        known["flags"] = tuple(value.get("flags", ()))
        known["failure"] = Failure.from_json(value["failure"]) if value.get("failure") else None
        return cls(**known)


_SHAPES: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "inputs": dict,
    "outputs": dict,
    "stop_reasons": dict,
    "trace": list,
    "usage": dict,
    "seconds": (int, float),
    "group": (str, type(None)),
    "cluster": (str, type(None)),
    "labels": dict,
    "error": (str, type(None)),
    "flags": list,
    "failure": (dict, type(None)),
}
"""What a record's fields are in JSON, whoever wrote the line."""

_COUNTS = {"calls", "cached", "input_tokens", "output_tokens"}


def is_record(value: Any) -> bool:
    """Whether JSON is that of a record, so that `Record.from_json` reads it; a third of the time that reading takes."""
    if not isinstance(value, dict) or "id" not in value or "inputs" not in value:
        return False
    fields: dict[str, Any] = cast("dict[str, Any]", value)
    for name, part in fields.items():
        if not isinstance(part, _SHAPES.get(name, object)):
            return False
    for part in fields.get("trace", ()):
        if not isinstance(part, dict) or "stage" not in part or "candidate" not in part:
            return False
        verdict: Any = cast("dict[str, Any]", part).get("verdict")
        if verdict and not (isinstance(verdict, dict) and "feedback" in verdict and "score" in verdict):
            return False
    for used in fields.get("usage", {}).values():
        if not isinstance(used, dict) or not used.keys() >= _COUNTS:
            return False
    failure: Any = fields.get("failure") or {}
    return isinstance(failure.get("chain", []), list)


@dataclass(frozen=True, slots=True)
class Score:
    """One number about one example.

    Attributes:
        id: the example's id. Comparisons between systems are paired on it.
        value: the judge's number, None if it could not be read.
        label: the number to compare with (a human's, an oracle rubric's), None if there is none.
        group: the example's group, for macro means.
        cluster: examples of one cluster are resampled together (the four responses to one instance);
            None means the example is its own cluster.
        pair: example and prediction, for metrics over sets of them; not in JSON.
    """

    id: str
    value: float | None
    label: float | None = None
    group: str | None = None
    cluster: str | None = None
    pair: tuple[Any, Any] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "pair"}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Score:
        """Read what `to_json` wrote."""
        return cls(**{k: v for k, v in value.items() if k in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number about a set of examples, with what is needed to trust it.

    Attributes:
        name: the metric, such as "pearson".
        value: nan if it cannot be computed; `reason` then says why.
        n: examples that went in.
        dropped: examples that were asked but had no score or no label.
        low, high: the interval's ends (95 % unless the metric says otherwise), nan if none was computed.
        reason: why the value is nan, or what to know about it; None if nothing.
    """

    name: str
    value: float
    n: int
    dropped: int = 0
    low: float = math.nan
    high: float = math.nan
    reason: str | None = None

    @property
    def coverage(self) -> float:
        """Share of the examples that went in, in [0, 1]; nan if there were none."""
        asked = self.n + self.dropped
        return self.n / asked if asked else math.nan

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types; nan becomes None, which JSON can hold."""
        values = asdict(self) | {"coverage": self.coverage}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Estimate:
        """Read what `to_json` wrote; None becomes nan where a number is expected."""
        numbers = {k: math.nan if value.get(k) is None else value[k] for k in ("value", "low", "high")}
        return cls(
            value["name"], n=value["n"], dropped=value["dropped"], reason=value.get("reason"), **numbers
        )
