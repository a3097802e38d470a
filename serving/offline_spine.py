"""The spine of a join as Arrow, and the column of it that holds the moments."""

from __future__ import annotations

from collections import Counter
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from serving.offline_rows import one_line
from serving.spines import as_table, plain_text
from transforms.definitions import EVENT_TIMESTAMP
from transforms.errors import DataError

__all__ = ["spine_and_time"]


def spine_and_time(db: Any, entity_df: pd.DataFrame | pa.Table | str) -> tuple[pa.Table, str]:
    """The spine as Arrow and its time column, made ``timestamp[us, UTC]`` (rounded down: equal for the join's purpose)."""
    try:
        spine = db.sql(entity_df).to_arrow_table() if isinstance(entity_df, str) else as_table(entity_df)
    except (duckdb.Error, pa.ArrowException, TypeError, ValueError, OverflowError) as e:
        raise DataError(f"the spine cannot be read: {one_line(e)}; give a DataFrame, an Arrow table or a DuckDB query") from e
    if twice := [name for name, times in Counter(spine.column_names).items() if times > 1]:
        raise DataError(f"the spine has the column {twice[0]!r} more than once; rename one of them")
    stamps = [f.name for f in spine.schema if pa.types.is_timestamp(f.type)]
    if EVENT_TIMESTAMP not in spine.column_names and len(stamps) != 1:
        raise DataError(
            f"the spine needs a column 'event_timestamp' (or just one of type timestamp); it has {', '.join(spine.column_names)}"
        )
    at = EVENT_TIMESTAMP if EVENT_TIMESTAMP in spine.column_names else stamps[0]
    column = plain_text(spine.column(at))
    if pa.types.is_string(column.type) or pa.types.is_date(column.type):
        # One by one: for a whole column pandas 2 guesses one format from the first text, and refuses the others.
        try:
            times = [pd.to_datetime(text, utc=True) for text in column.to_pylist()]
        except (ValueError, OverflowError) as e:
            raise DataError(f"the spine's {at!r} holds a text that is no time: {one_line(e)}; give timestamps") from None
        column = pa.chunked_array([pa.Array.from_pandas(pd.Series(times, dtype="datetime64[ns, UTC]"))])
    if not pa.types.is_timestamp(column.type):
        raise DataError(f"the spine's {at!r} is {column.type}; it must be a timestamp, e.g. pd.to_datetime(..., utc=True)")
    if column.type.unit == "ns":  # a plain cast rounds towards zero, which before 1970 is the future
        whole = column.cast(pa.int64())
        column = pc.divide(pc.subtract(whole, _modulo(whole, 1000)), 1000).cast(pa.timestamp("us"))
    try:
        column = column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    except pa.ArrowException as e:
        raise DataError(f"the spine's {at!r} holds a time that is none: {one_line(e)}; give years 1 to 9999") from None
    return spine.set_column(spine.column_names.index(at), pa.field(at, column.type), column), at


def _modulo(values: Any, by: int) -> Any:
    """Non-negative remainders of int64 values."""
    rest = pc.subtract(values, pc.multiply(pc.divide(values, by), by))
    return pc.if_else(pc.less(rest, 0), pc.add(rest, by), rest)
