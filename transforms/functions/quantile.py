"""Quantiles, from a histogram over the leading bits of the float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.functions.aggregate import Aggregate, Events, Param, State, StateSpec
from transforms.functions.arrays import Int, list_of, list_parts, numbers, offsets_of
from transforms.windows import ranges

__all__ = ["Histogram", "Quantile"]


@dataclass(frozen=True)
class Histogram(State):
    """Counts per bucket of float64 values; a bucket is sign, exponent and 7 mantissa bits, as a number that sorts as the values do."""

    offsets: Int
    buckets: Int
    counts: Int
    kind: ClassVar[str] = "histogram"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Param) -> pa.DataType:
        """list<struct<bucket: int32, count: int64>>."""
        return pa.list_(pa.struct([("bucket", pa.int32()), ("count", pa.int64())]))

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Histogram:
        """One bucket each, none for a null."""
        values, valid = numbers(events.values)
        bits = values[valid].astype(np.float64).view(np.int64)
        magnitude = (bits & np.int64(0x7FFFFFFFFFFFFFFF)) >> 45
        buckets = np.where(bits < 0, -1 - magnitude, magnitude)
        return cls(offsets_of(valid.astype(np.int64)), buckets, np.ones(len(buckets), np.int64))

    @classmethod
    def from_arrow(cls, array: pa.Array, param: Param = 0) -> Histogram:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = list_parts(array)
        bucket, count = flat.flatten()
        return cls(offsets, bucket.to_numpy(zero_copy_only=False).astype(np.int64), count.to_numpy(zero_copy_only=False).astype(np.int64))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Histogram:
        """Add counts per bucket."""
        position, owner = ranges(self.offsets[lo], self.offsets[hi])
        keyed = (owner << 20) | (self.buckets[position] + (1 << 19))
        order = np.argsort(keyed, kind="stable")
        keyed = keyed[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(len(keyed), 1), bool), keyed[1:] != keyed[:-1]]))
        total = offsets_of(self.counts[position[order]])
        counts = np.diff(np.append(total[first], total[-1])) if len(first) else np.zeros(0, np.int64)
        keyed = keyed[first]
        return Histogram(offsets_of(np.bincount(keyed >> 20, minlength=len(lo))), (keyed & ((1 << 20) - 1)) - (1 << 19), counts)

    def to_arrow(self) -> pa.Array:
        """list<struct<bucket: int32, count: int64>>, ascending."""
        return list_of(
            self.offsets, pa.StructArray.from_arrays([pa.array(self.buckets.astype(np.int32)), pa.array(self.counts)], ["bucket", "count"])
        )

    def windows(self, lo: Int, hi: Int) -> HistogramWindows:
        """What ``merge(lo, hi, ordered=True)`` holds, without making it."""
        return HistogramWindows(self, self.offsets[lo], self.offsets[hi])


@dataclass(frozen=True)
class HistogramWindows:
    """Windows over a histogram's entries: window r adds up the entries ``start[r] .. end[r] - 1``."""

    histogram: Histogram
    start: Int
    end: Int

    def quantile(self, q: float) -> pa.Array:
        """float64: the midpoint of the bucket that holds rank ``max(1, ceil(q * n))``; 0.0 for the bucket of zero; null over none.

        Goes down the bits of the buckets' places in a wavelet matrix (Claude and Navarro 2012), all windows at once.
        """
        buckets, code = np.unique(self.histogram.buckets, return_inverse=True)
        weight, start, end = self.histogram.counts, self.start, self.end
        total = offsets_of(weight)
        n = total[end] - total[start]
        if not len(buckets):
            return pa.nulls(len(n), pa.float64())
        rank = np.maximum(1, np.ceil(q * n.astype(np.float64)).astype(np.int64))
        found = np.zeros(len(n), np.int64)
        for level in range(int(len(buckets) - 1).bit_length() - 1, -1, -1):
            low = (code >> level) & 1 == 0
            lows, light = offsets_of(low.astype(np.int64)), offsets_of(np.where(low, weight, 0))
            below = light[end] - light[start]
            up = rank > below
            rank = np.where(up, rank - below, rank)
            start = np.where(up, lows[-1] + start - lows[start], lows[start])
            end = np.where(up, lows[-1] + end - lows[end], lows[end])
            found |= up.astype(np.int64) << level
            code, weight = np.concatenate([code[low], code[~low]]), np.concatenate([weight[low], weight[~low]])
        bucket = buckets[np.minimum(found, len(buckets) - 1)]  # past the last only where there is nothing
        magnitude = np.where(bucket < 0, -1 - bucket, bucket)
        middle = ((magnitude << 45) | (1 << 44)).view(np.float64)
        value = np.where(bucket == 0, 0.0, np.where(bucket < 0, -middle, middle))
        return pa.array(value, mask=n == 0)


@dataclass(frozen=True)
class Quantile(Aggregate):
    """The ``q``-quantile by nearest rank, from a histogram over the leading bits of the float: relative error <= 2^-8."""

    q: float = 0.5
    kind: ClassVar[str] = "quantile"
    reads_boundary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.q, float) or not 0 < self.q < 1:
            raise DefinitionError(f"aggregate Quantile({self.column}): q={self.q!r} must lie between 0 and 1, e.g. 0.9")
        super().__post_init__()

    def default_suffix(self) -> str:
        return "p" + f"{self.q * 100:.10g}".replace(".", "_")

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Histogram),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].quantile(self.q)
