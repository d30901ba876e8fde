"""Whether hostile servers, damaged run directories and kills are held: no crash, no hang, no leak, nothing lost.

    python -m benchmarks hostile [--only servers|directories|kills] [--json]

servers      every mode of `hostile_server`, through both clients: one example each. Held is what ends in time with a
             record or one named error, without the key in any file, in bounded memory and with few requests.
directories  damaged copies of a finished run, read and resumed by every command. Held is what ends in one line, or with
             the same results as before the damage.
kills        SIGKILL at random times, then the same command again. Held is: every example once, equal to an undisturbed
             run's, and at most the calls in flight paid again.

All on loopback, bounded in count and time. The work is done by worker processes, so that a hang is seen and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import spri_dspy as spri
from benchmarks.load import serving
from spri_dspy import cli
from spri_dspy.lms import concurrency
from spri_dspy.lms.scope import Retry

KEY = "sk-hostile-0123456789-abcdef"
LONGEST_SECONDS, MOST_MEGABYTES, MOST_REQUESTS = 40.0, 200.0, 40
"""A mode that takes longer is a hang, one that takes more memory or more requests has failed."""


class Worker:
    """A process that does one thing after another; one that does not answer in time is replaced."""

    def __init__(self, kind: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.hostile", "--worker", kind, *arguments]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, task: Any) -> dict[str, Any]:
        """What came of a task; `{"failed": why}` if the worker hung or died."""
        process = self._process
        if process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = self._process = subprocess.Popen(self._command, text=True, **pipes)  # type: ignore[call-overload] # see above
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], LONGEST_SECONDS)
        line = process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self.close()
        return {"failed": "died" if ready else f"hangs: no end after {LONGEST_SECONDS:g} s"}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextmanager
def hostile_server() -> Iterator[str]:
    """The server as a process of its own; its address."""
    command = [sys.executable, "-m", "benchmarks.hostile_server"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload] # see above
        assert process.stdin
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()


def servers() -> dict[str, Any]:
    """Every mode through both clients."""
    found: dict[str, Any] = {}
    with hostile_server() as root:
        names = _get(f"{root}/modes")
        for route in ("native", "litellm"):
            worker = Worker("server", route, root)
            for name in names:
                before = _get(f"{root}/stats")
                told = worker.ask(name)
                after = _get(f"{root}/stats")
                asked = after.get(name, 0) - before.get(name, 0)
                if asked > MOST_REQUESTS:
                    told.setdefault("failed", f"{asked} requests for one example")
                if after.get("redirected", 0) > before.get("redirected", 0):
                    told.setdefault("failed", "a redirect was followed, with the key")
                found[f"{route} {name}"] = told | {"requests": asked}
            worker.close()
    return found


def one_server(name: str, route: str, root: str) -> dict[str, Any]:
    """One example against one mode."""
    os.environ["HOSTILE_KEY"] = KEY
    concurrency.LONGEST_PAUSE = 0.5  # a server may ask for a pause of 60 s, which nobody wants to watch here
    address = (
        f"hosted_vllm/m?api_base={root}/{name}/v1&key_env=HOSTILE_KEY&timeout=2&max_tokens=200&route={route}"
    )
    task = spri.load_task("reappraisal")
    program = spri.SPRI(task).set_lms(base=address)
    example = next(iter(task.examples()))
    retry = Retry(attempts=3, patience=2.0, first_wait=0.01, longest_wait=0.1)
    memory = _peak(anew=True)
    began, told = time.monotonic(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            spri.run_bulk(program, [example], Path(folder) / "run", retry=retry, deadline=25.0)
            (record,) = spri.RunDir.read(Path(folder) / "run").records()
            told["ended"] = record.error or "ok"
        except spri.SpriError as error:
            told["ended"] = f"{type(error).__name__}: {error}"
        except Exception as error:  # what this benchmark is there to find
            told["failed"] = f"{type(error).__name__}: {str(error)[:200]}"
        written = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    told["seconds"] = round(time.monotonic() - began, 2)
    grown = _peak() - memory
    told["megabytes"] = round(grown, 1)
    if grown > MOST_MEGABYTES:
        told.setdefault("failed", f"{grown:.0f} MB of memory")
    texts = [*written, str(told.get("ended")).encode(), said.getvalue().encode()]
    if any(KEY.encode() in text for text in texts):
        told.setdefault("failed", "the key is in a file, an error or on the screen")
    return told | {"ended": " ".join(str(told.get("ended")).split())[:160]}


def _peak(*, anew: bool = False) -> float:
    """The most memory in MB since it was last counted `anew`; a peak of the whole process would hide later ones."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def directories() -> dict[str, Any]:
    """Damaged copies of a finished run, by every command that reads one."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound"
        run_command = ["run", "reappraisal", "--limit", "3", "--run"]
        _cli([*run_command, str(sound)])
        expected = _results(sound)
        worker = Worker("cli")
        for name, damage in damages().items():
            for command in ("show", "export", "judge", "resume", "replay"):
                copy = Path(folder) / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(sound, copy)
                damage(copy)
                other = Path(folder) / "other"
                shutil.rmtree(other, ignore_errors=True)
                told = worker.ask(_arguments(command, str(copy), str(other)))
                if command in ("resume", "replay") and told.get("code") == 0:
                    results = _results(copy if command == "resume" else other)
                    # Other ids and outputs are what the file says now; nothing tells that they are not the run's.
                    if results != expected and not re.search(" (id|outputs|inputs)=", name):
                        told.setdefault("failed", "ends well with other results")
                found[f"{command} {name}"] = told
        worker.close()
    return found


def _arguments(command: str, run: str, other: str) -> list[str]:
    again = ["run", "reappraisal", "--limit", "3"]
    return {
        "show": ["show", run],
        "export": ["export", run, "--format", "sft", "--all", "--fresh"],
        "judge": ["judge", run, "--dry-run"],
        "resume": [*again, "--run", run],
        "replay": [*again, "--run", other, "--lm", f"base=replay/{run}"],
    }[command]


def damages() -> dict[str, Callable[[Path], None]]:
    """Ways to damage a run directory, by name."""
    rng = random.Random(0)
    changes: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda _: b"",
        "cut in the middle": lambda data: data[: len(data) // 2],
        "cut near the end": lambda data: data[:-7],
        "random bytes": lambda data: rng.randbytes(len(data)),
        "20 bytes flipped": lambda data: _flipped(data, rng),
        "zeros": lambda data: bytes(len(data)),
        "twice": lambda data: data + data,
    }
    others: dict[str, Callable[[Path], Any]] = {
        "is a directory": lambda path: path.mkdir(),
        "is a pipe": os.mkfifo,
        "is a link to nothing": lambda path: path.symlink_to("nowhere"),
        "is missing": lambda path: None,
    }
    files = ("manifest.json", "records.jsonl", "cache/*")
    found = {
        f"{file} {name}": partial(_change, file, make) for file in files for name, make in changes.items()
    }
    found |= {
        f"{file} {name}": partial(_replace, file, make) for file in files for name, make in others.items()
    }
    for text in ("null", "[]", "3", '"x"', "{}", '{"schema": 99}', '{"schema": "x"}', '{"schema": 1}'):
        value = text.encode()
        found[f"manifest.json {text}"] = partial(_change, "manifest.json", partial(_all, value))
        found[f"records.jsonl a line {text}"] = partial(_change, "records.jsonl", partial(_more, value))
    for field in ("id", "inputs", "outputs", "trace", "usage", "stop_reasons", "labels", "error"):
        for value in (3, None, [], {}, ["\x1b[2J"], "[/x]\x9b"):
            change = partial(_change, "records.jsonl", partial(_with_field, field, value))
            found[f"records.jsonl {field}={value!r}"] = change
    return found


def _change(file: str, make: Callable[[bytes], bytes], run: Path) -> None:
    for path in sorted(run.glob(file)):
        if path.is_file():
            path.write_bytes(make(path.read_bytes()))


def _replace(file: str, make: Callable[[Path], Any], run: Path) -> None:
    for path in [p for p in sorted(run.glob(file)) if p.is_file()] or [run / file]:
        path.unlink(missing_ok=True)
        make(path)


def _all(value: bytes, _: bytes) -> bytes:
    return value


def _more(line: bytes, data: bytes) -> bytes:
    return data + line + b"\n"


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(20 if data else 0):
        changed[rng.randrange(len(changed))] ^= 0xFF
    return bytes(changed)


def _with_field(field: str, value: Any, data: bytes) -> bytes:
    first, _, rest = data.partition(b"\n")
    return json.dumps(json.loads(first) | {field: value}).encode() + b"\n" + rest


def _results(run: Path) -> dict[str, Any]:
    """Outputs by example."""
    return {record.id: record.outputs for record in spri.RunDir.read(run).records() if record.ok}


def one_command(arguments: list[str]) -> dict[str, Any]:
    """A command line in this process: exit code, and whether it ended in a traceback."""
    code, text = _cli(arguments)
    told: dict[str, Any] = {"code": code, "said": " ".join(text.split())[-160:]}
    if "Traceback" in text or code not in (0, 1, 2, 3, 4):
        told["failed"] = f"exit code {code}" + (", a traceback" if "Traceback" in text else "")
    elif code and any(line.strip() and not line.startswith("spri: ") for line in text.splitlines()):
        told["failed"] = "stderr holds lines that the program did not write"
    return told


def _cli(arguments: list[str]) -> tuple[Any, str]:
    said, argv = io.StringIO(), sys.argv
    sys.argv = ["spri", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            cli.main()
        return 0, said.getvalue()
    except SystemExit as end:
        return end.code or 0, said.getvalue()
    except BaseException as error:  # what this benchmark is there to find
        return type(error).__name__, f"{said.getvalue()} Traceback {type(error).__name__}: {error}"
    finally:
        sys.argv = argv


def kills(times: int, examples: int) -> dict[str, Any]:
    """SIGKILL at random times against an undisturbed run."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, serving({"latency": 0.05, "sigma": 0.5}) as root:
        data = Path(folder) / "data.jsonl"
        rows = [{"id": str(n), "instruction": f"Say how to do chore #{n}#."} for n in range(examples)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        calm, requests = _until_done(folder, "calm", data, root, [])
        stops = [rng.uniform(2.0, 4.5) for _ in range(times)]
        killed, more = _until_done(folder, "killed", data, root, stops)
        lines = [json.loads(line)["id"] for line in (Path(folder) / "killed/records.jsonl").open("rb")]
        told: dict[str, Any] = {"kills": times, "requests": more, "requests without kills": requests}
        if sorted(lines) != sorted(str(n) for n in range(examples)):
            told["failed"] = f"{len(lines)} records of {len(set(lines))} examples, {examples} were asked for"
        elif set(calm) != set(killed):
            told["failed"] = "other examples finished"
        elif more > requests + 16 * times:
            told["failed"] = "more calls were paid again than were in flight"
    return {"SIGKILL": told}


def _until_done(
    folder: str, name: str, data: Path, root: str, stops: list[float]
) -> tuple[dict[str, Any], int]:
    _get(f"{root}/reset")
    run = Path(folder) / name
    command = [
        sys.executable,
        "-c",
        "from spri_dspy.cli import main; main()",
        "run",
        "sft",
        "--data",
        str(data),
    ]
    command += ["--run", str(run), "--lm", f"base=hosted_vllm/m?api_base={root}/v1"]
    for seconds in [*stops, None]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **quiet) as process:  # type: ignore[call-overload] # see above
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
    return _results(run), _get(f"{root}/stats?slots=16")["received"]


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.loads(answer.read())


def _work(kind: str, arguments: list[str]) -> None:
    """Do what standard input asks, a JSON line each, and answer with a line each."""
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        task = json.loads(line)
        found = one_server(task, *arguments) if kind == "server" else one_command(task)
        out.write(json.dumps(found) + "\n")
        out.flush()


def main(argv: list[str]) -> int:
    """Try everything and print what failed; 1 if something did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks hostile", description=__doc__)
    parser.add_argument("--only", choices=("servers", "directories", "kills"), help="one part")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--examples", type=int, default=150, help="in the runs that are killed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "servers": servers,
        "directories": directories,
        "kills": lambda: kills(options.kills, options.examples),
    }
    found = {name: make() for name, make in parts.items() if options.only in (None, name)}
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    for part, results in {} if options.json else found.items():
        bad = {name: told["failed"] for name, told in results.items() if "failed" in told}
        sys.stdout.write(f"{part}: {len(results)} tried, {len(results) - len(bad)} held, {len(bad)} failed\n")
        sys.stdout.writelines(f"  {name}: {why}\n" for name, why in bad.items())
    return int(any("failed" in told for results in found.values() for told in results.values()))


if __name__ == "__main__":
    _work(sys.argv[2], sys.argv[3:])
