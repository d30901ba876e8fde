"""Answers that would take all memory, go elsewhere, or hold what cannot be read, by both clients."""

import gzip
import itertools
import json
import time
import tracemalloc
import zlib

import dspy
import pytest
from dspy.utils.exceptions import LMError
from hypothesis import given
from hypothesis import strategies as st

import spri_dspy as spri
from spri_dspy.bulk import run_bulk
from spri_dspy.lms.bodies import MAX_BODY, Body, sound
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.lms.spec import CALL, Call, load_lm
from spri_dspy.runs import RunDir
from spri_dspy.tasks import make_example
from tests.factories import chat, make_task
from tests.servers.raw import http, raw_server

pytestmark = [
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),  # LiteLLM's own types
    pytest.mark.usefixtures("loop_for_litellm"),
]
routes = pytest.mark.parametrize("route", ["native", "litellm"])
ways = pytest.mark.parametrize("way", ["sync", "async", "in a run"])
QUICK = Retry(attempts=6, first_wait=0.01, longest_wait=0.02, patience=0)

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
TEXT = chat(principles="be kind", response="fine", feedback="good", score=5)


TWICE = gzip.compress(gzip.compress(bytes(50_000_000)) * 20)
"""A gigabyte in some hundred bytes."""


def answer(text="fine", **changed):
    choice = ANSWER["choices"][0] | {"message": {"role": "assistant", "content": text}}
    return json.dumps(ANSWER | {"choices": [choice]} | changed).encode()


def call(server, route, way, options=""):
    """One call with six attempts: the outputs, and what it counted."""
    lm = load_lm(f"hosted_vllm/m?api_base={server.base_url}&route={route}&timeout=20{options}")
    counted = Call("stage", "base")
    token = CALL.set(counted)
    messages = [{"role": "system", "content": "answer"}, {"role": "user", "content": "hello"}]
    try:
        is_run = way == "in a run"  # where nobody watches, so that plain calls go a way of their own
        with use_scope(Scope(retry=QUICK)), dspy.context(usage_tracker=counted, disable_history=is_run):
            if way == "sync":
                return lm(messages=messages), counted
            return spri.event_loop.run_to_end(lm.acall(messages=messages)), counted
    finally:
        CALL.reset(token)


def endless(encoding):
    """Bodies that never end: plain, in chunks, or compressed a thousandfold, and that twice over."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    piece = b'{"id": "' + b"x" * 65_000
    if encoding == "chunks":
        yield head + b"Transfer-Encoding: chunked\r\n\r\n"
        yield from itertools.repeat(b"%x\r\n%s\r\n" % (len(piece), piece))
    packer = zlib.compressobj(9, wbits=31)
    if encoding == "plain":
        yield head + b"\r\n"
        yield from itertools.repeat(piece)
    if encoding == "gzip":
        yield head + b"Content-Encoding: gzip\r\n\r\n"
        zeros = bytes(10_000_000)
        while True:
            yield packer.compress(zeros)
    if encoding == "gzip, gzip":
        yield head + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(TWICE)
        yield TWICE


@routes
@ways
@pytest.mark.parametrize("encoding", ["plain", "chunks", "gzip", "gzip, gzip"])
def test_body_that_never_ends_is_cut_off_once_and_costs_little_memory(encoding, route, way):
    load_lm("hosted_vllm/m?api_base=http://127.0.0.1:1/v1&route=" + route)
    with raw_server(lambda request: endless(encoding)) as server:
        tracemalloc.start()
        try:
            with pytest.raises(spri.CallError, match=r"longer than 16 MB; .*max_body=32"):
                call(server, route, way)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(server.requests) == 1, "it would be the same again"
    assert peak < 150_000_000, peak


@routes
@pytest.mark.parametrize(("options", "fits"), [("&max_body=0.5", False), ("&max_body=3", True), ("", True)])
def test_cap_is_an_option_of_the_lm(route, options, fits):
    with raw_server(lambda request: http(answer("x" * 2_000_000))) as server:
        if fits:
            assert call(server, route, "async", options)[0] == ["x" * 2_000_000]
        else:
            with pytest.raises(spri.CallError, match=r"longer than 0\.5 MB; .*max_body=1$"):
                call(server, route, "async", options)


@routes
@ways
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip", "gzip, deflate", "identity"])
def test_compressed_answers_are_read(encoding, route, way):
    body = answer()
    for coding in encoding.split(", "):
        body = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.get(coding, bytes)(
            body
        )
    with raw_server(lambda request: http(body, headers={"Content-Encoding": encoding})) as server:
        assert call(server, route, way)[0] == ["fine"]


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(answer())
FRAMES = {
    "whole": OK + LENGTH + answer(),
    "kept alive": OK + b"Connection: keep-alive\r\n" + LENGTH + answer(),
    "in small letters": OK.lower().replace(b"http", b"HTTP") + LENGTH.lower() + answer(),
    "in chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(answer()), answer()),
    "up to the end": OK + b"\r\n" + answer(),
    "HTTP/1.0": OK.replace(b"1.1", b"1.0") + LENGTH + answer(),
    "lines without CR": OK.replace(b"\r\n", b"\n") + LENGTH + answer(),
    "with a length that another header quotes": OK + b"X-Note: content-length: 3\r\n" + LENGTH + answer(),
    "in two codings": OK + b"Content-Encoding: identity\r\n" + LENGTH + answer(),
}


@ways
@pytest.mark.parametrize("piece", [10_000, 7])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_answers_are_read_however_they_are_framed_and_come(frame, piece, way):
    pieces = [frame[n : n + piece] for n in range(0, len(frame), piece)]
    with raw_server(lambda request: pieces) as server:
        said, counted = call(server, "native", way)
    assert (said, counted.input_tokens, counted.output_tokens) == (["fine"], 3, 2)


@ways
@pytest.mark.parametrize(
    "frame",
    [OK + b"Content-Length: 5\r\n" + LENGTH + answer(), OK + LENGTH + answer()[:-1], OK + LENGTH[:-2], b""],
    ids=["two lengths", "cut off", "a head without an end", "nothing"],
)
def test_broken_frames_are_failed_calls(frame, way):
    with raw_server(lambda request: [frame]) as server, pytest.raises(LMError):
        call(server, "native", way)


def test_answer_that_does_not_come_is_given_up_and_its_connection_is_not_used_again():
    def say(request):
        if len(server.requests) == 1:
            yield OK + LENGTH
            time.sleep(0.6)
        yield b"".join(http(answer(f"call {len(server.requests)}")))

    with raw_server(say) as server:
        lm = load_lm(f"hosted_vllm/m?api_base={server.base_url}&timeout=0.3")
        with use_scope(Scope(retry=QUICK)), dspy.context(disable_history=True):
            begun = time.monotonic()
            messages = [{"role": "system", "content": "answer"}, {"role": "user", "content": "hello"}]
            assert spri.event_loop.run_to_end(lm.acall(messages=messages)) == ["call 2"]
    assert 0.3 <= time.monotonic() - begun < 5
    assert len(server.requests) == 2


@given(st.binary(max_size=2000), st.integers(1, 400), st.integers(1, 3))
def test_decoding_does_not_depend_on_how_the_bytes_come(data, size, members):
    packed = gzip.compress(data) * members
    body = Body("gzip")
    pieces = [body.feed(packed[start : start + size]) for start in range(0, len(packed), size)]
    assert b"".join(pieces) == data * members


def test_cap_counts_what_was_decoded_however_it_comes():
    token = MAX_BODY.set(0.001)
    try:
        with pytest.raises(spri.CallError):
            Body("gzip").feed(gzip.compress(bytes(1001)))
        assert len(Body("gzip").feed(gzip.compress(bytes(1000)))) == 1000
        body = Body("")
        assert sum(len(body.feed(b"x")) for _ in range(1000)) == 1000
        with pytest.raises(spri.CallError):
            body.feed(b"x")
    finally:
        MAX_BODY.reset(token)


# Elsewhere


@routes
@ways
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status, route, way, monkeypatch):
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-not-for-others")
    with raw_server(lambda request: http(answer())) as other:
        there = {"Location": f"{other.base_url}/chat/completions"}
        with raw_server(lambda request: http(b"", status, there)) as server:
            with pytest.raises(spri.UsageError, match=f"sends calls elsewhere .{status} to 'http://127"):
                call(server, route, way)
            assert (len(server.requests), other.requests) == (1, [])


@routes
@ways
@pytest.mark.parametrize(
    "early", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\n" * 3]
)
@pytest.mark.parametrize("together", [True, False])
def test_what_a_server_says_before_its_answer_is_passed_over(early, together, route, way):
    def say(request):
        pieces = [early, *http(answer())]
        return [b"".join(pieces)] if together else pieces

    with raw_server(say) as server:
        assert call(server, route, way)[0] == ["fine"]
        assert len(server.requests) == 1


# What cannot be read

USAGE = {
    "text": "many",
    "a list": [1],
    "words": {"prompt_tokens": "3", "completion_tokens": "two"},
    "negative": {"prompt_tokens": -3, "completion_tokens": -2, "total_tokens": -5},
    "not a number": {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
    "astronomic": {"prompt_tokens": 10**30, "completion_tokens": 2, "total_tokens": 10**30},
    "half": {"prompt_tokens": 2.5, "completion_tokens": True},
    "details": {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": "none"},
    "deep": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}},
    "null": None,
}


@routes
@ways
@pytest.mark.parametrize("usage", USAGE.values(), ids=USAGE)
def test_usage_that_cannot_be_read_is_missing_usage_and_no_failed_call(usage, route, way):
    with raw_server(lambda request: http(answer(usage=usage))) as server:
        outputs, counted = call(server, route, way)
    assert outputs == ["fine"]
    assert len(server.requests) == 1
    readable = usage if isinstance(usage, dict) else {}
    assert counted.input_tokens == (3 if readable.get("prompt_tokens") == 3 else 0)
    assert counted.output_tokens == (2 if readable.get("completion_tokens") == 2 else 0)


GOOD = {"token": "fine", "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": "fine", "logprob": -0.1}]}
LOGPROBS = {
    "text": "none",
    "a list": [GOOD],
    "no list": {"content": "fine"},
    "no tokens": {"content": [1, None, "fine"]},
    "no number": {"content": [GOOD | {"logprob": "low"}]},
    "null": {"content": [GOOD | {"logprob": None}]},
    "not a number": {"content": [GOOD | {"logprob": float("nan")}]},
    "alternatives": {"content": [GOOD | {"top_logprobs": 7}]},
    "one alternative": {"content": [GOOD | {"top_logprobs": [{"token": 1}, *GOOD["top_logprobs"]]}]},
    "bytes": {"content": [GOOD | {"bytes": ["x"]}]},
    "fine": {"content": [GOOD]},
}


@routes
@pytest.mark.parametrize("logprobs", LOGPROBS.values(), ids=LOGPROBS)
def test_logprobs_that_cannot_be_read_are_missing_and_the_answer_stays(logprobs, route):
    choice = ANSWER["choices"][0] | {"logprobs": logprobs}
    with raw_server(lambda request: http(answer(choices=[choice]))) as server:
        lm = load_lm(f"hosted_vllm/m?api_base={server.base_url}&route={route}")
        with use_scope(Scope(retry=QUICK)):
            (output,) = lm(messages=[{"role": "user", "content": "hello"}], logprobs=True, top_logprobs=2)
    text = output if isinstance(output, str) else output["text"]
    assert (text, len(server.requests)) == ("fine", 1)


@routes
@ways
@pytest.mark.parametrize(
    "error", ["overloaded", {"message": "overloaded"}, {"message": "overloaded", "code": 503}, ["overloaded"]]
)
def test_error_that_calls_itself_200_is_an_error_with_its_message(error, route, way):
    body = json.dumps({"error": error}).encode()
    with raw_server(lambda request: http(body)) as server, pytest.raises(LMError, match="overloaded"):
        call(server, route, way)


@routes
def test_error_that_calls_itself_200_is_known_by_its_code(tmp_path, route):
    body = json.dumps({"error": {"message": "no such key", "code": 401}}).encode()
    program = spri.SPRI(make_task())
    with raw_server(lambda request: http(body)) as server, RunDir.create(tmp_path / "run", {}) as run:
        program.set_lms(base=f"hosted_vllm/m?api_base={server.base_url}&route={route}")
        with pytest.raises(
            spri.PrerequisiteError, match=r"every example would fail: LMAuthError: .*no such key"
        ):
            run_bulk(program, [make_example("q", {"question": "why?"})], run)
        assert len(server.requests) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "usage",
                        "choices",
                        "logprobs",
                        "content",
                        "token",
                        "logprob",
                        "error",
                        "prompt_tokens",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_comes_out_as_json(value):
    for body in (
        json.dumps(value).encode(),
        json.dumps({"usage": value, "choices": [{"logprobs": value}]}).encode(),
    ):
        status, made = sound(200, body)
        json.loads(made)
        assert sound(status, made) == (status, made), "what is sound stays as it is"


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000])
def test_what_is_no_json_stays_as_it_is(body):
    assert sound(200, body) == (200, body)
    assert sound(500, body) == (500, body)
