"""How the parts of the benchmark measure and what they report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Line", "Part", "best_of", "cpu_of"]


@dataclass
class Line:
    """One measured way: ``seconds`` in all for ``amount`` units; ``ratio`` is its time per unit in units of the first line's."""

    name: str
    seconds: float
    amount: float
    ratio: float = 1.0
    extra: str = ""


@dataclass
class Part:
    """One table of the report. The first line is Tandem; the others are compared with it, per unit."""

    title: str
    unit: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, seconds: float, amount: float, extra: str = "") -> Line:
        """Add a line; the ratio to the first line follows from the time per unit."""
        line = Line(name, seconds, amount, 1.0, extra)
        self.lines.append(line)
        first = self.lines[0]
        line.ratio = (seconds / amount) / (first.seconds / first.amount)
        return line


def best_of(rounds: int, ways: dict[str, Callable[[], Any]], clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """The least seconds of each way, by ``clock``; the ways take turns, so that noise meets all of them."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            best[name] = min(best[name], clock() - start)
    return best


def cpu_of(calls: int, ways: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """The CPU seconds (of all threads of this process) of one call of each way: the least of some rounds of ``calls`` calls, in turns."""
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        for _ in range(20):
            way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            for _ in range(calls):
                way()
            best[name] = min(best[name], (time.process_time() - start) / calls)
    return best
