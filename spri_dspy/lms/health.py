"""How one address of a model does: how busy it is, and whether it is better left alone for a while.

An address that fails several times in a row rests, longer each time; after a rest a single call finds out how it is.
It knows outcomes and the clock that nobody can set; no call and no LM.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

ILL_AFTER, FIRST_REST, LONGEST_REST = 3, 2.0, 60.0
"""Failures in a row after which an address rests, and for how many seconds: doubled with each more, up to the last."""

_ILL = ("LMTransportError", "LMServerError", "LMTimeoutError")


class Health:
    """The state of one address.

    Attributes:
        open: calls that stand in its line or are under way.
        failures: in a row, up to now.
        rests_until: when the present or last rest ends, by the monotonic clock.
        is_unfit: it refused a call in a way that it would refuse every call.
    """

    def __init__(self) -> None:
        self.is_unfit = False
        self.open = self.failures = self._taken = 0
        self._fell_at = self.rests_until = float("-inf")

    @contextmanager
    def watch(self) -> Generator[None]:
        """Count a call as open, and remember how it ended."""
        began = time.monotonic()
        self.open += 1
        self._taken += 1
        try:
            yield
        except Exception as error:
            if type(error).__name__ in _ILL or isinstance(error, TimeoutError):
                self._failed(began)
            raise
        else:
            self.failures = 0
        finally:
            self.open -= 1

    def _failed(self, began: float) -> None:
        """Count a failure in a row; calls that were under way when a rest began say nothing new."""
        if began <= self._fell_at:
            return
        self.failures += 1
        over = self.failures - ILL_AFTER
        if over >= 0:
            self._fell_at = time.monotonic()
            self.rests_until = self._fell_at + min(LONGEST_REST, FIRST_REST * 2**over)

    def fell_since(self, moment: float) -> bool:
        """Whether a rest has begun since then."""
        return self._fell_at >= moment

    def rank(self, now: float) -> tuple[float, int, int]:
        """The lower, the better to call: seconds to wait first, then how busy it is and was."""
        is_well = self.failures < ILL_AFTER
        if self.is_unfit:
            return float("inf"), self.open, self._taken
        wait = 0.0 if is_well else max(self.rests_until - now, 1.0 if self.open else 0.0)
        return wait, self.open, self._taken
