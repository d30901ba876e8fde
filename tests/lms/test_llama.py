"""A GGUF file as an LM: one real llama.cpp server for all roles, its options, its errors, and its end."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import dspy
import httpx
import psutil
import pytest

import spri_dspy as spri
from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.lms.concurrency import Limiter
from spri_dspy.lms.llama import SPREAD_AFTER, Slots, available_cores
from spri_dspy.lms.spec import CALL, Call, load_lm
from spri_dspy.records import Usage
from tests.command import assert_refused
from tests.command import spri as command
from tests.judge_parts import ANSWER
from tests.servers.tiny_gguf import TinyShape, write_tiny_gguf

# A model with random weights writes on until it is stopped: 60 characters leave room for the score.
SMALL = "n_threads=1&max_tokens=200&max_chars=60&seed=1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    shape = TinyShape(hidden=16, layers=1, heads=1, feed_forward=16)
    return write_tiny_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf", shape=shape)


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    """One whose likeliest first token is not the last."""
    return write_tiny_gguf(tmp_path_factory.mktemp("llama") / "talker.gguf")


@pytest.fixture(scope="module")
def task():
    return spri.load_task("reappraisal")


@pytest.fixture(scope="module")
def example(task):
    return next(iter(task.examples()))


def servers():
    """The llama.cpp servers of this process."""
    return [p for p in psutil.Process().children() if "llama_server.py" in " ".join(p.cmdline())]


def addresses(process):
    return [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]


# One server


def test_roles_that_name_the_same_file_share_one_server_on_loopback(tiny, task, example):
    before = {process.pid for process in servers()}
    own = f"{tiny}?{SMALL}&slots=3"
    program = spri.SPRI(task, max_critiques=1).set_lms(base=own, critic=f"gguf/{own}&temperature=0")
    prediction = program(**example.input_values)
    load_judge("generic").set_lms(judge=f"{own}&format=chat")
    assert all(type(r.verdict.score) is int and len(r.verdict.feedback) <= 60 for r in prediction.trace)
    assert prediction.principles and prediction.response
    (server,) = [process for process in servers() if process.pid not in before]
    (listening,) = addresses(server)
    assert listening.ip == "127.0.0.1"
    assert addresses(psutil.Process()) == [] or listening.port not in {
        a.port for a in addresses(psutil.Process())
    }
    for path in ("v1/models", "slots", "props"):
        answer = httpx.get(f"http://127.0.0.1:{listening.port}/{path}", trust_env=False, verify=False)
        assert answer.status_code == 401  # other people of this machine see neither model nor prompts


def test_other_settings_are_another_server_at_another_port(tiny):
    before = {process.pid for process in servers()}
    for slots in (1, 2):
        load_lm(f"{tiny}?n_threads=1&max_tokens=1&n_ctx=1024&slots={slots}")("hello")
    made = [process for process in servers() if process.pid not in before]
    assert len({listening.port for process in made for listening in addresses(process)}) == len(made) == 2


def test_many_calls_at_once_are_answered_and_no_more_than_slots_are_in_flight(tiny):
    lm = load_lm(f"{tiny}?n_threads=1&max_tokens=5&slots=2")

    async def ask():
        return await asyncio.gather(*(lm.acall(f"hello {number}") for number in range(12)))

    assert len(asyncio.run(ask())) == 12
    assert Limiter(16).window(lm).most == 2
    assert Limiter(1).window(lm).most == 1


def test_ended_server_is_started_again(tiny):
    lm = load_lm(f"{tiny}?n_threads=1&max_tokens=3&n_ctx=2048&temperature=0")
    before = {process.pid for process in servers()}
    first = lm("hello")
    (server,) = [process for process in servers() if process.pid not in before]
    server.kill()
    psutil.wait_procs([server], timeout=10)
    assert lm("hello") == first
    assert asyncio.run(lm.acall("hello")) == first


def test_engine_that_another_process_is_sent_answers_there(tiny):
    lm = load_lm(f"{tiny}?{SMALL}&temperature=0&format=chat")
    engine = pickle.loads(pickle.dumps(lm.engine))
    assert lm.copy(engine=engine)("hello") == lm("hello")


def test_threads_are_cores_of_this_process():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


# Options and answers


def test_sampling_options_reach_the_model(talker):
    def ask(options):
        return load_lm(f"{talker}?n_threads=1&max_tokens=12&{options}")("hello")

    greedy = ask("temperature=0")
    assert ask("temperature=0") == greedy == ask("temperature=1&top_k=1&seed=4")
    assert ask("temperature=1&seed=4") == ask("temperature=1&seed=4") != ask("temperature=1&seed=5")
    assert ask("temperature=1&seed=4&top_p=0.01") == greedy == ask("temperature=1&seed=4&min_p=0.99")
    assert ask("temperature=0&repetition_penalty=1.9") != greedy
    assert len(ask("temperature=1&seed=4&max_tokens=2")[0]) < len(greedy[0])


def test_sync_and_async_say_the_same(talker):
    lm = load_lm(f"{talker}?n_threads=1&max_tokens=12&seed=2")
    assert lm("hello") == asyncio.run(lm.acall("hello"))


def test_answers_are_held_to_a_schema_unless_another_format_is_stated(tiny, task, example):
    def answers(options):
        program = spri.SPRI(task, max_critiques=1).set_lms(base=f"{tiny}?{SMALL}&{options}")
        program.situate(**example.input_values)
        return [call["outputs"][0] for call in program.get_lm().history]

    assert [sorted(json.loads(text)) for text in answers("")[1:2]] == [["feedback", "score"]]
    assert all(not text.startswith("{") for text in answers("format=result_tag"))


def test_judges_take_the_expected_score(tiny):
    judge = load_judge("generic", logprobs=True).set_lms(judge=f"{tiny}?{SMALL}&max_chars=30&temperature=1")
    reading = judge(**ANSWER).details["score"]["readings"][0]
    assert reading["by"] == "logprobs", reading
    assert 1 <= reading["value"] <= 5
    assert 0 < reading["mass"] < 1


def test_model_is_named_as_it_was_typed(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    assert load_lm("gguf/tiny.gguf").model == load_lm("tiny.gguf").model == "gguf/tiny.gguf"


# What goes wrong


def test_prompt_beyond_the_context_is_refused_with_both_numbers(tmp_path):
    path = write_tiny_gguf(tmp_path / "short.gguf", shape=TinyShape(context_tokens=512))
    lm = load_lm(f"{path}?n_threads=1&max_tokens=5")
    for ask in (lm, lambda prompt: asyncio.run(lm.acall(prompt))):
        with pytest.raises(CallError, match=r"the prompt has 5\d\d tokens and n_ctx is 512") as caught:
            ask("x" * 520)
        assert "the model was trained on 512 at most" in str(caught.value)
    assert lm("x" * 100)


def test_prompt_beyond_the_context_is_asked_once_and_its_record_says_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lm = f"base={tiny}?{SMALL}&n_ctx=512&slots=1"
    code, _, err = command("run", "reappraisal", "--limit", 2, "--lm", lm, "--run", "r", "--keep-calls")
    assert code == 1 and "failed: 2 CallError" in err, err
    records = list(spri.RunDir.read("r").records())
    for record in records:
        said = (
            r"CallError: the prompt has (\d+) tokens and n_ctx is 512: write n_ctx=(\d+) into the LM string "
        )
        needed, better = map(int, re.match(said, record.error).groups())
        assert needed < better - 512 and better % 1024 == 0
        assert record.failure.stage == "generate_principles"
    assert len(Path("r/calls.jsonl").read_text().splitlines()) == len(records) == 2


# The prefix cache


def test_stage_has_one_slot_at_first_and_more_as_its_calls_grow():
    slots = Slots(3)
    with ExitStack() as first:
        chosen = [first.enter_context(slots.of("generate")) for _ in range(SPREAD_AFTER)]
        assert len({*chosen}) == 1
        with slots.of("critique") as other:
            assert other not in chosen
        spread = first.enter_context(slots.of("generate"))
        assert spread not in chosen
        assert first.enter_context(slots.of("generate")) == spread  # the less busy of its own
    for _ in range(3 * SPREAD_AFTER):
        with slots.of("generate") as quiet:
            assert quiet in (*chosen, spread)  # nobody waits, so it needs no third


def test_failed_call_leaves_its_slot():
    slots = Slots(2)
    for _ in range(3 * SPREAD_AFTER):
        with suppress(ValueError), slots.of("generate") as chosen:
            raise ValueError
        assert chosen == 0


def test_calls_of_a_stage_read_what_their_prompts_share_once(tiny):
    """Left to itself, llama.cpp has every slot read it."""
    lm = load_lm(f"{tiny}?n_threads=1&max_tokens=1&slots=4&n_ctx=4096")
    shared = "the same words for every post of this stage; " * 20

    async def reused():
        calls = [Call("generate", "base") for _ in range(SPREAD_AFTER)]

        async def ask(call):
            CALL.set(call)
            with dspy.context(usage_tracker=call):
                await lm.acall(messages=[{"role": "user", "content": f"{shared}{id(call)}"}])

        await asyncio.gather(*map(ask, calls))
        return sorted(call.reused_tokens for call in calls)

    first, *others = asyncio.run(reused())
    assert first < 100 and min(others) > 800


def test_cached_share_is_shown_at_the_end_and_kept_in_the_record(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "reappraisal", "--limit", 2, "--set", "max_critiques=1", "--keep-calls"]
    code, _, err = command(*arguments, "--lm", f"base={tiny}?{SMALL}", "--run", "r")
    assert code == 0, err
    (shown,) = re.findall(r"([\d,]+) tokens in \((\d+)% from the server's prefix cache\)", err)
    usage = sum((u for r in spri.RunDir.read("r").records() for u in r.usage.values()), Usage())
    assert usage.input_tokens == int(shown[0].replace(",", ""))
    assert 0 < usage.reused_tokens < usage.input_tokens
    assert int(shown[1]) == round(100 * usage.reused_tokens / usage.input_tokens)
    calls = [json.loads(line)["usage"] for line in Path("r/calls.jsonl").read_text().splitlines()]
    assert sum(call["reused_tokens"] for call in calls) == usage.reused_tokens
    records = [r for r in spri.RunDir.read("r").records() if any(u.reused_tokens for u in r.usage.values())]
    _, out, _ = command("show", "r", records[0].id)
    assert "from the server's prefix cache" in out


def test_summary_in_python_has_the_cached_share(tiny, task, example, tmp_path):
    program = spri.SPRI(task, max_critiques=1).set_lms(base=f"{tiny}?{SMALL}")
    summary = spri.run_bulk(program, [example], tmp_path / "r")
    (record,) = spri.RunDir.read(tmp_path / "r").records()
    assert summary.usage == sum(record.usage.values(), Usage())
    assert summary.usage.reused_tokens > 0


def test_missing_wheel_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(PrerequisiteError, match=r'pip install "spri-dspy\[local\]"'):
        load_lm(str(tiny))
    assert_refused(command("run", "reappraisal", "--lm", f"base={tiny}"), 3, "spri-dspy[local]")


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.gguf", "there is no file"), (".", "a directory"), ("text.gguf", "is no GGUF file")],
)
def test_file_that_is_no_model_is_one_line(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_text("hello")
    for verb in (["run", "reappraisal"], ["run", "reappraisal", "--dry-run"]):
        assert_refused(command(*verb, "--lm", f"base=gguf/{name}"), 2, said)
    assert [path.name for path in tmp_path.iterdir()] == ["text.gguf"]


def test_model_that_llama_cpp_does_not_know_is_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("new.gguf").write_bytes(tiny.read_bytes().replace(b"llama", b"zlama"))
    with pytest.raises(UsageError, match="unknown model architecture: 'zlama'"):
        load_lm("new.gguf")("hello")
    code, _, err = command("run", "reappraisal", "--limit", 2, "--lm", "base=new.gguf", "--run", "r")
    assert code == 2
    assert [line for line in err.splitlines() if "zlama" in line and line.startswith("spri: ")], err
    assert "Traceback" not in err


# Runs


def test_manifest_holds_name_and_content_and_no_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    path = Path("models/m.gguf").absolute()
    path.write_bytes(tiny.read_bytes())

    def run(model):
        return command("run", "reappraisal", "--limit", 1, "--lm", f"base={model}?{SMALL}", "--run", "r")

    assert run(path)[0] == 0
    manifest = Path("r/manifest.json").read_text()
    assert "gguf/m.gguf@" in manifest
    assert str(tmp_path) not in manifest
    path.rename("m.gguf")
    code, _, err = run("m.gguf")
    assert code == 0, err
    assert "0 examples done; 1 finished before" in err
    write_tiny_gguf(Path("m.gguf"), seed=1)
    assert_refused(run("m.gguf"), 2, "r holds another run (models: ")


# The end of the process

CODE = """
import os, psutil, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
from spri_dspy.lms.spec import load_lm
lm = load_lm(sys.argv[1] + "?n_threads=1&slots=1&seed=1&max_tokens=" + sys.argv[2])
lm.copy(max_tokens=1)("hello")
print(*(p.pid for p in psutil.Process().children() if "llama_server.py" in " ".join(p.cmdline())), flush=True)
"""


FORK = """
def child(code):
    pid = os.fork()
    if not pid:
        code()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert child(lambda: sys.exit(3)) == 3
assert child(lambda: os._exit(len(lm("child")))) == 1
lm("after")
"""


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("import threading; threading.Thread(target=lambda: [*map(lm, 'abcdef')], daemon=True).start()", 0),
        (FORK, 0),
        pytest.param("1 / 0", 1, marks=pytest.mark.slow),
        pytest.param("os._exit(5)", 5, marks=pytest.mark.slow),
    ],
    ids=["while-answering", "children-end-before", "exception", "at-once"],
)
def test_server_ends_with_its_process(tiny, rest, code):
    done = subprocess.run(
        [sys.executable, "-c", CODE + rest, tiny, "100"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr or code == 1
    assert_gone(int(done.stdout))


SYNC = "for number in range(10**6): lm(f'hi {number}')"
ASYNC = f"""
import asyncio
async def ask():
    {SYNC.replace(": lm(", ": await lm.acall(")}
asyncio.run(ask())
"""


@pytest.mark.parametrize(
    ("calls", "sent"),
    [
        (SYNC, signal.SIGKILL),
        (ASYNC, signal.SIGINT),
        *(pytest.param(SYNC, sent, marks=pytest.mark.slow) for sent in (signal.SIGINT, signal.SIGTERM)),
        *(pytest.param(ASYNC, sent, marks=pytest.mark.slow) for sent in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_server_ends_with_a_process_that_is_stopped_while_it_waits_for_answers(tiny, calls, sent):
    with subprocess.Popen(
        [sys.executable, "-c", CODE + calls, tiny, "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        server = psutil.Process(int(process.stdout.readline()))
        time.sleep(0.3)
        process.send_signal(sent)
        try:
            process.wait(10)
        finally:
            process.kill()
    assert_gone(server.pid)


def assert_gone(pid):
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the server outlived its process"
        time.sleep(0.02)
