"""Oracle rubrics: an answer is judged by the rubric that the benchmark itself has for its instruction.

Source: paper.md section 2, task 2. The rubric is the example's label `rubric`.
"""

from __future__ import annotations

from spri_dspy.program import ProgramTask
from spri_dspy.systems._shapes import OneStep, only_for
from spri_dspy.tasks.rubrics import Rubric


def system(task: ProgramTask, *, paper: bool = False) -> OneStep:
    """Oracle rubrics for rubrics. 1 LM call; a call takes `rubric`, the fields of a Rubric, beside the inputs.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than rubrics.
    """
    only_for(task, "oracle_rubrics", "rubrics")
    return OneStep(
        task,
        task.stages.generate_response,
        given=lambda inputs, group: Rubric.model_validate(inputs["rubric"]),
        label_inputs=("rubric",),
    )
