"""The smallest and the greatest value, and how long ago the newest event was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.functions.aggregate import Aggregate, Events, Output, Param, State, StateSpec
from transforms.functions.arrays import Bool, Int, nullable, numbers, offsets_of
from transforms.windows import Extremes

__all__ = ["Age", "Greatest", "Max", "Min", "Newest", "Smallest"]


@dataclass(frozen=True)
class Smallest(State):
    """The smallest value; null over none. Float64 or int64, shape [N]."""

    values: npt.NDArray[Any]
    valid: Bool
    kind: ClassVar[str] = "min"
    greatest: ClassVar[bool] = False

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Param) -> pa.DataType:
        """The values' own."""
        return value

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Self:
        """The value itself."""
        return cls.from_arrow(events.values)

    @classmethod
    def from_arrow(cls, array: pa.Array, param: Param = 0) -> Self:
        """The inverse of :meth:`to_arrow`."""
        return cls(*numbers(array))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Self:
        """The extreme of each range; windows of a state share what they look at."""
        extremes, seen = self._looks
        valid = hi > lo if seen is None else seen.take(hi) > seen.take(lo)
        out = extremes.of(lo, hi) if ordered else extremes.apart(lo, hi)
        np.copyto(out, 0, where=~valid)
        return type(self)(out, valid)

    @cached_property
    def _looks(self) -> tuple[Extremes, Int | None]:
        """(the extremes of any range, how many values there are before each; None where none is null)."""
        better = np.maximum if self.greatest else np.minimum
        if self.values.dtype == np.float64:
            worst: Any = -np.inf if self.greatest else np.inf
        else:
            worst = np.iinfo(np.int64).min if self.greatest else np.iinfo(np.int64).max
        if self.valid.all():
            return Extremes(self.values, worst, better), None
        return Extremes(np.where(self.valid, self.values, worst), worst, better), offsets_of(self.valid.astype(np.int64))

    def to_arrow(self) -> pa.Array:
        """The values, null where there is none."""
        return nullable(self.values, self.valid)


@dataclass(frozen=True)
class Greatest(Smallest):
    """The greatest value; null over none."""

    kind: ClassVar[str] = "max"
    greatest: ClassVar[bool] = True


@dataclass(frozen=True)
class Newest(Greatest):
    """The greatest event time."""

    kind: ClassVar[str] = "newest"


@dataclass(frozen=True)
class Min(Aggregate):
    """The smallest value, of the field's own type (-0.0 counts as 0.0); null over none."""

    kind: ClassVar[str] = "min"
    reads_boundary: ClassVar[bool] = False

    def output(self, dtype: str | None) -> Output:
        return Output(str(dtype))

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Smallest),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].to_arrow()


@dataclass(frozen=True)
class Max(Aggregate):
    """The greatest value, of the field's own type (-0.0 counts as 0.0); null over none."""

    kind: ClassVar[str] = "max"
    reads_boundary: ClassVar[bool] = False

    def output(self, dtype: str | None) -> Output:
        return Output(str(dtype))

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Greatest),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].to_arrow()


@dataclass(frozen=True)
class Age(Aggregate):
    """Seconds (float64) from the newest event in the window to the row's boundary; null over none. Takes no field."""

    kind: ClassVar[str] = "age"
    takes: ClassVar[tuple[str, ...]] = ()
    keeps_unit: ClassVar[bool] = False

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Newest),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        (newest,) = parts
        return nullable((boundary - newest.values).astype(np.float64) / 1e6, newest.valid)
