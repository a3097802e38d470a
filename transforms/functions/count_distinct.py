"""How many different values there are, by HyperLogLog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.functions.arrays import Int, list_of, list_parts, offsets_of, present
from transforms.functions.base import Aggregate, Events, Output, State, StateSpec
from transforms.hashing import hash64
from transforms.windows import ranges

__all__ = ["CountDistinct", "Registers"]


@dataclass(frozen=True)
class Registers(State):
    """HyperLogLog registers that are not zero: ``index << 6 | rank``, at most one per index, ascending (Flajolet et al. 2007)."""

    offsets: Int
    codes: Int
    precision: int
    kind: ClassVar[str] = "registers"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: int) -> pa.DataType:
        """list<int32>."""
        return pa.list_(pa.int32())

    @classmethod
    def add_input(cls, events: Events, param: int) -> Registers:
        """One register each, none for a null; ``param`` is the precision.

        The index is the hash's top bits, the rank 1 + the leading zeros of the rest.
        """
        values, valid = present(events.values)
        h = hash64(values)
        rest_bits = 64 - param
        rest = h & np.uint64((1 << rest_bits) - 1)
        high, low = (rest >> np.uint64(32)).astype(np.float64), (rest & np.uint64(0xFFFFFFFF)).astype(np.float64)
        bits = np.where(high > 0, 32 + np.frexp(high)[1], np.where(low > 0, np.frexp(low)[1], 0))
        codes = ((h >> np.uint64(rest_bits)).astype(np.int64) << 6) | (rest_bits - bits + 1)
        return cls(offsets_of(valid.astype(np.int64)), codes, param)

    @classmethod
    def from_arrow(cls, array: pa.Array, param: int) -> Registers:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = list_parts(array)
        return cls(offsets, flat.to_numpy(zero_copy_only=False).astype(np.int64), param)

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Registers:
        """The greatest rank of each register."""
        position, owner = ranges(self.offsets[lo], self.offsets[hi])
        keyed = (owner << 22) | self.codes[position]
        keyed.sort()
        register = keyed >> 6
        last = np.ones(len(keyed), bool)
        last[:-1] = register[1:] != register[:-1]
        keyed = keyed[last]
        return Registers(offsets_of(np.bincount(keyed >> 22, minlength=len(lo))), keyed & ((1 << 22) - 1), self.precision)

    def to_arrow(self) -> pa.Array:
        """list<int32>."""
        return list_of(self.offsets, pa.array(self.codes.astype(np.int32)))

    def windows(self, lo: Int, hi: Int) -> RegisterWindows:
        """What ``merge(lo, hi, ordered=True)`` estimates, for windows of which neither bound ever goes back.

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
class CountDistinct(Aggregate):
    """The number of distinct values (int64), estimated by HyperLogLog with 2^``precision`` registers (error ~1.04/sqrt)."""

    precision: int = 11
    kind: ClassVar[str] = "count_distinct"
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64")
    keeps_unit: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.precision, int) or not 4 <= self.precision <= 16:
            raise DefinitionError(f"aggregate CountDistinct({self.column}): precision={self.precision!r} must be from 4 to 16")
        super().__post_init__()

    def output(self, dtype: str | None) -> Output:
        return Output("int64", nullable=False)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Registers, self.precision),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return pa.array(parts[0].estimate())
