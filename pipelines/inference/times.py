"""Whether the values of a column are times, and how they are written: epochs, ticks, days, texts in a format, moments as printed."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from pipelines.inference.column import NONE, Column
from pipelines.inference.names import words
from transforms.clock_times import CLOCK, clock_micros
from transforms.conversions import value_of
from transforms.instants import micros_of, micros_of_text
from transforms.json_payload import Refused
from transforms.parsing import Epoch, IsoTime

__all__ = ["clock_times", "digit_days", "epoch", "epoch_text", "moments", "shown", "text_times", "time_like", "times"]

_UNITS = (("s", 1_000_000), ("ms", 1_000), ("us", 1))
_DAY = 86_400
_OF_DAY = (1_000_000, 1_000_000_000)
"""Microseconds and nanoseconds; milliseconds of a day are as large as seconds of a year."""
_FIRST, _LAST = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds
_TICKS = 628_929_792_000_000_000, 662_380_416_000_000_000
"""1994 and 2100 in ticks of .NET: as nanoseconds since 1970 these are of December 1989 to 1990, of which few data are."""
_SERIALS = 32_874, 54_789
_TIME = {
    "time",
    "timestamp",
    "ts",
    "at",
    "date",
    "datetime",
    "when",
    "epoch",
    "created",
    "occurred",
    "day",
    "dt",
    "stamp",
    "zeit",
    "moment",
    "heure",
    "hora",
    "fecha",
    "uhr",
    "ora",
}
_UNIT_NAMES = {
    "ms": "ms", "millis": "ms", "milliseconds": "ms", "us": "us", "micros": "us", "microseconds": "us", "ns": "ns", "nano": "ns",
    "nanos": "ns", "nanoseconds": "ns",
}  # fmt: skip
"""Of names that end in a unit, whether or not they say that they are a time."""
_MONTH = "[A-Z][a-z]{2}"
_CLOCK = r"\d\d:\d\d:\d\d"
_FORMATS = (
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", "%Y-%m-%d %H:%M:%S"), (r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$", "%Y-%m-%dT%H:%M:%S"),
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,6}$", "%Y-%m-%d %H:%M:%S.%f"),
    (r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}$", "%Y-%m-%dT%H:%M:%S.%f"),
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d$", "%Y-%m-%d %H:%M"), (r"^\d{4}-\d\d-\d\dT\d\d:\d\d$", "%Y-%m-%dT%H:%M"),
    (r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ?[+-]\d\d:?\d\d$", "%Y-%m-%d %H:%M:%S%z"),
    *((rf"^{day}\.{day}\.\d{{{digits}}}{pattern}$", f"%d.%m.{year}{form}")
      for day, digits, year in ((r"\d{1,2}", 4, "%Y"), (r"\d\d", 2, "%y")) for pattern, form in (
        (r" \d\d:\d\d:\d\d", " %H:%M:%S"), (r" \d\d:\d\d", " %H:%M"), ("", ""),
    )),
    *((rf"^\d{{1,2}}{mark}\d{{1,2}}{mark}\d{{{digits}}}{pattern}$", f"{first}{mark}{second}{mark}{year}{form}")
      for mark in "/-" for digits, year in ((4, "%Y"), (2, "%y"))
      for pattern, form, order in (
        (r" \d{1,2}:\d\d:\d\d", " %H:%M:%S", "dm"), (r" \d{1,2}:\d\d", " %H:%M", "dm"), ("", "", "dm"),
        (r" \d{1,2}:\d\d:\d\d [APap][Mm]", " %I:%M:%S %p", "md"), (r" \d{1,2}:\d\d [APap][Mm]", " %I:%M %p", "md"),
      ) for first, second in ((f"%{order[0]}", f"%{order[1]}"), (f"%{order[1]}", f"%{order[0]}"))),
    *((rf"^\d{{4}}[{mark}]\d\d[{mark}]\d\d{pattern}$", f"%Y{mark}%m{mark}%d{form}") for mark in "/." for pattern, form in (
        ("", ""), (r" \d\d:\d\d", " %H:%M"), (rf" {_CLOCK}", " %H:%M:%S"), (rf" {_CLOCK}\.\d{{1,6}}", " %H:%M:%S.%f"),
    )),
    (r"^\d{4}-W[0-5]\d-[1-7]$", "%G-W%V-%u"),
    (rf"^\d{{8}}-{_CLOCK}$", "%Y%m%d-%H:%M:%S"), (rf"^\d{{8}}-{_CLOCK}\.\d{{1,6}}$", "%Y%m%d-%H:%M:%S.%f"),  # FIX
    # Logs of web servers; mail and HTTP; what C, Java and Twitter print; Oracle and DB2.
    (rf"^\d\d/{_MONTH}/\d{{4}}:{_CLOCK} [+-]\d{{4}}$", "%d/%b/%Y:%H:%M:%S %z"),
    (rf"^\[\d\d/{_MONTH}/\d{{4}}:{_CLOCK} [+-]\d{{4}}\]$", "[%d/%b/%Y:%H:%M:%S %z]"),
    (rf"^{_MONTH}, \d{{1,2}} {_MONTH} \d{{4}} {_CLOCK} [+-]\d{{4}}$", "%a, %d %b %Y %H:%M:%S %z"),
    (rf"^{_MONTH}, \d{{1,2}} {_MONTH} \d{{4}} {_CLOCK} GMT$", "%a, %d %b %Y %H:%M:%S GMT"),
    (rf"^{_MONTH} {_MONTH} +\d{{1,2}} {_CLOCK} [+-]\d{{4}} \d{{4}}$", "%a %b %d %H:%M:%S %z %Y"),
    (rf"^{_MONTH} {_MONTH} +\d{{1,2}} {_CLOCK} UTC \d{{4}}$", "%a %b %d %H:%M:%S UTC %Y"),
    (rf"^{_MONTH} {_MONTH} +\d{{1,2}} {_CLOCK} GMT \d{{4}}$", "%a %b %d %H:%M:%S GMT %Y"),
    (rf"^{_MONTH} {_MONTH} +\d{{1,2}} {_CLOCK} \d{{4}}$", "%a %b %d %H:%M:%S %Y"),
    *((rf"^\d{{1,2}}-[A-Z][A-Za-z]{{2}}-\d{{{digits}}}{pattern}$", f"%d-%b-{year}{form}")
      for digits, year in ((4, "%Y"), (2, "%y")) for pattern, form in (("", ""), (rf" {_CLOCK}", " %H:%M:%S"))),
    (rf"^\d{{1,2}} {_MONTH} \d{{4}} {_CLOCK}$", "%d %b %Y %H:%M:%S"),
    (rf"^\d{{1,2}} [A-Z][a-z]+ \d{{4}} {_CLOCK}$", "%d %B %Y %H:%M:%S"),
    (rf"^{_MONTH} \d{{1,2}}, \d{{4}} \d{{1,2}}:\d\d:\d\d [AP]M$", "%b %d, %Y %I:%M:%S %p"),
    (rf"^{_MONTH} \d{{1,2}}, \d{{4}}, \d{{1,2}}:\d\d:\d\d [AP]M$", "%b %d, %Y, %I:%M:%S %p"),
    (r"^\d\d-[A-Z][A-Za-z]{2}-\d\d \d\d\.\d\d\.\d\d\.\d{1,6} [AP]M$", "%d-%b-%y %I.%M.%S.%f %p"),
    (r"^\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d\.\d{1,6}$", "%Y-%m-%d-%H.%M.%S.%f"),
)  # fmt: skip
_DIGITS = (
    (r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d$", "%Y%m%d%H%M%S"),
    (r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d\d{3}$", "%Y%m%d%H%M%S%f"),
)
_CLOCK_DIGITS = r"^([01]\d|2[0-4])[0-5]\d[0-5]\d$"
_DAYS = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
_ISO = (
    r"^(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?|\d{8}[Tt]\d{4}(\d\d)?)([.,]\d+)?"
    r"( ?(Z|z|UTC|GMT|[+-]\d\d(:?\d\d(:?\d\d)?)?)( [A-Z]{2,5})?(\[[^\[\]]{1,64}\])*)?$"
)
_ZONED = re.compile(r"(Z|z|UTC|GMT|[+-]\d\d(:?\d\d(:?\d\d)?)?)( (?!(?:AD|BC|BCE|CE|AM|PM)\b)[A-Z]{2,5})?(\[[^\[\]]*\])*$")


def text_times(column: Column, values: list[Any], all_match: Callable[[str], bool], text: bool, zone: str | None) -> bool:
    """Whether texts are times; then the column is. ``all_match`` says whether all are of a pattern, ``text`` whether their format has
    nothing but text."""
    name = column.called
    if all_match(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)$"):
        us = [None if v is None else micros_of_text(v) for v in values]
        if all(u is not None or v is None for u, v in zip(us, values, strict=True)):
            column.dtype = "timestamp"
            moments(column, us)
            return True
    version = any(w.endswith("version") for w in words(name))
    if not version and all_match(r"^\d{4}-\d\d-\d\d$"):
        column.dtype, column.parse = "timestamp", "Date()"
        moments(column, [None if v is None else micros_of(dt.datetime.fromisoformat(v).replace(tzinfo=dt.UTC)) for v in values])
        return True
    for pattern, form in _FORMATS:
        if not (version and ":" not in form) and all_match(pattern) and _formatted(column, values, form, zone):
            return True
    if all_match(_ISO) and _printed(column, values, zone):
        return True
    if all_match(r"^/Date\(-?\d{1,15}([+-]\d{4})?\)/$"):
        column.dtype, column.parse = "timestamp", 'Epoch("ms", text=True)'
        moments(column, [None if v is None else value_of(v, Epoch("ms", text=True), "timestamp") for v in values])
        return True
    if all_match(rf"^{CLOCK}$") and (time_like(name) or all_match(r"^[^:]+:[^:]+:")) and clock_times(column, values):
        return True
    if not (time_like(name) or name.startswith("column_")):
        return False
    if any(all_match(pattern) and _formatted(column, values, form, zone) for pattern, form in _DIGITS):
        return True
    if time_like(name) and all_match(_DAYS) and _formatted(column, values, "%Y%m%d", zone):
        return True
    return time_like(name) and all_match(_CLOCK_DIGITS) and clock_times(column, values)


def clock_times(column: Column, values: list[Any]) -> bool:
    """Whether values are times of the day; then the column is: microseconds since midnight."""
    us = [None if v is None else clock_micros(v) for v in values]
    if any(u is None and v is not None for u, v in zip(us, values, strict=True)):
        return False
    column.dtype, column.parse, column.of_day = "int64", "TimeOfDay()", 1_000_000
    known = [u for u in us if u is not None]
    column.moments = np.array([NONE if u is None else u for u in us], np.int64)
    column.distinct = len(set(known))
    column.notes.append(f"{_clock(min(known))} to {_clock(max(known))}, as microseconds since midnight")
    return True


def _clock(us: int) -> str:
    seconds = abs(us) // 1_000_000
    return f"{'-' if us < 0 else ''}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def digit_days(column: Column, values: list[Any], zone: str | None) -> bool:
    """Whether whole numbers are days, or moments, by their digits: 20240501. Then the column is."""
    texts = [None if v is None else str(v) for v in values]
    if not time_like(column.called):
        return False
    for pattern, form in ((_DAYS, "%Y%m%d"), *_DIGITS[:1]):
        if all(v is None or re.match(pattern, v) for v in texts) and _formatted(column, texts, form, zone):
            return True
    return False


def time_like(name: str) -> bool:
    """Whether a name is one that times have."""
    found = words(name)
    return bool(set(found) & _TIME) or any(w.endswith(("time", "zeit", "datum", "stamp")) or _date_word(w) or _of_sap(w) for w in found)


def _date_word(word: str) -> bool:
    return word.endswith("date") and word not in ("candidate", "mandate")


def _of_sap(word: str) -> bool:
    """Whether a word is built as names of SAP's fields are, of five letters at most: BUDAT, ERZET; not mandat, format, gazet."""
    return len(word) <= 5 and word.endswith(("dat", "zet"))


def _perhaps_time(name: str) -> bool:
    """Whether a name does not say that it is no time: none at all, or a begin and an end, which may be of anything."""
    return name.startswith("column_") or bool({"start", "end", "begin", "started", "ended", "updated", "modified"} & set(words(name)))


def epoch(column: Column, values: list[Any]) -> None:
    """Numbers of a time, by their size and name."""
    name = column.called
    told = time_like(name) or "$date" in column.steps or _of_moment(column.steps) or (_perhaps_time(name) and _rising(values))
    told |= column.asked
    unit_named = _UNIT_NAMES.get(words(name)[-1]) if words(name) else None  # event_ms: a time only if it is one in that unit
    timed = told or name.lower() == "t"  # by its size alone: a temperature is no epoch
    if not (timed or unit_named) or not isinstance(column.low, (int, float)):
        return
    if _serial(column, values):
        return
    if {"date", "day", "dt"} & set(words(name)) and column.low * _DAY >= _FIRST and column.high * _DAY <= _LAST and column.dtype == "int64":
        column.dtype, column.domain, column.parse = "timestamp", None, "Date()"
        column.notes.append("QUESTION: days since 1970?")
        moments(column, [None if v is None else int(v) * _DAY * 1_000_000 for v in values])
        return
    if column.dtype == "int64" and _TICKS[0] <= column.low and column.high <= _TICKS[1]:
        column.dtype, column.domain, column.parse = "timestamp", None, 'Epoch("ticks")'
        column.notes.append("100 ns since the year 1, as of .NET; as nanoseconds since 1970 they would be of 1990")
        moments(column, [None if v is None else value_of(int(v), Epoch("ticks"), "timestamp") for v in values])
        return
    for unit, scale in (*_UNITS, ("ns", 0)):
        if not timed and unit != unit_named:
            continue
        factor = 1_000_000 // scale if scale else 1_000_000_000
        if _FIRST * factor <= column.low and column.high <= _LAST * factor:
            column.dtype, column.domain = "timestamp", None
            column.parse = f'Epoch("{unit}")'
            moments(column, [None if v is None else int(v * scale) if scale else int(v) // 1_000 for v in values])
            return
    if told and column.dtype == "int64" and column.low >= 0 and _rising(values):
        # Counted from midnight, as exchanges do: in units that are neither coarser (a day has no more of these) nor finer ones.
        column.of_day = next((n for n in _OF_DAY if _DAY * n // 1_000 <= column.high < _DAY * n), 0)
        if column.of_day:
            column.moments = np.array([NONE if v is None else v * 1_000_000 // column.of_day for v in values], np.int64)


def _serial(column: Column, values: list[Any]) -> bool:
    """Whether numbers are days as a spreadsheet counts them: by the name of a date, and of 1990 to 2050 (as days since 1970 they would be
    of 2060 and later)."""
    low, high = _SERIALS
    dated = any(w in ("date", "day", "dt") or w.endswith(("datum", "datetime")) or _date_word(w) for w in words(column.called))
    if not dated or not isinstance(column.low, (int, float)) or not low <= column.low <= column.high <= high:
        return False
    column.dtype, column.domain, column.parse = "timestamp", None, 'Epoch("excel")'
    column.naive = True
    column.notes.append("QUESTION: days since 1899-12-30, as spreadsheets count them? UTC is assumed; .from_local() of it is a zone's")
    moments(column, [None if v is None else value_of(v, Epoch("excel"), "timestamp") for v in values])
    return True


def _of_moment(steps: tuple[Any, ...]) -> bool:
    """Whether it is the seconds of an object that is a time, beside their nanoseconds, or a count within them as MongoDB has it."""
    if steps[-2:] == ("$timestamp", "t"):
        return True
    return len(steps) > 1 and steps[-1] in ("seconds", "_seconds", "epochSecond", "epoch_second") and time_like(str(steps[-2]))


def epoch_text(column: Column, values: list[Any]) -> None:
    """Texts of numbers of a time, in a format that has numbers too."""
    was = column.parse
    epoch(column, values)
    if column.parse != was:
        column.parse = column.parse.removesuffix(")") + ", text=True)"
    column.of_day = 0


def _rising(values: list[Any]) -> bool:
    """Whether values are those of a clock that goes on: a column without a name is a time then."""
    known = [v for v in values if v is not None]
    return len(known) == len(values) > 50 and sum(b >= a for a, b in itertools.pairwise(known)) > 0.9 * len(known) and known[0] < known[-1]


def moments(column: Column, us: list[int | None]) -> None:
    column.moments = np.array([NONE if v is None else v for v in us], dtype=np.int64)
    known = column.moments[column.moments != NONE]
    column.low, column.high = (shown(int(known.min())), shown(int(known.max()))) if len(known) else (None, None)
    column.distinct = len(np.unique(known))


def shown(us: int) -> str:
    """A moment (microseconds) as people read it, in UTC."""
    return (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us)).isoformat(sep=" ", timespec="seconds")


def times(column: Column, values: list[Any], zone: str | None) -> None:
    column.dtype = "timestamp"
    if any(v is not None and v.tzinfo is None for v in values):
        if zone is not None:
            _local(column, [None if v is None else v.replace(tzinfo=None) for v in values], "%Y-%m-%d %H:%M:%S", zone)
            return
        column.naive = True
        column.notes.append("QUESTION: these times have no zone, and are read as UTC; infer --zone says another")
    moments(column, [None if v is None else micros_of(v) for v in values])


def _formatted(column: Column, values: list[Any], form: str, zone: str | None) -> bool:
    try:
        read = [None if v is None else dt.datetime.strptime(v, form) for v in values]
    except ValueError:
        return False
    column.dtype = "timestamp"
    column.day_format = "" if any(d in form for d in ("%H", "%I")) else form
    if "%z" in form:
        column.parse = f'TimeFormat("{form}")'
        moments(column, [None if at is None else micros_of(at) for at in read])
    elif form.endswith(" GMT") or " UTC" in form or " GMT " in form:
        _local(column, read, form, "UTC")
    else:
        column.naive = zone is None
        if zone is None:
            column.notes.append("QUESTION: local time of which zone? UTC is assumed; infer --zone Europe/Paris says another")
        _local(column, read, form, zone or "UTC")
    if form.startswith(("%d/%m", "%m/%d", "%d-%m", "%m-%d")) and all(at is None or at.day <= 12 for at in read):
        column.notes.append("QUESTION: day/month or month/day?")
    return True


def _printed(column: Column, values: list[Any], zone: str | None) -> bool:
    """Moments as databases and programs print them; of some the zone, the fraction or the seconds are left out."""
    how: dict[str, Any] = {}
    naive = [v is not None and _ZONED.search(v, 12) is None for v in values]
    if any(naive):
        how = {"zone": zone or "UTC", "ambiguous": "earlier", "missing": "later"}
        column.naive = zone is None
    try:
        us = [None if v is None else value_of(v, IsoTime(**how), "timestamp") for v in values]
    except Refused:
        return False
    column.dtype, column.parse = "timestamp", "IsoTime()"
    if how:
        column.parse = f'IsoTime(zone="{how["zone"]}", ambiguous="earlier", missing="later")'
        if zone is None:
            column.notes.append("QUESTION: local time of which zone? UTC is assumed; infer --zone Europe/Paris says another")
    moments(column, us)
    return True


def _local(column: Column, values: list[Any], form: str, zone: str) -> None:
    """Naive times, as those of a zone."""
    place = ZoneInfo(zone)
    us: list[int | None] = []
    twice = gone = False
    for v in values:
        if v is None:
            us.append(None)
            continue
        at = v.replace(tzinfo=place)
        gone |= at.astimezone(dt.UTC).astimezone(place).replace(tzinfo=None) != v
        twice |= at.utcoffset() != at.replace(fold=1).utcoffset()
        us.append(micros_of(at))
    more = ""
    if twice or gone:
        more = ', ambiguous="earlier", missing="later"'
        column.notes.insert(0, "some of these are in an hour that is ambiguous or missing because of a clock change")
    column.parse = f'TimeFormat("{form}", zone="{zone}"{more})'
    moments(column, us)
