"""Records as the events that a source makes of them: each field from where it stands and as it is read, before any rule of the contract.

Records come as Python has them (:func:`read_records`) or as columns (:func:`read_rows`), and are the same events either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import CODE, OK, all_ok, is_valid, raw_value
from transforms.conversions import column_of, is_local, values_of
from transforms.event_source import EventSource
from transforms.fields import LIST_TYPES, Field
from transforms.nested import Misplaced, convert_any, find, from_values_any, spans, step_into, step_refused
from transforms.origin import Origin
from transforms.origin_fields import Raw, Read, from_origin, why
from transforms.places import EACH, ElementIndex, Path, path_text
from transforms.reasons import MALFORMED, TOO_LONG, WRONG_TYPE

__all__ = ["Read", "TooMuchAtOnce", "read_records", "read_rows"]

Int = npt.NDArray[np.int64]
MAX_REPEATED_BYTES = 8 << 20
"""What the events of one record may repeat of it: a text beside a list of thousands is there once for each element, so that a record of a
megabyte could make tens of gigabytes."""
MAX_AT_ONCE = 256 << 20
"""What the events of all records that are judged at once may repeat of them: a column of Arrow's texts ends at 2 GiB, memory before."""


class TooMuchAtOnce(Exception):
    """The events of these records, of each of which they are no fault, are too large together: judge fewer records at once."""


def read_records(
    records: Sequence[Mapping[str, Any]],
    refused: Mapping[int, tuple[str, str]],
    source: EventSource,
    origin: Origin | None,
    bounded: bool = True,
) -> Read:
    """The events of N decoded records; ``refused`` are (reason, detail) of those that could not be decoded, by their positions.

    ``bounded``: a record whose events repeat too much of it has none (:data:`MAX_REPEATED_BYTES`), and neither has another that is refused
    as a whole; raises TooMuchAtOnce. Without, all are read.
    """
    start, notes = all_ok(len(records)), {row: detail for row, (_, detail) in refused.items()}
    for row, (reason, _) in refused.items():
        start[row] = CODE[reason]
    whole: Sequence[Any] = [r if isinstance(r, dict) else dict(r) for r in records]

    def one(read: Read, f: Field, base: Sequence[Any], path: Any, done: int) -> None:
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

    read = Read({}, np.arange(len(records)), start, notes, {})
    for f, path in _of_records(read, source, origin):
        one(read, f, whole, path, 0)
    if source.explode is None:
        return read
    into, lists = source.explode_path, list[Sequence[Any]]()
    for row, record in enumerate(whole):
        found: Any = None
        try:
            found = None if row in refused else find(record, into)
            if found is not None and not isinstance(found, (list, tuple)):
                raise Misplaced(found, f"at {path_text(into)} is no list, of which the source's events are the elements")
        except Misplaced as error:
            start[row], notes[row], found = CODE[WRONG_TYPE], f"{_shown(error.value)} {error.detail}", None
        lists.append(found or ())
    read = _exploded(read, np.array([len(each) for each in lists], np.int64), source, bounded)
    taken = np.zeros(len(records), bool)
    taken[read.records] = True
    parts = [element for elements, mine in zip(lists, taken.tolist(), strict=True) if mine for element in elements]
    for f, path, done in _of_elements(source):
        one(read, f, parts, path, done)
    return _in_order(read, source)


def _raw_of_records(base: Sequence[Any], path: Any, done: int, f: Field) -> Raw:
    def raw(row: int) -> tuple[Any, str]:
        try:
            value = find(base[row], path, done)
        except Misplaced as error:
            return error.value, error.detail
        return value, why(value, f)

    return raw


def read_rows(batch: pa.RecordBatch, source: EventSource, origin: Origin | None, bounded: bool = True, united: bool = False) -> Read:
    """The events of N rows of Arrow; ``bounded`` as in :func:`read_records`, ``united`` as in :func:`transforms.nested.step_into`."""
    n, names = batch.num_rows, batch.schema.names
    start, notes = all_ok(n), dict[int, str]()

    def top(name: Any) -> pa.Array:
        places = [i for i, other in enumerate(names) if other == name]
        if len(places) > 1:
            start[:] = CODE[MALFORMED]
            notes.update(dict.fromkeys(range(n), f"the column {name!r} is there {len(places)} times"))
        return batch.column(places[0]) if places else pa.nulls(n)

    def one(read: Read, f: Field, column: pa.Array, steps: Any, done: int) -> None:
        misplaced = []
        for number in range(done, len(steps)):
            following, wrong = step_into(column, steps[number], united)
            if wrong.any():
                misplaced.append((wrong, column, step_refused(steps, number)))
            column = following
        array, codes = column_of(column, f.parse, f.dtype or "") if f.parse else convert_any(column, f.dtype or "")
        for wrong, _, _ in misplaced:
            codes[wrong] = CODE[WRONG_TYPE]
        read.columns[f.name] = array, codes
        read.raw[f.name] = _raw_of_column(column, misplaced, f)

    read = Read({}, np.arange(n), start, notes, {})
    for f, steps in _of_records(read, source, origin):
        one(read, f, top(steps[0]), steps, 1)
    if source.explode is None:
        return read
    path = source.explode_path
    lists, lost = top(path[0]), []
    for number, step in enumerate(path[1:], 1):
        following, wrong = step_into(lists, step, united)
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
    for wrong, column, detail in lost:
        for row in np.flatnonzero(wrong).tolist():
            start[row], notes[row] = CODE[WRONG_TYPE], f"{_shown(raw_value(column, row))} {detail}"
    read = _exploded(read, size, source, bounded)
    assert read.elements is not None
    parts = values.take(pa.array(first[read.records] + read.elements))
    for f, steps, done in _of_elements(source):
        one(read, f, parts, steps, done)
    return _in_order(read, source)


# ---- a record as several events ------------------------------------------------------------------------------------------------


def _of_records(read: Read, source: EventSource, origin: Origin | None) -> Iterator[tuple[Field, Path]]:
    """The fields, with their paths, that a record's payload has once, whatever its events. Those that stand beside it are read here."""
    for f in source.all_fields:
        if f.value is None and not isinstance(f.path, ElementIndex) and not from_origin(read, f, origin):
            path = f.place
            if not isinstance(path, tuple):  # an origin that is not known: under its own name
                yield _plain(f), (f.name,)
            elif EACH not in path:
                yield f, path


def _of_elements(source: EventSource) -> Iterator[tuple[Field, Path, int]]:
    """The fields of the elements of a list, with their paths and how many steps of these lead to an element."""
    for f in source.all_fields:
        if f.value is None and isinstance(f.place, tuple) and EACH in f.place:
            yield f, f.place, f.place.index(EACH) + 1


def _exploded(of: Read, size: Int, source: EventSource, bounded: bool) -> Read:
    """What was read of N records, for their ``size`` (int64 [N]) events each: every event has its record's fields."""
    if bounded:
        size = _bounded(of, size)
    rows = np.repeat(np.arange(len(size)), size)
    elements = np.arange(len(rows)) - (np.cumsum(size) - size)[rows]
    read = Read({}, rows, of.start, of.notes, {}, elements, int(((size == 0) & (of.start == OK)).sum()))
    at = pa.array(rows)
    for name, (array, codes) in of.columns.items():
        read.columns[name] = array.take(at), codes[rows]
        read.raw[name] = _raw_of_event(of.raw[name], rows)
    for f in source.all_fields:
        if isinstance(f.path, ElementIndex) and f.value is None:
            read.columns[f.name] = pa.array(elements, pa.int64()), all_ok(len(rows))
            read.raw[f.name] = lambda row: (int(elements[row]), "")
    return read


def _bounded(of: Read, size: Int) -> Int:
    """How many events each record has: none where it is refused, as those are whose own fields would come to more than
    :data:`MAX_REPEATED_BYTES` in its events. Raises TooMuchAtOnce."""
    repeated = size * sum((_sizes(array) for array, _ in of.columns.values()), np.zeros(len(size), np.int64))
    for row in np.flatnonzero(repeated > MAX_REPEATED_BYTES).tolist():
        of.start[row] = CODE[TOO_LONG]
        of.notes[row] = (
            f"its {size[row]:,} events would repeat {repeated[row] // size[row]:,} bytes of the record each, {repeated[row]:,} together,"
            f" above the limit of {MAX_REPEATED_BYTES:,}"
        )
    good = of.start == OK
    if len(size) > 1 and repeated[good].sum() > MAX_AT_ONCE:
        raise TooMuchAtOnce
    return np.where(good, size, 0)


def _raw_of_event(raw: Raw, rows: Int) -> Raw:
    return lambda row: raw(int(rows[row]))


def _in_order(read: Read, source: EventSource) -> Read:
    """With its columns in the order of the fields."""
    return replace(read, columns={f.name: read.columns[f.name] for f in source.all_fields if f.name in read.columns})


_TEXTS = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)


def _sizes(array: pa.Array) -> Int:
    """The bytes of each of N texts or lists, int64 [N]; 0 for values of a fixed size, which cost as much as the list's own elements."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    found = spans(array)
    if found is not None:
        first, size, values = found
        ends = np.concatenate([[0], np.cumsum(_sizes(values))])
        return np.asarray(ends[first + size] - ends[first] + 8 * size)
    if any(is_one(array.type) for is_one in _TEXTS):
        return np.asarray(pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False), np.int64)
    return np.zeros(len(array), np.int64)


def _raw_of_column(column: pa.Array, misplaced: list[tuple[Any, pa.Array, str]], f: Field) -> Raw:
    def raw(row: int) -> tuple[Any, str]:
        for wrong, before, detail in misplaced:
            if wrong[row]:
                return raw_value(before, row), detail
        value = raw_value(column, row)
        if is_local(column.type, f.parse):
            local = _exact(column.slice(row, 1), value)
            return (value, "") if local is None else (str(local), why(local, f))
        if f.dtype in LIST_TYPES or (f.parse is not None and not pa.types.is_timestamp(column.type)):
            one = column.slice(row, 1)
            exact = value if pa.types.is_dictionary(one.type) else _exact(one, value)
            return value, why(exact, f)
        return value, ""

    return raw


def _exact(one: pa.Array, value: Any) -> Any:
    """One value as Python has it, bytes as bytes."""
    try:
        return one[0].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return value


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[:80] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 100 else text[:97] + "..."


def _plain(f: Field) -> Field:
    return Field(f.name, f.dtype)
