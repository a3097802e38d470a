"""The verdicts on the records of a poll: what their payloads say, what their reader did not hand out, and which of them are tombstones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.sources.broker import FetchResult
from pipelines.sources.formats.record_format import Decode
from transforms.contract import Checked, Now
from transforms.definitions import EventSource
from transforms.mapping import TooMuchAtOnce
from transforms.reasons import TOO_LONG
from transforms.rules import now_of

__all__ = ["judge_records", "judge_some"]


def judge_records(judge: Decode, fetched: FetchResult, source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """The verdicts on N records of a topic, whatever their format; who reads a topic asks here, so that all count the same.

    A record that has a key and no value is a tombstone: compacted topics drop the key by it, and Debezium sends one behind each delete. It
    is no event and no fault, and counted (``tombstones``). One that has neither key nor value says nothing, and its format refuses it.
    Raises as :meth:`RecordFormat.decode`.
    """
    origin, gone = fetched.origin(source), fetched.tombstones()
    if gone is None:
        return _refused(judge(fetched.payloads, now_us, max_future_us, origin), fetched)
    rows = np.flatnonzero(~gone)
    beside = None if origin is None else origin.take(rows)
    judged = judge(fetched.payloads.take(pa.array(rows)), now_of(now_us, rows), max_future_us, beside)
    return _refused(_among(judged, rows, len(gone)), fetched)


def judge_some(judge: Decode, fetched: FetchResult, source: EventSource, now_us: Now, max_future_us: int) -> tuple[FetchResult, Checked]:
    """As :func:`judge_records`: all records and the verdicts on them, or, where the events of them all would be too large together, the
    first of them; the rest is left for another poll."""
    while True:
        try:
            return fetched, judge_records(judge, fetched, source, now_us, max_future_us)
        except TooMuchAtOnce:
            half = len(fetched.offsets) // 2
            fetched = fetched.before(int(fetched.offsets[half]))
            now_us = now_of(now_us, np.arange(half))


def _among(checked: Checked, rows: npt.NDArray[np.int64], n: int) -> Checked:
    """The verdicts on the records at ``rows`` (ascending) as those on N records, of which the others are tombstones."""
    at = np.full(n, -1)
    at[rows] = np.arange(len(rows))
    places = pa.array(at, mask=at < 0)
    reasons, details, times = (column.take(places) for column in (checked.reasons, checked.details, checked.times))
    return replace(checked, reasons=reasons, details=details, times=times, records=rows[checked.accepted], tombstones=n - len(rows))


def _refused(checked: Checked, fetched: FetchResult) -> Checked:
    """The verdicts on the N records of a poll, where those that its reader refused are ``too_long``, whatever their payload was read as."""
    lines = [fetched.refused.get(int(offset)) for offset in fetched.offsets] if fetched.refused else []
    if not any(lines):
        return checked
    keep = pa.array([lines[row] is None for row in checked.accepted.tolist()], pa.bool_())
    verdicts = zip(checked.reasons.to_pylist(), checked.details.to_pylist(), lines, strict=True)
    told = [(reason, detail) if line is None else (TOO_LONG, line) for reason, detail, line in verdicts]
    reasons, details = (pa.array(column, pa.string()) for column in zip(*told, strict=True))
    records = None if checked.records is None else checked.records[keep.to_numpy(zero_copy_only=False)]
    return replace(checked, valid=checked.valid.filter(keep), reasons=reasons, details=details, records=records)
