"""A column of a sample as a field could declare it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.inference.names import called

__all__ = ["ENOUGH", "NONE", "Column", "numbers"]

ENOUGH = 100
"""Records of a sample that tell what every record has: of fewer, the next may well lack it."""

NONE = np.iinfo(np.int64).min
"""In place of a moment: there is none."""


@dataclass
class Column:
    """A column of N values as a field could declare it. ``moments`` (int64 [N] of microseconds, :data:`NONE` where there is none)
    are there for times; ``left_out`` says why it is no field."""

    steps: tuple[Any, ...]
    rows: int
    nulls: int = 0
    dtype: str = ""
    parse: str = ""
    distinct: int = 0
    low: Any = None
    high: Any = None
    domain: list[Any] | None = None
    notes: list[str] = field(default_factory=list)
    moments: npt.NDArray[np.int64] | None = None
    naive: bool = False
    asked: bool = False
    """Whether who asks says that it is the event time."""
    left_out: str = ""
    name: str = ""
    unsigned: bool = False
    """Whether its type in the file holds nothing negative."""
    day_format: str = ""
    """Of a column of days that are texts or numbers: how they are written."""
    of_day: int = 0
    """Of a time of the day: how many of its units a second has (a thousand million: nanoseconds since midnight); 0: it is none."""
    of_folder: bool = False
    """Whether records have it from their file's folder (``key=value``)."""
    is_index: bool = False
    """Whether it is the position of an event's element in the list that is exploded, which stands nowhere."""
    needed: bool = False
    """Whether the definition asks that every event has it: the tie breaker, a group's key."""
    is_record_time: bool = False
    """Whether it is the timestamp that a topic's records have beside what they hold."""

    @property
    def called(self) -> str:
        """The name that it has in the data."""
        return called(self.steps)[-1]

    @property
    def required(self) -> bool:
        """Whether every record has it."""
        return self.nulls == 0

    @property
    def unique(self) -> bool:
        """Whether no two records have the same."""
        return self.nulls == 0 and self.distinct == self.rows


def numbers(column: Column, values: list[Any]) -> None:
    """Note the least and the greatest of some numbers, and how many there are."""
    array = pa.array(values)
    ends = pc.min_max(array).as_py()
    column.low, column.high = ends["min"], ends["max"]
    column.distinct = int(pc.count_distinct(array).as_py())
