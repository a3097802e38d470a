"""How many events there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from transforms.functions.aggregate import Aggregate, Events, Output, Param, State, StateSpec
from transforms.functions.arrays import Int, offsets_of

__all__ = ["Count", "Counts"]


@dataclass(frozen=True)
class Counts(State):
    """The number of values: int64, shape [N]."""

    n: Int
    kind: ClassVar[str] = "count"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Param) -> pa.DataType:
        """int64."""
        return pa.int64()

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Self:
        """1 for each value that is not null."""
        return cls(events.values.is_valid().to_numpy(zero_copy_only=False).astype(np.int64))

    @classmethod
    def from_arrow(cls, array: pa.Array, param: Param = 0) -> Self:
        """The inverse of :meth:`to_arrow`."""
        return cls(array.to_numpy(zero_copy_only=False))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Self:
        """Add."""
        return type(self)(self._before.take(hi) - self._before.take(lo))

    @cached_property
    def _before(self) -> Int:
        return offsets_of(self.n)

    def to_arrow(self) -> pa.Array:
        """int64."""
        return pa.array(self.n)


@dataclass(frozen=True)
class Count(Aggregate):
    """The number of events (int64, never null). ``Count(over=hours(1))``."""

    kind: ClassVar[str] = "count"
    reads_boundary: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()
    keeps_unit: ClassVar[bool] = False

    def output(self, dtype: str | None) -> Output:
        return Output("int64", nullable=False)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Counts),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].to_arrow()
