"""Times of a day as microseconds since midnight: one at a time, which is the rule, and columns of them.

What is taken stands with :class:`transforms.parsing.TimeOfDay`.
"""

from __future__ import annotations

import re
from datetime import time, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.instants import BeyondCalendar

__all__ = ["CLOCK", "clock_columns", "clock_micros"]

CLOCK = r"([+-])?([0-9]{1,3}):([0-5][0-9])(?::([0-5][0-9])(?:[.,]([0-9]{1,40}))?)?(?: ?([AaPp])\.?[Mm]\.?)?"
"""A text that is a time of the day; with a half of it, hours are 1 to 12 and there is no sign."""
_CLOCK = re.compile(CLOCK, re.ASCII)
_DIGITS = re.compile(r"([01][0-9]|2[0-4])([0-5][0-9])([0-5][0-9])", re.ASCII)
_PLAIN = r"^[0-9]{2}:[0-5][0-9]:[0-5][0-9]$"
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000
_MOST = 2**63 - 1
_SCALES = {"s": _SECOND, "ms": 1_000, "us": 1}

Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""Microseconds [N], and which of them are right, bool [N]; nothing is said of the others."""


def clock_micros(value: Any) -> int | None:
    """Microseconds since midnight of a value that is not null; None where it is no time of the day."""
    if type(value) is BeyondCalendar:
        return value.us if value.kind == "time" else None
    if isinstance(value, time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * _SECOND + value.microsecond
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if type(value) is not str:
        return None
    if plain := _DIGITS.fullmatch(value):
        hour, minute, second = map(int, plain.groups())
        return ((hour * 60 + minute) * 60 + second) * _SECOND
    found = _CLOCK.fullmatch(value)
    if found is None:
        return None
    sign, hours, minutes, seconds, fraction, half = found.groups()
    hour = int(hours)
    if half is not None:
        if sign or not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "Pp" else 0)
    us = ((hour * 60 + int(minutes)) * 60 + int(seconds or 0)) * _SECOND
    digits = fraction or ""
    if sign != "-":
        return us + int(f"{digits[:6]:0<6}")
    return -us - int(f"{digits[:6]:0<6}") - (1 if digits[6:].strip("0") else 0)  # floored, as all is


def clock_columns(column: pa.Array) -> Columns | None:
    """A column of times, durations or texts as :func:`clock_micros` reads plain ones; None where there is no way by columns."""
    t, every = column.type, np.ones(len(column), bool)
    if pa.types.is_time(t) or pa.types.is_duration(t):
        whole = column.cast(pa.int32()).cast(pa.int64()) if pa.types.is_time32(t) else column.cast(pa.int64())
        numbers = whole.fill_null(0).to_numpy(zero_copy_only=False)
        unit = str(t).partition("[")[2].rstrip("]")  # older Arrow has no attribute of times for it
        if unit == "ns":
            return np.floor_divide(numbers, 1_000), every
        scale = _SCALES[unit]
        most = _MOST // scale
        inside = np.clip(numbers, -most, most)
        return inside * scale, inside == numbers
    if not (pa.types.is_string(t) or pa.types.is_large_string(t)):
        return None
    plain = pc.fill_null(pc.match_substring_regex(column, _PLAIN), False)
    sure: npt.NDArray[np.bool_] = plain.to_numpy(zero_copy_only=False)
    if not sure.any():
        return None
    texts = pc.if_else(plain, column, pa.scalar("00:00:00", t))
    hours, minutes, seconds = (
        pc.utf8_slice_codeunits(texts, at, at + 2).cast(pa.int64()).to_numpy(zero_copy_only=False) for at in (0, 3, 6)
    )
    return ((hours * 60 + minutes) * 60 + seconds) * _SECOND, sure.copy()
