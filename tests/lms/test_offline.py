"""The stand-in's engines: determinism, knobs, waiting, state, streams, and the instant double."""

import asyncio
import copy
import json
import logging
import re
import time

import dspy
import pytest
from dspy.lm15 import ServerError

from spri_dspy.errors import UsageError
from spri_dspy.lms import offline
from spri_dspy.lms.offline import AsyncInstantEngine, AsyncOfflineEngine, InstantEngine, OfflineEngine
from tests.lms.stand_in import (
    POST,
    STYLES,
    Critique,
    Draft,
    Everything,
    Respond,
    ask,
    chat_request,
    reply,
    request,
)


def test_same_prompt_same_answer_and_seeds_or_rollouts_change_it():
    prompt = chat_request(Draft, post=POST, aim="")
    one = OfflineEngine().complete(prompt)
    assert OfflineEngine().complete(prompt) == one
    by_seed = {OfflineEngine(seed=s).complete(prompt).message.text for s in range(8)}
    by_rollout = {OfflineEngine(rollout=lambda s=s: s).complete(prompt).message.text for s in range(8)}
    assert len(by_seed) > 2
    assert len(by_rollout) > 2
    assert one.message.text in by_rollout


def test_request_seed_changes_the_answer():
    text, system = (
        m["content"] for m in dspy.ChatAdapter().format(Draft, [], {"post": POST, "aim": ""})[::-1]
    )
    assert len({reply(text, system, seed=s) for s in range(8)}) > 2


def test_vary_answers_equal_requests_differently():
    prompt, engine = chat_request(Draft, post=POST, aim=""), OfflineEngine(vary=True)
    assert len({engine.complete(prompt).message.text for _ in range(8)}) > 2


def test_usage_counts_words_of_prompt_and_answer():
    response = OfflineEngine().complete(request("one two three", "four five six"))
    assert response.usage.input_tokens == 8
    assert response.usage.output_tokens == len(response.message.text.split()) * 4 // 3


def test_latency_waits_and_jitter_spreads_it():
    engine, prompts = OfflineEngine(latency=0.01, jitter=0.5), [request(f"number {i}") for i in range(400)]
    waits = sorted(engine.wait(engine.key(p)) for p in prompts)
    assert 0.008 < waits[200] < 0.0125
    assert waits[-1] > 0.02
    start = time.perf_counter()
    OfflineEngine(latency=0.02).complete(prompts[0])
    assert time.perf_counter() - start >= 0.02


async def test_async_engine_waits_without_blocking_and_answers_alike():
    engine, prompt = OfflineEngine(latency=0.05), chat_request(Draft, post=POST, aim="")
    start = time.perf_counter()
    answers = await asyncio.gather(*(AsyncOfflineEngine(engine).complete(prompt) for _ in range(20)))
    assert 0.05 <= time.perf_counter() - start < 0.5
    assert set(a.message.text for a in answers) == {OfflineEngine().complete(prompt).message.text}


async def test_async_program_gets_the_synchronous_answer():
    engine = OfflineEngine()
    lm = dspy.LM("offline/rules", engine=engine, async_engine=AsyncOfflineEngine(engine), cache=False)
    with dspy.context(lm=lm, adapter=STYLES["chat"]()):
        later = await dspy.Predict(Draft).acall(post=POST, aim="")
    assert later.principles == ask(Draft, post=POST, aim="").principles


def test_fail_rate_fails_by_prompt_and_attempt():
    prompts = [request(f"number {i}") for i in range(300)]

    def failures(engine):
        failed = []
        for prompt in prompts:
            try:
                engine.complete(prompt)
            except ServerError:
                failed.append(prompt)
        return failed

    engine = OfflineEngine(fail_rate=0.3)
    first, second = failures(engine), failures(engine)
    assert 60 < len(first) < 120
    assert first == failures(OfflineEngine(fail_rate=0.3))
    assert first != second
    assert failures(OfflineEngine(fail_rate=1.0)) == prompts


def test_unscored_rate_leaves_critiques_without_a_readable_number():
    engine = OfflineEngine(unscored_rate=1.0)
    with pytest.raises(dspy.AdapterParseError) as error:
        ask(Critique, engine=engine, post=POST, aim="", principles="- Name 3 cars.")
    assert not re.search(r"\d", error.value.lm_response)
    assert "[RESULT]" not in reply("###Post:\nx\n\n###Principles:\ny\n\n###Feedback:", engine=engine)
    demo = dspy.Example(post=POST, aim="", principles="1. Sit.\n2. Rest.")
    assert ask(Draft, engine=engine, post=POST, aim="", demos=[demo]).principles.startswith("1. ")


def test_unscored_critique_is_scored_when_asked_again():
    tries = [
        OfflineEngine(unscored_rate=0.5, rollout=lambda n=n: n).complete(
            chat_request(post=POST, aim="", principles="x")
        )
        for n in range(12)
    ]
    assert 0 < sum("cannot say" in t.message.text for t in tries) < 12


@pytest.mark.parametrize("style", STYLES)
def test_garbage_cannot_be_read_in_any_style(style):
    with pytest.raises(dspy.AdapterParseError):
        ask(Draft, style, engine=OfflineEngine(garbage_rate=1.0), post=POST, aim="")


@pytest.mark.parametrize(
    "knobs", [{"fail_rate": 1.5}, {"garbage_rate": -0.1}, {"latency": -1.0}, {"jitter": float("nan")}]
)
def test_knob_out_of_range_is_refused_by_name(knobs):
    with pytest.raises(UsageError, match=f"{next(iter(knobs))} .* {next(iter(knobs.values()))!r}"):
        OfflineEngine(**knobs)


def test_engines_survive_deepcopy_and_saved_state():
    engine = OfflineEngine(seed=3, fail_rate=0.1, vary=False)
    lm = dspy.LM("offline/rules", engine=engine, async_engine=AsyncOfflineEngine(engine), cache=False)
    program = dspy.Predict(Draft)
    program.lm = lm
    assert program.deepcopy().lm.engine is engine
    for made in (engine, AsyncOfflineEngine(engine), InstantEngine(2), AsyncInstantEngine(InstantEngine(2))):
        state = json.loads(json.dumps(made.dump_state()))
        assert type(made).load_state(state).dump_state() == state
        assert copy.deepcopy(made) is made


def test_stream_gives_the_same_text_as_complete():
    from dspy.lm15 import StreamDeltaEvent

    async def collect(engine):
        return [event async for event in engine.stream(prompt)]

    prompt = chat_request(Draft, post=POST, aim="")
    for engine, later in ((OfflineEngine(), AsyncOfflineEngine()), (InstantEngine(), AsyncInstantEngine())):
        events, whole = list(engine.stream(prompt)), engine.complete(prompt).message.text
        assert "".join(e.delta.text for e in events if isinstance(e, StreamDeltaEvent)) == whole
        assert asyncio.run(collect(later)) == events


def test_warning_is_logged_once_a_process(caplog):
    offline._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        OfflineEngine()
        OfflineEngine()
    assert [r.getMessage() for r in caplog.records if r.name == offline.__name__] == [offline.WARNING]


@pytest.mark.parametrize("style", STYLES)
def test_instant_engine_accepts_everything_in_every_style(style):
    engine = InstantEngine()
    assert ask(Draft, style, engine=engine, post=POST, aim="").principles
    assert ask(Critique, style, engine=engine, post=POST, aim="", principles="x").score == 5
    assert ask(Respond, style, engine=engine, post=POST, principles="x").response
    assert ask(Critique, style, engine=InstantEngine(2), post=POST, aim="", principles="x").score == 2
    everything = ask(Everything, style, engine=engine, post=POST)
    assert (everything.bounded, everything.ten) == (9, 10)
    assert reply("###Principles:\nx\n\n###Feedback:", engine=engine).endswith("[RESULT] 5")


async def test_async_instant_engine_gives_the_same_answer():
    prompt = chat_request(post=POST, aim="", principles="x")
    assert await AsyncInstantEngine().complete(prompt) == InstantEngine().complete(prompt)
