"""Spines, the rows that features are asked for, as people have them: Arrow, pandas and Polars tables, in and out without a change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import DataError

__all__ = ["EXACT_FLOAT", "as_table", "key_column", "plain_text", "to_pandas"]

EXACT_FLOAT = 2**53
"""From here on a float64 may stand for another whole number: 2^53 itself is also what 2^53 + 1 becomes."""
_MANTISSA = {"halffloat": 11, "float": 24, "double": 53}
"""Bits of whole numbers that an Arrow float holds, each below two to the power of it."""
_REAL = frozenset(("FLOAT", "DOUBLE"))
_WHOLE = frozenset(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"))


def as_table(spine: Any) -> pa.Table:
    """An Arrow table of a pandas or Polars DataFrame, or of whatever has ``to_arrow()``; pandas' index is no column.

    Raises TypeError for anything else, and what pyarrow raises for columns that it cannot hold.
    """
    if isinstance(spine, pa.Table):
        return spine
    if isinstance(spine, pa.RecordBatch):
        return pa.Table.from_batches([spine])
    if isinstance(spine, pd.DataFrame):
        return pa.Table.from_pandas(spine, preserve_index=False).replace_schema_metadata(None)
    if callable(made := getattr(spine, "to_arrow", None)) and isinstance(table := made(), pa.Table):
        return table
    raise TypeError(f"it is a {type(spine).__module__}.{type(spine).__name__}, not a pyarrow.Table, pandas or Polars DataFrame")


def plain_text(column: Any) -> Any:
    """A column of text in any of Arrow's layouts (large, view, dictionary) as ``string``; any other column as it is."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain_text(column.cast(kind.value_type))
    return column.cast(pa.string()) if pa.types.is_large_string(kind) or str(kind) == "string_view" else column


def key_column(spine: pa.Table, name: str, kind: str, view: str) -> Any:
    """The spine's column ``name`` to be looked up among keys of DuckDB's type ``kind`` of a view, without a value that stands for another.

    Whole numbers that came as floats are whole numbers again, NaN is null. Raises DataError for a float that is no whole number or may
    have been another one.
    """
    column = plain_text(spine.column(name))
    if kind in _REAL and pa.types.is_integer(column.type):
        _whole_in_floats(column, name, "FLOAT" if kind == "FLOAT" else "DOUBLE", view)
    if kind not in _WHOLE:
        return column
    if pa.types.is_boolean(column.type):
        raise DataError(f"view {view!r}: the spine's key {name!r} is bool and the view's is a whole number; give it as int64")
    if not pa.types.is_floating(column.type):
        return column
    limit = 2 ** _MANTISSA[str(column.type)]
    values = np.concatenate([np.zeros(0), *(c.to_numpy(zero_copy_only=False).astype(np.float64) for c in column.chunks)])
    known = np.isfinite(values)
    odd = ~known & ~np.isnan(values)
    odd[known] = (np.abs(values[known]) >= limit) | (values[known] != np.floor(values[known]))
    if odd.any():
        first = float(values[odd][0])
        why = "which a float cannot hold exactly" if np.isfinite(first) and abs(first) >= limit else "which is no whole number"
        raise DataError(f"view {view!r}: the spine's key {name!r} is {column.type} and holds {first!r}, {why}; give it as int64 or Int64")
    return pa.array(np.where(known, values, 0).astype(np.int64), mask=~known)


def _whole_in_floats(column: Any, name: str, kind: str, view: str) -> None:
    """The other way round: whole numbers looked up among keys that are stored as floats. DataError for what these cannot tell apart."""
    bounds, limit = pc.min_max(column).as_py(), 2**24 if kind == "FLOAT" else EXACT_FLOAT
    largest = 0 if bounds["max"] is None else max(bounds["max"], -bounds["min"])
    if largest >= limit:
        raise DataError(
            f"view {view!r}: its key {name!r} is stored as {kind}, which cannot tell {largest} from its neighbours;"
            " write the source's key as int64"
        )


def to_pandas(table: pa.Table, given: pd.DataFrame | None = None) -> pd.DataFrame:
    """``table`` as a DataFrame. Its first columns are those of ``given``, and come back as they are there, but for timestamps.

    An int64 column with nulls and a value that float64 cannot hold is Int64; others with nulls are float64, as Feast gives them.
    """
    far = any(_beyond_ns(table.column(name)) for name in table.column_names)
    made = table.to_pandas(timestamp_as_object=far)
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_int64(column.type) and column.null_count:
            bounds = pc.min_max(column).as_py()
            if bounds["max"] is not None and max(bounds["max"], -bounds["min"]) > EXACT_FLOAT:
                made[name] = pd.array(column.to_pylist(), dtype="Int64")
        elif far and pa.types.is_timestamp(column.type) and not _beyond_ns(column):
            made[name] = table.select([name]).to_pandas()[name]
    if given is None:
        return made
    back = given.reset_index(drop=True)
    for i, name in enumerate(table.column_names[: len(back.columns)]):
        if not pa.types.is_timestamp(table.schema.field(name).type):
            made[name] = back.iloc[:, i].copy()
    return made


def _beyond_ns(column: Any) -> bool:
    """Whether a time lies outside of the years 1678 to 2261: pandas keeps such a column as Python's datetimes."""
    if not pa.types.is_timestamp(column.type) or column.type.unit == "ns":
        return False
    bounds = pc.min_max(column.cast(pa.int64())).as_py()
    limit = (2**63 - 1) // {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000}[column.type.unit]
    return bounds["max"] is not None and (bounds["max"] > limit or bounds["min"] < -limit)
