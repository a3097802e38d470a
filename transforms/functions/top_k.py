"""The most frequent values, counted exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from transforms.errors import DefinitionError
from transforms.functions.aggregate import Aggregate, Events, Output, Param, State, StateSpec
from transforms.functions.arrays import Int, list_of, list_parts, offsets_of, order_codes, present
from transforms.windows import ranges

__all__ = ["TopK", "ValueCounts", "ValueCountWindows"]

CHUNK = 2_000_000
"""How many (window, value) pairs are looked at at once: some 100 MB."""


@dataclass(frozen=True)
class ValueCounts(State):
    """How often each value occurs, ascending by value (strings by UTF-8 bytes): element i holds ``offsets[i] .. offsets[i+1]``.

    It is the whole multiset of values, so whatever depends on values alone can be read off it; it grows with the number of different ones.
    """

    offsets: Int
    values: pa.Array
    counts: Int
    kind: ClassVar[str] = "values"

    @classmethod
    def arrow_type(cls, value: pa.DataType, tie: pa.DataType, param: Param) -> pa.DataType:
        """list<struct<value, count: int64>>."""
        return pa.list_(pa.struct([("value", value), ("count", pa.int64())]))

    @classmethod
    def add_input(cls, events: Events, param: Param) -> ValueCounts:
        """One value each, none for a null."""
        values, valid = present(events.values)
        return cls(offsets_of(valid.astype(np.int64)), values, np.ones(len(values), np.int64))

    @classmethod
    def from_arrow(cls, array: pa.Array, param: Param = 0) -> ValueCounts:
        """The inverse of :meth:`to_arrow`."""
        offsets, flat = list_parts(array)
        value, count = flat.flatten()
        return cls(offsets, value, count.to_numpy(zero_copy_only=False).astype(np.int64))

    def merge(self, lo: Int, hi: Int, ordered: bool) -> ValueCounts:
        """Add counts per value."""
        position, owner = ranges(self.offsets[lo], self.offsets[hi])
        codes = order_codes(self.values)[position]
        order = np.lexsort((codes, owner))
        position, owner, codes = position[order], owner[order], codes[order]
        new = np.ones(len(position), bool)
        new[1:] = (owner[1:] != owner[:-1]) | (codes[1:] != codes[:-1])
        first = np.flatnonzero(new)
        counts = np.add.reduceat(self.counts[position], first) if len(first) else np.zeros(0, np.int64)
        return ValueCounts(offsets_of(np.bincount(owner[first], minlength=len(lo))), self.values.take(pa.array(position[first])), counts)

    def to_arrow(self) -> pa.Array:
        """list<struct<value, count: int64>>, ascending by value."""
        return list_of(self.offsets, pa.StructArray.from_arrays([self.values, pa.array(self.counts)], ["value", "count"]))

    def windows(self, lo: Int, hi: Int) -> ValueCountWindows:
        """What ``merge(lo, hi, ordered=True)`` holds, without making it.

        An entry is in a range of windows, so the count of a value changes only where such a range begins or ends.
        """
        element = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), np.diff(self.offsets))
        _, which, code = np.unique(order_codes(self.values), return_index=True, return_inverse=True)
        start, end = np.searchsorted(hi, element, side="right"), np.searchsorted(lo, element, side="right")
        at, of = np.concatenate([start, end]), np.concatenate([code, code])
        order = np.lexsort((at, of))
        at, of, change = at[order], of[order], np.concatenate([self.counts, -self.counts])[order]
        same = np.zeros(len(at), bool)
        same[:-1] = (at[1:] == at[:-1]) & (of[1:] == of[:-1])
        last = ~same  # of several changes at one place
        count = np.cumsum(change)[last]  # zero behind the last change of each value, so one sum serves all
        at, of = at[last], of[last]
        shown = np.flatnonzero(count[:-1] > 0) if len(count) else np.zeros(0, np.int64)
        return ValueCountWindows(len(lo), self.values.take(pa.array(which)), of[shown], count[shown], at[shown], at[shown + 1])


@dataclass(frozen=True)
class ValueCountWindows:
    """The value counts of N windows: value ``values[code[i]]`` occurs ``count[i]`` times in each of the windows ``start[i] .. end[i] - 1``.

    ``values`` ascend, and so does ``code``.
    """

    n: int
    values: pa.Array
    code: Int
    count: Int
    start: Int
    end: Int

    def top(self, k: int) -> pa.Array:
        """The ``k`` most frequent values of each window, most frequent first, of equally frequent ones the smaller first: list<value>."""
        sizes = np.cumsum(np.bincount(self.start, minlength=self.n + 1) - np.bincount(self.end, minlength=self.n + 1))[: self.n]
        chunk = np.cumsum(sizes) // CHUNK
        lengths, codes = np.minimum(sizes, k), []
        cuts = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), self.n]
        for low, high in pairwise(cuts):
            here = np.flatnonzero((self.start < high) & (self.end > low))
            window, which = ranges(np.maximum(self.start[here], low) - low, np.minimum(self.end[here], high) - low)
            which = here[which]
            order = np.lexsort((-self.count[which], window))  # stable: equal counts stay in the order of their values
            first = offsets_of(sizes[low:high])[:-1]
            kept, _ = ranges(first, first + lengths[low:high])
            codes.append(self.code[which[order[kept]]])
        return list_of(offsets_of(lengths), self.values.take(pa.array(np.concatenate(codes))))


@dataclass(frozen=True)
class TopK(Aggregate):
    """The ``k`` most frequent values that are not null, most frequent first, ties by value; an empty list over none.

    Counts are exact, so a window's state grows with the number of different values in it.
    """

    k: int = 3
    kind: ClassVar[str] = "top_k"
    reads_boundary: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64")

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= 1000:
            raise DefinitionError(f"aggregate TopK({self.column}): k={self.k!r} must be a whole number from 1 to 1000")
        super().__post_init__()

    def default_suffix(self) -> str:
        return f"top_{self.k}"

    def output(self, dtype: str | None) -> Output:
        return Output(str(dtype), width=self.k)

    def states(self) -> tuple[StateSpec, ...]:
        return (self.state(ValueCounts),)

    def extract_output(self, parts: Sequence[Any], boundary: Int) -> pa.Array:
        return parts[0].top(self.k)
