"""Distances between two sets of rows, by TFDV: L-infinity for text, Jensen-Shannon for numbers.

Statistics are made in memory from Arrow, without a Beam job. A number is first held to the range between the 0.5 % and the 99.5 %
quantile of the *baseline*: TFDV's histograms are ten equal steps from the least to the greatest value, and one outlier would put everything
else into one step. What lies outside counts at the edge, so a feature that leaves its range is at distance 1, not unseen. Both ends of the
range are added to either set as one value each: TFDV then steps alike through both, and whole numbers never fall between two grids.
Nulls are no part of a distance; they are a check of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["BUCKETS", "EDGES", "Ranges", "distances", "is_text", "ranges", "statistics", "thinned"]

BUCKETS = 10
EDGES = (0.005, 0.995)
_VALUES = 10_000
"""Values of text that are counted one by one."""

Ranges = Mapping[str, tuple[float, float]]
"""Numeric column -> the least and the greatest value that count."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a column is compared as categories."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind))


def thinned(table: pa.Table, rows: int) -> pa.Table:
    """At most ``rows`` of a table, evenly spread over its order; the same ones each time."""
    if table.num_rows <= rows:
        return table
    return table.take(pa.array(np.linspace(0, table.num_rows - 1, rows).astype(np.int64)))


def ranges(baseline: pa.Table, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Between which values the numbers of ``baseline`` lie, but for the outermost 0.5 % on either side."""
    out = {}
    for name in names:
        if is_text(baseline.schema.field(name).type):
            continue
        values = numbers(baseline, name)
        if len(values):
            low, high = (float(v) for v in np.quantile(values, EDGES))
            around = 0.0 if high > low else max(abs(low) / 2, 1.0)  # a constant: what leaves it is to be seen
            out[name] = (low - around, high + around)
    return out


def numbers(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """The values of a numeric column that are there and finite, as float64."""
    column = table.column(name)
    if pa.types.is_null(column.type):
        return np.zeros(0)
    values = column.drop_null().cast(pa.float64(), safe=False).to_numpy()
    out: np.ndarray[Any, Any] = values[np.isfinite(values)]
    return out


def statistics(table: pa.Table, names: Sequence[str], held: Ranges) -> Any:
    """TFDV's statistics (``DatasetFeatureStatisticsList``) of the columns ``names``."""
    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics import stats_impl

    batch = pa.RecordBatch.from_arrays([_lists(table, n, held.get(n)) for n in names], list(names))
    options = tfdv.StatsOptions(
        num_top_values=_VALUES,
        num_rank_histogram_buckets=_VALUES,
        num_histogram_buckets=BUCKETS,
        # The histogram is interpolated from a hundred times as many quantiles: with fewer, a gap beside a peak looks filled.
        num_quantiles_histogram_buckets=10 * BUCKETS,
    )
    return stats_impl.generate_statistics_in_memory(batch, options)


def _lists(table: pa.Table, name: str, held: tuple[float, float] | None) -> pa.Array:
    """A column as TFDV takes it: lists of one value, null where there is none."""
    column = table.column(name)
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if is_text(array.type) or held is None:
        array = array.cast(pa.string())
    else:
        values = array.cast(pa.float64(), safe=False)
        values = pc.if_else(pc.fill_null(pc.is_finite(values), False), values, pa.scalar(None, pa.float64()))
        array = pc.min_element_wise(pc.max_element_wise(values, held[0], skip_nulls=False), held[1], skip_nulls=False)
    ends = held if held is not None and not is_text(column.type) and array.null_count < len(array) else (None, None)
    array = pa.concat_arrays([array, pa.array(ends, array.type)])
    there = array.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(there)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, mask=np.append(~there, False)), array.drop_null())


def distances(baseline: Any, other: Any, names: Sequence[str], held: Ranges) -> dict[str, float]:
    """Column -> distance in [0, 1] of two statistics, by TFDV's own comparison; a column without values in one of them is left out."""
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = schema_pb2.Schema()
    for name in names:
        numeric = name in held
        feature = schema.feature.add(name=name, type=schema_pb2.FLOAT if numeric else schema_pb2.BYTES)
        comparator = feature.skew_comparator
        if numeric:
            comparator.jensen_shannon_divergence.threshold = 0.0
            comparator.jensen_shannon_divergence.source.type = schema_pb2.HistogramSelection.STANDARD
        else:
            comparator.infinity_norm.threshold = 0.0
    found = tfdv.validate_statistics(baseline, schema, serving_statistics=other)
    filled = _filled(baseline) & _filled(other)
    # A measurement of exactly 0 may be left out of TFDV's answer.
    out = {name: 0.0 for name in names if name in filled}
    for info in found.drift_skew_info:
        name = info.path.step[0]
        for measured in info.skew_measurements:
            if name in out and np.isfinite(measured.value):
                out[name] = float(measured.value)
    return out


def _filled(statistics: Any) -> set[str]:
    """The columns that have a value."""
    out = set()
    for feature in statistics.datasets[0].features:
        kind = feature.WhichOneof("stats")
        if kind is not None and getattr(feature, kind).common_stats.num_non_missing:
            out.add(feature.path.step[0])
    return out
