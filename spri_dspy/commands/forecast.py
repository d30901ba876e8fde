"""What work would take, told before anything is paid: calls, tokens and, where prices are known, dollars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.lms.budget import price_of
from spri_dspy.lms.spec import LMSpec
from spri_dspy.progress import dollars

NOTHING_DONE = "nothing was run and nothing was written"
"""The last line of every forecast."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What work would take.

    Attributes:
        headline: what is to be done, in one line.
        facts: the same as JSON fields, such as task and number of examples.
        lms: LM strings by role.
        calls: LM calls: fewest, most, and typical where it is known.
        input_tokens, output_tokens: of a typical course.
        usd: of the same; None where a price is unknown.
        share: part of the LMs' prices that is paid, less than 1 in batches.
        live_below, live_part: of waves so small that they are made live: their bound, and what part of the calls is in
            such waves at most.
    """

    headline: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    lms: Mapping[str, str]
    calls: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    usd: float | None
    share: float = 1.0
    live_below: int = 0
    live_part: float = 0.0

    @property
    def usd_in_batches(self) -> tuple[float, float] | None:
        """Dollars if all calls are made in batches, and if as many as can be are made live."""
        if self.usd is None:
            return None
        return self.usd * self.share, self.usd * (self.share + (1 - self.share) * self.live_part)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        in_batches = None if self.share == 1 else self.usd_in_batches
        return {
            **self.facts,
            "lms": dict(self.lms),
            "calls": dict(self.calls),
            "input_tokens_typical": self.input_tokens,
            "output_tokens_typical": self.output_tokens,
            "usd_typical": self.usd,
            **(
                {}
                if in_batches is None
                else {"usd_in_batches": in_batches[0], "usd_in_batches_most": in_batches[1]}
            ),
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        yield self.headline
        yield from lm_lines(self.lms)
        typical = f", typically {self.calls['typical']:,}" if "typical" in self.calls else ""
        yield f"LM calls: {self.calls['fewest']:,} to {self.calls['most']:,}{typical}"
        cost = "no known price" if self.usd is None else f"about {dollars(self.usd)}"
        yield f"tokens: about {self.input_tokens:,} in, {self.output_tokens:,} out; {cost}"
        if self.share != 1:
            least, most = self.usd_in_batches or (None, None)
            price = "no known price" if least is None else f"about {dollars(least)}"
            yield f"in batches: {price}, {self.share:.0%} of the live price; each round of calls may take a day"
            if self.live_below:
                price = "no known price" if most is None else f"about {dollars(most)}"
                yield f"waves of fewer than {self.live_below:,} requests are made live: {price} at most in all"
        yield NOTHING_DONE


def lm_lines(lms: Mapping[str, str]) -> Iterator[str]:
    """One line a role."""
    yield from (f"{role}: {lm}" for role, lm in lms.items())


def price_evenly(specs: Iterable[LMSpec]) -> tuple[float, float] | None:
    """Dollars a token in and out if the LMs share the calls evenly, as base and critic nearly do.

    None if a price is unknown.
    """
    try:
        prices = [price_of(spec) for spec in specs]
    except UsageError:
        return None
    n = max(1, len(prices))
    return sum(price for price, _ in prices) / n, sum(price for _, price in prices) / n


def cost(prices: tuple[float, float] | None, input_tokens: float, output_tokens: float) -> float | None:
    """Dollars for so many tokens, None if the price is unknown."""
    return None if prices is None else prices[0] * input_tokens + prices[1] * output_tokens
