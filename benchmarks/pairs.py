"""Pairs: systems that judge answers one by one, compared with people's preferences between answers to an instruction.

    python -m benchmarks pairs --data pairs.jsonl --systems vanilla,checklist,spct:k=4 --lm base=openai/gpt-4o-mini

Rows of the rubrics task with several `responses`, and `preferred` or `annotators` (see `spri_dspy.tasks.rubrics`). Each
answer gets a score by itself; of the pairs that people tell apart, the share that the scores put in people's order is
the pair accuracy, and the share of equal scores stands beside it: a tie is not right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks import command
from benchmarks.grid import Cell
from benchmarks.tables import Definition, Measure
from spri_dspy.metrics.set_level import pair_accuracy, pair_ties
from spri_dspy.records import Score


def scores(cell: Cell) -> list[Score]:
    """The scores of a cell, with people's votes for each answer as labels."""
    votes = {name: example.label_values.get("preference") for name, example in cell.examples.items()}
    return [replace(score, label=votes[score.id]) for score in cell.scores("score")]


def pair_measures(
    scores: Callable[[Cell], list[Score]], *, is_tested: bool = False
) -> tuple[Measure, Measure]:
    """The share of pairs in people's order, and that of pairs with equal scores."""
    common: dict[str, Any] = {"scale": (0, 1), "scores": scores, "digits": 3}
    return (
        Measure(
            name="pair_accuracy",
            heading="pair accuracy",
            statistic=pair_accuracy,
            is_tested=is_tested,
            **common,
        ),
        Measure(name="pair_ties", heading="tied pairs (share)", statistic=pair_ties, **common),
    )


TABLE = Definition(
    name="pairs",
    task="rubrics",
    title="Pairs: judges of single answers, agreement with preferences",
    systems=("vanilla", "metrics", "checklist", "spct", "rrd", "spri"),
    measures=pair_measures(scores, is_tested=True),
    baselines={"vanilla": "*"},
    coverage={"scored": ("pair_accuracy",)},
    notes=(
        "Pairs: two answers to one instruction, of which one has more votes; a tie of scores is not right.",
        "A pair with a score that could not be read is left out.",
    ),
)


def main(argv: list[str]) -> int:
    """Run and write the table; 1 if examples failed.

    Raises:
        SpriError: see `command.run`.
    """
    return command.run(TABLE, argv)
