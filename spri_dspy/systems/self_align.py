"""Self-align: sixteen general rules stand in the prompt, the same for every instruction; then the answer.

Source: paper.md section 2, task 3; the rules are ours, in seeds/self_align.jsonl.
"""

from __future__ import annotations

from spri_dspy.program import ProgramTask
from spri_dspy.systems._shapes import OneStep, described, only_for
from spri_dspy.tasks.fields import package_rows

_BY_RULES = """\
Answer the instruction in keeping with the general rules.

Settle for yourself which of the rules bear on this instruction, and follow those; the others have no place in the
answer. Do not quote or mention the rules. Give only the answer."""


def system(task: ProgramTask, *, paper: bool = False) -> OneStep:
    """Self-align for sft. 1 LM call. The rules are returned as `principles`.

    Args:
        task: from `load_task`.
        paper: changes nothing, no published fault concerns it.

    Raises:
        UsageError: another task than sft.
    """
    only_for(task, "self_align", "sft")
    rows = package_rows("seeds/self_align.jsonl")
    rules = "\n".join(f"{number}. {row['rule']}" for number, row in enumerate(rows, 1))
    signature = task.stages.generate_response.with_instructions(_BY_RULES)
    signature = described(signature, principles="general rules for every answer")
    return OneStep(task, signature, given=lambda inputs, group: rules)
