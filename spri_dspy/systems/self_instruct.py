"""Self-instruct: tasks of another kind, solved, come before the instruction as examples.

Source: paper.md section 2, task 3; the examples are ours, in seeds/self_instruct.jsonl.
"""

from __future__ import annotations

import dspy

from spri_dspy.program import ProgramTask
from spri_dspy.systems._shapes import OneStep, only_for
from spri_dspy.systems.vanilla import asked_once
from spri_dspy.tasks.fields import package_rows
from spri_dspy.tasks.sft import joined

_COMPLETE = """\
Complete the task that the instruction sets, as the examples do. Give only the answer."""


def system(task: ProgramTask, *, paper: bool = False) -> OneStep:
    """Self-instruct for sft. 1 LM call. The examples are `program.generate.demos`.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than sft.
    """
    only_for(task, "self_instruct", "sft")
    program = OneStep(task, asked_once(task).with_instructions(_COMPLETE))
    program.generate.demos = [
        dspy.Example(instruction=joined(row), response=row["output"])
        for row in package_rows("seeds/self_instruct.jsonl")
    ]
    return program
