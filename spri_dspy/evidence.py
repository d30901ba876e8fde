"""What an example leaves behind while it runs, kept apart from what it returns: a failure still has it.

    with collect("q1") as evidence:
        ...                          # predictors and loops add to `current()`
    evidence.usage, evidence.trace, evidence.flags, evidence.failure(error)

Collections nest: what an inner one collected is added to the outer one when it ends, whether it went well or not.
It knows records; it knows no program and no file.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import PurePath

from spri_dspy.records import Failure, Round, Usage
from spri_dspy.redaction import error_line, redact

_LONGEST_ANSWER, _LONGEST_CHAIN = 20_000, 8


@dataclass
class Evidence:
    """What was collected so far.

    Attributes:
        example: id of the example that runs, "" if it has none.
        usage: what calls took, by role, those of unreadable answers included.
        trace: every critique in order.
        flags: "KIND:STAGE" of answers that are not what they should be, see `records.Record`.
        failed: calls that failed: the error, the stage and the attempt.
    """

    example: str = ""
    usage: dict[str, Usage] = field(default_factory=dict)
    trace: list[Round] = field(default_factory=list)
    flags: dict[str, None] = field(default_factory=dict)
    failed: list[tuple[BaseException, str, int]] = field(default_factory=list)

    def add_usage(self, role: str, used: Usage) -> None:
        """Count what a role's calls took."""
        before = self.usage.get(role)
        self.usage[role] = used if before is None else before + used

    def failure(self, error: BaseException) -> Failure:
        """What an error says of the example that ended with it."""
        errors = _chain(error)
        calls = {id(each): (stage, attempt) for each, stage, attempt in self.failed}
        # A call that a deadline cancelled ended with an error of its own.
        cut_off = [calls[id(each)] for each, _, _ in self.failed if isinstance(each, GeneratorExit)]
        told = [calls[id(each)] for each in errors if id(each) in calls]
        stage, attempt = (*told, *reversed(cut_off), ("", 0))[0]
        answer = next((a for e in errors if isinstance(a := getattr(e, "answer", None), str)), "")
        return Failure(stage, attempt, redact(answer[:_LONGEST_ANSWER]), tuple(map(_told, errors)))


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and what it was raised from."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found and len(found) < _LONGEST_CHAIN:
        found.append(following)
        following = found[-1].__cause__ or (None if found[-1].__suppress_context__ else found[-1].__context__)
    return found


def _told(error: BaseException) -> str:
    """One line on an error, with the place in the code where it was raised; no path of this machine."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        where = f" ({PurePath(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name})"
    return error_line(error) + where


_CURRENT: ContextVar[Evidence | None] = ContextVar("spri_evidence", default=None)


def current() -> Evidence:
    """The collection that is open; one that nobody reads where none is."""
    return _CURRENT.get() or Evidence()


@contextmanager
def collect(example: str = "") -> Iterator[Evidence]:
    """Collect what happens in the block, and in every task started in it.

    Args:
        example: the id of the example that runs; that of the outer collection by default.
    """
    outer = _CURRENT.get()
    evidence = Evidence(example or (outer.example if outer else ""))
    token = _CURRENT.set(evidence)
    try:
        yield evidence
    finally:
        _CURRENT.reset(token)
        if outer is not None:
            for role, used in evidence.usage.items():
                outer.add_usage(role, used)
            outer.trace += evidence.trace
            outer.flags |= evidence.flags
            outer.failed += evidence.failed
