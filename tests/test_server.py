"""The endpoint as its clients see it: OpenAI's own, DSPy, LiteLLM, plain HTTP, and clients that leave."""

import asyncio
import json
import socket
import time

import dspy
import httpx
import openai
import pytest

from spri_dspy.redaction import MARK, add_secret
from tests.command import assert_refused, spri
from tests.server_parts import (
    JSON,
    MODEL,
    POST,
    ask,
    body,
    client_of,
    eventually,
    listening,
    program,
    serving,
)
from tests.servers.answers import Author, prompt_digest
from tests.servers.openai_mock import MockConfig


def test_openai_client_gets_an_answer_with_the_usage_of_all_calls(endpoint):
    url, _, mock = endpoint
    with client_of(url) as client:
        found = client.chat.completions.create(**body())
    assert found.model == MODEL
    assert (
        found.choices[0].message.content.startswith("response ")
        or "response" in found.choices[0].message.content
    )
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.prompt_tokens == mock.stats.input_tokens > 0
    assert found.usage.completion_tokens == mock.stats.output_tokens > 0
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.system_fingerprint.startswith("spri-")
    assert "spri" not in found.model_extra


def test_trace_comes_when_it_is_asked_for(endpoint):
    url, _, mock = endpoint
    with client_of(url) as client:
        found = client.chat.completions.create(**body(temperature=0), extra_body={"spri": {"trace": True}})
    assert set(found.spri["stop_reasons"]) == {"principles", "response"}
    assert {each["stage"] for each in found.spri["trace"]} == {"principles", "response"}
    assert found.spri["principles"]
    assert sum(used["calls"] for used in found.spri["usage"].values()) == mock.stats.received
    assert set(found.spri["usage"]) == {"base", "critic"}
    assert found.spri["ignored"] == ["temperature"]


async def test_async_clients_are_answered_side_by_side(endpoint):
    url, _, _ = endpoint
    async with client_of(url, "AsyncOpenAI") as client:
        found = await asyncio.gather(
            *(client.chat.completions.create(**body(f"{POST} ({number})")) for number in range(8))
        )
    assert len({each.choices[0].message.content for each in found}) == 8


def test_dspy_lm_asks_the_endpoint(endpoint):
    url, _, _ = endpoint
    lm = dspy.LM(f"openai/{MODEL}", api_base=url, api_key="none", cache=False)
    assert lm(POST) == [ask(url).json()["choices"][0]["message"]["content"]]


@pytest.mark.filterwarnings(
    "ignore:Item 'summary' on TypedDict"
)  # LiteLLM's types, where nobody asked before
def test_litellm_asks_the_endpoint(endpoint):
    import litellm

    url, _, _ = endpoint
    asked = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none", "temperature": 0.2}
    messages = body()["messages"]
    whole = litellm.completion(messages=messages, **asked).choices[0].message.content
    chunks = litellm.completion(messages=messages, stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_models(endpoint):
    url, _, _ = endpoint
    with client_of(url) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by == "spri-dspy"
        with pytest.raises(openai.NotFoundError, match="gpt-4o"):
            client.models.retrieve("gpt-4o")


def test_messages_and_inputs_reach_the_program(start_mock):
    prompts = []

    def reply(messages, asked):
        prompts.append(messages[-1]["content"])
        return Author(prompt_digest(messages), 5, 5).answer(messages, asked)

    earlier = [{"role": "user", "content": "EARLIER"}, {"role": "assistant", "content": "ANSWERED"}]
    messages = [{"role": "system", "content": "AIM-S"}, *earlier, {"role": "user", "content": "POST"}]
    with listening(program(start_mock(reply=reply))) as (url, _):
        by_system = ask(url, messages=messages)
        assert "AIM-S" in prompts[0] and "POST" in prompts[0]
        assert "EARLIER" not in "".join(prompts) and "ANSWERED" not in "".join(prompts)
        assert by_system.headers["x-spri-ignored"] == "messages[1], messages[2]"
        prompts.clear()
        parts = [
            {"role": "user", "content": [{"type": "text", "text": "ONE"}, {"type": "text", "text": "TWO"}]}
        ]
        by_inputs = ask(url, messages=parts, spri={"inputs": {"aim": "AIM-I"}})
        assert "AIM-I" in prompts[0] and "ONE\nTWO" in prompts[0]
        assert "x-spri-ignored" not in by_inputs.headers
        both = ask(url, messages=messages, spri={"inputs": {"dimension": "self-responsibility"}})
        assert both.headers["x-spri-ignored"] == "messages[0], messages[1], messages[2]"


REFUSED = [
    ({"model": "gpt-4o"}, 404, "model_not_found", None),
    ({"n": 2}, 400, "unsupported_value", "n"),
    ({"stop": ["."]}, 400, "unsupported_value", "stop"),
    ({"tools": [{"type": "function"}]}, 400, "unsupported_value", "tools"),
    ({"response_format": {"type": "json_object"}}, 400, "unsupported_value", "response_format"),
    ({"logprobs": True}, 400, "unsupported_value", "logprobs"),
    ({"temprature": 1}, 400, "unknown_parameter", "temprature"),
    ({"messages": []}, 400, None, "messages"),
    ({"messages": [{"role": "user", "content": "  "}]}, 400, None, "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, None, "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "unsupported_value",
        "messages",
    ),
    ({"messages": [{"role": "bot", "content": "x"}]}, 400, None, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, 400, None, "messages"),
    ({"messages": [{"role": "user", "content": "half \ud83d"}]}, 400, "invalid_inputs", "messages"),
    ({"half \ud83d": 1}, 400, None, None),
    ({"spri": {"inputs": {"dimension": "nope"}}}, 400, "invalid_inputs", "messages"),
    ({"spri": {"tracee": True}}, 400, "unknown_parameter", "spri.tracee"),
    ({"spri": {"inputs": {"goal": "x"}}}, 400, "unknown_parameter", "spri.inputs.goal"),
    ({"spri": {"inputs": {"aim": 7}}}, 400, "invalid_inputs", "messages"),
]


def test_what_cannot_be_honoured_is_refused_in_openais_shape():
    with listening(program()) as (url, service):
        for change, status, code, param in REFUSED:
            found = httpx.post(f"{url}/chat/completions", content=json.dumps(body() | change), headers=JSON)
            error = found.json()["error"]
            assert (found.status_code, error["code"], error["param"]) == (status, code, param), error
            assert error["type"] == "invalid_request_error"
            assert error["message"] and "\n" not in error["message"] and len(error["message"]) < 250
        assert service.meter.used == {}


def test_other_addresses_are_answered_with_those_that_there_are():
    with listening(program()) as (url, _), client_of(url.removesuffix("/v1")) as client:
        with pytest.raises(openai.NotFoundError, match="nothing at /chat/completions; there are /v1/chat"):
            client.chat.completions.create(**body())
        with pytest.raises(openai.NotFoundError, match="nothing at /responses"):
            client.responses.create(model=MODEL, input=POST)


def test_unknown_inputs_are_refused_with_those_that_there_are():
    with listening(program()) as (url, _):
        error = ask(url, spri={"inputs": {"aim": "x", "goal": "y"}}).json()["error"]
        assert error["message"].startswith("unknown spri.inputs 'goal'; known: post, aim, dimension, ")
        wrong = ask(url, spri={"inputs": {"dimension": "nope"}}).json()["error"]
        assert wrong["message"].startswith("unknown dimension 'nope'; known: ")


def test_bodies_that_are_no_json_object_are_refused():
    with listening(program()) as (url, _):
        for content, headers in [
            ("{", JSON),
            ("[]", JSON),
            ("", JSON),
            ("[" * 100_000, JSON),
            (b"\xff{}", JSON),
            (json.dumps(body()), {"content-type": "text/plain"}),  # what a page in a browser may send unasked
        ]:
            found = httpx.post(f"{url}/chat/completions", content=content, headers=headers)
            assert found.status_code == 400, content[:20]
            assert found.json()["error"]["type"] == "invalid_request_error"


def test_a_token_is_asked_for():
    with listening(program(), token="long-and-secret") as (url, _):
        root = url.removesuffix("/v1")
        assert httpx.get(f"{root}/health").json() == {"status": "ok"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic long-and-secret"}):
            found = httpx.get(f"{root}/metrics", headers=headers)
            assert found.status_code == 401
            assert found.json()["error"]["code"] == "invalid_api_key"
        with client_of(url) as client, pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(**body())
        with openai.OpenAI(base_url=url, api_key="long-and-secret") as client:
            assert client.chat.completions.create(**body()).choices
        away = httpx.get(
            f"{url}/models", headers={"Authorization": "Bearer long-and-secret", "Host": "a.example"}
        )
        assert away.status_code == 200


def test_pages_of_a_browser_are_kept_out():
    with listening(program()) as (url, _):
        led_here = httpx.get(f"{url}/models", headers={"Host": "a.example:8080"})
        assert led_here.status_code == 403
        origin = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        before = httpx.options(f"{url}/chat/completions", headers=origin)
        after = httpx.get(f"{url}/models", headers=origin)
        assert before.status_code == 405
        assert not [h for h in (*before.headers, *after.headers) if h.startswith("access-control")]


def test_pages_of_named_origins_may_ask_from_a_browser():
    page = {"Origin": "https://chat.example"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    with listening(program(), token="secret", origins=["https://chat.example"]) as (url, _):
        before = httpx.options(f"{url}/chat/completions", headers=page | asks)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://chat.example"
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        refused = httpx.post(f"{url}/chat/completions", json=body(), headers=page)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://chat.example"
        given = {"Authorization": "Bearer secret"}
        with httpx.stream(
            "POST", f"{url}/chat/completions", json=body(stream=True, seed=1), headers=page | given
        ) as answer:
            assert answer.headers["access-control-allow-origin"] == "https://chat.example"
            assert "x-spri-ignored" in answer.headers["access-control-expose-headers"]
            assert answer.read().endswith(b"data: [DONE]\n\n")
        other = httpx.options(f"{url}/chat/completions", headers=asks | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_secrets_do_not_come_back_in_errors():
    add_secret("s3cret-of-the-operator")
    with listening(program()) as (url, _):
        found = ask(url, spri={"inputs": {"dimension": "s3cret-of-the-operator"}})
    assert MARK in found.json()["error"]["message"]
    assert "s3cret" not in found.text


def test_offline_answers_say_so():
    with listening(program()) as (url, _):
        assert ask(url).json()["system_fingerprint"] == "offline-stand-in"
        assert '"system_fingerprint": "offline-stand-in"' in ask(url, stream=True).text


def test_a_failing_lm_is_told_once_and_not_asked_again_by_the_client(start_mock):
    mock = start_mock(MockConfig(script=["unauthorized"] * 9))
    with listening(program(mock)) as (url, service):
        with client_of(url, max_retries=2) as client, pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(**body())
        assert failed.value.status_code == 502
        assert failed.value.code == "lm_failed"
        assert mock.stats.received == 1
        with client_of(url) as client, pytest.raises(openai.APIError, match="API key"):
            list(client.chat.completions.create(**body(), stream=True))
        eventually(lambda: 'status="502"} 2' in service.meter.text(0, 0))


def test_metrics_count_requests_seconds_calls_and_tokens(endpoint):
    url, _, mock = endpoint
    assert ask(url).status_code == 200
    assert ask(url, n=2).status_code == 400
    parser = pytest.importorskip("prometheus_client.parser", reason="reads metrics: make test-serve")
    found = httpx.get(f"{url.removesuffix('/v1')}/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(parser.text_string_to_metric_families(found.text))
    assert all(family.documentation and family.type != "unknown" for family in families)
    values = {
        (each.name, *each.labels.values()): each.value for family in families for each in family.samples
    }
    assert values["spri_requests_total", "200"] == values["spri_requests_total", "400"] == 1
    assert values["spri_request_seconds_count",] == values["spri_request_seconds_bucket", "+Inf"] == 1
    assert values["spri_requests_in_flight",] == values["spri_requests_waiting",] == 0
    assert sum(values["spri_lm_calls_total", role] for role in ("base", "critic")) == mock.stats.received
    tokens = [values["spri_lm_tokens_total", role, "input"] for role in ("base", "critic")]
    assert sum(tokens) == mock.stats.input_tokens


def test_an_answer_goes_out_at_once():
    seconds = []
    with serving() as (_, url), httpx.Client() as client:
        for _ in range(60):
            began = time.perf_counter()
            client.get(f"{url}/models")
            seconds.append(time.perf_counter() - began)
    assert (
        min(seconds[20:]) < 0.03
    )  # 0.04 where the second part of an answer waits for the client's acknowledgement


def test_command_refuses_what_would_be_open_or_wrong(monkeypatch):
    monkeypatch.setenv("EMPTY", " ")
    assert_refused(
        spri("serve", "reappraisal", "--host", "0.0.0.0", "--port", 0), 2, "0.0.0.0", "--token-env"
    )
    assert_refused(spri("serve", "reappraisal", "--token-env", "EMPTY"), 3, "--token-env EMPTY")
    assert_refused(spri("serve", "reappraisal", "--lm", "judge=offline"), 2, "judge")
    assert_refused(spri("serve", "reappraisal", "--cors", "*"), 2, "without a token")
    assert_refused(spri("serve", "reappraisal", "--cors", "chat.example"), 2, "chat.example", "https://")
    assert_refused(spri("serve", "nonsense"), 2, "nonsense", "reappraisal")
    assert_refused(spri("serve", "reappraisal", "--concurrency", 0), 2, "concurrency")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(spri("serve", "reappraisal", "--port", port), 3, f"port {port}")
