"""SPRI itself and its ablations, as settings: which seeds it sees, where the gate is, how long a loop may go on.

Source: paper.md sections 1 and 2 (ablations: no seeds, default seeds, seeds per group, gate 5).
"""

from __future__ import annotations

from spri_dspy.errors import UsageError
from spri_dspy.program import SPRI
from spri_dspy.tasks import Task


def system(
    task: Task,
    *,
    paper: bool = False,
    seeds: str = "task",
    accept_at: int = 4,
    max_critiques: int = 4,
    gate: str = "",
) -> SPRI:
    """SPRI for a task.

    Args:
        task: from `load_task`.
        paper: the published behaviour, see `SPRI.paper`.
        seeds: task, none, default, all, k:N, nearest:K or a file; see `tasks.seeds.SEEDS`.
        accept_at: the score that ends a loop.
        max_critiques: critiques of different candidates a stage.
        gate: a file that says where general principles stand in; see `spri_dspy.gate`.

    Raises:
        UsageError: `seeds` is none of these, the file is no gate, or `paper` is asked for with one.
    """
    if paper and gate:
        raise UsageError("the published system has no gate; leave --paper or gate= out")
    if paper:
        return SPRI.paper(task, seeds=seeds, accept_at=accept_at, max_critiques=max_critiques)
    return SPRI(task, seeds=seeds, gate=gate or None, accept_at=accept_at, max_critiques=max_critiques)
