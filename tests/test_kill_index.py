"""Real kill -9 of a bulk run whose records.index is written all the time: nothing lost, doubled or made up."""

import json
import random
import shutil

import pytest

import spri_dspy as spri
from spri_dspy import ends
from spri_dspy.ends import Ends
from spri_dspy.runs import RunDir
from tests.command import process

COUNT, STRETCH = 240, 6_000

STARTS = """
import json, os, random, signal, sys, time
from functools import partial

import spri_dspy as spri
from spri_dspy import ends
from spri_dspy.crew.job import Job
from spri_dspy.crew.processes import run_in_processes

run, count, stretch, seed, workers = sys.argv[1], *map(int, sys.argv[2:])
ends.STRETCH_BYTES = stretch
rows = [{"id": f"p{n}", "post": f"The bus number {n} left without me again."} for n in range(count)]


def make():
    return spri.SPRI(spri.load_task("reappraisal")).set_lms(base="offline")


def go_on():
    examples = spri.load_task("reappraisal").examples(rows)
    if not workers:
        return spri.run_bulk(make(), examples, run)
    with spri.RunDir.create(run, {"task": "reappraisal"}) as directory:
        return run_in_processes(Job(make, directory, concurrency=4), examples, workers=workers)


def die_in_the_index(rng):
    # At the nth line that is written, or after some of its bytes: a moment that the clock hardly ever hits.
    left, write = rng.randint(1, 20 if workers else 6), os.pwrite

    def torn(out, content, place):
        nonlocal left
        left -= content[32:34] == b" ["
        if left == 0:
            write(out, content[: rng.randrange(len(content))], place)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(out, content, place)

    os.pwrite = torn


rng, codes = random.Random(seed), []
make()  # what is imported now need not be at every start
while len(codes) < 100:
    by_clock, seconds = rng.random() < 0.5, rng.uniform(0.0, 2.0 if workers else 0.3)
    child = os.fork()
    if child == 0:
        if not by_clock:
            die_in_the_index(rng)
        go_on()
        os._exit(0)
    if by_clock:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if codes[-1] != -signal.SIGKILL:
        break
print(json.dumps(codes))
"""


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(ends, "STRETCH_BYTES", STRETCH)


def told(run, index="records.index"):
    """All that is known of how the examples of a run ended."""
    found = Ends.read(run / "records.jsonl", run / index, ())
    by_id = {f"p{n}": found.lines.get(f"p{n}") for n in range(COUNT)}
    by_line = [
        (found.is_last(n), found.is_failure(n), found.inputs_at(n)) for n in range(1, found.n_lines + 1)
    ]
    return by_id, by_line, found.n_finished, found.n_failed, found.unreadable, found.stops()


def assert_index_fits(run):
    """With and without the index a run says the same; the index is the one that its records give."""
    assert told(run) == told(run, "no index")
    index = run / "records.index"
    content = index.read_bytes()
    index.unlink()
    with RunDir.create(run, RunDir.read(run).manifest) as again:
        again.finished()
    assert index.read_bytes() == content and content.count(b"\n") > 5


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "workers"), [(1, 0), (2, 0), (3, 2)])
def test_run_killed_while_its_index_is_written_has_every_example_once(tmp_path, seed, workers):
    run = tmp_path / "run"
    done = process(run, COUNT, STRETCH, seed, workers, code=STARTS, timeout=240)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes[-1] == 0 and set(codes[:-1]) == {-9} and len(codes) > 4, codes
    lines = [json.loads(line) for line in (run / "records.jsonl").read_bytes().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(f"p{n}" for n in range(COUNT))
    assert all(line["error"] is None and line["outputs"]["response"] for line in lines)
    assert RunDir.read(run).finished() == {line["id"] for line in lines}
    assert_index_fits(run)


def go_on(run, aim="help"):
    """Start a run in this process, or go on with it: what was done."""
    program = spri.SPRI(spri.load_task("reappraisal")).set_lms(base="offline")
    return spri.run_bulk(
        program, [{"id": f"p{n}", "post": f"Bus {n} left.", "aim": aim} for n in range(COUNT)], run
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two runs that are finished, of other inputs each."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "STRETCH_BYTES", STRETCH)
        for name in ("one", "other"):
            assert go_on(folder / name, aim=name).done == COUNT
    return folder


def cut(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) // 4, len(content))])


def change_a_byte(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content) // 4, len(content) // 2)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", ["cut index", "other index", "changed index", "cut records", "changed records"]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_run_that_was_damaged_goes_on_with_every_example(tmp_path, whole, damage, seed):
    run, rng = tmp_path / "run", random.Random(seed)
    shutil.copytree(whole / "one", run)
    how, _, what = damage.partition(" ")
    path = run / ("records.jsonl" if what == "records" else "records.index")
    if how == "other":
        shutil.copy(whole / "other/records.index", path)
    else:
        {"cut": cut, "changed": change_a_byte}[how](path, rng)
    try:
        summary = go_on(run, aim="one")
    except spri.RunMismatchError:  # it was a byte of what went in: the example is named, and nothing is run
        assert damage == "changed records"
        return
    assert summary.done + summary.skipped == COUNT
    if what == "index":
        assert summary.done == 0
    if damage == "cut records":
        assert 10 < summary.done < COUNT
    named = [record.id for record in RunDir.read(run).records()]
    assert {f"p{n}" for n in range(COUNT)} <= set(named) and len(named) == len(set(named))
    assert_index_fits(run)
