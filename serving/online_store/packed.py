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

__all__ = ["HEAD", "PACKED", "TAG", "Layout", "Slot", "layout_of", "pack_columns", "pack_values"]

PACKED = "_tandem_packed"
"""In a store that keeps a line per feature: the name of the line that holds the packed row of a key among them."""
TAG = b"\xe2\x5d"
"""Field 1500 of a message, as bytes: none that Feast's messages have."""
HEAD = 13
_MOST_BYTES = 1 << 21
_SECOND = 1_000_000
_MOST_KEPT = 64
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


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a feature stands: among the fixed-width ones or the others."""

    kind: pa.DataType | None
    fixed: bool
    number: int
    place: int
    """Its bit among those that are null."""
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
        self._types: dict[int, np.dtype[Any]] = {}
        self._covered: set[tuple[str, ...]] = set()
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
        return Slot(kind, fixed, number, self.place[name], text, fixed or text or raw, message)

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

    def covers(self, names: tuple[str, ...]) -> bool:
        """Whether all names are features of it."""
        if names in self._covered:
            return True
        if not all(name in self.place for name in names):
            return False
        if len(self._covered) < _MOST_KEPT:
            self._covered.add(names)
        return True

    def padded(self, length: int) -> np.dtype[Any]:
        """The type of rows that are ``length`` bytes long with what stands behind the fixed places."""
        if (known := self._types.get(length)) is not None:
            return known
        fields: Mapping[str, Any] = self.type.fields or {}
        places = {"offsets": [f[1] for f in fields.values()], "formats": [f[0] for f in fields.values()]}
        made: np.dtype[Any] = np.dtype({"names": list(fields), **places, "itemsize": length})  # type: ignore[call-overload]
        if len(self._types) >= _MOST_KEPT:
            self._types.clear()
        self._types[length] = made
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
