"""A record batch as bytes and back: Arrow's IPC stream. Light."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["from_ipc", "ipc_buffer", "to_ipc"]

_END = 8
"""Bytes that end a stream."""


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """A batch as an Arrow IPC stream (slices are written as what they show, not as what they hold)."""
    data: bytes = ipc_buffer(batch).to_pybytes()
    return data


def ipc_buffer(batch: pa.RecordBatch) -> pa.Buffer:
    """:func:`to_ipc`, in Arrow's memory. The memory is taken at once: a buffer that grows is copied whenever it does."""
    made = pa.allocate_buffer(batch.schema.serialize().size + pa.ipc.get_record_batch_size(batch) + _END)
    with pa.ipc.new_stream(pa.FixedSizeBufferWriter(made), batch.schema) as writer:
        writer.write_batch(batch)
    return made


def from_ipc(data: bytes) -> pa.RecordBatch:
    """The inverse of :func:`to_ipc`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()
