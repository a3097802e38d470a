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

_FEW = 24
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the years 1 and 9999."""
_WORDS = [f'"{word}"' for word in STATUSES]
_PARTS = [f"{word},".encode() for word in _WORDS]


def online_json(names: list[str], given: Mapping[str, list[Any]], pairs: list[tuple[ViewRows, str]], n: int) -> bytes:
    """The answer to a request for N entities: the columns ``given``, then per pair a feature of what was read of a view; ``names`` has the
    names of all."""
    present, epoch, nothing = _repeated('"PRESENT"', n), _repeated(f'"{format_timestamp(0)}"', n), _repeated("null", n)
    results: list[Any] = [{"values": values, "statuses": present, "event_timestamps": epoch, "ages": nothing} for values in given.values()]
    shared: dict[int, tuple[orjson.Fragment, orjson.Fragment, dict[str, tuple[Any, Any]]]] = {}
    words: dict[int, orjson.Fragment] = {}
    for group, feature in pairs:
        known = shared.get(id(group))
        if known is None:
            known = shared[id(group)] = (*_times(group), _few(group))
        stamps, ages, few = known
        if feature in few:
            values, said = few[feature]
        else:
            values, odd = _values(group, feature)
            codes = group.statuses[feature]
            if odd:
                said = orjson.Fragment(orjson.dumps(_with_odd(codes, odd)))
            elif id(codes) in words:
                said = words[id(codes)]
            else:
                said = words[id(codes)] = statuses_json(codes)
        results.append({"values": values, "statuses": said, "event_timestamps": stamps, "ages": ages})
    return orjson.dumps({"metadata": {"feature_names": names}, "results": results}, option=orjson.OPT_SERIALIZE_NUMPY)


def _times(group: ViewRows) -> tuple[orjson.Fragment, orjson.Fragment]:
    """(time stamps, ages)."""
    if isinstance(group, PackedViewRows) and group.plainly:  # without numpy, whose calls would cost more than few numbers
        times, now = group.rows.times, group.as_of_us
        stamps = orjson.Fragment(orjson.dumps(list(map(format_timestamp, times))))
        return stamps, orjson.Fragment(orjson.dumps([(now - at) / 1e6 for at in times]))
    return stamps_json(group.timestamps_us), ages_json(group)


def _few(group: ViewRows) -> dict[str, tuple[Any, Any]]:
    """(values, statuses) of the features of few packed rows that are all there, without a step between them and what is written; nothing of
    others, nor of types that are left to Arrow."""
    if not isinstance(group, PackedViewRows) or not group.plainly:
        return {}
    rows, made = group.rows, {}
    present = _repeated(_WORDS[PRESENT], len(rows))
    for feature, slot in group.plan.slots:
        sort = _SORTS.get(slot.message) if slot.plain else None
        if sort is None:
            continue
        values, nulls, said = rows.values(slot), rows.null_list(slot), present
        if sort == "bytes":
            values = [base64.b64encode(v).decode() for v in values]
        if nulls is not None:
            values = [None if null else v for v, null in zip(values, nulls)]
            said = _said(tuple(nulls))
        if sort == "float":
            odd = [i for i, v in enumerate(values) if v is not None and not math.isfinite(v)]
            if odd:
                said = orjson.Fragment(orjson.dumps(_with_odd(np.array(nulls or [PRESENT] * len(values), np.uint8), odd)))
        made[feature] = values, said
    return made


@lru_cache(maxsize=1024)
def _said(codes: tuple[int, ...]) -> orjson.Fragment:
    return statuses_json(np.array(codes, np.uint8))


_SORTS = {
    "double_val": "float",
    "float_val": "float",
    "int64_val": "plain",
    "int32_val": "plain",
    "bool_val": "plain",
    "string_val": "plain",
    "bytes_val": "bytes",
}
"""How the values of a packed feature are written, by the field of a ValueProto; one of times is left to Arrow."""


@lru_cache(maxsize=64)
def _repeated(word: str, n: int) -> orjson.Fragment:
    return orjson.Fragment(f"[{','.join([word] * n)}]".encode())


def statuses_json(codes: npt.NDArray[np.uint8]) -> orjson.Fragment:
    """The words of N status codes."""
    if not codes.any():
        return _repeated(_WORDS[PRESENT], len(codes))
    text = codes.tobytes()
    for code in set(text):  # the codes are no characters of the words
        text = text.replace(bytes([code]), _PARTS[code])
    return orjson.Fragment(b"[%b]" % text[:-1])


def status_words(group: ViewRows, feature: str) -> list[str]:
    """As an answer says them: of a value that JSON cannot carry, null is not what is stored."""
    return _with_odd(group.statuses[feature], _values(group, feature)[1])


def _with_odd(codes: npt.NDArray[np.uint8], odd: list[int]) -> list[str]:
    words = [STATUSES[s] for s in codes.tolist()]
    for row in odd:
        words[row] = NOT_FINITE
    return words


def stamps_json(times: npt.NDArray[np.int64]) -> orjson.Fragment:
    """N times (us) as :func:`~serving.protocol.format_timestamp` writes them."""
    if len(times) <= _FEW or times.min() < _FIRST or times.max() > _LAST:
        return orjson.Fragment(orjson.dumps(list(map(format_timestamp, times.tolist()))))
    texts = np.datetime_as_string(times.view("datetime64[us]")).tolist()
    if (coarse := times % 1000 == 0).any():
        for i in np.flatnonzero(coarse).tolist():
            texts[i] = texts[i][: 19 if texts[i].endswith("000000") else 23]
    joined = 'Z","'.join(texts)
    return orjson.Fragment(f'["{joined}Z"]'.encode())


def ages_json(group: ViewRows) -> orjson.Fragment:
    """The ages of N rows, null where there is no row."""
    return orjson.Fragment(orjson.dumps(np.ascontiguousarray(group.ages), option=orjson.OPT_SERIALIZE_NUMPY))


def _values(group: ViewRows, feature: str) -> tuple[Any, list[int]]:
    """(what JSON is written from; the rows whose value JSON has no form for)."""
    numbers = group.columns.numbers_of(feature) if isinstance(group.columns, Columns) else None
    if numbers is not None and not pa.types.is_timestamp(numbers[2]):
        array, nulls, kind = numbers
        if pa.types.is_floating(kind):  # NaN where it is null, which is written as null
            finite = np.isfinite(array)
            whole = bool(finite.all() if nulls is None else (finite | nulls).all())
            odd = [] if whole else np.flatnonzero(~finite if nulls is None else ~(finite | nulls)).tolist()
            return array.astype(np.float64, copy=False), odd
        if nulls is None:
            return array, []
        return [None if null else v for v, null in zip(array.tolist(), nulls.tolist())], []
    came = group.columns.list_of(feature) if isinstance(group.columns, Columns) else None
    if came is not None and not pa.types.is_timestamp(came[1]):
        values, kind = came
        if pa.types.is_floating(kind):
            return values, [i for i, v in enumerate(values) if v is not None and not math.isfinite(v)]
        if pa.types.is_binary(kind):
            return [None if v is None else base64.b64encode(v).decode() for v in values], []
        return values, []
    column = group.columns[feature]
    kind = column.type
    if pa.types.is_float64(kind) or pa.types.is_float32(kind):  # a null is NaN, which is written as null
        numbers = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        return np.ascontiguousarray(numbers), [] if np.isfinite(numbers).all() else not_finite(column)
    if not column.null_count and (pa.types.is_int64(kind) or pa.types.is_int32(kind) or pa.types.is_boolean(kind)):
        return np.ascontiguousarray(column.to_numpy(zero_copy_only=False)), []
    return to_json(column), not_finite(column)
