"""The first and the last values, by event time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.fields import LIST_TYPES, MAX_ELEMENTS, Field
from transforms.functions.aggregate import Aggregate, Events, Output, State, StateSpec
from transforms.functions.arrays import Int, list_of, list_parts, offsets_of, order_codes, present
from transforms.windows import ranges

__all__ = ["Earliest", "First", "Last", "LastN", "Latest"]


def _any_equal(keys: tuple[Int, ...], order: Int) -> bool:
    """Whether two neighbours in this order are the same in all keys."""
    equal = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        ordered = key[order]
        equal &= ordered[1:] == ordered[:-1]
    return bool(equal.any())


@dataclass(frozen=True)
class Earliest(State):
    """The first ``n`` values by (event time, tie-breaker, value), oldest first: element i holds ``offsets[i] .. offsets[i+1]``."""

    offsets: Int
    times: Int
    ties: pa.Array
    values: pa.Array
    n: int
    kind: ClassVar[str] = "first"
    last: ClassVar[bool] = False

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: int) -> pa.DataType:
        """list<struct<time: int64, tie, value>>."""
        return pa.list_(pa.struct([("time", pa.int64()), ("tie", tie), ("value", value)]))

    @classmethod
    def add_input(cls, events: Events, param: int) -> Self:
        """One value each, none for a null; ``param`` is n."""
        values, valid = present(events.values)
        return cls(offsets_of(valid.astype(np.int64)), events.times[valid], events.ties.filter(pa.array(valid)), values, param)

    @classmethod
    def from_arrow(cls, array: pa.Array, param: int) -> Self:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = list_parts(array)
        time, tie, value = flat.flatten()
        return cls(offsets, time.to_numpy(zero_copy_only=False).astype(np.int64), tie, value, param)

    def _keep(self, lo: Int, hi: Int) -> tuple[Int, Int]:
        return (np.maximum(lo, hi - self.n), hi) if self.last else (lo, np.minimum(hi, lo + self.n))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> Self:
        """Keep the first or last n of each range."""
        start, end = self.offsets[lo], self.offsets[hi]
        if ordered:
            start, end = self._keep(start, end)
            position, _ = ranges(start, end)
            offsets = offsets_of(end - start)
        else:
            position, owner = ranges(start, end)
            keys = (order_codes(self.ties)[position], self.times[position], owner)
            order = np.lexsort(keys)
            if _any_equal(keys, order):  # only then values decide, and lists are dear to order
                order = np.lexsort((order_codes(self.values)[position], *keys))
            position = position[order]
            bounds = offsets_of(end - start)
            start, end = self._keep(bounds[:-1], bounds[1:])
            kept, _ = ranges(start, end)
            position, offsets = position[kept], offsets_of(end - start)
        take = pa.array(position)
        return type(self)(offsets, self.times[position], self.ties.take(take), self.values.take(take), self.n)

    def to_arrow(self) -> pa.Array:
        """list<struct<time: int64, tie, value>>, oldest first."""
        flat = pa.StructArray.from_arrays([pa.array(self.times, pa.int64()), self.ties, self.values], ["time", "tie", "value"])
        return list_of(self.offsets, flat)

    def single(self) -> pa.Array:
        """The one value of each element (n = 1), null over none; an empty list where values are lists."""
        has = np.diff(self.offsets) > 0
        at = pa.array(np.where(has, self.offsets[:-1], 0), mask=~has)
        found = self.values.take(at)
        return pa.ListArray.from_arrays(found.offsets, found.values) if pa.types.is_list(found.type) and not has.all() else found

    def newest_first(self) -> pa.Array:
        """list<value>, newest first; of lists their elements, one list after the other."""
        position, owner = ranges(self.offsets[:-1], self.offsets[1:])
        mirrored = self.offsets[owner] + self.offsets[owner + 1] - 1 - position
        found = self.values.take(pa.array(mirrored))
        if not pa.types.is_list(found.type):
            return list_of(self.offsets, found)
        inner, flat = list_parts(found)
        return list_of(inner[self.offsets], flat)


@dataclass(frozen=True)
class Latest(Earliest):
    """The last ``n`` values by (event time, tie-breaker, value), oldest first."""

    kind: ClassVar[str] = "last"
    last: ClassVar[bool] = True


def _one(field: Field | None) -> Output:
    """The column of one value of a field; that of a list is a list."""
    assert field is not None
    return Output(str(field.dtype)[5:-1], width=field.length or MAX_ELEMENTS) if field.dtype in LIST_TYPES else Output(str(field.dtype))


@dataclass(frozen=True)
class First(Aggregate):
    """The first value that is not null, by (event time, tie-breaker, value); of lists an empty one over none."""

    kind: ClassVar[str] = "first"
    reads_boundary: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64", "bool", *LIST_TYPES)

    def output_of(self, field: Field | None) -> Output:
        return _one(field)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Earliest, 1),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].single()


@dataclass(frozen=True)
class Last(Aggregate):
    """The last value that is not null, by (event time, tie-breaker, value); of lists an empty one over none."""

    kind: ClassVar[str] = "last"
    reads_boundary: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64", "bool", *LIST_TYPES)

    def output_of(self, field: Field | None) -> Output:
        return _one(field)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Latest, 1),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].single()


@dataclass(frozen=True)
class LastN(Aggregate):
    """The last ``n`` values that are not null, newest first, by (event time, tie-breaker, value); an empty list over none.

    Of lists, which must be of one declared ``length``, the lists one after the other in one flat list of up to ``n * length`` values.
    """

    n: int = 3
    kind: ClassVar[str] = "last_n"
    reads_boundary: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64", *LIST_TYPES)

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or not 1 <= self.n <= 1000:
            raise DefinitionError(f"aggregate LastN({self.column}): n={self.n!r} must be a whole number from 1 to 1000")
        super().__post_init__()

    def default_suffix(self) -> str:
        return f"last_{self.n}"

    def output_of(self, field: Field | None) -> Output:
        assert field is not None
        if field.dtype not in LIST_TYPES:
            return Output(str(field.dtype), width=self.n)
        if field.length is None:
            raise DefinitionError(
                f"lists of any length cannot lie one after the other and be told apart: give field {field.name!r} the length= that each"
                " of its lists has, as embeddings have; or take Last, or explode the list and take LastN of its elements"
            )
        if self.n * field.length > MAX_ELEMENTS:
            raise DefinitionError(f"{self.n} lists of {field.length} are more than {MAX_ELEMENTS} values; take a smaller n")
        return Output(str(field.dtype)[5:-1], width=self.n * field.length)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(Latest, self.n),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].newest_first()
