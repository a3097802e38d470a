"""The contract of a source: which events count, and why the others do not.

:func:`check` judges a batch of Arrow rows, :func:`check_json` a batch of JSON payloads; both by the same rules and both
columnar, so batch and stream cannot differ. A reject is data: a reason code, a detail that names field and value, and
(in :data:`DEAD_LETTER_SCHEMA`) the original bytes. The verdict on a record never depends on the records beside it.

What is accepted, whatever carries it (the rest of the type rules is "nothing else"):

* string: text that is valid UTF-8, at most 64 KiB of it; in Arrow also large, dictionary and binary columns that hold such text.
* int64: integers; floats that are integral (``5.0``) and exact: below 2^53 in magnitude, float32 2^24, float16 2^11. Never a bool.
* float64: floats (``-0.0`` becomes ``0.0``); integers up to 2^53 in magnitude, which a float64 holds exactly. Never a bool.
* bool: true and false.
* timestamp: in Arrow a timestamp of any unit, without a zone read as UTC, nanoseconds floored to microseconds; an integer
  as microseconds since 1970 UTC; text ``YYYY-MM-DDThh:mm:ss[.f]`` with a zone, ``Z``, ``+hh:mm`` or ``+hhmm`` (RFC 3339), and any
  number of digits of fraction, floored to microseconds. Only the years 1 to 9999. No floats, no leap seconds, no text without a
  zone. An event time in the first 60 days of 1970 is a time in seconds or milliseconds taken for microseconds, and is refused as such.
* Unknown fields are accepted and dropped; a missing optional field is null; a null is a missing value.

A JSON payload is one object in UTF-8 without a byte-order mark. A repeated key at any depth makes it malformed (nobody
can say which value was meant), and so do more than 64 levels of nesting and more than 16 MiB. The tokens NaN, Infinity and
-Infinity are read as these floats, so they get their own reason where a field of the contract holds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.columns import (
    CODE,
    EXACT,
    OK,
    Codes,
    Column,
    all_ok,
    as_bytes,
    float64_values,
    is_text,
    is_valid,
    json_values,
    raw_value,
    target_type,
    typed_fields,
)
from transforms.conversions import column_of, is_local
from transforms.definitions import TIMESTAMP, EventSource
from transforms.event_verdicts import judge_events
from transforms.fields import EVENT_MARK
from transforms.instants import MAX_US, MIN_US, instant
from transforms.json_columns import read_columns
from transforms.json_forms import form_of, is_utf8, without_unread
from transforms.json_payload import MAX_DEPTH, Refused, parse_json
from transforms.json_schemas import columns_of
from transforms.mapping import MAX_AT_ONCE, TooMuchAtOnce, read_records, read_rows
from transforms.nested import convert_any, from_values_any
from transforms.origin import Origin
from transforms.parsing import Local, Parse
from transforms.reasons import (
    MALFORMED,
    OVERFLOW,
    REASONS,
)
from transforms.rules import Checked, Now, apply_rules, detail_of, field_of, now_of

__all__ = [
    "DEAD_LETTER_SCHEMA",
    "Checked",
    "Now",
    "Origin",
    "check",
    "check_json",
    "check_records",
    "dead_letters",
    "encode_json",
    "field_of",
    "joined",
]
DEAD_LETTER_SCHEMA = pa.schema([
    pa.field("source", pa.string(), nullable=False),
    pa.field("file", pa.string()),
    pa.field("row", pa.int64()),
    pa.field("topic", pa.string()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("detail", pa.string(), nullable=False),
    pa.field("payload", pa.binary()),
    pa.field("event_time", TIMESTAMP),
])  # fmt: skip
"""One row per reject. ``row`` is the 0-based row or line of ``file``; ``payload`` the original bytes (null: there were none)."""

_LOOKED_AT = 8
_COLUMNAR_FROM = 64
"""Payloads from which on it pays to read them by columns."""


def check(batch: pa.RecordBatch, source: EventSource, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
    """Judge N Arrow rows of any schema at the instant ``now_us`` (UTC microseconds; an int64 array [N] gives each row its own).

    An event time later than ``now_us + max_future_us`` is refused. ``origin`` is what the N records carry beside their values. Never
    raises for what the rows hold.
    """
    if source.mapped:
        if _marked(batch):
            return _as_read(check(batch, source.plain, now_us, max_future_us), source)
        return judge_events(source, read_rows(batch, source, origin), now_us, max_future_us)
    n = batch.num_rows
    names = batch.schema.names
    columns: dict[str, Column] = {}
    raw: dict[str, pa.Array] = {}
    start, notes = all_ok(n), {}
    for name, dtype in typed_fields(source):
        places = [i for i, other in enumerate(names) if other == name]
        raw[name] = batch.column(places[0]) if places else pa.nulls(n)
        columns[name] = convert_any(raw[name], dtype)
        if len(places) > 1:
            start[:] = CODE[MALFORMED]
            notes = dict.fromkeys(range(n), f"the column {name!r} is there {len(places)} times")
    return _judge(source, columns, start, notes, lambda name, row: raw_value(raw[name], row), now_us, max_future_us)


def check_json(
    payloads: pa.Array | Sequence[bytes | None], source: EventSource, now_us: Now, max_future_us: int, origin: Origin | None = None
) -> Checked:
    """Judge N payloads (a binary or string array, or a sequence of bytes or None), each one JSON object; as :func:`check`."""
    if isinstance(payloads, pa.Array) and pa.types.is_binary(payloads.type) and len(payloads) >= _COLUMNAR_FROM:
        if source.mapped:
            return _check_json_mapped(payloads, source, now_us, max_future_us, origin)
        return _check_json_columns(payloads, source, now_us, max_future_us)
    if isinstance(payloads, (pa.Array, pa.ChunkedArray)):
        payloads = as_bytes(payloads)
    records: list[dict[str, Any]] = []
    refused: dict[int, tuple[str, str]] = {}
    for row, payload in enumerate(payloads):
        try:
            records.append(parse_json(payload))
        except Refused as e:
            records.append({})
            refused[row] = e.reason, e.detail
    return check_records(records, refused, source, now_us, max_future_us, origin)


def check_records(
    records: Sequence[Mapping[str, Any]], refused: Mapping[int, tuple[str, str]], source: EventSource, now_us: Now, max_future_us: int,
    origin: Origin | None = None,
) -> Checked:  # fmt: skip
    """Judge N decoded records, whatever carried them; as :func:`check`.

    Values are None, bool, int, float, str, bytes (text, for a string field), or anything else, which is of no field's type; dicts and
    lists are stepped through by paths. ``refused`` maps the positions of records that could not be decoded to (reason, detail); what
    stands there is not looked at.
    """
    if source.mapped:
        marked = np.array([r.get(EVENT_MARK) is not None for r in records], bool)
        if not marked.any():
            return judge_events(source, read_records(records, refused, source, origin), now_us, max_future_us)
        parts = []
        for rows, of in ((np.flatnonzero(marked), source.plain), (np.flatnonzero(~marked), source)):
            some = {at: refused[row] for at, row in enumerate(rows.tolist()) if row in refused}
            nows, beside = now_of(now_us, rows), None if origin is None else origin.take(rows)
            if len(rows):
                parts.append((rows, check_records([records[row] for row in rows], some, of, nows, max_future_us, beside)))
        return joined(parts, source)
    start = all_ok(len(records))
    for row, (reason, _) in refused.items():
        start[row] = CODE[reason]
    notes = {row: detail for row, (_, detail) in refused.items()}
    columns = {name: from_values_any([r.get(name) for r in records], dtype) for name, dtype in typed_fields(source)}
    return _judge(source, columns, start, notes, lambda name, row: records[row].get(name), now_us, max_future_us)


def _check_json_columns(payloads: pa.Array, source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """As :func:`check_json`, by columns where that is safe. What is not accepted this way is judged record by record, so that every
    reject has its own reason and detail, whatever its neighbours are."""
    texts = _times_as_text(payloads, source)
    types = [(name, pa.string() if name in texts else target_type(dtype)) for name, dtype in typed_fields(source)]
    schema = pa.schema(types)
    parts = []
    done = np.zeros(len(payloads), bool)
    for depth in (None, MAX_DEPTH):  # flat ones; then what has objects and lists beside the fields
        left = np.flatnonzero(~done)
        if depth is not None and len(left) < len(done) / 8:
            break
        some = payloads if len(left) == len(done) else payloads.take(pa.array(left))
        for of, batch in read_columns(some, schema, depth):
            rows = left[of]
            columns = {name: convert_any(batch.column(i), dtype) for i, (name, dtype) in enumerate(typed_fields(source))}
            for f in source.fields:
                if f.dtype == "float64":  # of an integer this large a float64 is not known to be exact
                    array, codes = columns[f.name]
                    codes[np.abs(float64_values(array)) >= EXACT] = CODE[OVERFLOW]
            arrays, by_column, when = apply_rules(source, columns, now_of(now_us, rows), max_future_us)
            good = np.logical_and.reduce([codes == OK for codes in by_column.values()])
            done[rows[good]] = True
            valid = pa.RecordBatch.from_arrays(arrays, schema=source.arrow_schema)
            if not good.all():
                keep = pa.array(good)
                rows, valid, when = rows[good], valid.filter(keep), when.filter(keep)
            none = pa.nulls(len(rows), pa.string())
            parts.append((rows, Checked(valid, none, none, when)))
    rest = np.flatnonzero(~done)
    if len(rest) or not parts:
        parts.append((rest, check_json(as_bytes(payloads.take(pa.array(rest))), source, now_of(now_us, rest), max_future_us)))
    return joined(parts, source) if len(parts) > 1 else parts[0][1]


def _times_as_text(payloads: pa.Array, source: EventSource) -> set[str]:
    """The times that are texts, by some of the payloads; one that is written otherwise than these is judged alone."""
    left, found = {name for name, dtype in typed_fields(source) if dtype == "timestamp"}, set[str]()
    for row in range(0, len(payloads), max(1, len(payloads) // _LOOKED_AT)):
        if not left:
            break
        try:
            record = parse_json(payloads[row].as_py())
        except Refused:
            continue
        found |= {name for name in left if isinstance(record.get(name), str)}
        left -= {name for name in left if record.get(name) is not None}
    return found


def _check_json_mapped(payloads: pa.Array, source: EventSource, now_us: Now, max_future_us: int, origin: Origin | None) -> Checked:
    """As :func:`_check_json_columns`, of a source that maps what it reads."""
    schema = columns_of(payloads, source, origin is not None)
    parts = []
    done = np.zeros(len(payloads), bool)
    for rows, batch in read_columns(payloads, schema, MAX_DEPTH) if schema is not None else ():
        marks = batch.column(batch.schema.get_field_index(EVENT_MARK))
        if marks.null_count < len(marks):
            own = marks.is_null()
            rows, batch = rows[own.to_numpy(zero_copy_only=False)], batch.filter(own)
        nows, beside = now_of(now_us, rows), None if origin is None else origin.take(rows)
        judged = judge_events(source, read_rows(batch, source, beside, united=True), nows, max_future_us)
        good = ~is_valid(judged.reasons)
        done[rows[good]] = True
        if not good.all():
            place = np.cumsum(good) - 1
            records = None if judged.records is None else place[judged.records]
            judged = replace(judged, times=judged.times.filter(pa.array(good)), records=records)
        none = pa.nulls(int(good.sum()), pa.string())
        parts.append((rows[good], replace(judged, reasons=none, details=none)))
    rest = np.flatnonzero(~done)
    if len(rest) or not parts:
        nows, beside = now_of(now_us, rest), None if origin is None else origin.take(rest)
        parts.append((rest, check_json(as_bytes(payloads.take(pa.array(rest))), source, nows, max_future_us, beside)))
    return joined(parts, source) if len(parts) > 1 else parts[0][1]


def encode_json(batch: pa.RecordBatch, source: EventSource | None = None) -> pa.Array:
    """The canonical payload of each row: a binary array of length N, one compact JSON object per row, keys in column order.

    Timestamps are integer microseconds, nulls are ``null``, floats the shortest text that reads back the same. A valid
    batch comes back from :func:`check_json` exactly. Any other batch can be encoded too, so that a reject keeps what it
    held: bytes that are not UTF-8 stand in the payload as they were (so it is not valid UTF-8 either), NaN and infinity
    as the tokens that :func:`check_json` reads; values that JSON has no form for (dates, decimals) as text. With its ``source`` a
    record that :func:`check` refuses is refused by :func:`check_json` too: what would be another value there stands as an object; and bytes
    that no field reads, and are not UTF-8, are spelled out (``\\xff``), as they are no reason to refuse a record. A valid
    batch of a source that maps what it reads says so in a member more, ``tandem_event``, so that it is not mapped once more.
    """
    # An encoder per call: surrogate escapes from json_values pass through it and become the original bytes again.
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
    names = batch.schema.names
    marked = (batch.schema.metadata or {}).get(EVENT_MARK.encode())
    mapped = source is not None and source.mapped and marked is None
    dtypes = {} if source is None else {f.name: f.dtype for f in source.all_fields if not mapped or (f.path is None and f.parse is None)}
    lists = [json_values(column, dtypes.get(name)) for name, column in zip(names, batch.columns, strict=True)]
    if mapped and source is not None:
        lists = _forms(batch, source, lists, dtypes)
        # A number would be read in the unit of its field, and not as the moment that it is.
        zones = {f.place[0]: f.parse for f in source.all_fields if isinstance(f.place, tuple) and len(f.place) == 1 and f.parse}
        each = zip(names, batch.columns, lists, strict=True)
        lists = [_moments(c, v, zones.get(name)) if pa.types.is_timestamp(c.type) else v for name, c, v in each]
    if marked is not None and EVENT_MARK not in names:
        names, lists = [EVENT_MARK, *names], [[marked.decode(errors="replace")] * batch.num_rows, *lists]
    rows = zip(*lists, strict=True) if lists else [()] * batch.num_rows
    records = [dict(zip(names, row, strict=True)) for row in rows]
    texts = [encode(record).encode("utf-8", "surrogateescape") for record in records]
    if source is not None:
        read = {_members(f.place) if mapped and isinstance(f.place, tuple) else (f.name,) for f in source.all_fields}
        for at, text in enumerate(texts):
            if not (text.isascii() or is_utf8(text)):
                texts[at] = encode(without_unread(records[at], (), read)).encode("utf-8", "surrogateescape")
    return pa.array(texts, type=pa.binary())


def _members(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The names of members that a path leads through."""
    return tuple(s for s in path if isinstance(s, str) and s != "[]")


def _forms(batch: pa.RecordBatch, source: EventSource, lists: list[list[Any]], own: Mapping[str, Any]) -> list[list[Any]]:
    """The values of columns that are no fields as they are, in the form that the fields within them are read from."""
    reads = [(f.place, f.parse) for f in source.all_fields if isinstance(f.place, tuple)]
    out = list(lists)
    for at, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        inner = [(path[1:], parse) for path, parse in reads if path[0] == name]
        form = None if name in own or pa.types.is_timestamp(column.type) else form_of(column.type, inner)
        if form is not None:
            values = as_bytes(column) if is_text(column.type) else lists[at]
            out[at] = [v if v is None or isinstance(v, str) else form(v) for v in values]
    return out


def _moments(column: pa.Array, values: list[Any], parse: Parse | None) -> list[Any]:
    """Microseconds as text that says its zone, where that can be; local times of which it is not known which moments they are, as such."""
    if is_local(column.type, parse):
        assert isinstance(parse, Local)
        known = column_of(column, parse, "timestamp")[0].to_pylist()
        local = [v if v is None or not MIN_US <= v <= MAX_US else f"{instant(v):{parse.format}}" for v in values]
        return [own if us is None else _moments(column, [us], None)[0] for us, own in zip(known, local, strict=True)]
    return [f"{instant(v):%Y-%m-%dT%H:%M:%S.%f}Z".rjust(27, "0") if v is not None and MIN_US <= v <= MAX_US else v for v in values]


def dead_letters(
    source: EventSource, checked: Checked, payloads: pa.Array, *, file: str | None = None, rows: pa.Array | None = None,
    topic: str | None = None, partition: int | None = None, offsets: pa.Array | None = None,
) -> pa.RecordBatch:  # fmt: skip
    """The R rejects of ``checked`` in :data:`DEAD_LETTER_SCHEMA`.

    ``payloads`` are the rejects' original bytes (binary, length R); ``rows`` and ``offsets`` (int64, length N) number all records.
    """
    at = pa.array(checked.rejected)
    given = {
        "source": source.name, "file": file, "topic": topic, "partition": partition, "payload": payloads,
        "row": None if rows is None else rows.take(at), "offset": None if offsets is None else offsets.take(at),
        "reason": checked.reasons.take(at), "detail": checked.details.take(at), "event_time": checked.times.take(at),
    }  # fmt: skip
    columns = [
        value if isinstance(value, pa.Array) else pa.nulls(len(at), f.type) if value is None
        else pa.array([value] * len(at), f.type)
        for f in DEAD_LETTER_SCHEMA for value in [given[f.name]]
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=DEAD_LETTER_SCHEMA)


# ---- the verdict -------------------------------------------------------------------------------------------------------


def _judge(
    source: EventSource, columns: dict[str, Column], start: Codes, notes: dict[int, str], raw: Callable[[str, int], Any],
    now_us: Now, max_future_us: int,
) -> Checked:  # fmt: skip
    """The verdicts on converted columns. ``start`` and ``notes`` are verdicts that hold for whole records already."""
    arrays, codes, times = apply_rules(source, columns, now_us, max_future_us)
    verdict = start.copy()
    for column_codes in codes.values():
        np.minimum(verdict, column_codes, out=verdict)
    good = verdict == OK
    bad = np.flatnonzero(~good)
    valid = pa.RecordBatch.from_arrays(arrays, schema=source.arrow_schema)
    if not len(bad):
        none = pa.nulls(len(good), pa.string())
        return Checked(valid, none, none, times)
    details: list[str | None] = [None] * len(good)
    for row in bad.tolist():
        if row in notes:
            details[row] = notes[row]
        else:
            name = next(name for name, c in codes.items() if c[row] == verdict[row])
            details[row] = detail_of(source, name, REASONS[verdict[row]], raw(name, row), max_future_us)
    reasons = pa.array(REASONS).take(pa.array(np.where(good, 0, verdict).astype(np.int64), mask=good))
    return Checked(valid.filter(pa.array(good)), reasons, pa.array(details, pa.string()), times)


def _marked(batch: pa.RecordBatch) -> bool:
    """Whether rows hold events as they were read, by the schema of their file or by a column that says so of each."""
    if EVENT_MARK.encode() in (batch.schema.metadata or {}):
        return True
    return EVENT_MARK in batch.schema.names and batch.num_rows > 0 and not batch.column(batch.schema.get_field_index(EVENT_MARK)).null_count


def _as_read(checked: Checked, source: EventSource) -> Checked:
    return replace(checked, valid=pa.RecordBatch.from_arrays(checked.valid.columns, schema=source.arrow_schema))


def joined(parts: Sequence[tuple[npt.NDArray[np.int64], Checked]], source: EventSource) -> Checked:
    """The verdicts on records that were judged in parts, each with the positions of its records, in the order of these."""
    schema = source.arrow_schema
    if source.explode is not None and sum(checked.valid.nbytes for _, checked in parts) > 2 * MAX_AT_ONCE:
        raise TooMuchAtOnce
    rows = np.concatenate([at for at, _ in parts])
    by_row = pa.array(np.argsort(rows, kind="stable"))
    records = np.concatenate([at[checked.accepted] for at, checked in parts])
    order = np.argsort(records, kind="stable")
    columns = [pa.concat_arrays([c.valid.column(i) for _, c in parts]).take(pa.array(order)) for i in range(len(schema))]
    reasons, details, times = (
        pa.concat_arrays(column).take(by_row) for column in zip(*((c.reasons, c.details, c.times) for _, c in parts), strict=True)
    )
    several = source.explode is not None or source.where is not None
    return Checked(
        pa.RecordBatch.from_arrays(columns, schema=schema), reasons, details, times, records[order] if several else None,
        sum(c.passed_over for _, c in parts), sum(c.empty for _, c in parts),
    )  # fmt: skip
