"""Values that are no numbers: what a preprocessing function makes of log(0) and 0 / 0. Batch and stream count them by the same rule."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["nonfinite"]


def nonfinite(table: pa.Table | pa.RecordBatch) -> dict[str, int]:
    """Column -> how many of its values, or of those in its lists, are NaN or infinite; columns that have none are left out."""
    out: dict[str, int] = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        if pa.types.is_floating(values.type):
            total = pc.sum(values).as_py()  # one value that is not finite makes it so; null where all are null
            if total is not None and not math.isfinite(total):  # or finite ones whose sum is too large: so they are counted, perhaps none
                count = pc.sum(pc.invert(pc.is_finite(values))).as_py()
                out |= {name: int(count)} if count else {}
    return out
