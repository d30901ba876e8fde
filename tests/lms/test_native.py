"""DSPy's native client as an engine of ours: the same requests as DSPy's own, with the way looked up once."""

import asyncio
import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import pytest
from dspy.clients.call_result import usage_dict
from dspy.lm15 import Message, Request, Response, Usage

import spri_dspy as spri
from spri_dspy.lms.native import AsyncNativeEngine, NativeEngine
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.lms.spec import load_lm

REPLY = {
    "id": "r",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Fine."}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Fi"}}]},
    {"choices": [{"index": 0, "delta": {"content": "ne."}, "finish_reason": "stop"}]},
]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you? 🙂"}]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.raw, self.connections = [], [], 0
        self.says, self.status, self.body = "Fine.", 200, None
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def get_request(self):
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        self.server.raw.append(raw)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, headers, body))
        if body.get("stream"):
            lines = "".join(f"data: {json.dumps({'id': 'r', 'model': 'm', **c})}\n\n" for c in CHUNKS)
            self.reply("text/event-stream", f"{lines}data: [DONE]\n\n".encode())
        else:
            reply = json.dumps(REPLY).replace("Fine.", json.dumps(self.server.says)[1:-1])
            self.reply("application/json", reply.encode() if self.server.body is None else self.server.body)

    def reply(self, kind, body):
        self.send_response(self.server.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


async def ask(lm, messages=MESSAGES):
    return await lm.acall(messages=messages)


class Tracker:
    def __init__(self):
        self.seen = []

    def add_usage(self, lm, entry):
        self.seen.append((lm, entry))


def both_ways(lm, messages=MESSAGES):
    """What a call gives, or raises, and what it takes: straight to the engine, and by way of DSPy's own `acall`."""
    found = []
    for disable_history in (True, False):
        tracker = Tracker()
        with (
            dspy.context(disable_history=disable_history, usage_tracker=tracker),
            use_scope(Scope(retry=ONCE)),
        ):
            try:
                said = asyncio.run(ask(lm, messages))
            except Exception as error:
                said = type(error), str(error), getattr(error, "status", None)
        found.append((said, tracker.seen))
    assert len(lm.history) == int(isinstance(found[1][0], list)), "only the second call is one that DSPy sees"
    lm.history.clear()
    return found


ONCE = Retry(attempts=1, patience=0)
OPTIONS = [
    "",
    "&temperature=0&max_tokens=7",
    "&seed=3&top_p=0.5&presence_penalty=0.25",
    "&reasoning_effort=low",
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_sent_is_what_dspy_itself_would_send(server, options, way):
    lm = load_lm(f"hosted_vllm/m?api_base={server.url}{options}")
    assert isinstance(lm.engine, NativeEngine)
    own = dspy.LM(f"{lm.engine.route.provider}/m", cache=False, num_retries=0, **lm.kwargs)
    for each in (lm, own):
        with dspy.context(disable_history=True):
            said = asyncio.run(ask(each)) if way == "async" else each(messages=MESSAGES)
        assert said == ["Fine."]
    (path, headers, body), (own_path, own_headers, own_body) = server.seen
    assert (path, body) == (own_path, own_body) and body["messages"][-1]["content"].endswith("🙂")
    assert headers == own_headers | {"host": headers["host"]}


TALK = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "messages", [MESSAGES, TALK, TALK[1:], [*TALK, TALK[0]]], ids=["one", "talk", "bare", "late"]
)
def test_short_way_and_dspys_own_send_and_give_the_same(server, options, messages):
    short, own = both_ways(load_lm(f"hosted_vllm/m?api_base={server.url}{options}"), messages)
    assert short == own and short[0] == ["Fine."] and short[1][0][1]["total_tokens"] == 5
    assert server.raw[0] == server.raw[1]


@pytest.mark.parametrize(
    "reply",
    [
        (500, b"{}"),
        (401, b'{"error": {"message": "no"}}'),
        (404, b"?"),
        (429, b""),
        (200, b"<html>"),
    ],
    ids=str,
)
def test_short_way_and_dspys_own_fail_alike(server, reply):
    server.status, server.body = reply
    short, own = both_ways(load_lm(f"hosted_vllm/m?api_base={server.url}"))
    assert short == own and isinstance(short[0], tuple)


def test_thinking_and_the_limit_of_tokens_come_through_alike(server, caplog):
    choice = {"index": 0, "finish_reason": "length", "message": {"content": "Fi", "reasoning_content": "Hm."}}
    server.body = json.dumps(REPLY | {"choices": [choice]}).encode()
    short, own = both_ways(load_lm(f"hosted_vllm/m?api_base={server.url}"))
    assert short == own and short[0] == [{"text": "Fi", "reasoning_content": "Hm."}]
    assert [r.levelname for r in caplog.records if "cut off" in r.message or "truncated" in r.message] == [
        "WARNING"
    ] * 2


@pytest.mark.parametrize("provider", ["openai-chat", "anthropic", "gemini"])
def test_tokens_are_counted_as_dspy_counts_them_for_the_provider(provider, monkeypatch):
    """Gemini tells thinking apart from its answer, Anthropic what its cache gave; both are paid."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    route = replace(load_lm("openai/gpt-4o-mini").engine.route, provider=provider)
    usage = Usage(input_tokens=10, output_tokens=20, cache_read_tokens=3, reasoning_tokens=7, total_tokens=40)
    answer = Response(
        id="r", model="m", message=Message.assistant("Fine."), finish_reason="stop", usage=usage
    )
    counts = {k: v for k, v in usage_dict(route.finished(answer)).items() if isinstance(v, int)}
    assert counts == {k: v for k, v in usage_dict(answer, provider).items() if isinstance(v, int)}
    expected = {"openai-chat": (10, 20), "anthropic": (13, 20), "gemini": (10, 27)}[provider]
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == expected


def test_text_that_no_server_can_be_sent_is_refused_with_a_reason(server):
    messages = [MESSAGES[0], {"role": "user", "content": "broken \ud83d"}]
    short, own = both_ways(load_lm(f"hosted_vllm/m?api_base={server.url}"), messages)
    assert short == own and "lone surrogate" in short[0][1] and not server.seen


def test_callbacks_see_every_call(server, tmp_path):
    class Watcher(dspy.utils.callback.BaseCallback):
        starts = 0

        def on_lm_start(self, call_id, instance, inputs):
            self.starts += 1

    server.says = (
        "[[ ## principles ## ]]\nA.\n[[ ## response ## ]]\nB.\n[[ ## feedback ## ]]\nC.\n[[ ## score ## ]]\n5"
    )
    task, watcher = spri.load_task("reappraisal"), Watcher()
    program = spri.SPRI(task).set_lms(base=f"hosted_vllm/m?api_base={server.url}")
    with dspy.context(callbacks=[watcher]):
        spri.run_bulk(program, [task.example_of(id="a", post="I lost my keys.")], tmp_path / "run")
    assert watcher.starts == len(server.seen) == 4


def test_calls_one_after_another_share_a_connection_and_each_loop_has_its_own(server):
    lm = load_lm(f"hosted_vllm/m?api_base={server.url}")

    async def three():
        for _ in range(3):
            await ask(lm)

    asyncio.run(three())
    assert server.connections == 1
    asyncio.run(three())
    assert (server.connections, len(server.seen)) == (2, 6)
    assert len(lm._async_engine_spec._clients) == 1, "the loop that is closed is forgotten"
    lm(messages=MESSAGES)
    lm(messages=MESSAGES)
    assert server.connections == 3


def test_answers_can_be_streamed(server):
    lm = load_lm(f"hosted_vllm/m?api_base={server.url}")
    request = Request(model=lm.model, messages=(Message.user("Hello"),))
    kinds = [event.type for event in lm.engine.stream(request)]
    assert (kinds[0], kinds[-1]) == ("start", "end")

    async def stream():
        return [event.type async for event in lm._async_engine_spec.stream(request)]

    assert asyncio.run(stream()) == kinds


def test_program_saved_with_the_lm_finds_its_server_again_and_holds_no_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-hidden")
    predict = dspy.Predict("question -> answer")
    predict.lm = load_lm(f"hosted_vllm/m?api_base={server.url}&temperature=0.2")
    predict.save(tmp_path / "plain.json")
    assert "sk-hidden" not in (tmp_path / "plain.json").read_text()
    again = dspy.Predict("question -> answer")
    again.load(tmp_path / "plain.json", allow_unsafe_lm_state=True)
    assert type(again.lm.engine) is NativeEngine
    assert type(again.lm._async_engine_spec) is AsyncNativeEngine
    assert asyncio.run(ask(again.lm)) == again.lm(messages=MESSAGES) == ["Fine."]
    assert [body["temperature"] for _, _, body in server.seen] == [0.2, 0.2]
    assert {headers["authorization"] for _, headers, _ in server.seen} == {"Bearer sk-hidden"}


def test_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "")
    lm = load_lm("hosted_vllm/m?api_base=http://nowhere.invalid:81/v1")
    assert asyncio.run(ask(lm)) == lm(messages=MESSAGES) == ["Fine."]
    assert {path for path, _, _ in server.seen} == {"http://nowhere.invalid:81/v1/chat/completions"}


@pytest.mark.parametrize(
    "text", ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "groq/llama-3.1-8b-instant"]
)
def test_providers_that_the_native_client_knows_need_no_litellm(text, monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GROQ_API_KEY"):
        monkeypatch.setenv(name, "sk-test")
    lm, own = load_lm(text), dspy.LM(text)
    assert isinstance(lm.engine, NativeEngine)
    for name in (
        "supports_response_schema",
        "supports_function_calling",
        "supports_reasoning",
        "supported_params",
    ):
        assert getattr(lm, name) == getattr(own, name), name


def test_what_the_native_client_cannot_carry_goes_to_litellm(monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", "sk-azure")
    lm = load_lm("azure/my-deployment?api_base=https://e.test&api_version=2024-10-21")
    assert isinstance(lm.engine, str) and lm.timeout == 120


def test_native_route_refuses_what_it_cannot_carry(monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", "sk-azure")
    with pytest.raises(spri.UsageError, match="DSPy refuses the LM azure/d"):
        load_lm("azure/d?api_base=https://e.test&api_version=2024-10-21&route=native")


@pytest.mark.parametrize("style", ["chat", "json", "result_tag"])
def test_requests_of_a_stage_are_the_same_bytes_up_to_the_input(server, tmp_path, style):
    """What the prefix caches of providers and model servers want: instructions and seeds first, the input last."""
    fields = ("principles", "response", "feedback")
    server.says = "".join(f"[[ ## {name} ## ]]\nGo on.\n\n" for name in fields) + "[[ ## score ## ]]\n5"
    task = spri.load_task("reappraisal")
    program = spri.SPRI(task).set_lms(base=f"hosted_vllm/m?api_base={server.url}&format={style}")
    posts = [f"Post {n}: I lost my keys again." for n in range(6)]
    aim = next(task.examples()).input_values["aim"]
    examples = [task.example_of(id=str(n), post=post, aim=aim) for n, post in enumerate(posts)]
    spri.run_bulk(program, examples, tmp_path / "run")
    by_stage = {}
    for raw in server.raw:
        by_stage.setdefault(json.loads(raw)["messages"][0]["content"], []).append(raw)
    assert sorted(map(len, by_stage.values())) == [6] * 4
    for bodies in by_stage.values():
        same = os.path.commonprefix(bodies)  # noqa: RUF071 - bytes, not paths
        # A critique's input begins with the code of its fence, which each input has its own of.
        assert same.endswith((b"Post ", b"<<< ")) and len(json.loads(bodies[0])["messages"]) >= 2, same[-200:]
