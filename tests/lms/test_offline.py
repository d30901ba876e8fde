"""The stand-in as an engine: determinism, knobs, waiting, state, streams; and reading prompts of every style."""

import asyncio
import copy
import json
import logging
import re
import time
from typing import Literal

import dspy
import pydantic
import pytest
from dspy.lm15 import StreamDeltaEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from spri_dspy.errors import UsageError
from spri_dspy.lms import offline
from spri_dspy.lms.offline import AsyncOfflineEngine, OfflineEngine
from tests.lms.stand_in import POST, STYLES, Judgement, Rubric, ask, reply, stage_request

DRAFT = stage_request("generate_principles", user_input=POST)


def test_same_prompt_same_answer_and_seeds_or_rollouts_change_it():
    one = OfflineEngine().complete(DRAFT)
    assert OfflineEngine().complete(DRAFT) == one
    by_seed = {OfflineEngine(seed=s).complete(DRAFT).message.text for s in range(8)}
    by_rollout = {OfflineEngine(rollout=lambda s=s: s).complete(DRAFT).message.text for s in range(8)}
    by_request = {reply(DRAFT.messages[0].text, DRAFT.system, seed=s) for s in range(8)}
    assert min(len(by_seed), len(by_rollout), len(by_request)) > 2
    assert one.message.text in by_rollout


async def test_async_engine_waits_without_blocking_and_answers_alike():
    engine, start = OfflineEngine(latency=0.05), time.perf_counter()
    answers = await asyncio.gather(*(AsyncOfflineEngine(engine).complete(DRAFT) for _ in range(20)))
    assert 0.05 <= time.perf_counter() - start < 0.5
    assert {a.message.text for a in answers} == {OfflineEngine().complete(DRAFT).message.text}


@pytest.mark.parametrize("style", [*STYLES, "result_tag"])
def test_unscored_rate_leaves_critiques_without_a_number_and_drafts_alone(style):
    engine, inputs = OfflineEngine(unscored_rate=1.0), {"user_input": POST, "principles": "- Name 3 cars."}
    verdict = ask("critique_principles", style, engine=engine, **inputs)
    assert verdict.score is None
    assert verdict.feedback and not re.search(r"\d", verdict.feedback)
    assert "[[" not in ask("generate_principles", style, engine=engine, user_input=POST).principles


def test_unscored_critique_is_scored_when_asked_again():
    prompt = stage_request("critique_principles", user_input=POST, principles="x")
    engines = [OfflineEngine(unscored_rate=0.5, rollout=lambda n=n: n) for n in range(12)]
    assert 0 < sum("?" in engine.complete(prompt).message.text for engine in engines) < 12


@pytest.mark.parametrize("style", STYLES)
def test_garbage_cannot_be_read_in_any_style(style):
    with pytest.raises(dspy.AdapterParseError):
        ask("generate_principles", style, engine=OfflineEngine(garbage_rate=1.0), user_input=POST)


@pytest.mark.parametrize(
    "knobs",
    [{"unscored_rate": 1.5}, {"garbage_rate": -0.1}, {"latency": float("nan")}, {"speed": 1}],
)
def test_knob_out_of_range_is_refused_by_name(knobs):
    with pytest.raises(UsageError, match=f"{next(iter(knobs))} .* {next(iter(knobs.values()))!r}"):
        OfflineEngine(**knobs)


async def test_engines_survive_deepcopy_and_saved_state():
    engine = OfflineEngine(seed=3, unscored_rate=0.1)
    for made in (engine, AsyncOfflineEngine(engine)):
        state = json.loads(json.dumps(made.dump_state()))
        assert (state["seed"], state["unscored_rate"], state["latency"]) == (3, 0.1, 0)
        assert type(made).load_state(state).dump_state() == state
        answers = [made.complete(DRAFT), copy.deepcopy(made).complete(DRAFT)]
        answers = await asyncio.gather(*answers) if made is not engine else answers
        assert answers[0] == answers[1]


def test_schema_that_contains_itself_ends():
    node = {"type": "object", "properties": {"name": {"type": "string"}, "parts": {"$ref": "#/$defs/nodes"}}}
    schema = {"$defs": {"nodes": {"type": "array", "items": node}}, "type": "object"} | {
        "properties": {"nodes": {"$ref": "#/$defs/nodes"}}
    }
    got = json.loads(reply(POST, "List.", response_format={"type": "json_schema", "schema": schema}))
    assert got["nodes"][0]["parts"][0]["name"]


def test_stream_gives_the_same_text_as_complete():

    async def collect():
        return [event async for event in AsyncOfflineEngine().stream(DRAFT)]

    events = list(OfflineEngine().stream(DRAFT))
    text = "".join(e.delta.text for e in events if isinstance(e, StreamDeltaEvent))
    assert text == OfflineEngine().complete(DRAFT).message.text
    assert asyncio.run(collect()) == events


def test_warning_is_logged_once_a_process(caplog):
    offline._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        OfflineEngine()
        OfflineEngine()
    assert [r.getMessage() for r in caplog.records if r.name == offline.__name__] == [offline.WARNING]


@pytest.mark.parametrize("style", [*STYLES, "result_tag"])
def test_six_stages_parse_in_every_style(style):
    principles = ask("generate_principles", style, user_input=POST).principles
    inputs = {"user_input": POST, "principles": principles}
    verdict = ask("critique_principles", style, **inputs)
    better = ask("refine_principles", style, **inputs, feedback=verdict.feedback).improved_principles
    inputs["principles"] = better
    response = ask("generate_response", style, **inputs).response
    judged = ask("critique_response", style, **inputs, response=response)
    last = ask("refine_response", style, **inputs, response=response, feedback=judged.feedback)
    assert {verdict.score, judged.score} <= set(range(1, 6))
    assert better.startswith("- ") and "father" in better
    assert response != judged.feedback and "[[" not in last.improved_response


class Part(pydantic.BaseModel):
    label: str
    done: bool


class Everything(dspy.Signature):
    """Every type that a field may have."""

    post: str = dspy.InputField()
    note: str = dspy.OutputField()
    ten: int = dspy.OutputField(desc="how strong, 1 to 10")
    bounded: int = dspy.OutputField(ge=7, le=9)
    share: float = dspy.OutputField()
    agree: bool = dspy.OutputField()
    topic: Literal["weather", "father's car", 'a "quote"'] = dspy.OutputField()
    level: Literal[2, 4] | None = dspy.OutputField()
    names: list[str] = dspy.OutputField()
    parts: list[Part] = dspy.OutputField()
    rubric: Rubric = dspy.OutputField()
    judgement: Judgement = dspy.OutputField()


@pytest.mark.parametrize("style", STYLES)
def test_every_field_type_gets_a_value_of_its_type(style):
    got = ask(Everything, style, post=POST)
    assert got.ten in range(1, 11) and got.bounded in (7, 8, 9) and got.level in (2, 4)
    assert isinstance(got.share, float) and isinstance(got.agree, bool)
    assert got.topic in ("weather", "father's car", 'a "quote"')
    assert "my father" in got.names
    assert len(got.parts) == 3 and isinstance(got.parts[0], Part)
    assert "father" in got.rubric.criteria and got.judgement.feedback


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40, deadline=None)
@given(
    post=st.text(),
    principles=st.one_of(
        st.text(), st.sampled_from(["{", "[[ ## score ## ]]", "1. ", "###Feedback:", '{"a": 1}'])
    ),
    feedback=st.one_of(st.text(), st.just('It does not mention "", "x" or " ". x')),
)
def test_any_text_gets_an_answer_that_parses(style, post, principles, feedback):
    inputs = {"user_input": post, "principles": principles}
    assert ask("generate_principles", style, user_input=post).principles
    verdict = ask("critique_principles", style, **inputs)
    assert verdict.feedback and verdict.score in range(1, 6)
    assert ask("refine_principles", style, **inputs, feedback=feedback).improved_principles
    assert ask("generate_response", style, **inputs).response


PIECES = st.sampled_from(
    [
        "[[ ## a ## ]]",
        "###Score:",
        "Your output fields are:",
        "1. `score` (int): 1 to 99",
        "{score}        # note: the value you produce must adhere to the JSON schema: {",
        "Respond with a JSON object in the following order of fields: `x`",
        "Respond with the corresponding output fields, starting with the field `x`",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | PIECES), st.lists(st.text() | PIECES))
def test_any_request_gets_an_answer(system, user):
    assert reply("\n".join([*user, "?"]), "\n".join([*system, "?"]))


def test_request_text_inside_a_field_is_no_request():
    post = POST + "\nRespond with a JSON object in the following order of fields: `cheese`."
    assert "my " in ask("generate_principles", user_input=post).principles


def test_lone_surrogate_is_replaced_by_a_question_mark():
    inputs = "###Post:\nmy \ud800 cat\n\n###Principles:\n- \udfff dog\n\n###Feedback:\nsay more\n\n"
    answer = reply(inputs + "###Improved Principles:")
    assert "? dog" in answer.encode("utf-8").decode()


def test_megabyte_in_a_field_costs_no_second():
    start = time.process_time()
    inputs = {"user_input": "my exam and the father. " * 45_000, "principles": "- Name the exam.\n" * 60_000}
    assert ask("critique_principles", **inputs).score in range(1, 6)
    headers = "\n".join(f"###A{i}:\nx" for i in range(60_000))
    assert reply(f"{headers}\n###Feedback:")
    assert time.process_time() - start < 5


def test_of_two_candidates_the_last_one_is_judged():
    asked = "###Instruction:\nPraise the cat.\n\n###Candidate Response:\nNice cat.\n\n###Rubric:\nIs the cat praised?"
    judged = reply(asked + "\n\n###Response:\nIt praises the cat.\n\n###Feedback:")
    ignored = reply(asked + "\n\n###Response:\nNo idea.\n\n###Feedback:")
    assert int(judged[-1]) >= 4
    assert ignored.endswith("[RESULT] 1")


def test_schema_of_a_request_is_filled_without_any_prompt_style():
    schema = pydantic.create_model("Answer", verdict=Judgement, names=list[str]).model_json_schema()
    got = json.loads(reply(POST, "Judge.", response_format={"type": "json_schema", "schema": schema}))
    assert Judgement(**got["verdict"]).score in range(1, 6)
    assert "my father" in got["names"]
