"""Packed rows that were read: columns of their features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.online_store.lazily import lazily
from serving.online_store.packed import HEAD, Layout, Slot

__all__ = ["PackedRows", "all_of"]

_FEW = 24
"""Up to so many rows Python's struct is faster than numpy's calls."""
_STEP = 32
"""Bytes that widths differ by, so that those of most reads are equal."""
_MOST_TEXT = 2**31 - 1
"""Bytes behind an Arrow array of texts."""
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class PackedRows:
    """N rows that were read: each feature as a column when it is asked for."""

    def __init__(
        self, layout: Layout, n: int, found: list[bool] | None, cells: Sequence[bytes] = (), data: bytes = b"", width: int = 0
    ) -> None:
        """``found``: which are rows at all, None: all. Of a few rows ``cells``: each by itself. Of more ``data``: ``width`` bytes of each
        one behind the other; where these are not all of a row (:func:`_level`), ``cells`` as well."""
        self.layout, self.all_found = layout, found is None
        self._n, self._cells, self._found, self._data = n, cells, found, data
        self._array: npt.NDArray[Any] | None = np.frombuffer(data, layout.padded(width)) if width else None
        self._width = width

    @staticmethod
    def read(layout: Layout, cells: Sequence[bytes | None], names: tuple[str, ...] = ()) -> PackedRows | None:
        """The rows in N values that hold them, None for one that is not there; None if any holds no row of this layout, or ``names``
        has a feature that is none."""
        if names and not layout.covers(names):
            return None
        size, schema, found = layout.size, layout.schema, None
        whole: Sequence[bytes] = cells  # type: ignore[assignment]
        if None in cells:
            found = [cell is not None for cell in cells]
            whole = [layout.nothing if cell is None else cell for cell in cells]
        if len(whole) <= _FEW:
            for cell in whole:
                if cell[5:HEAD] != schema or len(cell) < size:
                    return None
            return PackedRows(layout, len(whole), found, whole)
        lengths = set(map(len, whole))
        if min(lengths) < size:
            return None
        data, width = _level(whole, lengths, size)
        made = PackedRows(layout, len(whole), found, whole if width < max(lengths) else (), data, width)
        assert made._array is not None
        return None if (made._array["schema"] != np.void(schema)).any() else made

    def __len__(self) -> int:
        return self._n

    @property
    def few(self) -> bool:
        """Whether these are so few that values come as Python's."""
        return self._array is None

    @property
    def _whole_in_data(self) -> bool:
        return self._array is not None and not self._cells

    @property
    def size(self) -> int:
        """About how many bytes they take."""
        return len(self._data) if self._whole_in_data else sum(map(len, self._cells))

    @lazily
    def found(self) -> Bools:
        """Which are rows at all."""
        return all_of(self._n) if self._found is None else np.array(self._found, np.bool_)

    @lazily
    def fields(self) -> list[tuple[Any, ...]]:
        """Of few rows, and of at least one: schemas, times, fixed-width features, ends, bits of nulls."""
        return list(zip(*map(self.layout.struct.unpack_from, self._cells)))

    @lazily
    def event_us(self) -> Ints:
        """Event times (us); 0 where there is no row."""
        if self._array is not None:
            return np.ascontiguousarray(self._array["at"])
        return np.array(self.fields[1] if self._cells else (), np.int64)

    @property
    def times(self) -> Sequence[int]:
        """The same of few rows, as Python's numbers."""
        return self.fields[1] if self._cells else ()

    @property
    def oldest_us(self) -> int:
        """The least event time (us)."""
        if self._array is not None:
            return int(self.event_us.min())
        return min(self.fields[1]) if self._cells else 0

    @lazily
    def _bits(self) -> list[int]:
        """Of few rows: by row the bits of the features that are null."""
        return [int.from_bytes(bits, "little") for bits in self.fields[-1]] if self._cells else []

    @property
    def array(self) -> npt.NDArray[Any]:
        """Of more than a few rows: what stands at fixed places, as :attr:`Layout.type` names it."""
        assert self._array is not None
        return self._array

    @lazily
    def any_null(self) -> int:
        """The bits of the features that are null in any row."""
        if self._array is not None:
            return int.from_bytes(np.bitwise_or.reduce(self._null_bytes, axis=1).tobytes(), "little")
        every = 0
        for bits in self._bits:
            every |= bits
        return every

    @staticmethod
    def together(parts: Sequence[PackedRows]) -> PackedRows:
        """The rows of several reads with one layout, one behind the other."""
        layout, n = parts[0].layout, sum(map(len, parts))
        found = None if all(part.all_found for part in parts) else [there for part in parts for there in part.found.tolist()]
        if all(part._whole_in_data for part in parts):
            width = max(part._width for part in parts)
            return PackedRows(layout, n, found, (), b"".join([part._wide(width) for part in parts]), width)
        made = PackedRows.read(layout, [cell for part in parts for cell in part._each])
        assert made is not None
        made.all_found, made._found = found is None, found
        return made

    def _wide(self, width: int) -> bytes:
        """``data`` with room for ``width`` bytes in each row."""
        if width == self._width:
            return self._data
        level = np.zeros((self._n, width), np.uint8)
        level[:, : self._width] = np.frombuffer(self._data, np.uint8).reshape(-1, self._width)
        return level.tobytes()

    @property
    def _each(self) -> Sequence[bytes]:
        """The rows one by one."""
        if not self._whole_in_data:
            return self._cells
        return [self._data[start : start + self._width] for start in range(0, len(self._data), self._width)]

    def nulls(self, slot: Slot) -> Bools | None:
        """Which of a feature's N values are null, not to be written to; None: not one."""
        if not self.any_null >> slot.place & 1:
            return None
        if self._array is not None:
            own: Bools = (self._null_bytes[slot.place >> 3] & np.uint8(1 << (slot.place & 7))) != 0
            return own
        return np.array(self.null_list(slot), np.bool_)

    @lazily
    def _null_bytes(self) -> npt.NDArray[np.uint8]:
        """Of more than a few rows: the bits of what is null; shape [bytes, N]."""
        return np.ascontiguousarray(self.array["nulls"].T)

    def null_list(self, slot: Slot) -> list[int] | None:
        """The same of few rows, as numbers."""
        place = slot.place
        return [bits >> place & 1 for bits in self._bits] if self.any_null >> place & 1 else None

    def values(self, slot: Slot) -> Any:
        """A feature's N values, whatever stands where they are null: a numpy array that may be changed, or of few a tuple; of texts and
        bytes a list of them, of types that are neither the values as they are stored. A timestamp's are microseconds."""
        if slot.fixed:
            if self._array is not None:
                return np.array(self._array[f"f{slot.number}"])
            return self.fields[2 + slot.number] if self._cells else ()
        parts = self._parts(slot.number)
        if not slot.text:
            return parts
        if len(parts) == 1:
            return [parts[0].decode()]
        known = {part: part.decode() for part in set(parts)}
        return list(map(known.__getitem__, parts))

    def arrow(self, slot: Slot, live: Bools | None) -> pa.Array | None:
        """A plain feature's N values, null where they are that or ``live`` (None: all) is false, without an object per value; None of few
        rows, or more bytes than an array of texts can have."""
        if self._array is None:
            return None
        nulls = self.nulls(slot)
        there = live if nulls is None else ~nulls if live is None else live & ~nulls
        n = self._n
        if slot.fixed:
            values = np.ascontiguousarray(self._array[f"f{slot.number}"])
            parts = [v if v is None else pa.py_buffer(v) for v in (_bitmap(there), _bitmap(values) if slot.kind == pa.bool_() else values)]
            return pa.Array.from_buffers(slot.kind, n, parts)
        data, starts = self._whole
        if len(data) > _MOST_TEXT:
            return None
        # The rows are one array of texts already: the feature's, and between any two of them what is not it.
        edges = np.empty((n, 2), np.int32)
        edges[:, 0] = starts if not slot.number else starts + self._array[f"e{slot.number - 1}"]
        edges[:, 1] = starts + self._array[f"e{slot.number}"]
        both = pa.Array.from_buffers(pa.binary(), 2 * n - 1, [None, pa.py_buffer(edges), pa.py_buffer(data)])
        return both.take(pa.array(np.arange(0, 2 * n, 2), mask=None if there is None else ~there)).cast(slot.kind)

    @lazily
    def _whole(self) -> tuple[bytes, Ints]:
        """Of more than a few rows: all of them, one behind the other, and where in each the bytes of texts begin."""
        n, size = self._n, self.layout.size
        if self._whole_in_data:
            return self._data, np.arange(size, size + n * self._width, self._width)
        ends = np.cumsum(np.fromiter(map(len, self._cells), np.int64, n))
        starts = np.full(n, size, np.int64)
        starts[1:] += ends[:-1]
        return b"".join(self._cells), starts

    def _parts(self, number: int) -> list[bytes]:
        if self._whole_in_data:
            data, starts = self._whole
            begin = starts + self.array[f"e{number - 1}"] if number else starts
            return [data[start:end] for start, end in zip(begin.tolist(), (starts + self.array[f"e{number}"]).tolist())]
        size = self.layout.size
        ends = self._ends(number)
        if not number:
            return [cell[size:end] for cell, end in zip(self._cells, ends)]
        return [cell[start:end] for cell, start, end in zip(self._cells, self._ends(number - 1), ends)]

    def _ends(self, number: int) -> list[int]:
        size = self.layout.size
        if self._array is not None:
            return (self._array[f"e{number}"].astype(np.int64) + size).tolist()  # type: ignore[no-any-return]
        return [end + size for end in self.fields[2 + len(self.layout.fixed) + number]] if self._cells else []


def _level(cells: Sequence[bytes], lengths: set[int], size: int) -> tuple[bytes, int]:
    """(N rows of one width, one behind the other; that width). Their texts are left out, by a width of ``size``, where one is so much
    longer than the others that room for it in each would take more than twice their bytes."""
    longest = max(lengths)
    if len(lengths) == 1:
        return b"".join(cells), longest
    width = -(-longest // _STEP) * _STEP
    if width <= 2 * min(lengths):
        return b"".join(map(bytes.ljust, cells, repeat(width), repeat(b"\0"))), width
    return b"".join([cell[:size] for cell in cells]), size


def _bitmap(bits: Bools | None) -> npt.NDArray[np.uint8] | None:
    """Booleans as Arrow has them."""
    return None if bits is None else np.packbits(bits, bitorder="little")


@lru_cache(maxsize=64)
def all_of(n: int) -> Bools:
    """N times true; not to be written to."""
    made = np.ones(n, np.bool_)
    made.flags.writeable = False
    return made
