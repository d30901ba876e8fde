"""The mock says what it was told to say, fails the way it was told to fail, and counts both."""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import httpx
import pytest

from tests.servers.answers import prompt_digest
from tests.servers.fixtures import RunningMock, StartMock, mock_process, mock_thread
from tests.servers.openai_mock import Fault, MockConfig, OpenAIMock

JSON_ENDING = (
    "Respond with a JSON object in the following order of fields: `feedback`, "
    "then `score` (must be formatted as a valid Python int)."
)
LOOPBACK: dict[str, Any] = {"trust_env": False, "verify": False}
"""No proxy, and no time spent on certificates."""


def user(content: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def ask(mock: RunningMock, content: str = "hello", *, key: str = "k", **extra: Any) -> httpx.Response:
    body = {"model": "m", "messages": user(content), **extra}
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{mock.base_url}/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=10, **LOOPBACK)


def said(response: httpx.Response) -> str:
    return response.json()["choices"][0]["message"]["content"]


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


# --- answers ----------------------------------------------------------------------------------------------


def test_plain_prompt_gets_text_and_usage(start_mock: StartMock):
    answer = ask(start_mock(), "eight ch").json()
    text = answer["choices"][0]["message"]["content"]
    n_out = answer["usage"]["completion_tokens"]
    assert text.startswith("answer ")
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": n_out, "total_tokens": n_out + 2}
    assert len(text) / 4 <= n_out < len(text) / 4 + 1


def test_different_prompts_get_different_texts(start_mock: StartMock):
    mock = start_mock()
    assert said(ask(mock, "a")) == said(ask(mock, "a")) != said(ask(mock, "b"))


def test_accept_probability_is_known_per_prompt(start_mock: StartMock):
    mock = start_mock(MockConfig(accept=0.3, seed=4))
    prompts = [f"post {i}\n\n{JSON_ENDING}" for i in range(60)]
    accepted = [json.loads(said(ask(mock, prompt)))["score"] == 5 for prompt in prompts]
    assert accepted == [mock.accepts(user(prompt)) for prompt in prompts]
    assert 6 <= sum(accepted) <= 30


def test_reply_function_answers_instead(start_mock: StartMock):
    mock = start_mock(reply=lambda messages, body: f"{messages[-1]['content']}/{body['temperature']}")
    assert said(ask(mock, "x", temperature=0.5)) == "x/0.5"


def test_reply_function_that_raises_is_reported_at_the_end():
    def reply(messages: list[dict[str, Any]], body: dict[str, Any]) -> str:
        raise LookupError("not in the script")

    def run() -> None:
        with mock_thread(reply=reply) as mock:
            assert ask(mock).status_code == 500

    with pytest.raises(LookupError, match="not in the script"):
        run()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_token_limit_cuts_the_answer(start_mock: StartMock, name: str):
    limit: dict[str, Any] = {name: 5}
    response = ask(start_mock(), **limit)
    assert len(said(response)) == 20
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["completion_tokens"] == 5


def test_n_choices_are_given_and_paid_for(start_mock: StartMock):
    answer = ask(start_mock(), n=3, max_tokens=5).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 15


def test_dspy_reads_both_of_its_styles(start_mock: StartMock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import dspy

    class Judge(dspy.Signature):
        """Judge the post."""

        post: str = dspy.InputField()
        feedback: str = dspy.OutputField()
        score: Literal[1, 2, 3, 4, 5] = dspy.OutputField()
        kind: Literal["it's mild", "strong"] = dspy.OutputField()
        share: float = dspy.OutputField()
        fine: bool = dspy.OutputField()
        points: list[str] = dspy.OutputField()

    mock = start_mock(MockConfig(accept=1))
    lm = dspy.LM(
        "hosted_vllm/m", api_base=mock.base_url, api_key="k", cache=False, num_retries=0, max_tokens=900
    )
    for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter()):
        with dspy.context(lm=lm, adapter=adapter):
            answer = dspy.Predict(Judge)(post="Rain again.")
        assert (answer.score, answer.share, answer.fine, len(answer.points)) == (5, 5.0, True, 1)
    assert mock.stats.received == 2  # neither style needed a second try


# --- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status"),
    [("rate_limit", 429), ("server_error", 500), ("unauthorized", 401), ("no_model", 404)],
)
def test_error_status_has_an_error_body(start_mock: StartMock, fault: Fault, status: int):
    mock = start_mock(MockConfig(script=[fault], retry_after_seconds=0.5))
    response = ask(mock)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert response.headers.get("Retry-After") == ("0.5" if status == 429 else None)
    assert mock.stats.faults == {fault: 1}
    assert (mock.stats.finished, mock.stats.n_answered) == (1, 0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("truncated_json", json.JSONDecodeError),
        ("empty_body", json.JSONDecodeError),
        ("bad_bytes", UnicodeDecodeError),
        ("no_choices", IndexError),
        ("no_message", KeyError),
    ],
)
def test_spoiled_body_cannot_be_read(start_mock: StartMock, fault: Fault, error: type[Exception]):
    mock = start_mock(MockConfig(script=[fault]))
    response = ask(mock)
    assert response.status_code == 200
    with pytest.raises(error):
        said(response)
    assert mock.stats.faults == {fault: 1}
    assert (mock.stats.finished, mock.stats.n_answered) == (1, 0)


def test_null_content_is_null(start_mock: StartMock):
    assert said(ask(start_mock(MockConfig(script=["null_content"])))) is None


def test_unreadable_answer_ignores_the_format(start_mock: StartMock):
    mock = start_mock(MockConfig(script=["unreadable"]))
    assert "score" not in said(ask(mock, JSON_ENDING))
    assert "score" in said(ask(mock, JSON_ENDING))
    assert mock.stats.n_answered == 1


def test_connection_cut_before_headers(start_mock: StartMock):
    mock = start_mock(MockConfig(script=["cut_before_headers"]))
    with pytest.raises(httpx.TransportError):
        ask(mock)
    assert (mock.stats.received, mock.stats.finished) == (1, 0)


def test_connection_cut_mid_body_after_good_headers(start_mock: StartMock):
    mock = start_mock(MockConfig(script=["cut_mid_body"]))
    body = {"model": "m", "messages": user("hello")}
    with httpx.stream("POST", f"{mock.base_url}/chat/completions", json=body, **LOOPBACK) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    assert (mock.stats.received, mock.stats.finished) == (1, 0)


def test_hanging_request_is_abandoned_when_the_client_leaves(start_mock: StartMock):
    mock = start_mock(MockConfig(script=["hang"]))
    body = {"model": "m", "messages": user("hello")}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{mock.base_url}/chat/completions", json=body, timeout=0.2, **LOOPBACK)
    assert eventually(lambda: mock.stats.abandoned == 1)
    assert (mock.stats.in_flight, mock.stats.finished) == (0, 0)


def test_server_stops_although_a_client_waits():
    began = time.monotonic()
    with mock_thread(MockConfig(script=["hang"])) as mock:
        client = http.client.HTTPConnection(urlsplit(mock.base_url).netloc, timeout=5)
        client.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": user("hello")}))
        assert eventually(lambda: mock.stats.in_flight == 1)
    with pytest.raises(http.client.RemoteDisconnected):
        client.getresponse()
    client.close()
    assert time.monotonic() - began < 3


def test_script_runs_once_then_all_is_fine(start_mock: StartMock):
    mock = start_mock(MockConfig(script=["server_error", "ok", "rate_limit"]))
    assert [ask(mock).status_code for _ in range(5)] == [500, 200, 429, 200, 200]
    mock.reset()
    assert ask(mock).status_code == 500


def test_rates_depend_on_the_prompt_and_not_on_the_order(start_mock: StartMock):
    config = MockConfig(seed=1, rates={"server_error": 0.3, "rate_limit": 0.3})
    prompts = [f"post {i}" for i in range(40)]
    one, other = start_mock(config), start_mock(config)
    forwards = {prompt: ask(one, prompt).status_code for prompt in prompts}
    backwards = {prompt: ask(other, prompt).status_code for prompt in reversed(prompts)}
    assert forwards == backwards
    assert set(forwards.values()) == {200, 429, 500}
    assert 10 <= sum(status != 200 for status in forwards.values()) <= 38


def test_rates_draw_again_when_a_prompt_is_asked_again(start_mock: StartMock):
    mock = start_mock(MockConfig(rates={"server_error": 0.5}))
    assert {ask(mock).status_code for _ in range(20)} == {200, 500}


def test_burst_limits_everything_for_a_while(start_mock: StartMock):
    mock = start_mock(MockConfig(bursts=[(0, 0.8)], retry_after_seconds=None))
    mock.reset()
    response = ask(mock)
    assert response.status_code == 429
    assert "Retry-After" not in response.headers
    time.sleep(0.9)
    assert ask(mock).status_code == 200


def test_wrong_key_and_unknown_model_are_refused(start_mock: StartMock):
    mock = start_mock(MockConfig(api_key="right", models=["m"]))
    assert ask(mock, key="wrong").status_code == 401
    assert ask(mock, key="right", model="other").status_code == 404
    assert ask(mock, key="right").status_code == 200
    assert mock.stats.faults == {"unauthorized": 1, "no_model": 1}


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"model": "m"}', b'{"messages": []}', b"\xff"])
def test_request_that_cannot_be_read_is_a_bad_request(start_mock: StartMock, content: bytes):
    mock = start_mock()
    url = f"{mock.base_url}/chat/completions"
    assert httpx.post(url, content=content, **LOOPBACK).status_code == 400
    assert mock.stats.faults == {"bad_request": 1}


def test_streaming_is_a_bad_request(start_mock: StartMock):
    assert ask(start_mock(), stream=True).status_code == 400


def test_other_addresses_are_not_found(start_mock: StartMock):
    mock = start_mock()
    assert httpx.get(f"{mock.base_url}/nothing", **LOOPBACK).status_code == 404
    assert mock.stats.received == 0


def test_unknown_fault_is_refused_with_the_menu():
    with pytest.raises(ValueError, match=r"unknown faults \['flood'\]; known: .*rate_limit"):
        MockConfig(rates={"flood": 0.1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="more than 1"):
        MockConfig(rates={"hang": 0.6, "server_error": 0.6})


def test_every_fault_is_committed_as_named(start_mock: StartMock):
    script: list[Fault] = [fault for fault in get_args(Fault) if fault != "hang"]
    mock = start_mock(MockConfig(script=script))
    for _ in script:
        try:
            ask(mock)
        except httpx.TransportError:
            continue
    stats = mock.stats
    assert stats.faults == dict.fromkeys(script, 1)
    assert (stats.received, stats.finished, stats.in_flight) == (len(script), len(script) - 2, 0)


# --- latency and counts -----------------------------------------------------------------------------------


def test_latency_has_the_mean_and_spread_asked_for():
    config = MockConfig(latency_seconds=2.0, latency_sigma=0.5)
    draws = [config.latency(f"prompt {i}") for i in range(4000)]
    assert statistics.mean(draws) == pytest.approx(2.0, rel=0.05)
    assert statistics.stdev(draws) == pytest.approx(2.0 * 0.533, rel=0.1)  # sqrt(exp(sigma^2) - 1) = 0.533
    assert draws[0] == config.latency("prompt 0") != MockConfig(latency_seconds=2.0).latency("prompt 0")


def test_constant_latency_delays_every_answer(start_mock: StartMock):
    mock = start_mock(MockConfig(latency_seconds=0.15))
    began = time.monotonic()
    ask(mock)
    assert 0.15 <= time.monotonic() - began < 2


async def test_requests_in_flight_are_counted(start_mock: StartMock):
    mock = start_mock(MockConfig(latency_seconds=0.5))
    url = f"{mock.base_url}/chat/completions"
    bodies = [{"model": "m", "messages": user(f"post {i}")} for i in range(6)]
    async with httpx.AsyncClient(timeout=10, **LOOPBACK) as client:
        await asyncio.gather(*(client.post(url, json=body) for body in bodies))
    assert (mock.stats.received, mock.stats.finished, mock.stats.max_in_flight) == (6, 6, 6)
    assert mock.stats.in_flight == 0


def test_answers_are_counted_per_prompt_and_model(start_mock: StartMock):
    mock = start_mock(MockConfig(script=["server_error"]))
    usage = [
        ask(mock, content, model=model).json().get("usage")
        for content, model in [("a", "m"), ("a", "m"), ("a", "m"), ("a", "n"), ("b", "m")]
    ]
    digest_a, digest_b = prompt_digest(user("a")), prompt_digest(user("b"))
    assert mock.stats.answered == {f"m {digest_a}": 2, f"n {digest_a}": 1, f"m {digest_b}": 1}
    assert (mock.times_answered(user("a")), mock.times_answered(user("c"))) == (3, 0)
    assert mock.stats.output_tokens == sum(u["completion_tokens"] for u in usage if u)
    assert mock.stats.input_tokens == 4


def test_reset_forgets_everything(start_mock: StartMock):
    mock = start_mock()
    ask(mock)
    mock.reset()
    assert mock.stats.to_json() == OpenAIMock().stats.to_json()


# --- thread and process -----------------------------------------------------------------------------------


def test_thread_closes_its_port_at_the_end():
    with mock_thread() as mock:
        ask(mock)
    with pytest.raises(httpx.ConnectError):
        ask(mock)


def test_process_serves_counts_and_stops():
    config = MockConfig(accept=1, script=["server_error"], rates={"rate_limit": 0.0}, bursts=[(50, 60)])
    with mock_process(config) as mock:
        assert ask(mock).status_code == 500
        assert json.loads(said(ask(mock, JSON_ENDING)))["score"] == 5
        assert (mock.stats.received, mock.stats.finished, mock.stats.n_answered) == (2, 2, 1)
        mock.reset()
        assert mock.stats.received == 0
    with pytest.raises(httpx.ConnectError):
        ask(mock)


def test_process_ends_with_its_starter():
    command = [sys.executable, "-m", "tests.servers.openai_mock", "--stop-with-stdin", "--port", "0"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["pid"] == process.pid
            process.stdin.close()
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()  # nothing is done to one that has ended


def test_process_with_unknown_setting_does_not_start(capfd: pytest.CaptureFixture[str]):
    command = [sys.executable, "-m", "tests.servers.openai_mock", "--config", '{"tempo": 3}']
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run(command, cwd=root, check=False, timeout=20).returncode != 0
    assert "tempo" in capfd.readouterr().err
