"""Real processes of the real command, killed in the middle: nothing is lost, doubled or paid twice."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from spri_dspy.runs import RunDir
from tests.servers.fixtures import mock_process
from tests.servers.openai_mock import MockConfig

SPRI = [sys.executable, "-c", "from spri_dspy.cli import main; main()"]
CONCURRENCY = 4
PATIENCE_SECONDS = 180


@pytest.fixture
def posts(tmp_path):
    """A function that writes so many posts to a file."""

    def write(count):
        rows = [{"id": f"p{n}", "post": f"The bus number {n} left without me again."} for n in range(count)]
        path = tmp_path / "posts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def command(mock, data, run):
    lm = f"base=hosted_vllm/mock?api_base={mock.base_url}"
    where = ["--data", str(data), "--run", str(run), "--lm", lm, "--concurrency", str(CONCURRENCY)]
    return [*SPRI, "run", "reappraisal", *where, "--json"]


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def n_lines(run):
    path = run / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process, run, count):
    """Return when so many records are written; False if the process ended first."""
    until = time.monotonic() + PATIENCE_SECONDS
    while n_lines(run) < count:
        if process.poll() is not None:
            return False
        assert time.monotonic() < until, "no progress"
        time.sleep(0.005)
    return True


def kill_at(arguments, run, count, signal_number=signal.SIGKILL):
    """Start, and send the signal once so many records are written: exit code and stderr."""
    with start(arguments) as process:
        assert wait_for_lines(process, run, count), process.stderr.read()
        process.send_signal(signal_number)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said


def finish(arguments):
    """Run to the end: the printed records and stderr."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def assert_whole(run, printed, count):
    """Every example has exactly one line, one record and one printed record."""
    ids = sorted(f"p{n}" for n in range(count))
    lines = [json.loads(line)["id"] for line in (run / "records.jsonl").read_bytes().splitlines()]
    assert sorted(lines) == ids
    assert sorted(r.id for r in RunDir.read(run).records() if r.ok) == ids
    assert sorted(row["id"] for row in printed) == ids


def uninterrupted(mock, data, run, count):
    """Answers by prompt of a run that nobody kills."""
    printed, _ = finish(command(mock, data, run))
    assert_whole(run, printed, count)
    answered = mock.stats.answered
    mock.reset()
    return answered, {row["id"]: row["outputs"] for row in printed}


def assert_paid_once(mock, expected, n_kills):
    """The same prompts, and no more answers than were in flight at the kills on top."""
    answered = mock.stats.answered
    assert set(answered) == set(expected)
    assert sum(answered.values()) <= sum(expected.values()) + n_kills * CONCURRENCY
    assert all(answered[prompt] <= 1 + n_kills for prompt in answered)


@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(tmp_path, posts):
    data, run = posts(8), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.03, latency_sigma=0.5, accept=0.6)) as mock:
        expected, outputs = uninterrupted(mock, data, tmp_path / "whole", 8)
        for count in (1, 4, 6):
            code, _ = kill_at(command(mock, data, run), run, count)
            assert code == -signal.SIGKILL
        printed, said = finish(command(mock, data, run))
        assert "finished before" in said
        assert_whole(run, printed, 8)
        assert {row["id"]: row["outputs"] for row in printed} == outputs
        assert_paid_once(mock, expected, 3)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_exits_130_in_one_line_and_can_be_resumed(tmp_path, posts, signal_number):
    """SIGTERM too, which schedulers and containers send."""
    data, run = posts(6), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.05)) as mock:
        code, said = kill_at(command(mock, data, run), run, 1, signal_number)
        assert code == 130
        assert said == "spri: interrupted; the same command goes on where it stopped\n"
        printed, _ = finish(command(mock, data, run))
        assert_whole(run, printed, 6)


def test_run_in_the_background_of_a_shell_is_ended_by_sigterm(tmp_path, posts):
    """A shell starts it with SIGINT ignored, which `kill` must not run into."""
    data, run = posts(12), tmp_path / "run"
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    with mock_process(MockConfig(latency_seconds=0.05)) as mock:
        arguments = [part.replace("from spri", f"{ignoring}from spri") for part in command(mock, data, run)]
        code, said = kill_at(arguments, run, 1, signal.SIGTERM)
        assert (code, said) == (130, "spri: interrupted; the same command goes on where it stopped\n")


@pytest.mark.parametrize("route", ["native", pytest.param("litellm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gap_seconds", [0.0, 0.02])
def test_ctrl_c_twice_is_one_line_and_exit_130(tmp_path, posts, route, gap_seconds):
    """A second one met Python's exit, LiteLLM's, or the middle of a cancelled loop: signal -2, tracebacks, a hang."""
    data, run = posts(12), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.05)) as mock:
        arguments = [part.replace("/v1", f"/v1&route={route}") for part in command(mock, data, run)]
        with start(arguments) as process:
            assert wait_for_lines(process, run, 1), process.stderr.read()
            process.send_signal(signal.SIGINT)
            time.sleep(gap_seconds)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 130
        assert said == "spri: interrupted; the same command goes on where it stopped\n"
        printed, _ = finish(arguments)
        assert_whole(run, printed, 12)


def test_second_process_on_the_same_run_is_refused_and_does_no_harm(tmp_path, posts):
    data, run = posts(6), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.03)) as mock, start(command(mock, data, run)) as first:
        assert wait_for_lines(first, run, 1)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command(mock, data, run), capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"in use by another process (pid {first.pid})" in second.stderr
        first.send_signal(signal.SIGCONT)
        printed, _ = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 0
    assert_whole(run, [json.loads(line) for line in printed.splitlines()], 6)


@pytest.mark.slow
def test_run_killed_after_every_record_goes_on_where_it_was(tmp_path, posts):
    data, run = posts(12), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.05, latency_sigma=0.5, accept=0.5)) as mock:
        expected, _ = uninterrupted(mock, data, tmp_path / "whole", 12)
        kills = 0
        while n_lines(run) < 12:
            kill_at(command(mock, data, run), run, n_lines(run) + 1)
            kills += 1
        assert kills >= 3
        printed, _ = finish(command(mock, data, run))
        assert_whole(run, printed, 12)
        assert_paid_once(mock, expected, kills)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_run_killed_at_any_moment_goes_on_where_it_was(tmp_path, posts, seed):
    rng = random.Random(seed)
    data, run = posts(20), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.05, latency_sigma=1.0, accept=0.5)) as mock:
        expected, _ = uninterrupted(mock, data, tmp_path / "whole", 20)
        for _ in range(8):
            with start(command(mock, data, run)) as process:
                time.sleep(rng.uniform(0.2, 3.0))
                process.kill()
        printed, _ = finish(command(mock, data, run))
        assert_whole(run, printed, 20)
        assert_paid_once(mock, expected, 8)
