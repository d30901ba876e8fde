"""What a run remembers of its records: its index may be damaged or another run's, and says nothing that they do not."""

import io
import json
import os
import random
import shutil

import pytest
import xxhash
from rich.console import Console

from spri_dspy import ends
from spri_dspy.ends import End, Ends
from spri_dspy.records import Record
from spri_dspy.report import terminal
from spri_dspy.runs import RunDir

ASKED = {"task": "questions"}
STOPS = [{}, {"response": "accepted"}, {"response": "exhausted", "principles": "unscored"}]


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(ends, "STRETCH_BYTES", 2_000)


@pytest.fixture
def parsed(monkeypatch):
    """The lines that were parsed, which the index is there to spare."""
    seen, read = [], End.read
    monkeypatch.setattr(End, "read", lambda line: (seen.append(line), read(line))[1])
    return seen


def write_run(path, seed=0, starts=3, n=40):
    """A run in several starts: failures, examples that ran twice, hostile ids, and a line that is no record."""
    rng = random.Random(seed)
    for start in range(starts):
        with RunDir.create(path, ASKED) as run:
            run.finished()
            for _ in range(n):
                name = rng.choice([f"e{rng.randrange(60)}", "é\u2028", "half \ud800", '"id"', "x" * 50])
                error = "CallError: no" if rng.random() < 0.2 else None
                stops = {} if error else rng.choice(STOPS)
                run.append(Record(name, {"q": "?" * rng.randrange(50)}, stop_reasons=stops, error=error))
        if start == 0:
            with (path / "records.jsonl").open("ab") as file:
                file.write(b'{"id": "e1", broken\n')
    return path


def told(found, path):
    """All that is known of the ends, and what it comes to."""
    ids = {record.id for record in RunDir.read(path).records()} | {f"e{n}" for n in range(60)}
    lines = range(found.n_lines + 2)
    return (
        {name: found.lines.get(name) for name in ids},
        (found.n_lines, found.n_finished, found.n_failed, found.unreadable, found.stops()),
        [
            (n, found.is_last(n), found.is_failure(n), n <= found.n_lines and found.inputs_at(n))
            for n in lines
        ],
    )


def read(path, index="records.index"):
    return Ends.read(path / "records.jsonl", path / index, ())


def check_same(path):
    """With the index and without it, a run says the same."""
    assert told(read(path), path) == told(read(path, "none"), path)


@pytest.mark.parametrize("seed", range(4))
def test_the_index_says_what_the_records_say_and_spares_reading_them(tmp_path, parsed, seed):
    run = write_run(tmp_path / "run", seed)
    size = (run / "records.jsonl").stat().st_size
    parsed.clear()
    found = read(run)
    assert sum(map(len, parsed)) < 2_000 + 400 < size / 5
    assert len(found.unreadable) == 1 and found.n_failed and found.n_lines == 121
    check_same(run)


def test_an_index_that_fits_and_makes_no_sense_is_not_believed(tmp_path):
    """Of a run directory that somebody else made, hashes and all."""
    run = write_run(tmp_path / "run")
    content, index = (run / "records.jsonl").read_bytes(), run / "records.index"
    for said in (
        [[], []],
        [None, ["a"], [1], [1], [[True, []]]],
        [["a"], [1], [1]],
        [[["a"]], [1], [1], [[True, []]]],
        [["a"], [2], [1], [[True, []]]],
        [["a"], [-1], [1], [[True, []]]],
        [["a"], [0.5], [1], [[True, []]]],
        [["a"], [1], [1 << 64], [[True, []]]],
        [["a"], [1], [], [[True, []]]],
        [["a", "b"], [1], [1], [[True, []]]],
        [["a"], [1], [1], [[True, 1]]],
        [["a"], [1], [1], 1],
    ):
        parts = json.dumps([len(content), *said]).encode()
        digest = xxhash.xxh3_128(ends._VERSION + content + parts).hexdigest().encode()
        index.write_bytes(digest + b" " + parts + b"\n")
        check_same(run)


def test_inputs_are_known_by_their_hash_in_any_order():
    one = {"b": [1, 2.5, None], "a": {"y": "\u00e9", "x": True}}
    assert ends.hash_of_inputs(one) == ends.hash_of_inputs(
        {"a": {"x": True, "y": "\u00e9"}, "b": [1, 2.5, None]}
    )
    exotic = {"b": "half \ud800", "a": 10**40}
    assert ends.hash_of_inputs(exotic) == ends.hash_of_inputs({"a": 10**40, "b": "half \ud800"})
    assert ends.hash_of_inputs({"a": float("nan")}) == ends.hash_of_inputs({"a": None})
    assert len({ends.hash_of_inputs(each) for each in (one, exotic, {}, {"a": 1}, {"a": "1"}, {"b": 1})}) == 6


def test_who_only_reads_writes_no_index(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "records.index").unlink()
    assert len(RunDir.read(run).finished()) > 20 and not (run / "records.index").exists()


def test_a_run_without_an_index_gets_one_when_it_goes_on(tmp_path, parsed):
    run = write_run(tmp_path / "run")
    before = (run / "records.index").read_bytes()
    (run / "records.index").unlink()
    for _ in range(2):
        parsed.clear()
        with RunDir.create(run, ASKED) as again:
            again.finished()
    assert len(parsed) < 20
    # The stretches are the same, for where one begins follows from the bytes alone.
    assert (run / "records.index").read_bytes() == before


def kept_time(path, content):
    """Change a file and leave its time as it was: nothing but the bytes tells."""
    found = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def damaged(content, rng):
    """The same with a byte changed, a piece lost, two lines swapped, cut off, or something added."""
    at = rng.randrange(len(content))
    lines = content.splitlines(keepends=True)
    i, j = sorted(rng.sample(range(len(lines)), 2)) if len(lines) > 1 else (0, 0)
    swapped = [*lines]
    swapped[i], swapped[j] = swapped[j], swapped[i]
    return rng.choice(
        [
            content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :],
            content[:at] + content[at + rng.randrange(1, 300) :],
            b"".join(swapped),
            content[:at],
            b"".join(lines[:i] + lines[i + 1 :]),
            content[:at] + b"\n" + content[at:],
            content + b'{"id": "late", "inputs": {}}\n',
            b"",
        ]
    )


@pytest.mark.parametrize("name", ["records.jsonl", "records.index"])
def test_whatever_is_damaged_is_found_though_the_files_time_is_as_it_was(tmp_path, name):
    run, rng = write_run(tmp_path / "run"), random.Random(1)
    whole, index = (run / name).read_bytes(), (run / "records.index").read_bytes()
    for _ in range(60):
        (run / "records.index").write_bytes(index)
        kept_time(run / name, damaged(whole, rng))
        check_same(run)


def test_a_damaged_record_is_told_of_and_its_example_runs_again(tmp_path, caplog):
    run = write_run(tmp_path / "run")
    content = (run / "records.jsonl").read_bytes()
    first = next(RunDir.read(run).records()).id
    line = next(n for n, record in enumerate(content.splitlines(), 1) if End.read(record).id == first)
    lines = content.splitlines(keepends=True)
    lines[line - 1] = b"\x00" * (len(lines[line - 1]) - 1) + b"\n"
    kept_time(run / "records.jsonl", b"".join(lines))
    caplog.clear()
    with RunDir.create(run, ASKED) as again:
        again.finished()
    assert f"line {line} cannot be read; its example counts as not finished" in caplog.text
    check_same(run)


def test_a_damaged_index_is_mended_by_who_writes(tmp_path, parsed):
    run = write_run(tmp_path / "run")
    whole = (run / "records.index").read_bytes()
    for content in (whole[: len(whole) // 2], whole.replace(b"e1", b"e2", 1), b"\n" + whole, b"[" * 100_000):
        (run / "records.index").write_bytes(content)
        with RunDir.create(run, ASKED) as again:
            again.finished()
        assert (run / "records.index").read_bytes() == whole


def test_an_index_of_another_run_or_version_is_not_believed(tmp_path, monkeypatch):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", seed=9)
    shutil.copy(other / "records.index", one / "records.index")
    check_same(one)
    monkeypatch.setattr(ends, "_VERSION", b"records.index 2\n")
    assert read(other).n_lines == 121
    check_same(other)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "nowhere"])
def test_a_place_where_no_index_can_be_costs_time_only(tmp_path, kind):
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").touch()
    index, precious = run / "records.index", tmp_path / "precious"
    precious.write_text("ten years")
    RunDir.create(run, ASKED).close()
    {
        "folder": index.mkdir,
        "pipe": lambda: os.mkfifo(index),
        "link": lambda: index.symlink_to(precious),
        "nowhere": lambda: index.symlink_to(tmp_path / "none"),
    }[kind]()
    write_run(run)
    check_same(run)
    assert precious.read_text() == "ten years" and not (tmp_path / "none").exists()


def test_a_run_started_anew_has_no_index_of_the_old_one(tmp_path):
    run = write_run(tmp_path / "run")
    RunDir.create(run, ASKED, fresh=True).close()
    assert not (run / "records.index").exists()


def test_a_run_that_is_closed_need_not_be_read_again(tmp_path, parsed):
    write_run(tmp_path / "run")
    with RunDir.create(tmp_path / "run", ASKED) as run:
        run.append(Record("early", {}))
        run.finished()
        run.append(Record("new", {}))
    parsed.clear()
    assert {"early", "new"} <= run.finished() and parsed == []
    write_run(tmp_path / "run", seed=5, starts=1)
    assert run.counts == RunDir.read(run.path).counts and parsed


def test_what_was_finished_at_one_moment_stays_that(tmp_path):
    with RunDir.create(tmp_path / "run", ASKED) as run:
        run.append(Record("early", {"q": 1}))
        finished = run.finished()
        run.append(Record("late", {"q": 1}))
        assert finished == {"early"} and "late" not in finished and run.finished() == {"early", "late"}
        assert finished.had_other_inputs("early", {"q": 2}) and not finished.had_other_inputs(
            "late", {"q": 2}
        )


def test_records_of_failures_alone_are_those_that_failed(tmp_path):
    run = RunDir.read(write_run(tmp_path / "run"))
    failed = [record for record in run.records() if not record.ok]
    assert list(run.records(failed=True)) == failed and len(failed) == run.counts[1] > 3


def test_a_run_at_a_glance_is_told_from_its_ends_as_from_its_records(tmp_path):
    run = RunDir.read(write_run(tmp_path / "run"))
    assert shown(terminal.glance(run)) == shown(terminal.glance(run.records()))


def shown(parts):
    console = Console(record=True, width=200, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def test_records_of_some_ids_are_those_and_no_others_are_parsed(tmp_path, monkeypatch):
    run = RunDir.read(write_run(tmp_path / "run"))
    ids = {"e1", "e5", "half \ud800", "nobody"}
    expected = [record for record in run.records() if record.id in ids]
    made, make = [], Record.from_json
    monkeypatch.setattr(Record, "from_json", lambda value: (made.append(value["id"]), make(value))[1])
    assert list(run.records(ids)) == expected and made == [record.id for record in expected] and len(made) > 1
