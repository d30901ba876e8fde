"""The same run over Ray: the same records, whichever worker dies on the way, and no call paid twice for it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from spri_dspy.runs import CALLS, RunDir
from tests.command import MAIN, assert_refused, process, spri, write
from tests.servers.fixtures import mock_process
from tests.servers.openai_mock import MockConfig
from tests.test_kill import finish, kill_at, wait_for_lines

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "spri-dspy[ray]"'
)
slow = pytest.mark.slow
CONCURRENCY = 8
RAY = ["--executor", "ray", "--workers", "2"]
STEADY = MockConfig(latency_seconds=0.02, latency_sigma=0.5, accept=0.6)


def posts(path, count):
    rows = ({"id": f"p{n}", "post": f"The bus number {n} left without me again."} for n in range(count))
    return write(path / f"posts-{count}.jsonl", *rows)


def instances(path, count, n_answers=4):
    """Instructions with several answers each, as the rubrics task takes them."""
    answers = [{"response": f"Take the {n}th bus."} for n in range(n_answers)]
    rows = (
        {"id": f"i{n}", "instruction": f"How do I get to stop {n}?", "responses": answers}
        for n in range(count)
    )
    return write(path / "instances.jsonl", *rows)


def options(mock, data, run, *more, task="reappraisal"):
    form = "&format=json" if task == "rubrics" else ""
    lm = f"base=hosted_vllm/mock?api_base={mock.base_url}{form}"
    where = ["--data", data, "--run", run, "--lm", lm, "--concurrency", CONCURRENCY]
    return [str(part) for part in ["run", task, *where, "--json", *more]]


def command(*arguments):
    return [sys.executable, "-c", MAIN, *arguments]


def records_of(run):
    """Records by id, less what no two runs share; every example has exactly one line."""
    lines = (run / "records.jsonl").read_bytes().splitlines()
    records = {r.id: r.to_json() | {"seconds": None, "usage": None} for r in RunDir.read(run).records()}
    assert len(lines) == len(records)
    return records


def worker_processes(driver):
    """The processes of a driver's actors."""
    family = psutil.Process(driver.pid).children(recursive=True)
    return [p for p in family if p.is_running() and "".join(p.cmdline()).startswith("ray::Worker")]


@pytest.fixture
def whole(tmp_path):
    """A function: what the mock answers in a run on this machine that nobody disturbs, and its records."""

    def run(mock, data):
        finish(command(*options(mock, data, tmp_path / "whole")))
        answered = mock.stats.answered
        mock.reset()
        return answered, records_of(tmp_path / "whole")

    return run


# Without Ray


def test_ray_that_is_missing_is_named_with_the_command_that_brings_it(tmp_path, start_mock, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    mock = start_mock()
    found = spri(*options(mock, posts(tmp_path, 2), tmp_path / "run", *RAY))
    assert_refused(found, 3, 'Ray is not installed: pip install "spri-dspy[ray]"')
    assert not (tmp_path / "run").exists()
    assert mock.stats.received == 0


def test_answers_of_one_instance_share_one_rubric_though_they_are_asked_for_at_once(tmp_path, start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.05, accept=0.6))
    code, out, err = spri(*options(mock, instances(tmp_path, 3), tmp_path / "run", task="rubrics"))
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 12
    assert len({json.dumps(row["outputs"]["principles"]) for row in rows}) == 3
    assert set(mock.stats.answered.values()) == {1}, "a rubric was paid once an answer"
    assert mock.stats.max_in_flight > 1


# With Ray


@slow
@needs_ray
def test_calls_are_kept_by_the_workers_as_on_this_machine(tmp_path):
    data = posts(tmp_path, 12)
    with mock_process(STEADY) as mock:
        for run, how in (("ray", RAY), ("here", [])):
            finish(command(*options(mock, data, tmp_path / run, "--keep-calls", *how)))

    def calls(run):
        lines = (tmp_path / run / CALLS).read_text("utf-8").splitlines()
        found = map(json.loads, lines)
        return sorted(
            (c["example"], c["stage"], c["attempt"], c["answer"], str(c["messages"])) for c in found
        )

    assert len(calls("ray")) > 24 and calls("ray") == calls("here")
    shown = spri("show", tmp_path / "ray", "p3", "--calls")[1]
    assert "p3 · generate_principles, sample 1 · hosted_vllm/mock" in shown


@slow
@needs_ray
def test_ray_and_one_process_give_the_same_records(tmp_path, whole):
    data = posts(tmp_path, 200)
    with mock_process(STEADY) as mock:
        answered, records = whole(mock, data)
        done = process(*options(mock, data, tmp_path / "run", *RAY))
        assert done.returncode == 0, done.stderr
        said = done.stderr.decode().splitlines()
        assert said[0] == "spri: 200 examples done" and all(line.startswith("spri: ") for line in said), said
        assert mock.stats.answered == answered
        assert mock.stats.max_in_flight == CONCURRENCY
        assert records_of(tmp_path / "run") == records
        mock.reset()
        again = process(*options(mock, data, tmp_path / "run", *RAY))
        assert b"200 finished before" in again.stderr and mock.stats.received == 0
    assert sorted(path.name for path in (tmp_path / "run/cache").iterdir()) == ["calls.sqlite"]
    where = ["--data", data, "--run", tmp_path / "replayed", "--lm", f"base=replay/{tmp_path / 'run'}"]
    assert spri("run", "reappraisal", *where)[0] == 0
    assert records_of(tmp_path / "replayed") == records


@slow
@needs_ray
def test_killed_workers_lose_no_example_and_pay_for_few_calls_twice(tmp_path, whole):
    data, run = posts(tmp_path, 60), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.1, latency_sigma=0.5, accept=0.6)) as mock:
        answered, records = whole(mock, data)
        arguments = command(*options(mock, data, run, *RAY))
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            for lines in (5, 40):
                assert wait_for_lines(driver, run, lines)
                os.kill(worker_processes(driver)[0].pid, signal.SIGKILL)
            _, said = driver.communicate(timeout=120)
        assert driver.returncode == 0, said
        assert said.count("a worker died; its examples run again in a new one") == 2
        assert records_of(run) == records
        assert set(mock.stats.answered) == set(answered)
        assert mock.stats.n_answered <= answered.total() + 2 * CONCURRENCY


@slow
@needs_ray
@pytest.mark.parametrize(("first", "second"), [([], RAY), (RAY, [])], ids=["to ray", "from ray"])
def test_run_that_was_killed_goes_on_with_the_other_executor(tmp_path, whole, first, second):
    data, run = posts(tmp_path, 40), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.1, latency_sigma=0.5, accept=0.6)) as mock:
        answered, records = whole(mock, data)
        code, _ = kill_at(command(*options(mock, data, run, *first)), run, 10)
        assert code == -signal.SIGKILL
        _, said = finish(command(*options(mock, data, run, *second)))
        assert "finished before" in said
        assert records_of(run) == records
        assert set(mock.stats.answered) == set(answered)
        assert mock.stats.n_answered <= answered.total() + CONCURRENCY


@slow
@needs_ray
def test_answers_of_one_instance_share_one_rubric_over_ray_too(tmp_path):
    with mock_process(MockConfig(latency_seconds=0.05, accept=0.6)) as mock:
        found = options(mock, instances(tmp_path, 12), tmp_path / "run", *RAY, task="rubrics")
        printed, _ = finish(command(*found))
        assert len(printed) == 48
        assert set(mock.stats.answered.values()) == {1}


@slow
@needs_ray
def test_failure_that_every_example_would_meet_stops_ray_in_one_line(tmp_path):
    with mock_process(MockConfig(models=["another"])) as mock:
        done = process(*options(mock, posts(tmp_path, 40), tmp_path / "run", *RAY))
        code, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
        assert_refused((code, out, err), 3, "every example would fail", "The model does not exist")
        assert mock.stats.received <= 2 * 14, "examples were begun after the first had failed"


POISON = """
import asyncio
import os

from spri_dspy.systems.vanilla import system as vanilla


def poison(task, *, paper=False):
    program = vanilla(task, paper=paper)
    answer = program.acall

    async def acall(**inputs):
        if "number 3 " in inputs["post"]:
            os._exit(1)
        return await answer(**inputs)

    program.acall = acall
    return program
"""


@slow
@needs_ray
def test_example_that_kills_every_worker_becomes_a_record_and_the_others_finish(tmp_path):
    (tmp_path / "poison.py").write_text(POISON)
    with mock_process(MockConfig(latency_seconds=0.02)) as mock:
        system = ["--system", f"{tmp_path / 'poison.py'}:poison"]
        done = process(*options(mock, posts(tmp_path, 12), tmp_path / "run", *RAY, *system), timeout=120)
    assert done.returncode == 1, done.stderr
    records = records_of(tmp_path / "run")
    assert len(records) == 12
    assert {k for k, r in records.items() if r["error"]} == {"p3"}
    assert records["p3"]["error"].startswith("WorkerDied: 3 workers died")
    assert b"1 failed" in done.stderr


@slow
@needs_ray
def test_cluster_that_is_not_there_is_named_in_one_line(tmp_path, start_mock):
    mock = start_mock()
    where = ["--executor", "ray:127.0.0.1:9"]
    began = time.monotonic()
    done = process(*options(mock, posts(tmp_path, 2), tmp_path / "run", *where), timeout=120)
    found = done.returncode, done.stdout.decode(), done.stderr.decode()
    assert_refused(found, 3, "no Ray cluster at 127.0.0.1:9")
    assert time.monotonic() - began < 100 and mock.stats.received == 0
