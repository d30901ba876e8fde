"""Recorded judgements on disk, read into rows: what was judged, what the judge wrote, what was made of it.

A folder of recordings holds `reappraisal/judged/MODEL__SYSTEM.jsonl`, `reappraisal/traces/MODEL__*.jsonl`,
`reappraisal/human*.jsonl` and `rubrics/judge_scores/MODEL__SYSTEM.jsonl`; any part may be missing. Models
and systems are whatever the file names say. It knows the rows' fields and the readers; statistics are in
`recompute`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spri_dspy.errors import DataError
from spri_dspy.parsing import read_choice, read_score, read_score_as_published
from spri_dspy.records import Score

NO_LABEL = -1
"""The human score that the recordings write where there is none."""

GATE, MOST_CRITIQUES = 4, 4
"""The recorded loops accept at this score and end after this many critiques."""

_HARMFUL = {"harmful": 1.0, "yes": 1.0, "not harmful": 0.0, "no": 0.0}
_FACTUAL = {"yes": 1.0, "minor error": 0.5, "no": 0.0}


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of recorded rows of one model under one system."""

    model: str
    system: str
    path: Path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Judged:
    """One judged reappraisal; a number is None where the judge's text could not be read.

    `alignment` is 1 to 10, `empathy` 1 to 5, `harmful` 0 or 1, `factuality` 0, 0.5 or 1.
    """

    id: str
    post: str
    dimension: str
    response: str
    alignment: float | None
    empathy: float | None
    harmful: float | None
    factuality: float | None

    def score(self, measure: str) -> Score:
        """One of the four numbers as a Score; judgements of one post are one cluster."""
        return Score(self.id, getattr(self, measure), cluster=self.post)


@dataclass(frozen=True, slots=True)
class Rated:
    """One response rated 1 to 5 by a human and by a judge.

    Attributes:
        instance: the instance it answers; several responses share one.
        place: 0 for the instance's first row in the file, 1 for the next.
        capability: the instance's group.
        human: as recorded, NO_LABEL included; None if the row has none.
        raw: what the judge wrote.
        recorded: the score that the recording took from it; may be a fraction.
        read: what our reader takes from it.
    """

    instance: str
    place: int
    capability: str | None
    human: float | None
    raw: str
    recorded: float | None
    read: int | None

    def score(self, source: str, key: str | None = None, *, keep_no_label: bool = False) -> Score:
        """The row as a Score.

        Args:
            source: "recorded", "read", or "filled" (recorded, else read).
            key: the id if not instance and place.
            keep_no_label: True takes NO_LABEL for a human's score of -1, as published.
        """
        filled = self.recorded if self.recorded is not None else self.read
        value = {"recorded": self.recorded, "read": self.read, "filled": filled}[source]
        label = self.human if keep_no_label or self.human != NO_LABEL else None
        return Score(key or f"{self.instance}#{self.place}", value, label, self.capability, self.instance)


class Difference(NamedTuple):
    """One judgement that our reader and the recording read differently, and why."""

    file: str
    id: str
    read: int | None
    recorded: float | None
    reason: str
    excerpt: str


class Alignment(NamedTuple):
    """Which rows of several recordings judge the same response.

    Attributes:
        keys: for every recording a key per row, None where it cannot be said; equal keys, same response.
        how: on what grounds, in words.
    """

    keys: list[list[str | None]]
    how: str


def find(folder: Path) -> list[Recording]:
    """Every MODEL__SYSTEM.jsonl of a folder, by name; none if there is no such folder."""
    named = [(path, path.stem.partition("__")) for path in sorted(folder.glob("*__*.jsonl"))]
    return [Recording(model, system, path) for path, (model, _, system) in named if model and system]


def models_of(recordings: Iterable[Recording]) -> list[str]:
    """The models of recordings, in their order."""
    return list(dict.fromkeys(r.model for r in recordings))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file.

    Raises:
        DataError: a line is no JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: not a JSON object")
            yield row


def read_judged(path: Path) -> list[Judged]:
    """Read judged reappraisals.

    Raises:
        DataError: a row has no id.
    """
    return [
        Judged(
            f"{_text(row, 'id', path)}/{row.get('dimension_id')}",
            _text(row, "id", path),
            str(row.get("dimension_id")),
            str(row.get("response") or ""),
            read_score(str(row.get("alignment_raw") or ""), 1, 10),
            read_score(str(row.get("empathy_raw") or ""), 1, 5),
            _choice(row.get("harmful_raw"), _HARMFUL),
            _choice(row.get("factuality_raw"), _FACTUAL),
        )
        for row in read_rows(path)
    ]


def read_rated(path: Path) -> list[Rated]:
    """Read judged responses that humans scored too.

    Raises:
        DataError: a row has no id, or a score that is no number.
    """
    seen: Counter[str] = Counter()
    rated: list[Rated] = []
    for row in read_rows(path):
        instance = _text(row, "id", path)
        raw = str(row.get("judge_raw") or "")
        rated.append(
            Rated(
                instance,
                seen[instance],
                None if row.get("capability") is None else str(row["capability"]),
                _number(row, "human_score", path),
                raw,
                _number(row, "recorded_score", path),
                read_score(raw),
            )
        )
        seen[instance] += 1
    return rated


def differences(name: str, rows: Sequence[Rated]) -> list[Difference]:
    """Every row of a file that we read otherwise than the recording, with the reason."""
    return [
        Difference(name, f"{r.instance}#{r.place}", r.read, r.recorded, _reason(r), _excerpt(r.raw))
        for r in rows
        if r.read != r.recorded
    ]


def align(recordings: Sequence[Sequence[Rated]]) -> Alignment:
    """Find rows of the same response in recordings of the same instances, as far as that can be proven.

    One row an instance needs no proof. Several are taken to be in one order where the humans' scores
    come in the same order for every instance and shuffled files would show that less than once in a
    million times. Failing that, a row counts where its human score is unique in its instance.
    """
    tables = [_by_instance(rows) for rows in recordings]
    instances = set.intersection(*(set(t) for t in tables)) if tables else set()
    sequences = {i: [tuple(t[i]) for t in tables] for i in instances}
    several = [s for s in sequences.values() if any(len(labels) > 1 for labels in s)]
    same_order = all(len(set(s)) == 1 for s in several)
    surprise = sum(_surprise(s[0]) for s in several) * (len(tables) - 1)
    if same_order and (not several or surprise > math.log(1e6)):
        keys = [
            [f"{r.instance}#{r.place}" if r.instance in instances else None for r in rows]
            for rows in recordings
        ]
        how = "one order in all files: human scores agree row by row" if several else "one row an instance"
        return Alignment(keys, how)
    unique = {i: _unique_labels(s) for i, s in sequences.items()}
    keys = [
        [f"{r.instance}={r.human:g}" if r.human in unique.get(r.instance, ()) else None for r in rows]
        for rows in recordings
    ]
    return Alignment(keys, "orders differ: only rows whose human score is unique in their instance")


def trace_critiques(path: Path) -> Iterator[tuple[str, bool | None]]:
    """Yield every critique of recorded runs and whether it was refined upon; None if rounds were used up."""
    for row in read_rows(path):
        rounds: Counter[str] = Counter()
        calls = row.get("calls") or []
        for call, following in zip(calls, [*calls[1:], {}], strict=True):
            stage = str(call.get("stage", ""))
            if stage.startswith("critique_"):
                rounds[stage] += 1
                refined = str(following.get("stage", "")).startswith("refine_")
                yield str(call.get("output") or ""), None if rounds[stage] >= MOST_CRITIQUES else refined


def fits_trace(text: str, refined: bool | None) -> bool:
    """True if what our reader reads explains what the recorded loop did next, and both readers agree."""
    score = read_score(text)
    passes = score is None or score >= GATE  # the recorded loop ended on a critique without a score
    return score == read_score_as_published(text) and (refined is None or refined != passes)


def normalised(text: str) -> str:
    """Words in lower case, single-spaced: for finding the same response in two files."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _by_instance(rows: Sequence[Rated]) -> Mapping[str, list[float | None]]:
    table: dict[str, list[float | None]] = {}
    for row in rows:
        table.setdefault(row.instance, []).append(row.human)
    return table


def _surprise(labels: Sequence[float | None]) -> float:
    """Minus the log of the chance that a shuffle leaves these labels in their order."""
    same = math.prod(math.factorial(n) for n in Counter(labels).values())
    return math.log(math.factorial(len(labels)) / same)


def _unique_labels(sequences: Sequence[tuple[float | None, ...]]) -> set[float | None]:
    """Labels that name one response of an instance; a file may lack rows of the fullest, not add any."""
    fullest = Counter(max(sequences, key=len))
    if any(Counter(s) - fullest for s in sequences):
        return set()
    return {label for label, n in fullest.items() if n == 1 and label is not None}


def _reason(row: Rated) -> str:
    tags = [float(t) for t in re.findall(r"<score>[\s\[]{0,4}([0-9]{1,6}(?:\.[0-9]{1,6})?)", row.raw)]
    in_range = [t for t in tags if 1 <= t <= 5]
    if row.recorded is None:
        return "a score, but not in the tag that was asked for"
    if len(set(tags)) > 1 and in_range[:1] == [row.recorded]:
        return "tags that differ: the recording took the first in range, we the first"
    if row.recorded != int(row.recorded):
        return "a fraction, on a scale of whole numbers"
    return "other"


def _excerpt(raw: str) -> str:
    """The last tag, else the end, on one line."""
    start = raw.rfind("<score")
    text = raw[start : start + 40] if start >= 0 else raw[-40:]
    return " ".join(text.split())


def _choice(raw: Any, meanings: Mapping[str, float]) -> float | None:
    choice = read_choice(str(raw or ""), list(meanings))
    return None if choice is None else meanings[choice]


def _text(row: Mapping[str, Any], field: str, path: Path) -> str:
    value = row.get(field)
    if not isinstance(value, str | int) or value == "":
        raise DataError(f"{path}: a row has {field} = {value!r}; it must be a text")
    return str(value)


def _number(row: Mapping[str, Any], field: str, path: Path) -> float | None:
    value = row.get(field)
    if value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ):
        return value
    raise DataError(f"{path}: row {row.get('id')!r} has {field} = {value!r}; it must be a number or null")
