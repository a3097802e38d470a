"""Small event logs for contract suites: a source with a field of each dtype, values that hurt, and rows with their bits."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from transforms.definitions import EventSource, Field

__all__ = ["FLOATS", "FOREVER", "HOUR", "INTS", "SOURCE", "TEXTS", "Event", "batch_of", "bits", "over_ipc", "plain", "values"]

SOURCE = EventSource(
    name="contract",
    fields=[
        Field("key", "string", required=True),
        Field("serial", "int64", required=True),
        Field("x", "float64"),
        Field("n", "int64"),
        Field("s", "string"),
        Field("b", "bool"),
        Field("at", "timestamp"),
    ],
    event_time="time",
    tie_breaker="serial",
)
"""Where the aggregates' fields come from: ``x``, ``n``, ``s``, ``b`` and ``at``, each of which may be null."""
HOUR = 3_600_000_000
FOREVER = 8 * 10**15
"""A boundary behind all events and all that falls out of a window."""

Event = dict[str, Any]

FLOATS = (0.0, -0.0, 1.0, -1.0, 0.1, 1e308, -1e308, 1.7976931348623157e308, 5e-324, -5e-324, 2.0**-1030, 9007199254740993.0, 2.0**-53)
INTS = (0, 1, -1, 7, -(2**63), 2**63 - 1, 2**53 + 1)
TEXTS = ("", "a", "b", "a\0", "12345678", "123456789", "ä€𝄞", "\uffff", "\U00010000")


def values(dtype: str) -> st.SearchStrategy[Any]:
    """Values of a dtype, none of them null: some that hurt, some that repeat, and any others. Timestamps are microseconds."""
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "float64": st.sampled_from(FLOATS) | st.integers(-5, 5).map(float) | st.floats(allow_nan=False, allow_infinity=False),
        "int64": st.sampled_from(INTS) | st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1),
        "string": st.sampled_from(TEXTS) | st.text(st.characters(codec="utf-8"), max_size=8),
        "bool": st.booleans(),
        "timestamp": st.sampled_from((0, 1, HOUR)) | st.integers(0, 4 * 10**15),
    }
    return strategies[dtype]


def bits(value: Any) -> Any:
    """Equal exactly for bitwise equal values of the same type."""
    if isinstance(value, float):
        return "float", struct.pack(">d", value), value
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    return type(value).__name__, value


def batch_of(log: Sequence[Event]) -> pa.RecordBatch:
    """The events as a source gives them."""
    schema = SOURCE.arrow_schema
    return pa.RecordBatch.from_arrays([pa.array([e[f.name] for e in log], type=f.type) for f in schema], schema=schema)


def over_ipc(batch: pa.RecordBatch) -> pa.RecordBatch:
    """As another process gets it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


def plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows with their bits; timestamps are microseconds."""
    columns = {}
    for f, column in zip(batch.schema, batch.columns, strict=True):
        columns[f.name] = (column.cast(pa.int64()) if pa.types.is_timestamp(f.type) else column).to_pylist()
    return [{n: bits(v) for n, v in zip(columns, row, strict=True)} for row in zip(*columns.values(), strict=True)]
