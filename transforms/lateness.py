"""What a partition of a log brings: which of its accepted events are in time, and how far event time has come.

Whether an event is too late follows from its own partition's log alone (the greatest event time before it), so that reading the same
log again, in other pieces and beside other partitions, gives the same verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.contract import Checked
from transforms.definitions import EventSource, micros

__all__ = ["NEVER", "LateSplit", "split_late", "watermark_of"]

Int = npt.NDArray[np.int64]

NEVER = -(2**62)
"""Before every event time (microseconds)."""


@dataclass(frozen=True)
class LateSplit:
    """N accepted records of one partition, divided. ``events`` and ``late`` are in ``source.arrow_schema`` and log order, ``offsets`` and
    ``late_offsets`` (int64) number their records; ``before`` counts the events before the beginning, which history already has;
    ``newest`` is the greatest accepted event time so far (microseconds)."""

    events: pa.RecordBatch
    offsets: Int
    late: pa.RecordBatch
    late_offsets: Int
    before: int
    newest: int


def watermark_of(source: EventSource, newest: int) -> int:
    """No event before it is expected any more: the newest event time less the out-of-orderness (microseconds)."""
    return NEVER if newest == NEVER else newest - micros(source.out_of_orderness)


def split_late(checked: Checked, offsets: Int, source: EventSource, newest: int, begin: int = NEVER) -> LateSplit:
    """Divide the accepted of N judged records (``offsets``: int64 [N]) that follow on a log whose greatest event time was ``newest``.

    An event is too late iff it is older than the watermark right before it by more than ``allowed_lateness``. Events before
    ``begin`` are neither: they are counted and left out.
    """
    accepted = offsets[checked.accepted]
    times: Int = checked.valid.column(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    running = np.maximum.accumulate(np.concatenate([np.array([newest], np.int64), times]))
    too_late = times < running[:-1] - micros(source.out_of_orderness) - micros(source.allowed_lateness)
    before = times < begin
    good, late = ~too_late & ~before, too_late & ~before

    def some(mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
        return checked.valid if mask.all() else checked.valid.filter(pa.array(mask))

    return LateSplit(some(good), accepted[good], some(late), accepted[late], int(before.sum()), int(running[-1]))
