"""How many different values there are: exactly while they are few, by HyperLogLog from there on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.functions.aggregate import Aggregate, Events, Output, State, StateSpec
from transforms.functions.arrays import Bool, Int, list_of, list_parts, offsets_of, present
from transforms.hashing import hash64
from transforms.windows import ranges

__all__ = ["EXACT", "CountDistinct", "Distinct"]

EXACT = 256
"""So many distinct values are counted exactly (but for two of one 64-bit hash: once in 10^14 sets of that size)."""
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Distinct(State):
    """The hashes of N elements' distinct values, ascending, each once; of an element with more than :data:`EXACT` of them their
    HyperLogLog registers instead. Which of both, and every bit of it, follows from the set of values alone: a monoid."""

    offsets: Int
    hashes: Hashes
    registers: Registers
    kind: ClassVar[str] = "distinct"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: int) -> pa.DataType:
        """struct<hashes: list<uint64>, registers: list<int32>>; at least one of both is empty."""
        return pa.struct([("hashes", pa.list_(pa.uint64())), ("registers", pa.list_(pa.int32()))])

    @classmethod
    def add_input(cls, events: Events, param: int) -> Distinct:
        """One hash each, none for a null; ``param`` is the precision."""
        values, valid = present(events.values)
        none = np.zeros(len(valid) + 1, np.int64)
        return cls(offsets_of(valid.astype(np.int64)), hash64(values), Registers(none, none[:0], param))

    @classmethod
    def from_arrow(cls, array: pa.Array, param: int) -> Distinct:
        """The inverse of :meth:`to_arrow`."""
        hashes, registers = array.flatten()
        (at, flat), (ends, codes) = list_parts(hashes), list_parts(registers)
        codes = codes.to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(at, flat.to_numpy(zero_copy_only=False).astype(np.uint64), Registers(ends, codes, param))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Distinct:
        """The union, and what it is kept as."""
        position, owner = ranges(self.offsets[lo], self.offsets[hi])
        hashes = self.hashes[position]
        order = np.lexsort((hashes, owner))
        hashes, owner = hashes[order], owner[order]
        once = np.ones(len(hashes), bool)
        once[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        hashes, owner = hashes[once], owner[once]
        count = np.bincount(owner, minlength=len(lo)).astype(np.int64)
        many = (count > EXACT) | (self.registers.offsets[hi] > self.registers.offsets[lo])
        counted = many[owner]
        own = Registers.of(hashes[counted], owner[counted], self.registers, lo, hi)
        return Distinct(offsets_of(np.where(many, 0, count)), hashes[~counted], own)

    def to_arrow(self) -> pa.Array:
        """struct<hashes: list<uint64>, registers: list<int32>>."""
        registers = list_of(self.registers.offsets, pa.array(self.registers.codes.astype(np.int32)))
        return pa.StructArray.from_arrays([list_of(self.offsets, pa.array(self.hashes)), registers], ["hashes", "registers"])

    def windows(self, lo: Int, hi: Int) -> DistinctWindows:
        """What ``merge(lo, hi, ordered=True)`` counts, for windows of which neither bound ever goes back.

        A hash counts in the windows from its element on until it leaves, or until a later element with the same one comes in.
        """
        tile = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), np.diff(self.offsets))
        order = np.lexsort((tile, self.hashes))
        later = np.full(len(tile), len(self.offsets), np.int64)
        again = self.hashes[order[1:]] == self.hashes[order[:-1]]
        later[order[:-1][again]] = tile[order[1:][again]]
        start = np.searchsorted(hi, tile, side="right")
        end = np.minimum(np.searchsorted(lo, tile, side="right"), np.searchsorted(hi, later, side="right"))
        shown = start < end
        count = _in_each(start[shown], end[shown], len(lo))
        full = offsets_of((np.diff(self.registers.offsets) > 0).astype(np.int64))
        many = (count > EXACT) | (full[hi] > full[lo])
        if many.any():
            low, high = lo[many], hi[many]
            covered = np.cumsum(np.bincount(low, minlength=len(full)) - np.bincount(high, minlength=len(full)))[:-1] > 0
            count[many] = self._registers(covered[tile], tile).windows(low, high).estimate()
        return DistinctWindows(count)

    def _registers(self, chosen: Bool, tile: Int) -> Registers:
        """The registers of all elements, also of those (``chosen`` hashes only) that keep hashes."""
        every = np.arange(len(self.offsets) - 1, dtype=np.int64)
        return Registers.of(self.hashes[chosen], tile[chosen], self.registers, every, every + 1)


@dataclass(frozen=True)
class DistinctWindows:
    """The number of distinct values in each of N windows, int64."""

    count: Int

    def estimate(self) -> Int:
        """The count itself, exact or estimated."""
        return self.count


def _in_each(start: Int, end: Int, n: int) -> Int:
    """How many of the ranges ``start[i] .. end[i] - 1`` cover each of N windows."""
    change = np.bincount(start, minlength=n + 1) - np.bincount(end, minlength=n + 1)
    out: Int = np.cumsum(change)[:n]
    return out


@dataclass(frozen=True)
class Registers:
    """HyperLogLog registers that are not zero: ``index << 6 | rank``, at most one per index, ascending (Flajolet et al. 2007)."""

    offsets: Int
    codes: Int
    precision: int

    @classmethod
    def of(cls, hashes: Hashes, owner: Int, others: Registers, lo: Int, hi: Int) -> Registers:
        """The greatest rank of each register of R elements: of M hashes, each of the element ``owner``, and of the ranges
        ``lo[r] .. hi[r] - 1`` of ``others``. The index is a hash's top bits, the rank 1 + the leading zeros of the rest."""
        rest_bits = 64 - others.precision
        rest = hashes & np.uint64((1 << rest_bits) - 1)
        high, low = (rest >> np.uint64(32)).astype(np.float64), (rest & np.uint64(0xFFFFFFFF)).astype(np.float64)
        bits = np.where(high > 0, 32 + np.frexp(high)[1], np.where(low > 0, np.frexp(low)[1], 0))
        codes = ((hashes >> np.uint64(rest_bits)).astype(np.int64) << 6) | (rest_bits - bits + 1)
        position, theirs = ranges(others.offsets[lo], others.offsets[hi])
        keyed = np.concatenate([(owner << 22) | codes, (theirs << 22) | others.codes[position]])
        keyed.sort()
        register = keyed >> 6
        last = np.ones(len(keyed), bool)
        last[:-1] = register[1:] != register[:-1]
        keyed = keyed[last]
        return cls(offsets_of(np.bincount(keyed >> 22, minlength=len(lo))), keyed & ((1 << 22) - 1), others.precision)

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

    def estimate(self) -> Int:
        """The estimated number of distinct values, int64."""

        def of_rank(k: int) -> Int:
            chosen = self.rank == k
            return _in_each(self.start[chosen], self.end[chosen], self.n)

        return _estimate(self.precision, _in_each(self.start, self.end, self.n), of_rank)


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
    """The number of distinct values (int64): exact up to 256, above estimated by HyperLogLog with 2^``precision`` registers (standard
    error 1.04/sqrt of these)."""

    precision: int = 11
    kind: ClassVar[str] = "count_distinct"
    reads_boundary: ClassVar[bool] = False
    version: ClassVar[int] = 2
    """Before 2 it estimated small numbers as well."""
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64")
    keeps_unit: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.precision, int) or not 4 <= self.precision <= 16:
            raise DefinitionError(f"aggregate CountDistinct({self.column}): precision={self.precision!r} must be from 4 to 16")
        super().__post_init__()

    def output(self, dtype: str | None) -> Output:
        return Output("int64", nullable=False)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Distinct, self.precision),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return pa.array(parts[0].estimate())
