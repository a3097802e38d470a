"""What the values of one column say of themselves: type, unit, form, range, domain, nulls. Pure; by Arrow's kernels."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.inference.column import Column, numbers
from pipelines.inference.connect_schema import ReadAs
from pipelines.inference.names import words
from pipelines.inference.times import clock_times, digit_days, epoch, epoch_text, moments, text_times, times
from transforms.conversions import value_of
from transforms.instants import micros_of
from transforms.json_payload import Refused

__all__ = ["EMPTY_LISTS", "KEYS", "describe"]

EMPTY_LISTS = "empty lists"

MOST_WORDS = 12
MOST_TEXT = 64 << 10
BEYOND = "whole numbers that an int64 does not hold (beyond 2^63): a text without loss"
MOST_OF_SCHEMA = 64
"""Words of an enum that are a domain: more are a list of their own, such as currencies."""
KEYS = (
    "user", "uid", "customer", "device", "account", "card", "card1", "merchant", "location", "vendor", "sku", "product", "session",
    "zaehler",
)  # fmt: skip
"""Words of names of what events are about, the likeliest first."""
_IDS = {"id", "code", "key", "zip", "phone", "number", "postcode", "plz", "last4", "ssn", "isbn", "ean", "gtin", "imei", "pin"}
"""Words of names whose digits are no amounts."""
_VERSIONS = {"ver", "fw", "firmware", "release", "revision"}
"""Words of names of versions, besides those that end so: 1.10 is no 1.1."""
_OPEN = {
    "country", "currency", "lang", "language", "locale", "city", "email", "mail", "host", "hostname", "ip", "url", "uri", "path", "page",
}  # fmt: skip
"""Words of names whose values are of a long list, of which data has a few today."""
_PACKED = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"


def describe(
    steps: tuple[Any, ...], values: list[Any], kind: pa.DataType | None, text: bool, decimal_mark: str, zone: str | None,
    thousands: str | None = None, asked: str | None = None, words: tuple[str, ...] = (), told: ReadAs | None = None,
) -> Column:  # fmt: skip
    """What N values are. ``text``: their format has nothing else; ``kind``: their type in the file, where it has one; ``asked`` is what
    the event time is said to be called; ``words``: those that a schema has for them, where it is one of an enum; ``told``:
    how they are read, where the records say it."""
    rows = len(values)
    column = Column(steps, rows, sum(v is None for v in values), asked=asked in (steps[-1], ".".join(map(str, steps))))
    if column.nulls == rows:
        column.left_out = "null in all records that were looked at"
        return column
    if told is not None and _as_told(column, values, told):
        return column
    column.unsigned = kind is not None and pa.types.is_unsigned_integer(kind)
    if kind is not None and pa.types.is_decimal(kind):
        _decimals(column, values, kind.scale)
        return column
    if kind is not None and pa.types.is_float16(kind):
        values = [None if v is None else float(v) for v in values]
    types = set(map(type, values)) - {type(None)}
    if words and types == {str} and _of_schema(column, values, words):
        return column
    if types <= {str}:
        _texts(column, values, text, decimal_mark, zone, thousands)
    elif types == {bool}:
        column.dtype, column.distinct = "bool", len({v for v in values if v is not None})
    elif types == {int} or types == {int, float} or types == {float}:
        if types != {int} or not digit_days(column, values, zone):
            _plain_numbers(column, values, types)
    elif types == {int, str} and all(len(v.encode()) <= MOST_TEXT for v in values if isinstance(v, str)):
        _as_text(column, values, "a text in some records and a number in others")
    elif all(issubclass(t, (dt.time, dt.timedelta)) for t in types):
        clock_times(column, values)
    elif all(issubclass(t, dt.datetime) for t in types):
        times(column, values, zone)
    elif types == {dt.date}:
        column.dtype, column.parse = "timestamp", "Date()"
        moments(column, [None if v is None else micros_of(dt.datetime(v.year, v.month, v.day, tzinfo=dt.UTC)) for v in values])
    elif types == {bytes}:
        _bytes(column, values)
    elif types == {list}:
        _lists(column, values)
    elif types <= {decimal.Decimal}:
        _decimals(column, values, max(-int(v.as_tuple().exponent) for v in values if v is not None))
    else:
        column.left_out = (
            f"values of several types ({', '.join(sorted(t.__name__ for t in types))})" if len(types) > 1 else _kind_name(types)
        )
    return column


def _as_told(column: Column, values: list[Any], told: ReadAs) -> bool:
    """Whether all values are read as it is told; then the column is."""
    try:
        read = [None if v is None else value_of(v, told.parse, told.dtype) for v in values]
    except Refused:
        return False
    column.dtype, column.parse = told.dtype, told.text
    if told.dtype == "timestamp":
        moments(column, read)
    else:
        numbers(column, read)
    return True


def _of_schema(column: Column, values: list[Any], known: tuple[str, ...]) -> bool:
    """Whether texts are the words of an enum, all of which are the domain then, seen or not; of very many there is none."""
    seen = {v for v in values if v is not None}
    if not seen <= set(known):
        return False
    column.dtype, column.distinct = "string", len(seen)
    if len(known) <= MOST_OF_SCHEMA:
        column.domain = list(known)
        column.notes.append(f"the enum of the schema; {len(seen):,} of {len(known):,} words seen")
    else:
        column.notes.append(f"one of the {len(known):,} words of the schema's enum")
    return True


def _kind_name(types: set[type]) -> str:
    return f"values of type {next(iter(types)).__name__}, which no field has"


def _decimals(column: Column, values: list[Any], scale: int) -> None:
    """Decimals; those without a fraction are whole numbers, as databases have ids: NUMBER(38, 0), NUMERIC(20)."""
    if scale <= 0 and any(v is not None and not -(2**63) <= v < 2**63 for v in values):
        _as_text(column, [None if v is None else int(v) for v in values], BEYOND)
        return
    column.dtype, column.parse = "float64" if scale > 0 else "int64", f"Decimal(scale={max(scale, 0)})"
    numbers(column, [None if v is None else float(v) if scale > 0 else int(v) for v in values])
    column.left_out = "a decimal of more than 15 digits after the decimal point" if scale > 15 else ""


def _as_text(column: Column, values: list[Any], why: str) -> None:
    """Whole numbers, and texts perhaps, as texts: what tells things apart."""
    column.dtype, column.parse, column.distinct = "string", "Text()", len({str(v) for v in values if v is not None})
    column.notes.append(why)


def _plain_numbers(column: Column, values: list[Any], types: set[type]) -> None:
    known = [v for v in values if v is not None]
    if any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in known):
        if types != {int} or any(abs(v) >= 10**400 for v in known):
            column.left_out = "integers beyond 64 bits"
        else:
            _as_text(column, values, BEYOND)
        return
    if float in types:
        finite = [v for v in known if v == v and abs(v) != float("inf")]
        if len(finite) < len(known):
            column.notes.append(f"{len(known) - len(finite):,} values are NaN or infinite, which are rejects; where= may pass them over")
        whole = all(float(v).is_integer() and abs(v) < 2**53 for v in finite)
        ids = {"id", "code", "nr", "number"} & set(words(column.called))
        column.dtype = "int64" if whole and finite and ids and len(finite) == len(known) else "float64"
        values = [None if v is None or v != v or abs(v) == float("inf") else float(v) for v in values]
        if column.dtype == "int64":
            column.notes.append("written as floats")
    else:
        column.dtype = "int64"
    numbers(column, values)
    epoch(column, values)


def _texts(column: Column, values: list[Any], text: bool, decimal_mark: str, zone: str | None, thousands: str | None) -> None:
    array = pa.array(values, pa.string())
    column.distinct = int(pc.count_distinct(array).as_py())
    name = column.called

    first = next(v for v in values if v is not None)

    def all_match(pattern: str) -> bool:
        return bool(re.search(pattern, first)) and bool(pc.all(pc.match_substring_regex(array, pattern)).as_py())

    column.dtype = "string"
    if text_times(column, values, all_match, text, zone):
        return
    version = any(w.endswith("version") or w in _VERSIONS for w in words(name))
    mark = re.escape(decimal_mark)
    real = rf"^[+-]?(\d{{1,15}}({mark}\d*)?|{mark}\d+)([eE][+-]?\d{{1,2}})?$"
    code = bool(pc.any(pc.match_substring_regex(array, r"^[+-]?0\d")).as_py())
    if thousands and all_match(_grouped(thousands, decimal_mark)) and pc.any(pc.match_substring(array, thousands)).as_py():
        array = pc.replace_substring(array, thousands, "")
        values, first = array.to_pylist(), first.replace(thousands, "")
    if text and pc.all(pc.is_in(pc.utf8_lower(array), value_set=pa.array(["true", "false", None], pa.string()))).as_py():
        column.dtype = "bool"
    elif code:
        if text and (all_match(r"^[+-]?\d+$") or all_match(real)):
            column.notes.append("digits with leading zeros: text, so that these stay")
    elif all_match(r"^[+-]?(0|[1-9]\d{0,18})$") and all(v is None or abs(int(v)) < 2**63 for v in values):
        whole = [None if v is None else int(v) for v in values]
        if text:
            _plain_numbers(column, whole, {int})
        elif not (version or _is_id(name)):
            column.dtype, column.parse = "int64", "Number()"
            numbers(column, whole)
            epoch_text(column, whole)
    elif not text and (version or _is_id(name)):
        pass  # 1.0 is followed by 1.0.1; 1234.1714557660 is who it is, as GA4 has it
    elif all_match(real):
        _real_texts(column, values, text, decimal_mark)
    elif all_match(r"^\d+$") and text:
        column.notes.append(BEYOND)
    if column.dtype == "string" and column.distinct >= MOST_WORDS and all_match(_PACKED) and pc.any(pc.ends_with(array, "=")).as_py():
        column.notes.append("QUESTION: bytes in base64? a number of Debezium or Kafka Connect is parse=Decimal(scale=2, unscaled=True)")
    if column.dtype == "string":
        longest = pc.max(pc.binary_length(array)).as_py()
        if longest > MOST_TEXT:
            column.left_out = "texts above 64 KiB"
    if column.dtype == "string" and column.distinct == 1:
        column.low = column.high = first
    if column.dtype == "string" and not _is_id(name) and not _OPEN & set(words(name)):
        column.domain = _recurring(array.drop_null())


def _recurring(texts: pa.Array) -> list[str] | None:
    """The words that all N texts are of, if N is enough to say that there are no others: each is there often, and the second half has none
    that the first had not. One alone is none of several: tomorrow's may be another."""
    counts = pc.value_counts(texts)
    known, often = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
    many = len(texts) >= max(200, 15 * len(known)) and min(often) >= 5 and sum(map(len, known)) <= 72  # longer ones are no names
    if not (2 <= len(known) <= MOST_WORDS and many and pc.count_distinct(texts[: len(texts) // 2]).as_py() == len(known)):
        return None
    return None if _are_numbered(known) or any("@" in word or "/" in word for word in known) else sorted(known)


def _are_numbered(known: list[str]) -> bool:
    """Whether words differ by their numbers alone, as names of things do, of which there will be others: u1, u2; 10.0.0.7."""
    return len({re.sub(r"\d+", "0", word) for word in known}) == 1


def _is_id(name: str) -> bool:
    """Whether what is called so tells things apart, of which there will be others than were seen."""
    found = words(name)
    return bool(_IDS & set(found)) or (found[-1:] != [] and found[-1] in KEYS)


def _grouped(thousands: str, decimal_mark: str) -> str:
    """What numbers look like in groups of three digits, and those that are too small for it."""
    group, mark = re.escape(thousands), re.escape(decimal_mark)
    return rf"^[+-]?\d{{1,3}}({group}\d{{3}})*({mark}\d*)?$"


def _real_texts(column: Column, values: list[Any], text: bool, decimal_mark: str) -> None:
    plain = [None if v is None else v.replace(decimal_mark, ".") for v in values]
    exponents = any(v is not None and "e" in v.lower() for v in plain)
    scale = max(len(v.partition(".")[2]) for v in plain if v is not None)
    real = [None if v is None else float(v) for v in plain]
    column.dtype = "float64"
    if text and all(v is None or v.is_integer() for v in real):
        column.notes.append("written as floats")
        column.dtype = "int64" if {"id", "code", "nr", "number"} & set(words(column.called)) else "float64"
    if not text:
        column.parse = "Number()" if exponents or scale > 15 else f"Decimal(scale={scale})"
    numbers(column, real)
    if not exponents:
        epoch_text(column, real)


def _bytes(column: Column, values: list[Any]) -> None:
    column.dtype = "string"
    try:
        column.distinct = len({v.decode() for v in values if v is not None})
    except UnicodeDecodeError:
        column.parse = "Hex()"
        column.distinct = len({v for v in values if v is not None})


def _lists(column: Column, values: list[Any]) -> None:
    inner = {type(e) for v in values if v is not None for e in v}
    kinds: dict[frozenset[type], str] = {
        frozenset({str}): "list<string>", frozenset({int}): "list<int64>", frozenset({float}): "list<float>",
        frozenset({int, float}): "list<float>", frozenset({bool}): "list<bool>",
    }  # fmt: skip
    found = kinds.get(frozenset(inner))
    if found is None:
        held = inner - {type(None)}
        column.left_out = (
            EMPTY_LISTS if not inner
            else "maps whose keys no path names" if inner == {tuple}
            else f"lists that hold nulls, and {kinds[frozenset(held)]} has none" if frozenset(held) in kinds
            else f"lists of {', '.join(sorted(t.__name__ for t in inner))}"
        )  # fmt: skip
    else:
        column.dtype = found
        sizes = {len(v) for v in values if v is not None}
        if found == "list<float>" and len(sizes) == 1 and max(sizes) > 1 and column.rows - column.nulls >= 20:
            column.notes.append(f"always {max(sizes)} elements: length={max(sizes)}, if that is meant, as of embeddings")
        else:
            column.notes.append(f"up to {max(sizes)} elements")
