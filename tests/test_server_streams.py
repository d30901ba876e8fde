"""Streams of the endpoint: signs of life at once, candidates as an LM writes them, and the text that stands."""

import asyncio
import json
import time

import dspy
import httpx
import pytest

from spri_dspy.adapters import style
from spri_dspy.server import stream as server_stream
from spri_dspy.server.drafts import FieldReader
from tests.server_parts import ask, body, client_of, eventually, leaving, listening, program
from tests.servers.openai_mock import MockConfig
from tests.servers.streamed import slow_writer


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
    async with client_of(url, "AsyncOpenAI") as client:
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


def heard(url, **more):
    """What a client of OpenAI's gets of a stream: (seconds, kind, text) a chunk, and the whole content."""
    began, found = time.perf_counter(), []
    with client_of(url) as client:
        for chunk in client.chat.completions.create(**body(stream=True), **more):
            for choice in chunk.choices:
                draft = getattr(choice.delta, "reasoning_content", None)
                kind, text = ("draft", draft) if draft else ("content", choice.delta.content)
                found.append((time.perf_counter() - began, kind, text or ""))
    return found, "".join(text for _, kind, text in found if kind == "content")


DRAFTS = {"extra_body": {"spri": {"drafts": True}}}


def test_the_first_sign_and_the_first_token_come_long_before_the_end():
    with slow_writer(scores=[3, 4], seconds=0.02) as lm, listening(program(lm)) as (url, _):
        ask(url)  # whatever is loaded at the first request
        found, text = heard(url, **DRAFTS)
        seconds = [at for at, _, _ in found]
        drafts = [at for at, kind, _ in found if kind == "draft"]
        assert drafts[0] < 0.5 * seconds[-1]
        assert len(drafts) > 20
        assert text in lm.answers[-2]
        with httpx.stream("POST", f"{url}/chat/completions", json=body(stream=True), timeout=30) as answer:
            assert next(answer.iter_lines()).startswith(":")  # a comment, before anything is written


def test_drafts_are_what_the_lm_wrote_each_under_its_stage_and_the_content_is_what_stands():
    with slow_writer(scores=[4, 2, 3, 1, 2]) as lm, listening(program(lm)) as (url, _):
        found, text = heard(url, **DRAFTS)
        with client_of(url) as client:
            lm.scores[:] = [4, 2, 3, 1, 2]
            whole = client.chat.completions.create(**body(), extra_body={"spri": {"trace": True}})
    thought = "".join(draft for _, kind, draft in found if kind == "draft")
    candidates = [each.split("\n\n", 1)[1] for each in ("\n\n" + thought).split("\n\n**")[1:]]
    rounds = [each["candidate"] for each in whole.spri["trace"]]
    assert candidates == rounds
    assert thought.startswith("**generate_principles**")
    assert [line for line in thought.splitlines() if line.startswith("**")][1:] == [
        "**generate_response**",
        *["**refine_response**"] * 3,
    ]
    assert text == whole.choices[0].message.content == rounds[2] != rounds[-1]


# LiteLLM reads its own types in a way that Pydantic wants to be left.
by_litellm = pytest.mark.filterwarnings("ignore:Accessing the 'model_")


@by_litellm
@pytest.mark.parametrize("options", [{"format": "json"}, {"format": "result_tag"}, {"route": "litellm"}])
def test_drafts_come_in_every_prompt_style_and_by_litellm(options):
    with slow_writer() as lm, listening(program(lm, **options)) as (url, _):
        found, text = heard(url, **DRAFTS)
    thought = "".join(draft for _, kind, draft in found if kind == "draft")
    assert thought.endswith(f"**generate_response**\n\n{text}")
    assert "{" not in thought and "[[" not in thought


def test_an_answer_that_breaks_off_is_begun_anew_and_the_content_is_whole():
    with slow_writer(breaks=1) as lm, listening(program(lm)) as (url, _):
        found, text = heard(url, **DRAFTS)
        assert ask(url).json()["choices"][0]["message"]["content"] == text
    thought = "".join(draft for _, kind, draft in found if kind == "draft")
    assert thought.count("**generate_principles**") == 2
    assert lm.begun == 3 and lm.ended == 2


def test_the_operator_says_whether_drafts_are_shown_and_a_request_may_say_otherwise():
    with slow_writer(seconds=0) as lm:
        with listening(program(lm), drafts=True) as (url, _):
            assert "draft" in {kind for _, kind, _ in heard(url)[0]}
            silent = {"extra_body": {"spri": {"drafts": False}}}
            assert {kind for _, kind, _ in heard(url, **silent)[0]} == {"content"}
        with listening(program(lm)) as (url, _):
            assert {kind for _, kind, _ in heard(url)[0]} == {"content"}
            assert ask(url, spri={"drafts": True}).json()["choices"]  # an answer that is no stream has none


@by_litellm
def test_usage_of_streamed_calls_is_summed_too():
    for options in ({}, {"route": "litellm"}):
        with slow_writer(seconds=0) as lm, listening(program(lm, **options)) as (url, service):
            with client_of(url) as client:
                asked = {"stream_options": {"include_usage": True}, **DRAFTS}
                *chunks, last = client.chat.completions.create(**body(stream=True), **asked)
            assert lm.streamed == [True, False, True, False]
            assert not last.choices and last.usage.total_tokens == 40
            assert all(chunk.usage is None for chunk in chunks)
            assert sum(used.calls for used in service.meter.used.values()) == 4


async def test_asynchronous_clients_get_drafts_of_their_own():
    async def thought(client, number):
        stream = await client.chat.completions.create(**body(f"post {number}", stream=True), **DRAFTS)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        drafts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        return drafts, "".join(delta.content or "" for delta in deltas)

    with slow_writer(seconds=0.001) as lm, listening(program(lm)) as (url, _):
        async with client_of(url, "AsyncOpenAI") as client:
            found = await asyncio.gather(*(thought(client, number) for number in range(20)))
    assert len({text for _, text in found}) == 20
    assert all(drafts.endswith(text) for drafts, text in found)


@by_litellm
@pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict")
async def test_litellm_shows_drafts_as_reasoning():
    import litellm

    with slow_writer(seconds=0.001) as lm, listening(program(lm), drafts=True) as (url, _):
        asked = {"model": "openai/spri/reappraisal", "api_base": url, "api_key": "none"}
        stream = await litellm.acompletion(messages=body()["messages"], stream=True, **asked)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        text = "".join(delta.content or "" for delta in deltas)
        thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        assert text == ask(url).json()["choices"][0]["message"]["content"]
        assert thought.endswith(text)


async def test_dspy_streams_from_the_endpoint():
    with slow_writer(seconds=0.001) as lm, listening(program(lm)) as (url, _):
        asked = dspy.LM("openai/spri/reappraisal", api_base=url, api_key="none", cache=False)
        streamed = dspy.streamify(dspy.Predict("post -> answer"), is_async_program=True)
        with dspy.context(lm=asked, adapter=style("result_tag")):  # it answers in no form of DSPy's
            *chunks, last = [each async for each in streamed(post="I failed.")]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == last.answer and text.startswith("response ")


def test_a_client_that_leaves_ends_the_stream_of_its_lm():
    with slow_writer(seconds=0.05, words=400) as lm, listening(program(lm), drafts=True) as (url, service):
        clients = [leaving(url, stream=True) for _ in range(8)]
        eventually(lambda: lm.begun == 8 and lm.pieces > 16)
        for client in clients:
            client.close()
        eventually(lambda: lm.left == 8 and service.in_flight == service.waiting == 0)
        assert lm.ended == 0


def test_long_waits_are_bridged_by_comments(monkeypatch, start_mock):
    monkeypatch.setattr(server_stream, "SECONDS_BETWEEN_SIGNS", 0.05)
    mock = start_mock(MockConfig(latency_seconds=0.15, accept=1))
    with listening(program(mock), concurrency=1) as (url, service):
        with leaving(url):
            eventually(lambda: service.in_flight == 1)
            waited = ask(url, stream=True).text
        for_place, for_lms = waited.split(": generate_principles")
        assert for_place.startswith(": accepted\n\n: waiting\n\n")
        assert for_lms.count(": waiting\n\n") >= 4
        assert (
            json.loads(waited.split("data: ")[1].split("\n")[0])["choices"][0]["delta"]["role"] == "assistant"
        )


def read(answer, field="response", size=1, **options):
    """A field of an answer that comes in pieces."""
    reader = FieldReader(field, **options)
    given = [reader.push(answer[n : n + size]) for n in range(0, len(answer), size)]
    return "".join([*given, reader.push("", is_last=True)])


CHAT = "[[ ## reasoning ## ]]\nx\n\n[[ ## response ## ]]\n{}\n\n[[ ## completed ## ]]"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", ["one", "a [b] [[c]] [[ d\n\n\ne", "[x](y) é 😀", "[[ ## ]]", 'say "so"'])
def test_a_field_is_read_as_it_comes(text, size):
    assert read(CHAT.format(text), size=size) == text
    assert read("<think>\n[[ ## response ## ]] no</think>" + CHAT.format(text), size=size) == text
    assert read(json.dumps({"reasoning": "r", "response": text, "z": 1}), size=size) == text
    assert read(f"```json\n{json.dumps({'response': text}, ensure_ascii=False)}\n```", size=size) == text
    assert read(text, size=size, is_plain=True) == text
    assert read(text, size=size) == ""


@pytest.mark.parametrize("form", [CHAT, '{{"response": "{}"}}'])
def test_reading_grows_with_the_answer_and_not_with_its_square(form):
    def seconds(n):
        began = time.process_time()
        assert len(read(form.format("word " * n).replace(" \n", "\n"), size=5)) >= 5 * n - 1
        return time.process_time() - began

    seconds(100)
    assert min(seconds(32_000) for _ in range(3)) < 16 * min(seconds(4_000) for _ in range(5))
