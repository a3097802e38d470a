"""The columns of an answer: Arrow for whoever computes with them, Python's values where that is what is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Columns", "size_in_bytes"]


class Columns(Mapping[str, pa.Array]):
    """Columns by name. One that came as a list or as numbers becomes an Arrow array when it is asked for: most never are."""

    def __init__(self) -> None:
        self._arrays: dict[str, pa.Array | None] = {}
        self._lists: dict[str, tuple[list[Any], pa.DataType]] = {}
        self._numbers: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None, pa.DataType]] = {}

    def set_array(self, name: str, column: pa.Array) -> None:
        """Add a column."""
        self._arrays[name] = column

    def set_list(self, name: str, values: list[Any], kind: pa.DataType) -> None:
        """Add a column of type ``kind`` by its values, which are of that type or None; a timestamp's are microseconds."""
        self._arrays[name] = None
        self._lists[name] = (values, kind)

    def set_numbers(self, name: str, values: npt.NDArray[Any], nulls: npt.NDArray[np.bool_] | None, kind: pa.DataType) -> None:
        """Add a column of type ``kind`` by its N values and which of them are null (None: not one): floats are NaN there; a timestamp's are
        microseconds."""
        self._arrays[name] = None
        self._numbers[name] = (values, nulls, kind)

    def add(self, prefix: str, columns: Mapping[str, pa.Array]) -> None:
        """Add columns, with ``prefix`` before their names, as they came."""
        if not isinstance(columns, Columns):
            self._arrays.update({prefix + name: column for name, column in columns.items()})
            return
        self._arrays.update({prefix + name: column for name, column in columns._arrays.items()})
        self._lists.update({prefix + name: column for name, column in columns._lists.items()})
        self._numbers.update({prefix + name: column for name, column in columns._numbers.items()})

    def numbers_of(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None, pa.DataType] | None:
        """(the values, which are null, the type) of a column that came as numbers."""
        return self._numbers.get(name)

    def list_of(self, name: str) -> tuple[list[Any], pa.DataType] | None:
        """(the values, the type) of a column that came as a list."""
        return self._lists.get(name)

    def __getitem__(self, name: str) -> pa.Array:
        found = self._arrays[name]
        if found is None:
            if name in self._lists:
                values, kind = self._lists[name]
                found = pa.array(values, kind)
            else:
                numbers, nulls, kind = self._numbers[name]
                found = pa.array(numbers, mask=nulls).cast(kind)
            self._arrays[name] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def size(self) -> int:
        """About how many bytes they take."""
        total: int = sum(column.nbytes for column in self._arrays.values() if column is not None)
        total += sum(values.nbytes for values, _, _ in self._numbers.values())
        for values, kind in self._lists.values():
            total += sum(map(sys.getsizeof, values)) if pa.types.is_string(kind) else 16 * len(values)
        return total


def size_in_bytes(columns: Mapping[str, pa.Array]) -> int:
    """About how many bytes some columns take."""
    return columns.size() if isinstance(columns, Columns) else sum(column.nbytes for column in columns.values())
