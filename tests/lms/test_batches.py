"""Runs through batch APIs: the same records as live, whatever goes wrong on the way, and nothing paid twice."""

import random
import signal
import subprocess
import sys
import time

import pytest

import spri_dspy as spri
from spri_dspy.errors import BudgetSpent
from spri_dspy.lms.batches import api as batch_api
from spri_dspy.lms.batches import store
from spri_dspy.lms.budget import Budget
from tests.command import MAIN
from tests.command import spri as spri_command
from tests.lms.batch_parts import (
    batch_server,
    child,
    examples,
    finish,
    lm_of,
    program,
    records,
    settings,
    without_usage,
)

KEY = "sk-test-4f9a1c77d2"
DIALECTS = ("openai", "anthropic")


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HOSTED_VLLM_API_KEY"):
        monkeypatch.setenv(name, KEY)


def in_batches(server, run, count=12, dialect="openai", lm=None, **more):
    options = {k: more.pop(k) for k in ("attempts", "requests", "window", "discount") if k in more}
    said = []
    lm = lm or lm_of(server, dialect)
    summary = spri.run_bulk(
        program(lm), examples(count), run, batch=settings(dialect, **options), on_batch=said.append, **more
    )
    return summary, said


def live(server, run, count=12, dialect="openai"):
    spri.run_bulk(program(lm_of(server, dialect)), examples(count), run)
    return records(run)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_records_and_requests_are_those_of_live_calls(tmp_path, dialect):
    with batch_server() as server:
        summary, said = in_batches(server, tmp_path / "batched", dialect=dialect)
        assert (summary.done, summary.failed) == (12, 0)
        batched = server.stats
        assert batched["live"] == 0 and batched["batches"][:4] == [12] * 4, "one wave-front after the other"
        assert batched["paid"] == batched["distinct"] == summary.usage.calls
        assert records(tmp_path / "batched") == live(server, tmp_path / "live", dialect=dialect)
        after = server.stats
        assert after["distinct"] == batched["distinct"], "a live call has the same body, byte for byte"
        assert after["live"] == batched["paid"]
    assert any("12 of 12 answered" in line for line in said)
    files = [path for path in (tmp_path / "batched").rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    left = {path.name.partition(".")[2] for path in (tmp_path / "batched" / "batches").iterdir()}
    assert left == {"json"}, "requests and results go when all answers are in the cache"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_whatever_goes_wrong_records_are_those_of_live_calls_and_nothing_is_paid_twice(tmp_path, dialect):
    rates = {"error_rate": 0.06, "miss_rate": 0.04, "late_rate": 0.04, "double_rate": 0.2}
    faults = {"refuse": [1], "lose": [2], "expire": [4], "expire_whole": [2], "limit": [5]}
    with batch_server(seconds=0.1, **rates, **faults) as server:
        summary, said = in_batches(server, tmp_path / "batched", 16, dialect, attempts=9)
        assert (summary.done, summary.failed) == (16, 0)
        stats = server.stats
        assert stats["paid"] == stats["distinct"] == summary.usage.calls and stats["live"] == 0
        assert records(tmp_path / "batched") == live(server, tmp_path / "live", 16, dialect)
    assert any("not taken yet" in line for line in said)
    assert any("to be asked again" in line for line in said)


def test_call_that_fails_in_every_batch_is_made_live(tmp_path):
    with batch_server(miss_rate=1.0, seconds=0.0) as server:
        summary, said = in_batches(server, tmp_path / "run", 2, attempts=2)
        stats = server.stats
        assert (summary.done, summary.failed) == (2, 0)
        assert stats["live"] == stats["paid"] == summary.usage.calls
        assert sum(stats["batches"]) == 2 * summary.usage.calls
    assert any("made live" in line for line in said)


def test_unreadable_answers_get_further_samples_in_batches_and_are_asked_anew_later(tmp_path):
    with batch_server(unreadable=1.0, seconds=0.0) as server:
        for start in (1, 2):
            summary, _ = in_batches(server, tmp_path / "run", 2, retry_errors=True)
            assert (summary.done, summary.failed) == (2, 2)
            assert server.stats["paid"] == start * 2 * 3
    kept = spri.RunDir.read(tmp_path / "run").records()
    assert [row.error.partition(":")[0] for row in kept] == ["UnreadableAnswer"] * 2


@pytest.mark.slow
def test_file_is_full_at_its_limit_and_several_are_in_flight(tmp_path):
    with batch_server(seconds=0.5) as server:
        began = time.monotonic()
        in_batches(server, tmp_path / "run", 12, requests=5)
        assert server.stats["batches"][:3] == [5, 5, 2]
        assert time.monotonic() - began < 0.5 * len(server.stats["batches"])


def test_files_are_cut_before_they_have_too_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_api.BatchAPI, "most_bytes", 20_000)
    with batch_server(seconds=0.0) as server:
        in_batches(server, tmp_path / "run", 12)
        assert server.stats["batches"][:2] == [6, 6]


def test_window_bounds_the_open_examples(tmp_path):
    with batch_server(seconds=0.0) as server:
        in_batches(server, tmp_path / "run", 6, window=2)
        assert max(server.stats["batches"]) == 2


def test_each_model_has_files_of_its_own(tmp_path):
    with batch_server(seconds=0.0) as server:
        lms = lm_of(server), lm_of(server).replace("openai/m", "openai/critic")
        said = []
        spri.run_bulk(
            program(*lms), examples(4), tmp_path / "run", batch=settings("openai"), on_batch=said.append
        )
    sent = [line for line in said if "requests to" in line]
    assert "openai/m," in sent[0] and "openai/critic," in sent[1]


def test_server_of_ones_own_is_asked_at_the_address_of_its_batches(tmp_path):
    with batch_server(seconds=0.0) as server:
        lm = f"hosted_vllm/m?api_base={server.url}"
        summary, _ = in_batches(server, tmp_path / "run", 2, server.url, lm)
        assert (summary.done, summary.failed, server.stats["live"]) == (2, 0, 0)


def test_budget_of_calls_is_kept_exactly_and_over_restarts(tmp_path):
    with batch_server(seconds=0.0) as server:
        for most in (20, 31):
            with pytest.raises(BudgetSpent):
                in_batches(server, tmp_path / "run", budget=Budget(max_calls=most))
            assert server.stats["paid"] == most
        in_batches(server, tmp_path / "run")
        assert server.stats["paid"] == server.stats["distinct"]


def test_dollars_are_those_of_batches_after_a_restart_too(tmp_path):
    price = {"usd_in": 1000, "usd_out": 1000}
    with batch_server(seconds=0.0) as server:
        lm = lm_of(server, **price)
        first, again = Budget(max_usd=1e9), Budget(max_usd=1e9)
        summary, _ = in_batches(server, tmp_path / "run", 4, lm=lm, budget=first)
        assert first.usd == pytest.approx(0.5 * 460e-3 * summary.usage.calls)
        in_batches(server, tmp_path / "run", 4, lm=lm, budget=again)
        assert again.usd == pytest.approx(first.usd)


def test_batch_that_fails_for_good_stops_the_run_and_says_why(tmp_path):
    with (
        batch_server(fail=[1], seconds=0.0) as server,
        pytest.raises(spri.PrerequisiteError, match="invalid_json"),
    ):
        in_batches(server, tmp_path / "run", 2)


def test_server_without_a_batch_api_stops_the_run(tmp_path):
    with batch_server() as server:
        lm = f"hosted_vllm/m?api_base={server.url}"
        with pytest.raises(spri.PrerequisiteError, match="404"):
            in_batches(server, tmp_path / "run", 2, f"{server.root}/nothing", lm)


def test_results_that_break_off_are_fetched_again(tmp_path, monkeypatch):
    usual, cut = store._lines, []

    def cut_once(file):
        for number, line in enumerate(usual(file)):
            if number == 2 and not cut:
                cut.append(line)
                return
            yield line

    monkeypatch.setattr(store, "_lines", cut_once)
    with batch_server(seconds=0.0) as server:
        summary, _ = in_batches(server, tmp_path / "run", 6)
        assert cut and summary.failed == 0
        assert server.stats["paid"] == server.stats["distinct"]


def test_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LONGEST_LINE", 100)
    with batch_server(seconds=0.0) as server:
        in_batches(server, tmp_path / "run", 1, attempts=1)
        assert server.stats["live"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("is_by_address", [False, True])
def test_run_begun_in_batches_is_finished_live(tmp_path, is_by_address):
    """What waits in a batch is waited for, all else is asked live."""
    with batch_server(seconds=1.0) as server:
        where = server.url if is_by_address else "openai"
        process = child(server, 6, tmp_path / "run", where, "status", 2)
        process.communicate(timeout=60)
        assert process.returncode == -9
        assert server.stats["batches"] == [6]
        finish(child(server, 6, tmp_path / "run", "live", lm_dialect="openai"))
        stats = server.stats
        assert stats["batches"] == [6]
        assert stats["paid"] == stats["distinct"] == stats["live"] + 6
        assert without_usage(records(tmp_path / "run")) == without_usage(live(server, tmp_path / "live", 6))


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_runs_at_one_provider_keep_to_their_own_batches(tmp_path, dialect):
    """The same inputs at the same time, and the first batches of both are such as nobody heard of."""
    with batch_server(seconds=0.3, lose=[1, 2]) as server:
        both = [child(server, 6, tmp_path / name, dialect) for name in "ab"]
        for process in both:
            finish(process)
        stats = server.stats
        assert stats["paid"] == 2 * stats["distinct"] and stats["live"] == 0
        assert records(tmp_path / "a") == records(tmp_path / "b")
        sent = [{store._read(p).batch_id for p in (tmp_path / n / "batches").glob("*.json")} for n in "ab"]
        assert not sent[0] & sent[1]


@pytest.mark.slow
def test_calls_that_wait_in_a_batch_count_against_the_budget_of_a_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_CALLS", "20")
    with batch_server(seconds=0.5) as server:
        for stage in ("status 4", "created 3", "never 1"):
            process = child(server, 12, tmp_path / "run", "openai", *stage.split())
            _, said = process.communicate(timeout=60)
            assert process.returncode == (1 if stage == "never 1" else -9), said
        assert "the budget of 20 LM calls is spent" in said
        assert server.stats["paid"] == server.stats["distinct"] == 20


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits_and_the_same_command_goes_on(tmp_path):
    with batch_server(seconds=4.0) as server:
        where = ["--run", tmp_path / "run", "--lm", f"base={lm_of(server)}"]
        options = ["run", "reappraisal", "--limit", "2", *where, "--batch", "openai?settle=0.1&poll=0.05"]
        command = [sys.executable, "-c", MAIN, *map(str, options)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert "batch 1: 2 requests" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=10)[1]
        assert process.returncode == 130
        assert said.endswith("spri: interrupted; the same command goes on where it stopped\n"), said
        time.sleep(4.0)
        spri_command(*options, "--max-calls", "2")
        assert (server.stats["paid"], server.stats["batches"]) == (2, [2])


KILLS = [
    *(
        "enqueue 3",
        "rename 1",
        "half 1",
        "state 1",
        "upload 1",
        "state 2",
        "uploaded 1",
        "create 1",
        "created 1",
    ),
    *("status 2", "fetch 1", "line 3", "received 1", "handing 1", "put 3", "stored 4", "put 1", "settle 1"),
    *("settled 2", "record 2"),
]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_run_killed_at_every_stage_pays_for_each_call_once(tmp_path, dialect):
    run, count = tmp_path / "run", 24
    with batch_server(seconds=0.3) as server:
        for kill in KILLS:
            process = child(server, count, run, dialect, *kill.split())
            _, said = process.communicate(timeout=120)
            assert process.returncode == -9, (kill, said)
        finish(child(server, count, run, dialect))
        stats = server.stats
        assert stats["paid"] == stats["distinct"] and stats["live"] == 0
        assert without_usage(records(run)) == without_usage(live(server, tmp_path / "live", count, dialect))
        assert server.stats["distinct"] == stats["distinct"]


@pytest.mark.slow
def test_run_killed_at_any_moment_pays_for_each_call_once(tmp_path):
    run, count, rng = tmp_path / "run", 60, random.Random(8)
    with batch_server(seconds=1.0, miss_rate=0.02, double_rate=0.1) as server:
        n_killed = 0
        while n_killed < 12:
            process = child(server, count, run)
            time.sleep(2 + rng.uniform(0.0, 2.5))
            ended = process.poll() is not None
            process.kill()
            process.communicate()
            if ended:
                break
            n_killed += 1
        assert n_killed >= 3
        finish(child(server, count, run))
        stats = server.stats
        assert stats["paid"] == stats["distinct"]
        assert without_usage(records(run)) == without_usage(live(server, tmp_path / "live", count))


def test_command_runs_in_batches_and_throws_them_away_when_it_is_to(tmp_path):
    with batch_server(seconds=0.0) as server:
        where = ["--run", tmp_path / "run", "--lm", f"base={lm_of(server, usd_in=1000, usd_out=1000)}"]
        command = ["run", "reappraisal", "--limit", "2", *where, "--batch", "openai?settle=0.1&poll=0.05"]
        code, _, said = spri_command(*command)
        assert code == 0, said
        assert "spri: batch 1: 2 requests to openai/m, id batch_1" in said
        calls = server.stats["paid"]
        assert f"${0.5 * 460e-3 * calls:.2f}" in said
        assert spri_command(*command, "--fresh")[0] == 0
        assert server.stats["paid"] == 2 * calls
        sent = (tmp_path / "run" / "batches").glob("*.json")
        assert sum(store._read(path).n for path in sent) == calls


def test_judge_works_in_batches(tmp_path):
    with batch_server(seconds=0.0) as server:
        lm = lm_of(server)
        run = tmp_path / "run"
        assert spri_command("run", "reappraisal", "--limit", 2, "--run", run, "--lm", f"base={lm}")[0] == 0
        live_calls = server.stats["live"]
        judge = ["judge", run, "--judge", "generic", "--lm", f"judge={lm}"]
        code, _, said = spri_command(*judge, "--batch", "openai?settle=0.1&poll=0.05")
        assert code == 0, said
        assert "spri: batch 1: 2 requests to openai/m" in said
        assert (server.stats["live"], server.stats["batches"]) == (live_calls, [2])
