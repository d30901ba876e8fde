"""Runs whose files go away under them, that are thrown away and cannot be begun anew, and that a fork holds open."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spri_dspy import durable
from spri_dspy.errors import UsageError
from spri_dspy.export.writer import output
from spri_dspy.runs import RunDir
from tests.command import MAIN, files
from tests.servers.openai_mock import MockConfig
from tests.test_runs import ASKED, make_record, resume, write_run

# Files that go away


def started(mock, tmp_path, n_examples=30):
    """A real run in a process of its own, with some records written."""
    data, run = tmp_path / "posts.jsonl", tmp_path / "run"
    rows = [{"id": f"p{n}", "post": f"The bus number {n} left without me again."} for n in range(n_examples)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lm = f"base=hosted_vllm/mock?api_base={mock.base_url}"
    arguments = ["run", "reappraisal", "--data", data, "--run", run, "--lm", lm, "--concurrency", 2]
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    records = run / "records.jsonl"
    while not records.exists() or records.read_bytes().count(b"\n") < 3:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    return process, run


def taken(run):
    shutil.rmtree(run)


def moved(run):
    run.rename(run.with_name("elsewhere"))


def remade(run):
    shutil.rmtree(run)
    run.mkdir()
    (run / "records.jsonl").write_text("")


def replaced(run):
    (run / "new").write_text("")
    (run / "new").replace(run / "records.jsonl")


@pytest.mark.parametrize("lose", [taken, moved, remade, replaced])
def test_a_run_whose_files_go_away_ends_with_one_line_and_fails(tmp_path, start_mock, lose):
    mock = start_mock(MockConfig(latency_seconds=0.05))
    process, run = started(mock, tmp_path)
    lose(run)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    (line,) = [line for line in err.splitlines() if line.startswith("spri: ")]
    assert "records.jsonl was " in line and "finished examples are lost" in line
    assert "start the same command again" in line and "Traceback" not in err
    assert not (run / "records.jsonl").exists() or not (run / "records.jsonl").read_bytes()


@pytest.mark.parametrize("lose", [taken, replaced])
def test_what_is_lost_is_told_before_a_record_is_written_to_nowhere(tmp_path, lose):
    with RunDir.create(tmp_path / "run", ASKED) as run:
        run.append(make_record("a"))
        assert run.finished() == {"a"}
        lose(tmp_path / "run")
        with pytest.raises(UsageError, match=r"its 1 finished examples are lost"):
            run.append(make_record("b"))


# --fresh


def refuse(monkeypatch, name):
    """Let no file or folder of this name be put in its place."""
    for method in ("replace", "rename"):
        usual = getattr(Path, method)

        def refusing(self, target, usual=usual):
            if Path(target).name == name and (durable.EARLIER not in str(self) and ".old" not in str(self)):
                raise PermissionError(13, "Permission denied")
            return usual(self, target)

        monkeypatch.setattr(Path, method, refusing)


def test_a_run_survives_when_its_replacement_cannot_be_begun(tmp_path, monkeypatch):
    write_run(tmp_path / "run", make_record("a"), make_record("b"))
    (tmp_path / "run/cache").mkdir()
    (tmp_path / "run/cache/calls.sqlite").write_text("calls")
    (tmp_path / "run/judged/x").mkdir(parents=True)
    before = files(tmp_path / "run")
    with monkeypatch.context() as patch:
        refuse(patch, "manifest.json")
        with pytest.raises(UsageError, match="cannot be written: Permission denied"):
            RunDir.create(tmp_path / "run", {**ASKED, "seed": 7}, fresh=True)
    left = {path: text for path, text in files(tmp_path / "run").items() if ".partial" not in path.name}
    assert {**left, tmp_path / "run/lock": b""} == {**before, tmp_path / "run/lock": b""}
    assert (tmp_path / "run/judged/x").is_dir()
    assert resume(tmp_path / "run") == ["a", "b"]


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_a_kill_while_a_run_is_replaced_leaves_the_old_one_or_the_new_one(tmp_path, stopped_after):
    write_run(tmp_path / "run", make_record("a"))
    (tmp_path / "run/cache").mkdir()
    (tmp_path / "run/cache/calls.sqlite").write_text("calls")
    killed = f"""
import os, sys
from pathlib import Path
from spri_dspy.runs import RunDir
left = [{stopped_after}]
usual = Path.rename, Path.replace
def counted(which):
    def move(self, target):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return usual[which](self, target)
    return move
Path.rename, Path.replace = counted(0), counted(1)
RunDir.create(sys.argv[1], {{"task": "questions", "seed": 7, "lms": {{"base": "offline"}}}}, fresh=True)
"""
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path / "run")], check=False)
    assert done.returncode == (9 if stopped_after < 3 else 0)
    if stopped_after < 3:
        assert resume(tmp_path / "run") == ["a"] and (tmp_path / "run/cache/calls.sqlite").exists()
    else:
        assert resume(tmp_path / "run", seed=7) == [] and not (tmp_path / "run/cache").exists()
    assert not (tmp_path / "run" / durable.EARLIER).exists()


def test_a_replacement_that_was_finished_but_not_tidied_up_stays(tmp_path):
    write_run(tmp_path / "run", make_record("b"), seed=7)
    aside = tmp_path / "run" / durable.EARLIER
    aside.mkdir()
    (aside / "manifest.json").write_text("{}")
    (aside / "records.jsonl").write_text("old")
    assert resume(tmp_path / "run", seed=7) == ["b"] and not aside.exists()


@pytest.mark.parametrize("to", ["jsonl", "hf:out", "parquet"])
def test_an_export_survives_when_its_replacement_cannot_be_put_there(tmp_path, monkeypatch, to):
    import pyarrow as arrow

    monkeypatch.chdir(tmp_path)
    place, schema = output(to, None, Path("out/sft")), arrow.schema([("a", arrow.int64())])
    place.path.parent.mkdir(parents=True, exist_ok=True)
    place.write([{"a": 1}], schema, lambda: "first")
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        refuse(patch, place.path.name)
        with pytest.raises(UsageError, match="cannot be written: Permission denied"):
            place.write([{"a": 2}], schema, lambda: "second")
    assert files(tmp_path) == before
    place.write([{"a": 2}], schema, lambda: "second")
    assert files(tmp_path) != before and len(files(tmp_path)) == len(before)


def test_a_tuning_run_survives_when_its_folder_cannot_be_begun_anew(tmp_path, monkeypatch):
    from spri_dspy.commands.tune import KIND, throw_away

    write_run(tmp_path / "tuned", make_record("a"), kind=KIND)
    before = files(tmp_path)
    usual = Path.mkdir

    def refusing(self, *args, **settings):
        if self.name == "tuned" and not settings:
            raise PermissionError(13, "no")
        return usual(self, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refusing)
        with pytest.raises(UsageError, match="cannot be thrown away: no"):
            throw_away(tmp_path / "tuned")
    assert files(tmp_path).keys() == before.keys()
    throw_away(tmp_path / "tuned")
    assert files(tmp_path) == {}


# Forks


def test_a_forked_child_neither_keeps_the_lock_nor_writes(tmp_path):
    holding = """
import os, sys
from spri_dspy.runs import RunDir
run = RunDir.create(sys.argv[1], {"task": "questions", "seed": 0, "lms": {"base": "offline"}})
child = os.fork()
if child == 0:
    os.write(1, f"child {os.getpid()} {run._out} {run._lock}\\n".encode())  # at once: two processes write here
    sys.stdin.read()
    os._exit(0)
if sys.argv[2] == "close":
    run.close()
    os.write(1, b"closed\\n")
    sys.stdin.read()
os._exit(0)
"""
    for way in ("exit", "close"):
        with subprocess.Popen(
            [sys.executable, "-c", holding, str(tmp_path / "run"), way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            lines = [owner.stdout.readline() for _ in range(1 if way == "exit" else 2)]
            (child,) = [line.split() for line in lines if line.startswith("child")]
            if way == "exit":
                owner.wait(20)
            assert os.path.exists(f"/proc/{child[1]}"), "the child still runs"
            assert resume(tmp_path / "run") == []
            assert child[2:] == ["None", "None"]
            owner.stdin.close()


def test_the_parent_keeps_its_lock_when_a_child_ends(tmp_path):
    with RunDir.create(tmp_path / "run", ASKED) as run:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(UsageError, match="in use"):
            RunDir.create(tmp_path / "run", ASKED)
        run.append(make_record("a"))
    assert resume(tmp_path / "run") == ["a"]


def test_a_program_that_the_run_starts_does_not_keep_the_lock(tmp_path):
    run = RunDir.create(tmp_path / "run", ASKED)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        run.close()
        assert resume(tmp_path / "run") == []
        child.stdin.close()
