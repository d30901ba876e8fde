"""The numbers of a run as Scores, for metrics, comparisons and tables.

Two kinds of run hold numbers: a judged run (`spri judge`), one number a criterion, and a run of the rubrics task,
whose responses are judgements with a score of their own. Labels are people's scores where the data has them.

`findings` draws the estimates that `spri judge` prints: means with intervals and coverage, by group, and the
correlation with labels. It knows run directories, records and metrics; it does not import DSPy.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError, UnknownNameError, UsageError
from spri_dspy.metrics.columns import ScoreColumns
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
    return list(_read_numbers(directory, [name])[name].scores)


@dataclass(frozen=True)
class Numbers:
    """The numbers of one criterion of a run.

    Attributes:
        scores: as `scores_of` gives them.
        gaps: (reversed less given) order of the scale's descriptions, of a judge that swapped them.
    """

    scores: ScoreColumns
    gaps: ScoreColumns


def numbers_of(run: RunDir) -> dict[str, Numbers]:
    """The numbers of all criteria of a run, in the judge's order; its records are read once.

    Raises:
        DataError: it holds none.
    """
    return _read_numbers(run, criteria_of(run))


def _read_numbers(run: RunDir, criteria: Sequence[str]) -> dict[str, Numbers]:
    import numpy as np

    judged = is_judged(run)
    read = _judged if judged else _rubric_score
    values, gaps, gap_rows = ({name: array(kind) for name in criteria} for kind in ("d", "d", "q"))

    def asked() -> Iterator[Score]:
        records = (record for record in run.records() if _was_asked(record, judged))
        for row, record in enumerate(records):
            details = record.outputs.get("details", {})
            for name in criteria:
                values[name].append(_or_nan(read(record, name)))
                if "gap" in (detail := details.get(name, {})):
                    gap_rows[name].append(row)
                    gaps[name].append(_or_nan(detail["gap"]))
            label = _number(record.labels.get(LABEL))
            yield Score(record.id, None, None if label == -1 else label, record.group, record.cluster)

    every = ScoreColumns.packed(asked())
    found: dict[str, Numbers] = {}
    for name in criteria:
        turned = every.take(np.frombuffer(gap_rows[name], np.int64)).valued(np.frombuffer(gaps[name]))
        found[name] = Numbers(every.valued(np.frombuffer(values[name])), turned)
    return found


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


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _or_nan(value: Any) -> float:
    number = _number(value)
    return math.nan if number is None else number


@dataclass(frozen=True)
class Finding:
    """What the scores of one criterion come to.

    Attributes:
        criterion: its name.
        overall: the mean; of a criterion whose kind is "share" that share, with Wilson's interval. The kind is what the
            judge says of its criterion (`Criterion.kind`), never what the values seen look like.
        groups: the same by group; empty if there is one group.
        agreement: Pearson's r with labels, over all and as the mean over groups; nan with the reason "no labels"
            where the data has none.
        gap: mean of (reversed less given) order of the scale's descriptions, None if the judge did not swap.
        agreement_by_group: Pearson's r with labels in each group; empty without labels, or if there is one group.
    """

    criterion: str
    overall: Estimate
    groups: Mapping[str, Estimate]
    agreement: Sequence[Estimate]
    gap: Estimate | None = None
    agreement_by_group: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {
            "criterion": self.criterion,
            "overall": self.overall.to_json(),
            "groups": {name: estimate.to_json() for name, estimate in self.groups.items()},
            "agreement": [estimate.to_json() for estimate in self.agreement],
            "agreement_by_group": {name: e.to_json() for name, e in self.agreement_by_group.items()},
            "gap": self.gap.to_json() if self.gap else None,
        }


def findings(run: RunDir | str | Path) -> list[Finding]:
    """What the scores of a run come to, one finding a criterion.

    Raises:
        DataError: there is no run, or it holds no scores.
    """
    directory = run if isinstance(run, RunDir) else RunDir.read(run)
    return findings_of(directory, numbers_of(directory))


def findings_of(run: RunDir, numbers: Mapping[str, Numbers]) -> list[Finding]:
    """What numbers that were read of a run come to, one finding a criterion."""
    return [_finding(run, name, each) for name, each in numbers.items()]


def _finding(run: RunDir, criterion: str, numbers: Numbers) -> Finding:
    scores, gaps = numbers.scores, numbers.gaps
    kinds: Any = run.manifest.get("criteria")
    statistic = share if isinstance(kinds, Mapping) and kinds.get(criterion) == "share" else mean
    has_groups = len(scores.group_names) > 1
    agreement = [pearson(scores)]
    if has_groups and agreement[0].reason != "no labels":
        agreement.append(macro(pearson, scores))
    groups = by_group(statistic, scores) if has_groups else {}
    has_labels = agreement[0].reason != "no labels"
    apart = by_group(pearson, scores) if has_groups and has_labels else {}
    return Finding(criterion, statistic(scores), groups, agreement, mean(gaps) if gaps else None, apart)


def has_judgements(run: RunDir) -> bool:
    """True if the run's responses are judgements: scores of answers that the data brought. One tells of all."""
    responses = (record.outputs.get("response") for record in run.records() if record.ok)
    response = next((each for each in responses if each is not None), None)
    return isinstance(response, Mapping) and "score" in response


def named_lms(run: RunDir) -> dict[str, str]:
    """The LM strings that a run's manifest names, by role: to be shown, and never to be obeyed.

    Whoever wrote the run directory wrote them too; an address and a key's name in them are somebody else's.
    """
    for name in ("lms", "models"):
        named: Any = run.manifest.get(name)
        if isinstance(named, Mapping) and named:
            return {str(role): str(text) for role, text in named.items()}
    return {}


def is_scored_offline(run: RunDir) -> bool:
    """True if the offline LM gave the run's scores: they are counted then, and make no figure."""
    roles = named_lms(run)
    scoring = roles if is_judged(run) else {role: roles[role] for role in ("base", "critic") if role in roles}
    return any(text.partition("?")[0] == "offline" for text in scoring.values())


def as_json(run: RunDir) -> dict[str, Any]:
    """What the scores of a run come to, as plain JSON types; of offline scores their counts alone.

    Raises:
        DataError: the run was not judged and holds no scores of its own.
    """
    found = _findings_so_far(run)
    if not is_scored_offline(run):
        return {"findings": [each.to_json() for each in found]}
    counts = [
        {"criterion": each.criterion, "n": each.overall.n, "dropped": each.overall.dropped} for each in found
    ]
    return {"offline": True, "findings": counts}


def lines(run: RunDir) -> Iterator[str]:
    """What the scores of a run come to, as aligned text; of offline scores their counts alone.

    Raises:
        DataError: the run was not judged and holds no scores of its own.
    """
    found = _findings_so_far(run)
    if not found:
        yield "no scores"
        return
    if is_scored_offline(run):
        yield from aligned([("criterion", "scored"), *((e.criterion, _scored(e.overall)) for e in found)])
        yield "the offline LM gave these scores, so they make no figures; name an LM to get some"
        return
    rows = [("criterion", "group", "value", "95 % interval", "scored")]
    for each in found:
        rows.append((each.criterion, "all", *cells_of(each.overall)))
        rows += [("", name, *cells_of(estimate)) for name, estimate in each.groups.items()]
        if each.gap:
            rows.append(("", "order gap", *cells_of(each.gap)))
    yield from aligned(rows)
    yield from _agreement_lines(found)


def _findings_so_far(run: RunDir) -> list[Finding]:
    """The findings; none of a judged run whose judge gave no number yet."""
    try:
        return findings(run)
    except DataError:
        if is_judged(run):
            return []
        raise


def own_lines(run: RunDir) -> Iterator[str]:
    """The figures of a run that has judgements of its own; nothing of any other run, or of offline ones."""
    if has_judgements(run) and not is_scored_offline(run):
        yield from lines(run)


def _agreement_lines(found: Sequence[Finding]) -> Iterator[str]:
    """Pearson's r with human scores: by group, over all, and the mean over groups."""
    rows = [("pearson with human scores", "group", "r", "95 % interval", "scored")]
    for each in found:
        if each.agreement[0].reason == "no labels":
            continue
        estimates = {**each.agreement_by_group, "all": each.agreement[0]}
        if len(each.agreement) > 1:
            estimates["mean of groups"] = each.agreement[1]
        for name, estimate in estimates.items():
            first = each.criterion if name == next(iter(estimates)) else ""
            rows.append((first, name, *cells_of(estimate)))
    if len(rows) > 1:
        yield ""
        yield from aligned(rows)
    unlabelled = [each.criterion for each in found if each.agreement[0].reason == "no labels"]
    if unlabelled:
        yield f"no human scores to compare with: {', '.join(unlabelled)}"


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def cells_of(estimate: Estimate, digits: int = 2) -> tuple[str, str, str]:
    """Value, interval or why there is none, and how many of those asked have a score."""
    has_interval = not math.isnan(estimate.low)
    return (
        "-" if math.isnan(estimate.value) else f"{estimate.value:.{digits}f}",
        f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}" if has_interval else estimate.reason or "",
        _scored(estimate),
    )


def _scored(estimate: Estimate) -> str:
    return f"{estimate.n} of {estimate.n + estimate.dropped}"
