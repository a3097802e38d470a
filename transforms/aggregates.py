"""Events to tiles, tiles to tiles, tiles to feature rows: the three pure functions that batch and stream share.

* :func:`tile` pre-aggregates a batch of events to (entity key, tile) partials;
* :func:`merge` combines partials of any number of batches, in any order;
* :func:`rows_between` turns merged tiles into the feature rows of a range of hop boundaries.

Each is columnar (Arrow in, Arrow out). Because every state is a commutative monoid on the bits, how events were batched, ordered
or sharded cannot change a bit of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import definitions as d
from transforms.functions.aggregate import Events, State, StateSpec
from transforms.functions.arrays import offsets_of, order_codes
from transforms.functions.count import Counts
from transforms.made_rows import MadeRows, empty, overs, specs
from transforms.windows import ranges, rows_of

__all__ = ["in_order", "keyed", "merge", "rows_between", "tile", "tile_schema", "tiles_of", "with_keys"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Events_ = TypeVar("Events_", pa.RecordBatch, pa.Table)


def _state_type(spec: StateSpec, group: d.FeatureGroup) -> pa.DataType:
    source = group.source
    value = source.field(spec.column).arrow_type if spec.column else pa.int64()
    return spec.state.arrow_type(value, source.field(source.tie_breaker).arrow_type, spec.param)


@lru_cache(maxsize=256)
def tile_schema(group: d.FeatureGroup) -> pa.Schema:
    """Tiles: the keys, ``tile_start`` (timestamp[us, UTC]), ``events`` (int64, at least 1), then a column per state."""
    return pa.schema(
        [pa.field(f.name, f.arrow_type, nullable=False) for f in group.key_fields]
        + [pa.field("tile_start", d.TIMESTAMP, nullable=False), pa.field("events", pa.int64(), nullable=False)]
        + [pa.field(key, _state_type(s, group)) for key, s in specs(group).items()]
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


def _steps(keys: Sequence[pa.Array]) -> tuple[Bool, Bool]:
    """(where each key but the first is another than the one before it, where it sorts behind that one) of N keys: shapes [N - 1]."""
    differs = greater = np.zeros(len(keys[0]) - 1, bool)
    for column in keys:
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        greater = greater | ~differs & pc.greater(after, before).to_numpy(zero_copy_only=False)
        differs = differs | pc.not_equal(after, before).to_numpy(zero_copy_only=False)
    return differs, greater


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
    return tiles_of(batch, [group])[0]


def tiles_of(batch: pa.RecordBatch, groups: Sequence[d.FeatureGroup]) -> list[pa.RecordBatch]:
    """:func:`tile` for each of some groups of one source. Groups that agree in keys and hop share the order of the events, and each
    state that several of them keep."""
    known: dict[Any, _Ordered] = {}
    out = []
    for group in groups:
        alike = group.entity.keys, group.hop_us, repr(group.null_keys)
        if alike not in known:
            known[alike] = _Ordered(batch, group)
        out.append(known[alike].tiles(group))
    return out


class _Ordered:
    """Events in the order of their keys and tiles, and the columns of tiles that were made of them."""

    def __init__(self, batch: pa.RecordBatch, group: d.FeatureGroup) -> None:
        source = group.source
        self.batch = batch = keyed(batch, group)
        self.columns = columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self.made: dict[tuple[type[State], str], pa.Array] = {}
        self.masks: dict[str, pa.Array] = {}
        if not batch.num_rows:
            return
        times = _us(columns[source.event_time])
        starts = times - times % group.hop_us
        order, self.lo, self.hi = _segments(_key_codes([columns[k] for k in group.entity.keys]), starts)
        self.take = pa.array(order)
        self.ties, self.times = columns[source.tie_breaker].take(self.take), times[order]
        first = pa.array(order[self.lo])
        self.head = [columns[k].take(first) for k in group.entity.keys]
        self.head += [pa.array(starts[order[self.lo]]).cast(d.TIMESTAMP), pa.array(self.hi - self.lo)]

    def tiles(self, group: d.FeatureGroup) -> pa.RecordBatch:
        """The tiles of a group with these keys and this hop."""
        schema = tile_schema(group)
        if not self.batch.num_rows:
            return empty(schema)
        out = list(self.head)
        for spec in specs(group).values():
            known = spec.state, spec.key
            if known not in self.made:
                self.made[known] = self._state(spec, group.source)
            out.append(self.made[known])
        return pa.RecordBatch.from_arrays(out, schema=schema)

    def _state(self, spec: StateSpec, source: d.EventSource) -> pa.Array:
        values = self.columns[spec.column] if spec.column else self.columns[source.event_time].cast(pa.int64())
        if spec.where is not None:
            where = repr(spec.where.canonical())
            if where not in self.masks:
                self.masks[where] = spec.where.mask(self.batch)
            values = pc.if_else(self.masks[where], values, pa.scalar(None, values.type))
        each = spec.state.add_input(Events(values.take(self.take), self.times, self.ties), spec.param)
        return each.merge(self.lo, self.hi, ordered=False).to_arrow()


def _together(tiles: Sequence[pa.RecordBatch], group: d.FeatureGroup) -> dict[str, pa.Array]:
    """The columns of some tiles, one batch behind the other; none of no tiles."""
    schema = tile_schema(group)
    table = pa.Table.from_batches([t for t in tiles if t.num_rows], schema=schema).combine_chunks()
    return {n: table.column(n).chunk(0) for n in schema.names} if table.num_rows else {}


def _tile_segments(columns: Mapping[str, pa.Array], group: d.FeatureGroup) -> tuple[Int, Int, Int]:
    return _segments(_key_codes([columns[k] for k in group.entity.keys]), _us(columns["tile_start"]))


def in_order(tiles: Sequence[pa.RecordBatch], group: d.FeatureGroup) -> pa.RecordBatch:
    """:func:`merge` of merged tiles no two of which are of one key and start: they are only put in order."""
    some = [t for t in tiles if t.num_rows]
    if len(some) < 2:
        return some[0] if some else empty(tile_schema(group))
    columns = _together(some, group)
    order = pa.array(_tile_segments(columns, group)[0])
    return pa.RecordBatch.from_arrays([column.take(order) for column in columns.values()], schema=tile_schema(group))


def merge(tiles: Sequence[pa.RecordBatch], group: d.FeatureGroup) -> pa.RecordBatch:
    """Combine tiles of any batches, in any order: sorted by (keys, tile), each once. Associative and commutative."""
    columns = _together(tiles, group)
    schema = tile_schema(group)
    if not columns:
        return empty(schema)
    order, lo, hi = _tile_segments(columns, group)
    first = pa.array(order[lo])
    if len(lo) == len(order):
        return pa.RecordBatch.from_arrays([columns[n].take(first) for n in schema.names], schema=schema)
    out = [columns[k].take(first) for k in (*group.entity.keys, "tile_start")]
    # A tile that no other one meets stays as it is: its form is the one of what it holds. Where each of the merged ones comes from: itself,
    # or behind all tiles what several of them make.
    several = np.flatnonzero(hi - lo > 1)
    at, _ = ranges(lo[several], hi[several])
    some, bounds = pa.array(order[at]), offsets_of((hi - lo)[several])
    source = order[lo]
    source[several] = len(order) + np.arange(len(several))
    place = pa.array(source)
    states: list[tuple[str, type[State], Any]] = [("events", Counts, 0), *((key, s.state, s.param) for key, s in specs(group).items())]
    for name, state, param in states:
        merged = state.from_arrow(columns[name].take(some), param).merge(bounds[:-1], bounds[1:], ordered=False)
        out.append(pa.concat_arrays([columns[name], merged.to_arrow()]).take(place))
    return pa.RecordBatch.from_arrays(out, schema=schema)


def rows_between(tiles: pa.RecordBatch, group: d.FeatureGroup, after: int, upto: int) -> pa.RecordBatch:
    """The feature rows with ``after < boundary <= upto`` (microseconds of UTC), sorted by (keys, boundary): ``group.row_schema``.

    ``tiles`` must be merged (:func:`merge`) and reach back from ``after`` by the longest window and one hop; more does no harm.
    The rows of adjacent ranges add up to the rows of their union. Beside the rows themselves it needs memory for those of some
    :data:`PIECE` tiles. Raises ValueError where tiles are not merged, DataError where an aggregate gives another column than it says.
    """
    if not tiles.num_rows:
        return empty(group.row_schema)
    columns = dict(zip(tiles.schema.names, tiles.columns, strict=True))
    starts = _us(columns["tile_start"])
    differs, greater = _steps([columns[k] for k in group.entity.keys])
    if np.any(differs & ~greater) or np.any(~differs & (starts[1:] <= starts[:-1])):
        raise ValueError(f"feature group {group.name!r}: tiles are not merged; call merge() first")
    code = np.cumsum(np.append(False, differs))
    made = MadeRows(group)
    for lo, hi, begin, end in _pieces(code, starts, group, after, upto):
        rows = rows_of(code[lo:hi] - code[lo], starts[lo:hi], group.hop_us, overs(group), begin, end)
        if len(rows.key):
            made.add(tiles.slice(lo, hi - lo), code[lo:hi] - code[lo], rows)
    return made.rows()


PIECE = 16_384
"""Rows are made of so many tiles at a time, whole keys together: what one piece needs stays near the processor."""


def _pieces(code: Int, starts: Int, group: d.FeatureGroup, after: int, upto: int) -> Iterator[tuple[int, int, int, int]]:
    """(first tile, one after the last, after, upto) of each piece of the work: some keys, or a part of the time of one with many tiles."""
    first = np.append(np.flatnonzero(np.append(True, code[1:] != code[:-1])), len(code))
    key = 0
    while key < len(first) - 1:
        lo = int(first[key])
        until = max(int(np.searchsorted(first, lo + PIECE, side="right")) - 1, key + 1)
        hi = int(first[until])
        reach, begin = group.longest_us + group.hop_us, after
        # A part of the time starts with the tiles of a whole window, so it is no shorter than one.
        while hi - lo > 2 * PIECE and begin < upto:
            at = max(lo + PIECE, int(np.searchsorted(starts[lo:hi], starts[lo] + 2 * reach)) + lo)
            if at >= hi:
                break
            end = min(max(int(starts[at]), begin), upto)
            if end > begin:
                yield lo, at, begin, end
            begin, lo = end, lo + int(np.searchsorted(starts[lo:hi], end - reach))
        yield lo, hi, begin, upto
        key = until
