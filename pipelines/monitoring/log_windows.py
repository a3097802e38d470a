"""Which rows are looked at: a window of the request log, the one before, and windows of the same length of the training set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ConfigError
from transforms.instants import instant, micros_of

__all__ = ["DAY_US", "Window", "blocks", "choose", "duration", "moments"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
DAY_US = 86_400_000_000
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(min|h|d|w)?")
_SIZES = {"min": 60_000_000, "h": 3_600_000_000, "d": DAY_US, "w": 7 * DAY_US, None: DAY_US}


@dataclass(frozen=True)
class Window:
    """[start, end) in microseconds of UTC, by the server's now."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Microseconds."""
        return self.end - self.start

    @property
    def before(self) -> Window:
        """The window of the same length right before."""
        return Window(self.start - self.length, self.start)

    def mask(self, at: Int) -> Bool:
        """Which moments lie inside."""
        out: Bool = (at >= self.start) & (at < self.end)
        return out

    def texts(self) -> tuple[str, str]:
        """Both ends in ISO 8601."""
        first, last = (instant(t).isoformat(timespec="seconds") for t in (self.start, self.end))
        return first, last


def duration(text: str) -> timedelta:
    """``7d``, ``12h``, ``90min``, ``2w``; a bare number is days. Raises ConfigError."""
    match = _LENGTH.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--last {text!r} is not a duration; use 7d, 12h, 90min or 2w")
    return timedelta(microseconds=float(match[1]) * _SIZES[match[2]])


def choose(at: Int, since: datetime | None, until: datetime | None, last: timedelta | None) -> Window | None:
    """The window: as asked for, or of length ``last`` (default: a day) up to the end of the last day that has rows. None: no rows at all.

    Raises ConfigError for a window that ends before it begins.
    """
    if since is not None and until is not None and since >= until:
        raise ConfigError(f"--since {since:%Y-%m-%dT%H:%M} is not before --until {until:%Y-%m-%dT%H:%M}; swap or correct them")
    length = DAY_US if last is None else last // timedelta(microseconds=1)
    if until is not None:
        at = at[at < us(until)]
    if since is not None:
        at = at[at >= us(since)]
    if not len(at) and (since is None or until is None):
        return None
    end = us(until) if until is not None else (int(at.max()) // DAY_US + 1) * DAY_US
    return Window(us(since) if since is not None else end - length, end)


def us(moment: datetime) -> int:
    """Microseconds of UTC."""
    return micros_of(moment)


def blocks(at: Int, window: Window, most: int, least_rows: int) -> list[tuple[Window, Bool]]:
    """Windows of the same length and time of day within ``at`` [n], with the rows of each: at most ``most``, evenly spread, none of them
    overlapping another, each with ``least_rows``. In order of time."""
    if not len(at):
        return []
    step = -(-window.length // DAY_US) * DAY_US
    first = int(at.min())
    start = first + (window.start - first) % DAY_US
    found: list[tuple[Window, Bool]] = []
    while start + window.length <= int(at.max()) + DAY_US // 4:
        one = Window(start, start + window.length)
        mask = one.mask(at)
        if mask.sum() >= least_rows:
            found.append((one, mask))
        start += step
    if len(found) <= most:
        return found
    chosen: Any = np.unique(np.linspace(0, len(found) - 1, most).round().astype(np.int64))
    return [found[i] for i in chosen]


def moments(at: Int) -> float:
    """Over how many different minutes n moments are spread: n if each has its own, 1 if all share one (the inverse of the chance that
    two of them fall into the same)."""
    if not len(at):
        return 0.0
    counts = np.unique(at // 60_000_000, return_counts=True)[1] / len(at)
    return float(1 / np.sum(counts**2))
