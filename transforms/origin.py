"""What records carry beside their payloads: keys, headers and timestamps, as columns, for the fields that stand there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["HEADERS", "Origin"]

HEADERS = pa.map_(pa.string(), pa.binary())
"""The type of a column of headers: a name may be there more than once."""


@dataclass(frozen=True)
class Origin:
    """Of N records: ``keys`` (binary [N], null for none), ``headers`` (:data:`HEADERS` [N]) and ``timestamps_us`` (int64 [N], microseconds
    of UTC). What is None is not known of any of them: fields that stand there are then read from the payload by their own names, as in
    files of events that were made of records by others. ``opened`` is what reads a key in a schema registry's framing: bytes -> an object,
    or one value; it raises Refused. None: such keys are not read."""

    keys: pa.Array | None = None
    headers: pa.Array | None = None
    timestamps_us: pa.Array | None = None
    opened: Callable[[bytes], Any] | None = None

    @staticmethod
    def of(keys: Iterable[bytes | None], headers: Iterable[Sequence[tuple[str, bytes | None]]], times: npt.NDArray[np.int64]) -> Origin:
        """That of records as a reader has them one by one."""
        lists = [list(each) for each in headers]
        return Origin(pa.array(list(keys), pa.binary()), pa.array(lists, HEADERS), pa.array(times, pa.int64()))

    def take(self, rows: npt.NDArray[np.int64]) -> Origin:
        """That of some of the records."""
        at = pa.array(rows)
        keys, headers, times = (None if c is None else c.take(at) for c in (self.keys, self.headers, self.timestamps_us))
        return replace(self, keys=keys, headers=headers, timestamps_us=times)

    def header(self, name: str) -> pa.Array:
        """The last header of this name of each record, or null: binary [N]."""
        headers = self.headers
        assert headers is not None
        n = len(headers)
        ends = np.frombuffer(headers.buffers()[1], np.int32)[headers.offset : headers.offset + n + 1] if n else np.zeros(1, np.int32)
        first, last = int(ends[0]), int(ends[-1])
        entries = headers.values
        names, values = entries.field(0), entries.field(1)
        hit = first + np.flatnonzero(pc.equal(names.slice(first, last - first), name).to_numpy(zero_copy_only=False))
        at = np.full(n, -1)
        at[np.searchsorted(ends, hit, "right") - 1] = hit  # the last one written stays
        return values.take(pa.array(at, mask=at < 0))
