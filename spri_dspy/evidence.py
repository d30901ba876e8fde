"""What an example leaves behind while it runs, kept apart from what it returns: a failure still has it.

    with collect() as evidence:
        ...                          # predictors and loops add to `current()`
    evidence.usage, evidence.trace

Collections nest: what an inner one collected is added to the outer one when it ends, whether it went well or not.
It knows records; it knows no program and no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from spri_dspy.records import Round, Usage


@dataclass
class Evidence:
    """What was collected so far.

    Attributes:
        usage: what calls took, by role, those of unreadable answers included.
        trace: every critique in order.
    """

    usage: dict[str, Usage] = field(default_factory=dict)
    trace: list[Round] = field(default_factory=list)

    def add_usage(self, role: str, used: Usage) -> None:
        """Count what a role's calls took."""
        self.usage[role] = self.usage.get(role, Usage()) + used


_CURRENT: ContextVar[Evidence | None] = ContextVar("spri_evidence", default=None)


def current() -> Evidence:
    """The collection that is open; one that nobody reads where none is."""
    return _CURRENT.get() or Evidence()


@contextmanager
def collect() -> Iterator[Evidence]:
    """Collect what happens in the block, and in every task started in it."""
    outer, evidence = _CURRENT.get(), Evidence()
    token = _CURRENT.set(evidence)
    try:
        yield evidence
    finally:
        _CURRENT.reset(token)
        if outer is not None:
            for role, used in evidence.usage.items():
                outer.add_usage(role, used)
            outer.trace += evidence.trace
