"""A tuning run as what a page shows: the decision and why, figures, every trial, seeds before and after.

Everything is read from its report.json and manifest; nothing is computed here. Of an offline tuning there are counts
and texts, and no figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from spri_dspy.errors import DataError
from spri_dspy.progress import dollars
from spri_dspy.report.html.subject import Subject, is_answered_offline
from spri_dspy.report.html.texts import Cleaner, words
from spri_dspy.report.tuning import read
from spri_dspy.tuning.plots import points


def tuning_of(subject: Subject) -> dict[str, Any]:
    """What a tuning run came to.

    Raises:
        DataError: it has not ended, or its report cannot be read.
    """
    report, cleaner = read(subject.run), subject.cleaner(False)
    try:
        return _shown(report, cleaner, is_answered_offline(subject.run))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{subject.run.path} has a tuning report in a shape that is not known ({error})"
        ) from None


def _shown(report: Mapping[str, Any], cleaner: Cleaner, offline: bool) -> dict[str, Any]:
    decision, costs = report["decision"], report["costs"]
    reason = "the offline LM answered: its figures say nothing about quality and are left out"
    unscorable = report.get("unscorable") or {}
    return {
        "offline": offline,
        "metric": cleaner.text(report["metric"]),
        "optimizer": cleaner.text(report["optimizer"]),
        "improved": bool(decision["improved"]),
        "reason": reason if offline else cleaner.message(decision["reason"]),
        "stopped": cleaner.message(report.get("stopped") or ""),
        "unscorable": len(unscorable),
        "leaks": [cleaner.message(leak) for leak in (report["splits"].get("leaks") or ())][:3],
        "chosen_on": [cleaner.text(name) for name in (report["splits"].get("chosen_on") or ())],
        "splits": [
            (name, part["examples"], part["clusters"])
            for name, part in report["splits"].items()
            if isinstance(part, Mapping) and "examples" in part
        ],
        "figures": [] if offline else _figures(report),
        "cost": [
            ("programs scored", f"{len(report['trials']):,}"),
            ("LM calls", f"{costs['calls']:,}"),
            ("tokens in", f"{costs['input_tokens']:,}"),
            ("tokens out", f"{costs['output_tokens']:,}"),
            ("dollars", "no known price" if costs["usd"] is None else dollars(costs["usd"])),
        ],
        "search": None if offline else _search(report),
        "trials": _trials(report, cleaner, offline),
        "changes": _changes(report["changes"], cleaner),
    }


def _figures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The start and the tuned program on the examples that the search never saw."""
    decision, test = report["decision"], report["test"]
    found = {
        "holdout": [decision["start"], decision["candidate"], decision["difference"]],
        "test": [test.get(name) for name in ("before", "after", "difference")],
    }
    rows: list[dict[str, Any]] = []
    for split, parts in found.items():
        for program, part in zip(("start", "tuned", "difference"), parts, strict=True):
            if part is not None:
                value = part["difference"] if program == "difference" else part["value"]
                rows.append({**part, "split": split, "program": program, "value": value})
    return rows


def _search(report: Mapping[str, Any]) -> dict[str, Any]:
    """Every program's metric against what had been spent when it was known."""
    found, unit = points(cast("Any", SimpleNamespace(trials=report["trials"], winner=report["winner"])))
    return {"points": found, "unit": unit}


def _trials(report: Mapping[str, Any], cleaner: Cleaner, offline: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(report["trials"], 1):
        figures = {name: None if offline else trial.get(name) for name in ("value", "low", "high")}
        paid = trial.get("paid", trial.get("calls_then", trial.get("calls")))
        rows.append(
            {
                "number": number,
                "name": cleaner.text(trial.get("name") or trial["program"]),
                "n": trial.get("n"),
                "spent": paid,
                "winner": trial["program"] == report["winner"],
                **figures,
            }
        )
    return rows


def _changes(changes: Mapping[str, Any], cleaner: Cleaner) -> list[dict[str, Any]]:
    """By stage: instructions before and after, and the seeds taken out, put in and kept."""
    found: list[dict[str, Any]] = []
    for stage, pair in changes.items():
        before, after = pair["before"], pair["after"]
        kept = [demo for demo in after["demos"] if demo in before["demos"]]
        changed = before["instructions"] != after["instructions"]
        found.append(
            {
                "stage": cleaner.text(stage),
                "instructions": [cleaner.text(side["instructions"]) for side in (before, after)]
                if changed
                else None,
                "out": _seeds([d for d in before["demos"] if d not in after["demos"]], cleaner),
                "in": _seeds([d for d in after["demos"] if d not in before["demos"]], cleaner),
                "kept": _seeds(kept, cleaner),
            }
        )
    return found


def _seeds(demos: Sequence[Mapping[str, Any]], cleaner: Cleaner) -> list[dict[str, Any]]:
    return [
        {
            "group": cleaner.text(demo.get("group") or ""),
            "fields": [
                (cleaner.text(name), cleaner.text(words(value)))
                for name, value in demo.items()
                if name not in ("group", "augmented")
            ],
        }
        for demo in demos
    ]
