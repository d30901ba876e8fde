"""A run by several processes of this machine: one engine for each, one directory, one cache, one budget.

    run_in_processes(Job(make_program, run, concurrency=512), examples, workers=4)

Workers are Python processes started for the run; they speak with the driver over a socket, and end by themselves when
that is gone. They are out of reach of the terminal's Ctrl-C, which is the driver's to answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, closing, suppress
from typing import NoReturn

from spri_dspy.bulk import Summary
from spri_dspy.crew.driver import WorkerDied
from spri_dspy.crew.job import Job
from spri_dspy.crew.worker import Orders, Report, Seat, Worker
from spri_dspy.event_loop import run_to_end
from spri_dspy.lms.cache import CallCache, take_over_shards
from spri_dspy.tasks.example import Example

_LIFE_SIGN_SECONDS = 1.0
"""How often a worker looks whether its driver is still there, beside the socket, which a busy one reads late."""

_GRACE_SECONDS = 2.0
"""How long a worker has to end once the driver has closed its socket."""


def run_in_processes(job: Job, examples: Iterable[Example], *, workers: int) -> Summary:
    """Run a job over examples by several processes.

    Args:
        job: its maker is pickled; a function of a script or a notebook will do.
        examples: read lazily, as workers have room.
        workers: processes, no more than the job's concurrency. Each takes some seconds to start, and 200 MB.

    Raises:
        UsageError: concurrency or workers below 1, or two examples of one id.
        BudgetSpent, PrerequisiteError: as for `bulk.run_bulk`.
    """
    job.check(workers)
    take_over_shards(job.folder)
    with closing(CallCache(job.folder)):  # the file is there, with its journal, before workers open it
        groups = job.begin(examples)
        return job.carry_out(hire, groups, workers) if groups else job.work.summary


@asynccontextmanager
async def hire(seat: Seat) -> AsyncGenerator[_Process]:
    """A worker as a process of this machine, for the length of the block."""
    import cloudpickle

    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", _START, str(theirs.fileno()), json.dumps(sys.path)]
    with theirs:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a program prints is no result of the command
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        yield _Process(process, reader, writer, cloudpickle.dumps(seat))
    finally:
        writer.close()  # once the loop has a turn
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    while process.poll() is None:
                        await asyncio.sleep(0.01)
        finally:
            process.kill()
            process.wait()


_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from spri_dspy.crew.processes import serve; serve(int(sys.argv[1]))"
)


class _Process:
    """The way to a worker that is a process."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seat: bytes,
    ) -> None:
        self._process, self._reader, self._writer, self._seat = process, reader, writer, seat

    async def open(self) -> Report:
        return await self._ask(self._seat)

    async def exchange(self, orders: Orders) -> Report:
        return await self._ask(pickle.dumps(orders))

    async def _ask(self, message: bytes) -> Report:
        try:
            await _send(self._writer, message)
            return pickle.loads(await _receive(self._reader))
        except (asyncio.IncompleteReadError, OSError) as error:
            code = self._process.poll()
            raise WorkerDied("its process ended" + (f" with exit code {code}" if code else "")) from error


async def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(len(message).to_bytes(8) + message)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(8)))


def serve(descriptor: int) -> None:
    """Be a worker: answer the driver at the other end of a socket until that is closed."""
    import dspy

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    logging.root.addHandler(logging.NullHandler())
    dspy.disable_logging()
    run_to_end(_serve(socket.socket(fileno=descriptor)))


async def _serve(to_driver: socket.socket) -> NoReturn:
    reader, writer = await asyncio.open_unix_connection(sock=to_driver)
    try:
        worker = Worker(pickle.loads(await _receive(reader)))
        await _send(writer, pickle.dumps(await worker.open()))
        while True:
            orders = pickle.loads(await _receive(reader))
            await _send(writer, pickle.dumps(await worker.exchange(orders)))
    except (asyncio.IncompleteReadError, OSError):
        os._exit(0)  # what is finished is stored, and nobody waits for the rest


def _end_with(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(_LIFE_SIGN_SECONDS)
    os._exit(0)
