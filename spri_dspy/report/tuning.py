"""What a tuning run came to and what it changed, for people, from its report.json and manifest.

It knows their JSON; it decides nothing and computes no statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.progress import dollars
from spri_dspy.runs import RunDir
from spri_dspy.strict_json import from_text

KIND = "tuning"
"""`kind` in the manifest of a tuning run."""

REPORT = "report.json"
"""The report of a tuning run, in its directory."""

_CUT = 300  # characters of a seed or an instruction that are shown


def read(run: RunDir) -> dict[str, Any]:
    """The report of a tuning run.

    Raises:
        DataError: it has none yet, or none that can be read.
    """
    path = run.path / REPORT
    if not path.is_file():
        raise DataError(
            f"{run.path} is a tuning run that has not ended; start the same command again, it goes on"
        )
    try:
        report = from_text(path.read_bytes())
        missing = [name for name in ("decision", "splits", "changes") if report[name] is None]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        return report
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise DataError(f"{path} is no report of a tuning run ({error})") from None


def outcome(run: RunDir) -> Iterator[str]:
    """How it ended, the figures, and what it took."""
    report, manifest = read(run), run.manifest
    decision, models = report["decision"], manifest.get("models")
    is_offline = isinstance(models, dict) and str(models.get("base")).startswith("offline")
    end = "improved" if decision["improved"] else "no improvement, the start stands"
    yield f"{manifest.get('task')}, {report['optimizer']} by {report['metric']}: {end}"
    if is_offline:
        yield "the offline LM answered: its figures say nothing about quality and are left out"
    else:
        yield decision["reason"]
    if report["stopped"]:
        yield f"stopped early: {report['stopped']}"
    if report["unscorable"]:
        name, why = next(iter(report["unscorable"].items()))
        yield f"{len(report['unscorable']):,} examples were left out, which nothing can score, such as {name}: {why}"
    if not is_offline:
        yield from _figures(report)
    if report["splits"].get("leaks"):
        yield f"marked: examples match across splits or with seeds, such as {report['splits']['leaks'][0]}"
    if report["splits"].get("chosen_on"):
        sets = ", ".join(report["splits"]["chosen_on"])
        yield f"chosen on {sets}, an evaluation set: its questions of search and holdout are no test any more"
    costs = report["costs"]
    usd = "no known price" if costs["usd"] is None else dollars(costs["usd"])
    tokens = f"{costs['input_tokens']:,} tokens in, {costs['output_tokens']:,} out"
    yield f"{len(report['trials']):,} programs scored; {costs['calls']:,} LM calls, {tokens}, {usd}"


def _figures(report: Mapping[str, Any]) -> Iterator[str]:
    decision, test = report["decision"], report["test"]
    found = {
        "holdout": [decision["start"], decision["candidate"], decision["difference"]],
        "test": [test.get(name) for name in ("before", "after", "difference")],
    }
    rows = [("split", "examples", "program", str(report["metric"]), "interval")]
    for split, (start, tuned, difference) in found.items():
        if start is not None:
            n = str(report["splits"][split]["examples"])
            rows.append((split, n, "start", *_cells(start, "value")))
            rows.append(("", "", "tuned", *_cells(tuned, "value")))
            rows.append(("", "", "difference", *_cells(difference, "difference")))
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(part: Mapping[str, Any] | None, name: str) -> tuple[str, str]:
    """A figure and its interval, with p where there is one."""
    if part is None or part[name] is None:
        return "-", ""
    ends = f"{part['low']:.3f} to {part['high']:.3f}" if part["low"] is not None else part.get("reason")
    p = f"p = {part['p']:.2g}" if part.get("p") is not None else ""
    return f"{part[name]:+.3f}" if name == "difference" else f"{part[name]:.3f}", ", ".join(
        filter(None, (ends, p))
    )


def changes(run: RunDir) -> Iterator[str]:
    """What the tuned program has in place of the start's: instructions, and seeds taken out and put in."""
    report = read(run)
    if not report["changes"]:
        yield "nothing was changed"
    for stage, pair in report["changes"].items():
        before, after = pair["before"], pair["after"]
        if before["instructions"] != after["instructions"]:
            yield f"{stage}: instructions"
            yield f"  - {_cut(before['instructions'])}"
            yield f"  + {_cut(after['instructions'])}"
        if before["demos"] != after["demos"]:
            kept = [demo for demo in after["demos"] if demo in before["demos"]]
            yield f"{stage}: {len(before['demos'])} seeds before, {len(after['demos'])} after, {len(kept)} the same"
            yield from _seeds("-", [demo for demo in before["demos"] if demo not in after["demos"]])
            yield from _seeds("+", [demo for demo in after["demos"] if demo not in before["demos"]])


def _seeds(sign: str, demos: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for demo in demos:
        group = f"[{demo['group']}] " if demo.get("group") is not None else ""
        fields = {name: value for name, value in demo.items() if name not in ("group", "augmented")}
        yield f"  {sign} {group}" + "; ".join(f"{name}: {_cut(value)}" for name, value in fields.items())


def _cut(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return text if len(text) <= _CUT else text[: _CUT - 3] + "..."
