"""The runs in a folder: what each is, how far it is, and which LMs answered. It knows run directories and rich."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError
from spri_dspy.report.figures import is_judged, named_lms
from spri_dspy.runs import MANIFEST, RunDir

if TYPE_CHECKING:
    from rich.console import RenderableType

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
        raise DataError(f"{top} is no folder; name the one that your runs lie in")
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
    kind = "judged" if is_judged(run) else "tuning" if manifest.get("kind") == "tuning" else "run"
    named = {"judged": "judge", "tuning": "optimizer"}.get(kind, "system")
    given: Any = manifest.get("input")
    total = given.get("examples") if isinstance(given, dict) else None
    finished, done = run.finished(), run.finished(retry_errors=True)
    return Listed(
        run.path,
        kind,
        str(manifest.get("task") or ""),
        str(manifest.get(named) or ""),
        tuple(dict.fromkeys(text.partition("?")[0] for text in named_lms(run).values())),
        len(done),
        len(finished) - len(done),
        total if isinstance(total, int) else None,
        str(manifest.get("created") or ""),
    )


def table(found: list[Listed]) -> Iterator[RenderableType]:
    """The runs as a table, a run a row; long paths and names are folded, never cut."""
    from rich.table import Table

    from spri_dspy.report.terminal import as_text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "kind", "task", "system", "LMs", "done", "failed", "when"):
        shown.add_column(name, overflow="fold", justify="right" if name in ("done", "failed") else "left")
    for run in found:
        of = "" if run.of is None or run.of == run.done + run.failed else f"/{run.of}"
        when = run.created[:16].replace("T", " ")
        cells = (
            str(run.path),
            run.kind,
            run.task,
            run.system,
            ", ".join(run.models),
            f"{run.done}{of}",
            str(run.failed or ""),
            when,
        )
        shown.add_row(*map(as_text, cells))
    yield shown
