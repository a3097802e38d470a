"""Fields that stand beside a record's payload: in its key, in a header, as its timestamp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import CODE, Codes, Column, all_ok, convert, value_as
from transforms.conversions import value_of, values_of
from transforms.fields import LIST_TYPES, Field
from transforms.json_payload import Refused, parse_json
from transforms.nested import Misplaced, find, from_values_any, list_value
from transforms.origin import Origin
from transforms.parsing import Base64, BigEndian, Hex, Number
from transforms.places import Header, Path, RecordKey, RecordTimestamp
from transforms.reasons import MALFORMED, WRONG_TYPE

__all__ = ["Raw", "Read", "from_origin", "why"]

Int = npt.NDArray[np.int64]
Raw = Callable[[int], tuple[Any, str]]
"""Row -> the value that stood there, and the end of a detail that begins with field and value: why it cannot be read ("": it can)."""


@dataclass
class Read:
    """M events of N records. ``columns`` has one for each field that is not computed, [M]; ``records`` (int64 [M]) is each event's
    record; ``start`` (codes [N]) and ``notes`` are verdicts that hold for whole records already; ``raw`` says for a field's name what
    stood in a row; ``elements`` (int64 [M] each) are positions in the lists that were exploded, the outermost first; ``empty`` counts the
    records of no event; ``events`` (int64 [M]) are what each came from of those that were read before it: records, or elements of a list
    around it."""

    columns: dict[str, Column]
    records: Int
    start: Codes
    notes: dict[int, str]
    raw: dict[str, Raw]
    elements: tuple[Int, ...] = ()
    empty: int = 0
    events: Int = field(default_factory=lambda: np.zeros(0, np.int64))


def from_origin(read: Read, f: Field, origin: Origin | None) -> bool:
    """Read a field that stands beside the payload; False where it does not, or nobody knows what stood there."""
    if origin is None or not isinstance(f.path, (RecordKey, Header, RecordTimestamp)):
        return False
    if isinstance(f.path, RecordTimestamp):
        if origin.timestamps_us is None:
            return False
        times = origin.timestamps_us
        read.columns[f.name], read.raw[f.name] = convert(times, "timestamp"), lambda row: (times[row].as_py(), "")
        return True
    if (origin.keys if isinstance(f.path, RecordKey) else origin.headers) is None:
        return False
    of_records: pa.Array = origin.keys if isinstance(f.path, RecordKey) else origin.header(f.path.name)
    values = of_records.to_pylist()
    member = tuple(f.path.member) if isinstance(f.path, RecordKey) and f.path.member is not None else None
    opened = origin.opened if isinstance(f.path, RecordKey) else None
    if isinstance(f.path, RecordKey) and (member is not None or (any(map(_is_framed, values)) and not isinstance(f.parse, _OF_BYTES))):
        read.columns[f.name], read.raw[f.name] = _keys(values, member, f, opened), _raw_of_keys(values, member, f, opened)
    else:
        read.columns[f.name], read.raw[f.name] = _texts_column(values, f), _raw_of_bytes(values, f)
    return True


def _value_of_bytes(value: bytes, f: Field) -> Any:
    """What bytes that stand alone are: they have no type of their own, so the text of a number is one."""
    dtype = f.dtype or ""
    if f.parse is not None:
        return value_of(value, f.parse, dtype)
    if dtype in ("int64", "float64"):
        return value_of(value, Number(), dtype)
    if dtype == "bool":
        if value in (b"true", b"false"):
            return value == b"true"
        raise Refused(WRONG_TYPE, "is neither true nor false")
    if dtype == "timestamp":
        text = value.decode(errors="surrogateescape")
        return value_as(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text, dtype)
    return value_as(value, dtype)


def _texts_column(values: list[bytes | None], f: Field) -> Column:
    if f.dtype == "string" and f.parse is None:
        return convert(pa.array(values, pa.binary()), "string")
    if f.dtype in ("int64", "float64") and not isinstance(f.parse, BigEndian):
        return values_of(values, f.parse or Number(), f.dtype)
    out, codes = [], all_ok(len(values))
    for row, value in enumerate(values):
        try:
            out.append(None if value is None else _value_of_bytes(value, f))
        except Refused as refused:
            out.append(None)
            codes[row] = CODE[refused.reason]
    return pa.array(out, pa.int64() if f.dtype == "timestamp" else f.arrow_type), codes


Open = Callable[[bytes], Any] | None
_OF_BYTES = (BigEndian, Hex, Base64)
"""Ways to read a key as the bytes that it is: a Long begins with a zero byte, too."""


def _is_framed(key: bytes | None) -> bool:
    """Whether a key is in a schema registry's framing: a zero byte, with which no text begins, and a schema's id."""
    return key is not None and key[:1] == b"\0" and len(key) > 5


def _key_value(key: bytes, member: Path | None, opened: Open) -> Any:
    """What stands in a key that is JSON, or in a registry's framing. Raises Refused."""
    if not _is_framed(key):
        return find(parse_json(key), member or ())
    if opened is None:
        raise Refused(WRONG_TYPE, "is in a schema registry's framing; set kafka.schema_registry, which says how it is read")
    value = opened(key)
    if member is None and isinstance(value, dict):
        raise Refused(WRONG_TYPE, f"is an object; write path=RecordKey({next(iter(value), 'id')!r}) of a member of it")
    return find(value, member or ())


def _keys(values: list[bytes | None], member: Path | None, f: Field, opened: Open) -> Column:
    found: list[Any] = [None] * len(values)
    lost, texts = dict[int, str](), dict[int, bytes]()
    for row, value in enumerate(values):
        if value is not None and member is None and not _is_framed(value):
            texts[row] = value
        elif value is not None:
            try:
                found[row] = _key_value(value, member, opened)
            except Refused as refused:
                lost[row] = refused.reason
    array, codes = values_of(found, f.parse, f.dtype or "") if f.parse else from_values_any(found, f.dtype or "")
    if texts:
        plain, own = _texts_column([texts.get(row) for row in range(len(values))], f)
        is_text = np.isin(np.arange(len(values)), list(texts))
        array, codes = pc.if_else(pa.array(is_text), plain, array), np.where(is_text, own, codes)
    for row, reason in lost.items():
        codes[row] = CODE[WRONG_TYPE if reason == MALFORMED else reason]
    return array, codes


def _raw_of_keys(values: list[bytes | None], member: Path | None, f: Field, opened: Open) -> Raw:
    def raw(row: int) -> tuple[Any, str]:
        value = values[row]
        if value is None:
            return None, ""
        if member is None and not _is_framed(value):
            return _raw_of_bytes(values, f)(row)
        try:
            inner = _key_value(value, member, opened)
            return inner, why(inner, f)
        except Misplaced as refused:
            return refused.value, refused.detail
        except Refused as refused:
            return value, refused.detail or ""

    return raw


def _raw_of_bytes(values: list[bytes | None], f: Field) -> Raw:
    def raw(row: int) -> tuple[Any, str]:
        value = values[row]
        try:
            if value is not None:
                _value_of_bytes(value, f)
            return value, ""
        except Refused as refused:
            return value, refused.detail or ""

    return raw


def why(value: Any, f: Field) -> str:
    """Why a value cannot be read, where that is its field's own to say."""
    if value is None:
        return ""
    try:
        if f.parse is not None:
            value_of(value, f.parse, f.dtype or "")
        elif f.dtype in LIST_TYPES:
            list_value(value, f.dtype or "")
    except Refused as refused:
        return refused.detail
    return ""
