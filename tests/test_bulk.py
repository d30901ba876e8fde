"""Many examples at once: every slot used and none more, input read as it is needed, every example one record."""

import asyncio
import json
import signal
import sqlite3
import threading

import dspy
import pytest
from pydantic import BaseModel

import spri_dspy as spri
from spri_dspy import ends
from spri_dspy.bulk import FUSE_LEAST, OPEN_PER_SLOT, arun_bulk, run_bulk
from spri_dspy.errors import BudgetSpent, DataError, PrerequisiteError, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.scope import Retry
from spri_dspy.records import Record
from spri_dspy.runs import RunDir
from spri_dspy.tasks import make_example
from tests.factories import make_task
from tests.servers.openai_mock import MockConfig

ONCE = Retry(attempts=1)
QUICK = Retry(first_wait=0.01, longest_wait=0.05)


def make_examples(count, start=0):
    return [make_example(f"q{n}", {"question": f"why is it {n}?"}) for n in range(start, start + count)]


def make_program(base, critic=None, options=""):
    """SPRI over one or two mock servers."""

    def lm(mock):
        return mock and f"hosted_vllm/mock?api_base={mock.base_url}{options}"

    return spri.SPRI(make_task()).set_lms(base=lm(base), critic=lm(critic))


class Echo:
    """The smallest program: what it is told to do with each question."""

    def __init__(self, answer):
        self.answer = answer

    async def acall(self, question, group=None):
        await asyncio.sleep(0)
        return dspy.Prediction(response=self.answer(question))


def run_into(path, program, examples, **settings):
    """Run, and the records that are then there."""
    with RunDir.create(path, {}) as run:
        summary = run_bulk(program, examples, run, **settings)
    return summary, list(RunDir.read(path).records())


# The limit of calls in flight


@pytest.mark.parametrize("concurrency", [1, 5])
def test_calls_in_flight_reach_the_limit_and_never_pass_it(tmp_path, start_mock, concurrency):
    mock = start_mock(MockConfig(latency_seconds=0.02))
    count = 2 * concurrency
    summary, _ = run_into(tmp_path / "run", make_program(mock), make_examples(count), concurrency=concurrency)
    assert summary.done == count
    assert mock.stats.max_in_flight == concurrency


def test_each_lm_has_its_own_limit_and_both_are_used(tmp_path, start_mock):
    base, critic = (start_mock(MockConfig(latency_seconds=0.03, accept=0.5)) for _ in range(2))
    run_into(tmp_path / "run", make_program(base, critic), make_examples(24), concurrency=4)
    assert (base.stats.max_in_flight, critic.stats.max_in_flight) == (4, 4)


def test_waiting_before_another_attempt_holds_no_slot(tmp_path, start_mock):
    """With one slot, the second example finishes while the first waits for its second attempt."""
    mock = start_mock(MockConfig(script=["server_error"], accept=1))
    patient = Retry(first_wait=1.0)
    _, records = run_into(
        tmp_path / "run", make_program(mock), make_examples(2), concurrency=1, retry=patient
    )
    assert [r.id for r in records] == ["q1", "q0"]


def test_example_that_takes_too_long_is_given_up_and_the_others_are_not(tmp_path, start_mock):
    mock = start_mock(MockConfig(script=["ok", "hang"], accept=1))
    _, records = run_into(tmp_path / "run", make_program(mock), make_examples(4), concurrency=2, deadline=1.5)
    late = [r for r in records if not r.ok]
    assert len(late) == 1 and late[0].error == "CallError: not finished within the deadline of 1.5 s"
    assert 1.5 <= late[0].seconds < 10


@pytest.mark.slow
def test_waiting_for_others_does_not_count_towards_the_deadline(tmp_path, start_mock):
    """With one slot, the last of the open examples waits for all before it; its own calls take a fifth of that."""
    mock = start_mock(MockConfig(latency_seconds=0.1, accept=1))
    summary, records = run_into(
        tmp_path / "run", make_program(mock), make_examples(8), concurrency=1, deadline=1.2
    )
    assert (summary.done, summary.failed) == (8, 0)
    assert max(record.seconds for record in records) > 1.5, "nobody waited: the test shows nothing"


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_deadline_that_is_none_is_refused(tmp_path, deadline):
    with pytest.raises(UsageError, match="--deadline must be above 0 seconds"):
        run_into(tmp_path / "run", Echo(str), make_examples(1), deadline=deadline)


def test_examples_finish_in_their_order_until_the_input_ends(tmp_path, start_mock):
    """So results come early, and a budget that is spent has finished whole examples. The last few end together."""
    mock, concurrency, count = start_mock(), 1, 20
    _, records = run_into(tmp_path / "run", make_program(mock), make_examples(count), concurrency=concurrency)
    steady = count - (OPEN_PER_SLOT * concurrency + 2)
    places = [int(record.id[1:]) for record in records][:steady]
    assert all(abs(place - at) <= 2 for at, place in enumerate(places)), places  # neighbours take turns


def test_examples_are_read_no_further_ahead_than_the_window(tmp_path, start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.002))
    read = finished = ahead = 0

    def stream():
        nonlocal read, ahead
        for example in make_examples(30):
            read += 1
            ahead = max(ahead, read - finished)
            yield example

    def count(_):
        nonlocal finished
        finished += 1

    summary, _ = run_into(tmp_path / "run", make_program(mock), stream(), concurrency=3, on_record=count)
    assert summary.done == read == 30
    assert ahead <= OPEN_PER_SLOT * 3 + 2


def test_concurrency_below_one_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="at least 1, not 0"):
        run_into(tmp_path / "run", Echo(str), iter(lambda: pytest.fail("was read"), None), concurrency=0)


# Resuming


def test_finished_run_takes_no_call(tmp_path, start_mock):
    mock = start_mock()
    _, first = run_into(tmp_path / "run", make_program(mock), make_examples(5))
    mock.reset()
    summary, again = run_into(tmp_path / "run", make_program(mock), make_examples(5))
    assert (summary.done, summary.skipped) == (0, 5)
    assert mock.stats.received == 0
    assert again == first


def test_longer_run_of_the_same_directory_pays_only_for_the_new_examples(tmp_path, start_mock):
    mock = start_mock(MockConfig(accept=1))
    run_into(tmp_path / "run", make_program(mock), make_examples(3))
    mock.reset()
    summary, records = run_into(tmp_path / "run", make_program(mock), make_examples(5))
    assert (summary.done, summary.skipped) == (2, 3)
    assert mock.stats.received == 2 * 4
    assert sorted(r.id for r in records) == [f"q{n}" for n in range(5)]


def test_finished_calls_are_not_paid_again_when_the_server_has_moved(tmp_path, start_mock, monkeypatch):
    here, there = start_mock(), start_mock()
    _, first = run_into(tmp_path / "run", make_program(here), make_examples(4))
    (tmp_path / "run/records.jsonl").unlink()
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-now-it-wants-one")
    _, again = run_into(tmp_path / "run", make_program(there, options="&timeout=7"), make_examples(4))
    assert there.stats.received == 0
    assert {r.id: r.outputs for r in again} == {r.id: r.outputs for r in first}
    assert all(u.calls == 0 and u.cached > 0 for r in again for u in r.usage.values())


def test_other_sampling_is_another_call(tmp_path, start_mock):
    mock = start_mock()
    run_into(tmp_path / "run", make_program(mock), make_examples(1))
    (tmp_path / "run/records.jsonl").unlink()
    mock.reset()
    run_into(tmp_path / "run", make_program(mock, options="&temperature=0.1"), make_examples(1))
    assert mock.stats.received > 0


def test_failed_examples_run_once_more_only_on_request(tmp_path):
    examples = make_examples(3)
    answer = {e.input_values["question"]: str for e in examples[1:]}
    run_into(tmp_path / "run", Echo(lambda q: answer[q](q)), examples)
    summary, records = run_into(tmp_path / "run", Echo(str), examples)
    assert (summary.done, sum(not r.ok for r in records)) == (0, 1)
    summary, records = run_into(tmp_path / "run", Echo(str), examples, retry_errors=True)
    assert (summary.done, summary.skipped) == (1, 2)
    assert all(r.ok for r in records) and len(records) == 3


def test_unreadable_answers_are_asked_for_anew_when_a_failed_example_is_retried(tmp_path, start_mock):
    """They are finished calls: from the cache, the example would fail the same way for ever."""
    broken, sound = start_mock(MockConfig(rates={"null_content": 1.0})), start_mock(MockConfig(accept=1))
    _, (record,) = run_into(tmp_path / "run", make_program(broken), make_examples(1))
    assert record.error.startswith("UnreadableAnswer: ") and broken.stats.received == 3
    _, (record,) = run_into(tmp_path / "run", make_program(sound), make_examples(1), retry_errors=True)
    assert record.ok and sound.stats.received == 4


# Failures


def test_failing_example_is_a_record_and_the_others_go_on(tmp_path):
    def answer(question):
        if "1" in question:
            raise ValueError("a first line\nand a prompt of many lines")
        return question

    summary, records = run_into(tmp_path / "run", Echo(answer), make_examples(3))
    assert (summary.done, summary.failed) == (3, 1)
    assert {r.id: r.error for r in records} == {"q0": None, "q1": "ValueError: a first line", "q2": None}
    assert all(r.inputs for r in records)


def test_error_without_a_message_is_still_named(tmp_path):
    def answer(_):
        raise KeyError

    _, (record,) = run_into(tmp_path / "run", Echo(answer), make_examples(1))
    assert record.error == "KeyError"


def test_failures_in_a_row_stop_the_run_and_a_later_one_goes_on(tmp_path, start_mock):
    broken, sound = start_mock(MockConfig(rates={"server_error": 1.0})), start_mock()
    examples = make_examples(FUSE_LEAST + 15)
    with pytest.raises(
        PrerequisiteError, match=rf"{FUSE_LEAST} of the last {FUSE_LEAST} examples failed.*--retry-errors"
    ):
        run_into(tmp_path / "run", make_program(broken), examples, concurrency=2, retry=ONCE)
    records = list(RunDir.read(tmp_path / "run").records())
    assert FUSE_LEAST <= len(records) <= FUSE_LEAST + 8  # those in flight may end as well
    assert all(r.error.startswith("LMServerError: ") for r in records)
    summary, records = run_into(tmp_path / "run", make_program(sound), examples, retry_errors=True)
    assert summary.done == len(examples) == sum(r.ok for r in records)


def failing_for(*endings):
    def answer(question):
        if question.removesuffix("?").endswith(endings):
            raise ValueError("no")
        return question

    return Echo(answer)


def test_run_goes_on_while_fewer_than_half_of_its_examples_fail(tmp_path):
    summary, records = run_into(tmp_path / "run", failing_for("1", "3", "5", "7"), make_examples(150))
    assert (summary.done, summary.failed) == (150, 60) == (len(records), sum(not r.ok for r in records))


def test_run_stops_when_half_of_its_examples_fail(tmp_path):
    with pytest.raises(PrerequisiteError, match="ValueError: no"):
        run_into(tmp_path / "run", failing_for("1", "3", "5", "7", "9"), make_examples(150))
    assert len(RunDir.read(tmp_path / "run").finished()) < 60


@pytest.mark.parametrize("error", [UsageError("inputs of questions: missing mood"), DataError("row 3: no")])
def test_usage_error_in_a_program_surfaces_as_it_is(tmp_path, error):
    def answer(question):
        if "2" in question:
            raise error
        return question

    with pytest.raises(type(error)) as raised:
        run_into(tmp_path / "run", Echo(answer), make_examples(5), concurrency=1)
    assert raised.value is error
    assert {"q0", "q1"} <= RunDir.read(tmp_path / "run").finished()


def test_data_error_of_the_stream_surfaces_and_finished_examples_are_kept(tmp_path):
    def stream():
        yield from make_examples(30)
        raise DataError("data.jsonl, line 31: not valid JSON")

    with pytest.raises(DataError, match="line 31"):
        run_into(tmp_path / "run", Echo(str), stream(), concurrency=1)
    assert len(RunDir.read(tmp_path / "run").finished()) >= 30 - 3


def test_two_examples_of_one_id_are_refused(tmp_path):
    with pytest.raises(UsageError, match="two examples have the id 'q0'; ids must be unique"):
        run_into(tmp_path / "run", Echo(str), [*make_examples(1), *make_examples(3)])


def test_damaged_call_cache_is_refused_by_name(tmp_path, start_mock):
    mock = start_mock()
    run_into(tmp_path / "run", make_program(mock), make_examples(1))
    cache = tmp_path / "run/cache/calls.sqlite"
    cache.write_bytes(b"no database at all" * 500)
    with pytest.raises(DataError, match=r"call cache .*calls.sqlite cannot be used.*delete the file"):
        run_into(tmp_path / "run", make_program(mock), make_examples(2))


def test_call_cache_damaged_inside_stops_the_run_and_does_not_fail_the_examples(tmp_path, start_mock):
    mock = start_mock()
    run_into(tmp_path / "run", make_program(mock), make_examples(1))
    with sqlite3.connect(tmp_path / "run/cache/calls.sqlite") as database:
        database.execute("DROP TABLE finished")
        database.execute("CREATE TABLE finished (something TEXT)")
    database.close()
    with pytest.raises(DataError, match=r"call cache .*has another schema.*delete the file"):
        run_into(tmp_path / "run", make_program(mock), make_examples(2))
    assert RunDir.read(tmp_path / "run").finished() == {"q0"}


# What a record holds


class Rubric(BaseModel):
    criteria: str
    levels: tuple[int, ...]


class Odd:
    def __str__(self):
        return "an odd thing"


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (Rubric(criteria="kind?", levels=(1, 5)), {"criteria": "kind?", "levels": [1, 5]}),
        ({1: (True, None, 0.5)}, {"1": [True, None, 0.5]}),
        (Odd(), "an odd thing"),
        (b"bytes", "b'bytes'"),
        ([{"deep": Odd()}], [{"deep": "an odd thing"}]),
    ],
)
def test_whatever_a_program_returns_or_is_given_becomes_json(tmp_path, output, kept):
    example = make_example("a", {"question": "?"}, labels={"given": output})
    summary, (record,) = run_into(tmp_path / "run", Echo(lambda _: output), [example])
    assert (summary.failed, record.outputs, record.labels) == (0, {"response": kept}, {"given": kept})


def test_record_carries_what_the_example_and_the_program_know(tmp_path, start_mock):
    mock = start_mock(MockConfig(accept=1))
    example = make_example("a", {"question": "why?"}, group="g", cluster="c", labels={"human": 4})
    seen = []
    _, (record,) = run_into(tmp_path / "run", make_program(mock), [example], on_record=seen.append)
    assert [record] == seen
    assert (record.group, record.cluster, record.labels) == ("g", "c", {"human": 4})
    assert record.stop_reasons == {"principles": "accepted", "response": "accepted"}
    assert [(r.stage, r.verdict.score) for r in record.trace] == [("principles", 5), ("response", 5)]
    assert set(record.outputs) == {"principles", "response", "scores"}
    assert (record.usage["base"].calls, record.usage["critic"].calls) == (2, 2)
    tokens = mock.stats
    assert sum(u.input_tokens for u in record.usage.values()) == tokens.input_tokens
    assert sum(u.output_tokens for u in record.usage.values()) == tokens.output_tokens


def test_record_is_on_disk_when_it_is_announced(tmp_path):
    lines = []

    def look(record):
        written = (tmp_path / "run/records.jsonl").read_bytes().splitlines()
        lines.append(Record.from_json(json.loads(written[-1])) == record)

    run_into(tmp_path / "run", Echo(str), make_examples(4), on_record=look)
    assert lines == [True] * 4


# Event loops


async def test_run_bulk_works_inside_a_running_event_loop(tmp_path):
    summary, records = run_into(tmp_path / "run", Echo(str), make_examples(3))
    assert summary.done == len(records) == 3


async def test_run_bulk_inside_a_running_event_loop_raises_what_went_wrong(tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        run_into(tmp_path / "run", Echo(str), make_examples(3), concurrency=0)


async def test_arun_bulk_runs_beside_other_tasks_of_the_loop(tmp_path, start_mock):
    mock = start_mock(MockConfig(latency_seconds=0.01))
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    with RunDir.create(tmp_path / "run", {}) as run:
        summary = await arun_bulk(make_program(mock), make_examples(3), run)
    ticking.cancel()
    assert summary.done == 3
    assert ticks > 3


def test_interrupted_notebook_cell_stops_the_work_and_can_be_run_again(tmp_path):
    """A notebook's loop is running when the cell is interrupted; the interrupt reaches the main thread only."""
    examples = make_examples(30)

    class Waiting(Echo):
        async def acall(self, question, group=None):
            if "10" in question:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                await asyncio.Event().wait()
            return await super().acall(question, group)

    async def cell():
        run_into(tmp_path / "run", Waiting(str), examples, concurrency=1)

    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    loop.close()
    assert "q10" not in RunDir.read(tmp_path / "run").finished()
    summary, records = run_into(tmp_path / "run", Echo(str), examples)
    assert summary.skipped >= 8
    assert summary.done + summary.skipped == len(records) == 30


def test_quick_retries_succeed(tmp_path, start_mock):
    mock = start_mock(MockConfig(script=["server_error"] * 3, accept=1))
    summary, _ = run_into(tmp_path / "run", make_program(mock), make_examples(1), retry=QUICK)
    assert (summary.failed, mock.stats.received) == (0, 3 + 4)


# A path in place of an open run


def test_path_is_refused_for_other_inputs_and_other_lms(tmp_path, start_mock):
    mock, examples = start_mock(), make_examples(3)
    assert run_bulk(make_program(mock), examples, tmp_path / "run").done == 3
    answered = mock.stats.n_answered
    assert run_bulk(make_program(mock), examples, tmp_path / "run").skipped == 3
    others = [make_example("q1", {"question": "another one?"})]
    with pytest.raises(spri.RunMismatchError, match="example 'q1' had other inputs there"):
        run_bulk(make_program(mock), others, tmp_path / "run")
    with pytest.raises(spri.RunMismatchError, match=r"models: .*temperature=0\.1"):
        run_bulk(make_program(mock, options="&temperature=0.1"), examples, tmp_path / "run")
    assert mock.stats.n_answered == answered


def test_path_knows_the_inputs_of_finished_examples_without_reading_their_records(tmp_path, monkeypatch):
    monkeypatch.setattr(ends, "STRETCH_BYTES", 5_000)
    program, questions = (
        spri.SPRI(make_task()).set_lms(base="offline"),
        [f"why is it {n}?" for n in range(30)],
    )
    questions[3] = "half \ud800 a pair"

    def run(given):
        return run_bulk(
            program, [make_example(f"q{n}", {"question": q}) for n, q in enumerate(given)], tmp_path
        )

    assert run(questions).done == 30
    parsed, read = [], ends.End.read
    monkeypatch.setattr(ends.End, "read", lambda line: (parsed.append(line), read(line))[1])
    monkeypatch.setattr(RunDir, "records", None)
    assert run(questions).skipped == 30
    for other in (3, 20):
        with pytest.raises(spri.RunMismatchError, match=f"example 'q{other}' had other inputs there"):
            run([q + "!" if n == other else q for n, q in enumerate(questions)])
    assert len(parsed) < 3 * 5


def test_path_is_refused_for_other_loop_settings_by_name(tmp_path):
    def run(task=None, **loop):
        program = spri.SPRI(task or make_task(), **loop).set_lms(base="offline")
        return run_bulk(program, make_examples(1), tmp_path / "run")

    assert run(accept_at=4).done == 1
    with pytest.raises(
        spri.RunMismatchError, match=r'"principles.accept_at": 4.* there, .*"principles.accept_at": 6'
    ):
        run(accept_at=6)
    with pytest.raises(spri.RunMismatchError, match=r'settings: {"principles.keep": "best"'):
        run(keep="last")
    with pytest.raises(spri.RunMismatchError, match="program"):
        run(make_task([{"question": "q", "principles": "p"}]))
    assert run(accept_at=4).skipped == 1


def test_path_is_refused_for_another_prompt_style(tmp_path):
    program = spri.SPRI(make_task()).set_lms(base="offline")
    run_bulk(program, make_examples(1), tmp_path / "run")
    with pytest.raises(spri.RunMismatchError, match=r"models: .*format=json"):
        run_bulk(program.set_lms(base="offline?format=json"), make_examples(1), tmp_path / "run")
    program.set_lms(base="offline")
    with dspy.context(adapter=dspy.XMLAdapter()), pytest.raises(spri.RunMismatchError, match="XMLAdapter"):
        run_bulk(program, make_examples(1), tmp_path / "run")


def test_path_is_refused_for_another_lm_that_was_made_by_dspy_itself(tmp_path):
    def program(model):
        made = spri.SPRI(make_task())
        for _, predictor in made.named_predictors():
            predictor.lm = dspy.utils.DummyLM([{"response": "fine"}])
            predictor.lm.model = model
        return made

    run_bulk(program("dummy/one"), [], tmp_path / "run")
    with pytest.raises(spri.RunMismatchError, match=r"models: .*dummy/one.* there, .*dummy/two.* now"):
        run_bulk(program("dummy/two"), [], tmp_path / "run")


@pytest.mark.parametrize("example", [{"query": "why?"}, dspy.Example(query="why?")])
def test_a_row_without_any_input_is_refused(tmp_path, example):
    with pytest.raises(UsageError, match=r"example 1 has none of the inputs question; it has query"):
        run_bulk(spri.SPRI(make_task()), [example], tmp_path / "run")


def test_budget_is_spent_on_whole_examples_though_all_are_open(tmp_path, start_mock):
    mock = start_mock(MockConfig(accept=1, latency_seconds=0.01))
    with pytest.raises(BudgetSpent, match=r"\d+ examples were finished now, in .*run"):
        run_into(
            tmp_path / "run",
            make_program(mock),
            make_examples(12),
            concurrency=4,
            budget=Budget(max_calls=24),
        )
    assert len(list(RunDir.read(tmp_path / "run").records())) >= 4
