"""The examples of a run as a page holds them: a row to filter and sort, and all that opening one shows.

Texts stand in a Store and are named by number here. It knows records and kept calls, no HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.progress import flagged
from spri_dspy.records import Record, Round
from spri_dspy.report.calls import kept_calls
from spri_dspy.report.figures import LABEL, is_judged
from spri_dspy.report.html.subject import Subject, judge_name
from spri_dspy.report.html.texts import Cleaner, Store, words
from spri_dspy.runs import CALLS, RunDir

_START = 160
"""Characters of an answer that stand in the table."""


def examples_of(subject: Subject, ids: set[str], store: Store, *, whole: bool) -> list[dict[str, Any]]:
    """The examples with these ids, in the order in which they finished.

    Args:
        subject: the run.
        ids: whose examples.
        store: where their texts go.
        whole: keep every text as long as it is.
    """
    cleaner = subject.cleaner(whole)
    judged = [_Judged(run, ids, cleaner, store) for run in subject.judged]
    calls = _calls(subject.run, ids, cleaner, store)
    return [
        _example(record, judged, calls.get(record.id, []), cleaner, store)
        for record in subject.run.records(ids=ids)
    ]


class _Judged:
    """The numbers of one judged run, by example."""

    def __init__(self, run: RunDir, ids: set[str], cleaner: Cleaner, store: Store) -> None:
        self.name = cleaner.message(judge_name(run))
        self._rows = {record.id: _readings(record, cleaner, store) for record in run.records(ids=ids)}

    def of(self, example_id: str) -> list[dict[str, Any]]:
        return [{"judge": self.name, **row} for row in self._rows.get(example_id, [])]


def _readings(record: Record, cleaner: Cleaner, store: Store) -> list[dict[str, Any]]:
    """The judge's number for each criterion, and what it said."""
    if record.error is not None:
        return [{"criterion": "", "value": None, "said": [store.add(cleaner.message(record.error))]}]
    scores, details = record.outputs.get("scores"), record.outputs.get("details")
    rows: list[dict[str, Any]] = []
    for criterion, value in scores.items() if isinstance(scores, Mapping) else ():
        detail = details.get(criterion) if isinstance(details, Mapping) else None
        readings = detail.get("readings") if isinstance(detail, Mapping) else None
        said = [r.get("feedback") for r in readings or () if isinstance(r, Mapping) and r.get("feedback")]
        row = {"criterion": cleaner.text(criterion), "value": _number(value)}
        rows.append({**row, "said": [store.add(cleaner.text(text)) for text in said]})
    return rows


def _example(
    record: Record,
    judged: Sequence[_Judged],
    calls: list[dict[str, Any]],
    cleaner: Cleaner,
    store: Store,
) -> dict[str, Any]:
    own = record.outputs.get("response")
    judgements = [row for each in judged for row in each.of(record.id)]
    if isinstance(own, Mapping) and "score" in own:
        judgements.insert(
            0, {"judge": "this run", "criterion": "score", "value": _number(own["score"]), "said": []}
        )
    rounds = list(_trace(record.trace, cleaner, store))
    answer = record.error or words(own or next(iter(record.outputs.values()), ""))
    shown = cleaner.message if record.error else cleaner.text
    return {
        "id": cleaner.text(record.id),
        "group": cleaner.text(record.group or ""),
        "stops": {cleaner.text(stage): str(reason) for stage, reason in record.stop_reasons.items()},
        "path": {cleaner.text(stage): path for stage, path in _paths(record).items()},
        "refined": any(step["kind"] == "refined" for step in rounds),
        "flags": [cleaner.message(flagged(flag)) for flag in record.flags],
        "error": cleaner.message(record.error) if record.error else None,
        "start": " ".join(shown(answer)[: 4 * _START].split())[:_START],
        "judged": judgements,
        "people": _people(record, cleaner),
        "inputs": _fields(record.inputs, cleaner, store),
        "outputs": [] if is_judgement_only(record) else _fields(record.outputs, cleaner, store),
        "labels": _fields({k: v for k, v in record.labels.items() if k != LABEL}, cleaner, store),
        "trace": rounds,
        "failure": _failure(record, cleaner, store),
        "calls": calls,
        "usage": _usage(record, cleaner),
    }


def is_judgement_only(record: Record) -> bool:
    """True for a record of a judged run, whose outputs are numbers that stand in a table of their own."""
    return isinstance(record.outputs.get("scores"), Mapping)


def _fields(values: Mapping[str, Any], cleaner: Cleaner, store: Store) -> list[tuple[str, int]]:
    """Names and texts; what is empty is left out."""
    texts = ((name, words(value)) for name, value in values.items())
    return [(cleaner.text(name), store.add(cleaner.text(text))) for name, text in texts if text.strip()]


def _trace(rounds: Iterable[Round], cleaner: Cleaner, store: Store) -> Iterator[dict[str, Any]]:
    """Each critique: of a draft, a refinement, the same text once more, or asked again."""
    rounds = list(rounds)
    for before, step in pairwise([None, *rounds]):
        assert step is not None
        if before is None or before.stage != step.stage:
            kind = "draft"
        elif step.attempt:
            kind = "again"
        else:
            kind = "same" if step.candidate == before.candidate else "refined"
        found = {
            "stage": cleaner.text(step.stage),
            "kind": kind,
            "text": store.add(cleaner.text(step.candidate)),
        }
        if step.verdict is not None:
            found["score"] = _number(step.verdict.score)
            found["feedback"] = store.add(cleaner.text(step.verdict.feedback or ""))
        yield found


def _paths(record: Record) -> dict[str, str]:
    """The critic's scores of each stage in order: "3›4"."""
    scores: dict[str, list[str]] = {}
    for step in record.trace:
        if step.verdict is not None:
            score = step.verdict.score
            scores.setdefault(step.stage, []).append("?" if score is None else str(score))
    return {stage: "›".join(found) for stage, found in scores.items()}


def _people(record: Record, cleaner: Cleaner) -> float | None:
    value = _number(record.labels.get(LABEL))
    return None if value == -1 else value


def _failure(record: Record, cleaner: Cleaner, store: Store) -> dict[str, Any] | None:
    failure = record.failure
    if failure is None:
        return None
    return {
        "stage": cleaner.message(failure.stage),
        "attempt": failure.attempt,
        "answer": store.add(cleaner.text(failure.answer)) if failure.answer else None,
        "chain": [cleaner.message(cause) for cause in failure.chain],
    }


def _usage(record: Record, cleaner: Cleaner) -> str:
    parts: list[str] = []
    for role, used in record.usage.items():
        calls = f"{used.calls:,} call{'' if used.calls == 1 else 's'}"
        cached = f" + {used.cached:,} from the cache" if used.cached else ""
        tokens = f"{used.input_tokens:,} tokens in, {used.output_tokens:,} out"
        parts.append(f"{cleaner.text(role)}: {calls}{cached}, {tokens}")
    return " · ".join([*parts, f"{float(record.seconds):.2f} s"])


def _calls(run: RunDir, ids: set[str], cleaner: Cleaner, store: Store) -> dict[str, list[dict[str, Any]]]:
    """The calls that the run kept, by example."""
    found: dict[str, list[dict[str, Any]]] = {}
    if is_judged(run) or not (run.path / CALLS).is_file():
        return found
    try:
        for call in kept_calls(run):
            if call.get("example") in ids:
                found.setdefault(call["example"], []).append(_call(call, cleaner, store))
    except DataError:  # an empty file
        pass
    return found


def _call(call: Mapping[str, Any], cleaner: Cleaner, store: Store) -> dict[str, Any]:
    messages = call.get("messages")
    used = call.get("usage")
    tokens: Mapping[str, Any] = used if isinstance(used, Mapping) else {}
    took = "from the cache" if call.get("cached") else f"{call.get('seconds')} s"
    parts = [
        f"sample {call['attempt'] + 1}" if isinstance(call.get("attempt"), int) and call["attempt"] else "",
        f"ended by {call['finish_reason']}" if call.get("finish_reason") else "",
        f"{tokens.get('input_tokens', '?')} tokens in, {tokens.get('output_tokens', '?')} out",
        took,
    ]
    shown = [
        (cleaner.text(m.get("role", "")), store.add(cleaner.text(words(m.get("content")))))
        for m in (messages if isinstance(messages, list) else [])
        if isinstance(m, Mapping)
    ]
    return {
        "stage": cleaner.message(call.get("stage") or "a call"),
        "about": cleaner.message(", ".join(filter(None, parts))),
        "messages": shown,
        "answer": None if call.get("answer") is None else store.add(cleaner.text(words(call.get("answer")))),
        "error": cleaner.message(call["error"]) if call.get("error") else None,
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (int(value) if float(value).is_integer() else float(value)) if is_number else None
