"""What the tests of batches share: the server in a process of its own, a program, and its records."""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import spri_dspy as spri
from spri_dspy.lms.batches.settings import BatchSettings
from spri_dspy.records import Record

QUICK = {"settle": 0.1, "poll": 0.05}
LMS = {"openai": "openai/m?api_base={}", "anthropic": "anthropic/claude-3-5-haiku-20241022?api_base={}"}


class Server:
    def __init__(self, port):
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    @property
    def stats(self):
        with urllib.request.urlopen(f"{self.root}/stats", timeout=10) as answer:
            return json.loads(answer.read())


@contextmanager
def batch_server(**plan):
    command = [sys.executable, "-m", "benchmarks.batch_server", json.dumps(plan)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(int(process.stdout.readline()))
        finally:
            process.stdin.close()


def settings(dialect, **more):
    return BatchSettings((dialect,), **QUICK | more)


def lm_of(server, dialect="openai", **options):
    return LMS.get(dialect, LMS["openai"]).format(server.url) + "".join(
        f"&{k}={v}" for k, v in options.items()
    )


def program(lm, critic=None):
    return spri.SPRI(spri.load_task("reappraisal")).set_lms(base=lm, critic=critic or lm)


def examples(count):
    task = spri.load_task("reappraisal")
    aim = next(task.examples()).input_values["aim"]
    return [
        task.example_of(id=f"p{n}", post=f"Post #{n}#: I lost my keys again.", aim=aim) for n in range(count)
    ]


def records(run):
    """All records by id, without the time that they took."""
    lines = (Path(run) / "records.jsonl").read_text().splitlines()
    found = [Record.from_json(json.loads(line)).to_json() | {"seconds": 0} for line in lines]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


def child(server, count, run, dialect="openai", stage="never", nth=1, lm_dialect=None):
    lm = lm_of(server, lm_dialect or dialect)
    command = [
        sys.executable,
        "-m",
        "tests.lms.batch_child",
        lm,
        str(count),
        str(run),
        dialect,
        stage,
        str(nth),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def without_usage(rows):
    """A start that goes on finds finished calls in the cache, and so counts fewer."""
    return {name: {k: v for k, v in row.items() if k != "usage"} for name, row in rows.items()}


def finish(process):
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
