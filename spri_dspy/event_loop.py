"""Where the coroutine of a run is run to its end: in an event loop made for many LM calls.

It knows nothing of runs and LMs but how DSPy prepares a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a notebook, whose thread has a loop already, beside that in another thread."""
    with _few_collections():
        if _has_loop():
            return _in_a_thread(work)
        with asyncio.Runner(loop_factory=_Loop) as runner:
            return _interruptible(runner.get_loop(), work)


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _interruptible(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run work in this thread's loop; Ctrl-C cancels it, so that what is finished is kept, then raises as ever.

    A second one raises at once; whoever has a handler of his own is asked first, each time, as the command line is,
    which ends the process then.
    """
    task, usual, n_interrupts = loop.create_task(work), signal.getsignal(signal.SIGINT), 0

    def interrupt(number: int, frame: Any) -> None:
        nonlocal n_interrupts
        n_interrupts += 1
        try:
            usual(number, frame)  # type: ignore[operator]
        except KeyboardInterrupt:
            if n_interrupts > 1:
                raise
            loop.call_soon_threadsafe(task.cancel)

    is_ours = callable(usual) and threading.current_thread() is threading.main_thread()
    if is_ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        if n_interrupts:
            raise KeyboardInterrupt from None
        raise
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Look for garbage seldom: calls leave hardly any in cycles, and looking costs a tenth of a run's CPU time.

    The threshold is the process's: of runs in several threads the first sets it, and the last sets it back.
    """
    global _n_runs, _usual
    with _RUNS:
        _n_runs += 1
        if _n_runs == 1:
            _usual = gc.get_threshold()
            if _usual[0]:
                gc.set_threshold(max(_COLLECT_EVERY, _usual[0]), *_usual[1:])
    try:
        yield
    finally:
        with _RUNS:
            _n_runs -= 1
            if not _n_runs:
                gc.set_threshold(*_usual)


_RUNS, _n_runs, _usual = threading.Lock(), 0, gc.get_threshold()
_COLLECT_EVERY = 20_000
"""Objects more than at the last look; Python's own is 700."""


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that sends no step of DSPy's preparation of a call to a thread.

    DSPy does so in case a step reads a file or a credential. These here are pure Python, so nothing runs beside them,
    and each way there and back costs more than the step.
    """

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        step = (
            func.args[0] if isinstance(func, partial) and func.args else None
        )  # asyncio.to_thread's context.run
        if executor or not (getattr(step, "__module__", None) or "").startswith("dspy.clients."):
            return super().run_in_executor(executor, func, *args)
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # whatever it is, it is for who awaits the step
            done.set_exception(error)
        return done


def _in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run an event loop of our own beside the caller's; an interrupt of the caller ends the work too."""
    loop = _Loop()
    task = loop.create_task(work)
    thread = threading.Thread(target=_finish, args=(loop, task), daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # an interrupted notebook cell; what is finished is kept
        with contextlib.suppress(RuntimeError):  # the loop is closed: all was done already
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    return task.result()


def _finish(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    try:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
