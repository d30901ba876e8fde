"""The call cache: what does not fit its checksum is asked again, and no damage is a traceback or another answer."""

import contextlib
import logging
import os
import random
import sqlite3

import pytest

from spri_dspy.errors import DataError
from spri_dspy.lms.cache import FILE, CallCache
from spri_dspy.lms.replay import Tape

OUTPUTS = {f"{n:064x}": [f"answer {n}"] for n in range(40)}


@pytest.fixture
def folder(tmp_path):
    cache = CallCache(tmp_path / "cache", "truncate")
    for n, (key, outputs) in enumerate(OUTPUTS.items()):
        cache.put(key, f"prompt {n}", outputs, "m", 10, 5)
    cache.close()
    return tmp_path / "cache"


def change(folder, statement):
    with sqlite3.connect(folder / FILE) as database:
        database.execute(statement)


def read_all(folder):
    """Every answer that is still given; DataError where the file is no cache any more."""
    cache = CallCache(folder, "truncate")
    try:
        found = {key: cache.get(key) for key in OUTPUTS}
        cache.spent(), len(cache), cache.by_prompt()
    finally:
        cache.close()
    return {key: outputs for key, outputs in found.items() if outputs is not None}


@pytest.mark.parametrize("outputs", ["[null]", "[{}]", "[]", "nonsense", '["another answer"]'])
def test_a_changed_answer_is_dropped_said_once_and_stored_anew(folder, outputs, caplog):
    change(folder, f"UPDATE finished SET outputs = '{outputs}' WHERE prompt < 'prompt 2'")
    cache = CallCache(folder, "truncate")
    with caplog.at_level(logging.WARNING):
        found = {key: cache.get(key) for key in OUTPUTS}
    assert 0 < sum(value is None for value in found.values()) < len(OUTPUTS)
    assert all(value in (None, OUTPUTS[key]) for key, value in found.items())
    assert [r.message.count("asked again") for r in caplog.records] == [1]
    lost = next(key for key, value in found.items() if value is None)
    cache.put(lost, "prompt 0", ["new"], "m", 1, 1)
    assert cache.get(lost) == ["new"]
    cache.close()


@pytest.mark.parametrize("column", ["key", "prompt", "outputs", "model", "tokens_in", "checksum"])
def test_values_of_other_rows_and_types_never_give_another_answer(folder, column):
    values = ("'x'", "NULL", "zeroblob(9)", "1e300", "-1", f"(SELECT max({column}) FROM finished)")
    for value in values[1:] if column == "key" else values:
        try:
            change(folder, f"UPDATE OR IGNORE finished SET {column} = {value} WHERE prompt >= 'prompt 3'")
        except sqlite3.Error:
            continue
        assert read_all(folder).items() <= OUTPUTS.items()


def test_forgotten_calls_are_asked_again_and_still_replayed(folder):
    cache = CallCache(folder, "truncate")
    key = next(iter(OUTPUTS))
    cache.forget([key])
    assert cache.get(key) is None and cache.by_prompt()["prompt 0"] == OUTPUTS[key]
    cache.close()


def test_damaged_bytes_end_in_a_named_error_or_in_sound_answers(folder):
    whole, rng = (folder / FILE).read_bytes(), random.Random(0)
    for trial in range(120):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice((1, 20, 400))):
                data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / FILE).write_bytes(data)
        with contextlib.suppress(DataError):
            assert read_all(folder).items() <= OUTPUTS.items()


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")]
)
def test_what_is_no_regular_file_is_refused_in_one_line(folder, make):
    (folder / FILE).unlink()
    make(folder / FILE)
    with pytest.raises(DataError, match="not a regular file"):
        CallCache(folder)


def test_another_schema_is_refused_in_one_line(folder):
    change(folder, "DROP TABLE finished")
    change(folder, "CREATE TABLE finished (something TEXT)")
    with pytest.raises(DataError, match="another schema"):
        CallCache(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_run_can_be_replayed(folder):
    folder.chmod(0o555)
    (folder / FILE).chmod(0o444)
    try:
        assert Tape(folder)
    finally:
        folder.chmod(0o755)


def test_replay_writes_nothing_beside_the_recording(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    Tape(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
