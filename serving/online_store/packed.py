"""A row as one string of bytes beside Feast's fields: what a server reads, without a field and an object per value.

It stands inside a value that every writer of the row writes anew (in Redis the row's time stamp), as a protobuf field that Feast does not
know: stock Feast reads past it, and any other writer, stock Feast's or that of an older Tandem, takes it away with the value that it
replaces. So what is there was written by the same step as the fields beside it, and is never older than they are.

Bytes of one row: a tag and the length behind it in three bytes (a protobuf field, the length not in its shortest form so that all that
follows has a fixed place); eight bytes that name format, features and types; the event time (int64, us); then by name the fixed-width
features, the ends of the others, a bit for each that is null; behind that the others' bytes, by name. A reader whose features or types
are others does not know the eight bytes, and reads Feast's fields.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView

from serving.feast_types import arrow_type
from serving.online_store.decoding import decode_values
from serving.online_store.encoding import as_array, binary, join

__all__ = ["TAG", "Layout", "PackedRows", "Slot", "all_of", "layout_of", "pack_columns", "pack_values", "packed_time"]

TAG = b"\xe2\x5d"
"""Field 1500 of a message, as bytes: none that Feast's messages have."""
_HEAD = 13
_TIME = struct.Struct("<q").unpack_from
_MOST_BYTES = 1 << 21
_SECOND = 1_000_000
_FEW = 24
"""Up to so many rows Python's struct is faster than numpy's calls."""
Codes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_FIXED: dict[pa.DataType | None, tuple[str, str, str]] = {  # by type: for numpy, for struct, the field of a ValueProto
    pa.float64(): ("<f8", "d", "double_val"),
    pa.int64(): ("<i8", "q", "int64_val"),
    pa.timestamp("us", tz="UTC"): ("<i8", "q", "unix_timestamp_val"),
    pa.float32(): ("<f4", "f", "float_val"),
    pa.int32(): ("<i4", "i", "int32_val"),
    pa.bool_(): ("?", "?", "bool_val"),
}


def packed_time(cell: bytes) -> int:
    """The event time (us) of a packed row."""
    return int(_TIME(cell, _HEAD)[0])


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a feature stands: among the fixed-width ones or the others, and its bit among those that are null."""

    kind: pa.DataType | None
    fixed: bool
    number: int
    byte: int
    bit: int
    text: bool
    plain: bool
    """Whether the values stand there as they are; else as Feast's fields hold them."""
    message: str
    """The field of a ValueProto that holds a plain one."""


class Layout:
    """Where the features of a view stand in its packed rows. Immutable; safe from many threads."""

    def __init__(self, kinds: tuple[tuple[str, pa.DataType | None], ...]) -> None:
        self.names = tuple(sorted(name for name, _ in kinds))
        by_name = dict(kinds)
        self.fixed = [name for name in self.names if by_name[name] in _FIXED]
        self.others = [name for name in self.names if by_name[name] not in _FIXED]
        self.place = {name: i for i, name in enumerate(self.names)}
        self.slots = {name: self._slot(name, by_name[name]) for name in self.names}
        text = "\0".join(f"{name}\0{by_name[name]}" for name in self.names)
        self.schema = hashlib.blake2b(f"tandem packed row 1\0{text}".encode(), digest_size=8).digest()
        self.null_bytes = max(1, -(-len(self.names) // 8))
        codes = [_FIXED[by_name[name]] for name in self.fixed]
        self.type = np.dtype(
            [
                ("tag", "V2"),
                ("size", "u1", (3,)),
                ("schema", "V8"),
                ("at", "<i8"),
                *((f"f{i}", code[0]) for i, code in enumerate(codes)),
                *((f"e{i}", "<u4") for i in range(len(self.others))),
                ("nulls", "u1", (self.null_bytes,)),
            ]
        )
        self.size = self.type.itemsize
        self.struct = struct.Struct(f"<5x8sq{''.join(code[1] for code in codes)}{len(self.others)}I{self.null_bytes}s")
        made = np.zeros(1, self.type)
        made["schema"], made["nulls"] = np.void(self.schema), 255
        self.nothing = made.tobytes()
        """In the place of a row that is not there: all features null."""

    def _slot(self, name: str, kind: pa.DataType | None) -> Slot:
        fixed = kind in _FIXED
        number = (self.fixed if fixed else self.others).index(name)
        text, raw = _is_text(kind), kind == pa.binary()
        message = _FIXED[kind][2] if fixed else "string_val" if text else "bytes_val"
        return Slot(kind, fixed, number, *divmod(self.place[name], 8), text, fixed or text or raw, message)

    def pack(self, event_us: Ints, columns: Sequence[tuple[str, Any]]) -> pa.Array | None:
        """N packed rows, as a binary array; None where a feature's column is of another type than the feature, or a row is too large.

        ``columns``: Arrow columns by feature, of the view's types; of those that are neither fixed-width nor texts or bytes the stored
        values (binary). A feature without one is null.
        """
        n, given = len(event_us), dict(columns)
        made, nulls = np.zeros(n, self.type), np.zeros((n, 8 * self.null_bytes), np.bool_)
        made["tag"], made["schema"], made["at"] = np.void(TAG), np.void(self.schema), event_us
        for i, name in enumerate(self.fixed):
            if name not in given:
                nulls[:, self.place[name]] = True
                continue
            column = _fixed_column(given[name], self.slots[name].kind)
            if column is None:
                return None
            values, absent = column
            made[f"f{i}"] = values
            if absent is not None:
                nulls[:, self.place[name]] = absent
        ends, parts = np.zeros(n, np.int64), []
        for i, name in enumerate(self.others):
            if name not in given:
                nulls[:, self.place[name]] = True
            else:
                column = _bytes_column(given[name], self.slots[name].kind)
                if column is None:
                    return None
                if column.null_count:
                    nulls[:, self.place[name]] = column.is_null().to_numpy(zero_copy_only=False)
                    column = column.fill_null(b"")
                ends += pc.binary_length(column).to_numpy()
                parts.append(column)
            made[f"e{i}"] = ends
        if n and int(ends.max()) + self.size >= _MOST_BYTES:
            return None
        sizes = ends + (self.size - 5)
        for k, more in enumerate((128, 128, 0)):
            made["size"][:, k] = (sizes >> 7 * k & 127) | more
        if nulls.any():
            made["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
        fixed = binary(made.view(np.uint8), np.full(n, self.size))
        return join(fixed, *parts) if parts else fixed

    def read(self, cells: Sequence[bytes | None], names: Sequence[str]) -> PackedRows | None:
        """The rows in N values that hold them, None for one that is not there; None if any holds no row of this layout, or ``names``
        has a feature that is none."""
        if not self.place.keys() >= set(names):
            return None
        size, n, found = self.size, len(cells), None
        if None in cells:
            found = np.array([cell is not None for cell in cells], np.bool_)
        whole: list[bytes] = [self.nothing if cell is None else cell for cell in cells]
        data = b"".join([cell[:size] for cell in whole])
        if len(data) != n * size:
            return None
        if n <= _FEW:
            columns = list(zip(*self.struct.iter_unpack(data)))
            if n and columns[0].count(self.schema) != n:
                return None
            return PackedRows(self, whole, found, columns=columns)
        array = np.frombuffer(data, self.type)
        if (array["schema"] != np.void(self.schema)).any():
            return None
        return PackedRows(self, whole, found, array=array)


class PackedRows:
    """N rows that were read: each feature as a column when it is asked for."""

    def __init__(
        self,
        layout: Layout,
        cells: Sequence[bytes],
        found: Bools | None,
        columns: list[tuple[Any, ...]] | None = None,
        array: npt.NDArray[Any] | None = None,
    ) -> None:
        self.layout, self._cells, self._columns, self._array = layout, cells, columns, array
        n = len(cells)
        self.all_found = found is None
        self.found: Bools = all_of(n) if found is None else found
        if array is not None:
            self.event_us: Ints = np.ascontiguousarray(array["at"])
            self._any: bytes = np.bitwise_or.reduce(array["nulls"], axis=0).tobytes()
            self.oldest_us = int(self.event_us.min())
        elif columns:
            self.event_us, self.oldest_us = np.array(columns[1], np.int64), min(columns[1])
            every = 0
            for bits in set(columns[-1]):
                every |= int.from_bytes(bits, "little")
            self._any = every.to_bytes(layout.null_bytes, "little")
        else:
            self.event_us, self._any, self.oldest_us = np.zeros(0, np.int64), bytes(layout.null_bytes), 0

    @staticmethod
    def together(parts: Sequence[PackedRows]) -> PackedRows:
        """The rows of several reads with one layout, one behind the other."""
        layout = parts[0].layout
        made = layout.read([cell for part in parts for cell in part._cells], ())
        assert made is not None
        made.found = np.concatenate([part.found for part in parts])
        made.all_found = all(part.all_found for part in parts)
        return made

    def nulls(self, slot: Slot) -> Bools | None:
        """Which of a feature's N values are null; None: not one."""
        if not self._any[slot.byte] >> slot.bit & 1:
            return None
        if self._array is not None:
            return (self._array["nulls"][:, slot.byte] >> np.uint8(slot.bit) & np.uint8(1)).astype(np.bool_)
        assert self._columns is not None
        return np.array([bits[slot.byte] >> slot.bit & 1 for bits in self._columns[-1]], np.bool_)

    def values(self, slot: Slot) -> Any:
        """A feature's N values, whatever stands where they are null: a numpy array that may be changed, or of few rows a list; of texts and
        bytes a list of them, of types that are neither the values as they are stored. A timestamp's are microseconds."""
        if slot.fixed:
            if self._array is not None:
                return np.ascontiguousarray(self._array[f"f{slot.number}"])
            return list(self._columns[2 + slot.number]) if self._columns else []
        parts = self._parts(slot.number)
        if not slot.text:
            return parts
        if len(parts) == 1:
            return [parts[0].decode()]
        known = {part: part.decode() for part in set(parts)}
        return list(map(known.__getitem__, parts))

    def _parts(self, number: int) -> list[bytes]:
        size = self.layout.size
        ends = self._ends(number)
        if not number:
            return [cell[size:end] for cell, end in zip(self._cells, ends)]
        return [cell[start:end] for cell, start, end in zip(self._cells, self._ends(number - 1), ends)]

    def _ends(self, number: int) -> list[int]:
        size = self.layout.size
        if self._array is not None:
            return (self._array[f"e{number}"].astype(np.int64) + size).tolist()  # type: ignore[no-any-return]
        return [end + size for end in self._columns[2 + len(self.layout.fixed) + number]] if self._columns else []


@lru_cache(maxsize=64)
def all_of(n: int) -> Bools:
    """N times true; not to be written to."""
    made = np.ones(n, np.bool_)
    made.flags.writeable = False
    return made


def layout_of(table: FeatureView) -> Layout:
    """The layout of a view's rows."""
    return _layout(tuple((f.name, arrow_type(f.dtype)) for f in table.features))


@lru_cache(maxsize=1024)
def _layout(kinds: tuple[tuple[str, pa.DataType | None], ...]) -> Layout:
    return Layout(kinds)


def pack_columns(table: FeatureView, event_us: Ints, columns: Mapping[str, Any], stored: Sequence[pa.Array]) -> pa.Array | None:
    """As :meth:`Layout.pack`, of the Arrow ``columns`` that there are of a view's features; ``stored``: per feature the stored values."""
    layout, given = layout_of(table), []
    for feature, cells in zip(table.features, stored):
        column = columns.get(feature.name)
        if column is None:
            continue
        slot = layout.slots[feature.name]
        if not slot.plain:
            column = cells if not column.null_count else pc.if_else(as_array(column).is_valid(), cells, pa.scalar(None, pa.binary()))
        given.append((feature.name, column))
    return layout.pack(event_us, given)


def pack_values(table: FeatureView, event_us: Ints, stored: Sequence[pa.Array]) -> pa.Array | None:
    """As :meth:`Layout.pack`, of the stored values of each of a view's features; None where one has another shape than its column's."""
    layout, given = layout_of(table), []
    for feature, column in zip(table.features, stored):
        cells = column.to_pylist()
        if not layout.slots[feature.name].plain:
            given.append((feature.name, pa.array([c or None for c in cells], pa.binary())))
            continue
        kind = layout.slots[feature.name].kind
        values = decode_values(cells, kind)
        if values is None:
            return None
        given.append((feature.name, pa.array(values, kind)))
    return layout.pack(event_us, given)


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and pa.types.is_string(kind)


def _fixed_column(column: Any, kind: pa.DataType | None) -> tuple[npt.NDArray[Any], Bools | None] | None:
    """(the values, which are null) as Feast's fields hold them; None of another type."""
    column = as_array(column)
    if kind is not None and pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type):
        us = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())  # whole seconds, rounded down, are what Feast's type holds
        column = pa.array(us.fill_null(0).to_numpy() // _SECOND * _SECOND, mask=us.is_null().to_numpy(zero_copy_only=False))
    elif column.type != kind:
        return None
    if not column.null_count:
        return column.to_numpy(zero_copy_only=False), None
    absent = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(column.type):  # Arrow gives NaN for null, which JSON writes as null
        return column.to_numpy(zero_copy_only=False), absent
    return column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy(zero_copy_only=False), absent


def _bytes_column(column: Any, kind: pa.DataType | None) -> pa.Array | None:
    column = as_array(column)
    if _is_text(kind):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return None
        column = column.cast(pa.string())
    return column.cast(pa.binary()) if pa.types.is_string(column.type) or column.type == pa.binary() else None
