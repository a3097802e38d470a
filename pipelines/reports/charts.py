"""Charts as HTML without scripts and without anything from elsewhere: bars that stretch with the page, text that does not.

Here is their geometry; ``templates/charts.html`` draws it. Colours are CSS classes (``c-equal``, ``c-explained``, ...), so that the
page's light and dark themes hold for charts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from math import ceil, floor, log10
from typing import NamedTuple

from markupsafe import Markup

from pipelines.reports.templating import macro

__all__ = ["Series", "columns", "curve", "heat", "legend", "nice", "pairs", "rows", "time_ticks"]

Series = tuple[str, str, Sequence[int]]
"""(name, CSS class of its colour, a number per place)."""


class Box(NamedTuple):
    """A coloured rectangle; a place of a chart is 1 wide and 100 high."""

    css: str
    x: float
    y: float
    width: float
    height: float


class Place(NamedTuple):
    """What is drawn at one place, and what a pointer on it shows."""

    title: str
    boxes: list[Box]


class Bar(NamedTuple):
    """A horizontal bar: its name, total, what a pointer on it shows, and (CSS class, width in percent) of its parts."""

    label: str
    total: int
    title: str
    parts: list[tuple[str, float]]


class Line(NamedTuple):
    """A curve in a square of 100 by 100: (x, y, what a pointer shows) per point."""

    css: str
    points: list[tuple[float, float, str]]


def legend(series: Sequence[Series]) -> Markup:
    """Names beside their colours; those without a value are left out."""
    return macro("charts.html", "legend", [(name, css) for name, css, values in series if any(values)])


def columns(series: Sequence[Series], labels: Sequence[str], ticks: Sequence[str], height: int = 150) -> Markup:
    """Stacked columns over N places. ``labels``: what a pointer on a column shows; ``ticks``: texts spread below it evenly."""
    n = len(labels)
    top = nice(max((sum(values[i] for _, _, values in series) for i in range(n)), default=0))
    places = []
    for i in range(n):
        y, boxes = 0.0, []
        for _, css, values in series:
            if values[i]:
                size = max(values[i] / top * 100, 0.7)  # never too thin to be seen
                boxes.append(Box(css, i + 0.08, 100 - y - size, 0.84, size))
                y += size
        if boxes:
            places.append(Place(f"{labels[i]}: {_counts(series, i)}", boxes))
    return macro("charts.html", "upright", n, height, places, [short(v) for v in (top, top / 2, 0)], ticks, False)


def pairs(one: Sequence[float], other: Sequence[float], labels: Sequence[str], ticks: Sequence[str], height: int = 110) -> Markup:
    """Two distributions over N places beside each other: shares of 1, ``one`` in grey and ``other`` in blue, on one scale."""
    n, top = len(labels), max([*one, *other, 1e-9])
    places = []
    for i in range(n):
        boxes = []
        for value, css, x in ((one[i], "c-flight", 0.06), (other[i], "c-equal", 0.5)):
            if value > 0:
                size = max(value / top * 100, 0.8)
                boxes.append(Box(css, i + x, 100 - size, 0.44, size))
        if boxes:
            places.append(Place(f"{labels[i]}: {one[i]:.2%}, {other[i]:.2%}", boxes))
    scale = [f"{v:.2g} %" for v in (top * 100, top * 50, 0)]
    return macro("charts.html", "upright", n, height, places, scale, ticks, len(ticks) == n and n > 0)


def rows(series: Sequence[Series], labels: Sequence[str]) -> Markup:
    """Horizontal bars, one per label, with their totals; empty ones at both ends are left out. The length is logarithmic, so that one
    event beside a million is seen; within a bar the colours have their true shares."""
    totals = [sum(values[i] for _, _, values in series) for i in range(len(labels))]
    used = [i for i, t in enumerate(totals) if t]
    bars = []
    for i in range(used[0], used[-1] + 1) if used else ():
        length = log10(totals[i] + 1) / log10(max(totals) + 1) * 100
        parts = [(css, max(length * values[i] / totals[i], 0.8)) for _, css, values in series if values[i]]
        bars.append(Bar(labels[i], totals[i], _counts(series, i), parts))
    return macro("charts.html", "rows", bars)


def _counts(series: Sequence[Series], place: int) -> str:
    return ", ".join(f"{values[place]:,} {name}" for name, _, values in series if values[place])


def time_ticks(start: datetime, end: datetime) -> list[str]:
    """Five texts for a time axis, spread evenly over it, no two alike: with the year where it changes, and with the time of day unless
    all are midnights or a week and more apart; to the second below a minute, to the microsecond below a second."""
    step = (end - start) / 4
    times = [start + step * i for i in range(5)]
    day = "%b %d" if start.year == end.year else "%Y-%m-%d"
    whole = step >= timedelta(days=7) or all(t.time() == time() for t in times)
    clock = "%H:%M" if step >= timedelta(minutes=1) else "%H:%M:%S" if step >= timedelta(seconds=1) else "%H:%M:%S.%f"
    return [f"{t:{day if whole else f'{day} {clock}'}}" for t in times]


def nice(value: float) -> float:
    """The next of 1, 2, 4, 5 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10 ** floor(log10(value))
    return float(next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value))


def short(value: float) -> str:
    """A number for an axis: 1.5k, 20k, 3M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{ceil(value) if value >= 10 else value:g}"


def curve(lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], across: str, up: str) -> Markup:
    """Curves of (name, CSS class, points in the unit square) with the diagonal, on the range that they need."""
    top = min(nice(max((max(p) for _, _, points in lines for p in points), default=1.0)), 1.0)
    drawn = [
        Line(css, [(min(x / top, 1.0) * 100, 100 - min(y / top, 1.0) * 100, f"{name}: {x:.3f}, {y:.3f}") for x, y in points])
        for name, css, points in lines
    ]
    return macro("charts.html", "curve", drawn, f"across: {across}, up: {up}; both from 0 to {top:g}")


def heat(heads: Sequence[str], lines: Sequence[Sequence[str | float | None]]) -> Markup:
    """A table of values from 0 to 1 in colour: each line a name and a value (or None) per head."""
    body = [(name, [(v, min(max(v, 0.0), 1.0) * 100) if isinstance(v, float) else None for v in values]) for name, *values in lines]
    return macro("charts.html", "heat", heads, body)
