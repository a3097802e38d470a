"""What the type of a column says of the records in it: its own fields, and whether there may be others. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from transforms.contract import DEAD_LETTER_SCHEMA

__all__ = ["cells", "is_bytes", "is_letters", "is_text", "may_name", "names_in", "types_in"]


def names_in(kind: pa.DataType) -> Iterator[str]:
    """The names of the fields in records that cells of a type are, or hold at any depth. Those of maps are values."""
    for each in types_in(kind):
        if pa.types.is_struct(each):
            yield from (each[i].name for i in range(each.num_fields))


def types_in(kind: pa.DataType) -> Iterator[pa.DataType]:
    """A type, and those of its parts at any depth: of dictionaries' values, of lists and maps of each kind, of records, and of what an
    extension is stored as."""
    waiting = [kind]
    while waiting:
        each = waiting.pop()
        if pa.types.is_dictionary(each):
            waiting.append(each.value_type)
            continue
        if isinstance(each, pa.BaseExtensionType):
            waiting.append(each.storage_type)
            continue
        yield each
        if pa.types.is_map(each):
            waiting += [each.key_type, each.item_type]
        else:
            waiting += [each.field(i).type for i in range(each.num_fields)]


def may_name(kind: pa.DataType) -> bool:
    """Whether cells of a type may hold records of which the type does not say the names: texts, bytes and maps."""
    return any(pa.types.is_map(each) or is_text(each) or is_bytes(each) for each in types_in(kind))


def is_letters(columns: Iterable[str]) -> bool:
    """Whether a table with these columns holds dead letters."""
    return {*columns} >= {*DEAD_LETTER_SCHEMA.names}


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def cells(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Its decoded values; of a text that is no UTF-8 what can be read of it."""
    if not is_text(column.type):
        return list(column.to_pylist())
    return [None if cell is None else cell.decode("utf-8", "replace") for cell in column.cast(pa.large_binary()).to_pylist()]
