"""One row of Arrow as the flat arrays of a transform graph's inputs. What :class:`~transforms.graph_columns.GraphColumn` does for many rows
costs a call of Arrow or two for each column; here a value is taken out of each, and numbers of one kind become arrays together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.graph_columns import LANES, GraphColumn, every_row, nothing_of, shape_of

__all__ = ["RowReader"]

Array = npt.NDArray[Any]
ROWS = 2 * LANES
"""One row, padded as a graph's call pads it."""
_MOST_LAYOUTS = 256


def _python(value: Any) -> Any:
    return value.as_py()


def _micros(value: Any) -> Any:
    return value.value


def _bytes(value: Any) -> Any:
    return value.as_buffer().to_pybytes() if value.is_valid else None


def _value_of(kind: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_list(kind):
        of = _value_of(kind.value_type)
        return lambda value: [of(v) for v in value.values] if value.is_valid else []
    return _bytes if pa.types.is_string(kind) else _micros if pa.types.is_timestamp(kind) else _python


@lru_cache(1024)
def _places_in(length: int) -> Array:
    """The indices of one row's list, and of its padding in the rows after it."""
    pad = -length % LANES
    out = np.zeros((length + pad, 2), np.int64)
    out[:length, 1] = np.arange(length)
    out[length:, 0] = np.arange(1, pad + 1)
    return out


class _Layout(NamedTuple):
    """How rows with the same values null, and lists of the same lengths, become flat arrays."""

    fixed: list[Any]
    """The flat arrays that are the same for all of them, None for the others."""
    groups: list[tuple[Callable[[list[Any]], Any], np.dtype[Any], tuple[int, ...], list[int]]]
    """Of the values with one dtype and shape: which they are, the dtype, the shape of all, and where in the flat arrays they go."""
    lists: list[tuple[int, np.dtype[Any], int, int]]
    """Of each list that is not empty: which value it is, the dtype, its length with padding, and where in the flat arrays it goes."""


class RowReader:
    """Reads batches of one row."""

    def __init__(self, columns: Sequence[GraphColumn]) -> None:
        self._columns = [(c.name, c.kind) for c in columns]
        self._forms = [(c.sparse, c.rank == 2, c.width, nothing_of(c.kind.value_type if c.is_list else c.kind)) for c in columns]
        self._lists = [i for i, c in enumerate(columns) if c.is_list]
        self._values_of = [_value_of(c.kind) for c in columns]
        self._last: tuple[pa.Schema, list[tuple[int, Callable[[Any], Any]]]] | None = None
        self._layouts: dict[tuple[int, ...], _Layout | None] = {}
        self.fixed: list[int] = []
        """Positions, among the flat arrays, of the places and shapes of values, which follow from what is null and how long lists are."""
        position = 0
        for column in columns:
            if column.sparse:
                self.fixed += [position, position + 2]
            position += 3 if column.sparse else 1

    def read(self, batch: pa.RecordBatch) -> tuple[list[Array], tuple[int, ...]] | None:
        """(the flat arrays of a batch's one row, as :meth:`GraphColumn.arrays` makes them; which of its columns are null, as bits, and the
        lengths of its lists).

        None where a column is missing, of another type, null though the graph takes no null, or a list that it does not take: who reads
        columns says so.
        """
        places = self._places(batch.schema)
        if places is None:
            return None
        values = [value_of(batch.column(place)[0]) for place, value_of in places]
        nulls = sum(1 << i for i, value in enumerate(values) if value is None) if None in values else 0
        alike = (nulls, *(len(values[i]) for i in self._lists))
        layout = self._layouts[alike] if alike in self._layouts else self._laid_out(alike)
        if layout is None or any(None in values[i] for i in self._lists):
            return None
        flat = layout.fixed.copy()
        with np.errstate(over="ignore"):  # of float64 beyond float32
            for chosen, dtype, shape, positions in layout.groups:
                block = np.empty(shape, dtype)
                block.T[...] = chosen(values)
                for position, line in zip(positions, block, strict=True):
                    flat[position] = line
            for i, dtype, size, position in layout.lists:
                line = flat[position] = np.empty(size, dtype)
                line[: len(values[i])] = values[i]
                line[len(values[i]) :] = values[i][-1]
        return flat, alike

    def _laid_out(self, alike: tuple[int, ...]) -> _Layout | None:
        """The layout of these nulls and lengths, None where the graph does not take them."""
        nulls, *lengths = alike
        length_of = dict(zip(self._lists, lengths, strict=True))
        fixed: list[Any] = []
        groups: dict[tuple[np.dtype[Any], tuple[int, ...]], tuple[list[int], list[int]]] = {}
        lists = []
        found: _Layout | None = None
        for i, (sparse, deep, width, nothing) in enumerate(self._forms):
            null = bool(nulls >> i & 1)
            if i in length_of:
                length = length_of[i]
                if length > (width or length):
                    break
                if length:
                    lists.append((i, nothing.dtype, length + -length % LANES, len(fixed) + 1))
                fixed += [_places_in(length), None if length else nothing, shape_of(ROWS, width or max(1, length))]
                continue
            if null and not sparse:
                break
            if not null:
                shape = (LANES,) if sparse else (ROWS, 1) if deep else (ROWS,)
                which, positions = groups.setdefault((nothing.dtype, shape), ([], []))
                which.append(i)
                positions.append(len(fixed) + sparse)
            fixed += [every_row(0) if null else every_row(1), nothing if null else None, shape_of(ROWS, 1)] if sparse else [None]
        else:
            made = [(_chooser(which), dtype, (len(which), *shape), at) for (dtype, shape), (which, at) in groups.items()]
            found = _Layout(fixed, made, lists)
        if len(self._layouts) < _MOST_LAYOUTS:
            self._layouts[alike] = found
        return found

    def _places(self, schema: pa.Schema) -> list[tuple[int, Callable[[Any], Any]]] | None:
        """Where in a batch the columns are, with what takes a value out; asked anew for another schema than the last one."""
        last = self._last
        if last is not None and schema.equals(last[0]):
            return last[1]
        names = schema.names
        places = []
        for (name, kind), value_of in zip(self._columns, self._values_of, strict=True):
            if name not in names or schema.field(place := names.index(name)).type != kind:
                return None
            places.append((place, value_of))
        self._last = schema, places
        return places


def _chooser(which: list[int]) -> Callable[[list[Any]], Any]:
    return itemgetter(*which) if len(which) > 1 else lambda values: (values[which[0]],)
