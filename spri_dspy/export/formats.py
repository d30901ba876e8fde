"""A run's results as data for other tools: rubrics to judge with, chat rows and preference pairs to train on.

Rows go out as they are read, so memory holds one batch whatever the run's size; the output is there whole or not
at all, and a data card stands beside it (see `cards`). Every record without a row is counted with the reason.

It knows records and formats. It judges nothing: which response is better is what the run's critic said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.export import hub
from spri_dspy.export.card import About, Tally, candidates, card, public_lms
from spri_dspy.export.writer import output
from spri_dspy.records import Record
from spri_dspy.runs import RunDir
from spri_dspy.strict_json import to_text

_PROMPT = "one user message: the inputs of the task, one after another, without principles and labels"

ABOUT = {
    "rubrics": About(
        "rubrics",
        "Rubrics for one instruction each",
        "For every instruction one rubric to score answers to it by: criteria and a description of each score from "
        "1 to 5, drafted for this very instruction and refined by a critic's feedback. All answers to an "
        "instruction are meant to be judged by the same rubric.",
        {
            "format": "name and version of this format",
            "id": "the instance; its answers share it",
            "instruction": "what was asked",
            "capability": "the instance's group, if it has one",
            "rubric": "`criteria` and `score1_description` to `score5_description`",
            "hash": "of the rubric; a rubric changed by hand no longer fits it and is refused",
            "program": "hash of the program that wrote the rubric: prompts, seeds and loop settings",
            "lms": "LMs by role",
        },
        "spri run rubrics --data YOUR_ANSWERS.jsonl --rubrics {file}",
    ),
    "sft": About(
        "sft",
        "Chat rows for supervised fine-tuning",
        "One conversation of one turn a row: an input, and a response that was written to follow principles made "
        "for this very input where the system makes any. Trainers read `messages` as it is.",
        {
            "id": "the example in its run",
            "messages": f"{_PROMPT}; one assistant message: the response",
            "principles": "what the response was to follow; null if the system makes none",
            "stop_reason": "how the response's loop ended; null without a critic",
            "score": "the critic's score of the response, 1 to 5; null if there is none",
        },
    ),
    "dpo": About(
        "dpo",
        "Preference pairs: refined over first draft",
        "One pair of responses to an input a row: the one that stands after critique and refinement, over its own "
        "first draft. There is a pair only where the critic scored the former strictly higher.",
        {
            "id": "the example in its run",
            "prompt": _PROMPT,
            "chosen": "one assistant message: the response that stands",
            "rejected": "one assistant message: the first draft",
            "score_chosen": "the critic's score of the former, 1 to 5",
            "score_rejected": "the critic's score of the latter, 1 to 5",
            "margin": "the difference, at least 1",
        },
    ),
}
"""The formats, by name."""

FORMATS = tuple(ABOUT)


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        format: one of FORMATS.
        path: the file, or the folder in the hub's layout.
        card: its data card.
        tally: counts over the run's records.
        url: where it was pushed to; None if it was not.
    """

    format: str
    path: Path
    card: Path
    tally: Tally
    url: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        named = {"format": self.format, "path": str(self.path), "card": str(self.card)}
        return named | self.tally.to_json() | ({"url": self.url} if self.url else {})

    def lines(self) -> Iterator[str]:
        """The same for people."""
        counts = self.tally
        rows, records = _counted(counts.exported, "row"), _counted(counts.records, "record")
        yield f"{rows} from {records}: {self.path}"
        if counts.dropped:
            yield "without a row: " + _reasons(counts)
        yield f"data card: {self.card}"
        if self.url:
            yield f"pushed to {self.url} (private where it is new)"


def export_run(
    run: RunDir,
    format: str,
    *,
    to: str | None = None,
    out: Path | None = None,
    include_all: bool = False,
    fresh: bool = False,
) -> Export:
    """Write a run's results in a format, with a data card.

    Args:
        run: opened for reading; it may still be running, and then what is finished goes out.
        format: one of FORMATS.
        to: "jsonl", "parquet", "hf:DIR" (a local folder in the hub's layout; nothing is uploaded) or
            "hub:USER/NAME" (such a folder, in the run's own folder `exports`, pushed to the Hugging Face hub; a data
            set that is new is private). By default what `out` ends in, else jsonl.
        out: the file; by default one named after the format in the run's own folder `exports`.
        include_all: responses that were not accepted too (format sft).
        fresh: replace an earlier export that is there.

    Raises:
        UnknownNameError: no such format or target.
        UsageError: there is nothing to export, or the output cannot be written or would replace something else.
        PrerequisiteError: there is no token for the hub, or it does not take the data; the folder stays.
    """
    if format not in FORMATS:
        raise UnknownNameError("export format", format, FORMATS)
    if include_all and format != "sft":
        raise UsageError(f"--all is for --format sft; {format} leaves out no response for not being accepted")
    name = hub.check(to.removeprefix("hub:")) if to is not None and to.startswith("hub:") else None
    to = f"hf:{run.path / 'exports' / format}-hub" if name else to
    place = output(to, out, run.path / "exports" / format)
    place.refuse_what_is_there(fresh or name is not None)
    tally = Tally(by_instance=format == "rubrics")
    rows = _rows(run, _maker(run, format, include_all), tally)
    first = next(rows, None)
    if first is None:
        raise UsageError(_nothing(run, format, tally))
    place.write(
        chain([first], rows),
        _schema(format, public_lms(run.manifest)) if place.is_parquet else None,
        lambda: card(run.manifest, tally, ABOUT[format], place.file),
    )
    url = hub.push(place.path, name) if name else None
    return Export(format, place.path, place.card, tally, url)


Made = dict[str, Any] | str
"""A row, or in words why a record has none."""


def chat_row(record: Record, *, include_all: bool = False) -> Made:
    """A conversation of one turn: the inputs, and the response that stands.

    Args:
        record: any; of a system without a critic every finished response counts as accepted.
        include_all: take responses that the critic did not accept.
    """
    response = _response(record)
    if response is None:
        return _no_response(record)
    reason = record.stop_reasons.get("response")
    if reason not in (None, "accepted") and not include_all:
        return f"response {reason}"
    principles = record.outputs.get("principles")
    return {
        "id": record.id,
        "messages": [*_prompt(record), _said(response)],
        "principles": None if principles is None else _text(principles),
        "stop_reason": reason,
        "score": _score(record, response),
    }


def preference_pair(record: Record) -> Made:
    """The response that stands over the first draft, where the critic gave it a strictly higher score."""
    response = _response(record)
    if response is None:
        return _no_response(record)
    judged = candidates(step for step in record.trace if step.stage == "response")
    if not judged:
        return "response without a critique"
    if len(judged) == 1:
        return "response not refined"
    draft, below = judged[0][-1]
    above = _score(record, response)
    if below is None or above is None:
        return "no readable score"
    if above <= below or draft == response:
        return "refined, but not scored higher"
    return {
        "id": record.id,
        "prompt": _prompt(record),
        "chosen": [_said(response)],
        "rejected": [_said(draft)],
        "score_chosen": above,
        "score_rejected": below,
        "margin": above - below,
    }


def _response(record: Record) -> str | None:
    response = record.outputs.get("response") if record.ok else None
    return response if isinstance(response, str) and response.strip() else None


def _no_response(record: Record) -> str:
    if not record.ok:
        return "failed"
    return "response is no text" if record.outputs.get("response") else "no response"


def _score(record: Record, response: str) -> int | None:
    """The critic's score of the response that stands; None if that very text was never given one."""
    judged = candidates(step for step in record.trace if step.stage == "response")
    found = [score for samples in judged for text, score in samples if text == response and score is not None]
    scores = record.outputs.get("scores")
    stated = scores.get("response") if isinstance(scores, Mapping) else None
    return stated if stated in found else max(found, default=None)


def _prompt(record: Record) -> list[dict[str, str]]:
    """The inputs as one message, without what a model in use would not be given: principles and labels."""
    hidden = {"principles", *record.labels}
    shown = [_text(value) for name, value in record.inputs.items() if name not in hidden]
    return [{"role": "user", "content": "\n\n".join(shown)}]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_text(value)


def _said(response: str) -> dict[str, str]:
    return {"role": "assistant", "content": response}


def _maker(run: RunDir, format: str, include_all: bool) -> Callable[[Record], Made]:
    """What makes the row of a record."""
    if format == "sft":
        return lambda record: chat_row(record, include_all=include_all)
    return preference_pair if format == "dpo" else _rubric_maker(run.manifest)


def _rubric_maker(manifest: Mapping[str, Any]) -> Callable[[Record], Made]:
    """One rubric an instance: the first that finished."""
    from spri_dspy.tasks.rubrics import export_row

    seen: dict[str, str] = {}
    lms, program = public_lms(manifest), str(manifest.get("program"))

    def make(record: Record) -> Made:
        row = export_row(record, program=program, lms=lms)
        if row is None:
            return "no rubric" if record.ok else "failed"
        if row["id"] not in seen:
            seen[row["id"]] = row["hash"]
            return row
        is_same = seen[row["id"]] == row["hash"]
        return "shares its instance's row" if is_same else "has another rubric than its instance's row"

    return make


def _rows(run: RunDir, make: Callable[[Record], Made], tally: Tally) -> Iterator[dict[str, Any]]:
    """The rows of a run's records; the tally is complete when they are."""
    for record in run.records():
        made = make(record)
        tally.add(record, made if isinstance(made, str) else None)
        if not isinstance(made, str):
            yield _encodable(made)


def _encodable(value: Any) -> Any:
    """The value with halves of surrogate pairs, which no UTF-8 file can hold, as replacement characters."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: _encodable(part) for name, part in value.items()}
    return [_encodable(part) for part in value] if isinstance(value, list) else value


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _reasons(tally: Tally) -> str:
    return ", ".join(f"{reason} ({n})" for reason, n in tally.dropped.most_common())


_HINTS = {
    "response exhausted": "--all exports them too",
    "response unscored": "--all exports them too",
    "response is no text": "--format rubrics exports this run's rubrics",
    "no rubric": "--format rubrics is for runs of the task rubrics",
    "response not refined": "a pair needs a response that was refined",
    "refined, but not scored higher": "a pair needs a refinement that the critic scored higher",
    "response without a critique": "a pair needs a critic's scores; run spri",
    "failed": "run the same command with --retry-errors first",
}


def _nothing(run: RunDir, format: str, tally: Tally) -> str:
    """Why an export is empty, and what to do."""
    if not tally.records:
        return f"nothing to export: {run.path} has no finished example yet"
    said = f"nothing to export as {format} from {run.path}: every record is left out, {_reasons(tally)}"
    hints = dict.fromkeys(_HINTS[reason] for reason, _ in tally.dropped.most_common() if reason in _HINTS)
    return "; ".join([said, *hints])


def _schema(format: str, roles: Iterable[str]) -> Any:
    """Types of a format's columns, so that a batch of nulls fits the next batch."""
    import pyarrow as arrow

    from spri_dspy.tasks.rubrics import Rubric

    text, number = arrow.string(), arrow.int64()
    talk = arrow.list_(arrow.struct([("role", text), ("content", text)]))
    types = {
        "messages": talk,
        "prompt": talk,
        "chosen": talk,
        "rejected": talk,
        "rubric": arrow.struct([(name, text) for name in Rubric.model_fields]),
        "lms": arrow.struct([(role, text) for role in (*roles,) or ("base",)]),
        **dict.fromkeys(("score", "score_chosen", "score_rejected", "margin"), number),
    }
    return arrow.schema([(name, types.get(name, text)) for name in ABOUT[format].columns])
