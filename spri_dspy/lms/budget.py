"""What a run may spend: calls, tokens, dollars.

Budget counts what finished calls cost and lets no further one begin once a limit is reached; what is in flight then
is all that can overshoot. It knows LMs by identity and token counts; no prompt and no example.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.lms.concurrency import is_refusal
from spri_dspy.lms.spec import CALL, Call, LMSpec

LIMITS = ("max_calls", "max_tokens", "max_usd")


@dataclass
class Budget:
    """What a run may spend; None is no limit. Calls answered from the cache are free.

    A call counts when it begins, so `max_calls` is kept exactly; tokens and dollars are known when it ends, so these
    may be overshot by what is in flight. A call that the server refused for being too many does not count.

    Attributes:
        max_calls, max_tokens, max_usd: the limits.
        calls, tokens, usd: spent so far. Earlier starts of a run count with their finished calls.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def __post_init__(self) -> None:
        for name in LIMITS:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {value}")

    def check(self, lms: Iterable[Any]) -> None:
        """Refuse a limit that cannot be kept, before anything is spent.

        Raises:
            UsageError: dollars are limited and the price of an LM is not known.
        """
        if self.max_usd is not None:
            for lm in lms:
                price_of(lm)

    @contextmanager
    def metered(self, lm: Any, share: float = 1.0) -> Generator[None]:
        """Let an attempt begin if a limit allows, and count what it takes, whether it succeeds or not.

        Args:
            lm: which is asked.
            share: part of its price that is paid, less than 1 in a batch.

        Raises:
            BudgetSpent: a limit is reached; nothing was begun.
        """
        self._admit()
        call = CALL.get() or Call("", "")
        tokens_in, tokens_out = call.input_tokens, call.output_tokens
        try:
            yield
        except Exception as error:
            self.calls -= is_refusal(error)
            raise
        finally:
            self._spend(lm, call.input_tokens - tokens_in, call.output_tokens - tokens_out, share)

    def _admit(self) -> None:
        if (spent := self.exhausted) is not None:
            raise spent
        self.calls += 1

    @property
    def exhausted(self) -> BudgetSpent | None:
        """The error that says which limit is reached; None while a further call may begin."""
        for name, unit in (("calls", "LM calls"), ("tokens", "tokens"), ("usd", "dollars")):
            limit, spent = getattr(self, f"max_{name}"), getattr(self, name)
            if limit is not None and spent >= limit:
                shown = f"{spent:.4f}" if name == "usd" else f"{spent:,}"
                return BudgetSpent(
                    f"the budget of {limit:,} {unit} is spent ({shown}); finished examples are kept, the same command "
                    f"with a larger --max-{name} goes on"
                )
        return None

    def resume(self, spent: Mapping[str, tuple[int, int, int]], lms: Iterable[Any]) -> None:
        """Count what earlier starts of the same run took.

        Args:
            spent: calls, input tokens and output tokens by model, from the run's cache.
            lms: the run's LMs, for their prices.
        """
        prices = {getattr(lm.spec, "model", lm.model): lm for lm in lms if hasattr(lm, "spec")}
        for model, (calls, tokens_in, tokens_out) in spent.items():
            self.calls += calls
            self._spend(prices.get(model), tokens_in, tokens_out)

    def _spend(self, lm: Any, tokens_in: int, tokens_out: int, share: float = 1.0) -> None:
        """Count tokens, and dollars where they are limited; without an LM their price is not known."""
        self.tokens += tokens_in + tokens_out
        if self.max_usd is not None and lm is not None:
            price_in, price_out = price_of(lm)
            self.usd += share * (tokens_in * price_in + tokens_out * price_out)


def price_of(lm: Any) -> tuple[float, float]:
    """Dollars a token in and out: stated in the LM string per million (usd_in, usd_out), or known to DSPy.

    Args:
        lm: an LM, or its parsed string.

    Raises:
        UsageError: the price is not known.
    """
    spec = lm if isinstance(lm, LMSpec) else getattr(lm, "spec", None)
    options = spec.options if spec else {}
    if "usd_in" in options or "usd_out" in options:
        return options.get("usd_in", 0.0) / 1e6, options.get("usd_out", 0.0) / 1e6
    model = spec.model if spec else lm.model
    if model.split("/")[0] in ("offline", "replay", "gguf"):
        return 0.0, 0.0
    from dspy.clients.model_metadata import model_info

    provider, _, name = model.partition("/")
    info = model_info(provider, name) or {}
    if "input_cost_per_token" not in info:
        raise UsageError(
            f"the price of {model} is not known; state it in its string: usd_in=0.15&usd_out=0.6"
        )
    return info["input_cost_per_token"], info.get("output_cost_per_token", 0.0)
