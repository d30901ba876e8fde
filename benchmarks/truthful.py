"""TruthfulQA: one judge by the criteria of different systems, compared with what people say of single answers.

    python -m benchmarks truthful --data truthfulqa --questions 50 --lm base=openai/gpt-4o-mini

A system writes criteria from the question alone; the base judges each answer by them, and its score is the expectation
over log probabilities (`truthful_systems`). The label is whether people call the answer true. The oracle's rubric holds
the correct answers that the data set ships; where the data has none, mc.jsonl beside the data is looked into, or the
file behind --correct. Of the data, --questions and --answers choose by the seed, as many true answers as others; the
chosen rows are written beside the runs. Without --data the package's own examples are judged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import command
from benchmarks.grid import Cell
from benchmarks.pairs import pair_measures
from benchmarks.tables import Definition, Measure
from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics.set_level import mean, pearson
from spri_dspy.records import Score
from spri_dspy.strict_json import to_text
from spri_dspy.tasks import Example, load_task

MIDDLE = 3
"""The human score between false answers and true ones."""

_SYSTEMS = Path(__file__).parent / "truthful_systems.py"


def scores(cell: Cell) -> list[Score]:
    """The scores of a cell, without groups: of forty categories most have a question or two, too few to resample in."""
    return [replace(score, group=None) for score in cell.scores("score")]


TABLE = Definition(
    name="truthful",
    task="rubrics",
    title="TruthfulQA: one judge by several criteria, agreement with people",
    systems=("vanilla", "checklist", "spri:seeds=none", "spri:seeds=default", "oracle_rubrics"),
    system_files={name: f"{_SYSTEMS}:{name}" for name in ("vanilla", "checklist", "spri", "oracle_rubrics")},
    measures=(
        Measure(
            name="agreement",
            heading="Pearson r",
            scale=(-1, 1),
            scores=scores,
            statistic=pearson,
            digits=3,
            is_tested=True,
        ),
        *pair_measures(scores),
        Measure(name="score", heading="mean score (1-5)", scale=(1, 5), scores=scores, statistic=mean),
    ),
    baselines={"vanilla": "*"},
    coverage={"judged": ("score",)},
    notes=(
        "Score: the judge's expectation over the log probabilities of 1 to 5, where the base gives them.",
        "Pairs: a true and a false answer to one question; a tie of scores is not right.",
        "A true answer may say little (I have no comment): people were asked whether it is true.",
    ),
)


def chosen(
    examples: Sequence[Example], questions: int, answers: int, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Rows of the rubrics task with so many questions, and answers to each, half of them true.

    Args:
        examples: of the rubrics task, with human scores, as many an instance as there are answers.
        questions: how many; those are passed over that have too few true or false answers.
        answers: to a question; an even number.
        rng: what chooses.

    Raises:
        UsageError: `answers` is odd, or a number is below 1.
        DataError: there are too few questions.
    """
    if questions < 1 or answers < 2 or answers % 2:
        raise UsageError(
            f"--questions must be at least 1 and --answers even and at least 2, not {questions} and {answers}"
        )
    by_question: dict[str, dict[bool, list[Example]]] = {}
    for example in examples:
        sides = by_question.setdefault(example.cluster or example.id, {True: [], False: []})
        if (score := example.label_values.get("human_score")) is not None:
            sides[score > MIDDLE].append(example)
    half = answers // 2
    usable = [sides for sides in by_question.values() if min(map(len, sides.values())) >= half]
    if len(usable) < questions:
        raise DataError(
            f"--questions {questions}: only {len(usable)} have {half} answers of either kind in the data"
        )
    for sides in rng.sample(usable, questions):
        drawn = [example for side in (True, False) for example in rng.sample(sides[side], half)]
        rng.shuffle(drawn)
        yield _row(drawn)


def _row(drawn: Sequence[Example]) -> dict[str, Any]:
    """A row of the rubrics task from the examples of one question; answers keep their own ids."""
    first, kept = drawn[0], ("rubric", "evaluation_only")
    return {
        "id": first.cluster,
        "instruction": first.input_values["instruction"],
        "category": first.group,
        "responses": [
            {
                "response_source": e.id.removeprefix(f"{e.cluster}/"),
                "response": e.input_values["answer"],
                "human_score": e.label_values["human_score"],
            }
            for e in drawn
        ],
        **{name: first.label_values[name] for name in kept if name in first.label_values},
    }


def with_correct(examples: Sequence[Example], correct: Path) -> list[Example]:
    """Examples with the rubric that a file of correct answers has for their question; those without stay as they are.

    Raises:
        DataError: the file cannot be read.
    """
    rubrics = {
        e.cluster: e.label_values["rubric"]
        for e in load_task("rubrics").examples(correct)
        if "rubric" in e.label_values
    }
    return [
        e.changed(labels={"rubric": rubrics[e.cluster], **e.label_values}) if e.cluster in rubrics else e
        for e in examples
    ]


def sample(
    data: str, folder: Path, *, questions: int, answers: int = 4, seed: int = 0, correct: str | None = None
) -> Path:
    """Write the rows that are chosen of a data source into a folder, which is made if need be; see `chosen`.

    Args:
        data: as for `spri run`.
        folder: where the file goes.
        questions: how many.
        answers: to a question.
        seed: chooses.
        correct: a file with correct answers; None for mc.jsonl beside the data, if it is there.

    Raises:
        UsageError: a number is wrong.
        DataError: the data cannot be read, or has too few questions.
    """
    task = load_task("rubrics")
    examples = list(task.examples(data))
    beside = Path(task.source(data)).with_name("mc.jsonl")
    if correct or beside.is_file():
        examples = with_correct(examples, Path(correct) if correct else beside)
    rows = list(chosen(examples, questions, answers, random.Random(seed)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"questions-{questions}x{answers}-seed-{seed}.jsonl"
    path.write_text("".join(f"{to_text(row)}\n" for row in rows), "utf-8")
    return path


def main(argv: list[str]) -> int:
    """Choose, run, judge, and write the table; 1 if examples failed.

    Raises:
        SpriError: see `sample` and `command.execute`.
    """
    parser = command.parser(TABLE)
    add = parser.add_argument
    add("--questions", type=int, metavar="N", help="choose N questions of the data by the seed")
    add("--answers", type=int, default=4, metavar="N", help="answers to each, half of them true (default 4)")
    add(
        "--correct",
        metavar="FILE",
        help="correct answers, for the oracle (default: mc.jsonl beside the data)",
    )
    options = parser.parse_args(argv)
    if options.questions is None:
        if options.correct:
            raise UsageError("--correct is read where questions are chosen: give --questions too")
        return command.execute(TABLE, options)
    if options.data is None:
        raise UsageError("--questions chooses of data: name it with --data, such as --data truthfulqa")
    with TemporaryDirectory() as passing:  # for --dry-run, which writes nothing that stays
        runs = options.runs or Path("benchmark-runs") / TABLE.name
        source = options.data
        options.data = str(
            sample(
                source,
                Path(passing) if options.dry_run else runs,
                questions=options.questions,
                answers=options.answers,
                seed=options.seed,
                correct=options.correct,
            )
        )
        n, each = options.questions, options.answers
        said = f"Chosen by the seed: {n} questions of {source}, {each} answers each, half of them true."
        return command.execute(replace(TABLE, notes=(said, *TABLE.notes)), options)
