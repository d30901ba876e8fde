"""A run and what judged it, read together: whose examples a page shows, and what they came to in all.

It knows run directories, totals and figures; it knows no page.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError, SpriError, UsageError
from spri_dspy.export.card import Tally, public_lms, seeds_of, without_path
from spri_dspy.metrics.columns import Texts
from spri_dspy.progress import Totals, dollars, flagged
from spri_dspy.records import Estimate, Record
from spri_dspy.report.figures import (
    Finding,
    Numbers,
    findings_of,
    has_judgements,
    is_judged,
    is_scored_offline,
    named_lms,
)
from spri_dspy.report.html.texts import LONGEST, Cleaner
from spri_dspy.report.tuning import KIND
from spri_dspy.runs import MANIFEST, RunDir

if TYPE_CHECKING:
    from numpy.typing import NDArray

JUDGED = "judged"
"""The folder of a run in which its judged runs lie."""


@dataclass
class Subject:
    """One run that a page is about.

    Attributes:
        run: whose answers are shown; the judged run itself if the run that it was made from is not there.
        judged: the judged runs whose numbers are shown beside the answers.
        name: how the page calls it.
        damaged: what is wrong with judged runs that cannot be read.
    """

    run: RunDir
    judged: list[RunDir]
    name: str
    damaged: list[str] = field(default_factory=list)

    @property
    def is_tuning(self) -> bool:
        """True for a tuning run, which has trials and no answers of its own."""
        return self.run.manifest.get("kind") == KIND

    @property
    def scored(self) -> list[RunDir]:
        """The runs that hold numbers about this one's answers."""
        own = [self.run] if not is_judged(self.run) and has_judgements(self.run) else []
        return [*own, *self.judged]

    def cleaner(self, whole: bool) -> Cleaner:
        """What makes its texts fit to be shown."""
        manifests = [run.manifest for run in (self.run, *self.judged)]
        return Cleaner(manifests, None if whole else LONGEST)


def subjects_of(paths: Sequence[str | Path]) -> list[Subject]:
    """The runs of a page, each with a name of its own.

    Raises:
        DataError: one is no run.
        UsageError: one is named twice.
    """
    places = [Path(path) for path in paths]
    real = [place.resolve() for place in places]
    twice = [str(place) for place, found in zip(places, real, strict=True) if real.count(found) > 1]
    if twice:
        raise UsageError(f"the run {twice[0]} is named twice; name each run once")
    names = _names(real)
    return [_subject(place, Cleaner().text(name)) for place, name in zip(places, names, strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart; no folder of this machine beyond that."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [path.name for path in paths]


def _subject(path: Path, name: str) -> Subject:
    run = RunDir.read(path)
    if not is_judged(run):
        judged, damaged = _judged(path)
        return Subject(run, judged, name, damaged)
    above = path.resolve().parent
    if above.name == JUDGED and (above.parent / MANIFEST).is_file():
        return Subject(RunDir.read(above.parent), [run], name)
    return Subject(run, [run], name)


def _judged(path: Path) -> tuple[list[RunDir], list[str]]:
    """The judged runs of a run, oldest first, and what is wrong with the others."""
    found: list[RunDir] = []
    damaged: list[str] = []
    for folder in sorted((path / JUDGED).glob(f"*/{MANIFEST}")):
        try:
            found.append(RunDir.read(folder.parent))
        except DataError as error:
            damaged.append(str(error).replace(str(path), path.name))
    return sorted(found, key=lambda run: str(run.manifest.get("created"))), damaged


def judge_name(run: RunDir) -> str:
    """Which judge gave a run's numbers, and which LM it asked."""
    if not is_judged(run):
        return "the run's own judgements"
    version = run.manifest.get("judge_version") or run.manifest["judge"]
    lms = ", ".join(dict.fromkeys(text.partition("?")[0] for text in public_lms(run.manifest).values()))
    return f"{version} by {lms}" if lms else str(version)


@dataclass
class Summary:
    """What a run was and came to, over all its examples.

    Attributes:
        facts: names and values, for people.
        notes: what a reader must know first.
        offline: True if the offline LM answered: its counts are shown, and no figures.
        done, failed: examples.
        stops: by stage how its loops ended.
        candidates: by stage how many candidates were written for an example, and how often.
        cost: names and values, for people.
        errors, flags: what went wrong, how often.
        groups: examples by group.
        ids: of all finished examples, in the order in which they finished.
    """

    facts: list[tuple[str, str]]
    notes: list[str]
    offline: bool
    done: int = 0
    failed: int = 0
    stops: dict[str, dict[str, int]] = field(default_factory=dict)
    candidates: dict[str, dict[int, int]] = field(default_factory=dict)
    cost: list[tuple[str, str]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    ids: Sequence[str] | NDArray[Any] = ()


def summarise(subject: Subject) -> Summary:
    """Read a run once, from its first record to its last."""
    run, tally = subject.run, Tally()
    totals = Totals(_prices(run))
    seconds = array("d")
    candidates: dict[str, Counter[int]] = {}
    groups: Counter[str] = Counter()
    ids = Texts()
    for record in run.records():
        totals.add(record)
        tally.add(record, None)
        seconds.append(float(record.seconds))
        ids.add(record.id)
        groups[record.group or ""] += 1
        for stage, number in _candidates(record).items():
            candidates.setdefault(stage, Counter())[number] += 1
    cleaner = subject.cleaner(False)
    summary = Summary(_facts(subject, tally, cleaner), _notes(subject, cleaner), is_answered_offline(run))
    summary.done, summary.failed, summary.ids = tally.ok, tally.failed, ids.array()
    summary.stops = {cleaner.text(stage): dict(ends) for stage, ends in tally.stops.items()}
    summary.candidates = {cleaner.text(s): dict(sorted(c.items())) for s, c in candidates.items()}
    summary.errors = {cleaner.message(name): n for name, n in tally.errors.most_common()}
    summary.flags = {cleaner.message(flagged(flag)): n for flag, n in totals.flags.most_common()}
    summary.groups = {cleaner.text(name): n for name, n in groups.items()} if len(groups) > 1 else {}
    summary.cost = list(_cost(totals, tally, seconds, cleaner))
    return summary


def is_answered_offline(run: RunDir) -> bool:
    """True if the offline LM wrote the answers."""
    return any(text.partition("?")[0] == "offline" for text in named_lms(run).values())


def _candidates(record: Record) -> dict[str, int]:
    """How many candidates of each stage the critic saw."""
    found: Counter[str] = Counter()
    for step in record.trace:
        if not step.attempt and step.verdict is not None:
            found[step.stage] += 1
    return found


def _prices(run: RunDir) -> dict[str, tuple[float, float]]:
    """Dollars a token by role, of the roles whose price is known."""
    from spri_dspy.lms.budget import price_of
    from spri_dspy.lms.spec import parse_lm

    named = {role: text for role, text in named_lms(run).items() if text}
    if "base" in named:
        named.setdefault("critic", named["base"])
    found: dict[str, tuple[float, float]] = {}
    for role, text in named.items():
        try:
            found[role] = price_of(parse_lm(text))
        except SpriError:  # a price that is not known, or a string that another version wrote
            continue
    return found


def _facts(subject: Subject, tally: Tally, cleaner: Cleaner) -> list[tuple[str, str]]:
    manifest = subject.run.manifest
    given = manifest.get("input")
    source: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    total = source.get("examples")
    of = f" of {total:,}" if isinstance(total, int) and total != tally.ok + tally.failed else ""
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    settings = manifest.get("settings")
    chosen: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}
    facts = {
        "status": "" if subject.is_tuning else f"{tally.ok:,}{of} done{failed}",
        "task": without_path(str(manifest.get("task") or "")),
        "system": without_path(str(manifest.get("system") or "")),
        **{f"{role} LM": lm for role, lm in public_lms(manifest).items()},
        "data": str(source.get("file") or ""),
        "begun": str(manifest.get("created") or "").replace("T", " ").replace("+00:00", " UTC"),
        "settings": ", ".join(
            f"{name}={without_path(str(value))}"
            for name, value in chosen.items()
            if isinstance(value, str | int | float) and value is not False
        ),
        "seeds": seeds_of(manifest) if manifest.get("seeds") else "",
        "random seed": str(manifest.get("seed", "")),
        "program": str(manifest.get("program") or ""),
        "versions": ", ".join(f"{name} {number}" for name, number in _part(manifest, "versions").items()),
    }
    shown = [(cleaner.message(name), cleaner.message(value)) for name, value in facts.items() if value]
    judges = [cleaner.message(judge_name(run)) for run in subject.judged]
    return [*shown, *(("judge", judge) for judge in dict.fromkeys(judges))]


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = manifest.get(name)
    return found if isinstance(found, Mapping) else {}


def _notes(subject: Subject, cleaner: Cleaner) -> list[str]:
    notes = [f"not shown: {why}" for why in subject.damaged]
    leaks = subject.run.manifest.get("leaks")
    if isinstance(leaks, list) and leaks:
        notes.append(f"marked: evaluation inputs were among the seeds, such as {leaks[0]}")
    if is_answered_offline(subject.run):
        notes.append(
            "The offline LM answered: rule-based text, not a language model. Counts are shown and no figures; "
            "they would say nothing about quality."
        )
    return [cleaner.message(note) for note in notes]


def _cost(
    totals: Totals, tally: Tally, seconds: Sequence[float], cleaner: Cleaner
) -> Iterator[tuple[str, str]]:
    import numpy as np

    used = totals.usage
    for role, usage in tally.usage.items():
        cached = f", {usage.cached:,} from the cache" if usage.cached else ""
        yield f"{cleaner.text(role)} calls", f"{usage.calls:,}{cached}"
    yield "tokens in", f"{used.input_tokens:,}"
    yield "tokens out", f"{used.output_tokens:,}"
    yield "dollars", "no known price" if totals.usd is None else dollars(totals.usd)
    if seconds:
        yield "time an example", f"median {np.median(seconds):.1f} s, longest {max(seconds):.1f} s"


def scored_rows(run: RunDir, numbers: Mapping[str, Numbers], cleaner: Cleaner) -> dict[str, Any]:
    """Figures of the numbers that a judge gave, as a table; of scores by the offline LM there are counts alone."""
    offline = is_scored_offline(run)
    found = findings_of(run, numbers)
    rows = [row for each in found for row in (_counts(each, cleaner) if offline else _rows(each, cleaner))]
    return {"judge": cleaner.message(judge_name(run)), "offline": offline, "rows": rows}


def _counts(each: Finding, cleaner: Cleaner) -> list[dict[str, Any]]:
    e = each.overall
    return [{"criterion": cleaner.text(each.criterion), "group": "all", "n": e.n, "of": e.n + e.dropped}]


def _rows(each: Finding, cleaner: Cleaner) -> Iterator[dict[str, Any]]:
    name = cleaner.text(each.criterion)
    yield estimate_row(each.overall, name, "all")
    for group, estimate in each.groups.items():
        yield estimate_row(estimate, name, cleaner.text(group))
    if each.gap:
        yield estimate_row(each.gap, name, "order gap")


def estimate_row(estimate: Estimate, criterion: str, group: str) -> dict[str, Any]:
    """An estimate as a row of a table of figures."""
    return {"criterion": criterion, "group": group, **estimate.to_json(), "of": estimate.n + estimate.dropped}
