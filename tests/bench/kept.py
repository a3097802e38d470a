"""What the benchmark measured last, part by part, in ``.cache/bench/kept.json``: parts that are measured one by one end in one table."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.report import Line, Part

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / ".cache" / "bench" / "kept.json"

__all__ = ["FILE", "Kept", "Run", "load", "merged", "save", "tables_of"]


@dataclass
class Run:
    """One part as it was measured last: its tables, or why there are none. ``load``: the machine's, before and after."""

    name: str
    of: str
    quick: bool
    load: tuple[float, float]
    seconds: float
    cpu: float
    tables: list[Part] = field(default_factory=list)
    error: str = ""


Kept = dict[str, Run]


def load(file: Path = FILE) -> Kept:
    """What is kept; nothing where no file is, or one of another format."""
    try:
        said = json.loads(file.read_text())
        return {name: _run(each) for name, each in said["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _run(said: dict[str, Any]) -> Run:
    return Run(**{**said, "load": tuple(said["load"]), "tables": tables_of(said["tables"])})


def tables_of(said: list[dict[str, Any]]) -> list[Part]:
    """Tables, from their JSON."""
    return [Part(**{**each, "lines": [Line(**line) for line in each["lines"]]}) for each in said]


def save(kept: Kept, file: Path = FILE) -> None:
    """In one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_text(json.dumps({"parts": {name: dataclasses.asdict(run) for name, run in kept.items()}}, indent=1))
    new.replace(file)


def merged(old: Run | None, new: Run, ways: Collection[str] = ()) -> Run:
    """``new`` beside what was kept of the same part.

    A part that failed leaves the tables of before, and says so. Measured again at the same commit and sizes, a line's worst is the worst
    of all times, its seconds are the last ones'. Where ``ways`` of a table alone were measured, its other lines stay, each with its commit.
    """
    for table in new.tables:
        for line in table.lines:
            line.of = new.of
    if old is None or (old.quick != new.quick and not new.error):
        return new
    if new.error:
        return dataclasses.replace(old, error=new.error)
    before = {table.title: table for table in old.tables}
    for table in new.tables:
        if (was := before.get(table.title)) is None:
            continue
        lines = {line.name: line for line in was.lines}
        for line in table.lines:
            same = lines.get(line.name)
            if same is not None and same.of == line.of and same.amount == line.amount:
                line.worst = max(line.worst, same.worst, same.seconds)
        if ways:
            measured = {line.name for line in table.lines}
            table.lines = sorted([*table.lines, *(x for x in was.lines if x.name not in measured)], key=lambda x: x.place)
    return new
