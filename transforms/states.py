"""Partial aggregates as columns. Each kind is a commutative monoid on the bits.

A :class:`State` holds N partial aggregates. ``lift`` makes one of each event, ``fold`` combines ranges of them, ``to_arrow`` and
``from_arrow`` carry them between processes. ``fold(lo, hi, ordered)`` combines the elements ``lo[r] .. hi[r] - 1`` into element r;
``ordered`` promises that within a range the elements follow each other in event time without overlap (unique sorted tiles), which
permits overlapping ranges (windows) without looking at each element; without it (merging partials) ranges must not overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import exact
from transforms.hashing import hash64
from transforms.windows import ranges

__all__ = ["Counts", "Events", "Extreme", "Histogram", "Ordered", "Registers", "Sums", "order_codes"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Events:
    """What a state is lifted from: N events' values (null where skipped), times (int64 us) and tie-breakers."""

    values: pa.Array
    times: Int
    ties: pa.Array


class State(Protocol):
    """See the module's text."""

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Any:
        """Combine ranges of elements."""

    def to_arrow(self) -> pa.Array:
        """One Arrow column of length N."""


def _offsets(lengths: Int) -> Int:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _list(offsets: Int, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def _list_parts(array: pa.ListArray) -> tuple[Int, pa.Array]:
    """(offsets from 0, flat values) of a list array, whatever slice it is."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0])


def numbers(array: pa.Array) -> tuple[npt.NDArray[Any], Bool]:
    """(values with 0 where null, validity) of a numeric column; -0.0 becomes 0.0."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    return (values + 0.0 if values.dtype == np.float64 else values), valid


def order_codes(array: pa.Array) -> npt.NDArray[Any]:
    """Numbers that sort as the values do (strings by their UTF-8 bytes); shape [N]; nulls are not allowed."""
    if pa.types.is_string(array.type):
        encoded = array.dictionary_encode()
        rank = np.empty(len(encoded.dictionary), np.int64)
        rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
        out: npt.NDArray[Any] = rank[encoded.indices.to_numpy(zero_copy_only=False)]
        return out
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values.astype(np.int8) if values.dtype == bool else values


@dataclass(frozen=True)
class Counts:
    """The number of values: int64, shape [N]."""

    n: Int

    @classmethod
    def lift(cls, events: Events) -> Counts:
        """1 for each value that is not null."""
        return cls(events.values.is_valid().to_numpy(zero_copy_only=False).astype(np.int64))

    @classmethod
    def from_arrow(cls, array: pa.Array) -> Counts:
        """The inverse of :meth:`to_arrow`."""
        return cls(array.to_numpy(zero_copy_only=False))

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Counts:
        """Add."""
        total = _offsets(self.n)
        return Counts(total[hi] - total[lo])

    def to_arrow(self) -> pa.Array:
        """int64."""
        return pa.array(self.n)


@dataclass(frozen=True)
class Sums:
    """Exact sums of values or of their squares (see :mod:`transforms.exact`)."""

    limbs: exact.Limbs

    @classmethod
    def lift(cls, events: Events, squares: bool) -> Sums:
        """Each value (or its square); 0 for a null."""
        values, _ = numbers(events.values)
        return cls(exact.from_squares(values) if squares else exact.from_values(values))

    @classmethod
    def from_arrow(cls, array: pa.Array) -> Sums:
        """The inverse of :meth:`to_arrow`; numbers of several batches may start at different limbs."""
        offsets, flat = _list_parts(array)
        flat = flat.to_numpy(zero_copy_only=False).astype(np.int64)
        if not len(array):
            return cls(exact.Limbs(0, np.zeros((0, 1), np.int64)))
        width = np.diff(offsets) - 1
        first = flat[offsets[:-1]]
        base = int(first[width > 0].min(initial=first.max()))
        digits = np.zeros((len(array), max(int((first + width)[width > 0].max(initial=0)) - base, 1)), np.int64)
        position, owner = ranges(offsets[:-1] + 1, offsets[1:])
        digits[owner, position - offsets[owner] - 1 + first[owner] - base] = flat[position]
        return cls(exact.Limbs(base, digits))

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Sums:
        """Add exactly."""
        return Sums(self.limbs.fold(lo, hi))

    def to_arrow(self) -> pa.Array:
        """list<int64>: the index of the first limb, then the limbs: the one canonical form of each number (see exact.canonical)."""
        limbs = exact.canonical(self.limbs)
        used = limbs.digits != 0
        empty = ~used.any(axis=1)
        start = np.where(empty, 0, np.argmax(used, axis=1)).astype(np.int64)
        end = np.where(empty, 0, used.shape[1] - np.argmax(used[:, ::-1], axis=1)).astype(np.int64)
        offsets = _offsets(end - start + 1)
        flat = np.empty(int(offsets[-1]), np.int64)
        flat[offsets[:-1]] = np.where(empty, 0, limbs.base + start)
        column, owner = ranges(start, end)
        flat[offsets[owner] + 1 + column - start[owner]] = limbs.digits[owner, column]
        return _list(offsets, pa.array(flat))


@dataclass(frozen=True)
class Extreme:
    """The smallest (``greatest`` false) or greatest value; null over none. Float64 or int64, shape [N]."""

    values: npt.NDArray[Any]
    valid: Bool
    greatest: bool

    @classmethod
    def lift(cls, events: Events, greatest: bool) -> Extreme:
        """The value itself."""
        return cls.from_arrow(events.values, greatest)

    @classmethod
    def from_arrow(cls, array: pa.Array, greatest: bool) -> Extreme:
        """The inverse of :meth:`to_arrow`."""
        return cls(*numbers(array), greatest)

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Extreme:
        """The extreme of each range, by doubling: one pass per power of two up to the longest range."""
        better = np.maximum if self.greatest else np.minimum
        if self.values.dtype == np.float64:
            worst: Any = -np.inf if self.greatest else np.inf
        else:
            worst = np.iinfo(np.int64).min if self.greatest else np.iinfo(np.int64).max
        level = np.where(self.valid, self.values, worst)
        length = hi - lo
        power = np.frexp(np.maximum(length, 1).astype(np.float64))[1] - 1
        out = np.full(len(lo), worst, self.values.dtype)
        step = 1
        for p in range(int(power.max(initial=0)) + 1):
            rows = np.flatnonzero((power == p) & (length > 0))
            out[rows] = better(level[lo[rows]], level[hi[rows] - step])
            if len(level) <= step:
                break
            level = better(level[:-step], level[step:])
            step *= 2
        seen = _offsets(self.valid.astype(np.int64))
        valid = seen[hi] > seen[lo]
        return Extreme(np.where(valid, out, np.zeros(1, self.values.dtype)), valid, self.greatest)

    def to_arrow(self) -> pa.Array:
        """The values, null where there is none."""
        return pa.array(self.values, mask=~self.valid)


@dataclass(frozen=True)
class Ordered:
    """The first or last ``n`` values by (event time, tie-breaker, value), oldest first: element i holds ``offsets[i] .. offsets[i+1]``."""

    offsets: Int
    times: Int
    ties: pa.Array
    values: pa.Array
    n: int
    last: bool

    @classmethod
    def lift(cls, events: Events, n: int, last: bool) -> Ordered:
        """One value each, none for a null."""
        valid = events.values.is_valid()
        mask = valid.to_numpy(zero_copy_only=False)
        values = events.values.filter(valid)
        if pa.types.is_floating(values.type):
            values = pc.add(values, 0.0)
        return cls(_offsets(mask.astype(np.int64)), events.times[mask], events.ties.filter(valid), values, n, last)

    @classmethod
    def from_arrow(cls, array: pa.Array, n: int, last: bool) -> Ordered:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = _list_parts(array)
        time, tie, value = flat.flatten()
        return cls(offsets, time.to_numpy(zero_copy_only=False).astype(np.int64), tie, value, n, last)

    def _keep(self, lo: Int, hi: Int) -> tuple[Int, Int]:
        return (np.maximum(lo, hi - self.n), hi) if self.last else (lo, np.minimum(hi, lo + self.n))

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Ordered:
        """Keep the first or last n of each range."""
        start, end = self.offsets[lo], self.offsets[hi]
        if ordered:
            start, end = self._keep(start, end)
            position, _ = ranges(start, end)
            offsets = _offsets(end - start)
        else:
            position, owner = ranges(start, end)
            keys = (order_codes(self.values)[position], order_codes(self.ties)[position], self.times[position], owner)
            position = position[np.lexsort(keys)]
            bounds = _offsets(end - start)
            start, end = self._keep(bounds[:-1], bounds[1:])
            kept, _ = ranges(start, end)
            position, offsets = position[kept], _offsets(end - start)
        take = pa.array(position)
        return Ordered(offsets, self.times[position], self.ties.take(take), self.values.take(take), self.n, self.last)

    def to_arrow(self) -> pa.Array:
        """list<struct<time: int64, tie, value>>, oldest first."""
        flat = pa.StructArray.from_arrays([pa.array(self.times, pa.int64()), self.ties, self.values], ["time", "tie", "value"])
        return _list(self.offsets, flat)

    def single(self) -> pa.Array:
        """The one value of each element (n = 1), null over none."""
        has = np.diff(self.offsets) > 0
        at = pa.array(np.where(has, self.offsets[:-1], 0), mask=~has)
        return self.values.take(at)

    def newest_first(self) -> pa.Array:
        """list<value>, newest first."""
        position, owner = ranges(self.offsets[:-1], self.offsets[1:])
        mirrored = self.offsets[owner] + self.offsets[owner + 1] - 1 - position
        return _list(self.offsets, self.values.take(pa.array(mirrored)))


@dataclass(frozen=True)
class Registers:
    """HyperLogLog registers that are not zero: ``index << 6 | rank``, at most one per index, ascending (Flajolet et al. 2007)."""

    offsets: Int
    codes: Int
    precision: int

    @classmethod
    def lift(cls, events: Events, precision: int) -> Registers:
        """One register each, none for a null. The index is the hash's top bits, the rank 1 + the leading zeros of the rest."""
        valid = events.values.is_valid()
        values = events.values.filter(valid)
        if pa.types.is_floating(values.type):
            values = pc.add(values, 0.0)
        h = hash64(values)
        rest_bits = 64 - precision
        rest = h & np.uint64((1 << rest_bits) - 1)
        high, low = (rest >> np.uint64(32)).astype(np.float64), (rest & np.uint64(0xFFFFFFFF)).astype(np.float64)
        bits = np.where(high > 0, 32 + np.frexp(high)[1], np.where(low > 0, np.frexp(low)[1], 0))
        codes = ((h >> np.uint64(rest_bits)).astype(np.int64) << 6) | (rest_bits - bits + 1)
        return cls(_offsets(valid.to_numpy(zero_copy_only=False).astype(np.int64)), codes, precision)

    @classmethod
    def from_arrow(cls, array: pa.Array, precision: int) -> Registers:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = _list_parts(array)
        return cls(offsets, flat.to_numpy(zero_copy_only=False).astype(np.int64), precision)

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Registers:
        """The greatest rank of each register."""
        position, owner = ranges(self.offsets[lo], self.offsets[hi])
        keyed = (owner << 22) | self.codes[position]
        keyed.sort()
        register = keyed >> 6
        last = np.ones(len(keyed), bool)
        last[:-1] = register[1:] != register[:-1]
        keyed = keyed[last]
        return Registers(_offsets(np.bincount(keyed >> 22, minlength=len(lo))), keyed & ((1 << 22) - 1), self.precision)

    def to_arrow(self) -> pa.Array:
        """list<int32>."""
        return _list(self.offsets, pa.array(self.codes.astype(np.int32)))

    def slide(self, lo: Int, hi: Int) -> RegisterWindows:
        """What ``fold(lo, hi, ordered=True)`` estimates, for windows of which neither bound ever goes back.

        Of the elements of one window that set a register, the last of the greatest rank stands for it. So an element stands for its
        register from when an earlier greater one has left until a later one as great comes in: a range of windows for each, found
        without looking at what the windows hold.
        """
        tile = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), np.diff(self.offsets))
        order = np.argsort(self.codes >> 6, kind="stable")
        tile, register, rank = tile[order], self.codes[order] >> 6, self.codes[order] & 63
        never = len(self.offsets)
        before, after = np.full(len(tile), -1, np.int64), np.full(len(tile), never, np.int64)
        for k in np.unique(rank):
            here, above = np.flatnonzero(rank == k), np.flatnonzero(rank > k)
            high = np.flatnonzero(rank >= k)
            for others, at, out in (
                (above, np.searchsorted(above, here) - 1, before),
                (high, np.searchsorted(high, here) + 1, after),
            ):
                there = np.flatnonzero((at >= 0) & (at < len(others)))
                other, mine = others[at[there]], here[there]
                same = register[other] == register[mine]
                out[mine[same]] = tile[other[same]]
        start = np.maximum(np.searchsorted(hi, tile, side="right"), np.searchsorted(lo, before, side="right"))
        end = np.minimum(np.searchsorted(lo, tile, side="right"), np.searchsorted(hi, after, side="right"))
        shown = start < end
        return RegisterWindows(len(lo), rank[shown], start[shown], end[shown], self.precision)


@dataclass(frozen=True)
class RegisterWindows:
    """The registers of N windows: number i has value ``rank[i]`` in the windows ``start[i] .. end[i] - 1``."""

    n: int
    rank: Int
    start: Int
    end: Int
    precision: int

    def _in_each(self, start: Int, end: Int) -> Int:
        change = np.bincount(start, minlength=self.n + 1) - np.bincount(end, minlength=self.n + 1)
        out: Int = np.cumsum(change)[: self.n]
        return out

    def estimate(self) -> Int:
        """The estimated number of distinct values, int64."""

        def of_rank(k: int) -> Int:
            chosen = self.rank == k
            return self._in_each(self.start[chosen], self.end[chosen])

        return _estimate(self.precision, self._in_each(self.start, self.end), of_rank)


def _estimate(precision: int, used: Int, of_rank: Callable[[int], Int]) -> Int:
    """Ertl 2017 (arXiv:1702.01284), algorithm 6, rounded half up: from the number of registers that are not zero, and of each rank."""
    m, q = 1 << precision, 64 - precision
    z = m * _tau(1.0 - of_rank(q + 1).astype(np.float64) / m)
    for k in range(q, 0, -1):
        z = 0.5 * (z + of_rank(k))
    with np.errstate(divide="ignore"):
        z = z + m * _sigma((m - used).astype(np.float64) / m)
        alpha = 1.0 / (2.0 * np.log(2.0))
        out: Int = np.floor((alpha * m) * m / z + 0.5).astype(np.int64)
        return out


def _sigma(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    full = x == 1.0
    x = np.where(full, 0.0, x)
    y, z = 1.0, x.copy()
    while True:
        x = x * x
        before = z
        z = z + x * y
        y = 2.0 * y
        if np.array_equal(before, z):
            return np.where(full, np.inf, z)


def _tau(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    trivial = (x == 0.0) | (x == 1.0)
    x = np.where(trivial, 1.0, x)
    y, z = 1.0, 1.0 - x
    while True:
        x = np.sqrt(x)
        before = z
        y = 0.5 * y
        z = z - ((1.0 - x) * (1.0 - x)) * y
        if np.array_equal(before, z):
            return np.where(trivial, 0.0, z / 3.0)


@dataclass(frozen=True)
class Histogram:
    """Counts per bucket of float64 values; a bucket is sign, exponent and 7 mantissa bits, as a number that sorts as the values do."""

    offsets: Int
    buckets: Int
    counts: Int

    @classmethod
    def lift(cls, events: Events) -> Histogram:
        """One bucket each, none for a null."""
        values, valid = numbers(events.values)
        bits = values[valid].astype(np.float64).view(np.int64)
        magnitude = (bits & np.int64(0x7FFFFFFFFFFFFFFF)) >> 45
        buckets = np.where(bits < 0, -1 - magnitude, magnitude)
        return cls(_offsets(valid.astype(np.int64)), buckets, np.ones(len(buckets), np.int64))

    @classmethod
    def from_arrow(cls, array: pa.Array) -> Histogram:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = _list_parts(array)
        bucket, count = flat.flatten()
        return cls(offsets, bucket.to_numpy(zero_copy_only=False).astype(np.int64), count.to_numpy(zero_copy_only=False).astype(np.int64))

    def fold(self, lo: Int, hi: Int, ordered: bool) -> Histogram:
        """Add counts per bucket."""
        position, owner = ranges(self.offsets[lo], self.offsets[hi])
        keyed = (owner << 20) | (self.buckets[position] + (1 << 19))
        order = np.argsort(keyed, kind="stable")
        keyed = keyed[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(len(keyed), 1), bool), keyed[1:] != keyed[:-1]]))
        total = _offsets(self.counts[position[order]])
        counts = np.diff(np.append(total[first], total[-1])) if len(first) else np.zeros(0, np.int64)
        keyed = keyed[first]
        return Histogram(_offsets(np.bincount(keyed >> 20, minlength=len(lo))), (keyed & ((1 << 20) - 1)) - (1 << 19), counts)

    def to_arrow(self) -> pa.Array:
        """list<struct<bucket: int32, count: int64>>, ascending."""
        return _list(
            self.offsets, pa.StructArray.from_arrays([pa.array(self.buckets.astype(np.int32)), pa.array(self.counts)], ["bucket", "count"])
        )

    def slide(self, lo: Int, hi: Int) -> HistogramWindows:
        """What ``fold(lo, hi, ordered=True)`` holds, without making it."""
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
        total = _offsets(weight)
        n = total[end] - total[start]
        if not len(buckets):
            return pa.nulls(len(n), pa.float64())
        rank = np.maximum(1, np.ceil(q * n.astype(np.float64)).astype(np.int64))
        found = np.zeros(len(n), np.int64)
        for level in range(int(len(buckets) - 1).bit_length() - 1, -1, -1):
            low = (code >> level) & 1 == 0
            lows, light = _offsets(low.astype(np.int64)), _offsets(np.where(low, weight, 0))
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
