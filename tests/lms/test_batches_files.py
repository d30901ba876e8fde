"""Files of batches at the provider: deleted once their answers are in the run's cache, and never before."""

import logging

import pytest

import spri_dspy as spri
from spri_dspy.lms.batches import store
from tests.lms.batch_parts import batch_server, child, examples, finish, lm_of, program, settings


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HOSTED_VLLM_API_KEY"):
        monkeypatch.setenv(name, "sk-test-4f9a1c77d2")


def in_batches(server, run, count=2, dialect="openai", lm=None, **options):
    said = []
    batch = settings(dialect, **options)
    lm = lm or lm_of(server, dialect)
    spri.run_bulk(program(lm), examples(count), run, batch=batch, on_batch=said.append)
    return said


def batches_of(run):
    return [store._read(path) for path in sorted((run / "batches").glob("*.json"))]


def died(process):
    _, said = process.communicate(timeout=60)
    assert process.returncode == -9, said


@pytest.mark.parametrize("is_own", [False, True])
def test_no_file_is_left_when_a_run_ends(tmp_path, is_own):
    with batch_server(seconds=0.0, double_rate=0.2, late_rate=0.05) as server:
        where = (server.url, f"hosted_vllm/m?api_base={server.url}") if is_own else ("openai", None)
        in_batches(server, tmp_path / "run", 6, *where)
        stats = server.stats
        n = len(stats["batches"])
        assert (stats["uploads"], stats["deletions"], stats["files"]) == (n, 3 * n, 0)
        assert all(batch.deleted for batch in batches_of(tmp_path / "run"))


def test_anthropic_has_no_files(tmp_path):
    with batch_server(seconds=0.0) as server:
        in_batches(server, tmp_path / "run", 2, "anthropic")
        assert (server.stats["uploads"], server.stats["deletions"]) == (0, 0)
        assert all(batch.deleted for batch in batches_of(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["put 4", "settle 1", "settled 1"])
def test_files_outlive_a_kill_before_they_are_deleted_and_the_next_start_deletes_them(tmp_path, stage):
    """Killed with answers that are not stored, with all stored, and with that on disk."""
    with batch_server(seconds=0.0) as server:
        run = tmp_path / "run"
        died(child(server, 6, run, "openai", *stage.split()))
        stats = server.stats
        assert (stats["uploads"], stats["deletions"], stats["files"]) == (1, 0, 3)
        finish(child(server, 6, run))
        stats = server.stats
        assert stats["deletions"] == 3 * stats["uploads"] and stats["files"] == 0
        assert stats["paid"] == stats["distinct"]


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", ["openai", "live"])
def test_last_batch_is_cleared_by_a_start_that_makes_no_call(tmp_path, goes_on):
    with batch_server(seconds=0.0) as server:
        in_batches(server, tmp_path / "whole", 1)
        n = len(server.stats["batches"])
        run = tmp_path / "run"
        died(child(server, 1, run, "openai", "settled", str(n)))
        before = server.stats
        assert before["files"] > 0
        finish(child(server, 1, run, goes_on, lm_dialect="openai"))
        after = server.stats
        assert (after["files"], after["paid"], after["uploads"]) == (0, before["paid"], before["uploads"])


@pytest.mark.slow
def test_killed_between_two_deletions_the_next_start_deletes_the_rest(tmp_path):
    with batch_server(seconds=0.0) as server:
        run = tmp_path / "run"
        died(child(server, 6, run, "openai", "deleted", "2"))
        assert (server.stats["deletions"], server.stats["files"]) == (2, 1)
        finish(child(server, 6, run))
        assert server.stats["files"] == 0


@pytest.mark.parametrize("status", [404, 405, 501])
def test_server_that_deletes_nothing_is_no_error_and_is_not_asked_again(tmp_path, status, caplog):
    with batch_server(seconds=0.0, no_delete=status) as server, caplog.at_level(logging.DEBUG, "spri_dspy"):
        said = in_batches(server, tmp_path / "run", 1)
        assert server.stats["deletions"] == 0
        assert not [line for line in said if "delete" in line]
        assert f"refuses: {status}" in caplog.text and "file file-1: " in caplog.text
        assert all(record.levelno == logging.DEBUG for record in caplog.records if "file-1" in record.message)
        assert all(batch.deleted for batch in batches_of(tmp_path / "run"))


def test_refusal_to_delete_is_said_and_stops_nothing(tmp_path):
    with batch_server(seconds=0.0, no_delete=403) as server:
        said = in_batches(server, tmp_path / "run", 1)
        assert "the files of batch 1 are not deleted yet" in "".join(said)
        assert not any(batch.deleted for batch in batches_of(tmp_path / "run"))


@pytest.mark.slow
def test_files_of_a_batch_that_a_run_did_not_create_are_left_alone(tmp_path):
    """The directory names somebody else's batch as its own, done with."""
    with batch_server(seconds=0.0) as server:
        died(child(server, 2, tmp_path / "other", "openai", "settle", "1"))
        died(child(server, 2, tmp_path / "run", "openai", "settled", "1"))
        path = tmp_path / "run" / "batches" / "0001.json"
        named = path.read_text().replace('"batch_2"', '"batch_1"').replace('"file-2"', '"file-0"')
        path.write_text(named)
        finish(child(server, 2, tmp_path / "run"))
        assert server.stats["files"] == 6, "of the first batch of each"
        finish(child(server, 2, tmp_path / "other"))
        assert server.stats["files"] == 3
