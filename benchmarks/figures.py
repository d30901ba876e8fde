"""Plots of a table: every measure with its intervals, groups as a heat map, the published figures of task 3.

Figures are made without pyplot, so that no window system and no state of a notebook matters; `png` gives the bytes.
Nothing is computed here. The title says whether the offline stand-in had a part in the numbers.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.layout import STOP_REASONS, sections, short_reason
from benchmarks.published import published_sets
from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.records import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.tables import Entry, Measure, Table

# Okabe and Ito's colours, told apart by colour-blind readers too; the darker ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_WARNING = "#8B0000"
_GREY = "#666666"
_ROW, _PANEL, _NAMES, _FRAME = (
    0.32,
    2.7,
    2.2,
    2.1,
)  # inches: a row, a panel's width, system names, title and legend
_DOTS_PER_INCH = 150
_SHORTEST = 0.2  # of a measure's scale: the shortest axis


def need_matplotlib() -> None:
    """Nothing, where plots can be drawn.

    Raises:
        PrerequisiteError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401 - whether it is there
    except ImportError:
        raise PrerequisiteError('plots need matplotlib: pip install "spri-dspy[plot]"') from None


def png(figure: Figure) -> bytes:
    """A figure as PNG, 150 dots an inch."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=_DOTS_PER_INCH)
    return written.getvalue()


def overview(table: Table) -> Figure:
    """A panel a measure: systems from top to bottom, values with 95 % intervals, published figures as diamonds.

    Of a table in which the offline stand-in answered or judged: how many loops ended in which way, and no figures.
    """
    if table.is_offline:
        return _stop_reasons(table)
    measures = table.definition.measures
    bases = list(dict.fromkeys(e.cell.base for e in table.entries))
    systems = list(dict.fromkeys(e.cell.system for e in table.entries))
    width, height = _NAMES + _PANEL * len(measures), _FRAME + _ROW * max(3, len(table.entries))
    figure = _figure(width, height, table.definition.title, _remark(table))
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        _panel(axes, table, measure, bases, systems)
    panels[0].set_yticks(range(len(systems)), systems)
    panels[0].set_ylim(len(systems) - 0.5, -0.5)
    _legend(figure, panels, table)
    return figure


def _stop_reasons(table: Table) -> Figure:
    """How the loops of each system ended, as stacked bars of counts."""
    from matplotlib.ticker import MaxNLocator

    counts = sections(table)[0].results
    names = [f"{row['base']}  {row['system']}" for row in counts]
    figure = _figure(7.5, _FRAME + _ROW * max(3, len(names)), table.definition.title, _remark(table))
    axes = figure.subplots()
    left = [0] * len(names)
    for reason, colour in zip(STOP_REASONS, COLOURS, strict=False):
        widths = [row["stop_reasons"][reason] for row in counts]
        axes.barh(names, widths, left=left, color=colour, label=reason, height=0.6)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("loops that ended so (count); systems without a critic have none", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(STOP_REASONS), fontsize=8, frameon=False)
    return figure


def by_group(table: Table) -> Figure:
    """The definition's grouped measure as a heat map of systems by groups.

    Raises:
        UsageError: nothing in the table is by group, or the offline stand-in answered or judged.
    """
    if table.is_offline:
        raise UsageError(
            "the offline stand-in answered or judged here: there are no figures to show by group"
        )
    if not table.groups or table.definition.grouped is None:
        raise UsageError("the examples of this table are of one group, so there is nothing to show by group")
    name, noun, heading = table.definition.grouped
    measure = table.definition.measure(name)
    several = len({e.cell.base for e in table.entries}) > 1
    rows = [f"{e.cell.base}  {e.cell.system}" if several else e.cell.system for e in table.entries]
    values = [[_value(e.groups.get(group)) for group in table.groups] for e in table.entries]
    reasons = sorted({e.reason or "" for entry in table.entries for e in entry.groups.values()})
    has_values = any(math.isfinite(value) for row in values for value in row)
    remark = "; ".join(
        part for part in (_remark(table), "" if has_values else f"no value: {', '.join(reasons)}") if part
    )
    title = f"{table.definition.title}: {heading} by {noun}"
    return heat_map(title, remark, rows, table.groups, values, heading, measure.digits)


def published_mc2(table: Table) -> Figure:
    """The published figures of task 3 as a heat map: for reference, no result of the table's runs."""
    found = published_sets()
    models = list(next(iter(found.values())))
    columns = [f"{model}, {data}" for model in models for data in ("Dolly", "MixInstruct")]
    values = [[_number(figure) for model in models for figure in row[model]] for row in found.values()]
    title = "Published, for reference: TruthfulQA MC2 of tuned models"
    return heat_map(title, "no result of these runs", list(found), columns, values, "MC2 (%)", 1)


def heat_map(
    title: str,
    remark: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    unit: str,
    digits: int,
) -> Figure:
    """A grid of numbers with colours; nan is an empty cell with a dash.

    Args:
        title: the heading.
        remark: a line below it, empty for none.
        rows: their names.
        columns: their names.
        values: one row of numbers a name.
        unit: of the colour bar.
        digits: behind the point.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    numbers = np.array(values, dtype=float)
    figure = _figure(3.4 + 0.78 * len(columns), 2.6 + 0.36 * len(rows), title, remark)
    axes = figure.subplots()
    known = numbers[np.isfinite(numbers)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1)
    colours = colormaps["cividis"].with_extremes(bad="#EEEEEE")
    image = axes.imshow(np.ma.masked_invalid(numbers), cmap=colours, norm=scale, aspect="auto")
    for (row, column), number in np.ndenumerate(numbers):
        known_number = math.isfinite(number)
        text = f"{number:.{digits}f}" if known_number else "–"
        dark = known_number and scale(number) < 0.5
        colour = "white" if dark else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    names = [
        textwrap.fill(name.replace("_", " "), 18, break_on_hyphens=False, break_long_words=False)
        for name in columns
    ]
    axes.set_xticks(range(len(columns)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if known.size:
        figure.colorbar(image, ax=axes, label=unit, shrink=0.9)
    return figure


def _figure(width: float, height: float, title: str, remark: str) -> Figure:
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    room = int(width * 10.5)
    lines = [*textwrap.wrap(title, room), *textwrap.wrap(remark, room)]
    figure.suptitle("\n".join(lines), fontsize=11, fontweight="bold", color=_WARNING if remark else "black")
    return figure


def _panel(axes: Axes, table: Table, measure: Measure, bases: Sequence[str], systems: Sequence[str]) -> None:
    """One measure: a point and an interval an entry."""
    axes.set_xlabel(textwrap.fill(measure.heading, 24), fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.25)
    for line in range(len(systems) - 1):
        axes.axhline(line + 0.5, color="#EEEEEE", linewidth=0.8)
    for entry in table.entries:
        place = bases.index(entry.cell.base)
        offset = (place - (len(bases) - 1) / 2) * 0.7 / len(bases)
        _point(axes, entry, measure, systems.index(entry.cell.system) + offset, COLOURS[place % len(COLOURS)])
    has_values = any(
        measure.name in e.published or not math.isnan(e.estimates[measure.name].value) for e in table.entries
    )
    if measure.scale and not has_values:
        axes.set_xlim(*measure.scale)
    _scale(axes, measure)


def _scale(axes: Axes, measure: Measure) -> None:
    """Ticks within the measure's scale, and no axis so short that rounding looks like a difference."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    low, high = axes.get_xlim()
    least, most = measure.scale or (low, high)
    missing = max(0.0, _SHORTEST * (most - least) - (high - low))
    low, high = low - missing / 2, high + missing / 2
    axes.set_xlim(low, high)
    slack = 1e-9 * (most - least)
    ticks = [
        tick
        for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        if least - slack <= tick <= most + slack
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks))


def _point(axes: Axes, entry: Entry, measure: Measure, y: float, colour: str) -> None:
    estimate = entry.estimates[measure.name]
    figure = entry.published.get(measure.name)
    if figure is not None:
        style: dict[str, Any] = {"marker": "D", "markersize": 5.5, "markerfacecolor": "none"}
        axes.plot([figure], [y], color=colour, linestyle="none", **style)
    if math.isnan(estimate.value):
        _reason(axes, short_reason(estimate), figure, y)
        return
    ends = [end for end in (estimate.low, estimate.high) if not math.isnan(end)]
    axes.plot(ends, [y] * len(ends), color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([estimate.value], [y], marker="o", markersize=5, color=colour, linestyle="none")
    # Above the point, where neither an interval nor a published figure of the same row can be.
    text = f"{estimate.value:.{measure.digits}f}{entry.marks(measure.name)}"
    _label(axes, text, (estimate.value, y), (0, 4), colour)


def _reason(axes: Axes, text: str, figure: float | None, y: float) -> None:
    """Why there is no point: above the published figure, or at the panel's left end."""
    if figure is not None:
        _label(axes, f"ours: {text}", (figure, y), (0, 5))
        return
    axes.text(0.03, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=_GREY)


def _label(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], colour: str = _GREY
) -> None:
    """Text above a place, the offset in points."""
    style: dict[str, Any] = {"fontsize": 7.5, "color": colour, "ha": "center", "va": "bottom"}
    axes.annotate(text, place, xytext=offset, textcoords="offset points", **style)


def _legend(figure: Figure, panels: Any, table: Table) -> None:
    """Bases, published figures and marks, below the panels."""
    from matplotlib.lines import Line2D

    bases = list(dict.fromkeys(e.cell.base for e in table.entries))
    handles = [
        Line2D(
            [], [], marker="o", markersize=5, color=COLOURS[n % len(COLOURS)], label=f"{base}, 95 % interval"
        )
        for n, base in enumerate(bases)
    ]
    models = list(dict.fromkeys(e.published_for for e in table.entries if e.published))
    if models:
        label = f"published: {', '.join(models)}"
        hollow = {"marker": "D", "markersize": 5.5, "markerfacecolor": "none", "linestyle": "none"}
        handles.append(Line2D([], [], color=_GREY, label=label, **hollow))
    shown = {test.mark for e in table.entries for tests in e.tests.values() for test in tests}
    marks = [f"{mark} above {name}" for name, mark in table.definition.baselines.items() if mark in shown]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(3, len(handles)),
        fontsize=8,
        frameon=False,
        title=f"{', '.join(marks)} (p < 0.05, not corrected)" if marks else None,
        title_fontsize=8,
    )


def _remark(table: Table) -> str:
    """What the table's title says beside the benchmark's own."""
    return table.title.removeprefix(table.definition.title).strip(" ()")


def _value(estimate: Estimate | None) -> float:
    return math.nan if estimate is None else estimate.value


def _number(text: str) -> float:
    return math.nan if text == "-" else float(text)
