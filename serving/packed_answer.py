"""The JSON of packed rows: a view's features at once, with no column and no array of statuses of any one feature in between."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import numpy as np
import orjson

from serving.answer_parts import (
    LIST_STATUSES,
    NEXT,
    NEXT_LIST,
    NEXT_STATUSES,
    PARTS,
    WORDS,
    Written,
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
_AT_ONCE = 20_000
"""Values of several views that are written at once. A call that is saved is nothing beside more values than these, their memory is not."""


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


def written_packed(groups: Sequence[PackedViewRows]) -> list[Written]:
    """What the features of views that one request asks for are in its answer, a view each; those of types that are left to Arrow are left
    out, and of few rows that are not all there all."""
    ways = [_way(group.plan.layout, group.plan.features) for group in groups]
    made: list[Written] = [_few(g, way) if g.rows.few and g.plainly else {} for g, way in zip(groups, ways)]
    many = [k for k, group in enumerate(groups) if not group.rows.few]
    for some in _parts(many, [len(group) * len(way.slots) for group, way in zip(groups, ways)]):
        for k, written in zip(some, _many([_View(groups[k], ways[k]) for k in some])):
            made[k] = written
    return made


def _parts(places: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """``places`` in their order, cut where the ``sizes`` at them would come to more than :data:`_AT_ONCE`."""
    part: list[int] = []
    held = 0
    for k in places:
        if part and held + sizes[k] > _AT_ONCE:
            yield part
            part, held = [], 0
        part.append(k)
        held += sizes[k]
    if part:
        yield part


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


class _View:
    """A view of more than a few rows, row by row as they are asked for: K of its features have nulls."""

    def __init__(self, group: PackedViewRows, way: _Way) -> None:
        rows, inverse = group.rows, group.inverse
        live, _ = group._verdict
        if live is not None and inverse is not None:
            live = live[inverse]
        self.group, self.way = group, way
        self.array = rows.array if inverse is None else rows.array[inverse]
        self.dead = None if live is None else ~live
        with_nulls = [slot for slot in (*way.slots, *(slot for _, slot in way.texts)) if rows.any_null >> slot.place & 1]
        self.nulls = _nulls(self.array, with_nulls)
        """bool [K, N]."""
        self.places = {slot.place: k for k, slot in enumerate(with_nulls)}
        """Of the K, by their place among the view's features."""

    def hidden(self, slot: Slot) -> Bools | None:
        """Which of a feature's N values an answer does not have; None: it has all."""
        k, dead = self.places.get(slot.place), self.dead
        return dead if k is None else self.nulls[k] if dead is None else self.nulls[k] | dead

    def codes(self) -> Codes:
        """uint8 [K, N]: of each value its row's status, or NULL in a row that is PRESENT."""
        row_status = self.group.row_status
        if not row_status.any():
            return self.nulls.view(np.uint8) * np.uint8(NULL)
        return np.where(self.nulls & (row_status == PRESENT), np.uint8(NULL), row_status)

    def texts(self, slot: Slot) -> Sequence[Any]:
        """A feature's N texts or bytes as JSON has them."""
        values, inverse, hide = self.group.rows.values(slot), self.group.inverse, self.hidden(slot)
        if inverse is not None:
            values = [values[i] for i in inverse.tolist()]
        return _as_texts(slot, values, None if hide is None else hide.tolist())


def _many(views: Sequence[_View]) -> list[Written]:
    """Of more rows: by numpy, all features of one sort at once, of all these views."""
    floats, ages, odd = _floats(views)
    whole = _whole(views, np.int64, lambda way: (way.floats, way.floats + way.whole))
    bools = _whole(views, np.bool_, lambda way: (way.floats + way.whole, len(way.slots)))
    words = _words(views)
    made: list[Written] = []
    for view, own_ages in zip(views, ages):
        group, way = view.group, view.way
        shared = b',"event_timestamps":%b,"ages":[%b]}' % (stamps_json(group.timestamps_us), own_ages)
        plain = statuses_json(group.row_status)
        plain_end = LIST_STATUSES + plain + shared
        said = {place: next(words) for place in view.places}
        written: Written = {}
        for k, (name, slot) in enumerate(zip(way.names, way.slots)):
            if k < way.floats:
                values, rows = next(floats), next(odd)
            else:
                values, rows = next(whole if k < way.floats + way.whole else bools), []
            if rows:
                codes = view.codes()[view.places[slot.place]] if slot.place in said else group.row_status
                written[name] = NEXT_LIST, values, LIST_STATUSES, orjson.dumps(with_odd(codes, rows)), shared
            elif slot.place in said:
                written[name] = NEXT_LIST, values, LIST_STATUSES, said[slot.place], shared
            else:
                written[name] = NEXT_LIST, values, plain_end
        for name, slot in way.texts:
            written[name] = NEXT, orjson.dumps(view.texts(slot)), NEXT_STATUSES, said.get(slot.place, plain), shared
        made.append(written)
    return made


def _floats(views: Sequence[_View]) -> tuple[Iterator[bytes], list[bytes], Iterator[list[int]]]:
    """The JSON, without brackets, of all features that are floats and of each view's ages; and by feature the rows whose value JSON has no
    form for."""
    count, n = sum(view.way.floats for view in views), len(views[0].array)
    numbers, hide = np.empty((count + len(views), n)), np.zeros((count, n), np.bool_)
    k = 0
    for view in views:
        for slot in view.way.slots[: view.way.floats]:
            numbers[k] = view.array[f"f{slot.number}"]
            if (own := view.hidden(slot)) is not None:
                hide[k] = own
            k += 1
    floats = numbers[:count]
    np.copyto(floats, np.nan, where=hide)
    for k, view in enumerate(views, count):
        numbers[k] = view.group.ages
    lists = lists_json(numbers)
    bad = ~(np.isfinite(floats) | hide)
    odd: Iterator[list[int]] = repeat([])
    if bad.any():
        odd = iter([np.flatnonzero(rows).tolist() for rows in bad])
    return iter(lists), lists[count:], odd


def _nulls(array: np.ndarray[Any, Any], slots: Sequence[Slot]) -> Bools:
    """bool [K, N]: which values of some features are null."""
    if not slots:
        return np.empty((0, len(array)), np.bool_)
    bits = np.unpackbits(np.ascontiguousarray(array["nulls"]), axis=1, bitorder="little")
    return np.ascontiguousarray(bits[:, [slot.place for slot in slots]].T).view(np.bool_)


def _words(views: Sequence[_View]) -> Iterator[bytes]:
    """The JSON of the statuses of all features that have nulls."""
    codes = np.full((sum(len(view.nulls) for view in views), len(views[0].array) + 1), _END, np.uint8)
    k = 0
    for view in views:
        if len(view.nulls):
            codes[k : k + len(view.nulls), :-1] = view.codes()
            k += len(view.nulls)
    text = codes.tobytes()
    for code, part in enumerate(PARTS):  # the codes are no characters of the words
        text = text.replace(bytes([code]), part)
    return (b"[%b]" % words[:-1] for words in text.split(bytes([_END])))


def _whole(views: Sequence[_View], kind: Any, which: Callable[[_Way], tuple[int, int]]) -> Iterator[bytes]:
    """The JSON, without brackets, of all features that are whole numbers, or booleans."""
    slots = [(view, slot) for view in views for slot in view.way.slots[slice(*which(view.way))]]
    values, masked = np.empty((len(slots), len(views[0].array)), kind), dict[int, Bools]()
    for k, (view, slot) in enumerate(slots):
        values[k] = view.array[f"f{slot.number}"]
        if (hide := view.hidden(slot)) is not None:
            masked[k] = hide
    if not masked:
        return iter(lists_json(values))
    step = max(1, _AT_ONCE // values.shape[1])  # objects of all of a wide view at once leave the processor's cache
    parts = (range(start, min(start + step, len(slots))) for start in range(0, len(slots), step))
    return chain.from_iterable(lists_json(_with_nulls(values, masked, part)) for part in parts)


def _with_nulls(values: np.ndarray[Any, Any], masked: Mapping[int, Bools], part: range) -> list[Any]:
    """Some of the columns; those with nulls, and these alone, as objects: as such, values cost several times what they do as numbers."""
    columns: list[Any] = list(values[part.start : part.stop])
    some = [k for k in part if k in masked]
    if some:
        as_objects = values[some].astype(object)
        as_objects[np.array([masked[k] for k in some])] = None
        for k, column in zip(some, as_objects.tolist()):
            columns[k - part.start] = column
    return columns


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
