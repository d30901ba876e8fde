"""One driver for sync and async: steps in turn, failures raised inside the plan, the plan closed at the end."""

import asyncio

import pytest

from spri_dspy.trampoline import adrive, drive


def both(make_plan, perform):
    """What a plan comes to, driven in both ways."""

    async def aperform(step):
        await asyncio.sleep(0)
        return perform(step)

    return drive(make_plan(), perform), asyncio.run(adrive(make_plan(), aperform))


def test_steps_are_performed_in_turn_and_the_plan_returns():
    def plan():
        first = yield 2
        second = yield first + 1
        return first, second

    assert both(plan, lambda step: step * 10) == ((20, 210), (20, 210))


def test_a_plan_without_steps_returns_at_once():
    def plan():
        return "done"
        yield

    assert both(plan, None) == ("done", "done")


def test_a_failing_step_is_raised_inside_the_plan():
    def plan():
        try:
            yield 0
        except ZeroDivisionError:
            return (yield 4)

    assert both(plan, lambda step: 8 // step) == (2, 2)


def test_what_the_plan_does_not_catch_is_raised_and_the_plan_is_closed():
    closed = []

    def plan():
        try:
            yield 0
        finally:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        drive(plan(), lambda step: 8 // step)
    with pytest.raises(KeyboardInterrupt):
        drive(plan(), interrupted)
    assert closed == [True, True]


def interrupted(step):
    raise KeyboardInterrupt


async def test_a_cancelled_plan_is_closed():
    closed = []

    def plan():
        try:
            yield 1
        finally:
            closed.append(True)

    task = asyncio.create_task(adrive(plan(), lambda step: asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
