"""Run a plan, a generator of steps, to its end: every loop of the project exists once and runs sync and async.

    def plan():                      # yields steps, receives their results, returns what it came to
        draft = yield "draft"
        return (yield "refine")

    drive(plan(), perform)           # perform(step) gives a step's result
    await adrive(plan(), aperform)   # the same where perform has to be awaited

A step that fails raises its exception inside the plan, at the `yield`. It knows no LM and no prompt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")


def drive(plan: Generator[S, R, T], perform: Callable[[S], R]) -> T:
    """Perform the steps of a plan in turn and return what the plan returns.

    Raises:
        Exception: whatever the plan raises or does not catch.
    """
    try:
        step = next(plan)
        while True:
            try:
                result = perform(step)
            except Exception as error:  # the plan decides what a failed step means
                step = plan.throw(error)
            else:
                step = plan.send(result)
    except StopIteration as stop:
        return stop.value
    finally:
        plan.close()


async def adrive(plan: Generator[S, R, T], perform: Callable[[S], Awaitable[R]]) -> T:
    """The same without blocking."""
    try:
        step = next(plan)
        while True:
            try:
                result = await perform(step)
            except Exception as error:
                step = plan.throw(error)
            else:
                step = plan.send(result)
    except StopIteration as stop:
        return stop.value
    finally:
        plan.close()
