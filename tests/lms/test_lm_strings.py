"""LM strings: what they mean, what they refuse and in which words, and what an LM made of one sends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.lms.spec import (
    DEFAULTS,
    KEY_NAMES,
    MAX_CHARS,
    ROLES,
    LMSpec,
    check_offline_roles,
    check_roles,
    load_lm,
    parse_lm,
)
from tests.factories import make_task
from tests.servers.openai_mock import MockConfig

REPOSITORY = Path(__file__).parents[2]
ADDRESS = "http://user:secret@gpu-1:8000/v1"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),  # LiteLLM's own types
    pytest.mark.usefixtures("loop_for_litellm"),
]


@pytest.mark.parametrize(
    ("text", "model", "options"),
    [
        ("offline", "offline", {}),
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini", {}),
        ("  openai/gpt-4o-mini  ", "openai/gpt-4o-mini", {}),
        ("openai/x?temperature=0&max_tokens=512", "openai/x", {"temperature": 0.0, "max_tokens": 512}),
        ("hosted_vllm/org/m-2.0?top_k=50&min_p=0.1", "hosted_vllm/org/m-2.0", {"top_k": 50, "min_p": 0.1}),
        ("ollama/llama3:8b?format=json", "ollama/llama3:8b", {"format": "json"}),
        ("vllm/m?api_base=http://h:1/v1", "vllm/m", {"api_base": "http://h:1/v1"}),
        ("vllm/m?api_base=http%3A%2F%2Fh%3A1%2Fv1", "vllm/m", {"api_base": "http://h:1/v1"}),
        (
            "offline?latency=0.1&unscored_rate=1&seed=3",
            "offline",
            {"latency": 0.1, "unscored_rate": 1.0, "seed": 3},
        ),
        ("openai/x?frequency_penalty=-0.5", "openai/x", {"frequency_penalty": -0.5}),
        ("openai/x?max_chars=300&route=native", "openai/x", {"max_chars": 300, "route": "native"}),
        ("replay/runs/a", "replay/runs/a", {}),
    ],
)
def test_strings_mean_what_they_say(text, model, options):
    spec = parse_lm(text)
    assert (spec.model, dict(spec.options)) == (model, options)
    assert {k: type(v) for k, v in spec.options.items()} == {k: type(v) for k, v in options.items()}
    assert parse_lm(str(spec)) == spec


@pytest.mark.parametrize(
    "text", ["", "?temperature=1", "openai", "openai/", "/m", "a model", "gpt-4o-mini", "openai/x y"]
)
def test_strings_without_a_model_are_refused(text):
    with pytest.raises(spri.UsageError):
        parse_lm(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("openai/x?temprature=1", "unknown LM option 'temprature'; known: .*temperature.*openai/x"),
        ("openai/x?latency=1", "unknown LM option 'latency'"),
        ("openai/x?format=xml", "unknown format of an LM 'xml'; known: chat, json, result_tag"),
        ("openai/x?route=direct", "unknown route of an LM 'direct'; known: auto, litellm, native"),
        ("openai/x?max_tokens=many", "max_tokens='many' of 'openai/x' must be a whole number"),
        ("openai/x?max_tokens=1.5", "must be a whole number"),
        ("openai/x?temperature=", "temperature='' of 'openai/x' must be a number"),
        ("openai/x?temperature=nan", "out of range"),
        ("openai/x?temperature=-1", "out of range"),
        ("openai/x?max_tokens=0", "out of range"),
        ("openai/x?timeout=0", "out of range"),
        ("openai/x?temperature", "temperature='' of 'openai/x' must be a number"),
        ("openai/x?&", "needs option=value behind its question mark"),
    ],
)
def test_unusable_options_are_refused_with_what_would_do(text, said):
    with pytest.raises(spri.UsageError, match=said):
        parse_lm(text)


@pytest.mark.parametrize("name", ["api_key", "key", "token"])
def test_keys_in_a_string_are_refused_and_not_repeated(name):
    with pytest.raises(spri.UsageError, match="holds no keys") as refused:
        parse_lm(f"openai/x?{name}=sk-abc")
    assert "sk-abc" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"hosted_vllm/m?api_base={ADDRESS}&temperature=hot",
        f"hosted_vllm/m?api_base={ADDRESS}&nonsense=1",
        f"nowhere ?api_base={ADDRESS}",
        "hosted_vllm/m?api_base=user:secret@gpu-1:8000/v1",
        "hosted_vllm/m?api_base=http://user:secret@[gpu-1/v1",
        "hosted_vllm/m?user:secret",
        f"hosted_vllm/m?api_base={ADDRESS}",
        f"openai/m?api_base={ADDRESS}&temperature=0.2",
    ],
)
def test_refusals_never_show_a_password(text):
    with pytest.raises(spri.UsageError) as refused:
        load_lm(text)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "provider", ["groq", "anthropic", "gemini", "openai", "hosted_vllm", "azure", "mistral"]
)
@pytest.mark.parametrize(
    "address",
    [
        ADDRESS,
        "https://secret@gpu-1/v1",
        "http://gpu-1/v1?key=secret",
        "http://gpu-1/v1%3Fapi-version=1%26key=secret",
        "http://gpu-1:1/secret@gpu-2/v1",
        "http://gpu-1/v1%23secret",
        f"http://gpu-2/v1,{ADDRESS}",
    ],
)
def test_addresses_with_credentials_or_a_query_are_refused_for_every_provider(provider, address):
    with pytest.raises(spri.UsageError, match="api_base is an address alone") as refused:
        parse_lm(f"{provider}/m?api_base={address}")
    assert "secret" not in str(refused.value)


def test_specs_show_no_token_in_the_path_of_an_address():
    spec = parse_lm("hosted_vllm/m?api_base=http://gpu-1:8000/t/0a1B2c3D4e5F6a7B8c9D/v1&temperature=0.1")
    assert str(spec) == "hosted_vllm/m?api_base=http://gpu-1:8000/t/[redacted]/v1&temperature=0.1"


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk one", "sk-\x1b[0m1", "sk-é", "sk-one\n", "“sk-one”"])
@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("openai/gpt-4o-mini", "OPENAI_API_KEY"),
        ("openai/gpt-4o-mini?key_env=MY_KEY", "MY_KEY"),
        ("gemini/g", "GOOGLE_API_KEY"),
        ("hosted_vllm/m?api_base=http://127.0.0.1:1/v1", "HOSTED_VLLM_API_KEY"),
        ("mistral/m", "MISTRAL_API_KEY"),
    ],
)
def test_malformed_keys_are_refused_before_any_call(text, variable, key, monkeypatch):
    monkeypatch.setenv(variable, key)
    with pytest.raises(
        spri.PrerequisiteError, match=f"the key in {variable} holds a space, a line break"
    ) as no:
        load_lm(text)
    assert "sk" not in str(no.value) and "\n" not in str(no.value)


def test_providers_are_listed_when_one_is_unknown():
    with pytest.raises(
        spri.UnknownNameError, match=r"unknown LM provider 'opneai'; known: .*hosted_vllm.*openai"
    ):
        load_lm("opneai/gpt-4o-mini")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("openai/gpt-4o-mini", "set OPENAI_API_KEY in"),
        ("anthropic/claude-sonnet-4-5", "set ANTHROPIC_API_KEY in"),
        ("gemini/gemini-2.5-flash", "set GEMINI_API_KEY or GOOGLE_API_KEY in"),
        ("openai/gpt-4o-mini?key_env=MY_TEAMS_KEY", "set MY_TEAMS_KEY in"),
        ("mistral/mistral-small", "set MISTRAL_API_KEY in"),
        ("azure/my-deployment?api_base=https://e.test&api_version=2024-10-21", "set AZURE_API_KEY in"),
    ],
)
def test_missing_keys_are_named(text, named, monkeypatch):
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    for name in ("AZURE_API_KEY", "AZURE_API_BASE", "AZURE_API_VERSION", "MY_TEAMS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(spri.PrerequisiteError, match=named):
        load_lm(text)


def test_own_key_variable_is_used(monkeypatch):
    monkeypatch.setenv("MY_TEAMS_KEY", "sk-mine")
    lm = load_lm("openai/gpt-4o-mini?key_env=MY_TEAMS_KEY")
    assert list(lm.engine.route.config.api_keys.values()) == ["sk-mine"]
    assert "sk-mine" not in str(lm.dump_state()) + str(lm.spec)


def test_addresses_reach_providers_that_are_no_server_of_ones_own(monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", "sk-azure")
    lm = load_lm("azure/my-deployment?api_base=https://e.test&api_version=2024-10-21")
    assert (lm.kwargs["api_base"], lm.kwargs["api_version"]) == ("https://e.test", "2024-10-21")


@pytest.mark.parametrize(
    "base", ["gpu-1:8000/v1", "ftp://gpu-1/v1", "http://", "http://gpu-1:port/v1", "http://[v1"]
)
def test_addresses_must_be_addresses(base):
    with pytest.raises(spri.UsageError, match="must be an http"):
        load_lm(f"hosted_vllm/m?api_base={base}")


def test_server_without_an_address_says_how_to_give_one():
    with pytest.raises(spri.PrerequisiteError, match=r"add \?api_base=http://HOST:PORT/v1"):
        load_lm("hosted_vllm/m")


def test_address_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", "http://127.0.0.1:1/v1")
    assert load_lm("hosted_vllm/m").model == load_lm("hosted_vllm/m?api_base=http://127.0.0.1:1/v1/").model


LIVE = [
    "openai/gpt-4o-mini",
    "openai/o3-mini",
    "openai/gpt-5",
    "anthropic/claude-sonnet-4-5",
    "gemini/gemini-2.5-flash",
    "hosted_vllm/m?api_base=http://127.0.0.1:1/v1",
    "hosted_vllm/m?api_base=http://127.0.0.1:1/v1&route=litellm",
    "ollama/llama3",
    "openai/gpt-4o-mini?temperature=0&max_tokens=9&timeout=2",
]


@pytest.mark.parametrize("text", LIVE)
def test_every_lm_states_temperature_limit_and_timeout(text, monkeypatch):
    for name in KEY_NAMES:
        monkeypatch.setenv(name, "sk-test")
    lm = load_lm(text)
    spec = parse_lm(text)
    limit = lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens")
    is_reasoning = "o3" in text or "gpt-5" in text
    expected = {"temperature": 1.0, "max_tokens": 16000} if is_reasoning else {}
    wanted = DEFAULTS | expected | dict(spec.options)
    assert (lm.kwargs["temperature"], limit, lm.timeout) == (
        wanted["temperature"],
        wanted["max_tokens"],
        wanted["timeout"],
    )
    assert lm.cache is False and lm.num_retries == 0


@pytest.mark.parametrize("option", ["temperature=0", "temperature=0.5", "max_tokens=500"])
def test_reasoning_models_refuse_what_their_server_would(option, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with pytest.raises(spri.UsageError, match="reasoning models"):
        load_lm(f"openai/gpt-5?{option}")


def answered(start_mock, options, *, prefix="hosted_vllm/m"):
    """The LM, and the body that reached the server when it was called once."""
    bodies = []

    def reply(messages, body):
        bodies.append(body)
        return "fine"

    server = start_mock(reply=reply)
    lm = load_lm(f"{prefix}?api_base={server.base_url}{options}")
    assert lm("hello") == ["fine"]
    return lm, {k: v for k, v in bodies[0].items() if k != "messages"}


def engine_of(lm):
    return type(lm.history[-1]["response"]).__module__.split(".")[0]


def test_native_client_sends_every_option_it_is_given(start_mock):
    options = {"top_p": 0.9, "seed": 3, "presence_penalty": 0.25, "frequency_penalty": 0.5}
    lm, body = answered(start_mock, "".join(f"&{k}={v}" for k, v in options.items()))
    assert body == {"model": "m", "temperature": 0.7, "max_tokens": 2048, **options}
    assert engine_of(lm) == "dspy"
    assert not lm.history[-1].get("adaptations")


@pytest.mark.parametrize("option", ["top_k=50", "min_p=0.1", "repetition_penalty=1.03"])
def test_options_beyond_the_native_client_go_through_litellm(start_mock, option):
    lm, body = answered(start_mock, f"&{option}")
    name, value = option.split("=")
    assert body[name] == float(value)
    assert engine_of(lm) == "litellm"


def test_native_route_refuses_options_it_would_drop():
    with pytest.raises(spri.UsageError, match="route=native cannot carry top_k"):
        load_lm("hosted_vllm/m?api_base=http://127.0.0.1:1/v1&top_k=5&route=native")


def test_litellm_route_sends_the_same_request(start_mock):
    lm, body = answered(start_mock, "&route=litellm")
    assert body == {"model": "m", "temperature": 0.7, "max_tokens": 2048}
    assert engine_of(lm) == "litellm"


@pytest.mark.parametrize("prefix", ["hosted_vllm/org/m", "openai/gpt-4o-mini", "lm_studio/m", "vllm/m"])
def test_own_addresses_are_carried_natively(start_mock, prefix):
    lm, body = answered(start_mock, "", prefix=prefix)
    assert engine_of(lm) == "dspy"
    assert body["model"] == prefix.partition("/")[2]


def test_ollama_addresses_end_in_v1(start_mock):
    server = start_mock(reply=lambda messages, body: "fine")
    root = server.base_url.removesuffix("/v1")
    assert load_lm(f"ollama/llama3?api_base={root}")("hello") == ["fine"]
    assert server.stats.n_answered == 1


def test_own_address_gets_its_key_from_the_environment(start_mock, monkeypatch):
    server = start_mock(MockConfig(api_key="sk-mine"), reply=lambda messages, body: "fine")
    monkeypatch.setenv("MY_SERVERS_KEY", "sk-mine")
    lm = load_lm(f"hosted_vllm/m?api_base={server.base_url}&key_env=MY_SERVERS_KEY")
    assert lm("hello") == ["fine"]
    assert "sk-mine" not in str(lm.dump_state()) + str(lm.history[-1])


def test_text_bounds_are_stated_for_model_servers_only(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    address = "api_base=http://127.0.0.1:1/v1"
    assert load_lm(f"hosted_vllm/m?{address}").max_chars == MAX_CHARS
    assert load_lm(f"hosted_vllm/m?{address}&max_chars=9").max_chars == 9
    assert load_lm(f"openai/m?{address}").max_chars is None
    assert load_lm("openai/gpt-4o-mini").max_chars is None


def test_lms_that_are_none_of_ours_pass_through():
    lm = object()
    assert load_lm(lm) is lm


def test_specs_load_like_their_strings():
    assert load_lm(LMSpec("offline", {"format": "json"})).prompt_style == "json"


@pytest.mark.parametrize("text", ["offline/gpt", "offline?api_key=1", "offline?unscored_rate=2"])
def test_stand_in_refuses_what_it_is_not(text):
    with pytest.raises(spri.UsageError):
        load_lm(text)


REAL, OFFLINE = "openai/gpt-4o-mini", "offline?seed=1"


@pytest.mark.parametrize(
    ("lms", "named"),
    [
        ({"base": REAL, "critic": OFFLINE}, r"the critic would .*pass --lm critic=PROVIDER/MODEL$"),
        (
            {"base": REAL, "critic": REAL, "judge": OFFLINE},
            r"the judge would .*pass --lm judge=PROVIDER/MODEL$",
        ),
        ({"base": "replay/runs/a", "judge": OFFLINE}, "the judge would be the offline LM"),
        (
            {"base": REAL, "critic": OFFLINE, "judge": OFFLINE},
            "the critic and judge would .*--lm critic=PROVIDER/MODEL --lm judge=PROVIDER/MODEL",
        ),
    ],
)
def test_what_a_real_lm_wrote_is_not_scored_by_the_offline_lm(lms, named):
    with pytest.raises(spri.UsageError, match=named) as refused:
        check_offline_roles(check_roles(lms))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "lms",
    [
        {},
        {"base": OFFLINE},
        {"base": OFFLINE, "critic": OFFLINE, "judge": OFFLINE},
        {"base": REAL},
        {"base": REAL, "critic": REAL, "judge": "replay/runs/a"},
        {"base": OFFLINE, "judge": REAL},
        {"judge": OFFLINE},
    ],
)
def test_all_offline_or_all_real_or_a_real_judge_alone_is_fine(lms):
    check_offline_roles(check_roles(lms))


def test_roles_are_checked():
    assert set(check_roles(dict.fromkeys(ROLES, "offline"))) == set(ROLES)
    with pytest.raises(spri.UnknownNameError, match="unknown role 'basis'; known: base, critic, judge"):
        check_roles({"basis": "offline"})


def test_program_loads_strings_by_role(monkeypatch):
    program = spri.SPRI(make_task()).set_lms(base="offline?seed=1", critic="offline?seed=2&format=result_tag")
    assert program.principles.generate.lm.spec.options["seed"] == 1
    assert program.response.critique.lm.prompt_style == "result_tag"


QUIET = """
import socket, sys

def refuse(*args, **kwargs):
    raise SystemExit(f"looked up {args[0]}")

socket.getaddrinfo = socket.create_connection = refuse
import spri_dspy as spri
for text in %r:
    spri.load_lm(text)
print("litellm" in sys.modules)
"""


def test_loading_a_native_lm_brings_no_litellm_and_no_network():
    texts = [
        "openai/gpt-4o-mini",
        "anthropic/claude-sonnet-4-5",
        "hosted_vllm/m?api_base=http://gpu-1:8000/v1",
        "offline",
    ]
    environment = os.environ | dict.fromkeys(KEY_NAMES, "sk-test") | {"PYTHONPATH": str(REPOSITORY)}
    environment.pop("LITELLM_LOCAL_MODEL_COST_MAP", None)
    done = subprocess.run(
        [sys.executable, "-c", QUIET % texts], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


@pytest.mark.slow
def test_litellm_is_loaded_with_its_lm_and_not_within_the_first_calls_timeout():
    code = QUIET % ["hosted_vllm/m?api_base=http://gpu-1:8000/v1&route=litellm"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
