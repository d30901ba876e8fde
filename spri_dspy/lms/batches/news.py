"""What a run in batches says meanwhile: what was sent, what waits and since when, what came back."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from spri_dspy.lms.batches.store import Batch

SAY_EVERY_SECONDS = 300.0
"""How often it is said what waits."""


class News:
    """Lines about batches.

    Args:
        say: takes a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._open: dict[int, Batch] = {}
        self._done: dict[int, int] = {}
        self._said_at = time.monotonic()
        self._has_small = False

    def small_wave(self, n: int, least: int) -> None:
        """A wave is made live; said of the first one alone, as those after it are mostly small too."""
        if not self._has_small:
            self.say(
                f"a wave of {n:,} requests is made live, and so is each of fewer than live_below={least}"
            )
        self._has_small = True

    def waits(self, batch: Batch) -> None:
        """A batch is at the provider."""
        self._open[batch.number] = batch
        self.say(f"batch {batch.number}: {batch.n:,} requests to {batch.model}, id {batch.batch_id}")

    def looked(self, batch: Batch, done: int) -> None:
        """A batch is still at work; now and then a line says how many are, and since when."""
        self._done[batch.number] = done
        if time.monotonic() - self._said_at < SAY_EVERY_SECONDS:
            return
        self._said_at = time.monotonic()
        self.say(self.waiting())

    def waiting(self) -> str:
        """How many batches and requests wait, and since when."""
        n = sum(batch.n for batch in self._open.values())
        done = sum(self._done.get(number, 0) for number in self._open)
        oldest = min((batch.sent or batch.began for batch in self._open.values()), default=time.time())
        since = datetime.fromtimestamp(oldest, UTC).strftime("%Y-%m-%d %H:%M")
        minutes = (time.time() - oldest) / 60
        batches = f"{len(self._open)} batch{'' if len(self._open) == 1 else 'es'}"
        what = f"{batches}, {n:,} requests, {done:,} of them done"
        return f"waiting for {what}; the oldest since {since} UTC ({minutes:.0f} min)"

    def ended(self, batch: Batch, n_again: int) -> None:
        """A batch brought its answers."""
        took = (batch.ended or time.time()) - (batch.sent or batch.began)
        again = f", {n_again:,} to be asked again" if n_again else ""
        self.say(
            f"batch {batch.number}: {batch.answered:,} of {batch.n:,} answered in {took / 60:.1f} min{again}"
        )

    def over(self, batch: Batch) -> None:
        """Nothing of a batch is waited for any more."""
        self._open.pop(batch.number, None)
