"""What a clock shows at instants: years to seconds in a zone, and instants cut off to whole units. Instants are int64 microseconds of UTC.

By numpy and Python's ``zoneinfo``, which has one answer on every version of Arrow. Only the years 1 to 9999 of UTC have one: other
instants have the reason ``out_of_range``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from transforms.expressions.values import Values, marked, strict
from transforms.instants import EPOCH, micros_of
from transforms.reasons import OUT_OF_RANGE, WRONG_TYPE
from transforms.zones import Choice, utc_of

__all__ = ["PARTS", "UNITS", "from_local", "part", "seconds_between", "shifted", "truncated"]

PARTS = ("year", "month", "day", "hour", "minute", "second", "weekday")
UNITS = {"second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000, "day": 86_400_000_000}
_DAY = UNITS["day"]
_MIN_US, _MAX_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_MARGIN = 2 * _DAY


def _ranged(a: Values) -> Values:
    return marked(a, (a.data < _MIN_US) | (a.data > _MAX_US), OUT_OF_RANGE)


@lru_cache(maxsize=65_536)
def _offset(second: int, zone: str) -> int:
    """The zone's offset from UTC at a second since 1970, in microseconds."""
    at = (EPOCH + timedelta(seconds=second)).astimezone(ZoneInfo(zone))
    return micros_of(at.replace(tzinfo=UTC)) - second * 1_000_000


def _local(us: Any, zone: str) -> Any:
    """What the zone's clock shows, as microseconds of a UTC that shows the same."""
    if zone == "UTC" or not len(us):
        return us
    # No zone changes its offset within two days of the ends of the calendar, where local years 0 and 10000 have no datetime.
    seconds = np.clip(us, _MIN_US + _MARGIN, _MAX_US - _MARGIN) // 1_000_000
    hours, where = np.unique(seconds // 3600, return_inverse=True)
    begin = np.array([_offset(h * 3600, zone) for h in hours.tolist()], np.int64)
    end = np.array([_offset(h * 3600 + 3599, zone) for h in hours.tolist()], np.int64)
    offsets = begin[where]
    for row in np.flatnonzero((begin != end)[where]).tolist():  # a change within the hour: each second for itself
        offsets[row] = _offset(int(seconds[row]), zone)
    return us + offsets


def part(what: str, a: Values, zone: str) -> Values:
    """``year`` to ``second`` as a zone's calendar and clock show them; ``weekday`` from 0, Monday, to 6."""
    a = _ranged(a)
    local = _local(np.clip(a.data, _MIN_US, _MAX_US), zone)
    if what in UNITS and what != "day":
        above = {"hour": 24, "minute": 60, "second": 60}[what]
        made = local // UNITS[what] % above
    elif what == "weekday":
        made = (local // _DAY + 3) % 7
    else:
        days = (local // _DAY).astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        years = months.astype("datetime64[Y]")
        if what == "year":
            made = years.astype(np.int64) + 1970
        elif what == "month":
            made = (months - years.astype("datetime64[M]")).astype(np.int64) + 1
        else:
            made = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    return Values(made.astype(np.int64), a.null, a.bad)


def truncated(unit: str, a: Values, zone: str) -> Values:
    """The instant at which the zone's clock began its present second, minute or hour; or the day, at its first midnight.

    Where a day has no midnight it begins with the first instant after it.
    """
    a = _ranged(a)
    us = np.clip(a.data, _MIN_US, _MAX_US)
    local = _local(us, zone)
    if unit != "day" or zone == "UTC":
        made = us - local % UNITS[unit]
    else:
        days, where = np.unique(local // _DAY, return_inverse=True)
        made = np.array([_midnight(day, zone) for day in days.tolist()], np.int64)[where]
    return marked(Values(made, a.null, a.bad), made < _MIN_US, OUT_OF_RANGE)


def from_local(a: Values, zone: str, ambiguous: Choice, missing: Choice) -> Values:
    """The moment at which the zone's clock shows what UTC's shows at ``a``; ``wrong_type`` where there is none, or two, and neither is
    chosen."""
    a = _ranged(a)
    shown = np.clip(a.data, _MIN_US, _MAX_US)
    inside = np.clip(shown, _MIN_US + _MARGIN, _MAX_US - _MARGIN)  # as in _local
    us, found = utc_of(inside, zone, ambiguous, missing)
    return _ranged(marked(Values(us + (shown - inside), a.null, a.bad), ~found, WRONG_TYPE))


@lru_cache(maxsize=65_536)
def _midnight(day: int, zone: str) -> int:
    least, most = (_MIN_US + _MARGIN) // _DAY, (_MAX_US - _MARGIN) // _DAY
    inside = min(max(day, least), most)
    at = datetime(1970, 1, 1, tzinfo=ZoneInfo(zone)) + timedelta(days=inside)
    return micros_of(at) + (day - inside) * _DAY


def seconds_between(a: Values, b: Values) -> Values:
    """From ``a`` to ``b``: the difference in whole microseconds as a float64, divided by 1e6."""
    a, b = _ranged(a), _ranged(b)
    null, bad = strict(a, b)
    with np.errstate(all="ignore"):
        return Values((b.data - a.data).astype(np.float64) / 1e6, null, bad)


def shifted(op: str, a: Values, b: Values) -> Values:
    """An instant plus or minus a duration (both int64 microseconds)."""
    a = _ranged(a)
    null, bad = strict(a, b)
    with np.errstate(all="ignore"):
        made = a.data + b.data if op == "+" else a.data - b.data
    return _ranged(Values(made, null, bad))
