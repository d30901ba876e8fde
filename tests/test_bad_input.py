"""Input that cannot be used: one line on stderr that says what to do, and nothing is written."""

import json
import os
import subprocess
import sys

import pytest

from tests.command import KEYLESS, MAIN, assert_refused, files, process, spri, write


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


POST = "My sister has not answered my letters since March."
GOOD = {"id": "a", "post": POST}
BAD_FILES = {
    "empty": (b"", "has no rows; write one JSON object a line, or a table with a header"),
    "blank lines only": (b"\n \n\n", "has no rows; write one JSON object a line, or a table with a header"),
    "missing field": (
        b'{"post": "x y"}\n\n{"id": "b", "mood": 1}',
        "line 3, id 'b': missing column 'post'; it has id, mood; --map post=COLUMN renames one",
    ),
    "null field": (b'{"post": null}', "line 1: the column 'post' is empty"),
    "empty field": (b'{"post": "  "}', "line 1: the column 'post' is empty"),
    "number for text": (b'{"post": 5}', "line 1: the column 'post' must be text, not int"),
    "invalid JSON": (
        b'{"post": "x"}\n{"post": "x}',
        "line 2: not valid JSON: Unterminated string starting at at column 10; write one JSON object a line",
    ),
    "a table": (b"id,post\n1,hello\n", "line 1: not valid JSON: Expecting value at column 1"),
    "a list of texts": (
        b'[{"post": "x"}, "y"]',
        "item 2: a row must be a JSON object with named columns, not str",
    ),
    "a list that is cut off": (
        b'[{"post": "x"}, {"post"',
        ": not valid JSON: Expecting ':' delimiter at column 24; write one JSON object a line",
    ),
    "an empty list": (b"[]", "has no rows; write one JSON object a line, or a table with a header"),
    "no object": (
        b'{"post": "x"}\n"post"',
        "line 2: a row must be a JSON object with named columns, not str",
    ),
    "not UTF-8": (b'{"post": "caf\xe9"}', "line 1: not UTF-8 text (invalid continuation byte at byte 13)"),
    "UTF-16": ('{"post": "x"}'.encode("utf-16"), "line 1: not UTF-8 text"),
    "megabyte": (
        json.dumps({"post": "long " * 210_000}).encode(),
        "line 1: the column 'post' has 1,050,000 characters; shorten it to 200,000 at most",
    ),
    "lone surrogate": (
        b'{"post": "so \\ud83d"}',
        "line 1: the column 'post' has half a surrogate pair at character 3",
    ),
    "lone surrogate in the id": (
        b'{"id": "\\udc00", "post": "x"}',
        "the column 'id' has half a surrogate pair",
    ),
    "duplicate id": (
        b'{"id": "a", "post": "x"}\n{"id": "b", "post": "x"}\n{"id": "a", "post": "x"}',
        "line 3: the id 'a' is that of line 1 too; ids must be unique",
    ),
    "id of a wrong type": (
        b'{"id": [1], "post": "x"}',
        "line 1: the column 'id' must be text or a whole number",
    ),
    "no number": (b'{"post": "x", "grade": NaN}', "line 1: not usable JSON: NaN is no JSON number"),
    "endless number": (b'{"post": "x", "n": ' + b"9" * 5000 + b"}", "line 1: not usable JSON: "),
    "endless nesting": (b"[" * 200_000, ": not usable JSON: nested too deeply"),
    "unknown dimension": (
        b'{"post": "x", "dimension": "luck"}',
        "line 1: unknown dimension 'luck'; known: attentional_activity, ",
    ),
}


@pytest.mark.parametrize("content", BAD_FILES)
def test_bad_data_is_refused_with_its_place_and_nothing_is_written(tmp_path, content):
    (tmp_path / "posts.jsonl").write_bytes(BAD_FILES[content][0])
    before = files(tmp_path)
    found = spri("run", "reappraisal", "--data", "posts.jsonl", "--run", "new/run")
    assert_refused(found, 2, "spri: posts.jsonl", BAD_FILES[content][1])
    assert files(tmp_path) == before and not (tmp_path / "new").exists()


BAD_COMMANDS = [
    ("run reappraisal --workers 0", 2, "--workers must be at least 1, not 0"),
    ("run reappraisal --deadline 0", 2, "--deadline must be above 0 seconds, not 0"),
    ("run reappraisal --limit 0", 2, "--limit must be at least 1, not 0"),
    ("run reappraisal --limit -3", 2, "--limit must be at least 1, not -3"),
    ("run reappraisal --limit some", 2, "Invalid value for '--limit'"),
    ("run reappraisal --concurrency 0", 2, "--concurrency must be at least 1, not 0"),
    ("run reapraisal", 2, "unknown task 'reapraisal'; known: reappraisal"),
    ("run nowhere.py:TASK", 2, "no such file for the task 'nowhere.py:TASK': nowhere.py"),
    ("run", 2, "Missing argument 'task'. (spri run --help)"),
    ("runn reappraisal", 2, "No such command 'runn'"),
    ("run reappraisal --mood good", 2, "No such option: --mood"),
    ("run reappraisal --data posts.jsonl --text hello", 2, "give --data or --text, not both"),
    ("run reappraisal --map post=text", 2, "--map renames columns of a file; name the file with --data"),
    ("run reappraisal --data posts.jsonl --map post", 2, "--map takes FIELD=COLUMN, such as post=selftext"),
    ("run reappraisal --aim kindness", 2, "the input 'aim' stands beside --text; a file has columns for it"),
    ("run sft --text hello --aim kind", 2, "unknown input beside --text of the task sft 'aim'; known: none"),
    ("run reappraisal --text hello --input post=hi", 2, "of the task reappraisal 'post'; known: aim"),
    (
        "run reappraisal --data missing.jsonl",
        2,
        "missing.jsonl cannot be read: No such file or directory; check",
    ),
    ("run reappraisal --data .", 2, ". is a folder; name a file in it"),
    ("run reappraisal --data /dev/null", 2, "/dev/null can be read only once, the data is read twice"),
    ("run reappraisal --text=", 2, "the given text: the column 'post' is empty"),
    ("run reappraisal --lm base", 2, "--lm takes ROLE=STRING, such as base=openai/gpt-4o-mini, not 'base'"),
    ("run reappraisal --lm base=", 2, "--lm takes ROLE=STRING"),
    ("run reappraisal --lm writer=offline", 2, "unknown role 'writer'; known: base, critic, judge"),
    ("run reappraisal --lm base=offline --lm base=offline", 2, "--lm names base twice"),
    ("run reappraisal --lm base=gpt-4o", 2, "such as openai/gpt-4o-mini, or is offline"),
    ("run reappraisal --lm base=openai/", 2, "such as openai/gpt-4o-mini, or is offline"),
    ("run reappraisal --lm base=openai/x?temperature=hot", 2, "temperature='hot'"),
    ("run reappraisal --lm base=openai/x?temprature=1", 2, "unknown LM option 'temprature'; known: "),
    ("run reappraisal --lm base=openai/x?api_key=sk-secret", 2, "an LM string holds no keys"),
    ("run reappraisal --lm base=hosted_vllm/m?api_base=localhost:80", 2, "must be an http(s) address"),
    (
        "run reappraisal --lm base=hosted_vllm/m?api_base=http://me:sk-secret@h/v1",
        2,
        "without user name, password or query",
    ),
    ("run reappraisal --lm base=openai/gpt-4o-mini", 3, KEYLESS),
    ("run reappraisal --lm critic=anthropic/claude", 2, "pass --lm base=PROVIDER/MODEL too"),
    ("run reappraisal --lm base=anthropic/claude", 3, "set ANTHROPIC_API_KEY in the environment"),
    ("run reappraisal --lm base=openai/x --lm critic=offline", 2, "pass --lm critic=PROVIDER/MODEL"),
    ("run reappraisal --lm base=openai/x --lm judge=offline", 2, "pass --lm judge=PROVIDER/MODEL"),
    ("run reappraisal --lm base=gemini/g", 3, "set GEMINI_API_KEY or GOOGLE_API_KEY in the environment"),
    ("run reappraisal --lm base=hosted_vllm/m", 3, "needs its server's address: add ?api_base="),
    (
        "run reappraisal --lm base=hosted_vllm/m?api_base=http://h/v1&key_env=MY_KEY",
        3,
        "hosted_vllm/m needs a key: set MY_KEY in the environment",
    ),
    ("show nowhere", 2, "nowhere is no run directory: it has no manifest.json"),
    ("doctor --lm writer=offline", 2, "unknown role 'writer'; known: base, critic, judge"),
]


@pytest.mark.parametrize(("command", "code", "said"), BAD_COMMANDS, ids=[c[0] for c in BAD_COMMANDS])
def test_bad_command_is_refused_in_one_line_and_nothing_is_written(tmp_path, command, code, said):
    write(tmp_path / "posts.jsonl", GOOD)
    before = files(tmp_path)
    found = spri(*command.split(" "))
    assert_refused(found, code, said)
    assert "sk-secret" not in found[2]
    assert files(tmp_path) == before and not (tmp_path / "runs").exists()


def test_key_is_asked_for_after_the_data_is_checked_and_before_any_work(tmp_path):
    data = write(tmp_path / "posts.jsonl", GOOD, {"id": "b"})
    command = ["run", "reappraisal", "--data", data, "--run", "new", "--lm", "base=openai/gpt-4o-mini"]
    assert_refused(spri(*command), 2, "posts.jsonl, line 2, id 'b': missing column 'post'; it has id")
    assert_refused(spri(*command, "--limit", 1), 3, KEYLESS)
    assert not (tmp_path / "new").exists()


def test_file_that_may_not_be_read_is_refused(tmp_path):
    locked = "/proc/self/mem"  # no permission binds root, but its own memory has no first byte
    if os.geteuid() != 0:
        locked = write(tmp_path / "posts.jsonl", GOOD)
        locked.chmod(0)
    assert_refused(spri("run", "reappraisal", "--data", locked, "--run", "new"), 2, "cannot be read: ")
    assert not (tmp_path / "new").exists()


def test_pipe_is_refused_because_it_can_be_read_only_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = spri("run", "reappraisal", "--data", "pipe", "--run", "new")
    assert_refused(found, 2, "pipe can be read only once, the data is read twice; write it to a file first")


def test_name_with_a_line_break_still_makes_one_line(tmp_path):
    assert_refused(spri("run", "reappraisal", "--data", "no\nsuch\nfile"), 2, "no such file cannot be read")


def test_bad_data_is_refused_by_the_real_process(tmp_path):
    data = write(tmp_path / "posts.jsonl", GOOD, '{"post":')
    done = process("run", "reappraisal", "--data", data, "--run", "new")
    said = f"spri: {data}, line 2: not valid JSON: Expecting value at column 9; write one JSON object a line"
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(said) and done.stderr.count(b"\n") == 1
    assert not (tmp_path / "new").exists()


def test_missing_key_is_refused_by_the_real_process(tmp_path):
    done = process("run", "reappraisal", "--run", "new", "--lm", "base=openai/gpt-4o-mini")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (3, b"", f"spri: {KEYLESS}\n")
    assert not (tmp_path / "new").exists()


def test_text_that_is_no_utf8_is_refused_by_the_real_process(tmp_path):
    command = [sys.executable, "-c", MAIN, "run", "reappraisal", "--text"]
    done = subprocess.run([*command, b"caf\xe9"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"half a surrogate pair at character 3" in done.stderr and done.stderr.count(b"\n") == 1
    assert not (tmp_path / "runs").exists()


SYSTEMS = """
import dspy
from spri_dspy.systems.vanilla import system as vanilla

class Bare(dspy.Module):
    def __init__(self, task):
        super().__init__()

def mine(task, words=30):
    return vanilla(task)

def broken(task, paper=False):
    return task.no_such_thing

word = "spri"
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "own.py, line 13, 'return task.no_such_thing': AttributeError: 'Task' object has no"),
        ("word", "must be a class or a function that makes a system, not str"),
        ("mine --paper", "the system own.py:mine has no published behaviour; leave --paper out"),
        ("mine --set words=many", "the setting words of own.py:mine must be a number, not 'many'"),
        ("gone", "unknown name in own.py 'gone'; known: Bare, broken, "),
    ],
)
def test_system_of_the_users_own_is_refused_in_one_line(tmp_path, name, said):
    (tmp_path / "own.py").write_text(SYSTEMS)
    assert_refused(spri("run", "reappraisal", "--system", *f"own.py:{name}".split()), 2, said)
    assert not (tmp_path / "runs").exists()


def test_system_without_a_published_behaviour_runs(tmp_path):
    (tmp_path / "own.py").write_text(SYSTEMS)
    code, _, err = spri("run", "reappraisal", "--limit", 2, "--system", "own.py:mine")
    assert code == 0, err
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("reappraisal-own-mine-")
