"""Everything that a server can do wrong, over real HTTP: a retry that succeeds, or a record that names the error."""

import asyncio
import re
import socket
from typing import get_args

import pytest

import spri_dspy as spri
from spri_dspy.bulk import run_bulk
from spri_dspy.errors import PrerequisiteError
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.lms.spec import load_lm
from spri_dspy.runs import RunDir
from spri_dspy.tasks import make_example
from tests.factories import chat, make_task
from tests.servers.fixtures import mock_thread
from tests.servers.openai_mock import Fault, MockConfig

ROUTES = ("native", "litellm")
FATAL = ("unauthorized", "no_model")
PASSING = tuple(fault for fault in get_args(Fault) if fault not in FATAL)
SOUND = ("unreadable",)
"""Faults that a program can live with: a text without its frame is read, a critique without a score is asked again."""

QUICK = Retry(attempts=4, first_wait=0.01, longest_wait=0.05, patience=0)
NAMED = re.compile(r"[A-Z]\w+: \S")


def make_examples(count):
    return [make_example(f"q{n}", {"question": f"why is it {n}?"}) for n in range(count)]


def run_against(mock, path, count, *, route="native", retry=QUICK, timeout=5, **settings):
    """Run against the mock: the summary, and the records by id."""
    program = spri.SPRI(make_task())
    program.set_lms(base=f"hosted_vllm/mock?api_base={mock.base_url}&timeout={timeout}&route={route}")
    with RunDir.create(path, {}) as run:
        summary = run_bulk(program, make_examples(count), run, retry=retry, **settings)
        return summary, {r.id: r for r in run.records()}


def lines_of(path):
    return (path / "records.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", PASSING)
def test_one_fault_on_a_draft_and_on_a_critique_is_got_over(tmp_path, start_mock, fault, route):
    config = MockConfig(script=[fault, "ok", fault], accept=1, retry_after_seconds=0.01)
    mock = start_mock(config)
    timeout = 0.3 if fault == "hang" else 5
    summary, records = run_against(
        mock, tmp_path / "run", 2, route=route, timeout=timeout, concurrency=1, retry=QUICK
    )
    assert (summary.done, summary.failed) == (2, 0)
    assert mock.stats.faults == {fault: 2}
    assert all(r.outputs["principles"] and r.outputs["response"] for r in records.values())
    assert all(set(r.stop_reasons.values()) == {"accepted"} for r in records.values())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", [f for f in PASSING if f not in SOUND])
def test_fault_that_never_ends_is_a_record_with_a_named_error(tmp_path, start_mock, fault, route):
    mock = start_mock(MockConfig(rates={fault: 1.0}, retry_after_seconds=0.01))
    twice = Retry(attempts=2, first_wait=0.01, longest_wait=0.02, patience=0)
    timeout = 0.2 if fault == "hang" else 5
    summary, records = run_against(mock, tmp_path / "run", 3, route=route, timeout=timeout, retry=twice)
    assert (summary.done, summary.failed) == (3, 3)
    for record in records.values():
        assert NAMED.match(record.error), record.error
        assert record.error.split(":")[0].startswith(("LM", "CallError", "Unreadable")), record.error
        assert "\n" not in record.error and record.inputs["question"]
    assert len(lines_of(tmp_path / "run")) == 3


def test_critics_that_never_give_a_score_end_the_loops_as_unscored(tmp_path, start_mock):
    mock = start_mock(MockConfig(rates={"unreadable": 1.0}))
    summary, records = run_against(mock, tmp_path / "run", 2)
    assert summary.failed == 0
    assert {reason for r in records.values() for reason in r.stop_reasons.values()} == {"unscored"}
    assert all(step.verdict.score is None for r in records.values() for step in r.trace)


def test_attempts_are_counted_by_the_server_as_the_retry_says(tmp_path, start_mock):
    mock = start_mock(MockConfig(rates={"server_error": 1.0}))
    run_against(mock, tmp_path / "run", 1, retry=Retry(attempts=3, first_wait=0.01))
    assert mock.stats.received == 3


@pytest.mark.parametrize("route", ROUTES)
def test_nobody_else_retries_behind_our_back(tmp_path, start_mock, route):
    mock = start_mock(MockConfig(rates={"server_error": 1.0}))
    run_against(mock, tmp_path / "run", 2, route=route, retry=Retry(attempts=1))
    assert mock.stats.received == 2


def test_answers_that_come_too_late_are_asked_for_again(tmp_path, start_mock):
    """A mean of 0.1 s and a long tail against a timeout of 0.15 s: some come in time, some never."""
    mock = start_mock(MockConfig(latency_seconds=0.1, latency_sigma=1.0, accept=1))
    summary, records = run_against(mock, tmp_path / "run", 8, timeout=0.15)
    assert summary.done == len(records) == 8
    assert mock.stats.abandoned > 0 and any(r.ok for r in records.values())
    assert all(r.ok or NAMED.match(r.error) for r in records.values())


def test_all_faults_at_once_leave_one_record_an_example(tmp_path, start_mock):
    rates = {fault: 0.03 for fault in PASSING}
    config = MockConfig(rates=rates, latency_seconds=0.005, latency_sigma=1.0, retry_after_seconds=0.01)
    mock = start_mock(config)
    summary, records = run_against(mock, tmp_path / "run", 40, timeout=0.3, concurrency=8)
    assert summary.done == len(records) == len(lines_of(tmp_path / "run")) == 40
    assert all(r.ok or NAMED.match(r.error) for r in records.values())
    assert summary.failed < 10
    assert len(mock.stats.faults) > 8


def test_what_failed_in_the_storm_succeeds_after_it(tmp_path, start_mock):
    storm = start_mock(MockConfig(rates={"server_error": 0.4, "truncated_json": 0.2}))
    once = Retry(attempts=1)
    with pytest.raises(PrerequisiteError, match="of the last"):
        run_against(storm, tmp_path / "run", 40, retry=once, concurrency=4)
    calm = start_mock()
    summary, records = run_against(calm, tmp_path / "run", 40, retry_errors=True)
    assert summary.failed == 0
    assert sorted(records) == sorted(f"q{n}" for n in range(40)) and all(r.ok for r in records.values())


def reply_with(text):
    """Answers of any kind around the same words, with a good score."""

    def reply(messages, body):
        asked = messages[-1]["content"]
        fields = [name for name in ("principles", "feedback", "response") if f"[[ ## {name} ## ]]`" in asked]
        return chat(**dict.fromkeys(fields, text), **({"score": 5} if "feedback" in fields else {}))

    return reply


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a cut-off emoji \ud83d", "a cut-off emoji \ufffd"),
        ("a whole one \U0001f600", "a whole one \U0001f600"),
        ("a \x00 and an \x1b[31m escape", "a \x00 and an \x1b[31m escape"),
        ("{braces} %s {0} \\n $x", "{braces} %s {0} \\n $x"),
        ("[[ no ## header ## ]] here", "[[ no ## header ## ]] here"),
        ("long " * 20_000, ("long " * 20_000).strip()),
    ],
    ids=["half an emoji", "an emoji", "control characters", "templates", "brackets", "long"],
)
def test_hostile_words_of_an_lm_go_through_the_whole_program(tmp_path, start_mock, text, kept, route):
    mock = start_mock(reply=reply_with(text))
    program = spri.SPRI(make_task())
    options = f"api_base={mock.base_url}&route={route}&max_tokens=100000"
    program.set_lms(base=f"hosted_vllm/mock?{options}")
    with RunDir.create(tmp_path / "run", {}) as run:
        run_bulk(program, make_examples(1), run, retry=QUICK)
    (record,) = RunDir.read(tmp_path / "run").records()
    assert record.error is None
    assert (record.outputs["principles"], record.outputs["response"]) == (kept, kept)


# What every example would meet


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", FATAL)
def test_fatal_answer_stops_the_run_at_once_and_keeps_what_is_finished(tmp_path, start_mock, fault, route):
    """An example takes 4 calls and 3 are open at a time, so 3 at least are finished after 18 calls."""
    mock = start_mock(MockConfig(script=["ok"] * 18 + [fault], accept=1))
    with pytest.raises(PrerequisiteError, match="every example would fail: LM"):
        run_against(mock, tmp_path / "run", 9, route=route, concurrency=1)
    assert mock.stats.faults == {fault: 1}
    finished = RunDir.read(tmp_path / "run").finished()
    assert len(finished) >= 3 and all(r.ok for r in RunDir.read(tmp_path / "run").records())
    assert mock.stats.received == 18 + 1
    summary, records = run_against(mock, tmp_path / "run", 9, route=route, concurrency=1)
    assert (summary.done, summary.skipped) == (9 - len(finished), len(finished))
    assert len(records) == 9
    assert mock.stats.n_answered == 9 * 4, "a finished call was paid twice"


def test_wrong_key_stops_the_run_and_the_right_one_goes_on(tmp_path, start_mock, monkeypatch):
    mock = start_mock(MockConfig(api_key="sk-the-right-one"))
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-a-wrong-one")
    with pytest.raises(PrerequisiteError, match="LMAuthError") as stopped:
        run_against(mock, tmp_path / "run", 3)
    assert "sk-a-wrong-one" not in str(stopped.value)
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-the-right-one")
    summary, _ = run_against(mock, tmp_path / "run", 3)
    assert (summary.done, summary.failed) == (3, 0)


def test_model_that_the_server_does_not_have_stops_the_run(tmp_path, start_mock):
    mock = start_mock(MockConfig(models=["another"]))
    with pytest.raises(PrerequisiteError, match="model does not exist"):
        run_against(mock, tmp_path / "run", 3)
    assert len(lines_of(tmp_path / "run")) == 0


class At:
    """An address where nobody may be."""

    def __init__(self, base_url):
        self.base_url = base_url


@pytest.mark.parametrize("route", ROUTES)
def test_server_that_is_not_there_stops_the_run_and_is_named(tmp_path, route):
    address = "http://127.0.0.1:9/v1"
    with pytest.raises(PrerequisiteError) as stopped:
        run_against(At(address), tmp_path / "run", 60, route=route, concurrency=2)
    said = str(stopped.value)
    assert said.startswith(
        f"cannot reach {address} for hosted_vllm/mock: Connection refused; start that server"
    )
    assert "same command again" in said and "\n" not in said
    assert lines_of(tmp_path / "run") == []


def test_name_that_no_host_has_stops_the_run(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        PrerequisiteError, match=r"cannot reach http://gpu-7:8000/v1 .*: Name or service not known"
    ):
        run_against(At("http://gpu-7:8000/v1"), tmp_path / "run", 9)
    assert lines_of(tmp_path / "run") == []


def test_run_that_no_server_answered_goes_on_once_one_is_there(tmp_path, start_mock):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(PrerequisiteError, match="cannot reach"):
        run_against(At(f"http://127.0.0.1:{port}/v1"), tmp_path / "run", 4)
    mock = start_mock()  # at another port: where a server is does not make a run another run
    summary, records = run_against(mock, tmp_path / "run", 4)
    assert (summary.done, summary.failed, len(records)) == (4, 0, 4)


def test_server_that_answered_and_went_away_fails_examples_and_not_the_run(tmp_path):
    """It may come back; what fails again and again is the circuit breaker's business."""
    with mock_thread(MockConfig(accept=1)) as mock:
        lm = load_lm(f"hosted_vllm/mock?api_base={mock.base_url}")
        lm("hello")
    program = spri.SPRI(make_task()).set_lms(base=lm)
    with RunDir.create(tmp_path / "run", {}) as run:
        summary = run_bulk(program, make_examples(5), run, retry=QUICK)
        assert (summary.done, summary.failed) == (5, 5)
        assert all(r.error.startswith("LMTransportError: ") for r in run.records())


def test_many_calls_that_find_nobody_at_the_same_moment_count_once():
    lm = load_lm("hosted_vllm/mock?api_base=http://127.0.0.1:9/v1")

    async def ask_at_once():
        with use_scope(Scope(retry=Retry(attempts=1))):
            return await asyncio.gather(*(lm.acall(f"{n}") for n in range(20)), return_exceptions=True)

    errors = asyncio.run(ask_at_once())
    assert {type(error).__name__ for error in errors} == {"LMTransportError"}
    assert lm.health.unreached == 1


def test_address_that_is_not_there_is_left_out_beside_one_that_is(tmp_path, start_mock):
    mock = start_mock()
    both = At(f"http://127.0.0.1:9/v1,{mock.base_url}")
    summary, _ = run_against(both, tmp_path / "run", 30, concurrency=2)
    assert (summary.done, summary.failed) == (30, 0)


def test_token_in_the_address_is_not_shown(tmp_path):
    token = "a1b2c3d4e5f6a7b8c9d0e1f2"
    with pytest.raises(PrerequisiteError, match="cannot reach") as stopped:
        run_against(At(f"http://127.0.0.1:9/{token}/v1"), tmp_path / "run", 9)
    assert token not in str(stopped.value) and "[redacted]" in str(stopped.value)
