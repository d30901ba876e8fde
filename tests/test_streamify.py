"""`dspy.streamify` on SPRI, as DSPy's users write it: tokens of every candidate response while the server still sends.

The server streams over loopback and stops in the middle of its first streamed answer until the test has seen a token.
"""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener, StreamResponse

import spri_dspy as spri
from tests.factories import scripted
from tests.servers.answers import Author, prompt_digest

POST = {"post": "I failed my exam and feel like a fraud.", "aim": "See what is theirs to answer for."}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class Streaming:
    """What the server does, and what it saw.

    Attributes:
        scores: of the critiques, in order; the last one holds on.
        has_seen: set by the client when it has a first token; no streamed answer ends before.
        streamed: whether each request asked for a stream.
        was_early: whether each streamed answer was waited for in its middle and then went on.
        first: what becomes of the first streamed answer: sound, broken (it ends in the middle), empty, or bare (it
            lacks the header of its field).
    """

    scores: list[int]
    has_seen: threading.Event = field(default_factory=threading.Event)
    streamed: list[bool] = field(default_factory=list)
    was_early: list[bool] = field(default_factory=list)
    finish_reason: str = "stop"
    first: str = "sound"
    url: str = ""

    def answer(self, body):
        """The answer to a prompt; the same prompt gets the same, but for a critique's score."""
        messages = body["messages"]
        is_critique = "[[ ## score ## ]]" in messages[-1]["content"] or '"score"' in messages[-1]["content"]
        score = self.scores[0] if is_critique else 0
        if is_critique and len(self.scores) > 1:
            self.scores.pop(0)
        return Author(prompt_digest(messages), score, 40).answer(messages, body)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        does = self.server.does
        text, is_broken = does.answer(body), False
        if body.get("stream"):
            first, is_broken = does.first, does.first == "broken"
            text = text.replace("[[ ## response ## ]]", "") if first == "bare" else text
            text = "[[ ## response ## ]]\n\n[[ ## completed ## ]]" if first == "empty" else text
            does.first = "sound"
        does.streamed.append(bool(body.get("stream")))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if body.get("stream") else "application/json")
        self.end_headers()
        about = {"id": "r", "model": "m", "created": 1}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": does.finish_reason}
            whole = {**about, "object": "chat.completion", "choices": [choice], "usage": USAGE}
            self.wfile.write(json.dumps(whole).encode())
            return
        about["object"] = "chat.completion.chunk"
        pieces = [text[n : n + 6] for n in range(0, len(text), 6)]
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2 and "[[ ## response" in text:
                if is_broken:
                    return
                does.was_early.append(does.has_seen.wait(10))
            self.event({**about, "choices": [{"index": 0, "delta": {"content": piece}}]})
        end = {"index": 0, "delta": {}, "finish_reason": does.finish_reason}
        self.event({**about, "choices": [end]})
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event({**about, "choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, content):
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *args):
        pass


@contextmanager
def streaming(*scores, **does):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.does = Streaming(list(scores), **does)
        server.does.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.does
        server.shutdown()


def program(does, **loop):
    made = spri.SPRI(spri.load_task("reappraisal"), **loop)
    return made.set_lms(base=f"hosted_vllm/m?api_base={does.url}")


def listeners():
    return [
        StreamListener("response", allow_reuse=True),
        StreamListener("improved_response", allow_reuse=True),
    ]


def stream(does, made, *, is_async, provider=None, wait=0.0, heard=listeners, inputs=POST):
    """Everything that comes, in order; the server may end its answer when the first token is here."""
    streamed = dspy.streamify(
        made, stream_listeners=heard(), status_message_provider=provider, is_async_program=is_async
    )

    async def collect():
        found = []
        async for each in streamed(**inputs):
            found.append(each)
            if isinstance(each, StreamResponse):
                does.has_seen.set()
                await asyncio.sleep(wait)
        return found

    return asyncio.run(collect())


def candidates(found):
    """Each candidate's predictor and text, as they were streamed."""
    whole, text = [], ""
    for each in found:
        if isinstance(each, StreamResponse):
            text += each.chunk
            if each.is_last_chunk:
                whole.append((each.predict_name, text))
                text = ""
    assert text == ""
    return whole


@pytest.mark.parametrize("is_async", [True, False])
def test_tokens_come_before_the_call_ends_and_the_prediction_is_the_same(is_async):
    with streaming(4) as does:
        found = stream(does, program(does), is_async=is_async)
        assert does.was_early == [True]
        assert does.streamed == [False, False, True, False]
        alone = program(does)(**POST)
    *chunks, last = found
    assert len(chunks) > 10
    assert candidates(chunks) == [("response.generate", last.response)]
    assert last.toDict() == alone.toDict()


@pytest.mark.parametrize("is_async", [True, False])
def test_every_round_is_streamed_under_its_predictor_and_the_prediction_says_which_stands(is_async):
    with streaming(4, 2, 3, 1, 2) as does:
        found = stream(does, program(does), is_async=is_async)
    *chunks, last = found
    rounds = [each for each in last.trace if each.stage == "response"]
    names = ["response.generate", *["response.refine"] * 3]
    assert candidates(chunks) == list(zip(names, [each.candidate for each in rounds], strict=True))
    assert last.stop_reasons["response"] == "exhausted"
    assert last.response == rounds[1].candidate != rounds[-1].candidate


def test_keep_last_answers_with_what_was_streamed_last():
    with streaming(4, 3, 1) as does:
        *chunks, last = stream(does, program(does, keep="last", max_critiques=3), is_async=True)
    assert len(candidates(chunks)) == 3 and candidates(chunks)[-1][1] == last.response


def test_listeners_may_be_any_predictor_and_one_alone():
    with streaming(3, 4) as does:
        made = program(does)
        heard = lambda: [StreamListener("principles"), StreamListener("improved_principles")]  # noqa: E731
        *chunks, last = stream(does, made, is_async=True, heard=heard)
    assert [name for name, _ in candidates(chunks)] == ["principles.generate", "principles.refine"]
    assert candidates(chunks)[-1][1] == last.principles


def test_an_answer_without_its_header_comes_with_the_prediction_alone():
    with streaming(4, first="bare") as does:
        (last,) = stream(does, program(does), is_async=True)
    assert does.streamed.count(True) == 1 and last.response.startswith("response ")


@pytest.mark.slow
def test_a_second_sample_of_an_unreadable_answer_is_streamed_too():
    with streaming(4, first="empty") as does:
        *chunks, last = stream(does, program(does), is_async=True)
    assert does.streamed.count(True) == 2
    assert candidates(chunks)[-1] == ("response.generate", last.response)


def test_an_answer_that_breaks_off_is_asked_for_again_and_the_prediction_has_it():
    with streaming(4, first="broken") as does:
        *_, last = stream(does, program(does), is_async=True)
        assert does.streamed.count(True) == 2
        assert last.response == program(does)(**POST).response


def test_an_answer_that_is_cut_off_is_told_of(caplog):
    with streaming(4, finish_reason="length") as does:
        stream(does, program(does), is_async=False)
    assert "an answer was cut off at max_tokens" in caplog.text


def test_json_style_is_streamed_through_dspys_json_adapter():
    with streaming(4, 3, 4) as does:
        made = spri.SPRI(spri.load_task("reappraisal"))
        made.set_lms(base=f"hosted_vllm/m?api_base={does.url}&format=json")
        with dspy.context(adapter=dspy.JSONAdapter()):
            *chunks, last = stream(does, made, is_async=True)
    assert [name for name, _ in candidates(chunks)] == ["response.generate", "response.refine"]
    assert last.response in candidates(chunks)[-1][1]


def test_what_comes_whole_is_the_prediction_alone():
    does, made = Streaming([]), spri.SPRI(spri.load_task("reappraisal")).set_lms(base="offline")
    for is_async in (True, False):
        found = stream(does, made, is_async=is_async)
        assert [each.toDict() for each in found] == [made(**POST).toDict()]
    script = [("generate_principles", "a"), ("critique_principles", "[[ ## score ## ]]\n4")]
    script += [("generate_response", "b"), ("critique_response", "[[ ## score ## ]]\n4")]
    for is_async in (True, False):
        scripted(made, *script)
        assert [each.response for each in stream(does, made, is_async=is_async)] == ["b"]


class Stages(StatusMessageProvider):
    """Says which stage begins, and how many calls there were."""

    def module_start_status_message(self, instance, inputs):
        return getattr(instance, "stage_name", None)

    def lm_end_status_message(self, outputs):
        return "an answer"


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("wait", [0.0, 0.01], ids=["quick reader", "slow reader"])
def test_status_messages_stand_between_the_tokens(is_async, wait):
    found = []

    def work():
        with streaming(4, 3, 4) as does:
            found.extend(stream(does, program(does), is_async=is_async, provider=Stages(), wait=wait))

    thread = threading.Thread(target=work, daemon=True)  # DSPy can block a loop for good
    thread.start()
    thread.join(30)
    assert found and isinstance(found[-1], dspy.Prediction)
    said = [each.message for each in found if isinstance(each, StatusMessage)]
    stages = ["generate_principles", "critique_principles", "generate_response", "an answer"]
    assert said == [*stages, "critique_response", "refine_response", "an answer", "critique_response"]
    kinds = [type(each) for each in found]
    assert kinds.index(StreamResponse) > 2
    assert StreamResponse in kinds[found.index(StatusMessage("refine_response")) :]
    assert len(candidates(found)) == 2
