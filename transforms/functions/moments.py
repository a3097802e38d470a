"""Sums and what follows from them: exact, so that no order of adding can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import exact
from transforms.functions.arrays import Int, list_of, list_parts, numbers, offsets_of
from transforms.functions.base import Aggregate, Events, Param, State, StateSpec
from transforms.functions.count import Counts
from transforms.windows import ranges

__all__ = ["Mean", "Squares", "Std", "Sum", "Sums", "Variance"]


@dataclass(frozen=True)
class Sums(State):
    """Exact sums of values (see :mod:`transforms.exact`)."""

    limbs: exact.Limbs
    kind: ClassVar[str] = "sum"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Param) -> pa.DataType:
        """list<int64>."""
        return pa.list_(pa.int64())

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Self:
        """Each value; 0 for a null."""
        return cls(exact.from_values(numbers(events.values)[0]))

    @classmethod
    def from_arrow(cls, array: pa.Array, param: Param = 0) -> Self:
        """The inverse of :meth:`to_arrow`; numbers of several batches may start at different limbs."""
        offsets, flat = list_parts(array)
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

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Self:
        """Add exactly."""
        return type(self)(self.limbs.fold(lo, hi))

    def to_arrow(self) -> pa.Array:
        """list<int64>: the index of the first limb, then the limbs: the one canonical form of each number (see exact.canonical)."""
        limbs = exact.canonical(self.limbs)
        used = limbs.digits != 0
        empty = ~used.any(axis=1)
        start = np.where(empty, 0, np.argmax(used, axis=1)).astype(np.int64)
        end = np.where(empty, 0, used.shape[1] - np.argmax(used[:, ::-1], axis=1)).astype(np.int64)
        offsets = offsets_of(end - start + 1)
        flat = np.empty(int(offsets[-1]), np.int64)
        flat[offsets[:-1]] = np.where(empty, 0, limbs.base + start)
        column, owner = ranges(start, end)
        flat[offsets[owner] + 1 + column - start[owner]] = limbs.digits[owner, column]
        return list_of(offsets, pa.array(flat))


@dataclass(frozen=True)
class Squares(Sums):
    """Exact sums of the squares of values."""

    kind: ClassVar[str] = "squares"

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Self:
        """The square of each value; 0 for a null."""
        return cls(exact.from_squares(numbers(events.values)[0]))


def _over(n: Int, values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=n == 0)


@dataclass(frozen=True)
class Sum(Aggregate):
    """The exact sum, rounded once to float64; null over no values; infinite beyond the range of float64."""

    kind: ClassVar[str] = "sum"

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        count, total = parts
        return _over(count.n, exact.to_float(total.limbs))


@dataclass(frozen=True)
class Mean(Aggregate):
    """The exact sum rounded to float64, divided by the number of values; null over none."""

    kind: ClassVar[str] = "mean"

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        count, total = parts
        return _over(count.n, exact.to_float(total.limbs) / np.maximum(count.n, 1))


@dataclass(frozen=True)
class Variance(Aggregate):
    """Population variance: ``(n * sum(x^2) - sum(x)^2)`` exactly, rounded to float64, divided by ``float64(n * n)``."""

    kind: ClassVar[str] = "variance"
    keeps_unit: ClassVar[bool] = False

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums), self.state(Squares)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return _over(parts[0].n, _variance(*parts))


@dataclass(frozen=True)
class Std(Aggregate):
    """The square root of :class:`Variance`."""

    kind: ClassVar[str] = "std"

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums), self.state(Squares)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return _over(parts[0].n, np.sqrt(_variance(*parts)))


def _variance(count: Counts, total: Sums, squares: Squares) -> npt.NDArray[np.float64]:
    n = count.n
    top = exact.to_float(exact.variance_numerator(n, total.limbs, squares.limbs), exact.SQUARE_ORIGIN)
    out: npt.NDArray[np.float64] = top / np.maximum(n * n, 1).astype(np.float64)
    return out
