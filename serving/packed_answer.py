"""The JSON of packed rows: a view's features at once, with no column and no array of statuses of any one feature in between."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serving.answer_parts import (
    LIST_STATUSES,
    NEXT,
    NEXT_LIST,
    NEXT_STATUSES,
    PARTS,
    WORDS,
    Written,
    ages_json,
    lists_json,
    repeated,
    stamps_json,
    statuses_json,
    with_odd,
)
from serving.online_store.packed import Layout, Slot
from serving.packed_view_rows import PackedViewRows
from serving.protocol import format_timestamp
from serving.view_rows import NULL, PRESENT, Bools, Codes

__all__ = ["written_packed"]

_FLOATS, _WHOLE, _BOOLS = ("double_val", "float_val"), ("int64_val", "int32_val"), ("bool_val",)
_PRESENT, _NULL = (WORDS[code].encode() for code in (PRESENT, NULL))
_END = 255
"""Between the statuses of two features: no code, and no character of a word."""


@dataclass(frozen=True)
class _Way:
    """Which of a view's features are written how: of those that are numbers or booleans the names and slots, floats first, then whole
    numbers, then booleans, and the bits of their nulls; then texts and bytes. What is neither is left to Arrow."""

    names: tuple[str, ...]
    slots: tuple[Slot, ...]
    floats: int
    whole: int
    places: tuple[int, ...]
    """Of the numbers, in ``Layout.struct``."""
    mask: int
    texts: tuple[tuple[str, Slot], ...]


@lru_cache(maxsize=256)
def _way(layout: Layout, features: tuple[str, ...]) -> _Way:
    slots = [(feature, layout.slots[feature]) for feature in features if layout.slots[feature].plain]
    sorts = [[(name, slot) for name, slot in slots if slot.message in kind] for kind in (_FLOATS, _WHOLE, _BOOLS)]
    numbers = [each for sort in sorts for each in sort]
    mask = 0
    for _, slot in numbers:
        mask |= 1 << slot.place
    return _Way(
        tuple(name for name, _ in numbers),
        tuple(slot for _, slot in numbers),
        len(sorts[0]),
        len(sorts[1]),
        tuple(2 + slot.number for _, slot in numbers),
        mask,
        tuple((name, slot) for name, slot in slots if not slot.fixed),
    )


def written_packed(group: PackedViewRows) -> Written:
    """What the features of a view are in an answer; those of types that are left to Arrow are left out, and of few rows that are not all
    there all."""
    way = _way(group.plan.layout, group.plan.features)
    if not group.rows.few:
        return _many(group, way)
    return _few(group, way) if group.plainly else {}


def _few(group: PackedViewRows, way: _Way) -> Written:
    """Of few rows, all there and young enough: by Python's numbers, as numpy's calls would cost more than these."""
    rows, now = group.rows, group.as_of_us
    at, n, any_null = rows.times, len(rows), rows.any_null
    shared = b',"event_timestamps":["%b"],"ages":%b}' % (
        '","'.join(map(format_timestamp, at)).encode(),
        orjson.dumps([(now - t) / 1e6 for t in at]),
    )
    plain_end = LIST_STATUSES + repeated(WORDS[PRESENT], n) + shared
    fields = rows.fields
    columns: list[Any] = [fields[place] for place in way.places]
    hidden: dict[int, list[int]] = {}
    count = 0
    if any_null & way.mask:
        for k, slot in enumerate(way.slots):
            if any_null >> slot.place & 1:
                own = hidden[k] = rows.null_list(slot) or []
                columns[k] = [None if null else v for v, null in zip(columns[k], own)]
                count += sum(own)
    made: Written = {}
    odd = _odd_in(columns[: way.floats], lists := lists_json(columns), count)
    for k, (name, values) in enumerate(zip(way.names, lists)):
        if k in odd:
            codes = np.array(hidden.get(k) or [PRESENT] * n, np.uint8)
            made[name] = NEXT_LIST, values, LIST_STATUSES, orjson.dumps(with_odd(codes, odd[k])), shared
        elif k in hidden:
            made[name] = NEXT_LIST, values, LIST_STATUSES, _few_words(hidden[k]), shared
        else:
            made[name] = NEXT_LIST, values, plain_end
    for name, slot in way.texts:
        texts, nulls = rows.values(slot), rows.null_list(slot)
        said = repeated(WORDS[PRESENT], n) if nulls is None else _few_words(nulls)
        made[name] = NEXT, orjson.dumps(_as_texts(slot, texts, nulls)), NEXT_STATUSES, said, shared
    return made


def _few_words(nulls: Sequence[int]) -> bytes:
    return b"[%b]" % b",".join([_NULL if null else _PRESENT for null in nulls])


def _many(group: PackedViewRows, way: _Way) -> Written:
    """Of more rows: by numpy, all features of one sort at once."""
    rows, inverse = group.rows, group.inverse
    live, _ = group._verdict
    array = rows.array if inverse is None else rows.array[inverse]
    if live is not None and inverse is not None:
        live = live[inverse]
    dead = None if live is None else ~live
    shared = b',"event_timestamps":%b,"ages":%b}' % (stamps_json(group.timestamps_us), ages_json(group))
    row_status = group.row_status
    plain = statuses_json(row_status)
    plain_end = LIST_STATUSES + plain + shared
    slots = [*way.slots, *(slot for _, slot in way.texts)]
    with_nulls = [slot for slot in slots if rows.any_null >> slot.place & 1]
    nulls = _nulls(array, with_nulls)
    words = dict(zip((slot.place for slot in with_nulls), _words(nulls, row_status)))
    places = {slot.place: i for i, slot in enumerate(with_nulls)}

    def hidden(slot: Slot) -> Bools | None:
        i = places.get(slot.place)
        return dead if i is None else nulls[i] if dead is None else nulls[i] | dead

    floats, hide_floats = _floats(array, way, nulls, places, dead)
    lists, odd = lists_json(floats), {}
    if b"".join(lists).count(b"null") != np.count_nonzero(hide_floats):  # what JSON has no form for
        bad = ~np.isfinite(floats) & ~hide_floats
        odd = {k: np.flatnonzero(bad[k]).tolist() for k in np.flatnonzero(bad.any(axis=1)).tolist()}
    for kind, start, stop in ((np.int64, way.floats, way.floats + way.whole), (np.bool_, way.floats + way.whole, len(way.slots))):
        lists += _whole(array, way.slots[start:stop], [hidden(slot) for slot in way.slots[start:stop]], kind)
    made: Written = {}
    for k, (name, slot, values) in enumerate(zip(way.names, way.slots, lists)):
        if k in odd:
            codes = _codes(nulls[places[slot.place]][None], row_status)[0] if slot.place in places else row_status
            made[name] = NEXT_LIST, values, LIST_STATUSES, orjson.dumps(with_odd(codes, odd[k])), shared
        elif (said := words.get(slot.place)) is not None:
            made[name] = NEXT_LIST, values, LIST_STATUSES, said, shared
        else:
            made[name] = NEXT_LIST, values, plain_end
    for name, slot in way.texts:
        texts, hide = rows.values(slot), hidden(slot)
        if inverse is not None:
            texts = [texts[i] for i in inverse.tolist()]
        values = orjson.dumps(_as_texts(slot, texts, None if hide is None else hide.tolist()))
        made[name] = NEXT, values, NEXT_STATUSES, words.get(slot.place, plain), shared
    return made


def _floats(
    array: np.ndarray[Any, Any], way: _Way, nulls: Bools, places: Mapping[int, int], dead: Bools | None
) -> tuple[npt.NDArray[np.float64], Bools]:
    """float64 [K, N], bool [K, N]: the features that are floats, NaN where they are hidden, and where that is."""
    floats, hide = np.empty((way.floats, len(array))), np.zeros((way.floats, len(array)), np.bool_)
    for k, slot in enumerate(way.slots[: way.floats]):
        floats[k] = array[f"f{slot.number}"]
    own = [(k, places[slot.place]) for k, slot in enumerate(way.slots[: way.floats]) if slot.place in places]
    if own:
        hide[[k for k, _ in own]] = nulls[[i for _, i in own]]
    if dead is not None:
        hide |= dead
    np.copyto(floats, np.nan, where=hide)
    return floats, hide


def _nulls(array: np.ndarray[Any, Any], slots: Sequence[Slot]) -> Bools:
    """bool [K, N]: which values of some features are null."""
    if not slots:
        return np.empty((0, len(array)), np.bool_)
    bits = np.unpackbits(np.ascontiguousarray(array["nulls"]), axis=1, bitorder="little")
    return np.ascontiguousarray(bits[:, [slot.place for slot in slots]].T).view(np.bool_)


def _codes(nulls: Bools, row_status: Codes) -> Codes:
    """uint8 [K, N]: of each value its row's status, or NULL in a row that is PRESENT."""
    if not row_status.any():
        return nulls.view(np.uint8) * np.uint8(NULL)
    return np.where(nulls & (row_status == PRESENT), np.uint8(NULL), row_status)


def _words(nulls: Bools, row_status: Codes) -> list[bytes]:
    """The JSON of the statuses of K features that have nulls."""
    k, n = nulls.shape
    if not k:
        return []
    codes = np.full((k, n + 1), _END, np.uint8)
    codes[:, :n] = _codes(nulls, row_status)
    text = codes.tobytes()
    for code, part in enumerate(PARTS):  # the codes are no characters of the words
        text = text.replace(bytes([code]), part)
    return [b"[%b]" % words[:-1] for words in text.split(bytes([_END]))[:-1]]


def _whole(array: np.ndarray[Any, Any], slots: Sequence[Slot], hides: Sequence[Bools | None], kind: Any) -> list[bytes]:
    """The JSON of features that are whole numbers, or booleans, without brackets."""
    if not slots:
        return []
    values = np.empty((len(slots), len(array)), kind)
    for k, slot in enumerate(slots):
        values[k] = array[f"f{slot.number}"]
    if all(hide is None for hide in hides):
        return lists_json(values)
    masked = []
    for own, hide in zip(values.tolist(), hides):
        masked.append(own if hide is None else [None if h else v for v, h in zip(own, hide.tolist())])
    return lists_json(masked)


def _as_texts(slot: Slot, values: Sequence[Any], hidden: Sequence[Any] | None) -> Sequence[Any]:
    if not slot.text:
        values = [base64.b64encode(v).decode() for v in values]
    return values if hidden is None else [None if h else v for v, h in zip(values, hidden)]


def _odd_in(columns: Sequence[Sequence[float | None]], lists: Sequence[bytes], nulls: int) -> dict[int, list[int]]:
    """By column of floats the rows whose value JSON has no form for; ``nulls``: how many values of ``lists`` are none."""
    if not columns or b",".join(lists).count(b"null") == nulls:
        return {}
    found = {k: [i for i, v in enumerate(column) if v is not None and not math.isfinite(v)] for k, column in enumerate(columns)}
    return {k: rows for k, rows in found.items() if rows}
