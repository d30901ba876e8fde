"""MT-Bench rubric: every answer is judged by one coarse rubric, the same for all instructions.

It names helpfulness, relevance, accuracy, depth, creativity and level of detail. Source: paper.md section 2, task 2;
the rubric is ours, in seeds/mt_bench.jsonl.
"""

from __future__ import annotations

from spri_dspy.program import ProgramTask
from spri_dspy.systems._shapes import OneStep, only_for
from spri_dspy.tasks.rubrics import general_rubric


def system(task: ProgramTask, *, paper: bool = False) -> OneStep:
    """The MT-Bench rubric for rubrics. 1 LM call.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than rubrics.
    """
    only_for(task, "mt_bench", "rubrics")
    rubric = general_rubric()
    return OneStep(task, task.stages.generate_response, given=lambda inputs, group: rubric)
