"""Reading a partition around what a person said to leave out, and judging what its reader did not hand out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipelines.sources.broker import DamagedLog, FetchResult, PartitionReader
from transforms.contract import Checked
from transforms.reasons import TOO_LONG

__all__ = ["nothing", "poll_around", "refused"]


def nothing(offset: int) -> FetchResult:
    """A poll at the end of a log."""
    none = np.array([], np.int64)
    return FetchResult(pa.array([], pa.binary()), none, none, offset, offset, at_end=True)


def poll_around(
    reader: PartitionReader, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int, skip: Collection[int]
) -> FetchResult:
    """As :meth:`PartitionReader.poll`, without the records at the offsets ``skip``; of what cannot be read, all is left out if one of them
    lies in it. Raises as it does."""
    try:
        fetched = reader.poll(topic, partition, offset, max_records, timeout_ms)
    except DamagedLog as error:
        if not any(error.first <= o < error.following for o in skip):
            raise
        return replace(nothing(error.following), at_end=False)
    return fetched.without([o for o in skip if offset <= o < fetched.next_offset]) if skip else fetched


def refused(checked: Checked, fetched: FetchResult) -> Checked:
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
