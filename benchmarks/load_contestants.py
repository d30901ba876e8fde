"""Who runs against whom in the load benchmark: each does the same calls for the same examples, in its own way.

A contestant is a function of (url, examples, slots) that returns when every example is finished. Each runs in a
process of its own, so that CPU time and memory are its own. `python -m benchmarks.load_contestants NAME URL EXAMPLES
SLOTS [WORKERS [CORE_SHARE]]` prints what it took as JSON, processes that it started included.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import spri_dspy as spri
from spri_dspy.commands.execution import Execution
from spri_dspy.tasks import Example, make_example

_GATE, _MOST = 4, 4


def examples_of(count: int) -> list[Example]:
    """Inputs of a short post's length, each with the mark that the server knows it by."""
    posts = [example.input_values for example in spri.load_task("reappraisal").examples()]
    return [
        make_example(f"e{i}", {**posts[i % len(posts)], "post": f"{posts[i % len(posts)]['post']} #{i}#"})
        for i in range(count)
    ]


def spri_at(url: str) -> Any:
    """The program that is raced."""
    return spri.SPRI(spri.load_task("reappraisal")).set_lms(base=f"hosted_vllm/m?api_base={url}")


def engine(url: str, count: int, slots: int, workers: int = 1) -> None:
    """This project: a run directory, cache and records; in one process or in several."""
    how, make = Execution(concurrency=slots, workers=workers), partial(spri_at, url)
    with (
        tempfile.TemporaryDirectory() as folder,
        spri.RunDir.create(Path(folder) / "run", {"task": "load"}) as run,
    ):
        how.run(make(), examples_of(count), run, make_program=make)
        finished = sum(1 for record in run.records() if record.ok)
    if finished != count:
        raise RuntimeError(f"{finished} of {count} examples finished")


def _plain_module(lm: Any) -> Any:
    import dspy

    stages = spri.load_task("reappraisal").stages

    class Plain(dspy.Module):
        """The loop as one would write it in DSPy."""

        def __init__(self) -> None:
            super().__init__()
            self.draft = [dspy.Predict(stages.generate_principles), dspy.Predict(stages.generate_response)]
            self.judge = [dspy.Predict(stages.critique_principles), dspy.Predict(stages.critique_response)]
            self.improve = [dspy.Predict(stages.refine_principles), dspy.Predict(stages.refine_response)]

        def forward(self, **inputs: Any) -> Any:
            known = dict(inputs)
            for n, name in enumerate(("principles", "response")):
                known[name] = self.draft[n](**known)[name]
                for turn in range(_MOST):
                    verdict = self.judge[n](**known)
                    if verdict.score >= _GATE or turn == _MOST - 1:
                        break
                    known[name] = self.improve[n](**known, feedback=verdict.feedback)[f"improved_{name}"]
            return dspy.Prediction(response=known["response"])

    module = Plain()
    module.set_lm(lm)
    return module


def _dspy_parallel(url: str, count: int, slots: int, engine: str) -> None:
    import dspy

    lm = dspy.LM(
        "hosted_vllm/m",
        api_base=url,
        api_key="none",
        engine=engine,
        cache=False,
        temperature=0.7,
        max_tokens=512,
    )
    dspy.configure(disable_history=True, trace=None)
    module = _plain_module(lm)
    pairs = [(module, dspy.Example(**e.input_values).with_inputs("post", "aim")) for e in examples_of(count)]
    dspy.Parallel(num_threads=slots, timeout=0, disable_progress_bar=True)(pairs)


def dspy_native(url: str, count: int, slots: int) -> None:
    """A plain DSPy module under dspy.Parallel, DSPy's own client."""
    _dspy_parallel(url, count, slots, "lm15")


def dspy_litellm(url: str, count: int, slots: int) -> None:
    """A plain DSPy module under dspy.Parallel, through LiteLLM."""
    _dspy_parallel(url, count, slots, "litellm")


Ask = Callable[[int, str], Awaitable[int]]


async def _with_client(url: str, slots: int, work: Callable[[Ask], Awaitable[None]]) -> None:
    import aiohttp

    prompt = "x" * 3000  # about what the program's prompts weigh
    gate = asyncio.Semaphore(slots)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=slots)) as session:

        async def ask(example: int, stage: str) -> int:
            body = {"model": "m", "messages": [{"role": "user", "content": f"{prompt} {stage} #{example}#"}]}
            async with gate, session.post(f"{url}/chat/completions", json=body) as answer:
                text = (await answer.json())["choices"][0]["message"]["content"]
            return int(text.rpartition("[[ ## score ## ]]")[2].split()[0])

        await work(ask)


async def _chain(ask: Ask, example: int) -> None:
    for _ in ("principles", "response"):
        await ask(example, "generate")
        for turn in range(_MOST):
            if await ask(example, "critique") >= _GATE or turn == _MOST - 1:
                break
            await ask(example, "refine")


def aiohttp_loop(url: str, count: int, slots: int) -> None:
    """The limit: the same calls in a bare aiohttp loop, with nothing kept."""

    async def work(ask: Ask) -> None:
        await asyncio.gather(*(_chain(ask, i) for i in range(count)))

    asyncio.run(_with_client(url, slots, work))


def lockstep(url: str, count: int, slots: int) -> None:
    """The published shape: batches of 24, each stage waits for its slowest member."""

    async def stage(ask: Ask, batch: list[int]) -> None:
        await asyncio.gather(*(ask(i, "generate") for i in batch))
        left = batch
        for turn in range(_MOST):
            scores = await asyncio.gather(*(ask(i, "critique") for i in left))
            left = [i for i, score in zip(left, scores, strict=True) if score < _GATE]
            if not left or turn == _MOST - 1:
                return
            await asyncio.gather(*(ask(i, "refine") for i in left))

    async def work(ask: Ask) -> None:
        for begin in range(0, count, 24):
            batch = list(range(begin, min(begin + 24, count)))
            for _ in ("principles", "response"):
                await stage(ask, batch)

    asyncio.run(_with_client(url, slots, work))


CONTESTANTS = {f.__name__: f for f in (engine, aiohttp_loop, dspy_native, dspy_litellm, lockstep)}


class _Share:
    """So much of a core for each process, this one and those it starts: by cgroups of Linux, version 1 or 2."""

    def __init__(self, share: float) -> None:
        self._share, self._root = share, Path("/sys/fs/cgroup")
        self._is_first = (self._root / "cpu").is_dir()
        self._held: dict[int, Path] = {}
        self.pause = 0.1 if share < 1 else 1.0  # seconds within which a process that is started is limited

    def hold(self, processes: Iterable[psutil.Process]) -> None:
        """Limit processes that are not limited yet."""
        for number in (process.pid for process in processes):
            if self._share < 1 and number not in self._held:
                self._held[number] = group = self._root / ("cpu" if self._is_first else "") / f"load-{number}"
                group.mkdir(exist_ok=True)
                most = int(_PERIOD * self._share)
                if self._is_first:
                    (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
                    (group / "cpu.cfs_quota_us").write_text(str(most))
                else:
                    (group / "cpu.max").write_text(f"{most} {_PERIOD}")
                with suppress(OSError):  # it has ended
                    (group / "cgroup.procs").write_text(str(number))

    def release(self) -> None:
        """Remove the groups, whose processes have ended but for this one."""
        for number, group in self._held.items():
            with suppress(OSError):
                if number == os.getpid():
                    (group.parent / "cgroup.procs").write_text(str(number))
                group.rmdir()


_PERIOD = 10_000
"""Microseconds in which a share is given: so short that no call waits for long."""


class _Peak:
    """The most memory that this process and those it started had together, looked at once in a while.

    Args:
        share: what each of these processes may use of a core.
    """

    def __init__(self, share: _Share) -> None:
        self.mb, self._share = 0.0, share
        self._share.hold([psutil.Process()])
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        here = psutil.Process()
        while True:
            found = 0
            all_of_us = (here, *here.children(recursive=True))
            self._share.hold(all_of_us)
            for process in all_of_us:
                with suppress(psutil.Error):
                    found += process.memory_info().rss
            self.mb = max(self.mb, found / 2**20)
            time.sleep(self._share.pause)  # a look takes some milliseconds of CPU time


def run_alone(argv: list[str]) -> int:
    """Run one contestant in this process; prints seconds, CPU seconds and peak memory."""
    name, url, count, slots = argv[0], argv[1], int(argv[2]), int(argv[3])
    workers = int(argv[4]) if len(argv) > 4 else 1
    share = _Share(float(argv[5]) if len(argv) > 5 else 1.0)
    if name in ("engine", "dspy_native", "dspy_litellm"):
        import dspy  # noqa: F401 - importing is not part of the race

        if name == "dspy_litellm":
            import litellm  # noqa: F401
    contestant = partial(engine, workers=workers) if name == "engine" else CONTESTANTS[name]
    cpu, start, peak = time.process_time(), time.monotonic(), _Peak(share)
    contestant(url, count, slots)
    share.release()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # those that have ended, and all have
    took = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu + children.ru_utime + children.ru_stime,
        "peak_mb": max(peak.mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    sys.stdout.write(json.dumps(took) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_alone(sys.argv[1:]))
