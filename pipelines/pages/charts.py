"""Charts as HTML without scripts and without anything from elsewhere: bars that stretch with the page, text that does not.

Colours are CSS classes (``c-equal``, ``c-explained``, ...), so that the page's light and dark themes hold for charts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

__all__ = ["Series", "columns", "legend", "rows"]

Series = tuple[str, str, Sequence[int]]
"""(name, CSS class of its colour, a number per place)."""


def legend(series: Sequence[Series]) -> str:
    """Names beside their colours; those without a value are left out."""
    parts = (f'<span><i class="{css}"></i>{escape(name)}</span>' for name, css, values in series if any(values))
    return f'<p class="legend">{"".join(parts)}</p>'


def columns(series: Sequence[Series], labels: Sequence[str], ticks: Sequence[str], height: int = 150) -> str:
    """Stacked columns over N places. ``labels``: what a pointer on a column tells; ``ticks``: texts spread below it evenly."""
    n = len(labels)
    totals = [sum(values[i] for _, _, values in series) for i in range(n)]
    top = nice(max(totals, default=0))
    parts = []
    for i in range(n):
        y = 0.0
        told = ", ".join(f"{values[i]:,} {name}" for name, _, values in series if values[i])
        drawn = []
        for _, css, values in series:
            if values[i]:
                size = max(values[i] / top * 100, 0.7)  # never too thin to be seen
                drawn.append(f'<rect class="{css}" x="{i + 0.08:g}" y="{100 - y - size:.2f}" width="0.84" height="{size:.2f}"/>')
                y += size
        if drawn:
            parts.append(f"<g><title>{escape(labels[i])}: {escape(told)}</title>{''.join(drawn)}</g>")
    grid = "".join(f'<line x1="0" x2="{n}" y1="{y}" y2="{y}"/>' for y in (0.2, 50, 99.8))
    svg = (
        f'<svg viewBox="0 0 {max(n, 1)} 100" preserveAspectRatio="none" style="height:{height}px" role="img">'
        f'<g class="grid">{grid}</g>{"".join(parts)}</svg>'
    )
    scale = "".join(f"<span>{short(v)}</span>" for v in (top, top / 2, 0))
    below = "".join(f"<span>{escape(t)}</span>" for t in ticks)
    axis = f'<div class="scale" style="height:{height}px">{scale}</div>'
    return f'<div class="columns">{axis}<div>{svg}<div class="ticks">{below}</div></div></div>'


def rows(series: Sequence[Series], labels: Sequence[str]) -> str:
    """Horizontal bars, one per label, with their totals; empty ones at both ends are left out. The length is logarithmic, so that one
    event beside a million is seen; within a bar the colours have their true shares."""
    totals = [sum(values[i] for _, _, values in series) for i in range(len(labels))]
    used = [i for i, t in enumerate(totals) if t]
    if not used:
        return '<p class="quiet">nothing to show</p>'
    most, out = max(totals), []
    for i in range(used[0], used[-1] + 1):
        told = ", ".join(f"{values[i]:,} {name}" for name, _, values in series if values[i])
        length = log10(totals[i] + 1) / log10(most + 1) * 100
        bar = "".join(
            f'<i class="{css}" style="width:{max(length * values[i] / totals[i], 0.8):.2f}%"></i>' for _, css, values in series if values[i]
        )
        inner = f'<span>{escape(labels[i])}</span><span class="bar">{bar}</span><b>{totals[i]:,}</b>'
        out.append(f'<div class="row" title="{escape(told)}">{inner}</div>')
    return f'<div class="rows">{"".join(out)}</div>'


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
