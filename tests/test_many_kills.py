"""One run, killed twenty times at any moment: every example once, and no more paid than was in flight at the kills."""

import random
import time

import pytest

from tests.servers.fixtures import mock_process
from tests.servers.openai_mock import MockConfig
from tests.test_kill import assert_whole, finish, n_lines, posts, start, uninterrupted
from tests.test_kill import command as quiet_command
from tests.test_workers import worker_processes

__all__ = ["posts"]

COUNT, KILLS, CONCURRENCY = 300, 20, 16


def command(mock, data, run):
    """The command of the other tests, with more calls in flight."""
    arguments = quiet_command(mock, data, run)
    arguments[arguments.index("--concurrency") + 1] = str(CONCURRENCY)
    return arguments


def kill_after(arguments, mock, rng):
    """Start, and kill: by the clock, which also hits the start, or once so many answers have come."""
    answers = mock.stats.n_answered + rng.randint(1, 60)
    seconds = rng.uniform(0.0, 2.5)
    by_answers, until = rng.random() < 0.7, time.monotonic() + 30
    with start(arguments) as process:
        began = time.monotonic()
        while process.poll() is None and time.monotonic() < until:
            if mock.stats.n_answered >= answers if by_answers else time.monotonic() - began >= seconds:
                process.kill()
                break
            time.sleep(0.01)
        process.kill()
        return process.wait()


def assert_goes_on_whole(arguments, mock, run, expected, outputs):
    """The run, killed KILLS times, ends as one that nobody disturbed; only calls in flight at a kill are paid twice."""
    printed, said = finish(arguments)
    assert "finished before" in said
    assert_whole(run, printed, COUNT)
    assert {row["id"]: row["outputs"] for row in printed} == outputs
    stats = mock.stats
    assert set(stats.answered) == set(expected)
    assert stats.received <= expected.total() + KILLS * CONCURRENCY


@pytest.mark.slow
def test_run_killed_twenty_times_has_every_example_once_and_pays_for_few_calls_twice(tmp_path, posts):
    rng = random.Random(20)
    data, run = posts(COUNT), tmp_path / "run"
    config = MockConfig(latency_seconds=0.08, latency_sigma=0.8, accept=0.6)
    with mock_process(config) as mock:
        expected, outputs = uninterrupted(mock, data, tmp_path / "whole", COUNT)
        progress = []
        for _ in range(KILLS):
            assert kill_after(command(mock, data, run), mock, rng) == -9, "it had finished before the kill"
            progress.append(n_lines(run))
        assert len(set(progress)) > KILLS / 3, progress
        assert_goes_on_whole(command(mock, data, run), mock, run, expected, outputs)


def kill_a_worker_then_the_driver(arguments, mock, rng):
    """Start with workers, and kill one of them and then the driver, each once so many answers have come."""
    with start(arguments) as process:
        for is_driver in (False, True):
            answers, until = mock.stats.n_answered + rng.randint(1, 60), time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until and mock.stats.n_answered < answers:
                time.sleep(0.01)
            # The last answers may be to workers of a driver that was killed, which live a moment longer.
            while process.poll() is None and not (workers := worker_processes(process)):
                assert time.monotonic() < until, "no worker"
                time.sleep(0.01)
            assert process.poll() is None, "it had finished before the kill"
            victim = process if is_driver else rng.choice(workers)
            victim.kill()
        return process.wait()


@pytest.mark.slow
def test_workers_and_drivers_killed_twenty_times_leave_every_example_once_and_few_calls_paid_twice(
    tmp_path, posts
):
    rng = random.Random(21)
    data, run = posts(COUNT), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.08, latency_sigma=0.8, accept=0.6)) as mock:
        expected, outputs = uninterrupted(mock, data, tmp_path / "whole", COUNT)
        arguments = [*command(mock, data, run), "--workers", "2"]
        for _ in range(KILLS // 2):
            assert kill_a_worker_then_the_driver(arguments, mock, rng) == -9
        assert_goes_on_whole(arguments, mock, run, expected, outputs)
