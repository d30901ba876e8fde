"""Small runs to export, and how their exports are read back."""

import json

import yaml

from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.records import Record, Round, Verdict
from spri_dspy.runs import RunDir

PROMPT = "Name a quiet bird.\n\nIt lives in a reed bed."


def make_record(name="a", *scores, texts=None, response=None, reason="accepted", **more):
    """A finished example whose response stage had these scores; the candidates are "draft 1", "draft 2", ..."""
    texts = texts or [f"draft {n}" for n in range(1, len(scores) + 1)]
    rounds = [
        Round("response", text, Verdict("why", score)) for text, score in zip(texts, scores, strict=True)
    ]
    given = {
        "inputs": {"instruction": PROMPT},
        "outputs": {"principles": "Be kind.", "response": response or (texts or ["an answer"])[-1]},
        "stop_reasons": {"response": reason} if reason else {},
        "trace": tuple(rounds),
    }
    return Record(id=name, **{**given, **more})


def make_run(folder, *records, **manifest):
    with RunDir.create(folder, {"task": "sft", "system": "spri", "seed": 0, **manifest}) as run:
        for record in records:
            run.append(record)
    return RunDir.read(folder)


def run_offline(folder, **request):
    planned = plan(RunRequest(**request))
    with planned.open(folder) as run:
        planned.execute(run)
    return RunDir.read(folder)


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def card_of(path):
    """A card's header, its text, and the rows of its tables by their first cell."""
    text = path.read_text("utf-8")
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    cells = [
        [c.strip() for c in line.strip("|").split(" | ")] for line in body.splitlines() if line[:1] == "|"
    ]
    return yaml.safe_load(header), body, {row[0]: row[1:] for row in cells}
