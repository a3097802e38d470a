"""How the parts of the benchmark measure and what they report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Line", "Part", "Took", "best_of", "cpu_of", "time_of"]


class Took(float):
    """The least seconds of some rounds, as a float; ``worst``: the most."""

    def __new__(cls, rounds: list[float]) -> Took:
        """Of the seconds of each round, at least one."""
        self = super().__new__(cls, min(rounds))
        self.worst = max(rounds)
        return self

    worst: float


@dataclass
class Line:
    """One measured way: ``seconds`` in all for ``amount`` units, the least of its rounds; ``worst``: the most of them, the same number
    where there was one round. ``place`` orders the lines of a table, ``of`` says when and of which commit it was measured."""

    name: str
    seconds: float
    amount: float
    extra: str = ""
    worst: float = 0.0
    place: int = 0
    of: str = ""


@dataclass
class Part:
    """One table of the report. The first line is Tandem; the others are compared with it, per unit.

    ``how`` says what was measured: warm or cold, which clock, of how many rounds.
    """

    title: str
    unit: str
    how: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, seconds: float, amount: float, extra: str = "", place: int = 0) -> Line:
        """Add a line. ``seconds``: a :class:`Took` where there were rounds."""
        line = Line(name, float(seconds), amount, extra, float(getattr(seconds, "worst", seconds)), place)
        self.lines.append(line)
        return line

    def ratio(self, line: Line) -> float:
        """A line's time per unit in units of the first line's: above 1 is slower."""
        first = self.lines[0]
        return (line.seconds / line.amount) / (first.seconds / first.amount)


def time_of(seconds: float) -> str:
    """Three digits and a unit: ``412 ms``."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:,.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds * 1e6:,.3g} us"


def best_of(rounds: int, ways: Mapping[str, Callable[[], Any]], clock: Callable[[], float] = time.perf_counter) -> dict[str, Took]:
    """The seconds of each way, by ``clock``; the ways take turns, so that noise meets all of them."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            took[name].append(clock() - start)
    return {name: Took(each) for name, each in took.items()}


def cpu_of(calls: int, ways: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, Took]:
    """The CPU seconds (of all threads of this process) of one call of each way, over some rounds of ``calls`` calls, in turns."""
    for way in ways.values():
        for _ in range(20):
            way()

    def many(way: Callable[[], Any]) -> None:
        for _ in range(calls):
            way()

    rounds_of = {name: (lambda w=way: many(w)) for name, way in ways.items()}
    took = best_of(rounds, rounds_of, time.process_time)
    return {name: Took([t / calls, t.worst / calls]) for name, t in took.items()}
