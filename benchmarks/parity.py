"""Recorded runs of the published loop, replayed: through its own settings, and through ours.

Parity: `SPRI.paper` must take every recorded run exactly as it was recorded: as many critiques in each stage, the same
final texts, no output left over. Then the same outputs under our settings, which ask again where a critique has no
score and keep the best candidate. What a second sample would have said was not recorded: the stage's next recorded
output stands in for it if there is one, else the same critique once more. Prompts play no part in either.

    python -m benchmarks parity --recordings DIR [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spri_dspy as spri
from benchmarks.recordings import read_rows
from spri_dspy.errors import DataError, ReplayMiss
from spri_dspy.lms.replay import Recording, replay_lm, script_of
from spri_dspy.lms.spec import CALL
from spri_dspy.strict_json import to_text

if TYPE_CHECKING:
    from dspy.lm15 import Request

STAGES = ("principles", "response")


@dataclass(frozen=True, slots=True)
class Counts:
    """What our settings make of recorded runs.

    Attributes:
        runs: replayed to their end; `left` more asked for an output that nobody recorded.
        accepted, exhausted, ended_unscored: how the two loops of each run ended; together twice the runs.
        candidates: texts that were judged.
        unscored: those whose first critique has no readable score.
        asked_again: second and third samples of those critiques.
        best_differs: runs in which a stage keeps another candidate than its last.
    """

    runs: int = 0
    left: int = 0
    accepted: int = 0
    exhausted: int = 0
    ended_unscored: int = 0
    candidates: int = 0
    unscored: int = 0
    asked_again: int = 0
    best_differs: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Replayed:
    """One file of recorded runs.

    Attributes:
        recorded: its runs.
        equal: how many of them `SPRI.paper` repeats exactly.
        different: ids of the others, with what differs.
        ours: the same outputs under our settings.
    """

    file: str
    recorded: int
    equal: int
    different: tuple[str, ...]
    ours: Counts


class Retold:
    """Recorded outputs by stage, each stage in order, whatever order the stages are asked in.

    A critique that is asked again and has no further output repeats its last one. Anything else that was not
    recorded is a ReplayMiss.
    """

    def __init__(self, calls: Iterable[Mapping[str, str]]) -> None:
        self._outputs: dict[str, deque[str]] = {}
        self._last: dict[str, str] = {}
        for call in calls:
            self._outputs.setdefault(call["stage"], deque()).append(call["output"])

    def answer(self, request: Request) -> str:
        """The stage's next recorded output."""
        call = CALL.get()
        stage, is_again = (call.stage, call.rollout > 0) if call else ("an unnamed stage", False)
        outputs = self._outputs.get(stage)
        if outputs:
            self._last[stage] = outputs.popleft()
        elif not (is_again and stage.startswith("critique_") and stage in self._last):
            raise ReplayMiss(f"nobody recorded another {stage}")
        return self._last[stage]


def replay_file(path: Path) -> Replayed:
    """Replay every run of a file both ways.

    Raises:
        DataError: a row is no recorded run.
    """
    rows = [_checked(row, path) for row in read_rows(path)]
    said = [(row, difference_from_recording(row)) for row in rows]
    different = tuple(f"{row['id']}/{row['dimension_id']}: {what}" for row, what in said if what)
    ours = sum((count_ours(row) for row in rows), Counts())
    return Replayed(path.stem, len(rows), len(rows) - len(different), different, ours)


def difference_from_recording(row: Mapping[str, Any]) -> str:
    """What `SPRI.paper` does otherwise than the recorded run did; "" if nothing."""
    script = script_of(row["calls"])
    try:
        prediction = _replay(spri.SPRI.paper(spri.load_task("reappraisal")), script, row)
    except ReplayMiss as miss:
        return str(miss)
    rounds = Counter(r.stage for r in prediction.trace)
    told = {"principle": "principles", "response": "response"}
    found = {
        **{f"{stage} critiques": rounds[name] == row[f"{stage}_rounds"] for stage, name in told.items()},
        **{f"final {name}": _bare(prediction[name]) == _bare(row[f"final_{name}"]) for name in STAGES},
        "outputs left over": script.left == 0,
    }
    return ", ".join(what for what, is_equal in found.items() if not is_equal)


def count_ours(row: Mapping[str, Any]) -> Counts:
    """What our settings make of one recorded run."""
    try:
        prediction = _replay(spri.SPRI(spri.load_task("reappraisal")), Retold(row["calls"]), row)
    except ReplayMiss:
        return Counts(left=1)
    ends = Counter(prediction.stop_reasons.values())
    trace = prediction.trace
    first = [r for r in trace if r.attempt == 0]
    last = {r.stage: r.candidate for r in trace}
    return Counts(
        runs=1,
        accepted=ends["accepted"],
        exhausted=ends["exhausted"],
        ended_unscored=ends["unscored"],
        candidates=len(first),
        unscored=sum(r.verdict.score is None for r in first),
        asked_again=len(trace) - len(first),
        best_differs=int(any(prediction[stage] != last[stage] for stage in STAGES)),
    )


def main(argv: Sequence[str]) -> int:
    """Replay every recorded run of a folder; 1 if one is not repeated exactly, else 0.

    Raises:
        DataError: the folder holds no recorded runs.
    """
    options = _options(argv)
    paths = sorted(options.recordings.glob("reappraisal/traces/*.jsonl"))
    if not paths:
        raise DataError(
            f"{str(options.recordings)!r} has no reappraisal/traces/*.jsonl; name a folder of recordings"
        )
    files = [replay_file(path) for path in paths]
    total = sum((file.ours for file in files), Counts())
    if options.json:
        found = {"files": [asdict(file) for file in files], "total": asdict(total)}
        sys.stdout.write(to_text(found, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(files, total)))
    return int(any(file.different for file in files))


def _lines(files: Sequence[Replayed], total: Counts) -> Iterable[str]:
    for file in files:
        yield f"{file.file}: replay parity {file.equal} of {file.recorded}; ours: {_told(file.ours)}"
        yield from (f"    differs: {what}" for what in file.different)
    recorded, equal = sum(f.recorded for f in files), sum(f.equal for f in files)
    yield f"total: replay parity {equal} of {recorded}; ours: {_told(total)}"


def _told(counts: Counts) -> str:
    loops = f"{counts.accepted} accepted, {counts.exhausted} exhausted, {counts.ended_unscored} unscored"
    return (
        f"{counts.runs} runs ({counts.left} left the recording); loops {loops}; "
        f"{counts.unscored} of {counts.candidates} first critiques unscored, {counts.asked_again} asked again; "
        f"best is not last in {counts.best_differs} runs"
    )


def _replay(program: spri.SPRI, recording: Recording, row: Mapping[str, Any]) -> Any:
    lm = replay_lm(recording)
    return program.set_lms(base=lm, critic=lm)(post=str(row["id"]), aim=str(row["dimension_id"]))


def _bare(text: Any) -> str:
    return str(text).strip("\n#").strip()


def _checked(row: dict[str, Any], path: Path) -> dict[str, Any]:
    needed = (
        "id",
        "dimension_id",
        "calls",
        "principle_rounds",
        "response_rounds",
        "final_principles",
        "final_response",
    )
    missing = [name for name in needed if name not in row]
    if missing:
        raise DataError(f"{path}: a row lacks {', '.join(missing)}; it is no recorded run")
    return row


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks parity", description="Replay recorded runs of the published loop."
    )
    parser.add_argument("--recordings", type=Path, required=True, metavar="DIR", help="folder of recordings")
    parser.add_argument("--json", action="store_true", help="counts as JSON")
    return parser.parse_args(argv)
