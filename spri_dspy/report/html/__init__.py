"""A report of runs as one HTML file: no network, no server, works from a folder or an attachment.

    spri.write_report(["runs/a", "runs/b"], "report.html")

subject: a run and what judged it; examples: its rows and traces; comparing: two and more runs; agreement: judges and
people; tuned: a tuning run; plots: SVG; texts: what is never shown; page: HTML. Jinja is imported when a page is made.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spri_dspy.durable import write_whole
from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics.agreement import Agreement
from spri_dspy.report.figures import numbers_of
from spri_dspy.report.html.subject import Subject, Summary, scored_rows, subjects_of, summarise
from spri_dspy.report.html.texts import Cleaner, Store

MOST_EXAMPLES = 2_000
"""Examples that a page holds, of all its runs together, unless it is asked for all."""

MOST_BYTES = 10_000_000
"""What a page may weigh, unless it is asked for all."""

_FEWEST = 20
_TITLE = "SPRI report"


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        path: of the file.
        bytes: its size.
        shown: examples that can be opened in it, by run.
        of: finished examples, by run.
    """

    path: Path
    bytes: int
    shown: Mapping[str, int]
    of: Mapping[str, int]

    def lines(self) -> list[str]:
        """The same for people."""
        left_out = [name for name, n in self.of.items() if self.shown[name] < n]
        sampled = [
            f"{name}: a sample of {self.shown[name]:,} of {self.of[name]:,} examples" for name in left_out
        ]
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e5 else f"{max(1, round(self.bytes / 1e3))} kB"
        return [f"{self.path}  ({size})", *sampled]

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "shown": dict(self.shown),
            "of": dict(self.of),
        }


def write_report(
    runs: str | Path | Sequence[str | Path], path: str | Path | None = None, *, whole: bool = False
) -> Written:
    """Write one HTML file about a run, or about several that are compared with the first.

    The runs are run directories of `spri run`, `spri judge` or `spri tune`; what judged a run is found beside it.
    Figures are over all examples; the examples that can be opened are at most MOST_EXAMPLES in at most MOST_BYTES,
    drawn at random (always the same) where there are more, and the page says so.

    Args:
        runs: a run directory, or several.
        path: the file; RUN/report.html of the first run by default.
        whole: hold every example and every text as long as it is, whatever the page weighs.

    Raises:
        DataError: there is no run, or a tuning run has not ended.
        UsageError: a run is named twice, tuning runs are compared with others, or the file cannot be written.
    """
    named = [runs] if isinstance(runs, str | Path) else list(runs)
    if not named:
        raise UsageError("name a run directory")
    subjects = subjects_of(named)
    place = Path(path) if path is not None else Path(named[0]) / "report.html"
    check_file(place)
    text, shown, of = _page(subjects, whole)
    return _written(place, text, shown, of)


def write_agreement(found: Agreement, path: str | Path) -> Written:
    """Write what `spri.agree` found as one HTML file: every table, and of each judge a scatter, confusion, calibration.

    Args:
        found: of one judge or several.
        path: the file.

    Raises:
        UsageError: the file cannot be written.
    """
    from spri_dspy.report.agreement import parts
    from spri_dspy.report.html.agreement import agreement_of
    from spri_dspy.report.html.page import render

    check_file(place := Path(path))
    clean = Cleaner()
    tables = [
        {
            "title": part.title,
            "rows": [[clean.text(cell) for cell in row] for row in part.rows],
            "notes": [clean.text(note) for note in part.notes],
        }
        for part in parts(found)
    ]
    judges = [agreement_of(clean.text(j.name), j.ratings.scores(), clean) for j in found.judges]
    shown = {"parts": tables, "judges": [judge for judge in judges if judge]}
    view = {"title": f"Agreement with people · {_TITLE}", "runs": [], "compare": None, "sampled": []}
    return _written(place, render(view | {"agree": shown}, {"runs": [], "texts": []}), {}, {})


def check_file(place: Path) -> None:
    """Refuse a folder where a report's file is to be named.

    Raises:
        UsageError: it is one.
    """
    if place.is_dir():
        raise UsageError(f"{place} is a folder; name a file, such as {place / 'report.html'}")


def _written(place: Path, text: str, shown: Mapping[str, int], of: Mapping[str, int]) -> Written:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, text)
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}") from None
    return Written(place, place.stat().st_size, shown, of)


def _page(subjects: Sequence[Subject], whole: bool) -> tuple[str, dict[str, int], dict[str, int]]:
    """The page, how many examples of each run it holds, and how many there are."""
    tunings = [subject for subject in subjects if subject.is_tuning]
    if tunings and len(subjects) > len(tunings):
        raise UsageError(f"{tunings[0].run.path} is a tuning run; a report is of tunings or of other runs")
    from spri_dspy.report.html.page import render

    if tunings:
        return render(_tuning_view(tunings), {"runs": [], "texts": []}), {}, {}
    return _runs_page(subjects, whole)


def _tuning_view(subjects: Sequence[Subject]) -> dict[str, Any]:
    from spri_dspy.report.html.tuned import tuning_of

    found = [{"name": s.name, "summary": summarise(s), "tuning": tuning_of(s)} for s in subjects]
    return {"title": _title(subjects), "runs": found, "compare": None, "sampled": []}


def _title(subjects: Sequence[Subject]) -> str:
    return f"{', '.join(subject.name for subject in subjects)} · {_TITLE}"


def _runs_page(subjects: Sequence[Subject], whole: bool) -> tuple[str, dict[str, int], dict[str, int]]:
    from spri_dspy.report.html.comparing import comparison_of
    from spri_dspy.report.html.page import render

    summaries = [summarise(subject) for subject in subjects]
    parts = [
        {"name": subject.name, "summary": summary, "tuning": None, **_judged(subject)}
        for subject, summary in zip(subjects, summaries, strict=True)
    ]
    compared = comparison_of(subjects) if len(subjects) > 1 else None
    listed = [row["id"] for part in parts for found in part["agreement"] for row in found["most"]]
    listed += [row["id"] for pair in compared["pairs"] for row in pair["most"]] if compared else []
    of = {part["name"]: len(summary.ids) for part, summary in zip(parts, summaries, strict=True)}
    most = MOST_EXAMPLES
    while True:
        ids = _chosen(summaries, listed, None if whole else most // len(subjects))
        store = Store()
        examples = [_examples(subject, ids, store, whole) for subject in subjects]
        shown = {part["name"]: len(rows) for part, rows in zip(parts, examples, strict=True)}
        view = {
            "title": _title(subjects),
            "runs": parts,
            "compare": compared,
            "sampled": [(name, shown[name], of[name]) for name in of if shown[name] < of[name]],
        }
        runs = [{"name": p["name"], "examples": e} for p, e in zip(parts, examples, strict=True)]
        text = render(view, {"runs": runs, "texts": store.texts})
        size = len(text.encode())
        if whole or size <= MOST_BYTES or most // len(subjects) <= _FEWEST:
            return text, shown, of
        held = min(most, max(map(len, examples)) * len(subjects))
        most = max(_FEWEST * len(subjects), int(held * 0.9 * MOST_BYTES / size))


def _judged(subject: Subject) -> dict[str, Any]:
    """The figures of each judge of a run, and how they agree with people."""
    from spri_dspy.report.html.agreement import agreements

    found: dict[str, Any] = {"scores": [], "agreement": []}
    cleaner = subject.cleaner(False)
    for run in subject.scored:
        try:
            numbers = numbers_of(run)
        except DataError:  # a judge that has given no number yet
            continue
        found["scores"].append(scored_rows(run, numbers, cleaner))
        found["agreement"] += agreements(run, numbers, cleaner)
    return found


def _examples(subject: Subject, ids: set[str], store: Store, whole: bool) -> list[dict[str, Any]]:
    from spri_dspy.report.html.examples import examples_of

    return examples_of(subject, ids, store, whole=whole)


def _chosen(summaries: Sequence[Summary], listed: Sequence[str], most: int | None) -> set[str]:
    """The ids of the examples that a page holds: those that it lists, then others at random, shared ones first."""
    ids = [summary.ids for summary in summaries]
    everyone = ids[0] if len(ids) == 1 else list(dict.fromkeys(name for each in ids for name in each))
    if most is None or len(everyone) <= most:
        return set(map(str, everyone))
    chosen = set(listed[:most])
    rest = array("q", (place for place, name in enumerate(everyone) if name not in chosen))
    random.Random(0).shuffle(rest)
    if len(summaries) > 1:
        known = [set(each) for each in ids]
        rest = sorted(rest, key=lambda place: -sum(everyone[place] in each for each in known))
    return chosen | {str(everyone[place]) for place in rest[: most - len(chosen)]}
