"""Exact numbers that each keep only their own limbs: what sums are between the matrices of :mod:`transforms.exact`.

A matrix is as wide as the widest of its numbers asks for. So work is done in chunks, and the few numbers of a chunk that lie far off
from the bulk of it (the one 1.7e308 among cents) are added apart, with the ranges that they are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from transforms.exact import ORIGIN, SQUARE_ORIGIN, Limbs, canonical, from_squares, from_values

__all__ = ["Lists", "Numbers", "Values", "bulk_of"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

CHUNK = 16_384
"""So many numbers are made a matrix at a time, which stays near the processor."""
NARROW = 8
"""A matrix of so many limbs is not worth dividing."""
MODERATE = 2.0**200
"""Floats up to it, and down to its inverse, are scaled, squared and split without a thought of overflow and underflow."""


class Numbers(Protocol):
    """N exact numbers that can be made a matrix in parts."""

    def __len__(self) -> int: ...

    def reach(self, at: slice | Int) -> tuple[Int, Int]:
        """The limb that each number at ``at`` begins with and the one after its last; equal for zero."""
        ...

    def dense(self, at: slice | Int) -> Limbs:
        """The numbers at ``at`` as a matrix."""
        ...


def bulk_of(first: Int, end: Int) -> Bool | None:
    """Which of the numbers with these limbs lie far off from the others; None where a matrix of all of them is about as narrow as
    one of most of them."""
    some = np.flatnonzero(end > first)
    if not len(some):
        return None
    low, high = first[some], end[some]
    base, top = int(low.min()), int(high.max())
    if top - base <= NARROW:
        return None
    few = len(some) // 64 + 1
    begins, ends = np.cumsum(np.bincount(low - base)), np.cumsum(np.bincount(top - high))
    # All but a few begin at or above the one limb, and end at or below the other.
    begin, until = base + int(np.searchsorted(begins, few, side="right")), top - int(np.searchsorted(ends, few, side="right"))
    if 4 * max(until - begin, 3) > 3 * (top - base):
        return None
    off = np.zeros(len(first), bool)
    off[some] = (low < begin) | (high > until)
    return off


@dataclass(frozen=True)
class Lists:
    """N exact numbers as lists in one array: from ``offsets[i]`` on stands the index of number i's first limb (0 for zero), then its
    digits in their canonical form (:func:`transforms.exact.canonical`), neither end of which is zero."""

    offsets: Int
    flat: Int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def reach(self, at: slice | Int) -> tuple[Int, Int]:
        """See :class:`Numbers`."""
        start, end = self.offsets[:-1][at], self.offsets[1:][at]
        first = self.flat[start]
        return first, first + (end - start - 1)

    def dense(self, at: slice | Int) -> Limbs:
        """See :class:`Numbers`."""
        first, end = self.reach(at)
        some = end > first
        if not some.any():
            return Limbs(0, np.zeros((len(first), 1), np.int64))
        base = int(first[some].min())
        n, width = len(first), int(end[some].max()) - base
        digits = np.zeros(n * width, np.int64)
        length, source = end - first, self.offsets[:-1][at] + 1
        place = (first - base) * n + np.arange(n)
        for step in range(int(length.max())):
            if step or not some.all():
                here = np.flatnonzero(length > step)
                digits[place[here] + step * n] = self.flat[source[here] + step]
            else:
                digits[place] = self.flat[source]
        return Limbs(base, digits.reshape(width, n).T)

    def fold(self, lo: Int, hi: Int) -> Lists:
        """Number r of the result is the exact sum of the numbers ``lo[r]`` to ``hi[r]`` (exclusive), 0 where empty."""
        return _fold(self, lo, hi)

    @staticmethod
    def of(x: Limbs) -> Lists:
        """The numbers of a matrix."""
        limbs = canonical(x)
        n, width = limbs.digits.shape
        columns = np.ascontiguousarray(limbs.digits.T)
        used = columns != 0
        start, end = np.full(n, width), np.zeros(n, np.int64)
        for k in range(width):
            end[used[k]] = k + 1
            start[used[width - 1 - k]] = width - 1 - k
        empty = end == 0
        start[empty] = 0
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(end - start + 1, out=offsets[1:])
        rows, kept = np.empty((n, width + 1), np.int64), np.ones((n, width + 1), bool)
        rows[:, 0] = np.where(empty, 0, limbs.base + start)
        for k in range(width):
            rows[:, k + 1] = columns[k]
            np.logical_and(start <= k, k < end, out=kept[:, k + 1])
        flat = rows.reshape(-1)
        return Lists(offsets, flat if kept.all() else flat.take(np.flatnonzero(kept)))

    @staticmethod
    def joined(parts: list[Lists]) -> Lists:
        """The numbers of all parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([0, *(len(p.flat) for p in parts)])
        offsets = [p.offsets[:-1] + end for p, end in zip(parts, ends[:-1], strict=True)]
        return Lists(np.concatenate([*offsets, ends[-1:]]), np.concatenate([p.flat for p in parts] or [ends[:0]]))


@dataclass(frozen=True)
class Values:
    """N float64 or int64 values, finite, or their squares: what is folded first."""

    values: npt.NDArray[Any]
    squares: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def reach(self, at: slice | Int) -> tuple[Int, Int]:
        """See :class:`Numbers`; generously."""
        values = self.values[at]
        if values.dtype == np.int64:
            first = np.full(len(values), -ORIGIN // 32)
            return (2 * first, 2 * first + 4) if self.squares else (first, first + 2)
        exponent = ((values.view(np.int64) >> 52) & 0x7FF) - 1022  # as frexp has it
        low, high, origin = (2 * (exponent - 53), 2 * exponent, SQUARE_ORIGIN) if self.squares else (exponent - 53, exponent, ORIGIN)
        first = (low - origin) >> 5
        return first, np.where(values == 0, first, ((high - 1 - origin) >> 5) + 1)

    def dense(self, at: slice | Int) -> Limbs:
        """See :class:`Numbers`."""
        values = self.values[at]
        if values.dtype != np.int64:
            size = np.abs(values)
            largest, least = size.max(initial=0.0), size.min(initial=MODERATE, where=size > 0)
            if largest < 2.0**31 and (values == np.rint(values)).all():
                values = values.astype(np.int64)
            elif largest < MODERATE and least > 1 / MODERATE:
                return _split(values, int(np.frexp(least)[1]), int(np.frexp(largest)[1]), self.squares)
        if values.dtype == np.int64 and values.min(initial=0) > -(2**31) and values.max(initial=0) < 2**31:
            if not self.squares:
                return Limbs(-ORIGIN // 32, values[:, None])
            square = values * values
            return Limbs(-SQUARE_ORIGIN // 32, np.stack([square & 0xFFFFFFFF, square >> 32]).T)
        return from_squares(values) if self.squares else from_values(values)

    def fold(self, lo: Int, hi: Int) -> Lists:
        """As :meth:`Lists.fold`."""
        return _fold(self, lo, hi)


def _split(values: npt.NDArray[np.float64], least: int, largest: int, squares: bool) -> Limbs:
    """Moderate floats with ``2^(least - 1) <= |v| < 2^largest`` (or 0), or their squares, as a matrix.

    Every step is exact: scaling by powers of two, cutting off a whole part, and the error of a product (Dekker 1971).
    """
    origin = SQUARE_ORIGIN if squares else ORIGIN
    # Each part with bounds of its size and of its last bit: |part| < 2^size, and all are multiples of 2^last.
    parts = [(values, largest, least - 53)]
    if squares:
        high = values * 134217729.0
        high = high - (high - values)
        low = values - high
        product = values * values
        missed: npt.NDArray[np.float64] = low * low - ((product - high * high) - 2.0 * (high * low))
        parts = [(product, 2 * largest, 2 * least - 54), (missed, 2 * largest - 53, 2 * least - 106)]
    base, top = (parts[-1][2] - origin) >> 5, (parts[0][1] - 1 - origin) >> 5
    digits = np.zeros((top - base + 1, len(values)), np.int64)
    for part, size, last in parts:
        first, end = (size - 1 - origin) >> 5, (last - origin) >> 5
        rest = part * 2.0 ** -(32 * first + origin)
        whole = np.empty_like(rest)
        for k in range(first - base, end - base, -1):
            np.trunc(rest, out=whole)
            digits[k] += whole.astype(np.int64)
            rest -= whole
            rest *= 2.0**32
        digits[end - base] += rest.astype(np.int64)
    used = np.flatnonzero(digits.any(axis=1))
    if not len(used):
        return Limbs(0, np.zeros((len(values), 1), np.int64))
    return Limbs(base + int(used[0]), digits[used[0] : used[-1] + 1].T)


def _chunks(lo: Int, hi: Int) -> Iterator[tuple[int, int]]:
    """(first, one after the last) of runs of ranges that cover about :data:`CHUNK` numbers each; all, where ranges go back."""
    if len(lo) < 2 or hi.max() - lo.min() <= CHUNK or (lo[1:] < lo[:-1]).any() or (hi[1:] < hi[:-1]).any():
        yield 0, len(lo)
        return
    at = 0
    while at < len(lo):
        until = max(int(np.searchsorted(hi, lo[at] + CHUNK, side="right")), at + 1)
        yield at, until
        at = until


def _fold(x: Numbers, lo: Int, hi: Int) -> Lists:
    return Lists.joined([_fold_chunk(x, lo[a:b], hi[a:b]) for a, b in _chunks(lo, hi)])


def _fold_chunk(x: Numbers, lo: Int, hi: Int) -> Lists:
    start, end = int(lo.min(initial=len(x))), int(hi.max(initial=0))
    if end <= start:
        return Lists(np.arange(len(lo) + 1, dtype=np.int64), np.zeros(len(lo), np.int64))
    here = slice(start, end)
    lo, hi = lo - start, hi - start
    off = bulk_of(*x.reach(here))
    if off is None:
        return Lists.of(_sums(x.dense(here), lo, hi))
    before = np.append(0, np.cumsum(off))
    with_off = before[hi] > before[lo]
    both = []
    for chosen in (~with_off, with_off):
        length = (hi - lo)[chosen]
        ends = np.cumsum(length)
        at = np.repeat(lo[chosen] - (ends - length), length) + np.arange(int(length.sum()))
        both.append(Lists.of(_sums(x.dense(at + start), ends - length, ends)) if chosen.any() else None)
    return _interleaved(both[0], both[1], with_off)


def _sums(x: Limbs, lo: Int, hi: Int) -> Limbs:
    if len(lo) == len(x.digits) and (lo == np.arange(len(lo))).all() and (hi == lo + 1).all():
        return x
    # Prefix sums, one limb after the other; canonical forms carry.
    out = np.empty((x.digits.shape[1], len(lo)), np.int64)
    prefix = np.zeros(len(x.digits) + 1, np.int64)
    for k in range(len(out)):
        np.cumsum(x.digits[:, k], out=prefix[1:])
        np.subtract(prefix.take(hi), prefix.take(lo), out=out[k])
    return Limbs(x.base, out.T)


def _interleaved(a: Lists | None, b: Lists | None, from_b: Bool) -> Lists:
    """Number i is the next one of ``b`` where ``from_b[i]``, of ``a`` elsewhere."""
    if a is None or b is None:
        whole = a if b is None else b
        assert whole is not None
        return whole
    order = np.empty(len(from_b), np.int64)
    order[~from_b], order[from_b] = np.arange(len(a)), len(a) + np.arange(len(b))
    both = Lists.joined([a, b])
    length = np.diff(both.offsets)[order]
    offsets = np.append(0, np.cumsum(length))
    at = np.repeat(both.offsets[:-1][order] - offsets[:-1], length) + np.arange(offsets[-1])
    return Lists(offsets, both.flat[at])
