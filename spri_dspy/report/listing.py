"""The runs in a folder: what each is, how far it is, and which LMs answered. It knows run directories and rich."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError
from spri_dspy.report.figures import is_judged, named_lms
from spri_dspy.report.tuning import KIND, REPORT, read
from spri_dspy.runs import MANIFEST, RunDir

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_DEEPEST = 4
"""Folders below the one that is named, which is where runs and what was judged of them lie."""


@dataclass(frozen=True)
class Listed:
    """One run directory.

    Attributes:
        path: of the directory.
        kind: "run", "judged" or "tuning".
        task: the run's task.
        system: the system that answered, the judge of a judged run, the optimizer of a tuning.
        models: the LMs, each once, without their options.
        done, failed: examples whose last record is an answer, or an error.
        of: examples in all, None where the manifest does not say.
        outcome: of a tuning, "improved", "no improvement" or "not ended"; else None.
        created: when it began, as ISO text; "" where the manifest does not say.
    """

    path: Path
    kind: str
    task: str
    system: str
    models: tuple[str, ...]
    done: int
    failed: int
    of: int | None
    created: str
    outcome: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return asdict(self) | {"path": str(self.path), "models": list(self.models)}


def runs_in(folder: str | Path) -> tuple[list[Listed], list[str]]:
    """The runs in a folder and below it, newest first, and what is wrong with those that cannot be read.

    Raises:
        DataError: there is no such folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise DataError(f"there is no folder {top}; name the one that your runs lie in: spri ls DIR")
    found: list[Listed] = []
    damaged: list[str] = []
    for path in _directories(top):
        try:
            found.append(_listed(RunDir.read(path)))
        except (DataError, OSError) as error:
            damaged.append(str(error))
    return sorted(found, key=lambda run: (run.created, str(run.path)), reverse=True), damaged


def _directories(top: Path) -> Iterator[Path]:
    """Run directories, as they are found; links are not followed."""
    for place, folders, files in os.walk(top):
        if MANIFEST in files:
            yield Path(place)
            folders[:] = [name for name in folders if name == "judged"]
        depth = len(Path(place).relative_to(top).parts)
        folders[:] = sorted(name for name in folders if name[0] != ".") if depth < _DEEPEST else []


def _listed(run: RunDir) -> Listed:
    manifest: dict[str, Any] = run.manifest
    kind = "judged" if is_judged(run) else "tuning" if manifest.get("kind") == KIND else "run"
    named = "judge" if kind == "judged" else "system"
    given: Any = manifest.get("input")
    total = given.get("examples") if isinstance(given, dict) else None
    n_finished, n_failed = run.counts
    return Listed(
        run.path,
        kind,
        str(manifest.get("task") or ""),
        str(manifest.get(named) or ""),
        tuple(dict.fromkeys(text.partition("?")[0] for text in named_lms(run).values())),
        n_finished - n_failed,
        n_failed,
        total if isinstance(total, int) else None,
        str(manifest.get("created") or ""),
        _outcome(run) if kind == "tuning" else None,
    )


def _outcome(run: RunDir) -> str:
    """How a tuning ended."""
    if not (run.path / REPORT).is_file():
        return "not ended"
    return "improved" if read(run)["decision"].get("improved") else "no improvement"


class Runs:
    """Runs as a table, a run a row; where the width is too small for that, two lines a run. Nothing is cut."""

    def __init__(self, found: list[Listed]) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.measure import Measurement
        from rich.padding import Padding

        from spri_dspy.report.terminal import as_text

        table = _table(self._found)
        if Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width:
            yield table
            return
        for run in self._found:
            path, *cells = _cells(run)
            yield as_text((path, "bold"))
            yield Padding(as_text(" · ".join(filter(None, cells))), (0, 0, 0, 2), expand=False)


def _table(found: list[Listed]) -> Table:
    from rich.table import Table

    from spri_dspy.report.terminal import as_text

    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("run", "kind", "task", "by", "LMs", "state", "begun"):
        shown.add_column(name)
    for run in found:
        shown.add_row(*map(as_text, _cells(run)))
    return shown


def _cells(run: Listed) -> tuple[str, ...]:
    """What a run is, in words."""
    begun = run.created[:16].replace("T", " ") + (" UTC" if run.created.endswith("+00:00") else "")
    return str(run.path), run.kind, run.task, run.system, ", ".join(run.models), _done(run), begun


def _done(run: Listed) -> str:
    """How far a run is, in few words: "12 done", "3 of 12 done", "11 done, 1 failed"; of a tuning, how it ended."""
    if run.outcome is not None:
        return run.outcome
    of = "" if run.of is None or run.of == run.done + run.failed else f" of {run.of:,}"
    return f"{run.done:,}{of} done" + (f", {run.failed:,} failed" if run.failed else "")
