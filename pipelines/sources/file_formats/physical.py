"""Arrow columns of the types that writers choose among, as the few that all readers know: the same values in another form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.sources.file_formats.sizes import check_meant

__all__ = ["pickled", "plain_columns"]

PICKLED = b"arrow.py_extension_type"
RUNS_CODE = f"a column is of a pickled Python type ({PICKLED.decode()}): to read it would run code; write it without extension types"
_IS = {name: getattr(pa.types, f"is_{name}", lambda t: False) for name in (
    "string_view", "binary_view", "list_view", "large_list_view", "run_end_encoded", "map", "large_list", "fixed_size_list",
)}  # fmt: skip


def pickled(field: pa.Field) -> bool:
    """Whether a column, or what it is made of, is of a type that only unpickling tells (which pyarrow does not do unless asked)."""
    told = (field.metadata or {}).get(b"ARROW:extension:name")
    name = getattr(field.type, "extension_name", None)
    inner = [field.type[i] for i in range(field.type.num_fields)] if pa.types.is_struct(field.type) else []
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        inner = [field.type.value_field]
    return told == PICKLED or name == PICKLED.decode() or any(map(pickled, inner))


def plain_columns(table: pa.Table) -> pa.Table:
    """A table whose views, run-end encoded, dictionary and extension columns are plain ones. Raises ValueError where these are too large.

    Half-floats stay: they hold other whole numbers than floats do. Within lists they are floats.
    """
    check_meant(table)
    for i, field in enumerate(table.schema):
        target = plain_type(field.type)
        if target != field.type and not pa.types.is_float16(field.type):
            chunks = [_plain(chunk, target) for chunk in table.column(i).chunks]
            table = table.set_column(i, pa.field(field.name, target), pa.chunked_array(chunks, target))
    return table


def plain_type(t: pa.DataType) -> pa.DataType:
    """The type in which the values of ``t`` are read."""
    if isinstance(t, pa.BaseExtensionType):
        return plain_type(t.storage_type)
    if pa.types.is_dictionary(t):
        return plain_type(t.value_type)
    if pa.types.is_float16(t):
        return pa.float32()
    if _IS["string_view"](t) or _IS["binary_view"](t):
        return pa.large_string() if _IS["string_view"](t) else pa.large_binary()
    if _IS["run_end_encoded"](t):
        return plain_type(t.value_type)
    if pa.types.is_struct(t):
        return pa.struct([pa.field(t[i].name, plain_type(t[i].type), t[i].nullable) for i in range(t.num_fields)])
    if _IS["map"](t):
        return t
    if pa.types.is_list(t):
        inner = plain_type(t.value_type)
        return t if inner == t.value_type else pa.list_(inner)
    if _IS["large_list"](t) or _IS["list_view"](t) or _IS["large_list_view"](t):
        return pa.large_list(plain_type(t.value_type))
    if _IS["fixed_size_list"](t):
        return pa.list_(plain_type(t.value_type), t.list_size)
    return t


def _is_list_view(t: pa.DataType) -> bool:
    return bool(_IS["list_view"](t) or _IS["large_list_view"](t))


def _holds_views(t: pa.DataType) -> bool:
    """Whether there are views of lists in a type, at any depth."""
    return _is_list_view(t) or any(_holds_views(t.field(i).type) for i in range(t.num_fields) if hasattr(t, "field"))


def _plain(array: Any, target: pa.DataType) -> Any:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type == target:
        return array
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode(), target)
    if pa.types.is_float16(array.type):
        values = np.frombuffer(array.buffers()[1], np.float16)[array.offset : array.offset + len(array)].astype(np.float32)
        return pa.array(values, mask=~array.is_valid().to_numpy(zero_copy_only=False))
    if _IS["run_end_encoded"](array.type):
        import pyarrow.compute as pc

        return _plain(pc.run_end_decode(array), target)
    if pa.types.is_struct(array.type):
        inner = [_plain(child, target[i].type) for i, child in enumerate(array.flatten())]
        mask = None if not array.null_count else array.is_null()
        return pa.StructArray.from_arrays(inner, fields=[target[i] for i in range(target.num_fields)], **({"mask": mask} if mask else {}))
    if _is_list_view(array.type):  # of which pyarrow 18 to 21 make lists that end at 0
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], np.cumsum(np.where(valid, array.sizes.to_numpy(zero_copy_only=False), 0))])
        values, mask = _plain(array.flatten(), target.value_type), None if valid.all() else pa.array(~valid)
        return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values, mask=mask)
    if pa.types.is_list(array.type) and pa.types.is_list(target) and not array.null_count:
        return pa.ListArray.from_arrays(array.offsets, _plain(array.values, target.value_type))
    try:
        if _holds_views(array.type):
            raise NotImplementedError
        return array.cast(target)
    except (pa.ArrowException, NotImplementedError):  # a nest of a kind that this version cannot cast
        return pa.array(array.to_pylist(), target)
