"""Events to tiles, tiles to tiles, tiles to feature rows: the three pure functions that batch and stream share.

* :func:`tile` pre-aggregates a batch of events to (entity key, tile) partials;
* :func:`merge` combines partials of any number of batches, in any order;
* :func:`rows_between` turns merged tiles into the feature rows of a range of hop boundaries.

Each is columnar (Arrow in, Arrow out). Because every state is a commutative monoid on the bits, how events were batched, ordered
or sharded cannot change a bit of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import definitions as d
from transforms import exact, states
from transforms.windows import rows_of

__all__ = ["merge", "rows_between", "tile", "tile_schema"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _StateSpec:
    """One state column: its kind, the field, the filter, and a parameter. Aggregates that need the same one share it."""

    kind: str
    column: str | None
    where: d.Predicate | None
    param: int = 0

    @property
    def key(self) -> str:
        where = repr(self.where.canonical()) if self.where is not None else ""
        return f"{self.kind}|{self.column or ''}|{self.param}|{where}"

    @property
    def _state(self) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """(the state's class, the arguments of its ``lift`` and ``from_arrow``, further ones of ``lift`` alone)."""
        kinds: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {
            "count": (states.Counts, (), ()),
            "sum": (states.Sums, (), (False,)),
            "squares": (states.Sums, (), (True,)),
            "min": (states.Extreme, (False,), ()),
            "max": (states.Extreme, (True,), ()),
            "newest": (states.Extreme, (True,), ()),
            "first": (states.Ordered, (self.param, False), ()),
            "last": (states.Ordered, (self.param, True), ()),
            "registers": (states.Registers, (self.param,), ()),
            "histogram": (states.Histogram, (), ()),
        }
        return kinds[self.kind]

    def lift(self, events: states.Events) -> Any:
        made, shared, own = self._state
        return made.lift(events, *shared, *own)

    def read(self, array: pa.Array) -> Any:
        made, shared, _ = self._state
        return made.from_arrow(array, *shared)

    def arrow_type(self, group: d.FeatureGroup) -> pa.DataType:
        value = group.source.field(self.column).arrow_type if self.column else pa.int64()
        tie = group.source.field(group.source.tie_breaker).arrow_type
        ordered = pa.list_(pa.struct([("time", pa.int64()), ("tie", tie), ("value", value)]))
        return {
            "count": pa.int64(),
            "sum": pa.list_(pa.int64()),
            "squares": pa.list_(pa.int64()),
            "min": value,
            "max": value,
            "newest": pa.int64(),
            "first": ordered,
            "last": ordered,
            "registers": pa.list_(pa.int32()),
            "histogram": pa.list_(pa.struct([("bucket", pa.int32()), ("count", pa.int64())])),
        }[self.kind]


def _states_of(a: d.Aggregate) -> tuple[_StateSpec, ...]:
    """The states an aggregate is finished from, in the order its finisher takes them."""

    def spec(kind: str, param: int = 0) -> _StateSpec:
        return _StateSpec(kind, a.column, a.where, param)

    match a:
        case d.Count():
            return (spec("count"),)
        case d.Sum() | d.Mean():
            return spec("count"), spec("sum")
        case d.Variance() | d.Std():
            return spec("count"), spec("sum"), spec("squares")
        case d.Min():
            return (spec("min"),)
        case d.Max():
            return (spec("max"),)
        case d.First():
            return (spec("first", 1),)
        case d.Last():
            return (spec("last", 1),)
        case d.LastN():
            return (spec("last", a.n),)
        case d.Age():
            return (spec("newest"),)
        case d.CountDistinct():
            return (spec("registers", a.precision),)
        case d.Quantile():
            return (spec("histogram"),)
    raise TypeError(f"no states for {type(a).__name__}")


def _over(n: Int, values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=n == 0)


def _finish(a: d.Aggregate, boundary: Int, parts: Sequence[Any]) -> pa.Array:
    """The feature column of an aggregate from its folded states."""
    match a:
        case d.Count():
            return parts[0].to_arrow()
        case d.Sum():
            return _over(parts[0].n, exact.to_float(parts[1].limbs))
        case d.Mean():
            n = parts[0].n
            return _over(n, exact.to_float(parts[1].limbs) / np.maximum(n, 1))
        case d.Variance() | d.Std():
            n = parts[0].n
            top = exact.to_float(exact.variance_numerator(n, parts[1].limbs, parts[2].limbs), exact.SQUARE_ORIGIN)
            variance = top / np.maximum(n * n, 1).astype(np.float64)
            return _over(n, variance if isinstance(a, d.Variance) else np.sqrt(variance))
        case d.Min() | d.Max():
            return parts[0].to_arrow()
        case d.First() | d.Last():
            return parts[0].single()
        case d.LastN():
            return parts[0].newest_first()
        case d.Age():
            return pa.array((boundary - parts[0].values).astype(np.float64) / 1e6, mask=~parts[0].valid)
        case d.CountDistinct():
            return pa.array(parts[0].estimate())
        case d.Quantile():
            return parts[0].quantile(a.q)
    raise TypeError(f"no finisher for {type(a).__name__}")


@lru_cache(maxsize=256)
def _specs(group: d.FeatureGroup) -> dict[str, _StateSpec]:
    """The state columns of a group by their key, each once, in the order of the definition."""
    return {s.key: s for a in group.aggregates for s in _states_of(a)}


def tile_schema(group: d.FeatureGroup) -> pa.Schema:
    """Tiles: the keys, ``tile_start`` (timestamp[us, UTC]), ``events`` (int64, at least 1), then a column per state."""
    return pa.schema(
        [pa.field(f.name, f.arrow_type, nullable=False) for f in group.key_fields]
        + [pa.field("tile_start", d.TIMESTAMP, nullable=False), pa.field("events", pa.int64(), nullable=False)]
        + [pa.field(key, s.arrow_type(group)) for key, s in _specs(group).items()]
    )


def _dense(column: pa.Array) -> Int:
    """The rank of each value among the distinct ones, from 0 up."""
    codes = states.order_codes(column)
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


def tile(batch: pa.RecordBatch, group: d.FeatureGroup) -> pa.RecordBatch:
    """Pre-aggregate N valid events (``group.source.arrow_schema``) to tiles, sorted by (keys, tile), each once."""
    source, schema = group.source, tile_schema(group)
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
        out.append(spec.lift(states.Events(values.take(take), times, ties)).fold(lo, hi, ordered=False).to_arrow())
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
    out.append(states.Counts.from_arrow(columns["events"].take(take)).fold(lo, hi, ordered=False).to_arrow())
    out += [spec.read(columns[key].take(take)).fold(lo, hi, ordered=False).to_arrow() for key, spec in _specs(group).items()]
    return pa.RecordBatch.from_arrays(out, schema=schema)


def _window(state: Any, lo: Int, hi: Int) -> Any:
    return state.slide(lo, hi) if isinstance(state, states.Registers | states.Histogram) else state.fold(lo, hi, ordered=True)


def rows_between(tiles: pa.RecordBatch, group: d.FeatureGroup, after: int, upto: int) -> pa.RecordBatch:
    """The feature rows with ``after < boundary <= upto`` (microseconds of UTC), sorted by (keys, boundary): ``group.row_schema``.

    ``tiles`` must be merged (:func:`merge`) and reach back from ``after`` by the longest window and one hop; more does no harm.
    The rows of adjacent ranges add up to the rows of their union. Raises ValueError where tiles are not merged.
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
    loaded = {key: spec.read(columns[key]) for key, spec in _specs(group).items()}
    out = [columns[k].take(keys) for k in group.entity.keys]
    out.append(pa.array(rows.boundary + group.delay_us).cast(d.TIMESTAMP))
    folded: dict[tuple[str, int], Any] = {}
    for feature in group.features:
        specs = _states_of(feature.aggregate)
        for key in (s.key for s in specs if (s.key, feature.over) not in folded):
            folded[key, feature.over] = _window(loaded[key], *rows.spans[feature.over])
        out.append(_finish(feature.aggregate, rows.boundary, [folded[s.key, feature.over] for s in specs]))
    events = states.Counts.from_arrow(columns["events"])
    out.append(events.fold(*rows.spans[max(overs)], ordered=True).to_arrow())
    return pa.RecordBatch.from_arrays(out, schema=schema)
