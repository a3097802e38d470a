"""A record batch as bytes and back: Arrow's IPC stream. Light."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["from_ipc", "to_ipc"]


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """A batch as an Arrow IPC stream (slices are written as what they show, not as what they hold)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.RecordBatch:
    """The inverse of :func:`to_ipc`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()
