"""Feature rows in the making: an aggregate is computed once for each content of a window; showing it in each row comes last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import definitions as d
from transforms.functions.aggregate import StateSpec, checked_output
from transforms.functions.count import Counts
from transforms.windows import Rows, shown, slices

__all__ = ["MadeRows", "empty", "joined", "overs", "specs"]

Int = npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def specs(group: d.FeatureGroup) -> dict[str, StateSpec]:
    """The state columns of a group by their key, each once, in the order of the definition."""
    return {s.key: s for a in group.aggregates for s in a.states()}


def overs(group: d.FeatureGroup) -> list[int]:
    """The windows of a group in microseconds, each once, the shortest first."""
    return sorted({f.over for f in group.features})


class MadeRows:
    """The rows of one group, piece by piece."""

    def __init__(self, group: d.FeatureGroup) -> None:
        self.group = group
        self.keys: list[list[pa.Array]] = []
        self.boundaries: list[Int] = []
        self.revisions: list[pa.Array] = []
        self.values: list[list[pa.Array]] = []
        self.begins: dict[int, list[Int]] = {over: [] for over in overs(group)}
        """For each piece, the row of the piece that each content of a window begins at."""

    def add(self, tiles: pa.RecordBatch, code: Int, rows: Rows) -> None:
        """The rows over merged tiles, which follow those that were added before; ``code``: the tiles' keys, from 0 up without gaps."""
        group, columns = self.group, dict(zip(tiles.schema.names, tiles.columns, strict=True))
        first = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
        keys = pa.array(first.take(rows.key))
        self.keys.append([columns[k].take(keys) for k in group.entity.keys])
        self.boundaries.append(rows.boundary)
        self.revisions.append(Counts.from_arrow(columns["events"]).merge(*rows.spans[max(rows.spans)], ordered=True).to_arrow())
        loaded = {key: spec.state.from_arrow(columns[key], spec.param) for key, spec in specs(group).items()}
        for over, at in rows.begins.items():
            self.begins[over].append(at)
        spans = {(over, False): span for over, span in rows.spans.items()}
        for over in {f.over for f in group.features if f.aggregate.reads_boundary}:
            at = shown(rows.begins[over], np.empty(len(rows.key), np.int64))
            spans[over, True] = rows.spans[over][0].take(at), rows.spans[over][1].take(at)
        begins = {over: rows.boundary.take(at) for over, at in rows.begins.items()}
        windows: dict[tuple[str, int, bool], Any] = {}
        values = []
        for feature in group.features:
            over, aggregate = feature.over, feature.aggregate
            each, states = aggregate.reads_boundary, aggregate.states()
            parts = []
            for spec in states:
                known = spec.key, over, each
                if known not in windows:
                    windows[known] = loaded[spec.key].windows(*spans[over, each])
                parts.append(windows[known])
            column = aggregate.extract_output(parts, rows.boundary if each else begins[over])
            values.append(checked_output(aggregate, feature.output, column, len(spans[over, each][0])))
        self.values.append(values)

    def rows(self) -> pa.RecordBatch:
        """All rows."""
        group = self.group
        if not self.keys:
            return empty(group.row_schema)
        keys = [_one(parts) for parts in zip(*self.keys, strict=True)]
        self.keys.clear()
        count = sum(map(len, self.boundaries))
        at, buffer = _room(count)
        places = slices(self.boundaries)
        for place, boundary in zip(places, self.boundaries, strict=True):
            np.add(boundary, group.delay_us, out=at[place])
        self.boundaries.clear()
        stamps = pa.Array.from_buffers(d.TIMESTAMP, count, [None, buffer])
        columns = {n: (f.over, parts) for n, (f, parts) in enumerate(zip(group.features, zip(*self.values, strict=True), strict=True))}
        columns[len(columns)] = max(self.begins), tuple(self.revisions)
        self.values.clear()
        self.revisions.clear()
        made: dict[int, pa.Array] = {}
        for over, begins in self.begins.items():
            made |= _shown({n: columns.pop(n)[1] for n in list(columns) if columns[n][0] == over}, begins, places)
        return pa.RecordBatch.from_arrays([*keys, stamps, *(made[n] for n in range(len(made)))], schema=group.row_schema)


def _shown(columns: dict[int, Sequence[pa.Array]], begins: Sequence[Int], places: Sequence[slice]) -> dict[int, pa.Array]:
    """Columns of the contents of one window, piece by piece, as columns of all rows: those of each piece lie at its place."""
    count = places[-1].stop
    out = {n: _one(parts) for n, parts in columns.items() if sum(map(len, parts)) == count}
    rooms = {n: _room(count) for n, parts in columns.items() if n not in out and parts[0].type in _PLAIN}
    validity = {n: _valid(parts) for n, parts in columns.items() if n in rooms}
    marks = {valid: np.empty(count, bool) for valid in validity.values() if valid is not None}
    others = {n: np.empty(count, np.int64) for n in columns if n not in out and n not in rooms}
    before = np.cumsum([0, *map(len, begins)])
    room = np.empty(max(place.stop - place.start for place in places), np.int64)
    for piece, (begin, place) in enumerate(zip(begins, places, strict=True)):
        at = shown(begin, room[: place.stop - place.start])
        # Clipping needs no buffer, and none of the places lies outside.
        for n, (column, _) in rooms.items():
            np.take(_values(columns[n][piece]), at, out=column[place], mode="clip")
        for valid, mark in marks.items():
            np.take(np.unpackbits(np.frombuffer(valid[piece], np.uint8), bitorder="little").view(bool), at, out=mark[place], mode="clip")
        for rows in others.values():
            np.add(at, before[piece], out=rows[place])
    nulls: dict[tuple[bytes, ...] | None, pa.Buffer] = {
        valid: pa.py_buffer(np.packbits(mark, bitorder="little")) for valid, mark in marks.items()
    }
    out |= {n: pa.Array.from_buffers(columns[n][0].type, count, [nulls.get(validity[n]), room[1]]) for n, room in rooms.items()}
    return out | {n: _one(columns[n]).take(pa.array(rows)) for n, rows in others.items()}


def _room(count: int) -> tuple[Int, pa.Buffer]:
    """Memory for so many values of eight bytes: as numbers, and as Arrow's buffer."""
    buffer = pa.allocate_buffer(8 * count, memory_pool=_POOL)
    return np.frombuffer(buffer, np.int64), buffer


_PLAIN = (pa.int64(), pa.float64())
_POOL = pa.mimalloc_memory_pool() if "mimalloc" in pa.supported_memory_backends() else pa.default_memory_pool()
"""Memory of rows: of the pool that uses it again for the next rows. From others large columns come new, page by page."""


def _values(part: pa.Array) -> Int:
    """The bits of a column of eight bytes a value; anything where it is null."""
    return np.frombuffer(part.buffers()[1], np.int64, len(part), 8 * part.offset) if len(part) else np.zeros(0, np.int64)


def _valid(parts: Sequence[pa.Array]) -> tuple[bytes, ...] | None:
    """Which values of the parts of a column are not null, in Arrow's bits; None where all are. Columns with the same nulls say the same."""
    if not any(part.null_count for part in parts):
        return None
    return tuple(part.is_valid().buffers()[1].to_pybytes() for part in parts)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """No rows."""
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def joined(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """Batches of one schema as one, in their order."""
    if len(batches) < 2:
        return batches[0] if batches else empty(schema)
    columns = [_one([b.column(n) for b in batches]) for n in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _one(parts: Sequence[pa.Array]) -> pa.Array:
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
