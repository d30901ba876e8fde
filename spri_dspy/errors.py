"""Every error that spri-dspy raises on purpose.

    SpriError
    ├── UsageError            the caller's input is wrong: one line, exit 2, nothing written
    │   ├── DataError         a row of a data file: names file, line and field
    │   ├── UnknownNameError  a name that no task, system, judge or optimiser has: carries the menu
    │   ├── RunMismatchError  a run directory made with other settings: names the fields that differ
    │   └── LeakError         evaluation inputs found among seeds or tuning data: names the pairs
    ├── BudgetSpent           --max-calls, --max-tokens or --max-usd is reached: one line, exit 4, resumable
    ├── PrerequisiteError     something outside is missing (key, server, extra): one line, exit 3
    └── CallError             one LM call that could not be finished: becomes the example's Record.error
        ├── UnreadableAnswer  the LM answered, but not in a shape that can be read
        └── ReplayMiss        the recording holds no answer for this prompt

It knows names and messages only, and takes secrets out of these. Exit codes are applied by the command line; anything
that is not a SpriError is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

from spri_dspy.redaction import redact


class SpriError(Exception):
    """Root of the tree; catch it to catch everything that is raised on purpose. Messages hold no secret."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(SpriError):
    """The caller's input is wrong. The message says what, which value, and what to do."""

    exit_code = 2


class DataError(UsageError):
    """A data file or one of its rows cannot be used."""


class UnknownNameError(UsageError):
    """A name that nothing answers to.

    Args:
        kind: what was looked up, such as "task".
        name: the name as given.
        known: the names that would have worked.
        hint: more to try, appended as it is.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        menu = ", ".join(sorted(known)) or "none"
        super().__init__(f"unknown {kind} {name!r}; known: {menu}{'. ' + hint if hint else ''}")
        self.kind, self.name = kind, name


class RunMismatchError(UsageError):
    """A run directory was made with other settings than the ones given now."""


class LeakError(UsageError):
    """Evaluation inputs are, exactly or nearly, among the seeds or the tuning data."""


class BudgetSpent(SpriError):
    """What the run may spend is spent. Finished examples are kept; a larger budget goes on."""

    exit_code = 4


class PrerequisiteError(SpriError):
    """A key, a server or an optional package is missing. The message says how to get it."""

    exit_code = 3


class CallError(SpriError):
    """One LM call could not be finished; the example it belongs to fails, the run goes on."""


class UnreadableAnswer(CallError):
    """The LM answered, but every sample was in a shape that cannot be read.

    Attributes:
        answer: the last raw completion, for the record.
    """

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message)
        self.answer = answer


class ReplayMiss(CallError):
    """The recording has no answer for this prompt. Replay never falls through to a live call."""
