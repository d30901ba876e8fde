"""Oracle principles: what experts wrote for each appraisal dimension, in the place of situated principles.

A reappraisal is drafted as vanilla does, then rewritten once for every dimension's constitution, in their order. With
`individual`, it is written once, by the constitution of the example's own dimension alone. Source: paper.md section 2,
task 1; the constitutions are those of `tasks.reappraisal.dimensions`, in our words.
"""

from __future__ import annotations

from spri_dspy.program import Program, ProgramTask
from spri_dspy.systems._shapes import OneStep, Rewritten, only_for
from spri_dspy.systems.vanilla import asked_once
from spri_dspy.tasks.reappraisal import dimensions

_APPLY = """\
Rewrite the response so that it follows these principles as well.

The principles were written by experts for any narrator and concern one side of the situation: apply what bears on
this post, and let go what does not. Keep what the response already does well, and keep to the aim. Do not quote or
mention the principles. Write to the narrator in plain, warm and natural language, at eye level, without diagnosing.
Use at most 128 words. Give only the improved response."""


def system(task: ProgramTask, *, paper: bool = False, individual: bool = False) -> Program:
    """Oracle principles for reappraisal. 7 LM calls, 1 with `individual`.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.
        individual: only the example's own constitution, its label `oracle_principles`.

    Raises:
        UsageError: another task than reappraisal.
    """
    only_for(task, "oracle_principles", "reappraisal")
    if individual:
        return OneStep(
            task,
            task.stages.generate_response,
            given=lambda inputs, group: inputs["oracle_principles"],
            label_inputs=("oracle_principles",),
        )
    apply = task.stages.refine_response.delete("feedback").with_instructions(_APPLY)
    steps = [{"principles": row["oracle_principles"]} for row in dimensions()]
    program = Rewritten(task, asked_once(task), apply, steps)
    program.sees = "labels"  # the standards that responses are judged by come from these
    return program
