"""How the value of a key stands in files: as a decoded value, as cells of a column, as a folder's name, as bytes. Pure functions."""

from __future__ import annotations

import functools
import html
import json
import re
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.forgetting.column_types import is_bytes, is_text

__all__ = [
    "LEAST_BYTES", "NUMBER", "Mask", "cells_equal", "column_holds", "forms", "is_value", "longest_match", "patterns", "plain_text",
    "readings", "same_name", "value_text",
]  # fmt: skip

NUMBER = re.compile(r"-?[0-9]{1,20}")
LEAST_BYTES = 4
"""A value of fewer bytes says nothing by itself."""
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What no text has."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def plain_text(data: bytes) -> str | None:
    """The text that bytes are; None for others, such as framed payloads."""
    try:
        return None if _CONTROL.search(data) else data.decode()
    except UnicodeDecodeError:
        return None


def readings(pairs: list[tuple[str, Any]]) -> Any:
    """An object; of one that has keys twice, every one that it may be read as."""
    values: dict[str, list[Any]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    most = max(map(len, values.values()), default=1)
    return dict(pairs) if most == 1 else [{name: each[min(i, len(each) - 1)] for name, each in values.items()} for i in range(most)]


@functools.lru_cache(maxsize=16)
def patterns(keys: tuple[tuple[str, str], ...]) -> list[re.Pattern[bytes]]:
    """What the bytes of each (name, value) are found by."""
    out = []
    for name, value in keys:
        any_form = b"|".join(re.escape(form) for form in sorted(forms(value)))
        if NUMBER.fullmatch(value):
            any_form = rb"(?<![0-9.])(?:" + any_form + rb")(?![0-9])"
        if len(value.encode()) < LEAST_BYTES:
            any_form = re.escape(name.encode()) + rb"[^A-Za-z0-9]{1,12}(?:" + any_form + rb")(?![A-Za-z0-9_])"
        if NUMBER.fullmatch(value):  # a tf.Example: {1: name, 2: {3: {1: [varint]}}}
            packed = _varint(int(value))
            example = name.encode() + b"\x12%c\x1a%c\x0a%c" % (len(packed) + 4, len(packed) + 2, len(packed)) + packed
            any_form = rb"(?:" + any_form + rb")|" + re.escape(example)
        out.append(re.compile(any_form, re.DOTALL))
    return out


def longest_match(name: str, value: str) -> int:
    """How many bytes a pattern of :func:`patterns` looks at, at most: a form of the value with the name, and what stands around them."""
    return len(name.encode()) + max(map(len, forms(value))) + 64


def _varint(value: int) -> bytes:
    rest, out = value % 2**64, bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def is_value(value: Any, wanted: str) -> bool:
    """Whether a decoded value of a key's field is this one, or a list with it."""
    return any(value_text(each) == wanted for each in value) if isinstance(value, list) else value_text(value) == wanted


def value_text(value: Any) -> str | None:
    """A decoded value as a key is written; None for what is no key."""
    if value is None or isinstance(value, bool | dict | list | tuple | date | time | timedelta):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else str(float(value))
    # The contract takes 5.0 for a whole number as well.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def same_name(folder: str | None, value: str) -> bool:
    """Whether a folder's name says this value; of a number also ``01``."""
    whole = folder is not None and NUMBER.fullmatch(folder) and NUMBER.fullmatch(value)
    return int(str(folder)) == int(value) if whole else folder == value


def forms(value: str) -> set[bytes]:
    """The bytes of a value as files may hold it: plain, in JSON of ASCII alone, in a page, in a folder's name."""
    return {value.encode(), json.dumps(value)[1:-1].encode(), html.escape(value).encode(), quote(value, safe="").encode()}


def cells_equal(column: pa.ChunkedArray, wanted: str) -> Mask:
    """Which cells are this text, or a list with it: as :func:`is_value` says of each."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return cells_equal(column.cast(kind.value_type), wanted)
    if pa.types.is_boolean(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_temporal(kind):
        return np.zeros(len(column), bool)
    if is_text(kind) or pa.types.is_integer(kind):
        found: Mask = pc.fill_null(pc.equal(column.cast(pa.large_string()), wanted), False).to_numpy()
        return found
    return np.array([is_value(cell, wanted) for cell in column.to_pylist()], bool)


def column_holds(column: pa.ChunkedArray, name: str, value: str) -> bool:
    """Whether the bytes of a key's value are in some cell of a column."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column_holds(column.cast(kind.value_type), name, value)
    if kind.num_fields:
        return patterns(((name, value),))[0].search(repr(column.to_pylist()).encode()) is not None
    if not (is_text(kind) or is_bytes(kind)):
        return False
    binary = column.cast(pa.large_binary())
    some = pc.or_kleene(*[pc.match_substring(binary, pattern=form) for form in (value.encode(), json.dumps(value)[1:-1].encode())])
    return any(patterns(((name, value),))[0].search(cell) for cell in binary.filter(some).to_pylist() if cell is not None)
