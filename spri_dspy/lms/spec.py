"""Where words come from: LM strings, the roles they fill, and what each call is told about itself.

An LM string is a model as LiteLLM spells it, with options behind a question mark:

    openai/gpt-4o-mini?temperature=0.7&max_tokens=512
    hosted_vllm/prometheus-eval/prometheus-8x7b-v2.0?api_base=http://gpu-1:8000/v1&format=result_tag
    offline                       the rule-based stand-in, needs nothing (knobs: latency, unscored_rate, ...)
    replay/recording.jsonl        answers from a recording only
    gguf/models/x.gguf?n_ctx=8192 a model file on this machine, by llama.cpp (a path that ends in .gguf is enough)

Keys come from the environment and stay there. It knows no task and no prompt; `lms.making` makes the LMs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.redaction import add_secret, redact

if TYPE_CHECKING:
    import dspy

ROLES = ("base", "critic", "judge")
"""base writes and rewrites, critic gives feedback and scores inside the loops, judge scores what came out."""

DEFAULTS = {"temperature": 0.7, "max_tokens": 2048, "timeout": 120.0}
"""What an LM states when its string does not. Source: the published sampling (paper.md, section 1)."""

MAX_CHARS = 1500
"""`max_chars` of a model server of one's own: the longest text that another field follows where JSON answers are held
to a schema. Twice what 128 words take; without it a small model that writes on and on never comes to its score."""

_PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")
_NUMBERS = ("temperature", "top_p", "min_p", "timeout", "max_body", *_PENALTIES)
PRICES = ("usd_in", "usd_out")
"""Options that state dollars per million tokens."""

_WHOLE = ("max_tokens", "top_k", "seed", "max_chars")
_WORDS = ("format", "route", "api_base", "api_version", "reasoning_effort", "key_env")
KNOBS = ("latency", "unscored_rate", "garbage_rate")
"""Options of the offline stand-in alone."""

LOCAL = ("n_ctx", "n_threads", "slots")
"""Options of a GGUF file alone: tokens of a prompt with its answer, threads, and calls at the same time."""

CONNECTION = ("timeout", "api_base", "key_env", "route", "max_body", "n_threads", "slots")
"""Options that say how an LM is reached, not what it answers."""

FORMATS = ("chat", "json", "result_tag")
ROUTES = ("auto", "native", "litellm")

PROVIDER_KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
}
"""Environment variables that may hold a provider's key."""

SERVER_KEYS = {
    "hosted_vllm": "HOSTED_VLLM_API_KEY",
    "vllm": "HOSTED_VLLM_API_KEY",
    "openai": "OPENAI_API_KEY",
    "openai_like": "OPENAI_LIKE_API_KEY",
    "ollama": "OLLAMA_API_KEY",
    "ollama_chat": "OLLAMA_API_KEY",
    "lm_studio": "LM_STUDIO_API_KEY",
    "llamafile": "LLAMAFILE_API_KEY",
    "litellm_proxy": "LITELLM_PROXY_API_KEY",
}
"""Environment variable of the key of a server at an address of one's own, which may have none."""

KEY_NAMES = tuple(
    sorted({name for names in PROVIDER_KEYS.values() for name in names} | set(SERVER_KEYS.values()))
)
"""Environment variables of the keys that are looked for; LiteLLM's other providers have more."""


@dataclass
class Call:
    """The call in progress: set around it, read by engines that want to know, and its meter.

    Attributes:
        stage: which step of the program asks, such as "critique_principles".
        role: which role answers.
        rollout: 0 for the first sample of a prompt; grows when the same prompt is asked again.
        made, cached, input_tokens, output_tokens, reused_tokens: counted as the call goes on, failed attempts included;
            see `records.Usage`.
        outer: DSPy's own usage tracker, told as well.
        keys: what its finished calls are stored under, where there is a cache.
        example: id of the example that it is for, "" if there is none.
        answer: the raw text of its last answer, None before there is one.
        finish_reason: why that answer ended, "length" if it was cut off at max_tokens; None if nobody said.
    """

    stage: str
    role: str
    rollout: int = 0
    made: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reused_tokens: int = 0
    outer: Any = None
    keys: list[str] = field(default_factory=list)
    example: str = ""
    answer: str | None = None
    finish_reason: str | None = None

    def __str__(self) -> str:
        """Where in a run it stands, for log lines."""
        example = f"example {self.example!r}, " if self.example else ""
        return f"{example}{self.stage or 'a call'}" + (f", sample {self.rollout + 1}" if self.rollout else "")

    def add_usage(self, lm: str, entry: Mapping[str, Any]) -> None:
        """Take the usage of one answer; this is the interface of DSPy's usage trackers."""
        self.made += 1
        self.input_tokens += entry.get("prompt_tokens") or 0
        self.output_tokens += entry.get("completion_tokens") or 0
        self.reused_tokens += (entry.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        if self.outer is not None:
            self.outer.add_usage(lm, entry)


CALL: ContextVar[Call | None] = ContextVar("spri_call", default=None)


def note_finish(reason: Any) -> bool:
    """Note why the answer of the call in progress ended; False if no call is, and nobody will say so."""
    call = CALL.get()
    if call is not None and reason is not None:
        call.finish_reason = str(reason)
    return call is not None


def current_rollout() -> int:
    """The rollout of the call in progress, 0 outside of one."""
    call = CALL.get()
    return call.rollout if call else 0


@dataclass(frozen=True)
class LMSpec:
    """A parsed LM string.

    Attributes:
        model: the model without options, such as "openai/gpt-4o-mini".
        options: typed option values as given; defaults are not filled in.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """The provider part of the model."""
        return self.model.split("/", 1)[0]

    @property
    def path(self) -> Path:
        """The file of a GGUF model."""
        return Path(self.model.partition("/")[2]).expanduser()

    @property
    def identity(self) -> str:
        """The LM without how it is reached: a server that moved does not make a run another run.

        Of a GGUF file its name and a hash of its bytes: another file of the same name is another model.

        Raises:
            DataError: there is no such file.
        """
        kept = {k: v for k, v in sorted(self.options.items()) if k not in CONNECTION}
        if self.prefix != "gguf":
            return str(LMSpec(self.model, kept))
        from spri_dspy.lms.gguf import gguf_fingerprint

        return str(LMSpec(f"gguf/{self.path.name}@{gguf_fingerprint(self.path)}", kept))

    @property
    def portable(self) -> str:
        """The string without the folder of a GGUF file, for what other people may read."""
        return str(LMSpec(f"gguf/{self.path.name}", self.options) if self.prefix == "gguf" else self)

    @property
    def addresses(self) -> list[str]:
        """The addresses of its servers, none for a provider's own."""
        return [a.strip() for a in str(self.options.get("api_base", "")).split(",") if a.strip()]

    def __str__(self) -> str:
        """The string again; a token in the path of an address is left out."""
        options = "&".join(f"{name}={value}" for name, value in self.options.items())
        return redact(f"{self.model}?{options}" if options else self.model)


def parse_lm(text: str) -> LMSpec:
    """Parse an LM string; looks at nothing but the string.

    Raises:
        UsageError: it is malformed, or has an unknown option or a value of the wrong type.
    """
    # Messages show the model and the name of an option, never a whole string: an address may hold a password.
    model, _, query = text.strip().partition("?")
    if model.lower().endswith(".gguf") and model.partition("/")[0] not in (
        *PROVIDER_KEYS,
        *SERVER_KEYS,
        "gguf",
    ):
        model = f"gguf/{model}"
    if not model or (any(c.isspace() for c in model) and not model.startswith("gguf/")):
        raise UsageError(f"not an LM string: {model!r}; write provider/model?option=value, or offline")
    if model not in ("offline", "replay") and not all(model.partition("/")[::2]):
        raise UsageError(f"the LM {model!r} needs a provider, such as openai/gpt-4o-mini, or is offline")
    pairs = parse_qsl(query, keep_blank_values=True)
    if (query and not pairs) or not all(name.replace("-", "_").isidentifier() for name, _ in pairs):
        raise UsageError(f"the LM {model!r} needs option=value behind its question mark")
    return LMSpec(model, {name: _option(model, name, value) for name, value in pairs})


def _known_options(model: str) -> tuple[str, ...]:
    if model.startswith("gguf/"):
        return (*_NUMBERS, *_WHOLE, "format", *LOCAL)
    return (*_NUMBERS, *_WHOLE, *_WORDS, *PRICES, *(KNOBS if model == "offline" else ()))


def _option(model: str, name: str, value: str) -> Any:
    if name in ("api_key", "key", "token"):
        raise UsageError(
            f"an LM string holds no keys: put yours into the environment instead of {name}= in the string"
        )
    if name not in _known_options(model):
        raise UnknownNameError(
            "LM option", name, _known_options(model), f"It stands in the LM string of {model!r}"
        )
    for choice, allowed in (("format", FORMATS), ("route", ROUTES)):
        if name == choice and value not in allowed:
            raise UnknownNameError(f"{choice} of an LM", value, allowed)
    if name == "api_base":
        for address in value.split(","):
            check_address(address.strip())
    if name in _WORDS:
        return value
    try:
        number = int(value) if name in (*_WHOLE, *LOCAL) else float(value)
    except ValueError:
        kind = "whole number" if name in (*_WHOLE, *LOCAL) else "number"
        raise UsageError(f"the LM option {name}={value!r} of {model!r} must be a {kind}") from None
    lowest = 1 if name in ("max_tokens", "max_chars", *LOCAL) else -math.inf if name in _PENALTIES else 0
    if not math.isfinite(number) or number < lowest or (name in ("timeout", "max_body") and not number):
        raise UsageError(f"the LM option {name}={value!r} of {model!r} is out of range")
    return number


def load_lm(text: str | LMSpec | dspy.LM) -> dspy.LM:
    """Make the LM that a string names, ready to call; nothing is sent.

    The result has three more attributes: `spec` (LMSpec), `prompt_style` (a name in `adapters.STYLES`, or None) and
    `max_chars` (see MAX_CHARS; None sends no bound, because OpenAI may refuse a schema that has one).
    DSPy's own cache and retries are off: a run keeps its own cache, and `RolePredict` retries.

    Raises:
        UsageError: the string is malformed or names an unknown provider.
        PrerequisiteError: a key or an address is missing; it names the environment variable.
    """
    if not isinstance(text, str | LMSpec):
        return text
    from spri_dspy.lms.factory import (
        make_lm,  # not before: it takes DSPy, which a look at the help does not need
    )

    return make_lm(parse_lm(text) if isinstance(text, str) else text)


def check_address(address: str, name: str = "api_base") -> str:
    """The address without a slash at its end; what looks like a token in its path is kept out of texts from now on.

    Args:
        address: what was given.
        name: of the option that it was given for.

    Raises:
        UsageError: it is no http(s) address, or holds more than a host, a port and a path.
    """
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address, parts = False, urlsplit("")
    shown = redact(re.split("[?#]", address.rpartition("@")[2])[0])
    if not is_address:
        raise UsageError(f"{name} must be an http(s) address such as http://localhost:8000/v1, not {shown!r}")
    if re.search("[@?#]", address):
        raise UsageError(
            f"{name} is an address alone, without user name, password or query: leave out what is before or after "
            f"{shown!r}, put a key into the environment and name its variable: key_env=NAME"
        )
    for part in parts.path.split("/"):
        if len(part) >= 20 and part.isascii() and not (part.isalpha() or part.isdigit()):
            add_secret(part)
    return address.rstrip("/")


def check_roles(lms: Mapping[str, str]) -> dict[str, LMSpec]:
    """Parse LM strings by role.

    Raises:
        UsageError: an unknown role or a malformed string.
    """
    for role in lms:
        if role not in ROLES:
            raise UnknownNameError("role", role, ROLES)
    return {role: parse_lm(text) for role, text in lms.items()}


def check_offline_roles(specs: Mapping[str, LMSpec], named: str = "--lm ROLE=PROVIDER/MODEL") -> None:
    """Refuse to let the offline LM score what a real one is paid for.

    Only a real base is looked at: answers of the offline base may be scored by anything. A replayed run is real.

    Args:
        specs: the LMs that will be asked, by role, defaults filled in.
        named: how the caller names an LM, for the message.

    Raises:
        UsageError: the base is real, and its critic or its judge is the offline LM.
    """
    base = specs.get("base")
    offline = [role for role in ("critic", "judge") if role in specs and specs[role].prefix == "offline"]
    if base is not None and base.prefix != "offline" and offline:
        name = " and ".join(offline)
        raise UsageError(
            f"the {name} would be the offline LM, whose scores say nothing about {base.model}: pass "
            + " ".join(named.replace("ROLE", role) for role in offline)
        )
