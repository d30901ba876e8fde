"""What a server has done, as Prometheus reads it, and what the LM calls of one request took.

It knows statuses, seconds and tokens; it knows no program and no HTTP.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from spri_dspy.lms.spec import CALL
from spri_dspy.records import Usage
from spri_dspy.server.wire import Tokens


class Meter:
    """What a server has done since it started, as Prometheus reads it.

    Attributes:
        used: calls and tokens by role, those of requests that failed or were given up included.
    """

    BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

    def __init__(self) -> None:
        self.used: dict[str, Usage] = {}
        self.typical_seconds = 1.0
        self._statuses: Counter[int] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def count(self, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._statuses[status] += 1
        if status == 200:
            self._seconds += seconds
            self._buckets[next((most for most in self.BUCKETS if seconds <= most), math.inf)] += 1
            self.typical_seconds += (seconds - self.typical_seconds) / 8

    def text(self, in_flight: int, waiting: int) -> str:
        """All counts in Prometheus's text format."""
        return "\n".join(self._lines(in_flight, waiting)) + "\n"

    def _lines(self, in_flight: int, waiting: int) -> Iterator[str]:
        yield "# HELP spri_requests_total Chat requests by status; 499 is a client that left."
        yield "# TYPE spri_requests_total counter"
        for status, n in sorted(self._statuses.items()):
            yield f'spri_requests_total{{status="{status}"}} {n}'
        yield "# HELP spri_requests_in_flight Requests that are worked on."
        yield "# TYPE spri_requests_in_flight gauge"
        yield f"spri_requests_in_flight {in_flight}"
        yield "# HELP spri_requests_waiting Requests that wait for a place."
        yield "# TYPE spri_requests_waiting gauge"
        yield f"spri_requests_waiting {waiting}"
        yield "# HELP spri_request_seconds From arrival to the end of the answer, of those that got one."
        yield "# TYPE spri_request_seconds histogram"
        total = 0
        for most in (*self.BUCKETS, math.inf):
            total += self._buckets[most]
            shown = "+Inf" if most == math.inf else f"{most:g}"
            yield f'spri_request_seconds_bucket{{le="{shown}"}} {total}'
        yield f"spri_request_seconds_sum {self._seconds:.6f}"
        yield f"spri_request_seconds_count {total}"
        yield "# HELP spri_lm_calls_total LM calls that were answered, by role."
        yield "# TYPE spri_lm_calls_total counter"
        for role, used in sorted(self.used.items()):
            yield f'spri_lm_calls_total{{role="{role}"}} {used.calls}'
        yield "# HELP spri_lm_tokens_total Tokens of LM calls, by role and direction."
        yield "# TYPE spri_lm_tokens_total counter"
        for role, used in sorted(self.used.items()):
            yield f'spri_lm_tokens_total{{role="{role}",direction="input"}} {used.input_tokens}'
            yield f'spri_lm_tokens_total{{role="{role}",direction="output"}} {used.output_tokens}'


class Tally:
    """DSPy's usage tracker of one request; what it takes is counted for the server too.

    Attributes:
        used: calls and tokens by role.
    """

    def __init__(self, meter: Meter) -> None:
        self.used: dict[str, Usage] = {}
        self._meter = meter

    def add_usage(self, lm: str, entry: Mapping[str, Any]) -> None:
        """Take the usage of one answer."""
        call = CALL.get()
        role = call.role if call else "base"
        took = Usage(1, 0, entry.get("prompt_tokens") or 0, entry.get("completion_tokens") or 0)
        for used in (self.used, self._meter.used):
            used[role] = used.get(role, Usage()) + took

    @property
    def tokens(self) -> Tokens:
        """Tokens of all roles together."""
        total = sum(self.used.values(), Usage())
        both = total.input_tokens + total.output_tokens
        return Tokens(
            prompt_tokens=total.input_tokens, completion_tokens=total.output_tokens, total_tokens=both
        )
