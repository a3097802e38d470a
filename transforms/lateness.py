"""What a partition of a log brings: which of its accepted events are in time, and how far event time has come.

Both follow from the partition's own log alone, so that reading the same log again, in other pieces and beside other partitions, gives
the same verdicts. One event whose clock is wrong must not move event time for all others, so a **leap** is believed only once the
events after it confirm it; see :func:`split_late`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.contract import Checked
from transforms.definitions import EventSource, micros

__all__ = ["CONFIRMED_BY", "NEVER", "STARTED_BY", "LateSplit", "event_times", "leap_of", "split_late", "watermark_of"]

Int = npt.NDArray[np.int64]

NEVER = -(2**62)
"""Before every event time (microseconds)."""
CONFIRMED_BY = 10
"""So many events in a row that leap make one believed: a wrong clock among right ones does not bring them."""
STARTED_BY = 2
"""So many events begin a partition's event time: at the lesser of them, as one alone may be the wrong one."""
STRETCH, STEPS = 16_384, 64
"""So many events are looked at together, and so many one by one where they were not alike."""


@dataclass(frozen=True)
class LateSplit:
    """N accepted records of one partition, divided. ``events`` and ``late`` are in ``source.arrow_schema`` and log order, ``offsets`` and
    ``late_offsets`` (int64) number their records; ``before`` counts the events before the beginning, which history already has.
    ``newest`` is the event time reached (microseconds) and ``leaps`` the times, sorted, that it has not believed yet; ``greatest``
    is the greatest time of the N, NEVER without one."""

    events: pa.RecordBatch
    offsets: Int
    late: pa.RecordBatch
    late_offsets: Int
    before: int
    newest: int
    leaps: tuple[int, ...] = ()
    greatest: int = NEVER


def watermark_of(source: EventSource, newest: int) -> int:
    """No event before it is expected any more: the event time reached less the out-of-orderness (microseconds)."""
    return NEVER if newest == NEVER else newest - micros(source.out_of_orderness)


def leap_of(source: EventSource, limit_us: int) -> int:
    """How far an event may lie ahead of its partition and still move it alone (microseconds): ``limit_us``, or what a late event is
    forgiven where that is more, as within that it makes none too late."""
    return min(max(limit_us, micros(source.out_of_orderness) + micros(source.allowed_lateness)), -NEVER // 2)


def split_late(
    checked: Checked,
    offsets: Int,
    source: EventSource,
    newest: int,
    begin: int = NEVER,
    leaps: tuple[int, ...] = (),
    limit_us: int | None = None,
) -> LateSplit:
    """Divide the accepted of N judged records (``offsets``: int64 [N]) that follow on a log whose event time was ``newest``.

    An event is too late iff it is older than the watermark right before it by more than ``allowed_lateness``. Events before
    ``begin`` are neither: they are counted and left out.

    Event time is the greatest one so far, but for leaps: an event that lies ahead of it by more than :func:`leap_of` ``limit_us`` is in
    time and counts, and leaves event time where it is. :data:`CONFIRMED_BY` leaps in a row take it to the least of them, and from there
    to the next as long as none lies further ahead than that; an event that does not leap takes the row back to nothing. The first
    :data:`STARTED_BY` events begin it in the same way. ``leaps`` are those of the row before these records, as the call before left
    them. ``limit_us`` None: nothing is a leap.
    """
    accepted = offsets[checked.accepted]
    times: Int = checked.valid.column(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    running, leaps = event_times(times, source, newest, leaps, limit_us)
    too_late = times < running[:-1] - micros(source.out_of_orderness) - micros(source.allowed_lateness)
    before = times < begin
    good, late = ~too_late & ~before, too_late & ~before

    def some(mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
        return checked.valid if mask.all() else checked.valid.filter(pa.array(mask))

    greatest = int(times.max()) if len(times) else NEVER
    return LateSplit(
        some(good), accepted[good], some(late), accepted[late], int(before.sum()), int(running[-1]), leaps, greatest,
    )  # fmt: skip


def event_times(
    times: Int, source: EventSource, newest: int = NEVER, leaps: tuple[int, ...] = (), limit_us: int | None = None
) -> tuple[Int, tuple[int, ...]]:
    """Event time before the first and after each of N accepted events of a partition (``times``: int64 [N], in log order), int64 [N + 1],
    and the leaps that are left; arguments as of :func:`split_late`, by default those of the beginning of a log."""
    running = np.maximum.accumulate(np.concatenate([np.array([newest], np.int64), times]))
    if limit_us is None:
        return running, ()
    leap = leap_of(source, limit_us)
    # Almost every poll: no time lies further ahead of the greatest before it than that.
    if len(times) and (leaps or newest == NEVER or bool((running[1:] > running[:-1] + leap).any())):
        return _believed(times, newest, leaps, leap)
    return running, leaps


def _believed(times: Int, newest: int, leaps: tuple[int, ...], leap: int) -> tuple[Int, tuple[int, ...]]:
    """Event time before the first and after each of the ``times`` (int64 [N + 1]), and the leaps that are left."""
    out, row, listed = [np.array([newest], np.int64)], sorted(leaps), times.tolist()
    at = stepwise = 0
    while at < len(times):
        if newest != NEVER and not row and at >= stepwise:
            # All at once up to the next leap; where leaps are many, some one by one, which then costs less.
            running = np.maximum.accumulate(np.append(newest, times[at : at + STRETCH]))
            leaping = np.flatnonzero(running[1:] > running[:-1] + leap)
            n = int(leaping[0]) if len(leaping) else len(running) - 1
            out.append(running[1 : n + 1])
            newest, at = int(running[n]), at + n
            stepwise = at + STEPS
            continue
        time = listed[at]
        if newest != NEVER and time <= newest + leap:
            newest = max(newest, time)
            row.clear()
        else:
            row.append(time)
            if len(row) >= (STARTED_BY if newest == NEVER else CONFIRMED_BY):
                row.sort()
                newest = row.pop(0)
                while row and row[0] <= newest + leap:
                    newest = row.pop(0)
        out.append(np.array([newest], np.int64))
        at += 1
    return np.concatenate(out), tuple(sorted(row))
