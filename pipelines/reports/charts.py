"""Charts as HTML without scripts and without anything from elsewhere: bars that stretch with the page, text that does not.

Colours are CSS classes (``c-equal``, ``c-explained``, ...), so that the page's light and dark themes hold for charts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

__all__ = ["Series", "columns", "curve", "heat", "legend", "pairs", "rows"]

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


def pairs(one: Sequence[float], other: Sequence[float], labels: Sequence[str], ticks: Sequence[str], height: int = 110) -> str:
    """Two distributions over N places beside each other: shares of 1, ``one`` in grey and ``other`` in blue, on one scale."""
    n, top = len(labels), max([*one, *other, 1e-9])
    parts = []
    for i in range(n):
        drawn = []
        for value, css, x in ((one[i], "c-flight", 0.06), (other[i], "c-equal", 0.5)):
            size = max(value / top * 100, 0.8) if value > 0 else 0.0
            if size:
                drawn.append(f'<rect class="{css}" x="{i + x:g}" y="{100 - size:.2f}" width="0.44" height="{size:.2f}"/>')
        told = f"{escape(labels[i])}: {one[i]:.2%}, {other[i]:.2%}"
        if drawn:
            parts.append(f"<g><title>{told}</title>{''.join(drawn)}</g>")
    grid = "".join(f'<line x1="0" x2="{n}" y1="{y}" y2="{y}"/>' for y in (0.2, 50, 99.8))
    frame = f'viewBox="0 0 {max(n, 1)} 100" preserveAspectRatio="none" style="height:{height}px" role="img"'
    svg = f'<svg {frame}><g class="grid">{grid}</g>{"".join(parts)}</svg>'
    scale = "".join(f"<span>{v:.2g} %</span>" for v in (top * 100, top * 50, 0))
    spread = "each" if len(ticks) == n and n else "ticks"
    style = f' style="grid-template-columns:repeat({n},1fr)"' if spread == "each" else ""
    below = "".join(f"<span>{escape(t)}</span>" for t in ticks)
    axis = f'<div class="scale" style="height:{height}px">{scale}</div>'
    return f'<div class="columns">{axis}<div>{svg}<div class="{spread}"{style}>{below}</div></div></div>'


def curve(lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], across: str, up: str) -> str:
    """Curves of (name, CSS class, points in the unit square) with the diagonal, on the range that they need."""
    top = nice(max((max(p) for _, _, points in lines for p in points), default=1.0))
    top = min(top, 1.0)
    parts = ['<line class="diagonal" x1="0" y1="100" x2="100" y2="0"/>']
    for name, css, points in lines:
        at = [(min(x / top, 1.0) * 100, 100 - min(y / top, 1.0) * 100) for x, y in points]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in at)
        parts.append(f'<polyline class="line {css}" points="{path}"/>')
        for (x, y), (a, b) in zip(at, points, strict=True):
            parts.append(
                f'<circle class="{css}" cx="{x:.2f}" cy="{y:.2f}" r="1.7"><title>{escape(name)}: {a:.3f}, {b:.3f}</title></circle>'
            )
    grid = "".join(f'<line x1="0" x2="100" y1="{y}" y2="{y}"/><line y1="0" y2="100" x1="{y}" x2="{y}"/>' for y in (0, 50, 100))
    svg = f'<svg class="square" viewBox="-2 -2 104 104" role="img"><g class="grid">{grid}</g>{"".join(parts)}</svg>'
    told = f"across: {across}, up: {up}; both from 0 to {top:g}"
    return f'<div class="curve">{svg}<p class="note">{escape(told)}</p></div>'


def heat(heads: Sequence[str], lines: Sequence[Sequence[str | float | None]]) -> str:
    """A table of values from 0 to 1 in colour: each line a name and a value (or None) per head."""
    top = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = []
    for name, *values in lines:
        cells = "".join(
            '<td class="none">-</td>' if not isinstance(v, float) else f'<td style="--heat:{min(max(v, 0.0), 1.0) * 100:.0f}%">{v:.2f}</td>'
            for v in values
        )
        body.append(f"<tr><th>{escape(str(name))}</th>{cells}</tr>")
    return f'<div class="scroll"><table class="heat"><thead><tr><th></th>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
