"""Moments as Tandem keeps them, whole microseconds of UTC since 1970, and as Python's datetimes. Standard library only."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["EPOCH", "instant", "micros_of", "now_us", "to_minute"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros_of(at: datetime) -> int:
    """Microseconds of UTC since 1970, exactly; a naive ``at`` is UTC."""
    return (at.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND if at.tzinfo is None else (at - EPOCH) // _MICROSECOND


def instant(us: int) -> datetime:
    """The moment ``us`` microseconds (numpy's integers will do) after 1970, in UTC, exactly. OverflowError outside of years 1 to 9999."""
    return EPOCH + timedelta(microseconds=int(us))


def now_us() -> int:
    """The wall clock, in microseconds."""
    return time.time_ns() // 1000


def to_minute(us: int) -> str:
    """For people: ``2013-03-01 06:00``, in UTC."""
    return f"{instant(us):%Y-%m-%d %H:%M}"
