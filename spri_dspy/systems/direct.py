"""Direct response: the instruction goes to the model as it is, and its answer is kept.

The name that the table of synthetic data gives to vanilla. Source: paper.md section 2, task 3.
"""

from __future__ import annotations

from spri_dspy.program import ProgramTask
from spri_dspy.systems import vanilla
from spri_dspy.systems._shapes import OneStep, only_for


def system(task: ProgramTask, *, paper: bool = False) -> OneStep:
    """Direct response for sft. 1 LM call.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than sft.
    """
    only_for(task, "direct", "sft")
    return vanilla.system(task, paper=paper)
