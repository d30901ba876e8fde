"""Table 1: systems that answer a troubled post, judged for alignment, empathy, harm and factuality.

    python -m benchmarks reappraisal --lm base=openai/gpt-4o-mini --lm judge=openai/gpt-4o?temperature=0.1

Source: paper.md section 2, task 1. The published judge was GPT-4-0613 at temperature 0.1.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import command
from benchmarks.grid import Cell
from benchmarks.tables import Definition, Measure
from spri_dspy.metrics.set_level import mean, share
from spri_dspy.records import Score


def _criterion(name: str) -> Callable[[Cell], list[Score]]:
    return lambda cell: cell.scores(name)


TABLE = Definition(
    name="reappraisal",
    title="Table 1: cognitive reappraisal",
    systems=("vanilla", "self_refine", "spri", "oracle_principles"),
    judge="reappraisal",
    measures=(
        Measure(
            name="alignment",
            heading="alignment (1-10)",
            scale=(1, 10),
            scores=_criterion("alignment"),
            statistic=mean,
            is_tested=True,
        ),
        Measure(
            name="empathy",
            heading="empathy (1-5)",
            scale=(1, 5),
            scores=_criterion("empathy"),
            statistic=mean,
            is_tested=True,
        ),
        Measure(
            name="harmful",
            heading="harmful (share)",
            scale=(0, 1),
            scores=_criterion("harmful"),
            statistic=share,
        ),
        Measure(
            name="factuality",
            heading="factuality (0-1)",
            scale=(0, 1),
            scores=_criterion("factuality"),
            statistic=mean,
        ),
    ),
    baselines={"vanilla": "*", "self_refine": "†"},
    coverage={"judged": ("alignment", "empathy", "harmful", "factuality")},
    published=lambda entry: entry,
    grouped=("alignment", "dimension", "alignment (1-10)"),
    notes=("Factuality: 1 true, 0.5 a minor error, 0 false. Published: GPT-4-0613 as judge, 30 posts.",),
)


def main(argv: list[str]) -> int:
    """Run, judge, and write the table; 1 if examples failed.

    Raises:
        SpriError: see `command.run`.
    """
    return command.run(TABLE, argv)
