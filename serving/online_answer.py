"""The JSON of an answer of Feast's feature server, written from columns: what several features share is written once."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from serving.columns import Columns
from serving.feast_types import not_finite, to_json
from serving.packed_view_rows import PackedViewRows
from serving.protocol import format_timestamp
from serving.view_rows import PRESENT, STATUSES, ViewRows

__all__ = ["NOT_FINITE", "ages_json", "online_json", "stamps_json", "status_words", "statuses_json"]

NOT_FINITE = "NOT_FINITE"
"""What a JSON answer says of a value that is PRESENT and NaN or infinite: its place holds null."""

_FEW, _MANY = 24, 400
"""Rows up to which, and from which on, times are written one by one, and digit by digit for all at once."""
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the years 1 and 9999."""
_WORDS = [f'"{word}"' for word in STATUSES]
_PARTS = [f"{word},".encode() for word in _WORDS]
_NUMBERS = orjson.OPT_SERIALIZE_NUMPY
_SECOND = 1_000_000
_WHOLE, _FRACTION = b'"0000-00-00T00:00:00Z",', b'"0000-00-00T00:00:00.000000Z",'
_DIGITS = np.array([list(b"%03d" % i) for i in range(1000)], np.uint8)
"""The digits of each number below a thousand."""
Written = dict[str, tuple[bytes, ...]]
"""By feature: its result, in parts, with the comma before it."""


def online_json(names: list[str], given: Mapping[str, list[Any]], pairs: list[tuple[ViewRows, str]], n: int) -> bytes:
    """The answer to a request for N entities: the columns ``given``, then per pair a feature of what was read of a view; ``names`` has the
    names of all."""
    parts: list[bytes] = []
    end = _end_of_given(n)
    for values in given.values():
        parts += (_NEXT, orjson.dumps(values), end)
    features: dict[int, list[str]] = {}
    for group, feature in pairs:
        features.setdefault(id(group), []).append(feature)
    written: dict[int, Written] = {}
    for group, feature in pairs:
        known = written.get(id(group))
        if known is None:
            known = written[id(group)] = _written(group, features[id(group)])
        parts += known[feature]
    if parts:
        parts[0] = parts[0][1:]  # no comma before the first
    return b"".join([_head(tuple(names)), *parts, b"]}"])


_NEXT, _STATUSES = b',{"values":', b',"statuses":'
_NEXT_LIST, _LIST_STATUSES = b',{"values":[', b'],"statuses":'


@lru_cache(maxsize=256)
def _head(names: tuple[str, ...]) -> bytes:
    return b'{"metadata":{"feature_names":%b},"results":[' % orjson.dumps(names)


@lru_cache(maxsize=64)
def _end_of_given(n: int) -> bytes:
    epoch = _repeated(f'"{format_timestamp(0)}"', n)
    return b',"statuses":%b,"event_timestamps":%b,"ages":%b}' % (_repeated(_WORDS[PRESENT], n), epoch, _repeated("null", n))


def _written(group: ViewRows, features: list[str]) -> Written:
    """What a view's features are in an answer."""
    made = _few(group) if isinstance(group, PackedViewRows) and group.plainly else {}
    rest = [feature for feature in features if feature not in made] if made else features
    if not rest:
        return made
    times = b',"event_timestamps":%b,"ages":%b}' % (stamps_json(group.timestamps_us), ages_json(group))
    words: dict[int, bytes] = {}
    numbers: list[tuple[str, bytes]] = []
    columns: list[Any] = []
    for feature in rest:
        column, plain, odd = _values(group, feature)
        codes = group.statuses[feature]
        if odd:
            said = orjson.dumps(_with_odd(codes, odd))
        elif (said := words.get(id(codes), b"")) == b"":
            said = words[id(codes)] = statuses_json(codes)
        if plain:
            numbers.append((feature, said))
            columns.append(column)
        else:
            made[feature] = _NEXT, orjson.dumps(column, option=_NUMBERS), _STATUSES, said, times
    for (feature, said), values in zip(numbers, _lists(columns)):
        made[feature] = _NEXT_LIST, values, _LIST_STATUSES, said, times
    return made


def _lists(columns: list[Any]) -> list[bytes]:
    """The JSON of each column of numbers or booleans, of one length, without its brackets: by one call for all."""
    return orjson.dumps(columns, option=_NUMBERS)[2:-2].split(b"],[") if columns else []


def _few(group: PackedViewRows) -> Written:
    """The features of few packed rows that are all there, without a step between them and what is written, and without numpy, whose calls
    would cost more than the numbers; nothing of types that are left to Arrow."""
    made: Written = {}
    rows, now = group.rows, group.as_of_us
    at = rows.times
    ages = orjson.dumps([(now - t) / 1e6 for t in at])
    times = b',"event_timestamps":["%b"],"ages":%b}' % ('","'.join(map(format_timestamp, at)).encode(), ages)
    present = _repeated(_WORDS[PRESENT], len(rows))
    numbers: list[tuple[str, list[int] | None]] = []
    columns: list[Any] = []
    for feature, slot in group.plan.slots:
        sort = _SORTS.get(slot.message) if slot.plain else None
        if sort is None:
            continue
        values, nulls = rows.values(slot), rows.null_list(slot)
        if sort == "bytes":
            values = [base64.b64encode(v).decode() for v in values]
        if nulls is not None:
            values = [None if null else v for v, null in zip(values, nulls)]
        if sort == "number":
            numbers.append((feature, nulls))
            columns.append(values)
        else:
            made[feature] = _NEXT, orjson.dumps(values), _STATUSES, present if nulls is None else _said(tuple(nulls)), times
    for (feature, nulls), values, column in zip(numbers, _lists(columns), columns):
        said = present if nulls is None else _said(tuple(nulls))
        if b"null" in values and values.count(b"null") != sum(nulls or ()):  # what JSON has no form for
            odd = [i for i, v in enumerate(column) if v is not None and not math.isfinite(v)]
            codes = np.array(nulls or [PRESENT] * len(rows), np.uint8)
            said = orjson.dumps(_with_odd(codes, odd))
        made[feature] = _NEXT_LIST, values, _LIST_STATUSES, said, times
    return made


@lru_cache(maxsize=1024)
def _said(codes: tuple[int, ...]) -> bytes:
    return statuses_json(np.array(codes, np.uint8))


_SORTS = {
    "double_val": "number",
    "float_val": "number",
    "int64_val": "number",
    "int32_val": "number",
    "bool_val": "number",
    "string_val": "text",
    "bytes_val": "bytes",
}
"""How the values of a packed feature are written, by the field of a ValueProto; one of times is left to Arrow."""


@lru_cache(maxsize=64)
def _repeated(word: str, n: int) -> bytes:
    return f"[{','.join([word] * n)}]".encode()


def statuses_json(codes: npt.NDArray[np.uint8]) -> bytes:
    """The words of N status codes."""
    if not codes.any():
        return _repeated(_WORDS[PRESENT], len(codes))
    text = codes.tobytes()
    for code in set(text):  # the codes are no characters of the words
        text = text.replace(bytes([code]), _PARTS[code])
    return b"[%b]" % text[:-1]


def status_words(group: ViewRows, feature: str) -> list[str]:
    """As an answer says them: of a value that JSON cannot carry, null is not what is stored."""
    return _with_odd(group.statuses[feature], _values(group, feature)[2])


def _with_odd(codes: npt.NDArray[np.uint8], odd: list[int]) -> list[str]:
    words = [STATUSES[s] for s in codes.tolist()]
    for row in odd:
        words[row] = NOT_FINITE
    return words


def stamps_json(times: npt.NDArray[np.int64]) -> bytes:
    """N times (us) as :func:`~serving.protocol.format_timestamp` writes them."""
    n = len(times)
    if n <= _FEW or times.min() < _FIRST or times.max() > _LAST:
        return orjson.dumps(list(map(format_timestamp, times.tolist())))
    if n < _MANY:
        texts = np.datetime_as_string(times.view("datetime64[us]")).tolist()
        if (times % 1000 == 0).any():
            return orjson.dumps(list(map(format_timestamp, times.tolist())))
        return ('["' + 'Z","'.join(texts) + 'Z"]').encode()
    seconds = times // _SECOND
    days = seconds // 86_400
    micros, clock = (times - seconds * _SECOND).astype(np.int32), (seconds - days * 86_400).astype(np.int32)
    form = _WHOLE if not micros.any() else _FRACTION
    text = np.empty((n, len(form)), np.uint8)
    text[:] = np.frombuffer(form, np.uint8)
    each, which = (days[:1], None) if (days == days[0]).all() else np.unique(days, return_inverse=True)
    dates = (
        np.array([format_timestamp(day * 86_400 * _SECOND)[:10].encode() for day in each.tolist()], "S10").view(np.uint8).reshape(-1, 10)
    )
    text[:, 1:11] = dates if which is None else dates[which]
    hours = clock // 3600
    minutes = clock // 60
    text[:, 12:14], text[:, 15:17] = _DIGITS[hours, 1:], _DIGITS[minutes - hours * 60, 1:]
    text[:, 18:20] = _DIGITS[clock - minutes * 60, 1:]
    if form is _WHOLE:
        return b"[%b]" % text.tobytes()[:-1]
    millis = micros // 1000
    text[:, 21:24], text[:, 24:27] = _DIGITS[millis], _DIGITS[micros - millis * 1000]
    coarse = np.flatnonzero(micros == millis * 1000).tolist()
    if not coarse:
        return b"[%b]" % text.tobytes()[:-1]
    words = text.tobytes()[:-1].split(b",")
    for i in coarse:
        words[i] = words[i][: 24 if micros[i] else 20] + b'Z"'
    return b"[%b]" % b",".join(words)


def ages_json(group: ViewRows) -> bytes:
    """The ages of N rows, null where there is no row."""
    return orjson.dumps(np.ascontiguousarray(group.ages), option=_NUMBERS)


def _values(group: ViewRows, feature: str) -> tuple[Any, bool, list[int]]:
    """(what JSON is written from; whether these are numbers or booleans; the rows whose value JSON has no form for)."""
    numbers = group.columns.numbers_of(feature) if isinstance(group.columns, Columns) else None
    if numbers is not None and not pa.types.is_timestamp(numbers[2]):
        array, nulls, kind = numbers
        if pa.types.is_floating(kind):  # NaN where it is null, which is written as null
            finite = np.isfinite(array)
            whole = bool(finite.all() if nulls is None else (finite | nulls).all())
            odd = [] if whole else np.flatnonzero(~finite if nulls is None else ~(finite | nulls)).tolist()
            return array.astype(np.float64, copy=False), True, odd
        if nulls is None:
            return array, True, []
        return [None if null else v for v, null in zip(array.tolist(), nulls.tolist())], True, []
    came = group.columns.list_of(feature) if isinstance(group.columns, Columns) else None
    if came is not None and not pa.types.is_timestamp(came[1]):
        values, kind = came
        if pa.types.is_floating(kind):
            return values, True, [i for i, v in enumerate(values) if v is not None and not math.isfinite(v)]
        if pa.types.is_binary(kind):
            return [None if v is None else base64.b64encode(v).decode() for v in values], False, []
        return values, False, []
    column = group.columns[feature]
    kind = column.type
    if pa.types.is_float64(kind) or pa.types.is_float32(kind):  # a null is NaN, which is written as null
        numbers = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        return np.ascontiguousarray(numbers), True, [] if np.isfinite(numbers).all() else not_finite(column)
    if not column.null_count and (pa.types.is_int64(kind) or pa.types.is_int32(kind) or pa.types.is_boolean(kind)):
        return np.ascontiguousarray(column.to_numpy(zero_copy_only=False)), True, []
    return to_json(column), False, not_finite(column)
