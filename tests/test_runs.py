"""Run directories: what is written can be read back, whatever cut the writing off, and nothing else is touched."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spri_dspy.bulk import run_bulk
from spri_dspy.errors import DataError, RunMismatchError, UsageError
from spri_dspy.records import SCHEMA, Failure, Record, Round, Usage, Verdict, is_record
from spri_dspy.runs import RunDir, file_fingerprint, fingerprint
from spri_dspy.tasks import make_example
from tests.factories import make_spri
from tests.test_program import ANSWER, DRAFT, FINE, GOOD

ASKED = {"task": "questions", "seed": 0, "lms": {"base": "offline"}}


def make_record(name="a", **fields):
    return Record(**{"id": name, "inputs": {"question": "why?"}, "outputs": {"response": "so"}, **fields})


def write_run(path, *records, **asked):
    with RunDir.create(path, {**ASKED, **asked}) as run:
        for record in records:
            run.append(record)
    return path / "records.jsonl"


def resume(path, **asked):
    """Open the run again and close it; what it then holds."""
    with RunDir.create(path, {**ASKED, **asked}) as run:
        return [record.id for record in run.records()]


# What is written comes back

words = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
fields = st.dictionaries(words, values, max_size=3)
verdicts = st.none() | st.builds(Verdict, words, st.none() | st.integers(1, 5))
counts = st.integers(0, 10**9)
records = st.builds(
    Record,
    id=words,
    inputs=fields,
    outputs=fields,
    stop_reasons=st.dictionaries(words, st.sampled_from(["accepted", "exhausted", "unscored"]), max_size=2),
    trace=st.lists(st.builds(Round, words, words, verdicts, st.integers(0, 2)), max_size=3).map(tuple),
    usage=st.dictionaries(words, st.builds(Usage, counts, counts, counts, counts), max_size=2),
    seconds=st.floats(0, 1e6),
    group=st.none() | words,
    cluster=st.none() | words,
    labels=fields,
    error=st.none() | words,
)


@given(records)
def test_record_comes_back_equal_from_json(record):
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_record_with_fields_of_a_later_minor_version_is_read():
    assert Record.from_json({**make_record().to_json(), "mood": "good"}) == make_record()


def test_record_of_the_first_format_is_read():
    """Every field but these two has had a default from the first version on."""
    assert Record.from_json({"id": "a", "inputs": {}}) == Record(id="a", inputs={})


FULL = make_record(
    trace=(Round("response", "so", Verdict("fine", 4), 1), Round("response", "so", None)),
    usage={"base": Usage(1, 2, 3, 4)},
    failure=Failure("generate_response", 2, "raw", ("A: b",)),
    error="A: b",
    flags=("truncated:generate_response",),
)


def newer(value):
    """What a later version may write: a field more in every object of a record."""
    if isinstance(value, dict):
        return {name: newer(part) for name, part in value.items()} | {"since_9": {"x": 1}}
    return [newer(part) for part in value] if isinstance(value, list) else value


def newer_record(record):
    plain = json.loads(json.dumps(record.to_json()))
    parts = {name: newer(plain[name]) for name in ("trace", "failure")}
    usage = {role: newer(used) for role, used in plain["usage"].items()}
    return {**plain, **parts, "usage": usage, "since_9": [1]}


@pytest.mark.parametrize("schema", [1, SCHEMA])
def test_newer_records_under_an_older_manifest_are_read(tmp_path, schema, caplog):
    file = write_run(tmp_path / "run", schema=schema)
    file.write_text(json.dumps(newer_record(FULL)) + "\n")
    assert list(RunDir.read(tmp_path / "run").records()) == [FULL]
    assert resume(tmp_path / "run") == ["a"] and not caplog.records
    assert RunDir.read(tmp_path / "run").manifest["schema"] == SCHEMA


@pytest.mark.parametrize("schema", [1, SCHEMA])
def test_older_records_under_a_newer_manifest_are_read(tmp_path, schema, caplog):
    file = write_run(tmp_path / "run", schema=schema)
    old = {name: part for name, part in FULL.to_json().items() if name not in ("flags", "failure")}
    file.write_text(json.dumps(old) + "\n")
    (found,) = RunDir.read(tmp_path / "run").records()
    assert (found.flags, found.failure, found.trace) == ((), None, FULL.trace)
    with RunDir.create(tmp_path / "run", ASKED) as run:
        run.append(make_record("b"))
    assert [r.id for r in RunDir.read(tmp_path / "run").records()] == ["a", "b"] and not caplog.records


@pytest.mark.parametrize("part", ["trace", "usage", "failure", "stop_reasons"])
def test_a_record_of_a_later_version_in_another_shape_is_told_of_and_runs_again(tmp_path, part, caplog):
    file = write_run(tmp_path / "run", make_record("b"), schema=1)
    file.write_text(json.dumps({**FULL.to_json(), part: "since 9 a text"}) + "\n" + file.read_text())
    assert resume(tmp_path / "run") == ["b"]
    assert (
        len(caplog.records) == 1
        and "line 1 cannot be read; its example counts as not finished" in caplog.text
    )


@pytest.mark.parametrize("schema", [None, True, 0, -1, 1.5, "2", "x", [2], {}])
def test_a_schema_that_is_no_version_is_refused_in_one_line(tmp_path, schema):
    write_run(tmp_path / "run", make_record("a"))
    path = tmp_path / "run/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    for open_run in (RunDir.read, lambda run: RunDir.create(run, ASKED)):
        with pytest.raises(DataError, match=r"is no manifest of a run \(its schema is ") as refused:
            open_run(tmp_path / "run")
        assert "\n" not in str(refused.value)


HOSTILE = [
    "half a pair \ud800 alone",
    "line\nbreaks\r\nand \u2028 and \x00 and \x1b[31m",
    "long " * 500_000,
    '{"id": "not me", "inputs": {}}\n',
    "",
]


def test_hostile_text_comes_back_equal_and_each_record_is_one_line_of_utf8(tmp_path):
    written = [make_record(f"r{i}", outputs={"response": text}) for i, text in enumerate(HOSTILE)]
    file = write_run(tmp_path / "run", *written)
    assert list(RunDir.read(tmp_path / "run").records()) == written
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b"" and len(lines) == len(HOSTILE)
    assert [json.loads(line.decode("utf-8"))["id"] for line in lines] == [r.id for r in written]


def test_example_that_ran_twice_counts_once_with_its_last_record(tmp_path):
    write_run(tmp_path / "run", make_record("a", error="X: y"), make_record("b"), make_record("a"))
    found = list(RunDir.read(tmp_path / "run").records())
    assert [(r.id, r.ok) for r in found] == [("b", True), ("a", True)]


def test_failed_examples_count_as_finished_unless_they_are_to_be_retried(tmp_path):
    write_run(tmp_path / "run", make_record("a"), make_record("b", error="CallError: no answer"))
    run = RunDir.read(tmp_path / "run")
    assert run.finished() == {"a", "b"}
    assert run.finished(retry_errors=True) == {"a"}


# Writing that was cut off


def test_torn_last_line_is_dropped_at_every_byte_where_it_can_tear(tmp_path, caplog):
    file = write_run(tmp_path / "run", make_record("a"), make_record("é\u4e16"))
    whole = file.read_bytes()
    first, second = whole.splitlines(keepends=True)
    for end in range(1, len(second) - 1):
        file.write_bytes(first + second[:end])
        caplog.clear()
        assert resume(tmp_path / "run") == ["a"]
        assert file.read_bytes() == first
        assert "torn last line" in caplog.text


def test_whole_last_line_without_its_newline_is_kept(tmp_path):
    file = write_run(tmp_path / "run", make_record("a"), make_record("b"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert resume(tmp_path / "run") == ["a", "b"]
    assert file.read_bytes() == whole


def test_torn_only_line_leaves_an_empty_run(tmp_path):
    file = write_run(tmp_path / "run")
    file.write_bytes(b'{"id": "a", "inp')
    assert resume(tmp_path / "run") == []
    assert file.read_bytes() == b""


def test_torn_line_longer_than_a_block_is_dropped(tmp_path):
    file = write_run(tmp_path / "run", make_record("a"))
    with file.open("ab") as out:
        out.write(b'{"id": "b", "inputs": {"question": "' + b"x" * 200_000)
    assert resume(tmp_path / "run") == ["a"]


BROKEN = [
    b"\xff\xfe broken",
    b"\x00" * 40,
    b"[]",
    b'{"id": "b"}',
    b'{"id": 7, "inputs": {}}',
    b'{"id": "b", "inputs": "no object"}',
    b'{"id": "b", "inputs": {}, "trace": [{}]}',
    b'{"id": "b", "inputs": {}, "usage": {"base": {"moons": 3}}}',
    b'{"id": "b", "inputs": {}, "trace": 5}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_counts_as_finished_has_a_record_that_can_be_read(seed):
    rng = random.Random(seed)
    whole = Record(
        id="a",
        inputs={"post": "x"},
        outputs={"response": "y"},
        trace=(Round("response", "y", Verdict("good", 5)), Round("response", "z", None)),
        usage={"base": Usage(1, 0, 3, 4)},
        failure=Failure("s", 0, "", ("E: m",)),
        flags=("truncated:s",),
    ).to_json()

    def places(value, path=()):
        yield path
        for key, part in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            yield from places(part, (*path, key))

    where, n_read = [path for path in places(json.loads(json.dumps(whole))) if path], 0
    for path in where * 12:
        value = json.loads(json.dumps(whole))
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        if rng.random() < 0.3:
            holder.pop(path[-1]) if isinstance(holder, list) else holder.pop(path[-1], None)
        else:
            holder[path[-1]] = rng.choice([None, 1, "t", [], {}, [1], [{}], {"a": 1}, True])
        try:
            Record.from_json(value)
            is_read = True
        except Exception:
            is_read = False
        assert not is_record(value) or is_read, value
        n_read += is_record(value)
    assert 0 < n_read < len(where) * 12


@pytest.mark.parametrize("broken", BROKEN, ids=lambda line: line[:40].decode(errors="replace"))
def test_corrupted_middle_line_is_warned_of_once_and_its_example_is_not_finished(tmp_path, caplog, broken):
    file = write_run(tmp_path / "run", make_record("a"), make_record("b"), make_record("c"))
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], broken, lines[2], b""]))
    run = RunDir.read(tmp_path / "run")
    assert run.finished() == {"a", "c"}
    assert [r.id for r in run.records()] == ["a", "c"]
    assert [r.getMessage().rsplit("/", 1)[1] for r in caplog.records] == [
        "records.jsonl, line 2 cannot be read; its example counts as not finished"
    ]


def test_example_of_a_corrupted_line_runs_again(tmp_path):
    file = write_run(tmp_path / "run", make_record("a"), make_record("b"), make_record("c"))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"#" + lines[1] + lines[2])
    program, script = make_spri(DRAFT, GOOD, ANSWER, FINE)
    with RunDir.create(tmp_path / "run", ASKED) as run:
        summary = run_bulk(program, [make_example(name, {"question": "why?"}) for name in "abc"], run)
        assert (summary.done, summary.skipped, script.left) == (1, 2, 0)
        assert [r.id for r in run.records()] == ["a", "c", "b"]


def test_run_that_is_being_written_can_be_read(tmp_path):
    with RunDir.create(tmp_path / "run", ASKED) as run:
        run.append(make_record("a"))
        with (tmp_path / "run/records.jsonl").open("ab") as out:
            out.write(b'{"id": "b", ')
        assert [r.id for r in RunDir.read(tmp_path / "run").records()] == ["a"]


@pytest.mark.parametrize("left", [["lock"], ["lock", "manifest.json.partial"], []])
def test_run_that_was_killed_before_its_manifest_starts_anew(tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text('{"sche')
    assert resume(tmp_path / "run") == []
    assert RunDir.read(tmp_path / "run").manifest["task"] == "questions"


# Whose run it is


def test_other_manifest_is_refused_and_the_differing_fields_are_named(tmp_path):
    write_run(tmp_path / "run", make_record("a"))
    with pytest.raises(RunMismatchError) as refused:
        resume(tmp_path / "run", seed=7, data={"file": "beef"})
    said = str(refused.value)
    assert "seed: 0 there, 7 now" in said and 'data: null there, {"file": "beef"} now' in said
    assert "task" not in said and "--fresh" in said


def test_manifest_of_new_versions_and_moved_servers_resumes(tmp_path):
    write_run(tmp_path / "run", make_record("a"))
    assert resume(tmp_path / "run", lms={"base": "elsewhere"}, versions={"dspy": "9"}) == ["a"]
    assert RunDir.read(tmp_path / "run").manifest["lms"] == {"base": "offline"}


def test_fresh_throws_the_run_that_is_there_away(tmp_path):
    write_run(tmp_path / "run", make_record("a"))
    (tmp_path / "run/cache").mkdir()
    (tmp_path / "run/cache/calls.sqlite").write_bytes(b"")
    with RunDir.create(tmp_path / "run", {**ASKED, "seed": 7}, fresh=True) as run:
        assert list(run.records()) == []
    assert not (tmp_path / "run/cache").exists()
    assert RunDir.read(tmp_path / "run").manifest["seed"] == 7


@pytest.mark.parametrize("fresh", [False, True])
def test_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("ten years")
    (tmp_path / "records.jsonl").write_text("not yours")
    with pytest.raises(UsageError, match="holds other files and no run"):
        RunDir.create(tmp_path, ASKED, fresh=fresh)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.jsonl", "thesis.tex"]
    assert (tmp_path / "records.jsonl").read_text() == "not yours"


def test_newer_format_is_refused_and_not_changed(tmp_path):
    file = write_run(tmp_path / "run", make_record("a"), schema=SCHEMA + 1)
    before = file.read_bytes()
    for open_run in (RunDir.read, lambda path: RunDir.create(path, ASKED)):
        with pytest.raises(DataError, match=f"newer spri-dspy .format {SCHEMA + 1}.; upgrade"):
            open_run(tmp_path / "run")
    assert file.read_bytes() == before


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"schema": "x"}', "7", "\udcff"])
def test_manifest_that_is_none_is_refused_in_one_line(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"is no manifest of a run") as refused:
        RunDir.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_folder_without_a_run_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"is no run directory: it has no manifest.json"):
        RunDir.read(tmp_path)


HOLD = """
import sys
from spri_dspy.runs import RunDir
run = RunDir.create(sys.argv[1], {"task": "questions", "seed": 0, "lms": {"base": "offline"}})
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_is_refused_while_its_owner_lives_and_free_after_its_death(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=rf"in use by another process \(pid {owner.pid}\); wait for it"):
            RunDir.create(tmp_path / "run", ASKED)
        with pytest.raises(UsageError, match="in use"):
            RunDir.create(tmp_path / "run", ASKED, fresh=True)
        owner.kill()
        owner.wait()
    assert resume(tmp_path / "run") == []


def test_lock_is_refused_within_one_process_too(tmp_path):
    with RunDir.create(tmp_path / "run", ASKED), pytest.raises(UsageError, match="in use"):
        RunDir.create(tmp_path / "run", ASKED)
    assert resume(tmp_path / "run") == []


# Places that cannot be written


def test_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="is a file; name a directory"):
        RunDir.create(tmp_path / "file", ASKED)
    with pytest.raises(UsageError, match="Not a directory"):
        RunDir.create(tmp_path / "file" / "run", ASKED)
    assert (tmp_path / "file").read_text() == "precious"


def test_directory_in_place_of_the_records_is_refused_and_the_lock_freed(tmp_path):
    write_run(tmp_path / "run").unlink()
    (tmp_path / "run/records.jsonl").mkdir()
    for _ in range(2):
        with pytest.raises(UsageError, match="is not a regular file"):
            RunDir.create(tmp_path / "run", ASKED)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; remount it with options by calling it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(mounted, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_read_only_directory_is_refused(small_disk):
    write_run(small_disk / "run", make_record("a"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for place in ("run", "new"):
        with pytest.raises(UsageError, match="cannot be written: Read-only file system"):
            RunDir.create(small_disk / place, ASKED)
    assert [r.id for r in RunDir.read(small_disk / "run").records()] == ["a"]


def test_full_disk_stops_the_run_and_what_was_written_is_whole(small_disk):
    written = []

    def fill(run):
        for number in range(100):
            run.append(make_record(f"r{number}", outputs={"response": "x" * 10_000}))
            written.append(f"r{number}")

    refused = "No space left on device; mend that and start the same command"
    with RunDir.create(small_disk / "run", ASKED) as run, pytest.raises(UsageError, match=refused):
        fill(run)
    assert 10 < len(written) < 30
    assert (small_disk / "run/records.jsonl").read_bytes().endswith(b"}\n")
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    with RunDir.create(small_disk / "run", ASKED) as run:
        run.append(make_record("later"))
        assert [r.id for r in run.records()] == [*written, "later"]


def test_full_disk_before_the_manifest_is_refused_and_can_be_mended(small_disk):
    (small_disk / "ballast").write_bytes(b"x" * 256 * 1024)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        RunDir.create(small_disk / "run", ASKED)
    (small_disk / "ballast").unlink()
    assert resume(small_disk / "run") == []


def test_full_disk_under_the_call_cache_stops_the_run_resumably(small_disk):
    examples = [make_example(str(number), {"question": f"why is it {number}?"}) for number in range(40)]
    program, _ = make_spri()
    program.set_lms(base="offline")
    with (
        RunDir.create(small_disk / "run", ASKED) as run,
        pytest.raises(UsageError, match=r"disk is full|No space left|unable to open") as refused,
    ):
        run_bulk(program, examples, run, concurrency=2)
    assert "start the same command again" in str(refused.value)
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    with RunDir.create(small_disk / "run", ASKED) as run:
        summary = run_bulk(program, examples, run, concurrency=2)
        assert summary.done + summary.skipped == 40
        assert sorted(r.id for r in run.records() if r.ok) == sorted(e.id for e in examples)


# Fingerprints


def test_fingerprint_depends_on_content_and_not_on_order():
    assert fingerprint({"a": 1, "b": "é"}) == fingerprint({"b": "é", "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_file_fingerprint_is_of_the_bytes(tmp_path):
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(content)
    assert (
        file_fingerprint(tmp_path / "a")
        == file_fingerprint(tmp_path / "b")
        != file_fingerprint(tmp_path / "c")
    )


# Files that are none, and fields of other kinds


@pytest.mark.parametrize("name", ["records.jsonl", "manifest.json"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_regular_file_is_refused_in_one_line(tmp_path, name, make):
    write_run(tmp_path / "run", make_record("a"))
    (tmp_path / "run" / name).unlink()
    make(tmp_path / "run" / name)
    with pytest.raises(DataError, match="is not a regular file"):
        RunDir.read(tmp_path / "run")
    with pytest.raises(DataError, match="is not a regular file"):
        RunDir.create(tmp_path / "run", {"task": "t"})


@pytest.mark.parametrize(
    "field", ["id", "inputs", "outputs", "stop_reasons", "labels", "seconds", "group", "error"]
)
@pytest.mark.parametrize("value", [[], [3], {"a": 1}, "x", 3, None], ids=repr)
def test_a_record_whose_fields_are_of_other_kinds_counts_as_not_finished(tmp_path, field, value):
    file = write_run(tmp_path / "run", make_record("a"))
    line = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(line | {field: value}) + "\n", "utf-8")
    for record in RunDir.read(tmp_path / "run").records():
        assert isinstance(record.stop_reasons, dict) and isinstance(record.labels, dict)
        assert record.error is None or isinstance(record.error, str)
        assert record.group is None or isinstance(record.group, str)
