"""Reading a partition around what a person said to leave out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipelines.sources.broker import DamagedLog, FetchResult, PartitionReader

__all__ = ["nothing", "poll_around"]


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
