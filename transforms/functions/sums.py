"""Sums and what follows from them: exact, so that no order of adding can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import exact
from transforms.exact_lists import Lists, Values
from transforms.exact_windows import Prefix, WindowSums, variance
from transforms.functions.aggregate import Aggregate, Events, Param, State, StateSpec
from transforms.functions.arrays import Int, list_of, list_parts, nullable, numbers
from transforms.functions.count import Counts

__all__ = ["Mean", "Squares", "Std", "Sum", "Sums", "Variance"]


@dataclass(frozen=True)
class Sums(State):
    """Exact sums of values (see :mod:`transforms.exact`)."""

    numbers: Lists | Values
    kind: ClassVar[str] = "sum"
    squares: ClassVar[bool] = False

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Param) -> pa.DataType:
        """list<int64>."""
        return pa.list_(pa.int64())

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Self:
        """Each value; 0 for a null."""
        return cls(Values(numbers(events.values)[0], cls.squares))

    @classmethod
    def from_arrow(cls, array: pa.Array, param: Param = 0) -> Self:
        """The inverse of :meth:`to_arrow`; numbers of several batches may start at different limbs."""
        offsets, flat = list_parts(array)
        return cls(Lists(offsets, flat.to_numpy(zero_copy_only=False)))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Self:
        """Add exactly."""
        return type(self)(self.numbers.fold(lo, hi))

    def to_arrow(self) -> pa.Array:
        """list<int64>: the index of the first limb, then the limbs: the one canonical form of each number (see exact.canonical)."""
        lists = self._lists
        return list_of(lists.offsets, pa.array(lists.flat))

    def windows(self, lo: Int, hi: Int) -> SumsOfWindows:
        """What ``merge(lo, hi, ordered=True)`` holds, without making it."""
        return SumsOfWindows(WindowSums(self._prefix, lo, hi))

    @property
    def limbs(self) -> exact.Limbs:
        """The numbers as a matrix."""
        return self.numbers.dense(slice(None))

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """float64 [N]: each sum, rounded once; 0 over no values."""
        return exact.to_float(self.limbs)

    @property
    def _lists(self) -> Lists:
        every = np.arange(len(self.numbers), dtype=np.int64)
        return self.numbers if isinstance(self.numbers, Lists) else self.numbers.fold(every, every + 1)

    @cached_property
    def _prefix(self) -> Prefix:
        return Prefix(self._lists, exact.SQUARE_ORIGIN if self.squares else exact.ORIGIN)


@dataclass(frozen=True)
class SumsOfWindows:
    """The sums of R windows."""

    limbs: WindowSums

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """float64 [R]: each sum, rounded once; 0 over no values."""
        return exact.to_float(self.limbs)


@dataclass(frozen=True)
class Squares(Sums):
    """Exact sums of the squares of values."""

    kind: ClassVar[str] = "squares"
    squares: ClassVar[bool] = True


def _over(n: Int, values: npt.NDArray[np.float64]) -> pa.Array:
    return nullable(values, n > 0)


@dataclass(frozen=True)
class Sum(Aggregate):
    """The exact sum, rounded once to float64; null over no values; infinite beyond the range of float64."""

    kind: ClassVar[str] = "sum"
    reads_boundary: ClassVar[bool] = False

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        count, total = parts
        return _over(count.n, total.values)


@dataclass(frozen=True)
class Mean(Aggregate):
    """The exact sum rounded to float64, divided by the number of values; null over none."""

    kind: ClassVar[str] = "mean"
    reads_boundary: ClassVar[bool] = False

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        count, total = parts
        return _over(count.n, total.values / np.maximum(count.n, 1))


@dataclass(frozen=True)
class Variance(Aggregate):
    """Population variance: ``(n * sum(x^2) - sum(x)^2)`` exactly, rounded to float64, divided by ``float64(n * n)``."""

    kind: ClassVar[str] = "variance"
    reads_boundary: ClassVar[bool] = False
    keeps_unit: ClassVar[bool] = False

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums), self.state(Squares)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return _over(parts[0].n, _variance(*parts))


@dataclass(frozen=True)
class Std(Aggregate):
    """The square root of :class:`Variance`."""

    kind: ClassVar[str] = "std"
    reads_boundary: ClassVar[bool] = False

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(Sums), self.state(Squares)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return _over(parts[0].n, np.sqrt(_variance(*parts)))


def _variance(count: Counts, total: SumsOfWindows, squares: SumsOfWindows) -> npt.NDArray[np.float64]:
    n = count.n
    return variance(n, total.limbs, squares.limbs) / np.maximum(n * n, 1).astype(np.float64)
