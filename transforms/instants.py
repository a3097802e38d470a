"""Moments as Tandem keeps them, whole microseconds of UTC since 1970, and as Python's datetimes. Standard library only."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

__all__ = [
    "EPOCH",
    "MAX_US",
    "MIN_US",
    "TIME_TEXT",
    "BeyondCalendar",
    "as_option",
    "instant",
    "micros_of",
    "micros_of_text",
    "now_us",
    "to_minute",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

TIME_TEXT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])"
"""A moment as text: RFC 3339 with any number of digits of a second, and its offset also without the colon (ISO 8601's basic form)."""
_TIME_TEXT = re.compile(TIME_TEXT)
MIN_US, MAX_US = ((at.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND for at in (datetime.min, datetime.max))
"""The first and the last microsecond of the years 1 to 9999."""


class BeyondCalendar(int):
    """The number that is written for a date, a moment or a time of day for which Python has none: 24:00:00, a database's infinite date.
    It is of no number's type to the contract, as a date is not.

    ``kind`` is "date", "moment", "local" (a moment without a zone) or "time"; ``us`` are microseconds since 1970, of a time since midnight.
    """

    kind: str
    us: int

    def __new__(cls, number: int, kind: str, us: int) -> BeyondCalendar:
        """As the class says."""
        made = super().__new__(cls, number)
        made.kind, made.us = kind, us
        return made


def micros_of(at: datetime) -> int:
    """Microseconds of UTC since 1970, exactly; a naive ``at`` is UTC."""
    return (at.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND if at.tzinfo is None else (at - EPOCH) // _MICROSECOND


def micros_of_text(text: str) -> int | None:
    """Microseconds of UTC since 1970 of a text as :data:`TIME_TEXT` has it, floored; None where it is no such text, or no day or time."""
    if not _TIME_TEXT.fullmatch(text):
        return None
    head, _, tail = text.upper().partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    try:
        return micros_of(datetime.fromisoformat(f"{head}.{digits[:6]:0<6}{tail[len(digits) :]}" if digits else head))
    except ValueError:
        return None  # 30 February, or a 61st second


def instant(us: int) -> datetime:
    """The moment ``us`` microseconds (numpy's integers will do) after 1970, in UTC, exactly. OverflowError outside of years 1 to 9999."""
    return EPOCH + timedelta(microseconds=int(us))


def now_us() -> int:
    """The wall clock, in microseconds."""
    return time.time_ns() // 1000


def as_option(at: datetime) -> str:
    """As ``--start`` and ``--end`` take it, in UTC: the day, if that begins then, else the minute too, and seconds if there are any."""
    at = at.astimezone(UTC).replace(tzinfo=None)
    if at == at.replace(hour=0, minute=0, second=0, microsecond=0):
        return f"{at:%Y-%m-%d}"
    return at.isoformat(timespec="auto" if at.second or at.microsecond else "minutes")


def to_minute(us: int) -> str:
    """For people: ``2013-03-01 06:00``, in UTC."""
    return f"{instant(us):%Y-%m-%d %H:%M}"
