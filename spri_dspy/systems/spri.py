"""SPRI itself and its ablations, as settings: which seeds it sees, where the gate is, how long a loop may go on.

Source: paper.md sections 1 and 2 (ablations: no seeds, default seeds, seeds per group, gate 5).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spri_dspy.errors import UsageError
from spri_dspy.program import SPRI
from spri_dspy.tasks import Task
from spri_dspy.tasks.fields import package_rows


def system(
    task: Task,
    *,
    paper: bool = False,
    seeds: str = "task",
    accept_at: int = 4,
    max_critiques: int = 4,
) -> SPRI:
    """SPRI for a task.

    Args:
        task: from `load_task`.
        paper: the published behaviour, see `SPRI.paper`.
        seeds: "task" (its own), "none", "default" (six general ones, the same for every task), "k:N" (the
            first N of each group), or "nearest:K" (of its own, the K nearest to each input).
        accept_at: the score that ends a loop.
        max_critiques: critiques of different candidates a stage.

    Raises:
        UsageError: `seeds` is none of these.
    """
    near = seeds.startswith("nearest:")
    chosen = task if near else replace(task, seeds=_chosen(task, seeds))
    make = SPRI.paper if paper else SPRI
    return make(chosen, seeds=seeds if near else "group", accept_at=accept_at, max_critiques=max_critiques)


def _chosen(task: Task, seeds: str) -> tuple[Mapping[str, Any], ...]:
    if seeds == "task":
        return task.seeds
    if seeds == "none":
        return ()
    if seeds == "default":
        return default_seeds(task)
    count = seeds.removeprefix("k:")
    if not seeds.startswith("k:") or not count.isdigit() or count == "0":
        raise UsageError(f"seeds must be task, none, default, k:N or nearest:K, not {seeds!r}")
    return first_of_each_group(task.seeds, int(count))


def default_seeds(task: Task) -> tuple[Mapping[str, Any], ...]:
    """The six general principles as seeds: they stand without inputs, so DSPy shows them as partial examples."""
    first = next(iter(task.inputs))
    return tuple(
        {first: f"(any {first.replace('_', ' ')})", "principles": row["principles"]}
        for row in package_rows("seeds/default.jsonl")
    )


def first_of_each_group(seeds: tuple[Mapping[str, Any], ...], count: int) -> tuple[Mapping[str, Any], ...]:
    """The first `count` seeds of each group, in their order; seeds without a group are one group."""
    seen: dict[Any, int] = defaultdict(int)
    kept: list[Mapping[str, Any]] = []
    for seed in seeds:
        seen[seed.get("group")] += 1
        if seen[seed.get("group")] <= count:
            kept.append(seed)
    return tuple(kept)
