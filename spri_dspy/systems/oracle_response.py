"""Oracle response: the data set's own response to the instruction, as it stands.

Source: paper.md section 2, task 3. The response is the example's label `reference_answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spri_dspy.critique_refine import Plan
from spri_dspy.program import Program, ProgramTask
from spri_dspy.systems._shapes import only_for


class OracleResponse(Program):
    """Returns what it is shown. No LM calls and no predictors.

    Args:
        task: what the program is for.
    """

    sees = "labels"
    label_inputs = ("reference_answer",)
    calls = (0, 0, 0)

    def __init__(self, task: ProgramTask) -> None:
        super().__init__(task)
        self.inputs = tuple(task.stages.generate_principles.input_fields)

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """Nothing to ask."""
        yield from ()
        return {"response": inputs["reference_answer"]}


def system(task: ProgramTask, *, paper: bool = False) -> OracleResponse:
    """Oracle response for sft. A call takes `reference_answer` beside the inputs.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than sft.
    """
    only_for(task, "oracle_response", "sft")
    return OracleResponse(task)
