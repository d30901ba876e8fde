"""FLASK rubric: an answer is judged by the rubric of the skill that its instruction's capability calls for.

Source: paper.md section 2, task 2, with the map of capabilities to skills; the rubrics are ours, in
seeds/flask.jsonl.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.program import ProgramTask
from spri_dspy.systems._shapes import OneStep, only_for
from spri_dspy.tasks.fields import package_rows
from spri_dspy.tasks.rubrics import Rubric


def system(task: ProgramTask, *, paper: bool = False) -> OneStep:
    """The FLASK rubrics for rubrics. 1 LM call; a call needs the group, which is the capability.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than rubrics; in a call, a capability that no skill covers.
    """
    only_for(task, "flask", "rubrics")
    rows = package_rows("seeds/flask.jsonl")
    skills = {capability: row["skill"] for row in rows for capability in row["capabilities"]}
    rubrics = {row["skill"]: Rubric(**row["rubric"]) for row in rows}

    def of_capability(inputs: Mapping[str, Any], group: str | None) -> Rubric:
        if group not in skills:
            known = ", ".join(f"{capability} ({skill})" for capability, skill in sorted(skills.items()))
            said = "an example without a capability" if group is None else f"the capability {group!r}"
            raise UsageError(f"flask has no skill for {said}; it knows {known}")
        return rubrics[skills[group]]

    return OneStep(task, task.stages.generate_response, given=of_capability)
