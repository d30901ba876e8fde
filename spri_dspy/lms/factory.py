"""How the LM that a parsed string names is made: its client, its key, its address.

DSPy's native client carries a call wherever it can, LiteLLM where it must. A server of one's own is registered with
DSPy as a provider. Keys come from the environment and stay there.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.clients.lm import _is_openai_reasoning_model

from spri_dspy.errors import PrerequisiteError, UnknownNameError, UsageError
from spri_dspy.lms.bodies import MAX_BODY_MB
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.native import NativeEngine, native_engines
from spri_dspy.lms.spec import (
    DEFAULTS,
    KNOBS,
    MAX_CHARS,
    PRICES,
    PROVIDER_KEYS,
    SERVER_KEYS,
    LMSpec,
    check_address,
    current_rollout,
)
from spri_dspy.redaction import add_environment, add_made_up, add_secret, redact

_NOT_SENT = ("format", "route", "api_base", "key_env", "max_chars", "max_body", *PRICES)
_LITELLM_ONLY = ("top_k", "min_p", "repetition_penalty")
_MODEL_SERVERS = ("hosted_vllm", "vllm", "ollama", "ollama_chat", "lm_studio", "llamafile", "gguf")
_AMBIENT = ("bedrock", "sagemaker", "vertex_ai")  # their keys may come from the machine itself
_DEFAULT_ADDRESS = {"ollama": "http://localhost:11434/v1", "ollama_chat": "http://localhost:11434/v1"}


def make_lm(spec: LMSpec) -> ScopedLM:
    """Make the LM that a string names; see `lms.load_lm`."""
    if spec.prefix == "offline":
        lm = _offline(spec)
    elif spec.prefix == "replay":
        from spri_dspy.lms.replay import replay_lm

        lm = replay_lm(spec.model.partition("/")[2])
    elif spec.prefix == "gguf":
        from spri_dspy.lms.llama import llama_lm

        lm = llama_lm(spec)
    else:
        add_environment()
        lm = _live(spec)
    lm.spec, lm.prompt_style = spec, spec.options.get("format", "json" if spec.prefix == "gguf" else None)
    lm.max_chars = spec.options.get("max_chars", MAX_CHARS if spec.prefix in _MODEL_SERVERS else None)
    lm.max_body = spec.options.get("max_body", MAX_BODY_MB)
    return lm


def _is_own(spec: LMSpec) -> bool:
    return spec.prefix in SERVER_KEYS and (spec.prefix != "openai" or "api_base" in spec.options)


def _offline(spec: LMSpec) -> ScopedLM:
    from spri_dspy.lms.offline import AsyncOfflineEngine, OfflineEngine

    if spec.model != "offline":
        raise UsageError(f"the offline stand-in has no models: write offline instead of {spec.model!r}")
    knobs = {k: v for k, v in spec.options.items() if k in (*KNOBS, "seed")}
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
    if len(spec.addresses) > 1:
        replicas = [_live(LMSpec(spec.model, {**spec.options, "api_base": a})) for a in spec.addresses]
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
    try:
        lm = ScopedLM(model, engine=engine, cache=False, num_retries=0, **settings)
        lm = lm if engine == "litellm" else _native(lm, spec)
    except Exception as error:
        raise UsageError(f"DSPy refuses the LM {spec}: {error}") from error
    if not isinstance(lm.engine, NativeEngine):
        from spri_dspy.lms import litellm_client  # noqa: F401 - what it takes to load counts against no call
    lm.timeout = settings["timeout"]
    base = spec.addresses[0] if spec.addresses else _stated_address(spec) if _is_own(spec) else ""
    lm.address = redact(base) or None
    return lm


def _native(lm: ScopedLM, spec: LMSpec) -> ScopedLM:
    """The LM over DSPy's native client, if that can carry it; connection settings are then the client's."""
    engines = native_engines(lm, str(spec))
    if engines is None:
        return lm
    lm.kwargs = {k: v for k, v in lm.kwargs.items() if k not in CLIENT_KEYS}
    native: ScopedLM = lm.copy(engine=engines[0], async_engine=engines[1])
    native.model = spec.model  # the engines know the way; errors, usage and history have the user's name
    return native


def _is_reasoning(model: str) -> bool:
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
    either = (own_key,) if own_key else PROVIDER_KEYS.get(spec.prefix, ())
    if either and not [name for name in either if _key(name)]:
        raise PrerequisiteError(f"{spec.model} needs a key: set {' or '.join(either)} in the environment")
    missing = () if either else _missing_by_litellm(spec)
    if missing:
        raise PrerequisiteError(f"{spec.model} needs a key: set {' and '.join(missing)} in the environment")
    client = {"api_base": check_address(spec.options["api_base"])} if "api_base" in spec.options else {}
    return client | ({"api_key": _key(own_key)} if own_key else {})


def _key(variable: str) -> str:
    """The key in an environment variable, "" if there is none; no text shows it from now on.

    Raises:
        PrerequisiteError: no server could be sent it.
    """
    key = os.environ.get(variable, "")
    add_secret(key)
    if not all("!" <= character <= "~" for character in key):
        raise PrerequisiteError(
            f"the key in {variable} holds a space, a line break or another character that no key has: set it again"
        )
    return key


def _missing_by_litellm(spec: LMSpec) -> list[str]:
    """Missing variables by LiteLLM's word; loading LiteLLM takes seconds, so native providers never ask it."""
    from spri_dspy.lms.litellm_client import litellm

    providers = {getattr(p, "value", str(p)) for p in litellm.provider_list}
    if spec.prefix not in providers:
        known = [*PROVIDER_KEYS, *SERVER_KEYS, "offline", "replay", "gguf"]
        raise UnknownNameError(
            "LM provider", spec.prefix, set(known), "Every provider that LiteLLM knows works too"
        )
    start = spec.prefix.partition("_")[0].upper()  # LiteLLM takes several names for a key, and tells one
    likely = [n for n in os.environ if n.startswith(start) and n.endswith(("KEY", "TOKEN"))]
    if [n for n in likely if _key(n)] or spec.prefix in _AMBIENT:
        return []
    given = {f"{spec.prefix}_{name}".upper() for name in ("api_base", "api_version") if name in spec.options}
    return [n for n in litellm.validate_environment(spec.model).get("missing_keys", ()) if n not in given]


def _stated_address(spec: LMSpec) -> str:
    """The address of a server of one's own whose LM string has none; "" if there is none."""
    return os.environ.get(f"{spec.prefix.upper()}_API_BASE") or _DEFAULT_ADDRESS.get(spec.prefix, "")


def _own_address(spec: LMSpec) -> tuple[str, str, dict[str, Any]]:
    """Model string, engine and client settings for a server of one's own."""
    base = spec.options.get("api_base") or _stated_address(spec)
    if not base:
        raise PrerequisiteError(f"{spec.model} needs its server's address: add ?api_base=http://HOST:PORT/v1")
    base = check_address(base)
    if spec.prefix.startswith("ollama") and not base.endswith("/v1"):
        base += "/v1"
    key_env = spec.options.get("key_env", SERVER_KEYS[spec.prefix])
    if not _key(key_env) and "key_env" in spec.options:
        raise PrerequisiteError(f"{spec.model} needs a key: set {key_env} in the environment")
    if _engine(spec) == "litellm":
        key = _key(key_env) or "none"
        return f"openai/{spec.model.partition('/')[2]}", "litellm", {"api_base": base, "api_key": key}
    name = _register(base, key_env, spec.prefix)
    return f"{name}/{spec.model.partition('/')[2]}", _engine(spec), {}


def _register(base: str, key_env: str, prefix: str) -> str:
    """Register an address as a provider of this process, under a name that is shown to nobody.

    The same address again changes nothing.
    """
    from dspy.lm15 import (
        AccessPolicy,
        EndpointSupport,
        ModelSupport,
        OpenAIChatCompat,
        ProviderDefinition,
        register_provider,
    )

    keyed = bool(_key(key_env))  # DSPy takes a key's name or a placeholder for it, never both
    name = "own-" + hashlib.sha256(f"{prefix} {base} {key_env} {keyed}".encode()).hexdigest()[:10]
    add_made_up(name, prefix)
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
