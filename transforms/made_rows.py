"""Feature rows in the making: an aggregate is computed once for each content of a window; showing it in each row comes last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import definitions as d
from transforms.functions.base import StateSpec, checked_output
from transforms.functions.count import Counts
from transforms.windows import Rows

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
        self.heads: list[list[pa.Array]] = []
        self.values: list[list[pa.Array]] = []
        self.shown: dict[int, list[Int]] = {over: [] for over in overs(group)}
        """For each piece, the content of the piece that each row shows."""

    def add(self, tiles: pa.RecordBatch, code: Int, rows: Rows) -> None:
        """The rows over merged tiles, which follow those that were added before."""
        group, columns = self.group, dict(zip(tiles.schema.names, tiles.columns, strict=True))
        keys = pa.array(np.searchsorted(code, rows.key))
        head = [columns[k].take(keys) for k in group.entity.keys]
        head.append(pa.array(rows.boundary + group.delay_us).cast(d.TIMESTAMP))
        lo, hi = rows.spans[max(rows.spans)]
        self.heads.append([*head, Counts.from_arrow(columns["events"]).merge(lo, hi, ordered=True).to_arrow()])
        loaded = {key: spec.state.from_arrow(columns[key], spec.param) for key, spec in specs(group).items()}
        at = {over: np.flatnonzero(moved) for over, moved in rows.moved.items()}
        for over, moved in rows.moved.items():
            self.shown[over].append(np.cumsum(moved) - 1)
        spans = {(over, True): span for over, span in rows.spans.items()}
        spans |= {(over, False): (lo[at[over]], hi[at[over]]) for over, (lo, hi) in rows.spans.items()}
        windows: dict[tuple[str, int, bool], Any] = {}
        values = []
        for feature in group.features:
            over, aggregate = feature.over, feature.aggregate
            each = aggregate.reads_boundary
            for spec in aggregate.states():
                if (spec.key, over, each) not in windows:
                    windows[spec.key, over, each] = loaded[spec.key].windows(*spans[over, each])
            parts = [windows[spec.key, over, each] for spec in aggregate.states()]
            column = aggregate.extract_output(parts, rows.boundary if each else rows.boundary[at[over]])
            values.append(checked_output(aggregate, feature.output, column, len(spans[over, each][0])))
        self.values.append(values)

    def rows(self) -> pa.RecordBatch:
        """All rows."""
        schema = self.group.row_schema
        if not self.heads:
            return empty(schema)
        *head, revision = (_one(parts) for parts in zip(*self.heads, strict=True))
        self.heads.clear()
        features = list(zip(self.group.features, zip(*self.values, strict=True), strict=True))
        self.values.clear()
        count = len(revision)
        plain = [parts[0].type in _PLAIN and sum(map(len, parts)) != count for _, parts in features]
        valid = _Validity()
        columns = []
        for (feature, parts), numbers in zip(features, plain, strict=True):
            shown = self.shown[feature.over]
            if numbers:
                buffer, end = pa.allocate_buffer(8 * count, memory_pool=_POOL), 0
                column = np.frombuffer(buffer, np.int64)
                for part, at in zip(parts, shown, strict=True):
                    begin, end = end, end + len(at)
                    # Clipping needs no buffer, and none of the places lies outside.
                    np.take(_values(part), at, out=column[begin:end], mode="clip")
                nulls = valid.shown(feature.over, parts, shown)
                columns.append(pa.Array.from_buffers(parts[0].type, count, [nulls, buffer]))
            elif sum(map(len, parts)) == count:
                columns.append(_one(parts))
            else:
                before = np.cumsum([0, *(len(part) for part in parts[:-1])])
                columns.append(_one(parts).take(pa.array(np.concatenate([at + n for at, n in zip(shown, before, strict=True)]))))
        return pa.RecordBatch.from_arrays([*head, *columns, revision], schema=schema)


_PLAIN = (pa.int64(), pa.float64())
_POOL = pa.mimalloc_memory_pool() if "mimalloc" in pa.supported_memory_backends() else pa.default_memory_pool()
"""Memory of rows: of the pool that uses it again for the next rows. From others large columns come new, page by page."""


def _values(part: pa.Array) -> Int:
    """The bits of a column of eight bytes a value; anything where it is null."""
    return np.frombuffer(part.buffers()[1], np.int64, len(part), 8 * part.offset) if len(part) else np.zeros(0, np.int64)


class _Validity:
    """Which values of a column are not null, row by row, as Arrow keeps it. Columns with the same nulls share it."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, tuple[bytes, ...]], pa.Buffer] = {}

    def shown(self, over: int, parts: Sequence[pa.Array], shown: Sequence[Int]) -> pa.Buffer | None:
        """The validity of rows that show ``parts``; None without nulls."""
        if not any(part.null_count for part in parts):
            return None
        bits = [part.is_valid() for part in parts]
        key = over, tuple(each.buffers()[1].to_pybytes() for each in bits)
        if key not in self.known:
            each = [b.to_numpy(zero_copy_only=False).take(at) for b, at in zip(bits, shown, strict=True)]
            self.known[key] = pa.py_buffer(np.packbits(np.concatenate(each), bitorder="little"))
        return self.known[key]


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
