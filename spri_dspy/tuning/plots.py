"""A search as a picture: the metric of every program that was tried against what had been spent by then, and the end.

Left, the search split: one point a program with its 95 % interval, the best so far as a line. The best of many is lucky
there. Right, what counts: the start and the tuned program on the holdout, which the search never saw, and on the test
split.

Figures are made without pyplot, so that no window system and no state of a notebook matters. Nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import PrerequisiteError

if TYPE_CHECKING:
    from spri_dspy.tuning.report import TuningReport

# Of Okabe and Ito's colours, which colour-blind readers tell apart.
_START, _TRIED, _TUNED, _GREY, _WARNING = "#000000", "#56B4E9", "#D55E00", "#666666", "#8B0000"
_SIZE, _DOTS_PER_INCH = (10.0, 4.6), 150
_STEP = 0.022  # of the width: how far points stand apart


@dataclass(frozen=True)
class Point:
    """One program that was tried.

    Attributes:
        spent: what had been spent when it was known; see `points`.
        value, low, high: its metric on the search rows; the ends are nan where they are not known.
        is_start: True for the program that the search began with.
        is_winner: True for the one that came to the decision.
    """

    spent: float
    value: float
    low: float
    high: float
    is_start: bool = False
    is_winner: bool = False


def points(report: TuningReport) -> tuple[list[Point], str]:
    """The programs that have a value, in the order of what was spent, and what that is counted in.

    A seed search pays by the score, and says how many had been paid for when a program was first known. All others are
    counted in LM calls, by the time the optimizer first scored a program; where answers came from an earlier start's
    cache, that is the start's total.
    """
    found: list[Point] = []
    in_scores = any("paid" in trial for trial in report.trials)
    for trial in report.trials:
        spent = trial.get("paid" if in_scores else "calls_then", trial.get("calls"))
        if trial["value"] is not None and spent is not None:
            low, high = (_number(trial.get(name)) for name in ("low", "high"))
            is_winner = trial["program"] == report.winner
            found.append(Point(spent, trial["value"], low, high, trial.get("name") == "start", is_winner))
    return sorted(found, key=lambda p: p.spent), "scores paid for" if in_scores else "LM calls"


def draw(report: TuningReport, path: str | Path, *, title: str, remark: str = "") -> None:
    """Write the picture as PNG.

    Args:
        report: of a search by any optimiser.
        path: where to.
        title: the heading; what the decision was is added.
        remark: what a reader must know first, in the colour of a warning.

    Raises:
        PrerequisiteError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PrerequisiteError('plots need matplotlib: pip install "spri-dspy[plot]"') from None
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    said = "improved" if report.improved else "no improvement: the start stands"
    figure.suptitle(f"{title}: {said}", fontsize=12, x=0.01, ha="left")
    if remark:
        figure.supxlabel(remark, fontsize=9, color=_WARNING, x=0.01, ha="left")
    _search(left, report)
    _ends(right, report)
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)


def _search(axes: Any, report: TuningReport) -> None:
    found, unit = points(report)
    axes.set_title(f"On the search split: {len(found)} programs tried", fontsize=10, loc="left")
    axes.set_xlabel(f"{unit} when a program was known")
    axes.set_ylabel(report.metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _tidy(axes)
    if not found:
        axes.text(0.5, 0.5, "the search did not get here", ha="center", transform=axes.transAxes, color=_GREY)
        return
    found = _apart(found)
    best, line = -math.inf, list[float]()
    for point in found:
        best = max(best, point.value)
        line.append(best)
    reach = [p.spent for p in found] + [found[-1].spent + _STEP * _width(found)]
    axes.step(reach, [*line, best], where="post", color=_GREY, linewidth=1, label="best so far", zorder=1)
    kinds = (
        ([p for p in found if not p.is_start and not p.is_winner], _TRIED, "o", "tried"),
        ([p for p in found if p.is_start], _START, "s", "start"),
        ([p for p in found if p.is_winner], _TUNED, "D", "came to the decision"),
    )
    for chosen, colour, marker, label in kinds:
        if chosen:
            _marks(axes, chosen, colour, marker, label)
    axes.legend(fontsize=8, frameon=False, loc="best")


def _apart(found: Sequence[Point]) -> list[Point]:
    """The points, those that would hide each other a little to the right."""
    step, last, moved = _STEP * _width(found), -math.inf, list[Point]()
    for point in found:
        last = max(point.spent, last + step)
        moved.append(replace(point, spent=last))
    return moved


def _width(found: Sequence[Point]) -> float:
    return found[-1].spent - found[0].spent or 1.0


def _marks(axes: Any, chosen: Sequence[Point], colour: str, marker: str, label: str) -> None:
    x, y = [p.spent for p in chosen], [p.value for p in chosen]
    ends = [[_length(p.value - p.low) for p in chosen], [_length(p.high - p.value) for p in chosen]]
    axes.errorbar(
        x,
        y,
        yerr=ends,
        fmt=marker,
        color=colour,
        markersize=5,
        elinewidth=1,
        capsize=2,
        label=label,
        zorder=2,
    )


def _ends(axes: Any, report: TuningReport) -> None:
    """Start and tuned program, on the holdout and on the test split."""
    decision = report.decision
    rows: list[tuple[str, list[tuple[str, Any]]]] = [
        ("holdout", [("start", decision.start), ("tuned", decision.candidate)]),
        ("test", [("start", report.test.get("before")), ("tuned", report.test.get("after"))]),
    ]
    axes.set_title("On examples that the search never saw", fontsize=10, loc="left")
    places, names = [], []
    for number, (name, pair) in enumerate(rows):
        places.append(number + 0.5)
        shown = [each.n for _, each in pair if each is not None]
        names.append(f"{name}\n{f'{max(shown)} examples' if shown else 'nothing'}")
        for shift, (kind, estimate) in zip((0.35, 0.65), pair, strict=True):
            if estimate is None or math.isnan(estimate.value):
                continue
            colour, marker = (_START, "s") if kind == "start" else (_TUNED, "D")
            known = Point(number + shift, estimate.value, estimate.low, estimate.high)
            _marks(axes, [known], colour, marker, kind if number == 0 else "_")
            axes.annotate(
                f"{estimate.value:.3g}",
                (number + shift, estimate.value),
                xytext=(6, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
            )
    axes.set_xlim(0, len(rows))
    axes.set_xticks(places, names)
    axes.axvline(1, color="#dddddd", linewidth=1)
    _tidy(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="best")


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _length(value: float) -> float:
    """The length of an error bar: 0 where the end is not known."""
    return 0.0 if math.isnan(value) else max(0.0, value)
