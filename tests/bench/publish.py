"""The kept tables as text: on a screen, and in README.md and docs/benchmarks.md (``--publish``)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.kept import ROOT, Kept, Run
from tests.bench.report import Line, Part, time_of
from tests.bench.summary import pairs, unmatched

BEGIN, END = "<!-- bench: written by python -m tests.bench --publish -->", "<!-- bench: end -->"
PAGE = "docs/benchmarks.md"

__all__ = ["BEGIN", "END", "PAGE", "publish", "show"]


def show(console: Console, run: Run) -> None:
    """Print a part's tables."""
    for part in run.tables:
        table = Table()
        table.add_column("way")
        for name in ("time", "worst", f"{part.unit}/s", "ratio"):
            table.add_column(name, justify="right")
        table.add_column("")
        for line in part.lines:
            table.add_row(*_cells(part, line))
        console.print(f"\n[bold]{part.title}[/bold]", part.how, table, *part.notes, sep="\n")


def _cells(part: Part, line: Line) -> tuple[str, ...]:
    worst = time_of(line.worst) if line.worst > line.seconds else ""
    return line.name, time_of(line.seconds), worst, f"{line.amount / line.seconds:,.0f}", f"{part.ratio(line):.2f}", line.extra


def _figure(part: Part, line: Line) -> str:
    """The time, or what it is per second where lines did unequal amounts; worst in brackets."""
    first = part.lines[0]
    if line.amount != first.amount or any(each.amount != first.amount for each in part.lines):
        worst = f" ({line.amount / line.worst:,.0f})" if line.worst > line.seconds else ""
        return f"{line.amount / line.seconds:,.0f}{worst} {part.unit}/s"
    return time_of(line.seconds) + (f" ({time_of(line.worst)})" if line.worst > line.seconds else "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _told(runs: Iterable[Run]) -> str:
    runs = list(runs)
    sizes = {run.quick for run in runs}
    which = "quick sizes" if sizes == {True} else "whole sizes" if sizes == {False} else "quick sizes where a row says so"
    loads = [x for run in runs for x in run.load]
    commits = ", ".join(dict.fromkeys(line.of for run in runs for part in run.tables for line in part.lines))
    return (
        f"Measured {commits} by `make bench`: {which}, {os.cpu_count()} cores, Python {platform.python_version()}, load {min(loads):.0f} to"
        f" {max(loads):.0f}, {sum(run.seconds for run in runs) / 60:.0f} minutes in all. Values are checked before a time counts."
        " Figures are the best of several rounds, with the worst in brackets."
    )


def _table(kept: dict[str, Run]) -> list[str]:
    """README's: a row per comparison, under short names."""
    out = ["| | Tandem | beside it | | ratio |", "|---|---:|---|---:|---:|"]
    mixed = len({run.quick for run in kept.values()}) > 1
    for group, found in pairs(kept).items():
        if found:
            out.append(f"| **{group}** | | | | |")
        for pair in found:
            ratio = f"{pair.ratio:.2g}" if pair.ratio < 100 else f"{pair.ratio:,.0f}"
            what = pair.what + (" (quick)" if mixed and pair.quick else "")
            cells = (what, _figure(pair.part, pair.ours), pair.name, _figure(pair.part, pair.theirs), ratio)
            out.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    out += [f"| {run.name} | failed the last time | {_escaped(run.error)} | | |" for run in kept.values() if run.error]
    return out


def _page(kept: dict[str, Run]) -> str:
    parts = ", ".join(f"[{name}](#{name})" for name in kept)
    out = ["# Benchmarks", "", "Every line that `make bench` measured last, with what it counts and leaves out."]
    out += ["Written by `python -m tests.bench --publish`.", "", _told(kept.values()), ""]
    out += ["The ratio is a line's time per unit over that of its table's first line: above 1 is slower.", "", f"Parts: {parts}."]
    for run in kept.values():
        size = "quick sizes" if run.quick else "whole sizes"
        out += [
            "",
            f"## {run.name}",
            "",
            f"{size}, load {run.load[0]:.0f} to {run.load[1]:.0f}, {run.seconds:.0f} s, {run.cpu:.0f} s of CPU",
        ]
        if run.error:
            out += ["", f"The last time it failed: {run.error}"]
        for part in run.tables:
            out += ["", f"**{part.title}**", "", part.how, ""]
            out += [f"| way | time | worst | {part.unit}/s | ratio | |", "|---|---|---|---|---|---|"]
            out += ["| " + " | ".join(_escaped(cell) for cell in _cells(part, line)) + " |" for line in part.lines]
            out += [line for note in part.notes for line in ("", note)]
    return "\n".join(out) + "\n"


def publish(kept: Kept, order: Iterable[str], root: Path = ROOT) -> list[str]:
    """Write the tables between the marks of README.md, and all lines into docs/benchmarks.md; what was written.

    Raises ValueError where there is nothing to write or README has no marks.
    """
    sorted_kept = {name: kept[name] for name in order if name in kept}
    if not any(run.tables for run in sorted_kept.values()):
        raise ValueError("nothing is measured yet: run python -m tests.bench")
    readme = root / "README.md"
    head, begin, rest = readme.read_text("utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme.name} lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    missing = [name for name in order if name not in kept]
    ratio = "The ratio is the other's time over Tandem's: above 1, Tandem is faster; below 1, the other is."
    said = [_told(sorted_kept.values()), ratio, "", *_table(sorted_kept), ""]
    missing += unmatched(sorted_kept)
    said += [f"Not measured: {', '.join(missing)}.", ""] if missing else []
    said += [f"[{PAGE}]({PAGE}) has every line that was measured, with what it counts and leaves out."]
    readme.write_text(head + BEGIN + "\n" + "\n".join(said) + "\n" + END + tail, "utf-8")
    (root / PAGE).write_text(_page(sorted_kept), "utf-8")
    return [readme.name, PAGE]
