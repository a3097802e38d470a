"""What an event's time is held against: its record's own Kafka timestamp, where that is a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from pipelines.sources.broker import Ints
from transforms.instants import EPOCH, instant
from transforms.reasons import FUTURE_TIMESTAMP

__all__ = ["CLOCK_ERROR_US", "judged_at", "said_of"]

CLOCK_ERROR_US = 86_400_000_000
"""How wrong the clock of this machine, or that of a producer, may be: a day, which every mistake of a time zone is within."""
_EARLY_US = 60 * 86_400_000_000
"""Seconds written where milliseconds are meant lie within the first 60 days of 1970, until the year 2111; so do 0 and -1, "no time"."""


def _plausible(stamps_us: Ints, now_us: int) -> npt.NDArray[np.bool_]:
    """Which record times are times: not of early 1970, and not ahead of the clock by more than clocks are wrong."""
    return (stamps_us >= _EARLY_US) & (stamps_us <= now_us + CLOCK_ERROR_US)


def judged_at(stamps_us: Ints, now_us: int, limit_us: int) -> Ints:
    """The instants (int64 [N], microseconds) that the events of N records may lie ``limit_us`` ahead of.

    It is the record's own time, so that reading the log again gives the same verdict. Only where that is none is it the clock, and then
    an event may lie ahead by a day, as this clock may be wrong.
    """
    return np.where(_plausible(stamps_us, now_us), stamps_us, now_us + max(0, CLOCK_ERROR_US - limit_us))


def said_of(
    reasons: Sequence[str], details: Sequence[str | None], times_us: Sequence[int | None], stamps_us: Ints, now_us: int, limit_us: int
) -> list[str | None]:
    """The details of N rejects; those of ``future_timestamp`` say what was held against what."""
    plausible, out = _plausible(stamps_us, now_us), list(details)
    for n, (reason, detail, time) in enumerate(zip(reasons, details, times_us, strict=True)):
        if reason != FUTURE_TIMESTAMP or detail is None or time is None:
            continue
        held = int(stamps_us[n]) if plausible[n] else now_us
        what = f"its record's own time, {_text(held)}"
        if not plausible[n]:
            what = f"the clock, {_text(held)}, as its record's own time, {_text(int(stamps_us[n]))}, is no time to judge by"
        limit = limit_us if plausible[n] else max(limit_us, CLOCK_ERROR_US)
        out[n] = (
            f"{detail.partition(' lies more than ')[0]} lies {timedelta(microseconds=time - held)} ahead of {what}; {_limit(limit)} at most"
        )
    return out


def _text(us: int) -> str:
    try:
        return f"{instant(us):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"{us} us after {EPOCH.year}"


def _limit(us: int) -> str:
    return f"{us / 60e6:g} min" if us < 3_600_000_000 else f"{us / 3.6e9:g} h"
