"""Bit-for-bit comparison of Arrow rows with the oracle's."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from transforms.definitions import FeatureGroup


def bits(value: Any) -> Any:
    """A value that is equal exactly for bitwise equal values of the same type: 0.0 differs from -0.0, and 1 from 1.0 and True."""
    if isinstance(value, float):
        return "float64", struct.pack(">d", value).hex(), value
    if isinstance(value, list):
        return [bits(v) for v in value]
    return type(value).__name__, value


def to_dicts(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """An Arrow batch as dicts; timestamps in microseconds."""
    columns = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        columns[field.name] = (column.cast(pa.int64()) if pa.types.is_timestamp(field.type) else column).to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def differences(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> list[str]:
    """What differs between two lists of rows, one line each; empty if they are the same to the bit and in order."""
    out = []
    if len(got) != len(want):
        out.append(f"{len(got)} rows instead of {len(want)}")
    for i, (g, w) in enumerate(zip(got, want, strict=False)):
        if list(g) != list(w):
            out.append(f"row {i}: columns {list(g)} instead of {list(w)}")
        out.extend(f"row {i}: {name} is {g.get(name)!r} instead of {w[name]!r} in {w}" for name in w if bits(g.get(name)) != bits(w[name]))
    return out


def assert_same_rows(batch: pa.RecordBatch, want: list[dict[str, Any]], group: FeatureGroup) -> None:
    """The batch has the group's schema, is valid, and holds exactly the oracle's rows, bit for bit and in order."""
    assert batch.schema.equals(group.row_schema, check_metadata=True), f"{batch.schema}\ninstead of\n{group.row_schema}"
    batch.validate(full=True)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        assert field.nullable or column.null_count == 0, f"{field.name} must not be null"
    found = differences(to_dicts(batch), want)
    assert not found, "\n".join(found[:10])
