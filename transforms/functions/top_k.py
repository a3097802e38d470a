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
"""How many values of lists are made at once: some 100 MB."""


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
        """The ``k`` most frequent values of each window, most frequent first, of equally frequent ones the smaller first: list<value>.

        Costs what the ranges and the lists have, times a logarithm, however many values a window holds.
        """
        sizes = np.cumsum(np.bincount(self.start, minlength=self.n + 1) - np.bincount(self.end, minlength=self.n + 1))[: self.n]
        lengths = np.minimum(sizes, k)
        by_rank = np.argsort(-self.count, kind="stable")  # equal counts stay in the order of their values
        start, end, codes = self.start[by_rank], self.end[by_rank], [np.zeros(0, np.int64)]
        chunk = np.cumsum(lengths) // CHUNK
        cuts = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), self.n]
        for low, high in pairwise(cuts):
            here = np.flatnonzero((start < high) & (end > low))
            first = _first(np.maximum(start[here], low) - low, np.minimum(end[here], high) - low, high - low, k)
            codes.append(self.code[by_rank[here[first]]])
        return list_of(offsets_of(lengths), self.values.take(pa.array(np.concatenate(codes))))


def _first(start: Int, end: Int, n: int, k: int) -> Int:
    """The first ``k`` of the ranges ``start[i] .. end[i] - 1`` that cover each of the places 0 to ``n - 1``, in their order, place after
    place. A range is cut into aligned blocks of 1, 2, 4, ... places, of which there are few however long it is; of those of a block the
    first ``k`` are kept, and handed down to its halves."""
    width = max(len(start), 1)
    which, levels = np.arange(len(start), dtype=np.int64), []
    while len(which):
        head = (start & 1) == 1
        tail = (end & 1) == 1
        levels.append(_least(np.sort(np.concatenate([start[head] * width + which[head], (end[tail] - 1) * width + which[tail]])), width, k))
        start, end = (start + 1) >> 1, end >> 1
        longer = start < end
        start, end, which = start[longer], end[longer], which[longer]
    kept = np.zeros(0, np.int64)
    for level in range(len(levels) - 1, -1, -1):
        block, which = np.divmod(kept, width)
        left, right = 2 * block * width + which, (2 * block + 1) * width + which
        right = right[2 * block + 1 <= (n - 1) >> level]
        kept = _least(np.sort(np.concatenate([left, right, levels[level]]), kind="stable"), width, k)  # three runs that are sorted
    return kept % width


def _least(keys: Int, width: int, k: int) -> Int:
    """Of sorted keys ``block * width + which``, the first ``k`` of each block."""
    block = keys // width
    new = np.ones(len(keys), bool)
    new[1:] = block[1:] != block[:-1]
    begin = np.flatnonzero(new)
    place = np.arange(len(keys), dtype=np.int64) - np.repeat(begin, np.diff(np.append(begin, len(keys))))
    return keys[place < k]


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
