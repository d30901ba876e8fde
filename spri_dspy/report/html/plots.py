"""Plots as inline SVG: strips of intervals, bars of shares, a scatter, a calibration, a search.

Colours and fonts come from the page's style sheet by class, so that dark and light both fit. Every plot says in its
title what it shows; the numbers stand in tables beside it. It knows numbers and SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 300, 52, 16, 14, 46


def _tag(name: str, content: str = "", **attributes: Any) -> str:
    """An element; of an attribute's name, _ is -, and a trailing one is dropped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{content}</{name}>"


def _text(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _svg(width: int, height: int, title: str, parts: Iterator[str], **more: Any) -> str:
    content = _tag("title", escape(title)) + "".join(parts)
    return _tag("svg", content, viewBox=f"0 0 {width} {height}", role="img", aria_label=title, **more)


def number(value: float | None, digits: int = 2) -> str:
    """A number for people; what is missing is a dash."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def strip(row: Mapping[str, Any], low: float, high: float, zero: bool = False) -> str:
    """A value and its interval on an axis from low to high: a cell of a table.

    Args:
        row: value, low and high; missing ones are not drawn.
        low: where the axis begins, the same for every row of a table.
        high: where it ends.
        zero: mark 0, for differences.
    """
    width, height = 180, 22
    span = (high - low) or 1.0
    at = lambda x: 6 + (min(max(x, low), high) - low) / span * (width - 12)  # noqa: E731 - a scale

    def parts() -> Iterator[str]:
        yield _tag("line", x1=6, x2=width - 6, y1=11, y2=11, class_="axis")
        if zero and low <= 0 <= high:
            yield _tag("line", x1=at(0), x2=at(0), y1=2, y2=20, class_="zero")
        if row.get("low") is not None and row.get("high") is not None:
            yield _tag("line", x1=at(row["low"]), x2=at(row["high"]), y1=11, y2=11, class_="interval")
        if row.get("value") is not None:
            yield _tag("circle", cx=at(row["value"]), cy=11, r=4, class_="dot")

    said = f"{number(row.get('value'))}, {number(row.get('low'))} to {number(row.get('high'))}"
    return _svg(width, height, said, parts(), class_="strip")


def reach(rows: Sequence[Mapping[str, Any]], zero: bool = False) -> tuple[float, float]:
    """The ends of an axis that all rows fit on."""
    found = [float(row[k]) for row in rows for k in ("value", "low", "high") if row.get(k) is not None]
    found += [0.0] if zero or not found else []
    low, high = min(found), max(found)
    margin = (high - low) * 0.04 or 0.5
    return low - margin, high + margin


def shares(counts: Mapping[str, int], classes: Mapping[str, str]) -> str:
    """Counts as one bar cut into shares.

    Args:
        counts: name -> count.
        classes: name -> class of its colour; others are grey.
    """
    total, width = sum(counts.values()) or 1, 300

    def parts() -> Iterator[str]:
        start = 0.0
        for name, count in counts.items():
            part = count / total * width
            box = _tag("title", escape(f"{name}: {count:,}"))
            yield _tag(
                "rect", box, x=start, y=0, width=part, height=14, class_=f"part {classes.get(name, 'other')}"
            )
            start += part

    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return _svg(width, 14, said, parts(), class_="shares", preserveAspectRatio="none")


class _Axes:
    """Two axes with their ticks, and where numbers lie between them."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / ((high - low) or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1.0) * (_HEIGHT - _TOP - _BOTTOM)

    def parts(self, x_name: str, y_name: str) -> Iterator[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for tick in _ticks(*self._y):
            yield _tag("line", x1=_LEFT, x2=right, y1=self.y(tick), y2=self.y(tick), class_="grid")
            yield _tag("text", _label(tick), x=_LEFT - 7, y=self.y(tick) + 4, class_="tick end")
        for tick in _ticks(*self._x):
            yield _tag("text", _label(tick), x=self.x(tick), y=bottom + 17, class_="tick middle")
        yield _tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis")
        yield _tag("text", escape(x_name), x=(_LEFT + right) / 2, y=_HEIGHT - 7, class_="name middle")
        middle = (_TOP + bottom) / 2
        yield _tag(
            "text", escape(y_name), x=13, y=middle, class_="name middle", transform=f"rotate(-90 13 {middle})"
        )

    def diagonal(self) -> str:
        """Where both numbers are the same."""
        low, high = max(self._x[0], self._y[0]), min(self._x[1], self._y[1])
        if low >= high:
            return ""
        return _tag(
            "line", x1=self.x(low), y1=self.y(low), x2=self.x(high), y2=self.y(high), class_="diagonal"
        )

    def point(self, x: float, row: Mapping[str, Any], kind: str, said: str) -> str:
        """A value with its interval."""
        drawn = _tag("title", escape(said))
        if row.get("low") is not None and row.get("high") is not None:
            low, high = (min(max(float(row[k]), self._y[0]), self._y[1]) for k in ("low", "high"))
            drawn += _tag(
                "line", x1=self.x(x), x2=self.x(x), y1=self.y(low), y2=self.y(high), class_="whisker"
            )
        drawn += _tag("circle", cx=self.x(x), cy=self.y(row["value"]), r=5, class_="dot")
        return _tag("g", drawn, class_=kind)


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two ends."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next((step * k for k in (1, 2, 5, 10) if span / (step * k) <= most), step * 10)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _label(tick: float) -> str:
    return f"{tick:,.6g}".replace("-", "−")


def scatter(points: Sequence[tuple[float, float, int]], x_name: str, y_name: str, title: str) -> str:
    """Points (x, y, how many); their area is their number."""
    x, y = (_widened([point[side] for point in points]) for side in (0, 1))
    axes, most = _Axes(x, y), max(n for _, _, n in points)

    def parts() -> Iterator[str]:
        yield from axes.parts(x_name, y_name)
        yield axes.diagonal()
        for value, label, n in points:
            box = _tag("title", f"{_label(value)} and {_label(label)}: {n:,}")
            radius = 3 + 12 * math.sqrt(n / most) if most > 1 else 4
            yield _tag("circle", box, cx=axes.x(value), cy=axes.y(label), r=radius, class_="bubble")

    return _svg(_WIDTH, _HEIGHT, title, parts(), class_="plot")


def _widened(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    margin = (high - low) * 0.08 or 0.5
    return low - margin, high + margin


def calibration(bins: Sequence[Mapping[str, Any]], title: str) -> str:
    """People's mean, with its interval, for each number of the judge."""
    ends = [float(b[k]) for b in bins for k in ("value", "low", "high") if b[k] is not None]
    axes = _Axes(_widened([b["judge"] for b in bins]), _widened(ends))

    def parts() -> Iterator[str]:
        yield from axes.parts("the judge's score", "people's mean")
        yield axes.diagonal()
        for b in bins:
            yield axes.point(
                b["judge"], b, "calibrated", f"{_label(b['judge'])}: {number(b['value'])}, n = {b['n']}"
            )

    return _svg(_WIDTH, _HEIGHT, title, parts(), class_="plot")


def search(found: Sequence[Any], unit: str, metric: str, title: str) -> str:
    """Programs tried against what had been spent: `tuning.plots.Point`s in order, and the best so far as a line."""
    rows = [
        {"value": p.value, "low": _known(p.low), "high": _known(p.high), "spent": float(p.spent)}
        for p in found
    ]
    values = [row["value"] for row in rows]
    spread = (max(values) - min(values)) or 0.2
    # A wide interval of few rows must not press all points together.
    ends = [row[k] for row in rows for k in ("low", "high") if row[k] is not None]
    low = max(min([*values, *ends]), min(values) - 2 * spread)
    high = min(max([*values, *ends]), max(values) + 2 * spread)
    places = _apart([row["spent"] for row in rows])
    axes = _Axes(_widened([0.0, *places]), (low - 0.05 * spread, high + 0.05 * spread))

    def parts() -> Iterator[str]:
        yield from axes.parts(f"{unit} when a program was known", metric)
        best, line = -math.inf, list[str]()
        for place, row in zip(places, rows, strict=True):
            x = axes.x(place)
            if line:
                line.append(f"{x:.1f},{axes.y(best):.1f}")
            best = max(best, row["value"])
            line.append(f"{x:.1f},{axes.y(best):.1f}")
        line.append(f"{_WIDTH - _RIGHT},{axes.y(best):.1f}")
        yield _tag("polyline", points=" ".join(line), class_="best")
        for place, row, p in zip(places, rows, found, strict=True):
            kind = "winner" if p.is_winner else "start" if p.is_start else "tried"
            yield axes.point(place, row, kind, f"{kind}: {number(p.value, 3)} at {p.spent:,g} {unit}")

    return _svg(_WIDTH, _HEIGHT, title, parts(), class_="plot wide")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _apart(spent: Sequence[float]) -> list[float]:
    """The places of points in order, those that would hide each other a little to the right."""
    step = ((max(spent) - min(spent)) or 1.0) * 0.03
    last, moved = -math.inf, list[float]()
    for each in spent:
        last = max(each, last + step)
        moved.append(last)
    return moved
