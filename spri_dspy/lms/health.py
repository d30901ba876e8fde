"""How one address of a model does: how busy it is, and whether it is better left alone for a while.

An address that fails several times in a row rests, longer each time; after a rest a single call finds out how it is.
It knows outcomes and the clock that nobody can set; no call and no LM.
"""

from __future__ import annotations

import time
from typing import Any

from dspy.utils.exceptions import LMError

from spri_dspy.lms.failures import no_connection

ILL_AFTER, FIRST_REST, LONGEST_REST = 3, 2.0, 60.0
"""Failures in a row after which an address rests, and for how many seconds: doubled with each more, up to the last."""

UNREACHABLE_AFTER = 3
"""Failed rounds of connecting after which an address that never answered is taken for a wrong one."""

_ILL = ("LMTransportError", "LMServerError", "LMTimeoutError")


class Health:
    """The state of one address.

    Attributes:
        open: calls that stand in its line or are under way.
        failures: in a row, up to now.
        rests_until: when the present or last rest ends, by the monotonic clock.
        is_unfit: it refused a call in a way that it would refuse every call.
        unreached: times that no connection came about, calls that were tried at the same moment counted once; None
            once there was one.
    """

    unreached: int | None = 0

    def __init__(self) -> None:
        self.is_unfit = False
        self.open = self.failures = self._taken = 0
        self._fell_at = self.rests_until = self._unreached_at = float("-inf")

    def watch(self) -> Watch:
        """Count a call as open for the length of a block, and remember how it ended."""
        return Watch(self)

    def _ended(self, error: BaseException | None, began: float) -> None:
        self.open -= 1
        if error is None:
            self.failures, self.unreached = 0, None
        elif isinstance(error, Exception):
            if type(error).__name__ in _ILL or isinstance(error, TimeoutError):
                self._failed(began)
            self._reached(error, began)

    def _failed(self, began: float) -> None:
        """Count a failure in a row; calls that were under way when a rest began say nothing new."""
        if began <= self._fell_at:
            return
        self.failures += 1
        over = self.failures - ILL_AFTER
        if over >= 0:
            self._fell_at = time.monotonic()
            self.rests_until = self._fell_at + min(LONGEST_REST, FIRST_REST * 2**over)

    def _reached(self, error: Exception, began: float) -> None:
        """Count a failure to connect; an LM's error of any other kind is a sign that somebody is there."""
        if self.unreached is None:
            return
        if no_connection(error) is None:
            self.unreached = None if isinstance(error, LMError) else self.unreached
        elif began > self._unreached_at:
            self.unreached, self._unreached_at = self.unreached + 1, time.monotonic()

    @property
    def is_unreachable(self) -> bool:
        """Whether it never answered, and no connection came about again and again."""
        return self.unreached is not None and self.unreached >= UNREACHABLE_AFTER

    def has_trouble(self, since: float) -> bool:
        """Whether it is left out, or a rest has begun since then."""
        return self.is_unfit or self._fell_at >= since

    def rank(self, now: float) -> tuple[float, int, int]:
        """The lower, the better to call: seconds to wait first, then how busy it is and was."""
        is_well = self.failures < ILL_AFTER
        if self.is_unfit:
            return float("inf"), self.open, self._taken
        wait = 0.0 if is_well else max(self.rests_until - now, 1.0 if self.open else 0.0)
        return wait, self.open, self._taken


class Watch:
    """One call of an address, from its place in line to its end."""

    __slots__ = ("_began", "_health")

    def __init__(self, health: Health) -> None:
        self._health = health

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._health.open += 1
        self._health._taken += 1

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._health._ended(error, self._began)
