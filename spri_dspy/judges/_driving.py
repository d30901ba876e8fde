"""Running a judge's plan: batches of calls that do not depend on each other, in turn or at the same time.

It knows calls and what they cost; it knows no criterion and no number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Sequence
from typing import Any

import dspy

from spri_dspy.errors import UnreadableAnswer
from spri_dspy.predict import ASK_AGAIN, RolePredict, usage_of
from spri_dspy.records import Usage

Step = tuple[RolePredict, dict[str, Any]]
Plan = Generator[list[Step], list[dspy.Prediction | None], Any]


def drive(plan: Plan) -> dspy.Prediction:
    """Run a plan to its end, one call after another."""
    usage = Usage()
    try:
        batch = next(plan)
        while True:
            answers = [_ask(*step) for step in batch]
            usage = sum((_usage(answer) for answer in answers), usage)
            batch = plan.send(answers)
    except StopIteration as stop:
        return dspy.Prediction(**stop.value, usage={"judge": usage})


async def adrive(plan: Plan) -> dspy.Prediction:
    """The same; the calls of a batch run at the same time."""
    usage = Usage()
    try:
        batch = next(plan)
        while True:
            answers = await gather([_aask(*step) for step in batch])
            usage = sum((_usage(answer) for answer in answers), usage)
            batch = plan.send(answers)
    except StopIteration as stop:
        return dspy.Prediction(**stop.value, usage={"judge": usage})


async def gather(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """Results in order, of work that runs at the same time.

    If some of it fails, the rest is still finished, because calls in flight are paid for, and kept by a run; then
    the first failure is raised.
    """
    found = await asyncio.gather(*work, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def _ask(predictor: RolePredict, arguments: dict[str, Any]) -> dspy.Prediction | None:
    try:
        return predictor(**arguments)
    except UnreadableAnswer:
        return None


async def _aask(predictor: RolePredict, arguments: dict[str, Any]) -> dspy.Prediction | None:
    try:
        return await predictor.acall(**arguments)
    except UnreadableAnswer:
        return None


def _usage(answer: dspy.Prediction | None) -> Usage:
    """What an answer cost; of an unreadable one only the number of calls is known."""
    return Usage(calls=ASK_AGAIN + 1) if answer is None else usage_of(answer)
