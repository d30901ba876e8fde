"""Who agrees with whom in recorded judgements: panels of judges, experts and judge, and two readers.

Every function makes one section of `recompute`'s output from rows that `recordings` has read.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.recordings import (
    Difference,
    Judged,
    Rated,
    Recording,
    align,
    fits_trace,
    models_of,
    normalised,
    trace_critiques,
)
from benchmarks.sections import Section, difference, interval, number, value
from spri_dspy.metrics.agreement import agreement
from spri_dspy.metrics.comparison import Comparison, compare
from spri_dspy.metrics.rated import AgreeSettings, Item, Ratings
from spri_dspy.metrics.set_level import macro, pearson
from spri_dspy.parsing import read_score
from spri_dspy.records import Estimate, Score

_EXPERT_FIELDS = {"alignment": "alignment_with_standards", "empathy": "empathy"}


class Panel(NamedTuple):
    """A panel's macro r, that of each member on the same responses, the best one, and the gain on it."""

    panel: Estimate
    members: dict[str, Estimate]
    best: str
    gain: Comparison


def panels(
    rated: Mapping[Recording, Sequence[Rated]], wanted: Sequence[str], resamples: int, seed: int
) -> Section:
    """The mean score of several systems of one model against the best of them.

    A model with fewer than two of the wanted systems is averaged over all that it has.
    """
    columns = ("model", "systems", "responses", "-1 is", "panel", "best single", "its r", "gain", "p")
    section = Section("panel", "A panel of judges, macro Pearson r", columns)
    for model in models_of(rated):
        present = {r.system: rows for r, rows in rated.items() if r.model == model}
        chosen = [s for s in wanted if s in present]
        chosen = chosen if len(chosen) > 1 else [*present]
        if len(chosen) < 2:
            section.notes.append(f"{model}: one system recorded, no panel")
            continue
        aligned = align([present[s] for s in chosen])
        section.notes.append(f"{model}: {aligned.how}")
        for keep, meaning in ((True, "a score, as published"), (False, "no label")):
            tables = {
                s: {
                    key: row.score("filled", key, keep_no_label=keep)
                    for key, row in zip(keys, present[s], strict=True)
                    if key
                }
                for s, keys in zip(chosen, aligned.keys, strict=True)
            }
            found = assemble(tables, resamples, seed)
            best = value(found.members[found.best], 3)
            gain = (difference(found.gain, 3), number(found.gain.p, 3))
            panel = (str(found.panel.n), meaning, interval(found.panel, 3))
            section.rows.append((model, " + ".join(chosen), *panel, found.best, best, *gain))
            section.results.append(
                {"model": model, "systems": chosen, "aligned": aligned.how, "keeps_no_label": keep}
                | {"panel": found.panel.to_json(), "best": found.best, "gain": found.gain.to_json()}
                | {"members": {s: e.to_json() for s, e in found.members.items()}}
            )
    section.notes.append(
        "Only responses that every member scored. The best single system is picked on the same responses, "
        "which favours it. Gain: cluster bootstrap of instances, p two-sided by the "
        "paired permutation test of instances."
    )
    return section


def assemble(tables: Mapping[str, Mapping[str, Score]], resamples: int, seed: int) -> Panel:
    """Average systems' scores response by response, and compare with the best of them.

    Args:
        tables: by system, its scores by a key that names the response.
        resamples: of each bootstrap.
        seed: of each bootstrap.
    """
    usable = [
        {k for k, s in table.items() if s.value is not None and s.label is not None}
        for table in tables.values()
    ]
    common = sorted(set.intersection(*usable))
    members = {name: [table[k] for k in common] for name, table in tables.items()}
    averaged = [
        Score(rows[0].id, fmean(s.value or 0.0 for s in rows), rows[0].label, rows[0].group, rows[0].cluster)
        for rows in zip(*members.values(), strict=True)
    ]
    single = {name: macro(pearson, scores, ci=False) for name, scores in members.items()}
    best = max(single, key=lambda name: (not math.isnan(single[name].value), single[name].value))
    panel = macro(pearson, averaged, resamples=resamples, rng=random.Random(seed))
    gain = compare(pearson, averaged, members[best], macro=True, resamples=resamples, rng=random.Random(seed))
    return Panel(panel, single, best, gain)


def experts_and_judge(
    experts: Sequence[Mapping[str, Any]],
    judged: Mapping[Recording, Sequence[Judged]],
    resamples: int,
    seed: int,
) -> Section:
    """The two experts against each other, and the judge against their mean where texts coincide."""
    columns = ("measure", "who", "n", "Pearson", "Spearman", "Krippendorff, ordinal", "mean difference")
    section = Section("human", "Experts and judge on reappraisals", columns)
    for measure, name in _EXPERT_FIELDS.items():
        scores = [_expert_score(place, row, name) for place, row in enumerate(experts)]
        _add_agreement(section, measure, "expert and expert", scores, resamples, seed)
        keys = ((str(row.get("dimension_id")), normalised(str(row.get("response")))) for row in experts)
        rated = dict(zip(keys, scores, strict=True))
        for model in models_of(judged):
            of_model = [(r.system, rows) for r, rows in judged.items() if r.model == model]
            matched = [m for system, rows in of_model for m in _matched(system, rows, rated, measure)]
            if matched:
                _add_agreement(
                    section, measure, f"judge of {model} and experts' mean", matched, resamples, seed
                )
    if judged and len(section.rows) == len(_EXPERT_FIELDS):
        section.notes.append(
            "No judged response has the text of one that the experts rated: the judge cannot be held "
            "against them here."
        )
    section.notes.append(
        "Intervals leave posts out. Which of two raters comes first is as in the file; Krippendorff's alpha "
        "does not depend on it."
    )
    return section


def readers(
    judged: Mapping[Recording, Sequence[Judged]],
    rated: Mapping[Recording, Sequence[Rated]],
    traces: Sequence[Recording],
    listed: Sequence[Difference],
) -> Section:
    """How often our reader reads what was recorded, file by file, and why not otherwise."""
    columns = ("kind", "file", "texts", "read", "recorded", "agree", "why not")
    section = Section("readers", "Our reader against the recordings", columns)
    for recording, rows in rated.items():
        reasons = Counter(d.reason for d in listed if d.file == recording.name)
        known = [row.read == row.recorded for row in rows if row.recorded is not None]
        _add_reader(section, "scores", recording, [r.read is not None for r in rows], known, reasons)
    for recording, judgements in judged.items():
        measures = ("alignment", "empathy", "harmful", "factuality")
        read = [getattr(row, measure) is not None for row in judgements for measure in measures]
        _add_reader(section, "judged", recording, read, [], {})
    for recording in traces:
        critiques = [*trace_critiques(recording.path)]
        read = [read_score(text) is not None for text, _ in critiques]
        known = [fits_trace(text, refined) for text, refined in critiques]
        _add_reader(section, "trace", recording, read, known, {})
    section.notes.extend(
        [
            "agree: of the texts with a recorded score. For traces, of all critiques: we read what the published "
            "reader reads, and it explains what the recorded loop did next.",
            "why not: every text that we read otherwise, those without a recorded score included.",
        ]
    )
    return section


def listing(listed: Sequence[Difference]) -> Section:
    """Every text that we read otherwise than the recording."""
    columns = ("file", "response", "we", "recorded", "why", "text")
    section = Section("disagreements", "Texts that we read otherwise", columns)
    for d in listed:
        was = "-" if d.recorded is None else f"{d.recorded:g}"
        section.rows.append((d.file, d.id, number(d.read, 0), was, d.reason, d.excerpt))
        section.results.append(d._asdict())
    return section


def _add_agreement(
    section: Section, measure: str, who: str, scores: Sequence[Score], resamples: int, seed: int
) -> None:
    """One line on how values and labels agree."""
    items = tuple(Item(s.id, s.value, (s.label,), cluster=s.cluster or s.id) for s in scores)
    settings = AgreeSettings(resamples=resamples, seed=seed)
    found = agreement([Ratings(who, items, ("label",))], settings=settings).judges[0]
    figures = found.figures
    shown = (figures["pearson"], figures["spearman"], found.alpha.judge, figures["mae"])
    section.rows.append((measure, who, str(figures["pearson"].n), *(interval(e, 2) for e in shown)))
    section.results.append(
        {"measure": measure, "who": who, "krippendorff_alpha": found.alpha.judge.to_json()}
        | {name: e.to_json() for name, e in figures.items()}
    )


def _add_reader(
    section: Section,
    kind: str,
    recording: Recording,
    read: Sequence[bool],
    agreed: Sequence[bool],
    reasons: Mapping[str, int],
) -> None:
    """One line on a file; `read` has an item a text, `agreed` one for each that can be compared."""
    rate = f"{sum(agreed) / len(agreed):.1%}" if agreed else "-"
    why = "; ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
    counts = (str(len(read)), str(sum(read)), str(len(agreed)) if agreed else "-")
    section.rows.append((kind, recording.name, *counts, rate, why))
    section.results.append(
        {"kind": kind, "file": recording.name, "texts": len(read), "read": sum(read)}
        | {"recorded": len(agreed), "agreed": sum(agreed), "reasons": dict(reasons)}
    )


def _expert_score(place: int, row: Mapping[str, Any], name: str) -> Score:
    """The first expert's number against the second's."""
    numbers = [(row.get(annotation) or {}).get(name) for annotation in ("annotation_1", "annotation_2")]
    return Score(str(place), *numbers, cluster=str(row.get("id")))


def _matched(
    system: str, rows: Sequence[Judged], rated: Mapping[tuple[str, str], Score], measure: str
) -> list[Score]:
    """The judge's numbers against the experts' mean, for the responses that both have."""
    matched: list[Score] = []
    for row in rows:
        pair = rated.get((row.dimension, normalised(row.response)))
        if pair is not None and pair.value is not None and pair.label is not None:
            label = fmean((pair.value, pair.label))
            matched.append(Score(f"{system}/{row.id}", getattr(row, measure), label, cluster=row.post))
    return matched
