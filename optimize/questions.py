"""Questions of TruthfulQA for the recipe `truthful`: files to choose and to report on, none to make seeds of.

    python -m optimize.questions            writes runs/truthful/validation.jsonl and runs/truthful/test.jsonl

The test questions are those that `python -m benchmarks truthful --questions 50 --answers 2` judges; validation has
others, none of them like one of the test or of the recipe's own training rows. Categories are left out: of forty, most
have a question or two, and a correlation by group needs more. What is written stays out of the repository.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import truthful
from optimize.made_up import FOLDER, write
from spri_dspy.errors import SpriError
from spri_dspy.leaks import Text, find_leaks
from spri_dspy.tasks import Example, load_task

TRAIN = FOLDER / "truths.jsonl"
"""The recipe's own training rows."""


def sets(
    examples: Sequence[Example],
    train: Sequence[Example],
    *,
    validation: int = 80,
    test: int = 50,
    answers: int = 2,
    seed: int = 0,
) -> dict[str, list[dict]]:
    """Rows of the rubrics task, by split: as many true answers as false ones to each question.

    Args:
        examples: of the data, with human scores.
        train: whose questions are kept out of validation.
        validation: questions, half to search on and half to decide on.
        test: questions.
        answers: to each; an even number.
        seed: chooses.

    Raises:
        UsageError: a number is wrong.
        DataError: there are too few questions.
    """
    tested = list(truthful.chosen(examples, test, answers, random.Random(seed)))
    taken = [Text(row["id"], row["instruction"], "test") for row in tested]
    taken += [Text(e.id, e.input_values["instruction"], "train") for e in train]
    theirs = {e.cluster: Text(str(e.cluster), e.input_values["instruction"], "data") for e in examples}
    alike = {leak.right.id for leak in find_leaks(taken, theirs.values())}
    others = [e for e in examples if e.cluster not in alike]
    rows = {
        "validation": list(truthful.chosen(others, validation, answers, random.Random(seed))),
        "test": tested,
    }
    return {name: [{**row, "category": None} for row in part] for name, part in rows.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write both files; 2 if the data or a number cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m optimize.questions", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add(
        "--data",
        default="truthfulqa",
        help="as for spri run (default truthfulqa: the folder SPRI_DATA, or the hub)",
    )
    add(
        "--folder",
        type=Path,
        default=Path("runs/truthful"),
        help="where the files go (default runs/truthful)",
    )
    add(
        "--validation",
        type=int,
        default=80,
        metavar="N",
        help="questions to search and to decide on (default 80)",
    )
    add("--test", type=int, default=50, metavar="N", help="questions to report on (default 50)")
    options = parser.parse_args(argv)
    task = load_task("rubrics")
    try:
        found = sets(
            list(task.examples(options.data)),
            list(task.examples(TRAIN)),
            validation=options.validation,
            test=options.test,
        )
    except SpriError as error:
        sys.stderr.write(f"optimize.questions: {error}\n")
        return error.exit_code
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        write(options.folder / f"{name}.jsonl", rows)
        sys.stdout.write(f"{options.folder / name}.jsonl: {len(rows)} questions\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
