"""Records as the events that a source makes of them: each field from where it stands and as it is read, before any rule of the contract.

Records come as Python has them (:func:`read_records`) or as columns (:func:`read_rows`), and are the same events either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import CODE, OK, Codes, Column, all_ok, convert, is_valid, raw_value, value_as
from transforms.conversions import column_of, is_local, value_of, values_of
from transforms.event_source import EventSource
from transforms.fields import LIST_TYPES, Field
from transforms.json_payload import Refused, parse_json
from transforms.nested import Misplaced, convert_any, find, from_values_any, list_value, spans, step_into, step_refused
from transforms.origin import Origin
from transforms.parsing import Base64, BigEndian, Hex, Number
from transforms.places import EACH, ElementIndex, Header, Path, RecordKey, RecordTimestamp, path_text
from transforms.reasons import MALFORMED, WRONG_TYPE

__all__ = ["Read", "read_records", "read_rows"]

Int = npt.NDArray[np.int64]
Raw = Callable[[int], tuple[Any, str]]
"""Row -> the value that stood there, and the end of a detail that begins with field and value: why it cannot be read ("": it can)."""


@dataclass
class Read:
    """M events of N records. ``columns`` has one for each field that is not computed, [M]; ``records`` (int64 [M]) is each event's
    record; ``start`` (codes [N]) and ``notes`` are verdicts that hold for whole records already; ``raw`` says for a field's name what
    stood in a row; ``elements`` (int64 [M]) are positions in the list that was exploded; ``empty`` counts the records of no event."""

    columns: dict[str, Column]
    records: Int
    start: Codes
    notes: dict[int, str]
    raw: dict[str, Raw]
    elements: Int | None = None
    empty: int = 0


def read_records(
    records: Sequence[Mapping[str, Any]], refused: Mapping[int, tuple[str, str]], source: EventSource, origin: Origin | None
) -> Read:
    """The events of N decoded records; ``refused`` are (reason, detail) of those that could not be decoded, by their positions."""
    start, notes = all_ok(len(records)), {row: detail for row, (_, detail) in refused.items()}
    for row, (reason, _) in refused.items():
        start[row] = CODE[reason]
    whole: Sequence[Any] = [r if isinstance(r, dict) else dict(r) for r in records]
    rows, elements, parts, empty = np.arange(len(records)), None, list[Any](), 0
    if source.explode is not None:
        into, at, lists = source.explode_path, [], list[Any]()
        for row, record in enumerate(whole):
            try:
                found = None if row in refused else find(record, into)
                if found is not None and not isinstance(found, (list, tuple)):
                    raise Misplaced(found, f"at {path_text(into)} is no list, of which the source's events are the elements")
            except Misplaced as error:
                start[row], notes[row] = CODE[WRONG_TYPE], f"{_shown(error.value)} {error.detail}"
                continue
            if not found:
                empty += row not in refused
            lists += list(found or ())
            at += [(row, number) for number in range(len(found or ()))]
        places = np.array(at, np.int64).reshape(-1, 2)
        rows, elements, parts = places[:, 0], places[:, 1], lists
        whole = [whole[row] for row in rows.tolist()]
    read = Read({}, rows, start, notes, {}, elements, empty)
    for f in source.all_fields:
        if f.value is not None or _from_origin(read, f, origin):
            continue
        path: Any = f.place
        if not isinstance(path, tuple):  # an origin that is not known: under its own name
            path, f = (f.name,), _plain(f)
        base, done = (parts, path.index(EACH) + 1) if EACH in path else (whole, 0)
        values: list[Any] = []
        lost = []
        for row, value in enumerate(base):
            try:
                values.append(value.get(path[0]) if len(path) == 1 else find(value, path, done))
            except Misplaced:
                values.append(None)
                lost.append(row)
        array, codes = values_of(values, f.parse, f.dtype or "") if f.parse else from_values_any(values, f.dtype or "")
        codes[lost] = CODE[WRONG_TYPE]
        read.columns[f.name] = array, codes
        read.raw[f.name] = _raw_of_records(base, path, done, f)
    return read


def _raw_of_records(base: Sequence[Any], path: Any, done: int, f: Field) -> Raw:
    def raw(row: int) -> tuple[Any, str]:
        try:
            value = find(base[row], path, done)
        except Misplaced as error:
            return error.value, error.detail
        return value, _why(value, f)

    return raw


def read_rows(batch: pa.RecordBatch, source: EventSource, origin: Origin | None) -> Read:
    """The events of N rows of Arrow."""
    n, names = batch.num_rows, batch.schema.names
    start, notes = all_ok(n), {}
    rows, elements, parts, empty = np.arange(n), None, pa.nulls(n), 0

    def top(name: Any) -> pa.Array:
        places = [i for i, other in enumerate(names) if other == name]
        if len(places) > 1:
            start[:] = CODE[MALFORMED]
            notes.update(dict.fromkeys(range(n), f"the column {name!r} is there {len(places)} times"))
        return batch.column(places[0]) if places else pa.nulls(n)

    if source.explode is not None:
        path = source.explode_path
        lists, lost = top(path[0]), []
        for number, step in enumerate(path[1:], 1):
            following, wrong = step_into(lists, step)
            if wrong.any():
                lost.append((wrong, lists, step_refused(path, number)))
            lists = following
        if pa.types.is_dictionary(lists.type):
            lists = lists.dictionary_decode()
        found = spans(lists)
        if found is None:
            if (there := is_valid(lists)).any():
                lost.append((there, lists, f"at {path_text(path)} is no list, of which the source's events are the elements"))
            found = np.zeros(n, np.int64), np.zeros(n, np.int64), pa.nulls(0)
        first, size, values = found
        ends = np.concatenate([[0], np.cumsum(size)])
        rows = np.repeat(np.arange(n), size)
        elements = np.arange(ends[-1]) - ends[rows]
        parts = values.take(pa.array(first[rows] + elements))
        for wrong, column, detail in lost:
            for row in np.flatnonzero(wrong).tolist():
                start[row], notes[row] = CODE[WRONG_TYPE], f"{_shown(raw_value(column, row))} {detail}"
        empty = int(((size == 0) & (start == OK)).sum())
    read = Read({}, rows, start, notes, {}, elements, empty)
    for f in source.all_fields:
        if f.value is not None or _from_origin(read, f, origin):
            continue
        steps: Any = f.place
        if not isinstance(steps, tuple):
            steps, f = (f.name,), _plain(f)
        if EACH in steps:
            column, done = parts, steps.index(EACH) + 1
        else:
            column, done = top(steps[0]), 1
            if source.explode is not None:
                column = column.take(pa.array(rows))
        misplaced = []
        for number in range(done, len(steps)):
            following, wrong = step_into(column, steps[number])
            if wrong.any():
                misplaced.append((wrong, column, step_refused(steps, number)))
            column = following
        array, codes = column_of(column, f.parse, f.dtype or "") if f.parse else convert_any(column, f.dtype or "")
        for wrong, _, _ in misplaced:
            codes[wrong] = CODE[WRONG_TYPE]
        read.columns[f.name] = array, codes
        read.raw[f.name] = _raw_of_column(column, misplaced, f)
    return read


def _raw_of_column(column: pa.Array, misplaced: list[tuple[Any, pa.Array, str]], f: Field) -> Raw:
    def raw(row: int) -> tuple[Any, str]:
        for wrong, before, detail in misplaced:
            if wrong[row]:
                return raw_value(before, row), detail
        value = raw_value(column, row)
        if is_local(column.type, f.parse):
            local = _exact(column.slice(row, 1), value)
            return (value, "") if local is None else (str(local), _why(local, f))
        if f.dtype in LIST_TYPES or (f.parse is not None and not pa.types.is_timestamp(column.type)):
            one = column.slice(row, 1)
            exact = value if pa.types.is_dictionary(one.type) else _exact(one, value)
            return value, _why(exact, f)
        return value, ""

    return raw


def _exact(one: pa.Array, value: Any) -> Any:
    """One value as Python has it, bytes as bytes."""
    try:
        return one[0].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return value


def _why(value: Any, f: Field) -> str:
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


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[:80] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 100 else text[:97] + "..."


# ---- keys, headers, timestamps ---------------------------------------------------------------------------------------------


def _plain(f: Field) -> Field:
    return Field(f.name, f.dtype)


def _from_origin(read: Read, f: Field, origin: Origin | None) -> bool:
    """Read a field that stands beside the payload; False where it does not, or nobody knows what stood there."""
    rows = read.records
    if isinstance(f.path, ElementIndex):
        assert read.elements is not None
        found = pa.array(read.elements, pa.int64())
        read.columns[f.name], read.raw[f.name] = (found, all_ok(len(rows))), lambda row: (found[row].as_py(), "")
        return True
    if origin is None or not isinstance(f.path, (RecordKey, Header, RecordTimestamp)):
        return False
    if isinstance(f.path, RecordTimestamp):
        if origin.timestamps_us is None:
            return False
        times = origin.timestamps_us.take(pa.array(rows))
        read.columns[f.name], read.raw[f.name] = convert(times, "timestamp"), lambda row: (times[row].as_py(), "")
        return True
    if (origin.keys if isinstance(f.path, RecordKey) else origin.headers) is None:
        return False
    of_records: pa.Array = origin.keys if isinstance(f.path, RecordKey) else origin.header(f.path.name)
    values = of_records.take(pa.array(rows)).to_pylist()
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
            return inner, _why(inner, f)
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
