"""One run by several workers: the same records, whichever of them dies on the way, and no call paid twice for it."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest

from spri_dspy.commands import run as run_command
from spri_dspy.commands.execution import Execution
from spri_dspy.crew.processes import hire
from spri_dspy.crew.worker import Seat
from spri_dspy.errors import UsageError
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.spec import LMSpec
from spri_dspy.program import SPRI
from spri_dspy.runs import CALLS, RunDir
from spri_dspy.tasks import load_task
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
TWO = ["--workers", "2"]
each_way = pytest.mark.parametrize(
    "how", [pytest.param(TWO, id="processes"), pytest.param(RAY, id="ray", marks=needs_ray)]
)
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
    """The processes of a driver's workers."""
    family = psutil.Process(driver.pid).children(recursive=True)
    lines = {p: "".join(p.cmdline()) for p in family if p.is_running()}
    return [p for p, line in lines.items() if line.startswith("ray::Worker") or "spri_dspy.crew" in line]


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


# With either kind of workers


@slow
@each_way
def test_calls_are_kept_by_the_workers_as_by_one_process(tmp_path, how):
    data = posts(tmp_path, 12)
    with mock_process(STEADY) as mock:
        for run, chosen in (("spread", how), ("here", [])):
            finish(command(*options(mock, data, tmp_path / run, "--keep-calls", *chosen)))

    def calls(run):
        lines = (tmp_path / run / CALLS).read_text("utf-8").splitlines()
        found = map(json.loads, lines)
        return sorted(
            (c["example"], c["stage"], c["attempt"], c["answer"], str(c["messages"])) for c in found
        )

    assert len(calls("spread")) > 24 and calls("spread") == calls("here")
    shown = spri("show", tmp_path / "spread", "p3", "--calls")[1]
    assert "p3 · generate_principles, sample 1 · hosted_vllm/mock" in shown


@slow
@each_way
def test_workers_and_one_process_give_the_same_records(tmp_path, whole, how):
    data = posts(tmp_path, 200)
    with mock_process(STEADY) as mock:
        answered, records = whole(mock, data)
        done = process(*options(mock, data, tmp_path / "run", *how))
        assert done.returncode == 0, done.stderr
        said = done.stderr.decode().splitlines()
        assert said[0] == "spri: 200 examples done" and all(line.startswith("spri: ") for line in said), said
        assert mock.stats.answered == answered
        assert mock.stats.max_in_flight == CONCURRENCY
        assert records_of(tmp_path / "run") == records
        mock.reset()
        again = process(*options(mock, data, tmp_path / "run", *how))
        assert b"200 finished before" in again.stderr and mock.stats.received == 0
    assert sorted(path.name for path in (tmp_path / "run/cache").iterdir()) == ["calls.sqlite"]
    where = ["--data", data, "--run", tmp_path / "replayed", "--lm", f"base=replay/{tmp_path / 'run'}"]
    assert spri("run", "reappraisal", *where)[0] == 0
    assert records_of(tmp_path / "replayed") == records


@slow
@each_way
def test_killed_workers_lose_no_example_and_pay_for_few_calls_twice(tmp_path, whole, how):
    data, run = posts(tmp_path, 60), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.1, latency_sigma=0.5, accept=0.6)) as mock:
        answered, records = whole(mock, data)
        arguments = command(*options(mock, data, run, *how))
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
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([], RAY, id="to ray", marks=needs_ray),
        pytest.param(RAY, [], id="from ray", marks=needs_ray),
        pytest.param([], TWO, id="to processes"),
        pytest.param(TWO, [], id="from processes"),
        pytest.param(TWO, RAY, id="processes to ray", marks=needs_ray),
    ],
)
def test_run_that_was_killed_goes_on_another_way(tmp_path, whole, first, second):
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
@each_way
def test_answers_of_one_instance_share_one_rubric_over_workers_too(tmp_path, how):
    with mock_process(MockConfig(latency_seconds=0.05, accept=0.6)) as mock:
        found = options(mock, instances(tmp_path, 12), tmp_path / "run", *how, task="rubrics")
        printed, _ = finish(command(*found))
        assert len(printed) == 48
        assert set(mock.stats.answered.values()) == {1}


@slow
@each_way
def test_failure_that_every_example_would_meet_stops_all_workers_in_one_line(tmp_path, how):
    with mock_process(MockConfig(models=["another"])) as mock:
        done = process(*options(mock, posts(tmp_path, 40), tmp_path / "run", *how))
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
@each_way
def test_example_that_kills_every_worker_becomes_a_record_and_the_others_finish(tmp_path, how):
    (tmp_path / "poison.py").write_text(POISON)
    with mock_process(MockConfig(latency_seconds=0.02)) as mock:
        system = ["--system", f"{tmp_path / 'poison.py'}:poison"]
        done = process(*options(mock, posts(tmp_path, 12), tmp_path / "run", *how, *system), timeout=120)
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


@slow
@each_way
def test_budget_and_deadline_hold_for_all_workers_together(tmp_path, how):
    data, run = posts(tmp_path, 60), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.05, latency_sigma=0.5, accept=0.6)) as mock:
        for limit in (101, 140):
            done = process(*options(mock, data, run, *how, "--max-calls", limit), timeout=120)
            assert_refused(
                (done.returncode, done.stdout.decode(), done.stderr.decode()), 4, f"the budget of {limit} LM"
            )
            assert mock.stats.received == mock.stats.n_answered == limit
        assert len(records_of(run)) > 5
        late = process(*options(mock, posts(tmp_path, 6), tmp_path / "late", *how, "--deadline", 0.03))
    assert late.returncode == 1, late.stderr
    errors = {r["error"] for r in records_of(tmp_path / "late").values()}
    assert "CallError: not finished within the deadline of 0.03 s" in errors


@slow
def test_tokens_are_overshot_by_no_more_than_was_in_flight(tmp_path):
    data, run = posts(tmp_path, 60), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.05, latency_sigma=0.5, accept=0.6)) as mock:
        done = process(*options(mock, data, run, *TWO, "--max-tokens", 60_000), timeout=120)
        assert done.returncode == 4 and b"the budget of 60,000 tokens is spent" in done.stderr
    with closing(CallCache(run / "cache")) as cache:
        ((calls, tokens_in, tokens_out),) = cache.spent().values()
    mean = (tokens_in + tokens_out) / calls
    assert 60_000 <= tokens_in + tokens_out <= 60_000 + 2 * CONCURRENCY * mean


@slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path, number):
    data, run = posts(tmp_path, 60), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.1, accept=0.6)) as mock:
        arguments = command(*options(mock, data, run, *TWO))
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            assert wait_for_lines(driver, run, 5)
            workers = worker_processes(driver)
            assert len(workers) == 2
            driver.send_signal(number)
            assert psutil.wait_procs(workers, timeout=5)[1] == []
            _, said = driver.communicate(timeout=20)
        if number == signal.SIGINT:
            assert driver.returncode == 130
            assert said == "spri: interrupted; the same command goes on where it stopped\n"
        finish(command(*options(mock, data, run, *TWO)))
    assert len(records_of(run)) == 60


def test_worker_ends_as_soon_as_it_is_not_needed(tmp_path):
    async def last():
        async with hire(
            Seat(lambda: SPRI(load_task("sft")).set_lms(base="offline"), str(tmp_path), False, 1, 1, [])
        ) as link:
            await link.open()
            began = time.monotonic()
        return time.monotonic() - began

    with closing(CallCache(tmp_path)):
        assert asyncio.run(last()) < 1


@slow
def test_server_that_refuses_calls_gets_no_more_than_it_bears_from_all_workers(tmp_path):
    config = MockConfig(latency_seconds=0.05, rates={"rate_limit": 0.1, "server_error": 0.05})
    with mock_process(config) as mock:
        done = process(*options(mock, posts(tmp_path, 60), tmp_path / "run", *TWO), timeout=120)
        assert done.returncode == 0, done.stderr
        assert mock.stats.max_in_flight <= CONCURRENCY
    assert all(r["error"] is None for r in records_of(tmp_path / "run").values())


@slow
def test_every_call_is_told_to_whoever_listens(tmp_path):
    plan = run_command.plan(run_command.RunRequest(task="reappraisal", limit=4))
    calls, records = [], []
    with plan.open(tmp_path / "run") as directory:
        plan.execute(directory, Execution(workers=2), on_record=records.append, on_call=calls.append)
    assert {record.id for record in records} == {call["example"] for call in calls}
    assert len(calls) == sum(used.calls for record in records for used in record.usage.values())


def test_more_workers_than_the_machine_bears_are_refused(tmp_path):
    found = spri("run", "reappraisal", "--run", tmp_path / "run", "--workers", 1000, "--concurrency", 1000)
    assert_refused(found, 2, "--workers 1000", "at most")
    assert not (tmp_path / "run").exists()


def test_model_file_is_not_loaded_once_a_worker():
    with pytest.raises(UsageError, match=r"each would load gguf/m\.gguf"):
        Execution(workers=2).check([LMSpec("gguf/m.gguf")])


@slow
def test_panel_judges_alike_with_workers(tmp_path):
    assert spri("run", "reappraisal", "--limit", 4, "--run", tmp_path / "run")[0] == 0
    shown = []
    for how in ([], TWO):
        panel = ["--judge", "generic", "--judge", "reappraisal", "--fresh", "--json"]
        done = process("judge", tmp_path / "run", *panel, *how, timeout=120)
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
    assert shown[0] == shown[1]


NODE_DIES = """
import sys, threading, time
from functools import partial

import ray
from ray.cluster_utils import Cluster

from spri_dspy.commands import run as run_command
from spri_dspy.commands.execution import Execution

data, run, lm = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 2**27})
doomed = cluster.add_node(num_cpus=1, object_store_memory=2**27)
cluster.wait_for_nodes()
seen = []

def on_record(record):
    seen.append(record.id)
    if len(seen) == 10:
        threading.Thread(target=cluster.remove_node, args=(doomed,), kwargs={"allow_graceful": False}).start()

plan = run_command.plan(run_command.RunRequest(task="reappraisal", data=data, lms={"base": lm}))
with plan.open(run) as directory:
    how = Execution(concurrency=8, executor=f"ray:{cluster.address}", workers=4)
    summary = plan.execute(directory, how, on_record=on_record)
cluster.shutdown()
print(summary.done, summary.failed, len(set(seen)))
"""


@slow
@needs_ray
def test_node_that_dies_takes_no_example_with_it(tmp_path):
    data, run = posts(tmp_path, 60), tmp_path / "run"
    with mock_process(MockConfig(latency_seconds=0.2, latency_sigma=0.5, accept=0.6)) as mock:
        lm = f"hosted_vllm/mock?api_base={mock.base_url}"
        done = process(data, run, lm, code=NODE_DIES, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:] == [b"60", b"0", b"60"], done.stderr
    assert b"a worker died; its examples run again in a new one" in done.stderr
    assert len(records_of(run)) == 60


DATASET = """
import sys
from functools import partial

import ray
import spri_dspy as spri
from spri_dspy.crew.job import Job
from spri_dspy.errors import UsageError
from spri_dspy.ray_executor import run_on_ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
rows = [{"uid": n, "post": f"The bus number {n} left without me again."} for n in range(int(sys.argv[2]))]
dataset = ray.data.from_items(rows).random_shuffle()

def make():
    return spri.SPRI(spri.load_task("reappraisal")).set_lms(base="offline")

with spri.RunDir.create(sys.argv[1], {"task": "rows"}) as run:
    try:
        run_on_ray(Job(make, run), dataset, workers=2)
    except UsageError as error:
        print(error)
    summary = run_on_ray(Job(make, run), dataset, workers=2, id_column="uid")
    print(summary.done, summary.skipped, ray.is_initialized())
    print(sorted(run.finished(), key=int))
"""


@slow
@needs_ray
def test_rows_of_a_ray_dataset_are_known_by_their_id_column(tmp_path):
    for count, told in ((6, "6 0 True"), (9, "3 6 True")):
        done = process(tmp_path / "run", count, code=DATASET, timeout=200)
        said = done.stdout.decode().splitlines()
        assert done.returncode == 0, done.stderr
        assert said[-3:] == [
            "the Dataset has no column 'id'; id_column is one of uid, post, with a value of its own in every row",
            told,
            str([str(n) for n in range(count)]),
        ]


SMALL_STORE = """
import asyncio, json, sys, threading, time
from pathlib import Path

import dspy
import ray
import spri_dspy as spri
from spri_dspy.crew.job import Job
from spri_dspy.ray_executor import run_on_ray
from spri_dspy.tasks import make_example

run, count, concurrency = Path(sys.argv[1]), *map(int, sys.argv[2:])
ray.init(
    address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20
)
store = ray.cluster_resources()["object_store_memory"]
peak = 0.0


def watch():
    global peak
    while True:
        peak = max(peak, 1 - ray.available_resources().get("object_store_memory", 0) / store)
        time.sleep(0.05)


def make():
    class Reverse:
        inputs = ("post",)

        async def acall(self, post, group=None):
            await asyncio.sleep(0.05)
            return dspy.Prediction(response=post[::-1])

    return Reverse()


threading.Thread(target=watch, daemon=True).start()
rows = [{"id": f"p{n}", "post": f"{n} " + "waiting " * 18_000} for n in range(count)]
given = (make_example(row["id"], {"post": row["post"]}) for row in rows)
with spri.RunDir.create(run, {"task": "long"}) as directory:
    summary = run_on_ray(Job(make, directory, concurrency=concurrency), given, workers=2)
    whole = {row["id"]: row["post"] for row in rows}
    is_whole = [r.outputs["response"][::-1] == r.inputs["post"] == whole.pop(r.id) for r in directory.records()]
print(json.dumps([summary.done, summary.failed, sum(is_whole), len(whole), round(peak, 2)]))
(run / "records.jsonl").unlink()  # 200 MB
"""


@slow
@needs_ray
def test_texts_that_fill_rays_object_store_lose_no_example(tmp_path):
    """600 rows of 144 kB, and records of twice that, in a few messages that are larger than a store of 80 MB."""
    done = process(tmp_path / "run", 600, 1024, code=SMALL_STORE, timeout=280)
    assert done.returncode == 0, done.stderr
    *counts, peak = json.loads(done.stdout.splitlines()[-1])
    assert counts == [600, 0, 600, 0] and peak > 0.7
