"""Events to tiles, tiles to tiles, tiles to feature rows: the three pure functions that batch and stream share.

* :func:`tile` pre-aggregates a batch of events to (entity key, tile) partials;
* :func:`merge` combines partials of any number of batches, in any order;
* :func:`rows_between` turns merged tiles into the feature rows of a range of hop boundaries.

Each is columnar (Arrow in, Arrow out). Because every state is a commutative monoid on the bits, how events were batched, ordered
or sharded cannot change a bit of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import definitions as d
from transforms.functions.arrays import order_codes
from transforms.functions.base import Events, StateSpec, checked_output
from transforms.functions.count import Counts
from transforms.windows import rows_of

__all__ = ["keyed", "merge", "rows_between", "tile", "tile_schema", "with_keys"]

Int = npt.NDArray[np.int64]
Events_ = TypeVar("Events_", pa.RecordBatch, pa.Table)


@lru_cache(maxsize=256)
def _specs(group: d.FeatureGroup) -> dict[str, StateSpec]:
    """The state columns of a group by their key, each once, in the order of the definition."""
    return {s.key: s for a in group.aggregates for s in a.states()}


def _state_type(spec: StateSpec, group: d.FeatureGroup) -> pa.DataType:
    source = group.source
    value = source.field(spec.column).arrow_type if spec.column else pa.int64()
    return spec.state.arrow_type(value, source.field(source.tie_breaker).arrow_type, spec.param)


def tile_schema(group: d.FeatureGroup) -> pa.Schema:
    """Tiles: the keys, ``tile_start`` (timestamp[us, UTC]), ``events`` (int64, at least 1), then a column per state."""
    return pa.schema(
        [pa.field(f.name, f.arrow_type, nullable=False) for f in group.key_fields]
        + [pa.field("tile_start", d.TIMESTAMP, nullable=False), pa.field("events", pa.int64(), nullable=False)]
        + [pa.field(key, _state_type(s, group)) for key, s in _specs(group).items()]
    )


def _dense(column: pa.Array) -> Int:
    """The rank of each value among the distinct ones, from 0 up."""
    codes = order_codes(column)
    return codes if pa.types.is_string(column.type) else np.unique(codes, return_inverse=True)[1]


def _key_codes(columns: Sequence[pa.Array]) -> Int:
    """A code from 0 up for each row's key, which sorts as the keys do: shape [N]."""
    code = _dense(columns[0])
    for column in columns[1:]:
        rank = _dense(column)
        # Ranks anew after each field keep the product far below 2^63.
        _, code = np.unique(code * (int(rank.max(initial=0)) + 1) + rank, return_inverse=True)
    return code.astype(np.int64)


def _segments(key: Int, tile_start: Int) -> tuple[Int, Int, Int]:
    """(order that sorts by key and tile, first of each segment in it, one after its last)."""
    order = np.lexsort((tile_start, key))
    k, t = key[order], tile_start[order]
    change = np.flatnonzero((k[1:] != k[:-1]) | (t[1:] != t[:-1])) + 1
    lo = np.concatenate([np.zeros(min(len(order), 1), np.int64), change])
    return order, lo, np.append(lo[1:], len(order)) if len(order) else lo


def _us(array: pa.Array) -> Int:
    out: Int = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return out


def with_keys(events: Events_, group: d.FeatureGroup) -> Events_:
    """N events with the keys that ``group.null_keys`` gives them; a key that is null still is one of no event of the group.

    Further columns stay. Whoever looks for the events of a key looks here.
    """
    if not isinstance(group.null_keys, Mapping):
        return events
    columns = list(events.columns)
    for key, value in group.null_keys.items():
        at = events.schema.get_field_index(key)
        columns[at] = pc.fill_null(columns[at], pa.scalar(value, columns[at].type))
    made: Events_ = type(events).from_arrays(columns, schema=events.schema)
    return made


def keyed(events: Events_, group: d.FeatureGroup) -> Events_:
    """The events of a group among N valid ones, no key of which is null: all, where ``group.null_keys`` does not say otherwise."""
    if group.null_keys is None:
        return events
    events = with_keys(events, group)
    nulls = [events.column(events.schema.get_field_index(k)).is_null() for k in group.entity.keys]
    unkeyed = reduce(pc.or_, nulls)
    return events.filter(pc.invert(unkeyed)) if pc.any(unkeyed).as_py() else events


def tile(batch: pa.RecordBatch, group: d.FeatureGroup) -> pa.RecordBatch:
    """Pre-aggregate N valid events (``group.source.arrow_schema``) to tiles, sorted by (keys, tile), each once."""
    source, schema = group.source, tile_schema(group)
    batch = keyed(batch, group)
    if not batch.num_rows:
        return _empty(schema)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    times = _us(columns[source.event_time])
    starts = times - times % group.hop_us
    order, lo, hi = _segments(_key_codes([columns[k] for k in group.entity.keys]), starts)
    take = pa.array(order)
    ties, times = columns[source.tie_breaker].take(take), times[order]
    masks: dict[int, pa.Array] = {}
    first = pa.array(order[lo])
    out = [columns[k].take(first) for k in group.entity.keys]
    out += [pa.array(starts[order[lo]]).cast(d.TIMESTAMP), pa.array(hi - lo)]
    for spec in _specs(group).values():
        values = columns[spec.column] if spec.column else columns[source.event_time].cast(pa.int64())
        if spec.where is not None:
            mask = masks.setdefault(id(spec.where), spec.where.mask(batch))
            values = pc.if_else(mask, values, pa.scalar(None, values.type))
        each = spec.state.add_input(Events(values.take(take), times, ties), spec.param)
        out.append(each.merge(lo, hi, ordered=False).to_arrow())
    return pa.RecordBatch.from_arrays(out, schema=schema)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def merge(tiles: Sequence[pa.RecordBatch], group: d.FeatureGroup) -> pa.RecordBatch:
    """Combine tiles of any batches, in any order: sorted by (keys, tile), each once. Associative and commutative."""
    schema = tile_schema(group)
    table = pa.Table.from_batches([t for t in tiles if t.num_rows], schema=schema).combine_chunks()
    if not table.num_rows:
        return _empty(schema)
    columns = {n: table.column(n).chunk(0) for n in schema.names}
    starts = _us(columns["tile_start"])
    order, lo, hi = _segments(_key_codes([columns[k] for k in group.entity.keys]), starts)
    take, first = pa.array(order), pa.array(order[lo])
    if len(lo) == len(order):
        return pa.RecordBatch.from_arrays([columns[n].take(take) for n in schema.names], schema=schema)
    out = [columns[k].take(first) for k in (*group.entity.keys, "tile_start")]
    out.append(Counts.from_arrow(columns["events"].take(take)).merge(lo, hi, ordered=False).to_arrow())
    for key, spec in _specs(group).items():
        each = spec.state.from_arrow(columns[key].take(take), spec.param)
        out.append(each.merge(lo, hi, ordered=False).to_arrow())
    return pa.RecordBatch.from_arrays(out, schema=schema)


def rows_between(tiles: pa.RecordBatch, group: d.FeatureGroup, after: int, upto: int) -> pa.RecordBatch:
    """The feature rows with ``after < boundary <= upto`` (microseconds of UTC), sorted by (keys, boundary): ``group.row_schema``.

    ``tiles`` must be merged (:func:`merge`) and reach back from ``after`` by the longest window and one hop; more does no harm.
    The rows of adjacent ranges add up to the rows of their union. Raises ValueError where tiles are not merged,
    DataError where an aggregate gives another column than it says.
    """
    schema = group.row_schema
    if not tiles.num_rows:
        return _empty(schema)
    columns = dict(zip(tiles.schema.names, tiles.columns, strict=True))
    starts, code = _us(columns["tile_start"]), _key_codes([columns[k] for k in group.entity.keys])
    if np.any((code[1:] < code[:-1]) | ((code[1:] == code[:-1]) & (starts[1:] <= starts[:-1]))):
        raise ValueError(f"feature group {group.name!r}: tiles are not merged; call merge() first")
    overs = sorted({f.over for f in group.features})
    rows = rows_of(code, starts, group.hop_us, overs, after, upto)
    if not len(rows.key):
        return _empty(schema)
    first = np.searchsorted(code, np.arange(int(code[-1]) + 1))
    keys = pa.array(first[rows.key])
    loaded = {key: spec.state.from_arrow(columns[key], spec.param) for key, spec in _specs(group).items()}
    out = [columns[k].take(keys) for k in group.entity.keys]
    out.append(pa.array(rows.boundary + group.delay_us).cast(d.TIMESTAMP))
    windows: dict[tuple[str, int], Any] = {}
    for feature in group.features:
        of = [(spec.key, feature.over) for spec in feature.aggregate.states()]
        for key, over in of:
            if (key, over) not in windows:
                windows[key, over] = loaded[key].windows(*rows.spans[over])
        column = feature.aggregate.extract_output([windows[k] for k in of], rows.boundary)
        out.append(checked_output(feature.aggregate, feature.output, column, len(rows.key)))
    events = Counts.from_arrow(columns["events"])
    out.append(events.merge(*rows.spans[max(overs)], ordered=True).to_arrow())
    return pa.RecordBatch.from_arrays(out, schema=schema)
