"""Table 2: systems that judge answers, compared with people's scores of the same answers.

    python -m benchmarks rubrics --data hub --lm base=openai/gpt-4o-mini --systems vanilla,mt_bench,spri

Pearson's r per capability, then their plain mean. The systems' own scores are read; no judge is asked. Without
people's scores in the data, the scores are reported and the correlation says so.
Source: paper.md section 2, task 2.
"""

from __future__ import annotations

from benchmarks import command
from benchmarks.grid import Cell
from benchmarks.tables import Definition, Measure
from spri_dspy.metrics.set_level import mean, pearson
from spri_dspy.records import Score


def _scores(cell: Cell) -> list[Score]:
    return cell.scores("score")


TABLE = Definition(
    name="rubrics",
    title="Table 2: judges of answers, agreement with people",
    systems=("vanilla", "self_refine", "mt_bench", "flask", "seed_principles", "spri", "oracle_rubrics"),
    measures=(
        Measure(
            name="agreement",
            heading="Pearson r, mean of capabilities",
            scale=(-1, 1),
            scores=_scores,
            statistic=pearson,
            by="groups",
            digits=3,
            is_tested=True,
        ),
        Measure(
            name="overall",
            heading="Pearson r, all",
            scale=(-1, 1),
            scores=_scores,
            statistic=pearson,
            digits=3,
        ),
        Measure(name="score", heading="mean score (1-5)", scale=(1, 5), scores=_scores, statistic=mean),
    ),
    baselines={"vanilla": "*", "self_refine": "†"},
    coverage={"scored": ("score",), "and labelled": ("overall",)},
    published=lambda figure: {"agreement": figure},
    grouped=("overall", "capability", "Pearson r"),
    notes=(
        "Intervals leave out instances, within capabilities, with all their answers. A human score of -1 is no label.",
        "The paper tests no difference here. Published: 2,780 answers to 695 instances.",
    ),
)


def main(argv: list[str]) -> int:
    """Run and write the table; 1 if examples failed.

    Raises:
        SpriError: see `command.run`.
    """
    return command.run(TABLE, argv)
