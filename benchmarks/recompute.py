"""Recompute the published tables from recorded judgements, with intervals and honest tests beside them.

Sections: table 1 (reappraisal), table 2 (rubrics) and its capabilities, a panel of judges, the experts and
the judge, and how our reader compares with what was recorded. No LM is called. Published figures come from
published.toml; models and systems are those of the recordings' file names.

    python -m benchmarks recompute --recordings DIR [--json] [--markdown FILE] [--disagreements]
"""

from __future__ import annotations

import argparse
import math
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.agreement import experts_and_judge, listing, panels, readers
from benchmarks.recordings import (
    NO_LABEL,
    Judged,
    Rated,
    Recording,
    differences,
    find,
    models_of,
    read_judged,
    read_rated,
    read_rows,
)
from benchmarks.sections import Section, interval, number, put_out, value
from spri_dspy.errors import UsageError
from spri_dspy.metrics.comparison import Comparison, holm, paired_t
from spri_dspy.metrics.set_level import by_group, macro, mean, pair_accuracy, pair_ties, pearson, share
from spri_dspy.records import Score

BASELINES = {"vanilla": "*", "self_refine": "†"}
"""Systems that table 1 tests against, with their marks; one that is not recorded gives no mark."""

SIGNIFICANT = 0.05
_MEASURES = ("alignment", "empathy")
_TABLE_1_NOTES = (
    "Marks at a mean are set as published: two-sided paired t-test, which takes examples for independent (it ignores "
    "that they share posts); p < 0.05 and higher, * than vanilla, † than self_refine. (On the released recordings "
    "one-sided tests set marks that were not published.)",
    "Holm: marks that remain when p is corrected for all tests of this model and measure; ↓ is lower.",
    "Intervals leave posts out; of harmful they are Wilson's.",
)
_TABLE_2_NOTES = (
    "as published: recorded scores, with a human score of -1 taken for a score. On the released recordings only "
    "this gives the published figures. In every other column -1 is no label.",
    "recorded: the recording's score; filled: our reader's where that is missing; reread: our reader's throughout. "
    "Pairs, ties and coverage: of recorded, or of reread where nothing is recorded.",
    "Intervals leave instances out, within capabilities; those not shown are in the JSON document. Pairs: two "
    "responses to one instance that humans tell apart; a tie is not right.",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What all sections share: resamples and seed of every bootstrap, and the published figures."""

    resamples: int
    seed: int
    published: Mapping[str, Any]

    @property
    def bootstrap(self) -> dict[str, Any]:
        """Keyword arguments of a metric; a fresh generator each time, so that every number stands alone."""
        return {"resamples": self.resamples, "rng": random.Random(self.seed)}

    def figure(self, table: str, recording: Recording) -> Any:
        """What was published for a model and system, or None."""
        for entry in self.published.get(table, ()):
            if _plain(recording.model) in map(_plain, entry["names"]):
                return entry.get(recording.system)
        return None


class BaselineTest(NamedTuple):
    """A test against a baseline, and its p corrected for all tests of this model and measure."""

    baseline: str
    comparison: Comparison
    p_holm: float

    @property
    def mark(self) -> str:
        """The baseline's mark if the difference is significant before correction and upward, as published."""
        is_higher = self.comparison.p < SIGNIFICANT and self.comparison.difference > 0
        return BASELINES[self.baseline] if is_higher else ""

    @property
    def holm_mark(self) -> str:
        """The baseline's mark if the difference stays significant; with an arrow if it is downward."""
        arrow = "" if self.comparison.difference > 0 else "↓"
        return BASELINES[self.baseline] + arrow if self.p_holm < SIGNIFICANT else ""


def main(argv: list[str]) -> int:
    """Recompute and print; returns 0.

    Raises:
        SpriError: the folder or a row in it cannot be used.
    """
    options = _options().parse_args(argv)
    published = tomllib.loads(Path(__file__).with_name("published.toml").read_text("utf-8"))
    settings = Settings(options.resamples, options.seed, published)
    panel = options.panel.split(",") if options.panel else published["panel"]
    sections = recompute(options.recordings, settings, panel, list_disagreements=options.disagreements)
    put_out(sections, options, schema=1, resamples=settings.resamples, seed=settings.seed)
    return 0


def recompute(
    folder: Path, settings: Settings, panel: Sequence[str], *, list_disagreements: bool = False
) -> list[Section]:
    """Everything that a folder of recordings allows, in the order of the paper.

    Args:
        folder: the recordings; parts that are missing are left out.
        settings: resamples, seed and published figures.
        panel: the systems to average; see `agreement.panels`.
        list_disagreements: True adds every text that we read otherwise than the recording.

    Raises:
        UsageError: there is nothing to recompute in the folder.
        DataError: a row cannot be used.
    """
    judged = {r: read_judged(r.path) for r in find(folder / "reappraisal/judged")}
    rated = {r: read_rated(r.path) for r in find(folder / "rubrics/judge_scores")}
    experts = [row for path in sorted(folder.glob("reappraisal/human*.jsonl")) for row in read_rows(path)]
    traces = find(folder / "reappraisal/traces")
    if not (judged or rated or experts or traces):
        raise UsageError(
            f"nothing to recompute in {str(folder)!r}; it should hold reappraisal/judged/MODEL__SYSTEM.jsonl "
            "or rubrics/judge_scores/MODEL__SYSTEM.jsonl"
        )
    listed = [d for recording, rows in rated.items() for d in differences(recording.name, rows)]
    sections: list[Section] = []
    if judged:
        sections.append(table_1(judged, settings))
    if rated:
        sections += [table_2(rated, settings), capabilities(rated, settings)]
        sections.append(panels(rated, panel, settings.resamples, settings.seed))
    if experts:
        sections.append(experts_and_judge(experts, judged, settings.resamples, settings.seed))
    if judged or rated or traces:
        sections.append(readers(judged, rated, traces, listed))
    return [*sections, listing(listed)] if list_disagreements else sections


def table_1(judged: Mapping[Recording, Sequence[Judged]], settings: Settings) -> Section:
    """Mean alignment and empathy of every model and system, with marks; harm and factuality beside them."""
    measures = [heading for measure in _MEASURES for heading in (measure, "published", "Holm")]
    columns = ("model", "system", "n", *measures, "harmful", "factuality")
    section = Section("table_1", "Table 1: cognitive reappraisal", columns)
    for model in models_of(judged):
        systems = {r: rows for r, rows in judged.items() if r.model == model}
        tests = {measure: against_baselines(systems, measure) for measure in _MEASURES}
        for recording, rows in systems.items():
            mine = {measure: tests[measure].get(recording.system, []) for measure in _MEASURES}
            _add_to_table_1(section, recording, rows, mine, settings)
        missing = [baseline for baseline in BASELINES if baseline not in {r.system for r in systems}]
        section.notes.extend(f"{model}: no {name} recorded, so no {BASELINES[name]}" for name in missing)
    section.notes.extend(_TABLE_1_NOTES)
    return section


def against_baselines(
    systems: Mapping[Recording, Sequence[Judged]], measure: str
) -> dict[str, list[BaselineTest]]:
    """Test every system of one model against the baselines; a pair of baselines is tested once."""
    scores = {r.system: [row.score(measure) for row in rows] for r, rows in systems.items()}
    present = [baseline for baseline in BASELINES if baseline in scores]
    tests = [
        (system, baseline, paired_t(scores[system], scores[baseline]))
        for system in scores
        for place, baseline in enumerate(present)
        if system not in present[: place + 1]
    ]
    found: dict[str, list[BaselineTest]] = {}
    corrected = holm([test.p for _, _, test in tests])
    for (system, baseline, test), p_holm in zip(tests, corrected, strict=True):
        found.setdefault(system, []).append(BaselineTest(baseline, test, p_holm))
    return found


def table_2(rated: Mapping[Recording, Sequence[Rated]], settings: Settings) -> Section:
    """Macro Pearson of judge and human scores of every model and system, read in four ways."""
    ways = ("recorded", "filled", "read")
    columns = ("model", "system", "published", "as published", "recorded", "filled", "reread")
    section = Section(
        "table_2", "Table 2: macro Pearson r", (*columns, "pairs right", "pairs tied", "coverage")
    )
    for recording, rows in rated.items():
        published = settings.figure("rubrics", recording)
        with_minus_one = [row.score("recorded", keep_no_label=True) for row in rows]
        as_published = macro(pearson, with_minus_one, ci=False)
        estimates = {w: macro(pearson, [r.score(w) for r in rows], **settings.bootstrap) for w in ways}
        right, tied = (metric(_scores(rows), **settings.bootstrap) for metric in (pair_accuracy, pair_ties))
        others = (value(estimates[way], 3) for way in ways[1:])
        cells = (value(as_published, 3), interval(estimates["recorded"], 3), *others)
        coverage = f"{estimates[_way(rows)].coverage:.1%}"
        pairs = (interval(right, 2), interval(tied, 2))
        heading = (recording.model, recording.system, number(published, 3))
        section.rows.append((*heading, *cells, *pairs, coverage))
        section.results.append(
            {"model": recording.model, "system": recording.system, "published": published}
            | {"as_published": as_published.to_json()}
            | {w: e.to_json() for w, e in estimates.items()}
            | {"pair_accuracy": right.to_json(), "pair_ties": tied.to_json()}
        )
        reasons = {e.reason for e in estimates.values() if e.reason and not math.isnan(e.value)}
        section.notes.extend(f"{recording.name}: {reason}" for reason in sorted(reasons))
    unlabelled = max(sum(row.human == NO_LABEL for row in rows) for rows in rated.values())
    section.notes.append(f"At most {unlabelled} rows a file have the human score -1.")
    section.notes.extend(_TABLE_2_NOTES)
    return section


def capabilities(rated: Mapping[Recording, Sequence[Rated]], settings: Settings) -> Section:
    """Pearson r in every capability, -1 being no label; intervals are in the results."""
    found = {r: by_group(pearson, _scores(rows), **settings.bootstrap) for r, rows in rated.items()}
    names = sorted({name for estimates in found.values() for name in estimates})
    section = Section("capabilities", "Table 2 by capability, Pearson r", ("model", "system", *names))
    for recording, estimates in found.items():
        cells = [value(estimates[name], 3) if name in estimates else "-" for name in names]
        section.rows.append((recording.model, recording.system, *cells))
        section.results.append(
            {"model": recording.model, "system": recording.system}
            | {"capabilities": {name: e.to_json() for name, e in estimates.items()}}
        )
    return section


def _add_to_table_1(
    section: Section,
    recording: Recording,
    rows: Sequence[Judged],
    tests: Mapping[str, Sequence[BaselineTest]],
    settings: Settings,
) -> None:
    """One line of table 1."""
    published = settings.figure("reappraisal", recording) or {}
    measures = (*_MEASURES, "factuality")
    estimates = {m: mean([row.score(m) for row in rows], **settings.bootstrap) for m in measures}
    estimates["harmful"] = share([row.score("harmful") for row in rows])
    section.notes.extend(
        f"{recording.name}: {e.dropped} of {len(rows)} {measure} judgements could not be read"
        for measure, e in estimates.items()
        if e.dropped
    )
    cells: list[str] = []
    for measure in _MEASURES:
        marks = "".join(test.mark for test in tests[measure])
        was = number(published.get(measure), 2) + published.get(f"{measure}_marks", "")
        holm_marks = "".join(test.holm_mark for test in tests[measure])
        cells += [interval(estimates[measure], 2, marks), was, holm_marks]
    cells += [interval(estimates[m], 2) for m in ("harmful", "factuality")]
    section.rows.append((recording.model, recording.system, str(len(rows)), *cells))
    section.results.append(
        {"model": recording.model, "system": recording.system, "published": published}
        | {m: e.to_json() for m, e in estimates.items()}
        | {f"{m}_marks": "".join(t.mark for t in tests[m]) for m in _MEASURES}
        | {f"{m}_holm_marks": "".join(t.holm_mark for t in tests[m]) for m in _MEASURES}
        | {f"{m}_tests": [_test_json(t) for t in tests[m]] for m in _MEASURES}
    )


def _test_json(test: BaselineTest) -> dict[str, Any]:
    p_holm = None if math.isnan(test.p_holm) else test.p_holm
    return {"baseline": test.baseline, **test.comparison.to_json(), "p_holm": p_holm}


def _way(rows: Sequence[Rated]) -> str:
    """Which scores stand for a file: the recorded ones, or our reader's where none was recorded."""
    return "recorded" if any(row.recorded is not None for row in rows) else "read"


def _scores(rows: Sequence[Rated]) -> list[Score]:
    way = _way(rows)
    return [row.score(way) for row in rows]


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks recompute",
        description="Recompute tables 1 and 2 from recorded judgements.",
    )
    parser.add_argument("--recordings", type=Path, required=True, metavar="DIR", help="folder of recordings")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument("--disagreements", action="store_true", help="list texts that we read otherwise")
    parser.add_argument("--panel", metavar="NAME,NAME", help="systems to average (default: published.toml)")
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="clusters, or blocks of them, left out for an interval at most (default 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every bootstrap (default 0)")
    return parser
