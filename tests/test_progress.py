"""What a user sees while work goes on, with a terminal and without, and what it came to at the end."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

import spri_dspy as spri_package
from spri_dspy.progress import Progress
from spri_dspy.records import Record, Usage
from tests.command import process, spri, write
from tests.factories import make_task
from tests.servers.openai_mock import MockConfig
from tests.terminal import in_terminal, on_screen
from tests.test_evidence import answering

REPOSITORY = Path(__file__).parents[1]
PRICED = "&usd_in=1&usd_out=2"
STAGES = ("generate_principles", "critique_principles", "generate_response", "critique_response")


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def without_colours(written):
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written)


def failing_second(messages, body):
    """No readable answer to what is about the lighthouse."""
    return "" if "lighthouse" in messages[-1]["content"] else answering()(messages, body)


def two_posts(path):
    return write(
        path / "posts.jsonl",
        {"id": "bad", "post": "I dream of the lighthouse."},
        {"id": "good", "post": "My sister has not written since March."},
    )


def record(number, *, failed=False, calls=4):
    usage = {"base": Usage(calls, 0, 1000 * calls, 100 * calls)}
    return Record(f"q{number}", {}, usage=usage, error="LMServerError: x" if failed else None)


# Without a terminal


def test_lines_now_and_then_tell_failures_calls_tokens_and_dollars(capsys, monkeypatch):
    monkeypatch.setattr("spri_dspy.progress.SAY_EVERY_SECONDS", 0)
    with Progress(3, done=1, prices={"base": (1e-6, 2e-6)}) as progress:
        progress.add(record(1))
        progress.describe("search")
        progress.add(record(2, failed=True))
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"spri: 2 of 3 examples; 4 calls \([\d.]+/s\), 4,400 tokens, \$0\.0048", first)
    assert re.fullmatch(
        r"spri: search: 3 of 3 examples; 1 failed, 8 calls \([\d.]+/s\), 8,800 tokens, \$0\.0096", second
    )


def test_short_work_without_a_terminal_says_nothing_meanwhile(capsys):
    with Progress(2) as progress:
        progress.add(record(1))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["run", "judge", "tune"])
def test_every_long_command_tells_how_far_it_is(command, monkeypatch):
    monkeypatch.setattr("spri_dspy.progress.SAY_EVERY_SECONDS", 0)
    arguments, said = {
        "run": (["reappraisal", "--limit", 3, "--run", "r"], r"spri: 2 of 3 examples; \d+ calls \("),
        "judge": (["r"], r"spri: 2 of 3 examples; \d+ calls \("),
        "tune": (["reappraisal.toml", "--run", "t"], r"spri: search: \d+ rollouts; \d+ calls \("),
    }[command]
    if command == "judge":
        spri("run", "reappraisal", "--limit", 3, "--run", "r")
    if command == "tune":
        posts = (REPOSITORY / "optimize/data/reappraisal.jsonl").read_text("utf-8").splitlines()
        write(Path("posts.jsonl"), *posts[:30])
        Path("reappraisal.toml").write_text(RECIPE, "utf-8")
    code, _, err = spri(command, *arguments)
    assert code == 0 and re.search(said, err), err
    assert "best" not in err, "what the offline LM scores is no figure"


RECIPE = """
task = "reappraisal"
[data]
file = "posts.jsonl"
[metric]
name = "empathy"
[optimizer]
name = "labeled_few_shot"
[output]
run = "tuned"
plot = false
"""


# In a terminal


@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_shows_a_bar_that_fits_with_failures_and_dollars(tmp_path, start_mock, columns):
    lm = f"base=hosted_vllm/m?api_base={start_mock(reply=failing_second).base_url}{PRICED}"
    data = two_posts(tmp_path)
    code, written = in_terminal(
        "run", "reappraisal", "--data", data, "--run", "my run", "--lm", lm, columns=columns
    )
    assert code == 1
    pieces = re.split(r"[\r\n]+", without_colours(written))
    bars = [piece for piece in pieces if " of 2 examples" in piece]
    assert bars and all(len(bar) <= columns for bar in bars)
    last = r"━+ 2 of 2 examples; 1 failed, \d+ calls \([\d.]+/s\), [\d.,k]+ tokens, \$\d\.\d+ \d\d:\d\d"
    assert re.fullmatch(last, bars[-1].strip()), bars[-1]
    lines = on_screen(written, columns)
    end = lines[lines.index("spri: 1 example done, 1 failed") :]
    assert re.match(r"spri: \d+ LM calls.*, [\d,]+ tokens in, [\d,]+ out, \$\d\.\d+,", end[1])
    assert [line for line in end[2:] if line.startswith("spri: ")] == [
        "spri: failed: 1 UnreadableAnswer",
        "spri: 1 failed; the same command with --retry-errors tries these once more",
        "spri: next: spri show 'my run' bad",
        "spri: next: spri judge 'my run' --lm judge=PROVIDER/MODEL",
    ]


def test_terminal_shows_phases_of_a_tuning_and_how_long_it_goes(tmp_path):
    posts = (REPOSITORY / "optimize/data/reappraisal.jsonl").read_text("utf-8").splitlines()
    write(tmp_path / "posts.jsonl", *posts[:30])
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    code, written = in_terminal("tune", "recipe.toml", columns=80)
    assert code == 0
    pieces = [piece for piece in re.split(r"[\r\n]+", without_colours(written)) if "rollouts" in piece]
    assert all(len(piece) <= 80 for piece in pieces)
    assert any("search: " in piece for piece in pieces)
    last = r"test: \d+ rollouts; [\d,]+ calls \([\d.]+/s\), [\d.,kM]+ tokens, \$0\.00 +0:00:\d\d"
    assert re.fullmatch(last, pieces[-1].strip()), pieces[-1]
    lines = on_screen(written)
    assert lines[-4:-1] == [
        "spri: next: spri show tuned",
        "spri: next: spri report tuned",
        "spri: next: spri run reappraisal --program tuned/program.json",
    ]
    assert all(len(line) <= 80 for line in lines)
    assert "best" not in "".join(pieces)


def test_one_text_is_told_stage_by_stage(start_mock):
    mock = start_mock(MockConfig(accept=1))
    lm = f"base=hosted_vllm/m?api_base={mock.base_url}"
    code, written = in_terminal(
        "run", "reappraisal", "--text", "I lost my job.", "--lm", lm, "--run", "r", columns=80
    )
    assert code == 0
    told = [line for line in on_screen(written) if re.match(r"spri: \w+_\w+: ", line)]
    assert [line.split(": ")[1] for line in told] == list(STAGES)
    assert all(re.fullmatch(r"spri: \w+: \d+ tokens, [\d.]+ s", line) for line in told)


def test_one_text_is_told_stage_by_stage_without_a_terminal_too():
    _, _, err = spri("run", "reappraisal", "--text", "I lost my job.", "--run", "r")
    told = re.findall(r"^spri: (\w+_\w+): \d+ tokens, [\d.]+ s$", err, re.M)
    assert told[0] == STAGES[0] and set(STAGES) <= set(told)


# In Python


def test_run_bulk_shows_progress_and_totals(tmp_path, start_mock, capsys, monkeypatch):
    monkeypatch.setattr("spri_dspy.progress.SAY_EVERY_SECONDS", 0)
    mock = start_mock(reply=failing_second)
    program = spri_package.SPRI(make_task(), max_critiques=1)
    program.set_lms(base=f"hosted_vllm/m?api_base={mock.base_url}{PRICED}")
    rows = [{"id": n, "question": q} for n, q in (("a", "why?"), ("b", "whence the lighthouse?"))]
    summary = spri_package.run_bulk(program, rows, tmp_path / "run", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert (summary.done, summary.failed) == (2, 1)
    assert any(
        re.match(r"spri: 2 of 2 examples; 1 failed, \d+ calls \(.*/s\), .* tokens, \$", x) for x in lines
    )
    assert lines[-3] == f"spri: 2 done, 1 failed; {tmp_path / 'run'}"
    assert re.match(r"spri: \d+ LM calls.*, \$\d\.\d+, [\d.]+ s$", lines[-2])
    assert lines[-1] == "spri: failed: 1 UnreadableAnswer"


def test_run_bulk_without_progress_says_nothing(tmp_path, start_mock, capsys):
    program = spri_package.SPRI(make_task()).set_lms(base=f"hosted_vllm/m?api_base={start_mock().base_url}")
    spri_package.run_bulk(program, [{"id": "a", "question": "why?"}], tmp_path / "run")
    assert capsys.readouterr().err == ""


# Every call


@pytest.mark.parametrize("route", ["native", pytest.param("litellm", marks=pytest.mark.slow)])
def test_verbose_is_a_line_a_call_and_nothing_else(tmp_path, start_mock, route):
    lm = f"base=hosted_vllm/mine?api_base={start_mock(MockConfig(accept=1)).base_url}&route={route}"
    write(tmp_path / "posts.jsonl", {"id": "a", "post": "My sister has not written since March."})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    command = ["-v", "run", "reappraisal", "--data", "posts.jsonl", "--run", "r", "--json", "--lm", lm]
    done = process(*command, env=environment)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0 and json.loads(done.stdout)["id"] == "a"
    line = r"spri: example 'a', (\w+): hosted_vllm/mine: \d+ tokens in, \d+ out, \d+ ms"
    assert [found and found[1] for found in (re.fullmatch(line, each) for each in lines[:4])] == list(STAGES)
    assert lines[4] == "spri: 1 example done" and len(lines) == 4 + 4


@pytest.mark.slow
def test_verbose_tuning_logs_calls_and_no_word_of_others(tmp_path):
    posts = (REPOSITORY / "optimize/data/reappraisal.jsonl").read_text("utf-8").splitlines()
    write(tmp_path / "posts.jsonl", *posts[:30])
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("plot = false", ""), "utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    done = process("-v", "tune", "recipe.toml", env=environment)
    assert done.returncode == 0
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("spri: ") for line in lines)
    calls = [line for line in lines if line.startswith("spri: example '")]
    assert len(calls) > 100
    others = [line for line in lines if line not in calls and not line.startswith("spri: next: ")]
    assert len(others) < 8, others
    assert not re.search("selector|matplotlib|httpx|asyncio|litellm", "\n".join(others), re.I), others
