"""What is trained on: exports of `spri`, on the same instructions, and nothing of the evaluation set.

It knows rows, records and the leak guard; it knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.finetune.choices import Question
from spri_dspy.errors import DataError, LeakError
from spri_dspy.leaks import N_NAMED, Text, find_leaks
from spri_dspy.runs import RunDir, fingerprint
from spri_dspy.tasks.example import Example

METHODS = ("sft", "dpo")
_COLUMNS = {"sft": ("messages",), "dpo": ("prompt", "chosen", "rejected")}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rows that one adapter is trained on.

    Attributes:
        name: of the row in tables.
        rows: with `prompt` and `completion` (sft), or `prompt`, `chosen` and `rejected` (dpo): lists of
            messages; and `id`, the example in its run, None where a file has none.
        counts: of the run that wrote them: records, accepted (None without a critic), cut_off, degenerate, failed; None
            where only a file is known.
    """

    name: str
    rows: tuple[Row, ...]
    counts: Mapping[str, int | None] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the rows."""
        return fingerprint(list(self.rows))


def read(spec: str, method: str) -> TrainingData:
    """Read `NAME=PATH` or `PATH`: a file that `spri export` wrote as jsonl, or a run that was exported so.

    Args:
        spec: without a name that of the run, or of the file.
        method: one of METHODS; it says which format is meant.

    Raises:
        DataError: it cannot be read, has no rows, or a row is not of the format; names the line.
    """
    name, _, path = spec.rpartition("=")
    place = Path(path)
    if place.is_dir():
        run, place = place, place / "exports" / f"{method}-jsonl" / f"{method}.jsonl"
        if not place.is_file():
            raise DataError(f"{place} is not there; write it with `spri export {run} --format {method}`")
    run = place.parents[2] if place.parent.parent.name == "exports" else None
    counts = _counts(RunDir.read(run)) if run and (run / "manifest.json").is_file() else None
    return TrainingData(name or (run.name if run else place.stem), tuple(_rows_of(place, method)), counts)


def _counts(run: RunDir) -> Mapping[str, int | None]:
    found: dict[str, int] = dict.fromkeys(("records", "failed", "accepted", "cut_off", "degenerate"), 0)
    has_critic = False
    for record in run.records():
        reason = record.stop_reasons.get("response")
        has_critic = has_critic or reason is not None
        found["records"] += 1
        found["failed"] += not record.ok
        found["accepted"] += reason == "accepted"
        found["cut_off"] += any(flag.startswith("truncated:") for flag in record.flags)
        found["degenerate"] += any(flag.startswith("degenerate:") for flag in record.flags)
    return {**found, "accepted": found["accepted"] if has_critic else None}


def _rows_of(path: Path, method: str) -> list[Row]:
    rows: list[Row] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_shaped(json.loads(line), method))
        except (ValueError, KeyError, TypeError, IndexError):
            needed = ", ".join(_COLUMNS[method])
            raise DataError(
                f"{path}, line {number}: no row of spri export --format {method}; it needs {needed}"
            ) from None
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def _shaped(row: Mapping[str, Any], method: str) -> Row:
    """The row as trl's trainers take it: what is learned apart from what it answers."""
    talks = {
        name: [{part: str(message[part]) for part in ("role", "content")} for message in row[name]]
        for name in _COLUMNS[method]
    }
    if method == "sft":
        *asked, answer = talks["messages"]
        if not asked or answer["role"] != "assistant":
            raise ValueError("it does not end in an answer")
        talks = {"prompt": asked, "completion": [answer]}
    return {"id": row.get("id"), **talks}


def on_the_same(data: Sequence[TrainingData]) -> list[TrainingData]:
    """Every data set with only those examples that all of them have, in one order; as they are if ids are missing.

    Raises:
        DataError: they have no example in common.
    """
    ids = [[row["id"] for row in each.rows] for each in data]
    if len(data) < 2 or any(None in each or len(set(each)) < len(each) for each in ids):
        return list(data)
    shared = set.intersection(*map(set, ids))
    if not shared:
        raise DataError(
            f"{', '.join(each.name for each in data)} have no example in common; name one --data a call"
        )
    order = sorted(shared)
    by_id = [{row["id"]: row for row in each.rows} for each in data]
    return [replace(d, rows=tuple(rows[name] for name in order)) for d, rows in zip(data, by_id, strict=True)]


def asked(row: Row) -> str:
    """What a row's answer answers."""
    return "\n\n".join(message["content"] for message in row["prompt"])


def refuse_leaks(data: Sequence[TrainingData], questions: Sequence[Question], source: str) -> None:
    """Refuse rows whose prompt or answer holds a question that the tuned model is scored on.

    Raises:
        LeakError: names the first of them.
    """
    for each in data:
        texts = [Text(str(row["id"] or number), text, each.name) for number, row in enumerate(each.rows, 1)
                 for text in (asked(row), _answer(row))]  # fmt: skip
        leaks = find_leaks([Text(q.id, q.text, source) for q in questions], texts)
        if leaks:
            named = "; ".join(map(str, leaks[:N_NAMED]))
            raise LeakError(
                f"leak: {len(leaks)} of the training texts of {each.name} match evaluation questions: {named}. "
                "Remove these rows; nothing that a model is scored on is trained on"
            )


def _answer(row: Row) -> str:
    return "\n\n".join(
        m["content"] for name in ("completion", "chosen", "rejected") for m in row.get(name, ())
    )


def without_trained(held: Sequence[Example], data: Sequence[TrainingData]) -> list[Example]:
    """Held-out examples whose instruction is not in any of the training data."""
    seen = {asked(row): str(row["id"]) for each in data for row in each.rows}
    leaks = find_leaks(
        [Text(name, text, "training data") for text, name in seen.items()],
        [
            Text(example.id, "\n\n".join(map(str, example.input_values.values())), "held out")
            for example in held
        ],
    )
    leaked = {leak.right.id for leak in leaks}
    return [example for example in held if example.id not in leaked]
