"""Table 3: systems that write training data, how much of it their critic accepts, and what a judge says of it.

    python -m benchmarks sft --data FILE --lm base=openai/gpt-4o-mini --lm judge=openai/gpt-4o

The published figures are of models tuned on such data (TruthfulQA MC2). Nothing is tuned here: they stand in a table
of their own for reference, and the notes say which commands tune a model and score it.
Source: paper.md section 2, task 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import command
from benchmarks.grid import Cell
from benchmarks.published import SFT_SYSTEMS, published, published_sets
from benchmarks.sections import Section
from benchmarks.tables import Definition, Measure, Table
from spri_dspy.metrics.set_level import mean, share
from spri_dspy.records import Score


def _score(cell: Cell) -> list[Score]:
    return cell.scores("score")


def _accepted(cell: Cell) -> list[Score]:
    """1 where the critic accepted the response; no value where the system has no critic, or failed."""
    reasons = {r.id: r.stop_reasons.get("response") for r in cell.records()}
    return [
        Score(e.id, None if reasons.get(e.id) is None else float(reasons[e.id] == "accepted"), None, e.group)
        for e in cell.examples.values()
    ]


def _published(table: Table) -> list[Section]:
    models = [model["names"][0] for model in published()["sft"]]
    section = Section(
        "published",
        "Published, for reference: TruthfulQA MC2 (%) of the tuned model, Dolly / MixInstruct",
        ("system", *models),
    )
    for name, row in published_sets().items():
        cells = [" / ".join(dict.fromkeys(row[model])) for model in models]
        section.rows.append((name, *cells))
        section.results.append({"system": name, "mc2": {model: list(row[model]) for model in models}})
    section.notes.extend(commands(table.entries[-1].cell))
    return [section]


def commands(cell: Cell) -> Sequence[str]:
    """What turns a run into such a figure; nothing of it is run here."""
    return (
        "No model was tuned for this output. To get such a figure for a run:",
        f"1. spri export {cell.path} --format sft",
        f"2. python -m benchmarks sft_tune --data {cell.path}/exports/sft-jsonl/sft.jsonl --base MODEL --out TUNED",
    )


TABLE = Definition(
    name="sft",
    title="Table 3: synthetic data for fine-tuning",
    systems=SFT_SYSTEMS,
    judge="generic",
    measures=(
        Measure(
            name="score",
            heading="judge's score (1-5)",
            scale=(1, 5),
            scores=_score,
            statistic=mean,
            is_tested=True,
        ),
        Measure(
            name="accepted",
            heading="accepted by the critic (share)",
            scale=(0, 1),
            scores=_accepted,
            statistic=share,
            without="no critic",
        ),
    ),
    baselines={"direct": "*", "self_refine": "†"},
    coverage={"judged": ("score",)},
    notes=(
        "The judge's score says how well the responses answer; it is no measure of a model that was tuned on them.",
        "Accepted: the system's own critic gave the response the score that ends the loop; others have no critic.",
    ),
    more=_published,
)


def main(argv: list[str]) -> int:
    """Run, judge, and write the tables; 1 if examples failed.

    Raises:
        SpriError: see `command.run`.
    """
    return command.run(TABLE, argv)
