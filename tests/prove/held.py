"""What processes and folders hold over time, and whether it is flat: memory, threads, open files, disk.

What a JVM has not collected yet is no leak, and it collects when its heap is full, which may be after hours: it is made to before it is
looked at, each minute.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

__all__ = ["Life", "Watch", "held", "size"]

WARM_SHARE = 0.4
"""Of a life, its beginning, which is not looked at: caches fill, heaps reach their size."""
LEAST_SECONDS = 300.0
"""Lives that are shorter say nothing about slopes: a stream's state and its worker's memory grow until tiles are merged and begin again,
which takes one to two minutes at the rate of the soak."""
COLLECT_SECONDS = 60.0
TOLERANCE = {
    "memory MB": (0.06, 8.0),
    "threads": (0.0, 2.0),
    "open files": (0.0, 4.0),
    "sockets": (0.0, 4.0),
    "MB": (0.10, 2.0),
}
"""Figure -> (share of its level, and so much beside it) by which it may rise over what is looked at of a life."""
JVM = "JVM"
"""In the name of what is one."""
_EVENTS = "/services/kafka/log/"
"""Where the broker keeps the events themselves: as many files as there are weeks of them, open in the broker; no leak."""


def held(pid: int) -> dict[str, float]:
    """What a process holds: memory in MB, threads, open files (but for a broker's topics), sockets. Raises OSError where it has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    if "VmRSS" not in status:
        raise ProcessLookupError(pid)
    opened = [_target(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = sum(each.startswith("socket:") for each in opened)
    return {
        "memory MB": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "open files": sum(_EVENTS not in each for each in opened) - sockets,
        "sockets": sockets,
    }


def _target(handle: Path) -> str:
    try:
        return str(handle.readlink())
    except OSError:  # closed meanwhile
        return ""


def size(paths: Iterable[Path]) -> float:
    """MB of files; those that are gone meanwhile count for nothing."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total / 1e6


@dataclass
class Life:
    """One process from its start to its end, or a folder: (seconds, figures)."""

    name: str
    points: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it was looked at."""
        return self.points[-1][0] - self.points[0][0] if self.points else 0.0

    def slopes(self) -> list[dict[str, Any]]:
        """Per figure: its level and its rise (least squares) over the later part of the life, and whether that is within tolerance."""
        begun = self.points[0][0] + WARM_SHARE * self.seconds
        later = [point for point in self.points if point[0] >= begun]
        out = []
        for name in later[-1][1]:
            x, y = np.array([(at, each[name]) for at, each in later if name in each]).T
            rise = float(np.polyfit(x - x[0], y, 1)[0] * (x[-1] - x[0]))
            share, beside = TOLERANCE[name]
            most = share * float(y.mean()) + beside
            out.append(
                {
                    "what": f"{self.name}: {name}",
                    "minutes": round((x[-1] - x[0]) / 60, 1),
                    "level": round(float(y.mean()), 1),
                    "rise": round(rise, 1),
                    "may rise": round(most, 1),
                    "verdict": "flat" if rise <= most else "RISES",
                }
            )
        return out


class Watch:
    """Looks every some seconds at the processes that ``find`` names (name -> pid) and at ``folders``: name -> (the process that writes
    there and without which it is not looked at, MB)."""

    def __init__(
        self, find: Callable[[], Mapping[str, int]], folders: Mapping[str, tuple[str, Callable[[], float]]], every: float = 10.0
    ) -> None:
        self._find, self._folders, self._every = find, folders, every
        self.lives: dict[tuple[str, int], Life] = {}
        self._collected = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self.look()

    def look(self) -> None:
        """Once."""
        found = self._find()
        if monotonic() - self._collected >= COLLECT_SECONDS:
            self._collected = monotonic()
            for name, pid in found.items():
                if JVM in name:
                    with suppress(subprocess.TimeoutExpired):  # a stopped one is looked at as it is; one may have just ended, too
                        subprocess.run(["jcmd", str(pid), "GC.run"], capture_output=True, timeout=30, check=False)
        now = monotonic()
        for name, pid in found.items():
            try:
                figures = held(pid)
            except OSError:  # it has just ended
                continue
            self.lives.setdefault((name, pid), Life(name)).points.append((now, figures))
        for name, (writer, measure) in self._folders.items():
            if writer in found:
                self.lives.setdefault((name, found[writer]), Life(name)).points.append((now, {"MB": measure()}))

    def samples(self) -> list[dict[str, Any]]:
        """All that was seen: per life its name and points."""
        return [{"name": life.name, "points": life.points} for life in self.lives.values()]

    def close(self) -> None:
        """Look no more. Raises RuntimeError where nobody has looked for some time: what is not seen is not flat."""
        alive = self._thread.is_alive()
        self._ended.set()
        self._thread.join(60)
        if not alive:
            raise RuntimeError("nobody looked at what is held any more: see the error of the thread that did")

    def rows(self) -> list[dict[str, Any]]:
        """The slopes of the longest life of each name, and of any other that rises."""
        by_name: dict[str, list[Life]] = {}
        for life in self.lives.values():
            if life.seconds >= LEAST_SECONDS and len(life.points) >= 10:
                by_name.setdefault(life.name, []).append(life)
        out = []
        for lives in by_name.values():
            longest = max(lives, key=lambda life: life.seconds)
            for life in lives:
                out += [row for row in life.slopes() if life is longest or row["verdict"] != "flat"]
        return out
