"""What an example leaves behind: a failure with its trace, usage and raw answer, flags, and every call if asked for."""

import json
import logging
from contextlib import suppress

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.bulk import run_bulk
from spri_dspy.evidence import collect, current
from spri_dspy.lms.scope import Retry
from spri_dspy.records import Failure, Record, Round, Usage, Verdict
from spri_dspy.runs import CALLS, RunDir
from spri_dspy.tasks import make_example
from tests.factories import chat, critique, make_task
from tests.servers.openai_mock import MockConfig

ONCE = Retry(attempts=1)
EXAMPLE = make_example("q1", {"question": "why is it 1?"}, group="g", labels={"gold": 3})
LOOPS = "[#] " * 200


def answering(**by_field):
    """A reply that answers the first field that it is asked for, `score` with 2 so that every round is used."""

    def reply(messages, body):
        asked = messages[-1]["content"].rpartition("Respond with")[2]
        name = next(
            n
            for n in ("improved_principles", "improved_response", "feedback", "principles", "response")
            if f"[[ ## {n} ## ]]" in asked
        )
        said = by_field.get(name, f"some {name}")
        return critique(2, said) if name == "feedback" else said if said == "" else chat(**{name: said})

    return reply


def run_one(path, base_url, *, options="", retry=ONCE, **settings):
    program = spri.SPRI(make_task(), max_critiques=2).set_lms(
        base=f"hosted_vllm/m?api_base={base_url}{options}"
    )
    summary = run_bulk(program, [EXAMPLE], path / "run", retry=retry, **settings)
    (record,) = RunDir.read(path / "run").records()
    return summary, record


def calls_of(path):
    return [json.loads(line) for line in (path / "run" / CALLS).read_text("utf-8").splitlines()]


def test_unreadable_answer_leaves_trace_usage_stage_and_the_raw_answer(tmp_path, start_mock):
    mock = start_mock(
        reply=lambda m, b: (
            "" if "[[ ## response ## ]]" in m[-1]["content"].rpartition("Respond")[2] else answering()(m, b)
        )
    )
    _, record = run_one(tmp_path, mock.base_url)
    assert not record.ok and record.outputs == {}
    assert [(r.stage, r.verdict.score) for r in record.trace] == [("principles", 2), ("principles", 2)]
    assert record.usage["critic"].calls == 2 and record.usage["base"].calls == 2 + 3
    assert record.usage["base"].output_tokens > 0
    assert (record.failure.stage, record.failure.attempt) == ("generate_response", 2)
    assert [line.partition(":")[0] for line in record.failure.chain] == [
        "UnreadableAnswer",
        "AdapterParseError",
    ]
    assert record.labels == {"gold": 3} and record.group == "g"


def test_the_answer_that_could_not_be_read_is_kept_as_it_came(tmp_path, start_mock):
    raw = "[[ ## response ## ]]\n\n[[ ## completed ## ]]"
    asked = lambda m: m[-1]["content"].rpartition("Respond")[2]  # noqa: E731
    mock = start_mock(reply=lambda m, b: raw if "[[ ## response ## ]]" in asked(m) else answering()(m, b))
    _, record = run_one(tmp_path, mock.base_url)
    assert record.failure.answer == raw
    assert RunDir.read(tmp_path / "run").finished(retry_errors=True) == set()


def test_a_server_that_fails_in_the_middle_is_told_with_stage_and_chain(tmp_path, start_mock):
    mock = start_mock(MockConfig(script=["ok", "ok", "server_error"], accept=1))
    _, record = run_one(tmp_path, mock.base_url)
    assert record.error.startswith("LMServerError")
    assert record.failure.stage == "generate_response" and record.failure.answer == ""
    assert [r.stage for r in record.trace] == ["principles"]
    assert record.failure.chain[0].startswith("LMServerError: ") and ".py:" in record.failure.chain[0]
    assert not any("/" in line.rpartition("(")[2] for line in record.failure.chain), "a path of this machine"


def test_a_deadline_says_at_which_call_it_came(tmp_path, start_mock):
    mock = start_mock(MockConfig(script=["ok", "ok", "hang"], accept=1))
    _, record = run_one(tmp_path, mock.base_url, deadline=1.0)
    assert record.error == "CallError: not finished within the deadline of 1.0 s"
    assert record.failure.stage == "generate_response" and len(record.trace) == 1


def test_an_error_of_the_program_itself_has_its_place_and_its_cause(tmp_path):
    class Broken(dspy.Module):
        async def acall(self, question, group=None):
            try:
                {}["colour"]
            except KeyError as error:
                raise ValueError("no colour") from error

    run_bulk(Broken(), [EXAMPLE], tmp_path / "run")
    (record,) = RunDir.read(tmp_path / "run").records()
    first, second = record.failure.chain
    assert first.startswith("ValueError: no colour (test_evidence.py:") and first.endswith(" in acall)")
    assert second.startswith("KeyError: 'colour' (test_evidence.py:")
    assert record.failure.stage == ""


def test_log_lines_say_which_example_and_which_stage(tmp_path, start_mock, caplog):
    mock = start_mock(MockConfig(script=["ok", "server_error", "unreadable"], accept=1))
    with caplog.at_level(logging.DEBUG, "spri_dspy"):
        run_one(tmp_path, mock.base_url, retry=Retry(first_wait=0.01))
    lines = [r.getMessage() for r in caplog.records]
    assert any(
        line.startswith("example 'q1', critique_principles: hosted_vllm/m: LMServerError") for line in lines
    )
    with caplog.at_level(logging.DEBUG, "spri_dspy"):
        run_one(tmp_path / "two", start_mock(reply=lambda m, b: "").base_url)
    lines = [r.getMessage() for r in caplog.records]
    assert any(
        "example 'q1', generate_principles, sample 2: an answer that cannot be read" in x for x in lines
    )
    assert any(
        line.startswith("example 'q1' failed at generate_principles: UnreadableAnswer") for line in lines
    )


# Flags


def test_answers_cut_off_are_flagged_counted_and_told_of_once(tmp_path, start_mock, caplog):
    mock = start_mock(MockConfig(text_words=60, accept=1))
    with caplog.at_level(logging.WARNING):
        summary, record = run_one(tmp_path, mock.base_url, options="&max_tokens=40")
    assert "truncated:generate_principles" in record.flags
    assert summary.flags == {"truncated": 1}
    said = [
        r.getMessage() for r in caplog.records if "cut off" in r.getMessage() or "truncated" in r.getMessage()
    ]
    assert len(said) == 1 and said[0].startswith("hosted_vllm/m: an answer was cut off at max_tokens=40")


def test_cut_off_answers_are_told_of_once_though_roles_have_an_lm_each(start_mock, caplog):
    mock = start_mock(MockConfig(text_words=60, accept=1))
    lm = f"hosted_vllm/m?api_base={mock.base_url}&max_tokens=40"
    program = spri.SPRI(make_task(), max_critiques=1).set_lms(base=lm, critic=lm)
    with caplog.at_level(logging.WARNING):
        program(question="why?")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["hosted_vllm/m"]


@pytest.mark.parametrize("route", ["native", "litellm"])
def test_cut_off_answers_are_flagged_over_both_clients_and_called_directly(start_mock, caplog, route):
    mock = start_mock(MockConfig(text_words=60, accept=1))
    lm = f"hosted_vllm/m?api_base={mock.base_url}&max_tokens=40&route={route}"
    program = spri.SPRI(make_task(), max_critiques=1).set_lms(base=lm)
    with collect("x") as evidence, caplog.at_level(logging.WARNING):
        program(question="why?")
    assert "truncated:generate_principles" in evidence.flags
    assert not [r for r in caplog.records if r.name.startswith("dspy") and "truncated" in r.getMessage()]


def test_a_resumed_example_keeps_the_flags_of_cached_answers(tmp_path, start_mock):
    mock = start_mock(MockConfig(text_words=60, script=["ok", "server_error"], accept=1))
    _, record = run_one(tmp_path, mock.base_url, options="&max_tokens=40")
    assert not record.ok and record.flags == ("truncated:generate_principles",)
    mock = start_mock(MockConfig(text_words=60, accept=1))
    _, record = run_one(tmp_path, mock.base_url, options="&max_tokens=40", retry_errors=True)
    assert "truncated:generate_principles" in record.flags and record.usage["base"].cached >= 1


def test_degenerate_answers_are_flagged(tmp_path, start_mock):
    mock = start_mock(reply=answering(response=LOOPS, feedback="Say it kindly. " * 30))
    summary, record = run_one(tmp_path, mock.base_url)
    flags = {f for f in record.flags if f.startswith("degenerate")}
    assert flags == {
        "degenerate:generate_response",
        "degenerate:critique_principles",
        "degenerate:critique_response",
    }
    assert summary.flags["degenerate"] == 1 and record.ok


def test_sound_answers_have_no_flags(tmp_path, start_mock):
    summary, record = run_one(tmp_path, start_mock(MockConfig(accept=0)).base_url)
    assert record.flags == () and record.failure is None and not summary.flags


# Every call


def test_every_call_is_kept_with_its_prompt_and_its_answer(tmp_path, start_mock):
    mock = start_mock(MockConfig(accept=1))
    run_one(tmp_path, mock.base_url, keep_calls=True)
    calls = calls_of(tmp_path)
    stages = ["generate_principles", "critique_principles", "generate_response", "critique_response"]
    assert [(c["example"], c["stage"]) for c in calls] == [("q1", stage) for stage in stages]
    assert [c["role"] for c in calls] == ["base", "critic"] * 2
    first = calls[0]
    assert {m["role"] for m in first["messages"]} == {"system", "user"} and "why is it 1?" in str(
        first["messages"]
    )
    assert first["answer"].startswith("[[ ## principles ## ]]") and first["lm"] == "hosted_vllm/m"
    assert first["finish_reason"] == "stop" and first["usage"]["output_tokens"] > 0 and first["seconds"] >= 0
    assert (first["attempt"], first["cached"], first["error"]) == (0, False, None)


def test_calls_of_a_resumed_example_are_kept_as_cached(tmp_path, start_mock):
    mock = start_mock(MockConfig(script=["ok", "server_error"], accept=1))
    run_one(tmp_path, mock.base_url, keep_calls=True)
    run_one(tmp_path, start_mock(MockConfig(accept=1)).base_url, keep_calls=True, retry_errors=True)
    told = [(c["stage"], c["cached"], c["answer"] is None) for c in calls_of(tmp_path)]
    assert told[:3] == [
        ("generate_principles", False, False),
        ("critique_principles", False, True),
        ("generate_principles", True, False),
    ]
    assert calls_of(tmp_path)[1]["error"].startswith("LMServerError") and len(told) == 2 + 4


def test_calls_of_many_examples_at_once_are_whole_lines(tmp_path, start_mock):
    mock = start_mock(MockConfig(text_words=300))
    program = spri.SPRI(make_task()).set_lms(base=f"hosted_vllm/m?api_base={mock.base_url}")
    examples = [make_example(f"q{n}", {"question": f"why {n}?"}) for n in range(20)]
    run_bulk(program, examples, tmp_path / "run", keep_calls=True)
    assert len(calls_of(tmp_path)) == mock.stats.received
    assert {c["example"] for c in calls_of(tmp_path)} == {e.id for e in examples}


def test_without_being_asked_no_call_is_kept(tmp_path, start_mock):
    run_one(tmp_path, start_mock(MockConfig(accept=1)).base_url)
    assert not (tmp_path / "run" / CALLS).exists()


def test_a_fresh_run_forgets_the_calls(tmp_path, start_mock):
    run_one(tmp_path, start_mock(MockConfig(accept=1)).base_url, keep_calls=True)
    manifest = RunDir.read(tmp_path / "run").manifest
    RunDir.create(tmp_path / "run", manifest, fresh=True).close()
    assert not (tmp_path / "run" / CALLS).exists()


# The parts


def test_collections_nest():
    round_ = Round("response", "x", Verdict("", 3))
    with collect("q1") as outer:
        current().add_usage("base", Usage(calls=1))
        with suppress(ValueError), collect() as inner:
            assert current() is inner and inner.example == "q1"
            inner.add_usage("base", Usage(calls=2))
            inner.trace.append(round_)
            inner.flags["truncated:x"] = None
            raise ValueError("a failure keeps what was collected")
        assert outer.usage == {"base": Usage(calls=3)}
        assert outer.trace == [round_] and list(outer.flags) == ["truncated:x"]
    assert current() is not outer


def test_a_record_with_evidence_goes_to_json_and_back():
    failure = Failure("generate_response", 2, "?", ("A: b", "C: d"))
    record = Record("a", {"q": "x"}, error="A: b", flags=("truncated:x",), failure=failure)
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_records_of_the_first_format_are_read():
    old = {
        "id": "a",
        "inputs": {},
        "outputs": {},
        "stop_reasons": {},
        "trace": [],
        "usage": {},
        "seconds": 0.1,
        "group": None,
        "cluster": None,
        "labels": {},
        "error": "ValueError: x",
    }
    assert Record.from_json(old) == Record("a", {}, seconds=0.1, error="ValueError: x")


def test_a_long_answer_is_shortened_and_keys_are_not_kept():
    error = spri.UnreadableAnswer("x: no readable answer", "sk-abcdefgh12345678 " + "y" * 50_000)
    with collect("q") as evidence:
        failure = evidence.failure(error)
    assert len(failure.answer) <= 20_000 and "sk-abcdefgh" not in failure.answer
