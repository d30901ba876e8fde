"""What `--batch` asks for: whose batch API, and how it is used.

    openai                                  the batch API of OpenAI, for LMs that start with openai/
    anthropic?discount=0.5&attempts=3       Anthropic's, with settings as in an LM string
    openai,anthropic                        each LM in that of its own provider
    http://gateway:8000/v1                  a server with OpenAI's batch endpoints, for LMs at addresses of one's own

It knows LM strings; it makes no request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.lms.spec import SERVER_KEYS, LMSpec, check_address
from spri_dspy.redaction import redact

PROVIDERS = ("openai", "anthropic")
"""Providers whose batch API is known here."""

_BY_LITELLM = ("top_k", "min_p", "repetition_penalty")


class Target(NamedTuple):
    """Where the calls of one LM go.

    Attributes:
        dialect: "openai" or "anthropic".
        url: the address of the batch API, None for the one that the LM itself is at.
    """

    dialect: str
    url: str | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How calls go into batches.

    Attributes:
        targets: "openai", "anthropic", or an address.
        discount: what part of the live price a call in a batch does not cost, from 0 to 1.
        attempts: batches that a call may fail in before it is made live, at the live price.
        window: examples that are open at most; memory grows with them by about 50 kB each.
        requests: in one batch at most, None for as many as the provider takes.
        settle: seconds without a new call after which all examples are taken to wait, and the batch is sent.
        poll: seconds before a batch is looked at for the first time; then ever more rarely, once a minute in the end.
        live_below: a wave of fewer requests than this is made live, at the live price, 0 for none.
    """

    targets: tuple[str, ...]
    discount: float = 0.5
    attempts: int = 3
    window: int = 20_000
    requests: int | None = None
    settle: float = 1.0
    poll: float = 1.0
    live_below: int = 0

    @classmethod
    def parse(cls, text: str) -> BatchSettings:
        """What the value of `--batch` says.

        Raises:
            UsageError: another provider, an unknown setting, or a value out of range.
        """
        names, _, query = text.strip().partition("?")
        targets = tuple(name.strip().rstrip("/") for name in names.split(","))
        for target in targets:
            if target not in PROVIDERS and "://" not in target:
                raise UnknownNameError("batch API", target, PROVIDERS, "Or http://HOST:PORT/v1 of a server")
            if "://" in target and redact(check_address(target, "--batch")) != target:
                raise UsageError(
                    "--batch takes an address without a password or token; keys are the LM's own"
                )
        known, given = [f.name for f in fields(cls) if f.name != "targets"], dict[str, Any]()
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in known:
                raise UnknownNameError("setting of --batch", name, known)
            given[name] = _number(name, value)
        return cls(targets, **given)

    def target_of(self, spec: Any) -> Target:
        """Where the calls of an LM go.

        Raises:
            UsageError: none of the batch APIs takes them.
        """
        if not isinstance(spec, LMSpec):
            raise UsageError("--batch takes LMs that an LM string names; leave it out for others")
        urls = [target for target in self.targets if "://" in target]
        if spec.options.get("route") == "litellm" or any(name in spec.options for name in _BY_LITELLM):
            raise UsageError(f"{spec.model} goes through LiteLLM with these options, which no batch carries")
        if spec.prefix in PROVIDERS and spec.prefix in self.targets:
            return Target(spec.prefix)
        is_own = spec.prefix in SERVER_KEYS and (spec.prefix != "openai" or spec.addresses)
        if urls and is_own:
            return Target("openai", urls[0])
        if urls and spec.prefix in PROVIDERS:
            raise UsageError(
                f"{spec.model} is at its provider's own address, and its key goes nowhere else: "
                f"--batch {spec.prefix}"
            )
        instead = "name its server's: --batch http://HOST:PORT/v1" if is_own else "leave --batch out"
        raise UsageError(f"{spec.model} has no batch API in --batch {','.join(self.targets)}; {instead}")


def check_batch(
    batch: BatchSettings | str | None, deadline: float | None, specs: Iterable[Any]
) -> BatchSettings | None:
    """The settings, once it is sure that they can be kept; nothing is written before.

    Args:
        batch: settings, what `--batch` takes, or None.
        deadline: seconds of an example's own, which goes with no batch.
        specs: parsed LM strings of the LMs that are asked.

    Raises:
        UsageError: it is wrong, there is a deadline, or an LM has no batch API here.
    """
    if batch is None:
        return None
    settings = BatchSettings.parse(batch) if isinstance(batch, str) else batch
    if deadline is not None:
        raise UsageError("--deadline: a batch may take a day, and every example would be late; leave it out")
    for spec in specs:
        settings.target_of(spec)
    return settings


def _number(name: str, value: str) -> int | float:
    is_whole = name in ("attempts", "window", "requests", "live_below")
    try:
        number = int(value) if is_whole else float(value)
    except ValueError:
        kind = "whole number" if is_whole else "number"
        raise UsageError(f"the setting {name}={value!r} of --batch must be a {kind}") from None
    usual = (1, 10**6) if is_whole else (0.01, 86_400)
    least, most = {"discount": (0, 1), "live_below": (0, 10**6)}.get(name, usual)
    if not least <= number <= most:
        raise UsageError(f"the setting {name}={value} of --batch must be from {least} to {most}")
    return number
