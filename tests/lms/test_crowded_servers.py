"""Whole runs over HTTP against servers that refuse calls: all is got over, and what one server says slows no other."""

import time

import pytest

import spri_dspy as spri
from spri_dspy.bulk import run_bulk
from spri_dspy.lms.concurrency import Window
from spri_dspy.lms.scope import Retry
from spri_dspy.runs import RunDir
from spri_dspy.tasks import make_example
from tests.factories import make_task
from tests.servers.openai_mock import MockConfig


@pytest.fixture
def refusals(monkeypatch):
    """How often each window was told of a refusal."""
    told = {}

    def refused(self, *arguments, real=Window.refused):
        told[self] = told.get(self, 0) + 1
        real(self, *arguments)

    monkeypatch.setattr(Window, "refused", refused)
    return told


def run_over(path, count, retry=None, concurrency=8, **mocks):
    """A run over mock servers by role: its summary."""
    program = spri.SPRI(make_task())
    program.set_lms(**{role: f"hosted_vllm/mock?api_base={mock.base_url}" for role, mock in mocks.items()})
    examples = [make_example(f"q{n}", {"question": f"why is it {n}?"}) for n in range(count)]
    with RunDir.create(path, {}) as run:
        summary = run_bulk(program, examples, run, concurrency=concurrency, retry=retry)
        assert sorted(record.id for record in run.records()) == sorted(example.id for example in examples)
    return summary


def test_bursts_of_refusals_are_got_over_and_every_one_is_heeded(tmp_path, start_mock, refusals):
    bursts = [(0.0, 1.5), (1.8, 2.0)]
    mock = start_mock(MockConfig(latency_seconds=0.02, bursts=bursts, retry_after_seconds=0.1))
    mock.reset()
    summary = run_over(tmp_path / "run", 30, Retry(attempts=1, first_wait=0.05), base=mock)
    assert (summary.done, summary.failed) == (30, 0)
    assert sum(refusals.values()) == mock.stats.faults["rate_limit"] > 0


def test_refusals_take_no_attempt_while_patience_lasts(tmp_path, start_mock):
    script = ["rate_limit"] * 7
    patient, mock = (
        Retry(attempts=1, first_wait=0.01),
        start_mock(MockConfig(script=script, retry_after_seconds=None)),
    )
    assert run_over(tmp_path / "patient", 1, patient, base=mock).failed == 0
    mock.reset()
    assert (
        run_over(tmp_path / "not", 1, Retry(attempts=3, first_wait=0.01, patience=0), base=mock).failed == 1
    )
    assert mock.stats.received == 3


def test_refusal_that_names_a_time_is_not_asked_again_before(tmp_path, start_mock):
    mock = start_mock(MockConfig(script=["rate_limit"], retry_after_seconds=0.6))
    began = time.monotonic()
    run_over(tmp_path / "run", 3, Retry(first_wait=0.001), concurrency=1, base=mock)
    assert time.monotonic() - began >= 0.6


def test_refusals_of_one_lm_do_not_slow_another(tmp_path, start_mock, refusals):
    """While the critic's window is down to one, the base LM's is open as before."""
    base = start_mock(MockConfig(latency_seconds=0.05))
    critic = start_mock(MockConfig(script=["rate_limit"] * 6, accept=1, retry_after_seconds=0.05))
    run_over(tmp_path / "run", 24, Retry(first_wait=0.01), base=base, critic=critic)
    (window,) = refusals
    assert refusals[window] == 6
    assert base.stats.max_in_flight == 8


@pytest.mark.slow
def test_more_than_a_hundred_calls_are_in_flight_where_the_limit_says_so(tmp_path, start_mock):
    """DSPy's own client stops at 100 connections and makes the others wait within their timeout."""
    mock = start_mock(MockConfig(latency_seconds=0.5, accept=1))
    run_over(tmp_path / "run", 140, concurrency=140, base=mock)
    assert 100 < mock.stats.max_in_flight <= 140


def test_clock_that_jumps_changes_nothing(tmp_path, start_mock, monkeypatch):
    """Waits, timeouts and pauses go by a clock that nobody can set; the wall clock stands in no decision."""
    script = ["server_error", "rate_limit", "ok", "server_error"]
    mock = start_mock(MockConfig(latency_seconds=0.01, script=script, retry_after_seconds=0.05))
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 3e8)
    summary = run_over(tmp_path / "run", 12, Retry(first_wait=0.01), base=mock)
    assert (summary.done, summary.failed) == (12, 0)
    assert all(0 <= record.seconds < 60 for record in RunDir.read(tmp_path / "run").records())
    assert next(jumps) > 0, "nobody looked at the clock: the test shows nothing"
