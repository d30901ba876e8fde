"""One model at several addresses: all share the load, and one that fails is left alone until it is back."""

import asyncio
from contextlib import ExitStack

import pytest

import spri_dspy as spri
from spri_dspy.bulk import run_bulk
from spri_dspy.lms import health
from spri_dspy.lms.health import ILL_AFTER
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.lms.spec import load_lm
from spri_dspy.runs import RunDir
from spri_dspy.tasks import make_example
from tests.factories import make_task
from tests.servers.fixtures import mock_thread
from tests.servers.openai_mock import MockConfig

QUICK = Retry(first_wait=0.01, longest_wait=0.1)
STEADY = MockConfig(latency_seconds=0.02, latency_sigma=0.5)


@pytest.fixture
def short_rests(monkeypatch):
    monkeypatch.setattr(health, "FIRST_REST", 0.1)


def run_over(path, count, *mocks, concurrency=4, retry=QUICK, on_record=None):
    """A run over several addresses of one model: its records, each one fine."""
    addresses = ",".join(mock.base_url for mock in mocks)
    program = spri.SPRI(make_task()).set_lms(base=f"hosted_vllm/mock?api_base={addresses}")
    examples = [make_example(f"q{n}", {"question": f"why is it {n}?"}) for n in range(count)]
    with RunDir.create(path, {}) as run:
        run_bulk(program, examples, run, concurrency=concurrency, retry=retry, on_record=on_record)
        records = list(run.records())
    assert sorted(r.id for r in records) == sorted(e.id for e in examples)
    assert [r.error for r in records if not r.ok] == []
    return records


@pytest.mark.parametrize("n_addresses", [2, 3])
def test_load_is_shared_about_evenly_and_every_slot_is_used(tmp_path, start_mock, n_addresses):
    mocks = [start_mock(STEADY) for _ in range(n_addresses)]
    run_over(tmp_path / "run", 40, *mocks)
    answered = [mock.stats.n_answered for mock in mocks]
    assert max(answered) < 1.3 * min(answered)
    assert [mock.stats.max_in_flight for mock in mocks] == [4] * n_addresses


def test_calls_one_after_another_go_round(start_mock):
    mocks = [start_mock() for _ in range(3)]
    lm = load_lm("hosted_vllm/mock?api_base=" + ",".join(mock.base_url for mock in mocks))
    for number in range(6):
        lm(f"question {number}")
    assert [mock.stats.received for mock in mocks] == [2, 2, 2]


def test_slow_address_gets_fewer_calls(tmp_path, start_mock):
    quick, slow = start_mock(STEADY), start_mock(MockConfig(latency_seconds=0.2))
    run_over(tmp_path / "run", 25, quick, slow)
    assert slow.stats.n_answered < quick.stats.n_answered / 2


def test_run_that_loses_an_address_in_the_middle_finishes_every_example(tmp_path, start_mock):
    """All of its calls go to the other one; none is lost, and none is answered twice for it."""
    with ExitStack() as first:
        dying, lasting = first.enter_context(mock_thread(STEADY)), start_mock(STEADY)
        done = []

        def pull_the_plug(record):
            done.append(record)
            if len(done) == 10:
                first.close()

        run_over(tmp_path / "run", 40, dying, lasting, on_record=pull_the_plug)
    assert set(lasting.stats.answered.values()) == {1}
    assert lasting.stats.n_answered > 100


def test_address_that_is_down_costs_a_few_calls_and_not_every_second_one(tmp_path, start_mock):
    """Rests grow, so only a handful of calls meet it; least busy as it is, it would else get all of them."""
    down, up = start_mock(MockConfig(rates={"server_error": 1.0})), start_mock(STEADY)
    run_over(tmp_path / "run", 40, down, up)
    assert ILL_AFTER <= down.stats.received <= 2 * ILL_AFTER + 4
    assert up.stats.n_answered > 150


@pytest.mark.slow
def test_address_that_is_back_gets_its_share_again(tmp_path, start_mock, short_rests):
    script = ["cut_before_headers"] * (ILL_AFTER + 4)
    back, other = start_mock(MockConfig(latency_seconds=0.02, script=script)), start_mock(STEADY)
    run_over(tmp_path / "run", 100, back, other)
    assert back.stats.faults == {"cut_before_headers": len(script)}
    assert back.stats.n_answered > other.stats.n_answered / 4


def test_one_call_at_a_time_finds_out_whether_an_address_is_back():
    lm = load_lm("hosted_vllm/mock?api_base=http://127.0.0.1:8/v1,http://127.0.0.1:9/v1")
    back, other = lm.replicas
    back.health.failures, back.health.rests_until = ILL_AFTER, 0.0
    with other.health.watch(), other.health.watch():
        assert lm._well() is back, "its rest is over and it is the least busy"
        with back.health.watch():
            assert lm._well() is other
        assert back.health.failures == 0 and lm._well() is back


def test_few_failures_among_many_answers_are_no_reason_to_rest(tmp_path, start_mock):
    config = MockConfig(latency_seconds=0.02, rates={"server_error": 0.05, "cut_mid_body": 0.03})
    mocks = [start_mock(config) for _ in range(2)]
    run_over(tmp_path / "run", 40, *mocks)
    answered = [mock.stats.n_answered for mock in mocks]
    assert max(answered) < 1.4 * min(answered)


def test_calls_that_fail_together_count_as_one_failure_of_their_address(start_mock):
    """Otherwise an outage of a second under full load would be followed by a minute of rest."""
    down, up = start_mock(MockConfig(rates={"server_error": 1.0}, latency_seconds=0.3)), start_mock()
    lm = load_lm(f"hosted_vllm/mock?api_base={down.base_url},{up.base_url}")

    async def ask_at_once():
        with use_scope(Scope(retry=Retry(attempts=1))):
            await asyncio.gather(*(lm.acall(f"question {n}") for n in range(30)), return_exceptions=True)

    asyncio.run(ask_at_once())
    assert down.stats.faults["server_error"] > ILL_AFTER
    assert lm.replicas[0].health.failures == ILL_AFTER


def test_all_addresses_down_is_a_record_with_an_error(tmp_path, start_mock):
    mocks = [start_mock(MockConfig(rates={"server_error": 1.0})) for _ in range(2)]
    with pytest.raises(AssertionError, match="LMServerError"):
        run_over(tmp_path / "run", 2, *mocks, retry=Retry(attempts=6, first_wait=0.01))
    assert sum(mock.stats.received for mock in mocks) == 2 * 6
    assert min(mock.stats.received for mock in mocks) > 0


def test_copy_with_other_settings_has_them_at_every_address(start_mock):
    """As optimisers make them for fresh samples; how an address does is known to all copies."""
    mocks = [start_mock() for _ in range(2)]
    lm = load_lm("hosted_vllm/mock?api_base=" + ",".join(mock.base_url for mock in mocks))
    warm = lm.copy(temperature=1.0, rollout_id=1)
    assert [each.kwargs["temperature"] for each in (*lm.replicas, *warm.replicas)] == [0.7, 0.7, 1.0, 1.0]
    assert [each.health for each in warm.replicas] == [each.health for each in lm.replicas]
    for number in range(4):
        warm(f"question {number}")
    assert [mock.stats.received for mock in mocks] == [2, 2]
    assert load_lm("offline").copy(temperature=1.0).replicas == ()


@pytest.mark.parametrize("way", ["async", "sync"])
def test_address_of_another_model_is_named_and_left_out(tmp_path, start_mock, caplog, way):
    wrong, right = start_mock(MockConfig(models=("another",))), start_mock(STEADY)
    if way == "async":
        run_over(tmp_path / "run", 12, wrong, right)
    else:
        lm = load_lm(f"hosted_vllm/mock?api_base={wrong.base_url}, {right.base_url}")
        for number in range(12):
            lm(f"question {number}")
    assert 1 <= wrong.stats.received <= 4
    said = [r.message for r in caplog.records if "left out" in r.message]
    assert len(said) == 1 and f"the address {wrong.base_url} is left out, the others go on" in said[0]


def test_addresses_that_are_all_wrong_stop_the_run(tmp_path, start_mock):
    mocks = [start_mock(MockConfig(models=("another",))) for _ in range(2)]
    with pytest.raises(spri.PrerequisiteError, match="every example would fail: LM"):
        run_over(tmp_path / "run", 12, *mocks)
    assert sum(mock.stats.received for mock in mocks) <= 2 * 4
