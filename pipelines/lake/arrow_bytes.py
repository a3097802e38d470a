"""A record batch as bytes and back: Arrow's IPC stream. Light."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["from_ipc", "ipc_buffer", "to_ipc"]


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """A batch as an Arrow IPC stream (slices are written as what they show, not as what they hold)."""
    data: bytes = ipc_buffer(batch).to_pybytes()
    return data


def ipc_buffer(batch: pa.RecordBatch) -> pa.Buffer:
    """:func:`to_ipc`, in Arrow's memory. The memory is taken at once: a buffer that grows is copied whenever it does."""
    counted = pa.MockOutputStream()  # a batch's own size is not all: dictionaries, of nested columns too, are messages before it
    _write(batch, counted)
    made = pa.allocate_buffer(counted.size())
    _write(batch, pa.FixedSizeBufferWriter(made))
    return made


def _write(batch: pa.RecordBatch, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def from_ipc(data: bytes) -> pa.RecordBatch:
    """The inverse of :func:`to_ipc`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()
