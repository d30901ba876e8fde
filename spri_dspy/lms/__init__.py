"""Where words come from: LM strings, the roles they fill, and what each call is told about itself.

An LM string is a model as LiteLLM spells it, with options behind a question mark:

    openai/gpt-4o-mini?temperature=0.7&max_tokens=512
    hosted_vllm/prometheus-eval/prometheus-8x7b-v2.0?api_base=http://gpu-1:8000/v1&format=result_tag
    offline                       the rule-based stand-in, needs nothing (knobs: latency, fail_rate, ...)
    replay/recording.jsonl        answers from a recording only

DSPy's native client carries a call wherever it can, LiteLLM where it must. An address of one's own is
registered as a provider, which costs a third of the CPU a call. Keys come from the environment and stay there.
It knows no task and no prompt.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from spri_dspy.errors import PrerequisiteError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import dspy

    from spri_dspy.lms.client import ScopedLM

ROLES = ("base", "critic", "judge")
"""base writes and rewrites, critic gives feedback and scores inside the loops, judge scores what came out."""

DEFAULTS = {"temperature": 0.7, "max_tokens": 2048, "timeout": 120.0}
"""What an LM states when its string does not. Source: the published sampling (paper.md, section 1)."""

MAX_CHARS = 1500
"""`max_chars` of a model server of one's own: the longest text that another field follows where JSON answers are held
to a schema. Twice what 128 words take; without it a small model that writes on and on never comes to its score."""

_PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")
_NUMBERS = ("temperature", "top_p", "min_p", "timeout", *_PENALTIES)
_PRICES = ("usd_in", "usd_out")
_WHOLE = ("max_tokens", "top_k", "seed", "max_chars")
_WORDS = ("format", "route", "api_base", "api_version", "reasoning_effort", "key_env")
_KNOBS = ("latency", "jitter", "fail_rate", "unscored_rate", "garbage_rate")
CONNECTION = ("timeout", "api_base", "key_env", "route")
"""Options that say how an LM is reached, not what it answers."""

_NOT_SENT = ("format", "route", "api_base", "key_env", "max_chars", *_PRICES)
_LITELLM_ONLY = ("top_k", "min_p", "repetition_penalty")
_MODEL_SERVERS = ("hosted_vllm", "vllm", "ollama", "ollama_chat", "lm_studio", "llamafile")
_AMBIENT = ("bedrock", "sagemaker", "vertex_ai")  # their keys may come from the machine itself
FORMATS = ("chat", "json", "result_tag")
ROUTES = ("auto", "native", "litellm")

_KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
}
_OWN_ADDRESS = {
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
KEY_NAMES = tuple(sorted({name for names in _KEYS.values() for name in names} | set(_OWN_ADDRESS.values())))
"""Environment variables of the keys that are looked for; LiteLLM's other providers have more."""

_DEFAULT_ADDRESS = {"ollama": "http://localhost:11434/v1", "ollama_chat": "http://localhost:11434/v1"}


@dataclass
class Call:
    """The call in progress: set around it, read by engines that want to know, and its meter.

    Attributes:
        stage: which step of the program asks, such as "critique_principles".
        role: which role answers.
        rollout: 0 for the first sample of a prompt; grows when the same prompt is asked again.
        made, cached, input_tokens, output_tokens: counted as the call goes on, failed attempts included.
        outer: DSPy's own usage tracker, told as well.
        keys: what its finished calls are stored under, where there is a cache.
    """

    stage: str
    role: str
    rollout: int = 0
    made: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    outer: Any = None
    keys: list[str] = field(default_factory=list)

    def add_usage(self, lm: str, entry: Mapping[str, Any]) -> None:
        """Take the usage of one answer; this is the interface of DSPy's usage trackers."""
        self.made += 1
        self.input_tokens += entry.get("prompt_tokens") or 0
        self.output_tokens += entry.get("completion_tokens") or 0
        if self.outer is not None:
            self.outer.add_usage(lm, entry)


CALL: ContextVar[Call | None] = ContextVar("spri_call", default=None)


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
    def identity(self) -> str:
        """The LM without how it is reached: a server that moved does not make a run another run."""
        kept = {k: v for k, v in sorted(self.options.items()) if k not in CONNECTION}
        return str(LMSpec(self.model, kept))

    def __str__(self) -> str:
        """The string again, with any user name and password of the address left out."""
        shown = {k: _shown_addresses(v) if k == "api_base" else v for k, v in self.options.items()}
        return self.model + ("?" + "&".join(f"{k}={v}" for k, v in shown.items()) if shown else "")


def parse_lm(text: str) -> LMSpec:
    """Parse an LM string; looks at nothing but the string.

    Raises:
        UsageError: it is malformed, or has an unknown option or a value of the wrong type.
    """
    # Messages show the model and the name of an option, never a whole string: an address may hold a password.
    model, _, query = text.strip().partition("?")
    if not model or any(c.isspace() for c in model):
        raise UsageError(f"not an LM string: {model!r}; write provider/model?option=value, or offline")
    if model not in ("offline", "replay") and not all(model.partition("/")[::2]):
        raise UsageError(f"the LM {model!r} needs a provider, such as openai/gpt-4o-mini, or is offline")
    pairs = parse_qsl(query, keep_blank_values=True)
    if (query and not pairs) or not all(name.replace("-", "_").isidentifier() for name, _ in pairs):
        raise UsageError(f"the LM {model!r} needs option=value behind its question mark")
    return LMSpec(model, {name: _option(model, name, value) for name, value in pairs})


def _option(model: str, name: str, value: str) -> Any:
    if name in ("api_key", "key", "token"):
        raise UsageError(
            f"an LM string holds no keys: put yours into the environment instead of {name}= in the string"
        )
    known = (*_NUMBERS, *_WHOLE, *_WORDS, *_PRICES, *(_KNOBS if model == "offline" else ()))
    if name not in known:
        raise UnknownNameError("LM option", name, known, f"It stands in the LM string of {model!r}")
    for choice, allowed in (("format", FORMATS), ("route", ROUTES)):
        if name == choice and value not in allowed:
            raise UnknownNameError(f"{choice} of an LM", value, allowed)
    if name in _WORDS:
        return value
    try:
        number = int(value) if name in _WHOLE else float(value)
    except ValueError:
        kind = "whole number" if name in _WHOLE else "number"
        raise UsageError(f"the LM option {name}={value!r} of {model!r} must be a {kind}") from None
    lowest = 1 if name in ("max_tokens", "max_chars") else -math.inf if name in _PENALTIES else 0
    if not math.isfinite(number) or number < lowest or (name == "timeout" and not number):
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
    spec = parse_lm(text) if isinstance(text, str) else text
    if spec.prefix == "offline":
        lm = _offline(spec)
    elif spec.prefix == "replay":
        from spri_dspy.lms.replay import replay_lm

        lm = replay_lm(spec.model.partition("/")[2])
    else:
        lm = _live(spec)
    lm.spec, lm.prompt_style = spec, spec.options.get("format")
    lm.max_chars = spec.options.get("max_chars", MAX_CHARS if spec.prefix in _MODEL_SERVERS else None)
    return lm


def _is_own(spec: LMSpec) -> bool:
    return spec.prefix in _OWN_ADDRESS and (spec.prefix != "openai" or "api_base" in spec.options)


def _offline(spec: LMSpec) -> ScopedLM:
    from spri_dspy.lms.client import ScopedLM
    from spri_dspy.lms.offline import AsyncOfflineEngine, OfflineEngine

    if spec.model != "offline":
        raise UsageError(f"the offline stand-in has no models: write offline instead of {spec.model!r}")
    knobs = {k: v for k, v in spec.options.items() if k in (*_KNOBS, "seed")}
    engine = OfflineEngine(rollout=current_rollout, **knobs)
    sampling = {k: spec.options.get(k, DEFAULTS[k]) for k in ("temperature", "max_tokens")}
    return ScopedLM(
        "offline/rules",
        engine=engine,
        async_engine=AsyncOfflineEngine(engine),
        cache=False,
        num_retries=0,
        **sampling,
    )


def _live(spec: LMSpec) -> ScopedLM:
    from spri_dspy.lms.client import ScopedLM

    addresses = [a for a in str(spec.options.get("api_base", "")).split(",") if a]
    if len(addresses) > 1:
        replicas = [_live(LMSpec(spec.model, {**spec.options, "api_base": a})) for a in addresses]
        replicas[0].replicas = tuple(replicas)
        return replicas[0]
    if _is_own(spec):
        model, engine, client = _own_address(spec)
    else:
        model, engine, client = spec.model, _engine(spec), _client(spec)
    sent = {k: v for k, v in spec.options.items() if k not in _NOT_SENT}
    settings: dict[str, Any] = DEFAULTS | sent | client
    if _is_reasoning(spec.model):
        settings |= {"temperature": sent.get("temperature", 1.0), "max_tokens": sent.get("max_tokens", 16000)}
        if settings["temperature"] != 1.0:  # DSPy itself lets 0 pass, and the server then refuses every call
            raise UsageError(f"OpenAI's reasoning models take temperature=1 only; leave it out of {spec}")
    if engine == "litellm":
        import litellm  # noqa: F401 - seconds that would else count against the first call's timeout
    try:
        lm = ScopedLM(model, engine=engine, cache=False, num_retries=0, **settings)
        lm = lm if engine == "litellm" else _native(lm, spec)
    except Exception as error:
        raise UsageError(f"DSPy refuses the LM {spec}: {error}") from error
    lm.timeout = settings["timeout"]
    return lm


def _native(lm: ScopedLM, spec: LMSpec) -> ScopedLM:
    """The LM over DSPy's native client, if that can carry it; connection settings are then the client's."""
    from dspy.clients.backend_selection import CLIENT_KEYS

    from spri_dspy.lms.native import native_engines

    engines = native_engines(lm, str(spec))
    if engines is None:
        return lm
    lm.kwargs = {k: v for k, v in lm.kwargs.items() if k not in CLIENT_KEYS}
    return lm.copy(engine=engines[0], async_engine=engines[1])


def _is_reasoning(model: str) -> bool:
    from dspy.clients.lm import _is_openai_reasoning_model

    return model.startswith("openai/") and _is_openai_reasoning_model(model)


def _engine(spec: LMSpec) -> str:
    """The client that carries every option: DSPy's own drops top_k without a word, and refuses others."""
    route = spec.options.get("route", "auto")
    beyond = [name for name in _LITELLM_ONLY if name in spec.options]
    if beyond and route == "native":
        raise UsageError(f"route=native cannot carry {', '.join(beyond)}: leave route=native out of {spec}")
    return "litellm" if beyond else {"auto": "auto", "native": "lm15", "litellm": "litellm"}[route]


def _client(spec: LMSpec) -> dict[str, str]:
    """Settings of the connection to a provider, once its key is known to be there."""
    own_key = spec.options.get("key_env")
    either = (own_key,) if own_key else _KEYS.get(spec.prefix, ())
    if either and not any(os.environ.get(name) for name in either):
        raise PrerequisiteError(f"{spec.model} needs a key: set {' or '.join(either)} in the environment")
    missing = () if either else _missing_by_litellm(spec)
    if missing:
        raise PrerequisiteError(f"{spec.model} needs a key: set {' and '.join(missing)} in the environment")
    client = {"api_base": _address(spec.options["api_base"])} if "api_base" in spec.options else {}
    return client | ({"api_key": os.environ[own_key]} if own_key else {})


def _missing_by_litellm(spec: LMSpec) -> list[str]:
    """Missing variables by LiteLLM's word; loading LiteLLM takes seconds, so native providers never ask it."""
    import litellm

    providers = {getattr(p, "value", str(p)) for p in litellm.provider_list}
    if spec.prefix not in providers:
        known = [*_KEYS, *_OWN_ADDRESS, "offline", "replay"]
        raise UnknownNameError(
            "LM provider", spec.prefix, set(known), "Every provider that LiteLLM knows works too"
        )
    start = spec.prefix.partition("_")[0].upper()  # LiteLLM takes several names for a key, and tells one
    likely = (n for n in os.environ if n.startswith(start) and n.endswith(("KEY", "TOKEN")))
    if spec.prefix in _AMBIENT or any(likely):
        return []
    given = {f"{spec.prefix}_{name}".upper() for name in ("api_base", "api_version") if name in spec.options}
    return [n for n in litellm.validate_environment(spec.model).get("missing_keys", ()) if n not in given]


def _address(base: str) -> str:
    """The address if it is one.

    Raises:
        UsageError: it is no http(s) address.
    """
    try:
        parts = urlsplit(base)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        shown = base.rpartition("@")[2]
        raise UsageError(
            f"api_base must be an http(s) address such as http://localhost:8000/v1, not {shown!r}"
        )
    return base.rstrip("/")


def _own_address(spec: LMSpec) -> tuple[str, str, dict[str, Any]]:
    """Model string, engine and client settings for a server of one's own."""
    base = spec.options.get("api_base") or os.environ.get(f"{spec.prefix.upper()}_API_BASE")
    base = base or _DEFAULT_ADDRESS.get(spec.prefix, "")
    if not base:
        raise PrerequisiteError(f"{spec.model} needs its server's address: add ?api_base=http://HOST:PORT/v1")
    base = _address(base)
    if urlsplit(base).username:
        raise UsageError(
            f"an api_base holds no user name or password, write {_without_credentials(base)} and put a key into "
            f"the environment ({_OWN_ADDRESS[spec.prefix]})"
        )
    if spec.prefix.startswith("ollama") and not base.endswith("/v1"):
        base += "/v1"
    key_env = spec.options.get("key_env", _OWN_ADDRESS[spec.prefix])
    if "key_env" in spec.options and not os.environ.get(key_env):
        raise PrerequisiteError(f"{spec.model} needs a key: set {key_env} in the environment")
    if _engine(spec) == "litellm":
        key = os.environ.get(key_env) or "none"
        return f"openai/{spec.model.partition('/')[2]}", "litellm", {"api_base": base, "api_key": key}
    name = _register(base, key_env)
    return f"{name}/{spec.model.partition('/')[2]}", _engine(spec), {}


def _register(base: str, key_env: str) -> str:
    """Register an address as a provider of this process; the same address again changes nothing."""
    from dspy.lm15 import (
        AccessPolicy,
        EndpointSupport,
        ModelSupport,
        OpenAIChatCompat,
        ProviderDefinition,
        register_provider,
    )

    keyed = bool(os.environ.get(key_env))  # DSPy takes a key's name or a placeholder for it, never both
    name = "own-" + hashlib.sha256(f"{base} {key_env} {keyed}".encode()).hexdigest()[:10]
    access = AccessPolicy(
        provider=name,
        supports=EndpointSupport(complete=True, stream=True),
        auth_modes=("bearer",),
        base_url=base,
        env_keys=(key_env,) if keyed else (),
    )
    definition = ProviderDefinition.chat(
        access, compat=OpenAIChatCompat.preset("vllm"), placeholder_key=None if keyed else "none"
    )
    register_provider(definition, supports=ModelSupport(response_schema=True))
    return name


def _shown_addresses(addresses: str) -> str:
    return ",".join(_without_credentials(address) for address in addresses.split(","))


def _without_credentials(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def check_roles(lms: Mapping[str, str]) -> dict[str, LMSpec]:
    """Parse LM strings by role.

    Raises:
        UsageError: an unknown role or a malformed string.
    """
    for role in lms:
        if role not in ROLES:
            raise UnknownNameError("role", role, ROLES)
    return {role: parse_lm(text) for role, text in lms.items()}
