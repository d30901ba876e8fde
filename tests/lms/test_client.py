"""Around one call: what is stored under which key, what is tried again and after how long, which errors end it."""

import asyncio
import copy
import random

import dspy
import pytest
from dspy import lm15
from dspy.utils.exceptions import LMError
from hypothesis import given
from hypothesis import strategies as st

import spri_dspy as spri
from spri_dspy.adapters import style
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.client import ScopedLM, prompt_key
from spri_dspy.lms.failures import failure_kind
from spri_dspy.lms.replay import text_response
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.lms.spec import CALL, Call, load_lm

HELLO = [{"role": "user", "content": "hello"}]
QUICK = Retry(attempts=3, first_wait=0.001, longest_wait=0.002)


class Engine:
    """Fails as it is told, one error a call, then answers with a number that tells the calls apart."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    def complete(self, request):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return text_response(request, f"answer {self.calls}")


class AsyncEngine(Engine):
    """The same for asynchronous calls, counted in the engine it stands beside."""

    def __init__(self, engine):
        self.engine = engine

    async def complete(self, request):
        return self.engine.complete(request)


def make_lm(*errors, model="test/one", **settings):
    engine = Engine(*errors)
    lm = ScopedLM(
        model,
        engine=engine,
        async_engine=AsyncEngine(engine),
        cache=False,
        num_retries=0,
        **{"temperature": 0.5, **settings},
    )
    return lm, engine


def ask(lm, way, messages=HELLO, rollout=0, **kwargs):
    """One call, in the way of the parameter."""
    token = CALL.set(Call("stage", "base", rollout))
    try:
        if way == "sync":
            return lm(messages=messages, **kwargs)
        return asyncio.run(lm.acall(messages=messages, **kwargs))
    finally:
        CALL.reset(token)


both_ways = pytest.mark.parametrize("way", ["sync", "async"])
# Calls with messages are what adapters make; DSPy warns everyone else.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def cached(tmp_path):
    cache = CallCache(tmp_path)
    with use_scope(Scope(cache=cache, retry=QUICK)):
        yield cache
    cache.close()


@both_ways
def test_finished_call_is_never_made_twice(cached, way):
    lm, engine = make_lm()
    assert [ask(lm, way) for _ in range(3)] == [["answer 1"]] * 3
    assert (engine.calls, len(cached)) == (1, 1)


def test_finished_call_is_known_to_the_other_way_and_to_another_process(cached, tmp_path):
    lm, engine = make_lm()
    first = ask(lm, "sync")
    assert ask(lm, "async") == first
    with use_scope(Scope(cache=CallCache(tmp_path))):
        assert ask(make_lm()[0], "sync") == first
    assert engine.calls == 1


def test_calls_are_counted_as_made_or_cached(cached):
    lm, _ = make_lm()
    call = Call("stage", "base")
    token = CALL.set(call)
    with dspy.context(usage_tracker=call):
        lm(messages=HELLO)
        lm(messages=HELLO)
    CALL.reset(token)
    assert (call.made, call.cached, call.output_tokens) == (1, 1, 2)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.6}, {"max_tokens": 9}, {"top_p": 0.5}, {"model": "test/two"}]
)
def test_other_sampling_or_model_is_another_call(cached, settings):
    ask(make_lm()[0], "sync")
    other, engine = make_lm(**settings)
    ask(other, "sync")
    assert engine.calls == 1 and len(cached) == 2


def test_other_prompt_rollout_or_copy_is_another_call(cached):
    lm, engine = make_lm()
    ask(lm, "sync")
    ask(lm, "sync", rollout=1)
    ask(lm, "sync", messages=[{"role": "user", "content": "hello again"}])
    ask(lm.copy(rollout_id=1), "sync")
    ask(lm.copy(rollout_id=2), "sync")
    assert engine.calls == len(cached) == 5


def test_address_key_and_timeout_change_no_call(cached, monkeypatch):
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-test")
    texts = [
        "hosted_vllm/m?api_base=http://127.0.0.1:1/v1",
        "hosted_vllm/m?api_base=http://127.0.0.1:2/v1",
        "hosted_vllm/m?api_base=http://127.0.0.1:1/v1&timeout=5",
        "hosted_vllm/m?api_base=http://127.0.0.1:1/v1&route=litellm",
    ]
    keys = {load_lm(text)._keys(HELLO, {}).call for text in texts}
    assert len(keys) == 1
    assert load_lm("hosted_vllm/m2?api_base=http://127.0.0.1:1/v1")._keys(HELLO, {}).call not in keys


def test_response_schema_is_part_of_a_call(cached):
    class Narrow(dspy.Signature):
        """Say a word."""

        word: str = dspy.OutputField()

    keys = set()
    for longest in (9, 10):
        lm = load_lm(f"hosted_vllm/m?api_base=http://127.0.0.1:1/v1&format=json&max_chars={longest}")
        kwargs = {}
        style("json")._prepare_response_format(lm, kwargs, Narrow.append("more", dspy.OutputField(), str))
        keys.add(lm._keys(HELLO, kwargs).call)
    assert len(keys) == 2


@both_ways
def test_failed_call_is_not_stored(cached, way):
    lm, engine = make_lm(lm15.AuthError("no"))
    with pytest.raises(LMError):
        ask(lm, way)
    assert (engine.calls, len(cached)) == (1, 0)
    assert ask(lm, way) == ["answer 2"]


def test_nothing_is_stored_outside_of_a_scope():
    lm, engine = make_lm()
    assert ask(lm, "sync") != ask(lm, "sync")
    assert engine.calls == 2


TRANSIENT = [lm15.RateLimitError, lm15.ServerError, lm15.TimeoutError, lm15.TransportError]


@both_ways
@pytest.mark.parametrize("error", TRANSIENT)
def test_transient_failure_is_tried_again(way, error):
    lm, _ = make_lm(error("busy"), error("busy"))
    with use_scope(Scope(retry=QUICK)):
        assert ask(lm, way) == ["answer 3"]


@both_ways
@pytest.mark.parametrize("error", [lm15.ServerError, lm15.TransportError])
def test_attempts_end(way, error):
    lm, engine = make_lm(*(error("busy") for _ in range(9)))
    with use_scope(Scope(retry=QUICK)), pytest.raises(LMError):
        ask(lm, way)
    assert engine.calls == QUICK.attempts


@both_ways
@pytest.mark.parametrize(
    "error", [lm15.AuthError, lm15.BillingError, lm15.InvalidRequestError, lm15.ContextLengthError]
)
def test_lasting_failure_is_not_tried_again(way, error):
    lm, engine = make_lm(error("no"))
    with use_scope(Scope(retry=QUICK)), pytest.raises(LMError):
        ask(lm, way)
    assert engine.calls == 1


@both_ways
def test_our_own_errors_come_through_an_engine_as_they_are(way):
    lm, engine = make_lm(spri.ReplayMiss("nobody recorded this"))
    with use_scope(Scope(retry=QUICK)), pytest.raises(spri.ReplayMiss, match="nobody recorded this"):
        ask(lm, way)
    assert engine.calls == 1


def test_deadline_is_named(monkeypatch):
    class Slow(AsyncEngine):
        async def complete(self, request):
            self.engine.calls += 1
            await asyncio.sleep(5)

    engine = Engine()
    lm = ScopedLM("test/slow", engine=engine, async_engine=Slow(engine), cache=False, num_retries=0)
    lm.timeout = 0.01
    with (
        use_scope(Scope(retry=QUICK)),
        pytest.raises(spri.CallError, match=r"no answer within the LM's timeout, 3 attempt"),
    ):
        ask(lm, "async")
    assert engine.calls <= QUICK.attempts  # a busy machine may spend a timeout before the engine is reached


def test_failures_are_sorted_into_three_kinds(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    kinds = {}
    for error in (*TRANSIENT, lm15.AuthError, lm15.BillingError, lm15.ContextLengthError):
        with use_scope(Scope(retry=Retry(attempts=1, patience=0))), pytest.raises(LMError) as failed:
            ask(make_lm(error("x"))[0], "sync")
        kinds[error] = failure_kind(failed.value)
    assert {kinds[error] for error in TRANSIENT} == {"transient"}
    assert kinds[lm15.AuthError] == kinds[lm15.BillingError] == "fatal"
    assert kinds[lm15.ContextLengthError] == "call"
    assert failure_kind(TimeoutError()) == "transient"
    assert failure_kind(ValueError("a bug")) == failure_kind(spri.UnreadableAnswer("x")) == "call"


class Asking(Exception):
    retry_after = 7.5


@given(attempt=st.integers(0, 5000), seed=st.integers(0, 9))
def test_waits_double_with_jitter_up_to_a_cap(attempt, seed):
    retry = Retry(first_wait=0.5, longest_wait=60.0)
    wait = retry.wait_seconds(attempt, ValueError(), random.Random(seed))
    full = 0.5 * 2 ** min(attempt, 40)
    assert min(60.0, full / 2) <= wait <= min(60.0, full)
    assert wait == retry.wait_seconds(attempt, ValueError(), random.Random(seed))


def test_server_that_says_when_is_obeyed_up_to_the_cap():
    assert Retry().wait_seconds(0, Asking(), random.Random(0)) == 7.5
    assert Retry(longest_wait=5).wait_seconds(0, Asking(), random.Random(0)) == 5


def test_copies_of_a_program_share_their_lm_and_copies_of_an_lm_do_not():
    lm, _ = make_lm()
    assert copy.deepcopy(lm) is lm
    other = lm.copy(temperature=1.0)
    assert (lm.kwargs["temperature"], other.kwargs["temperature"]) == (0.5, 1.0)


def test_prompt_keys_depend_on_prompt_and_rollout_only():
    assert prompt_key(HELLO, 0) == prompt_key([dict(HELLO[0])], 0)
    assert len({prompt_key(HELLO, 0), prompt_key(HELLO, 1), prompt_key([], 0)}) == 3


def test_scopes_end_with_their_block(tmp_path):
    lm, engine = make_lm()
    with use_scope(Scope(cache=CallCache(tmp_path))):
        ask(lm, "sync")
    ask(lm, "sync")
    assert engine.calls == 2
