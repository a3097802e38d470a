"""Local times of a time zone as moments in UTC, by Python's own zoneinfo, many at once."""

from __future__ import annotations

import functools
import zoneinfo
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["AMBIGUOUS", "MISSING", "Choice", "utc_of", "utc_of_one"]

Int = npt.NDArray[np.int64]
Choice = Literal["earlier", "later", "reject"]

AMBIGUOUS = "is there twice, as clocks are put back"
MISSING = "is not there, as clocks are put forward"
_DAY_US = 86_400_000_000
_NAIVE = datetime(1970, 1, 1)


@functools.cache
def _zone(name: str) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(name)


def _offsets(local: datetime, zone: str) -> tuple[int, int]:
    """The offsets from UTC (microseconds) of both moments that a local time may be."""
    first, second = (local.replace(tzinfo=_zone(zone), fold=fold).utcoffset() or timedelta(0) for fold in (0, 1))
    return first // timedelta(microseconds=1), second // timedelta(microseconds=1)


@functools.lru_cache(maxsize=100_000)
def _offset_of_day(day: int, zone: str) -> int | None:
    """The offset (microseconds) of every moment of a local day; None where it may change on that day."""
    try:
        found = {o for d in range(day - 1, day + 3) for o in _offsets(_NAIVE + timedelta(days=d), zone)}
    except OverflowError:
        return None
    return found.pop() if len(found) == 1 else None


def utc_of_one(local: datetime, zone: str, ambiguous: Choice, missing: Choice) -> int | str:
    """Microseconds since 1970 in UTC of a naive local time; or why there are none."""
    first, second = _offsets(local, zone)
    us = (local - _NAIVE) // timedelta(microseconds=1)
    if first == second:
        return us - first
    choice = ambiguous if first > second else missing
    if choice == "reject":
        return AMBIGUOUS if first > second else MISSING
    return us - (max(first, second) if choice == "earlier" else min(first, second))


def utc_of(local_us: Int, zone: str, ambiguous: Choice, missing: Choice) -> tuple[Int, npt.NDArray[np.bool_]]:
    """Local times (microseconds since a naive 1970, of the years 1 to 9999) in UTC, int64 [N], and which of them there are, bool [N]."""
    found = np.ones(len(local_us), bool)
    if zone == "UTC":
        return local_us, found
    days, place = np.unique(local_us // _DAY_US, return_inverse=True)
    offsets = [_offset_of_day(day, zone) for day in days.tolist()]
    steady = np.array([o is not None for o in offsets], bool)[place]
    out: Int = local_us - np.array([o or 0 for o in offsets], np.int64)[place]
    for row in np.flatnonzero(~steady).tolist():
        one = utc_of_one(_NAIVE + timedelta(microseconds=int(local_us[row])), zone, ambiguous, missing)
        if isinstance(one, str):
            found[row] = False
        else:
            out[row] = one
    return out, found
