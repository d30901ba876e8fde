"""Concurrency against `ulimit -n`: bounded and said, or refused in one line, and never a run full of failures."""

import json
import re
import subprocess
import sys

import pytest

from tests.command import MAIN
from tests.servers.openai_mock import MockConfig

LIMITED = (
    f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)),) * 2); {MAIN}"
)


def run(limit, folder, lm, concurrency, n_examples=60):
    data = folder / "posts.jsonl"
    rows = [{"id": f"p{n}", "post": f"The bus number {n} left without me again."} for n in range(n_examples)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [limit, "run", "reappraisal", "--data", data, "--run", folder / "run", *lm]
    command = [sys.executable, "-c", LIMITED, *map(str, arguments), "--concurrency", str(concurrency)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def outcomes(folder):
    lines = (folder / "run/records.jsonl").read_text().splitlines()
    return [json.loads(line)["error"] for line in lines]


@pytest.mark.parametrize("n_addresses", [1, 2])
def test_more_concurrency_than_files_may_be_open_is_bounded_and_said(tmp_path, start_mock, n_addresses):
    mocks = [start_mock(MockConfig(latency_seconds=0.1)) for _ in range(n_addresses)]
    address = ",".join(mock.base_url for mock in mocks)
    done = run(100, tmp_path, ["--lm", f"base=hosted_vllm/m?api_base={address}"], 5000)
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "ulimit" in line]
    assert "this process may open 100 files" in said and "not 5000; raise the limit with ulimit -n" in said
    assert outcomes(tmp_path) == [None] * 60
    bound = int(re.search(r"(\d+) LM calls in flight at most", said)[1])
    assert 1 <= bound * n_addresses <= 60


def test_too_few_files_for_a_single_call_are_one_line(tmp_path, start_mock):
    done = run(45, tmp_path, ["--lm", f"base=hosted_vllm/m?api_base={start_mock().base_url}"], 16)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("spri: this process may open 45 files") and "too few for a single LM call" in said


def test_an_lm_without_connections_and_a_limit_that_suffices_are_not_spoken_of(tmp_path, start_mock):
    done = run(100, tmp_path, [], 5000, n_examples=5)
    assert done.returncode == 0 and "ulimit" not in done.stderr
    other = tmp_path / "other"
    other.mkdir()
    done = run(1000, other, ["--lm", f"base=hosted_vllm/m?api_base={start_mock().base_url}"], 64)
    assert done.returncode == 0 and "ulimit" not in done.stderr
