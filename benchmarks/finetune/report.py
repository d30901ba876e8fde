"""Tables of tuned models: what each scored, what it was trained on, and how far it is from the untuned base."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.sections import Section, difference, interval, number
from spri_dspy.metrics.comparison import Comparison, compare, holm
from spri_dspy.metrics.set_level import mean
from spri_dspy.records import Estimate, Score

Cell = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Measure:
    """One column of the tables: where its numbers are, by how much they are multiplied, decimals."""

    key: str
    part: str
    heading: str
    scale: float
    digits: int


_MEASURES = (
    _Measure("mc1", "choices", "MC1 (%)", 100, 1),
    _Measure("mc2", "choices", "MC2 (%)", 100, 2),
    _Measure("loss", "held", "held-out loss (nats a token)", 1, 3),
    _Measure("choice", "held", "response choice (%)", 100, 1),
)


def sections(cells: Sequence[Cell]) -> list[Section]:
    """The tables of scored cells, as `sft_tune` writes them: scores, differences if there are tuned ones, and data.

    Intervals are by question, or by held-out row; a question's score is its mean over seeds.
    """
    by_name: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_name[cell["name"]].append(cell)
    measures = [m for m in _MEASURES if all(m.part in cell for cell in cells)]
    tables = [_scores(by_name, measures)]
    untuned = next((name for name, group in by_name.items() if "trained" not in group[0]), None)
    if untuned and len(by_name) > 1:
        tables.append(_differences(by_name, untuned, measures))
    tuned = {name: group for name, group in by_name.items() if "trained" in group[0]}
    return [*tables, _data(tuned)] if tuned else tables


def _of(group: Sequence[Cell], measure: _Measure) -> list[Score]:
    """One Score a question: the mean over the cells' seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for cell in group:
        for row in cell[measure.part]:
            found[row["id"]].append(measure.scale * row[measure.key])
    return [
        Score(name, statistics.fmean(values)) for name, values in found.items() if len(values) == len(group)
    ]


def _scores(by_name: Mapping[str, Sequence[Cell]], measures: Sequence[_Measure]) -> Section:
    first = next(iter(by_name.values()))[0]
    tiny = " (a tiny random model: not a language model)" if first["base"] == "tiny" else ""
    section = Section(
        "sft_tune",
        f"TruthfulQA of {first['base']}, tuned by {first['method']}{tiny}",
        ("trained on", "seeds", *(m.heading for m in measures), "questions"),
    )
    for name, group in by_name.items():
        estimates = {m.key: (m, _scored(group, m)) for m in measures}
        shown = [interval(estimate, m.digits) + _by_seed(group, m) for m, estimate in estimates.values()]
        seeds = [cell["seed"] for cell in group] if "trained" in group[0] else []
        section.rows.append((name, str(len(seeds) or "-"), *shown, str(estimates["mc2"][1].n)))
        section.results.append(
            {"model": name, "seeds": seeds, **{key: e.to_json() for key, (_, e) in estimates.items()}}
        )
    section.notes.extend(
        (
            "MC1, MC2: lm-evaluation-harness truthfulqa_mc1 v2, truthfulqa_mc2 v3 (six fixed pairs, no chat template), "
            "with the maximum subtracted before exponentiating.",
            "Intervals: 95 %, by question (held-out row), a question's score being its mean over seeds; behind the "
            "semicolon the standard deviation of the seeds' means.",
        )
    )
    if any(m.part == "held" for m in measures):
        section.notes.append(
            "Held-out loss: of responses that were not trained on; lower is better. Response choice: an lm-eval task, "
            "which of four responses answers the instruction; chance is 25."
        )
    if compared := first.get("lm_eval"):
        section.notes.append(
            f"Largest difference from lm-eval's own figures on {compared['questions']} questions, untuned: MC1 "
            f"{compared['mc1']:.6f}, MC2 {compared['mc2']:.6f} (of 1); it left {compared['undefined']} undefined."
        )
        section.results[0]["lm_eval"] = compared
    return section


def _scored(group: Sequence[Cell], measure: _Measure) -> Estimate:
    estimate = mean(_of(group, measure))
    if measure.scale == 1:
        return estimate
    return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 100.0))


def _by_seed(group: Sequence[Cell], measure: _Measure) -> str:
    if len(group) < 2:
        return ""
    means = [statistics.fmean(row[measure.key] for row in cell[measure.part]) for cell in group]
    return f"; {measure.scale * statistics.stdev(means):.{measure.digits}f}"


def _differences(
    by_name: Mapping[str, Sequence[Cell]], untuned: str, measures: Sequence[_Measure]
) -> Section:
    section = Section(
        "differences",
        "Tuned less untuned, the same questions",
        ("trained on", *(column for m in measures for column in (m.heading, "p"))),
    )
    tuned = [name for name in by_name if name != untuned]
    columns: list[list[str]] = []
    results: dict[str, dict[str, Any]] = {name: {"model": name} for name in tuned}
    for measure in measures:
        base = _of(by_name[untuned], measure)
        compared: list[Comparison] = [compare(mean, _of(by_name[name], measure), base) for name in tuned]
        corrected = holm([c.p for c in compared])
        columns += [[difference(c, measure.digits) for c in compared], [number(p, 3) for p in corrected]]
        for name, found, p in zip(tuned, compared, corrected, strict=True):
            results[name][measure.key] = {**found.to_json(), "p_holm": p}
    section.rows.extend((name, *cells) for name, *cells in zip(tuned, *columns, strict=True))
    section.results.extend(results.values())
    section.notes.append(
        "p: paired permutation test by question, by Holm for the rows of a column. It knows nothing of other seeds "
        "than those that were trained."
    )
    return section


def _data(tuned: Mapping[str, Sequence[Cell]]) -> Section:
    section = Section(
        "data",
        "What was trained on, and what it took",
        (
            "trained on",
            "rows",
            "accepted",
            "cut off",
            "degenerate",
            "failed",
            "steps",
            "loss",
            "training",
            "scoring",
            "memory",
        ),
    )
    for name, group in tuned.items():
        trained = [cell["trained"] for cell in group]
        counts = group[0].get("counts") or {}
        section.rows.append(
            (
                name,
                str(trained[0]["rows"]),
                *(_counted(counts, key) for key in ("accepted", "cut_off", "degenerate", "failed")),
                str(trained[0]["steps"]),
                f"{statistics.fmean(t['loss'] for t in trained):.3f}",
                f"{statistics.fmean(t['seconds'] for t in trained):.0f} s",
                f"{statistics.fmean(cell['scoring']['seconds'] for cell in group):.0f} s",
                f"{max(cell['scoring']['peak_mb'] for cell in group):,} MB",
            )
        )
        section.results.append({"model": name, "counts": dict(counts), "trained": trained})
    section.notes.append(
        "Accepted, cut off at max_tokens, degenerate (repeating to the end), failed: of the records of the run that "
        "wrote the data. Loss: mean over training. Seconds: a seed's mean."
    )
    return section


def _counted(counts: Mapping[str, int | None], key: str) -> str:
    return "-" if counts.get(key) is None else f"{counts[key]} of {counts['records']}"
