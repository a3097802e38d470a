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
from transforms.places import EACH, ElementIndex, Path, depth_of, path_text, within
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
    for level, into in enumerate(source.exploded):
        lists = list[Sequence[Any]]()
        for event, (row, part) in enumerate(zip(read.records.tolist(), whole, strict=True)):
            found: Any = None
            try:
                found = None if start[row] != OK else find(part, into, _done(source, level))
                if found is not None and not isinstance(found, (list, tuple)):
                    raise Misplaced(found, _no_list(into))
            except Misplaced as error:
                found = None
                _refuse(read, source, event, f"{_shown(error.value)} {error.detail}")
            lists.append(found or ())
        read = _exploded(read, np.array([len(each) for each in lists], np.int64), bounded)
        kept = np.zeros(len(lists), bool)
        kept[read.events] = True
        whole = [element for elements, mine in zip(lists, kept.tolist(), strict=True) if mine for element in elements]
        for f, path in _of_elements(source, into):
            one(read, f, whole, path, len(into) + 1)
    return _finished(read, source)


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
    parts = pa.nulls(n)
    for level, path in enumerate(source.exploded):
        done = _done(source, level)
        lists, lost = (parts if done else top(path[0])), []
        for number, step in enumerate(path[done or 1 :], done or 1):
            following, wrong = step_into(lists, step, united)
            if wrong.any():
                lost.append((wrong, lists, step_refused(path, number)))
            lists = following
        if pa.types.is_dictionary(lists.type):
            lists = lists.dictionary_decode()
        found = spans(lists)
        if found is None:
            if (there := is_valid(lists)).any():
                lost.append((there, lists, _no_list(path)))
            found = np.zeros(len(lists), np.int64), np.zeros(len(lists), np.int64), pa.nulls(0)
        first, size, values = found
        for event, column, detail in sorted(((e, c, d) for w, c, d in lost for e in np.flatnonzero(w).tolist()), key=lambda each: each[0]):
            _refuse(read, source, event, f"{_shown(raw_value(column, event))} {detail}")
        read = _exploded(read, size, bounded)
        parts = values.take(pa.array(first[read.events] + read.elements[-1]))
        for f, steps in _of_elements(source, path):
            one(read, f, parts, steps, len(path) + 1)
    return _finished(read, source)


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


def _of_elements(source: EventSource, path: Path) -> Iterator[tuple[Field, Path]]:
    """The fields, with their paths, of the elements of the list at ``path``, and of no list within these."""
    for f in source.all_fields:
        if f.value is None and isinstance(f.place, tuple) and f.place[: depth_of(f.place)] == (*path, EACH):
            yield f, f.place


def _done(source: EventSource, level: int) -> int:
    """How many steps of the path of a list lead to the element of the list around it; 0 for the outermost."""
    return len(source.exploded[level - 1]) + 1 if level else 0


def _no_list(path: Path) -> str:
    return f"at {path_text(path)} is no list, of which the source's events are the elements"


def _refuse(read: Read, source: EventSource, event: int, detail: str) -> None:
    """Note why the record of what would be events is refused, if it is not already."""
    row = int(read.records[event])
    if read.start[row] == OK:
        read.start[row] = CODE[WRONG_TYPE]
        read.notes[row] = detail + within(source.exploded, [int(each[event]) for each in read.elements])


def _exploded(of: Read, size: Int, bounded: bool) -> Read:
    """What was read of N records, or of M elements in them, for the ``size`` (int64 [N] or [M]) elements in each: every one of these has
    the fields of what it stands in."""
    if bounded:
        size = _bounded(of, size)
    rows = np.repeat(np.arange(len(size)), size)
    elements = np.arange(len(rows)) - (np.cumsum(size) - size)[rows]
    has = np.bincount(of.records[rows], minlength=len(of.start)) > 0
    around = tuple(each[rows] for each in of.elements)
    read = Read({}, of.records[rows], of.start, of.notes, {}, (*around, elements), int((~has & (of.start == OK)).sum()), rows)
    at = pa.array(rows)
    for name, (array, codes) in of.columns.items():
        read.columns[name] = array.take(at), codes[rows]
        read.raw[name] = _raw_of_event(of.raw[name], rows)
    return read


def _bounded(of: Read, size: Int) -> Int:
    """How many elements each has: none where its record is refused, as those are whose fields outside of these elements would come to more
    than :data:`MAX_REPEATED_BYTES` in them. Raises TooMuchAtOnce."""
    every = size * sum((_sizes(array) for array, _ in of.columns.values()), np.zeros(len(size), np.int64))
    repeated, number = (_by_record(of, each) for each in (every, size))
    for row in np.flatnonzero((repeated > MAX_REPEATED_BYTES) & (of.start == OK)).tolist():
        of.start[row] = CODE[TOO_LONG]
        of.notes[row] = (
            f"its {number[row]:,} events would repeat {repeated[row] // number[row]:,} bytes of the record each,"
            f" {repeated[row]:,} together, above the limit of {MAX_REPEATED_BYTES:,}"
        )
    good = of.start == OK
    if len(good) > 1 and repeated[good].sum() > MAX_AT_ONCE:
        raise TooMuchAtOnce
    return np.where(good[of.records], size, 0)


def _by_record(of: Read, values: Int) -> Int:
    """The sums of M values, those of each of the N records."""
    if not of.elements:
        return values
    sums = np.zeros(len(of.start), np.int64)
    np.add.at(sums, of.records, values)
    return sums


def _raw_of_event(raw: Raw, rows: Int) -> Raw:
    return lambda row: raw(int(rows[row]))


def _finished(read: Read, source: EventSource) -> Read:
    """With the positions of elements, and its columns in the order of the fields."""
    if source.explode is None:
        return read
    positions = read.elements[0]
    if len(read.elements) > 1:
        positions = np.arange(len(read.records)) - np.searchsorted(read.records, read.records)
    for f in source.all_fields:
        if isinstance(f.path, ElementIndex) and f.value is None:
            read.columns[f.name] = pa.array(positions, pa.int64()), all_ok(len(positions))
            read.raw[f.name] = lambda row: (int(positions[row]), "")
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
