"""An aggregate of somebody else's: ``Share("declined", over=hours(1))``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tandem.transforms.functions import Aggregate, Counts, Events, Output, StateSpec
from tandem.transforms.functions.aggregate import Param

__all__ = ["Share", "TrueCounts"]


@dataclass(frozen=True)
class TrueCounts(Counts):
    """How many values are true."""

    kind: ClassVar[str] = "outside_true"

    @classmethod
    def add_input(cls, events: Events, param: Param) -> Self:
        """1 for each value that is true."""
        return cls(pc.fill_null(events.values, False).to_numpy(zero_copy_only=False).astype(np.int64))


@dataclass(frozen=True)
class Share(Aggregate):
    """The share of true values among those that are not null, times ``scale`` (float64); null over none."""

    scale: float = 1.0
    kind: ClassVar[str] = "outside_share"
    takes: ClassVar[tuple[str, ...]] = ("bool",)
    keeps_unit: ClassVar[bool] = False

    def output(self, dtype: str | None) -> Output:
        return Output("float64")

    def states(self) -> tuple[StateSpec, ...]:
        return self.state(Counts), self.state(TrueCounts)

    def extract_output(self, parts: Sequence[Any], boundary: Any) -> pa.Array:
        count, true = parts
        return pa.array(true.n / np.maximum(count.n, 1) * self.scale, mask=count.n == 0)
