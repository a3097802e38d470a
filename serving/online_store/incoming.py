"""Rows on their way into a store, from Feast's messages and from Arrow columns; and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from serving.online_store.encoding import as_array
from serving.online_store.feature_rows import NULL_VALUE
from serving.online_store.order import Rows
from serving.online_store.packed import pack_values
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION
from transforms.errors import DataError
from transforms.instants import micros_of

__all__ = ["WriteResult", "columns_of", "heads_of", "rows_of_messages", "times_of"]

_NAT = -(2**63)
"""What Feast's materialize makes of a timestamp that is null."""


@dataclass(frozen=True)
class WriteResult:
    """What became of rows: ``written``; ``stale``, as an equal or greater row was there or a materialization covers them;
    ``refused``, as too far in the future; ``too_large``, as the store takes no row of that size."""

    written: int
    stale: int
    refused: int
    too_large: int = 0


def rows_of_messages(
    table: FeatureView,
    keys: Sequence[bytes],
    data: Sequence[tuple[Any, Mapping[str, ValueProto], datetime, datetime | None]],
    packs: bool,
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """(rows of the ``keys``, when each says it was created: int64 [N] microseconds, 0 where it says nothing).

    ``packs``: with packed copies. Revision and fingerprint are the features of those names: 0 and '' without them.
    """
    times, revisions, prints, created = [], [], [], []
    for _, values, at, made in data:
        revision, print_ = values.get(REVISION), values.get(FINGERPRINT)
        times.append(micros_of(at))
        revisions.append(revision.int64_val if revision is not None else 0)
        prints.append(print_.string_val if print_ is not None else "")
        created.append(made)
    columns = [
        pa.array([_encoded(values[f.name]) if f.name in values else b"" for _, values, _, _ in data], pa.binary()) for f in table.features
    ]
    stamps = np.array([0 if c is None else micros_of(c) for c in created], np.int64)
    at_us = np.array(times, np.int64)
    rows = Rows(
        pa.array(keys, pa.binary()),
        at_us,
        np.array(revisions, np.int64),
        pa.array(prints, pa.string()),
        columns,
        created if stamps.any() else None,
        packed=pack_values(table, at_us, columns) if packs else None,
    )
    return rows, stamps


def _time_column(table: FeatureView) -> str:
    return str(table.batch_source.timestamp_field) if table.batch_source is not None else EVENT_TIMESTAMP


def columns_of(table: FeatureView, rows: pa.RecordBatch | pa.Table) -> dict[str, Any]:
    """The columns of ``rows`` that a view keeps. Raises DataError for a missing or null key or time."""
    names = rows.schema.names
    needed = [*(c.name for c in table.entity_columns), _time_column(table)]
    kept = {*needed, *(f.name for f in table.features)}
    columns = {n: rows.column(names.index(n)) for n in names if n in kept}
    for name in needed:
        if name not in columns:
            raise DataError(f"view {table.name!r}: the rows have no column {name!r}; they have {', '.join(names)}")
        if columns[name].null_count:
            raise DataError(f"view {table.name!r}: column {name!r} has {columns[name].null_count} nulls; keys and times must be there")
    return columns


def times_of(table: FeatureView, columns: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """The rows' event times: int64 [N] microseconds."""
    times = as_array(columns[_time_column(table)]).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    out: npt.NDArray[np.int64] = times.to_numpy(zero_copy_only=False)
    return out


def heads_of(table: FeatureView, keys: pa.Array, columns: Mapping[str, Any]) -> Rows:
    """Keys, times, revisions and fingerprints of rows; their values are not looked at."""
    n = len(keys)
    zero, none = np.zeros(n, np.int64), pa.repeat(pa.scalar("", pa.string()), n)
    revisions = as_array(columns[REVISION]).cast(pa.int64()).fill_null(0).to_numpy() if REVISION in columns else zero
    prints = as_array(columns[FINGERPRINT]).cast(pa.string()).fill_null("") if FINGERPRINT in columns else none
    return Rows(keys, times_of(table, columns), revisions, prints, [])


def _encoded(value: ValueProto) -> bytes:
    if value.WhichOneof("val") == "unix_timestamp_val" and value.unix_timestamp_val == _NAT:
        value = NULL_VALUE
    data: bytes = value.SerializeToString()
    return data
