"""The numbers of a run as Scores, for metrics, comparisons and tables.

Two kinds of run hold numbers: a judged run (`spri judge`), one number a criterion, and a run of the rubrics task,
whose responses are judgements with a score of their own. Labels are people's scores where the data has them.

`findings` draws the estimates that `spri judge` prints: means with intervals and coverage, by group, and the
correlation with labels. It knows run directories, records and metrics; it does not import DSPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError, UnknownNameError, UsageError
from spri_dspy.metrics.set_level import by_group, macro, mean, pearson, share
from spri_dspy.records import Estimate, Record, Score
from spri_dspy.runs import RunDir

LABEL = "human_score"
"""The label that scores are compared with; -1 means that there is none."""


def scores_of(run: RunDir | str | Path, criterion: str | None = None) -> list[Score]:
    """The scores of a run, in the order in which its examples finished.

    An example that failed, or whose number could not be read, is a Score without a value. An example that had
    nothing to judge (an instance of the rubrics task without an answer) is no Score.

    Args:
        run: a judged run, or a run of a system on the rubrics task.
        criterion: which number; may be left out where there is one.

    Raises:
        DataError: there is no run, or it holds no scores.
        UsageError: the run has several criteria and none was named.
        UnknownNameError: it has no such criterion.
    """
    directory = run if isinstance(run, RunDir) else RunDir.read(run)
    known = criteria_of(directory)
    if criterion is None and len(known) > 1:
        raise UsageError(f"{directory.path} has several criteria; name one of {', '.join(known)}")
    name = known[0] if criterion is None else criterion
    if name not in known:
        raise UnknownNameError("criterion", name, known)
    judged = is_judged(directory)
    read = _judged if judged else _rubric_score
    return [
        _score(record, read(record, name)) for record in directory.records() if _was_asked(record, judged)
    ]


def criteria_of(run: RunDir) -> list[str]:
    """Names of the numbers that a run holds, in the judge's order.

    Raises:
        DataError: it holds none.
    """
    found: dict[str, None] = dict.fromkeys(run.manifest.get("criteria", ()))
    for record in run.records() if not found else ():
        if is_judged(run):
            found |= dict.fromkeys(record.outputs.get("scores", ()))
        elif isinstance(record.outputs.get("response"), Mapping) and "score" in record.outputs["response"]:
            return ["score"]
    if not found:
        raise DataError(f"{run.path} holds no scores; spri judge {run.path} makes some")
    return list(found)


def is_judged(run: RunDir) -> bool:
    """True if a judge made the run's numbers."""
    return "judge" in run.manifest


def _was_asked(record: Record, judged: bool) -> bool:
    """False if there was no answer to give a number to."""
    return not record.ok or ("scores" if judged else "response") in record.outputs


def _judged(record: Record, criterion: str) -> Any:
    return record.outputs.get("scores", {}).get(criterion)


def _rubric_score(record: Record, criterion: str) -> Any:
    response = record.outputs.get("response")
    return response.get(criterion) if isinstance(response, Mapping) else None


def _score(record: Record, value: Any) -> Score:
    label = _number(record.labels.get(LABEL))
    return Score(record.id, _number(value), None if label == -1 else label, record.group, record.cluster)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Finding:
    """What the scores of one criterion come to.

    Attributes:
        criterion: its name.
        overall: the mean; of a criterion whose numbers are all 0 or 1, their share of ones, with Wilson's interval.
        groups: the same by group; empty if there is one group.
        agreement: Pearson's r with labels, over all and as the mean over groups; nan with the reason "no labels"
            where the data has none.
        gap: mean of (reversed less given) order of the scale's descriptions, None if the judge did not swap.
    """

    criterion: str
    overall: Estimate
    groups: Mapping[str, Estimate]
    agreement: Sequence[Estimate]
    gap: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {
            "criterion": self.criterion,
            "overall": self.overall.to_json(),
            "groups": {name: estimate.to_json() for name, estimate in self.groups.items()},
            "agreement": [estimate.to_json() for estimate in self.agreement],
            "gap": self.gap.to_json() if self.gap else None,
        }


def findings(run: RunDir | str | Path) -> list[Finding]:
    """What the scores of a run come to, one finding a criterion.

    Raises:
        DataError: there is no run, or it holds no scores.
    """
    directory = run if isinstance(run, RunDir) else RunDir.read(run)
    return [_finding(directory, name) for name in criteria_of(directory)]


def _finding(run: RunDir, criterion: str) -> Finding:
    scores = scores_of(run, criterion)
    metric = share if {score.value for score in scores} <= {0.0, 1.0, None} else mean
    has_groups = len({score.group for score in scores}) > 1
    agreement = [pearson(scores)]
    if has_groups and agreement[0].reason != "no labels":
        agreement.append(macro(pearson, scores))
    gaps = [
        Score(record.id, _number(detail["gap"]), None, record.group, record.cluster)
        for record in run.records()
        if "gap" in (detail := record.outputs.get("details", {}).get(criterion, {}))
    ]
    groups = by_group(metric, scores) if has_groups else {}
    return Finding(criterion, metric(scores), groups, agreement, mean(gaps) if gaps else None)


def finding_lines(found: Sequence[Finding]) -> Iterator[str]:
    """Findings as aligned text."""
    rows = [("criterion", "group", "value", "95 % interval", "scored")]
    for each in found:
        rows.append((each.criterion, "all", *_cells(each.overall)))
        rows += [("", _printable(name), *_cells(estimate)) for name, estimate in each.groups.items()]
        if each.gap:
            rows.append(("", "order gap", *_cells(each.gap)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for each in found:
        if each.agreement[0].reason == "no labels":
            yield f"{each.criterion} and human scores: no labels"
            continue
        for estimate in each.agreement:
            value, interval, scored = _cells(estimate)
            about = f" ({interval})" if interval else f" ({estimate.reason})" if estimate.reason else ""
            yield f"{each.criterion} and human scores: {estimate.name} {value}{about}, {scored}"


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    """Value, interval, and how many of those asked have a score."""
    return (
        "-" if math.isnan(estimate.value) else f"{estimate.value:.2f}",
        "" if math.isnan(estimate.low) else f"{estimate.low:.2f} to {estimate.high:.2f}",
        f"{estimate.n} of {estimate.n + estimate.dropped}",
    )


def _printable(text: str) -> str:
    """Text without what would command the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
