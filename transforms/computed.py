"""Columns that a source computes of its others, and the events that it takes: its expressions over what was read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import OK, Column
from transforms.event_source import EventSource
from transforms.fields import TIMESTAMP
from transforms.nested import convert_any

__all__ = ["chosen", "compute"]


def _batch(columns: dict[str, Column], n: int) -> pa.RecordBatch:
    """The columns as expressions see them: null where a value cannot be read."""
    arrays, names = [], list(columns)
    for array, _ in columns.values():
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names) if names else pa.RecordBatch.from_pylist([{}] * n)


def compute(source: EventSource, columns: dict[str, Column], n: int) -> None:
    """Add the computed columns of N events, in the order of the fields: each may read those before it."""
    computed = [f for f in source.all_fields if f.value is not None]
    for f in computed:
        assert f.value is not None
        columns[f.name] = convert_any(f.value.apply(_typed(source, columns, n)), f.dtype or "")


def chosen(source: EventSource, columns: dict[str, Column], n: int) -> npt.NDArray[np.bool_]:
    """Which of N events are of the source, bool [N]. One of which the filter cannot read a field is, so that it is a reject and not
    passed over."""
    assert source.where is not None
    taken: npt.NDArray[np.bool_] = pc.fill_null(source.where.apply(_typed(source, columns, n)), False).to_numpy(zero_copy_only=False).copy()
    for name in source.where.fields:
        taken |= columns[name][1] != OK
    return taken


def _typed(source: EventSource, columns: dict[str, Column], n: int) -> pa.RecordBatch:
    batch = _batch(columns, n)
    times = {f.name for f in source.all_fields if f.dtype == "timestamp"}
    arrays = [c.cast(TIMESTAMP) if name in times else c for name, c in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)
