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
from spri_dspy.server import app as server_app
from tests.command import assert_refused, spri
from tests.server_parts import MODEL, POST, body, eventually, listening, program, serving
from tests.servers.answers import Author, prompt_digest
from tests.servers.openai_mock import MockConfig


@pytest.fixture
def endpoint(start_mock):
    mock = start_mock()
    with listening(program(mock)) as (url, service):
        yield url, service, mock


def client_of(url, kind=openai.OpenAI, **options):
    return kind(base_url=url, api_key="none", **{"max_retries": 0, "timeout": 30, **options})


def ask(url, **more):
    return httpx.post(f"{url}/chat/completions", json=body(**more), timeout=30)


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
    async with client_of(url, openai.AsyncOpenAI) as client:
        found = await asyncio.gather(
            *(client.chat.completions.create(**body(f"{POST} ({number})")) for number in range(8))
        )
    assert len({each.choices[0].message.content for each in found}) == 8


def test_stream_gives_the_same_text_stages_and_usage(endpoint):
    url, _, _ = endpoint
    with client_of(url) as client:
        whole = client.chat.completions.create(**body())
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(
            client.chat.completions.create(**body(), **options, extra_body={"spri": {"progress": True}})
        )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 3
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    stages = [c.spri["stage"] for c in chunks if not c.choices and not c.usage]
    assert stages[:2] == ["generate_principles", "critique_principles"]
    assert stages[-1] == "critique_response"


async def test_async_stream(endpoint):
    url, _, _ = endpoint
    async with client_of(url, openai.AsyncOpenAI) as client:
        stream = await client.chat.completions.create(**body(), stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert text == ask(url).json()["choices"][0]["message"]["content"]


def test_stream_tells_stages_in_comments_that_clients_skip(endpoint):
    url, _, _ = endpoint
    events = ask(url, stream=True).text.split("\n\n")
    comments = [event for event in events if event.startswith(":")]
    assert comments[:3] == [": accepted", ": generate_principles", ": critique_principles"]
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event[6:])["choices"] for event in events if event.startswith("data: {"))


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
    ({"messages": [{"role": "user", "content": "  "}]}, 400, "invalid_inputs", "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, None, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None, "messages"),
    ({"messages": [{"role": "user", "content": "half \ud83d"}]}, 400, "invalid_inputs", "messages"),
    ({"half \ud83d": 1}, 400, None, None),
    ({"spri": {"inputs": {"dimension": "nope"}}}, 400, "invalid_inputs", "messages"),
    ({"spri": {"tracee": True}}, 400, "unknown_parameter", "spri.tracee"),
]


def test_what_cannot_be_honoured_is_refused_in_openais_shape():
    with listening(program()) as (url, service):
        for change, status, code, param in REFUSED:
            found = httpx.post(f"{url}/chat/completions", content=json.dumps(body() | change), headers=JSON)
            error = found.json()["error"]
            assert (found.status_code, error["code"], error["param"]) == (status, code, param), error
            assert error["type"] == "invalid_request_error"
            assert error["message"]
        assert service.meter.used == {}


JSON = {"content-type": "application/json"}


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


def test_too_large_and_too_slow_bodies_are_refused(monkeypatch):
    monkeypatch.setattr(server_app, "BODY_SECONDS", 0.2)
    with listening(program(), body_bytes=1000) as (url, _):
        stated = ask(url, messages=[{"role": "user", "content": "x" * 2000}])
        chunked = httpx.post(f"{url}/chat/completions", content=iter([b"x" * 600] * 3), headers=JSON)
        assert [stated.status_code, chunked.status_code] == [413, 413]
        assert stated.json()["error"]["type"] == "invalid_request_error"
        with socket.create_connection(address_of(url)) as slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def address_of(url):
    parts = httpx.URL(url)
    return parts.host, parts.port


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


def test_a_request_out_of_time_ends_with_its_call(start_mock):
    mock = start_mock(MockConfig(script=["ok", "hang", "ok", "hang"]))
    with listening(program(mock), seconds=0.5) as (url, service):
        found = ask(url)
        assert (found.status_code, found.json()["error"]["code"]) == (504, "timeout")
        assert '"code":"timeout"' in ask(url, stream=True).text
        eventually(lambda: mock.stats.in_flight == 0)
        assert mock.stats.received == 4
        assert service.in_flight == service.waiting == 0


def test_a_full_queue_says_when_to_come_again(start_mock):
    mock = start_mock(MockConfig(script=["hang"] * 9))
    with listening(program(mock), concurrency=1, queue=1) as (url, service):
        with leaving(url) as first, leaving(url) as second:
            eventually(lambda: (service.in_flight, service.waiting) == (1, 1))
            found = ask(url)
            assert found.status_code == 429
            assert 1 <= int(found.headers["retry-after"]) <= 60
            assert found.json()["error"]["code"] == "rate_limit_exceeded"
            with client_of(url) as client, pytest.raises(openai.RateLimitError):
                client.chat.completions.create(**body(), stream=True)
            assert first.fileno() != second.fileno()
        eventually(lambda: (service.in_flight, service.waiting) == (0, 0))
        assert mock.stats.received == 1


def leaving(url, stream=False):
    """A client that sends a request and leaves with the block."""
    content = json.dumps(body(stream=stream)).encode()
    connection = socket.create_connection(address_of(url))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_end_their_calls_and_give_their_places_back(start_mock, stream):
    mock = start_mock(MockConfig(script=["hang"] * 4))
    with listening(program(mock), concurrency=4, queue=8) as (url, service):
        clients = [leaving(url, stream) for _ in range(10)]
        eventually(lambda: mock.stats.in_flight == 4 and service.waiting == 6)
        for client in clients:
            client.close()
        eventually(lambda: mock.stats.in_flight == 0 and service.in_flight == service.waiting == 0)
        assert (mock.stats.received, mock.stats.abandoned) == (4, 4)
        eventually(lambda: 'status="499"} 10' in service.meter.text(0, 0))
        assert ask(url).status_code == 200


async def test_two_hundred_clients_at_once(start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.02, accept=1))
    with listening(program(mock), concurrency=200) as (url, service):
        async with client_of(url, openai.AsyncOpenAI, timeout=120) as client:
            found = await asyncio.gather(
                *(client.chat.completions.create(**body(f"{POST} ({number})")) for number in range(200))
            )
        assert len({each.choices[0].message.content for each in found}) == 200
        assert mock.stats.received == mock.stats.finished == 800
        assert sum(each.usage.prompt_tokens for each in found) == mock.stats.input_tokens
        assert service.in_flight == service.waiting == 0


def test_metrics_count_requests_seconds_calls_and_tokens(endpoint):
    url, _, mock = endpoint
    assert ask(url).status_code == 200
    assert ask(url, n=2).status_code == 400
    found = httpx.get(f"{url.removesuffix('/v1')}/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in found.text.splitlines() if not line.startswith("#"))
    assert values['spri_requests_total{status="200"}'] == values['spri_requests_total{status="400"}'] == "1"
    assert values["spri_request_seconds_count"] == values['spri_request_seconds_bucket{le="+Inf"}'] == "1"
    assert values["spri_requests_in_flight"] == values["spri_requests_waiting"] == "0"
    calls = [int(values[f'spri_lm_calls_total{{role="{role}"}}']) for role in ("base", "critic")]
    assert sum(calls) == mock.stats.received
    tokens = [
        int(values[f'spri_lm_tokens_total{{role="{role}",direction="input"}}']) for role in ("base", "critic")
    ]
    assert sum(tokens) == mock.stats.input_tokens


def test_stopping_finishes_what_is_open_and_refuses_what_is_new(start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.4, accept=1))
    with serving("--lm", f"base=hosted_vllm/m?api_base={mock.base_url}") as (process, url):
        with leaving(url) as open_one:
            eventually(lambda: mock.stats.in_flight == 1)
            process.terminate()
            eventually(lambda: httpx.get(f"{url.removesuffix('/v1')}/health").status_code == 503)
            refused = ask(url)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
            assert refused.headers["retry-after"] == "5"
            assert open_one.recv(100_000).startswith(b"HTTP/1.1 200")
        assert process.wait(10) == 0
        assert "no requests were given up" in process.stderr.read()
    assert mock.stats.received == 4


def test_stopping_ends_in_time_with_an_answer_to_everybody(start_mock):
    mock = start_mock(MockConfig(script=["hang"] * 9))
    with serving("--lm", f"base=hosted_vllm/m?api_base={mock.base_url}", "--drain", "0.3") as (process, url):
        with leaving(url) as whole, leaving(url, stream=True) as stream:
            eventually(lambda: mock.stats.in_flight == 2)
            process.terminate()
            assert whole.recv(100_000).startswith(b"HTTP/1.1 503")
            told = b""
            while part := stream.recv(100_000):
                told += part
            assert b'"code":"stopping"' in told
        assert process.wait(10) == 0
        assert "2 requests were given up" in process.stderr.read()


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


def test_a_second_signal_stops_at_once(start_mock):
    mock = start_mock(MockConfig(script=["hang"] * 9))
    with serving("--lm", f"base=hosted_vllm/m?api_base={mock.base_url}", "--drain", "60") as (process, url):
        with leaving(url):
            eventually(lambda: mock.stats.in_flight == 1)
            process.terminate()
            eventually(lambda: httpx.get(f"{url.removesuffix('/v1')}/health").status_code == 503)
            began = time.monotonic()
            process.terminate()
            process.wait(10)
        assert time.monotonic() - began < 10
        eventually(lambda: mock.stats.in_flight == 0)


def test_command_refuses_what_would_be_open_or_wrong(monkeypatch):
    monkeypatch.setenv("EMPTY", " ")
    assert_refused(
        spri("serve", "reappraisal", "--host", "0.0.0.0", "--port", 0), 2, "0.0.0.0", "--token-env"
    )
    assert_refused(spri("serve", "reappraisal", "--token-env", "EMPTY"), 3, "--token-env EMPTY")
    assert_refused(spri("serve", "reappraisal", "--lm", "judge=offline"), 2, "judge")
    assert_refused(spri("serve", "nonsense"), 2, "nonsense", "reappraisal")
    assert_refused(spri("serve", "reappraisal", "--concurrency", 0), 2, "concurrency")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(spri("serve", "reappraisal", "--port", port), 3, f"port {port}")
