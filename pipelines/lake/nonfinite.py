"""Values that are no numbers: what a preprocessing function makes of log(0) and 0 / 0. Batch and stream count them by the same rule."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["nonfinite"]


def nonfinite(table: pa.Table | pa.RecordBatch) -> dict[str, int]:
    """Column -> how many of its values, or of those in its lists, are NaN or infinite; columns that have none are left out."""
    out: dict[str, int] = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        if pa.types.is_floating(values.type):
            finite = pc.is_finite(values)
            if not pc.all(finite).as_py():  # null where all are null
                count = pc.sum(pc.invert(finite)).as_py() or 0
                out |= {name: int(count)} if count else {}
    return out
