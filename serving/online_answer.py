"""The JSON of an answer of Feast's feature server, written from columns: what several features share is written once."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from serving.answer_columns import Columns
from serving.answer_parts import (
    LIST_STATUSES,
    NEXT,
    NEXT_LIST,
    NEXT_STATUSES,
    NUMBERS,
    WORDS,
    Written,
    ages_json,
    lists_json,
    repeated,
    stamps_json,
    statuses_json,
    with_odd,
)
from serving.feast_types import not_finite, to_json
from serving.packed_answer import written_packed
from serving.packed_view_rows import PackedViewRows
from serving.protocol import format_timestamp
from serving.view_rows import PRESENT, ViewRows

__all__ = ["online_json", "status_words"]


def online_json(names: list[str], given: Mapping[str, list[Any]], pairs: list[tuple[ViewRows, str]], n: int) -> bytes:
    """The answer to a request for N entities: the columns ``given``, then per pair a feature of what was read of a view; ``names`` has the
    names of all."""
    parts: list[bytes] = []
    end = _end_of_given(n)
    for values in given.values():
        parts += (NEXT, orjson.dumps(values), end)
    features: dict[int, tuple[ViewRows, list[str]]] = {}
    for group, feature in pairs:
        features.setdefault(id(group), (group, []))[1].append(feature)
    packed = [group for group, _ in features.values() if isinstance(group, PackedViewRows)]
    written = dict(zip(map(id, packed), written_packed(packed)))
    for place, (group, asked) in features.items():
        written[place] = _written(group, asked, written.get(place, {}))
    for group, feature in pairs:
        parts += written[id(group)][feature]
    if parts:
        parts[0] = parts[0][1:]  # no comma before the first
    return b"".join([_head(tuple(names)), *parts, b"]}"])


@lru_cache(maxsize=256)
def _head(names: tuple[str, ...]) -> bytes:
    return b'{"metadata":{"feature_names":%b},"results":[' % orjson.dumps(names)


@lru_cache(maxsize=64)
def _end_of_given(n: int) -> bytes:
    epoch = repeated(f'"{format_timestamp(0)}"', n)
    return b',"statuses":%b,"event_timestamps":%b,"ages":%b}' % (repeated(WORDS[PRESENT], n), epoch, repeated("null", n))


def _written(group: ViewRows, features: list[str], made: Written) -> Written:
    """What a view's features are in an answer; ``made``: some of them."""
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
            said = orjson.dumps(with_odd(codes, odd))
        elif (said := words.get(id(codes), b"")) == b"":
            said = words[id(codes)] = statuses_json(codes)
        if plain:
            numbers.append((feature, said))
            columns.append(column)
        else:
            made[feature] = NEXT, orjson.dumps(column, option=NUMBERS), NEXT_STATUSES, said, times
    for (feature, said), values in zip(numbers, lists_json(columns)):
        made[feature] = NEXT_LIST, values, LIST_STATUSES, said, times
    return made


def status_words(group: ViewRows, feature: str) -> list[str]:
    """As an answer says them: of a value that JSON cannot carry, null is not what is stored."""
    return with_odd(group.statuses[feature], _values(group, feature)[2])


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
