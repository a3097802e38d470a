"""The clock of a replayed history: event time as a function of wall time, given by a small file."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transforms.instants import now_us

__all__ = ["Pace", "ReplayClock"]

log = logging.getLogger("tandem.serving")

_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the years 1 and 9999: what can be written as a date."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Pace:
    """It is ``event_us0`` at wall time ``wall_us0``, and goes on at ``speed`` times real time; 0: it stands still."""

    event_us0: int
    wall_us0: int
    speed: float

    def __post_init__(self) -> None:
        for name in ("event_us0", "wall_us0"):
            value = getattr(self, name)
            if type(value) is not int or not _FIRST <= value <= _LAST:
                raise ValueError(f"{name} is {value!r:.60}; it must be microseconds since 1970, as an integer")
        if type(self.speed) not in (int, float) or not math.isfinite(self.speed) or self.speed < 0:
            raise ValueError(f"speed is {self.speed!r:.60}; it must be a number of at least 0")

    @staticmethod
    def parse(text: bytes) -> Pace:
        """The pace in ``{"event_us0": int, "wall_us0": int, "speed": float}``. Raises ValueError."""
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
        try:
            return Pace(raw["event_us0"], raw["wall_us0"], raw["speed"])
        except KeyError as e:
            raise ValueError(f"it lacks {e.args[0]!r}") from None

    def at(self, wall: int) -> int:
        """Event time (us) at the wall time ``wall`` (us)."""
        event = self.event_us0 + round(min(max((wall - self.wall_us0) * self.speed, -1e18), 1e18))
        return min(max(event, _FIRST), _LAST)


class ReplayClock:
    """Now (us) by the pace in ``path``: ``event_us0 + (wall - wall_us0) * speed``.

    The file may come after the clock was made, and be replaced at any time (by a rename): a later replay takes over within
    a tenth of a second. While there is none, ``otherwise`` gives the time. A file that cannot be read as a pace is said
    once, and the last good pace goes on (``otherwise``, if there was none). Safe from many threads; a call costs about a microsecond.
    """

    def __init__(self, path: Path, otherwise: Callable[[], int] = now_us, wall: Callable[[], int] = now_us) -> None:
        self._path = path
        self._otherwise = otherwise
        self._wall = wall
        self._lock = threading.Lock()
        self._pace: Pace | None = None
        self._seen: tuple[int, int, int] | None = None
        self._next_look = -math.inf

    def __call__(self) -> int:
        """Now, in microseconds of UTC since 1970."""
        if time.monotonic() >= self._next_look and self._lock.acquire(blocking=False):
            try:
                self._look()
                self._next_look = time.monotonic() + _LOOK_SECONDS
            finally:
                self._lock.release()
        pace = self._pace
        return self._otherwise() if pace is None else pace.at(self._wall())

    def _look(self) -> None:
        try:
            info = os.stat(self._path)
            stamp = (info.st_ino, info.st_size, info.st_mtime_ns)
            if stamp == self._seen:
                return
            self._seen = stamp
            pace = Pace.parse(self._path.read_bytes())
        except FileNotFoundError:
            if self._pace is not None:
                log.info("clock: %s no longer exists; back to real time", self._path)
            self._pace, self._seen = None, None
        except (OSError, ValueError) as e:  # ValueError: also JSON and UTF-8
            log.warning(
                "clock: %s cannot be read as a clock (%s); %s until it is rewritten",
                self._path,
                " ".join(str(e).split())[:200],
                "the last valid one is used" if self._pace is not None else "real time is used",
            )
        else:
            if pace != self._pace:
                log.info("clock: %s, now %d us since 1970, at %g times real time", self._path, pace.at(self._wall()), pace.speed)
            self._pace = pace
