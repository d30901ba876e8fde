"""A search that is killed in the middle, twice, comes to the same result and pays no finished call again."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

PATIENCE_SECONDS = 60
CONCURRENCY = 4


def start(folder, log):
    command = [sys.executable, "-m", "tests.tuning.world", str(folder), str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def n_calls(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at(folder, log, count):
    """Start, and kill the process once so many calls were made in all."""
    until = time.monotonic() + PATIENCE_SECONDS
    with start(folder, log) as process:
        while n_calls(log) < count:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until, "no progress"
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGKILL


def finish(process, log):
    """What a process says that is left to come to its end, and its calls."""
    said, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, complaint
    return json.loads(said), Counter(log.read_text().split("\n")[:-1])


@pytest.mark.slow
def test_killed_search_comes_to_the_same_result_and_pays_nothing_twice(tmp_path):
    folder, log = tmp_path / "killed", tmp_path / "killed.log"
    with start(tmp_path / "whole", tmp_path / "whole.log") as undisturbed:
        kill_at(folder, log, 30)  # while the pool is filled
        kill_at(folder, log, 150)  # in the middle of a race
        whole, expected = finish(undisturbed, tmp_path / "whole.log")
    total = expected.total()
    assert total > 200 and max(expected.values()) == 1
    with start(folder, log) as process:
        report, paid = finish(process, log)

    assert report == whole
    assert (folder / "tuned.json").read_bytes() == (tmp_path / "whole" / "tuned.json").read_bytes()
    assert set(paid) == set(expected)
    assert paid.total() <= total + 2 * 2 * CONCURRENCY  # two kills, two LMs
    assert max(paid.values()) <= 3
