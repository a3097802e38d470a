"""``python -m tests.bench [--only windows,graph,...] [--json] [--quick]``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys

from rich.console import Console
from rich.table import Table

from tests.bench.report import Part
from transforms.tensorflow_settings import settle_tensorflow

PARTS = (
    "windows",
    "aggregates",
    "graph",
    "join",
    "runs",
    "formats",
    "mapping",
    "online",
    "predict",
    "http",
    "stream",
    "worker",
    "fresh",
    "restart",
    "daily",
)
WITH_WAYS = ("stream",)


def _time(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds * 1e6:,.3g} us"


def show(console: Console, part: Part) -> None:
    """Print one part as a table."""
    table = Table()
    table.add_column("way")
    for name in ("time", f"{part.unit}/s", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    for line in part.lines:
        table.add_row(line.name, _time(line.seconds), f"{line.amount / line.seconds:,.0f}", f"{line.ratio:.2f}x", line.extra)
    console.print(f"\n[bold]{part.title}[/bold]", table, *part.notes, sep="\n")


def main() -> int:
    """Run the parts asked for and print a table each, or one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Speeds side by side; a ratio above 1 is slower than Tandem."
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas: {', '.join(PARTS)}; stream:tandem is one way")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="a part of the data: for a look, not for figures")
    given = parser.parse_args()
    asked: dict[str, list[str]] = {}
    for word in given.only.split(","):
        name, _, way = word.strip().partition(":")
        if name not in PARTS or (way and name not in WITH_WAYS):
            parser.error(f"no part {word.strip()!r}; choose from {', '.join(PARTS)}")
        asked.setdefault(name, []).extend([way] if way else [])
    settle_tensorflow()
    console, parts = Console(width=None if sys.stdout.isatty() else 140), []
    for name, ways in asked.items():
        made = importlib.import_module(f"tests.bench.{name}").run(quick=given.quick, **({"only": ways} if ways else {}))
        parts += made
        if not given.json:
            for part in made:
                show(console, part)
    if given.json:
        print(json.dumps([dataclasses.asdict(part) for part in parts], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
