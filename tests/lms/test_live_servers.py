"""One example end to end over HTTP: llama.cpp's own server, and a loopback server behind both clients."""

import asyncio

import pytest

import spri_dspy as spri
from spri_dspy.lms.spec import MAX_CHARS
from tests.servers.answers import Author, prompt_digest

# LiteLLM's own types warn while pydantic reads them.
pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning")


@pytest.fixture(autouse=True)
def loop_for_litellm():
    """LiteLLM makes an event loop when it is called without one, and never closes it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="module")
def task():
    return spri.load_task("reappraisal")


@pytest.fixture(scope="module")
def example(task):
    return next(iter(task.examples()))


def schema_of(entry):
    return entry["kwargs"]["response_format"].model_json_schema()


def check(prediction):
    """What holds for every finished example, whatever the words are."""
    assert isinstance(prediction.principles, str) and prediction.principles
    assert isinstance(prediction.response, str) and prediction.response
    assert {r.stage for r in prediction.trace} == {"principles", "response"}
    for one in prediction.trace:
        assert one.verdict.score is None or (type(one.verdict.score) is int and 1 <= one.verdict.score <= 5)
        assert one.verdict.feedback


# A model with random weights writes on until it is stopped: 60 characters of feedback leave room for the score.
SMALL = "format=json&max_tokens=300&max_chars=60&temperature=0.7&seed=1"


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_llama_server_is_held_to_the_schema(llama_url, task, example, is_async):
    program = spri.SPRI(task, max_critiques=2)
    program.set_lms(base=f"hosted_vllm/tiny?api_base={llama_url}&{SMALL}")
    prediction = (
        asyncio.run(program.acall(**example.input_values)) if is_async else program(**example.input_values)
    )
    check(prediction)
    assert all(type(r.verdict.score) is int and len(r.verdict.feedback) <= 60 for r in prediction.trace)
    calls = program.get_lm().history
    assert {type(call["response"]).__module__.partition(".")[0] for call in calls} == {"dspy"}
    critiques = [call for call in calls if "score" in schema_of(call)["properties"]]
    assert len(critiques) == len(prediction.trace)
    assert {call["response"].finish_reason for call in critiques} == {"stop"}
    assert prediction.usage["base"].calls + prediction.usage["critic"].calls == len(calls)
    assert all(call["usage"]["completion_tokens"] > 0 for call in calls)


def run_on_mock(start_mock, task, example, options):
    """The prediction, what reached the server, and which client brought it."""
    bodies = []

    def reply(messages, body):
        bodies.append(body)
        return Author(prompt_digest(messages), 4, 12).answer(messages, body)

    server = start_mock(reply=reply)
    program = spri.SPRI(task).set_lms(base=f"hosted_vllm/org/model?api_base={server.base_url}&{options}")
    prediction = program(**example.input_values)
    check(prediction)
    assert prediction.stop_reasons == {"principles": "accepted", "response": "accepted"}
    assert server.stats.n_answered == len(bodies) == 4
    clients = {type(call["response"]).__module__.partition(".")[0] for call in program.get_lm().history}
    return prediction, bodies, clients


CRITIQUE_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["feedback", "score"],
    "properties": {
        "feedback": {"type": "string", "title": "Feedback", "maxLength": MAX_CHARS},
        "score": {"type": "integer", "title": "Score", "enum": [1, 2, 3, 4, 5]},
    },
    "title": "DSPyProgramOutputs",
}


@pytest.mark.parametrize(("route", "client"), [("auto", "dspy"), ("native", "dspy"), ("litellm", "litellm")])
def test_both_clients_send_the_same_schema(start_mock, task, example, route, client):
    _, bodies, clients = run_on_mock(start_mock, task, example, f"format=json&route={route}")
    assert clients == {client}
    assert all(body["response_format"]["type"] == "json_schema" for body in bodies)
    assert all(body["response_format"]["json_schema"]["strict"] for body in bodies)
    schemas = [body["response_format"]["json_schema"]["schema"] for body in bodies]
    assert schemas[1] == schemas[3] == CRITIQUE_SCHEMA
    assert [list(schema["properties"]) for schema in schemas[::2]] == [["principles"], ["response"]]


@pytest.mark.parametrize("route", ["native", "litellm"])
@pytest.mark.parametrize("style", ["chat", "result_tag"])
def test_both_clients_send_the_same_prompts(start_mock, task, example, route, style):
    _, bodies, _ = run_on_mock(start_mock, task, example, f"format={style}&route={route}")
    prediction, plain, _ = run_on_mock(start_mock, task, example, f"format={style}")
    assert [body["messages"] for body in bodies] == [body["messages"] for body in plain]
    assert not any("response_format" in body for body in bodies)
    assert all(r.verdict.score == 4 for r in prediction.trace)


def test_critic_and_base_ask_their_own_server_in_their_own_style(start_mock, task, example):
    base = start_mock(reply=lambda messages, body: "be kind")
    critic = start_mock(reply=lambda messages, body: "It is. [RESULT] 5")
    program = spri.SPRI(task).set_lms(
        base=f"hosted_vllm/base?api_base={base.base_url}",
        critic=f"hosted_vllm/critic?api_base={critic.base_url}&format=result_tag&temperature=0",
    )
    prediction = program(**example.input_values)
    check(prediction)
    assert (base.stats.n_answered, critic.stats.n_answered) == (2, 2)
    assert {key.split()[0] for key in critic.stats.answered} == {"critic"}
    assert prediction.usage["base"].calls == prediction.usage["critic"].calls == 2


def test_unscored_critique_over_http_is_asked_again_as_a_new_sample(start_mock, task, example):
    asked = []

    def reply(messages, body):
        if "[RESULT]" not in messages[0]["content"]:
            return "be kind"
        asked.append(body)
        return "It depends." if len(asked) < 3 else "It does. [RESULT] 4"

    server = start_mock(reply=reply)
    address = f"api_base={server.base_url}&format=result_tag"
    program = spri.SPRI(task).set_lms(
        base=f"hosted_vllm/m?{address}", critic=f"hosted_vllm/m?{address}&temperature=0"
    )
    prediction = program(**example.input_values)
    assert [r.attempt for r in prediction.trace] == [0, 1, 2, 0]
    assert prediction.stop_reasons["principles"] == "accepted"
    assert [body["temperature"] for body in asked] == [0, 0.7, 0.7, 0]
    assert not any("rollout_id" in body for body in asked)
