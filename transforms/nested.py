"""Steps into structs, lists and maps of Arrow, and lists as the fields of an event: columns, with what has another form named."""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import CODE, OK, Column, all_ok, convert, float64_values, from_values, is_valid, target_type, value_as
from transforms.fields import LIST_TYPES, MAX_ELEMENTS, MAX_TEXT_BYTES
from transforms.json_payload import Refused
from transforms.places import Path, Step, path_text
from transforms.reasons import INFINITE, NAN, TOO_LONG, WRONG_TYPE

__all__ = [
    "Misplaced", "are_keys", "are_words", "convert_any", "entries_of", "entry_names", "find", "from_values_any", "list_value", "spans",
    "step_into", "step_refused",
]  # fmt: skip

Int = npt.NDArray[np.int64]

_ENTRIES: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("key", "value", frozenset()),
    ("Key", "Value", frozenset()),
    ("name", "value", frozenset({"type", "typeoid", "optional", "default", "position"})),
)
"""How formats without maps write the entries of one: the members that hold the key and the value, and what may be beside them. GA4's and
OpenTelemetry's; tags of AWS; columns of wal2json, headers, Shopify's notes."""


def entry_names(members: Collection[str]) -> tuple[str, str] | None:
    """The members that hold key and value in the entries of a map that is written as a list, whose elements have these ``members``
    together; None where they are no entries. ``key`` and ``value`` may be left out, null as they are then; of the other forms both are
    there, as things of another kind have a ``name``, too."""
    there = {*members}
    return next(
        ((key, value) for key, value, more in _ENTRIES if there <= {key, value, *more} and (key == "key" or there >= {key, value})), None
    )


def spans(column: pa.Array) -> tuple[Int, Int, pa.Array] | None:
    """Of N lists the first element and the number of elements in their values; None for a column of no lists."""
    t, n = column.type, len(column)
    if pa.types.is_list(t) or pa.types.is_large_list(t):
        ends = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64) if n else np.zeros(1, np.int64)
        first, size, values = ends[:-1], np.diff(ends), column.values
    elif pa.types.is_fixed_size_list(t):
        first = (column.offset + np.arange(n, dtype=np.int64)) * t.list_size
        size, values = np.full(n, t.list_size, np.int64), column.values
    else:
        return None
    return first, np.where(is_valid(column), size, 0), values


def step_into(column: pa.Array, step: Step, united: bool = False) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The members or elements at ``step`` of N values, null where there are none; and which values are of another form, bool [N].

    ``united``: a member that is null may be one that its own value does not have, as types of other values are united with its type; then
    values of which it is not known are among those of another form."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    n, t = len(column), column.type
    fine = np.zeros(n, bool)
    if pa.types.is_null(t):
        return pa.nulls(n), fine
    if isinstance(step, int) and (found := spans(column)) is not None:
        first, size, values = found
        at = step if step >= 0 else size + step
        there = (at >= 0) & (at < size)
        return values.take(pa.array(np.where(there, first + at, 0), mask=~there)), fine
    if isinstance(step, str) and pa.types.is_struct(t):
        index = next((i for i in range(t.num_fields) if t[i].name == step), None)
        if index is None:
            return pa.nulls(n), fine
        # Where no struct is null its members stand as they are; otherwise only the one that is asked for is made anew.
        return column.field(index) if not column.null_count else pc.struct_field(column, [index]), fine
    if isinstance(step, str) and pa.types.is_map(t) and are_keys(t.key_type):
        ends = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64) if n else np.zeros(1, np.int64)
        size = np.where(is_valid(column), np.diff(ends), 0)
        first, keys, values = _own(ends[:-1], size, column.keys, column.items)
        return _entry(first, size, keys if are_words(keys.type) else keys.cast(pa.string()), values, step), fine
    if isinstance(step, str) and (found := spans(column)) is not None:
        first, size, entries = found
        first, entries = _own(first, size, entries)
        wrong = _any(_no_entries(entries), first, size)
        members = dict(zip((f.name for f in entries.type), entries.flatten(), strict=True)) if pa.types.is_struct(entries.type) else {}
        key, value = entry_names(members) or ("", "")
        if united and key != "key":
            known = [_any(is_valid(members[name]), first, size) for name in (key, value) if name]
            wrong = wrong | (_any(is_valid(entries), first, size) & ~np.all(known, axis=0))
        if value not in members or not are_words(members.get(key, pa.nulls(0)).type):
            return pa.nulls(n), wrong
        return _entry(first, np.where(wrong, 0, size), members[key], members[value], step), wrong
    return pa.nulls(n), is_valid(column)


def _any(said: npt.NDArray[np.bool_], first: Int, size: Int) -> npt.NDArray[np.bool_]:
    """Whether it is said of any element in each of N runs of elements."""
    before = np.concatenate([[0], np.cumsum(said)])
    found: npt.NDArray[np.bool_] = before[first + size] > before[first]
    return found


def _own(first: Int, size: Int, *elements: pa.Array) -> tuple[Any, ...]:
    """Of N runs of elements the first of each, in what they lie in; and that, of the elements, which are those of other slices too."""
    low, high = (int(first.min()), int((first + size).max())) if len(first) else (0, 0)
    return first - low, *(each.slice(low, high - low) for each in elements)


def are_keys(t: pa.DataType) -> bool:
    """Whether the keys of a map of Arrow are named in paths: texts, and whole numbers and days by the texts that they are."""
    return are_words(t) or bool(pa.types.is_integer(t) or pa.types.is_date32(t))


def are_words(t: pa.DataType) -> bool:
    """Whether values are texts, perhaps words of a dictionary."""
    t = t.value_type if pa.types.is_dictionary(t) else t
    return bool(pa.types.is_string(t) or pa.types.is_large_string(t))


def _no_entries(elements: pa.Array) -> npt.NDArray[np.bool_]:
    """Which elements are none of a map, as formats without maps have them (:func:`entry_names`, the key a text). Null is none of another
    form, nor is an entry without a key."""
    t = elements.type
    names = entry_names([f.name for f in t]) if pa.types.is_struct(t) else None
    if names is None:
        return is_valid(elements)
    index = t.get_field_index(names[0])
    if index < 0 or are_words(t[index].type):
        return np.zeros(len(elements), bool)
    return is_valid(elements.flatten()[index])


def _entry(first: Int, size: Int, keys: pa.Array, values: pa.Array, key: str) -> pa.Array:
    """Of N runs of entries the value of the last one with a key, null where there is none."""
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    where = np.full(len(first), -1, np.int64)
    hit = np.flatnonzero(pc.fill_null(pc.equal(keys, pa.scalar(key, keys.type)), False).to_numpy(zero_copy_only=False))
    row = np.searchsorted(first, hit, "right") - 1
    there = row >= 0
    there[there] = hit[there] < (first + size)[row[there]]
    where[row[there]] = hit[there]
    return values.take(pa.array(where, mask=where < 0))


def entries_of(values: Any) -> dict[str, Any] | None:
    """A list of entries as the map that it is, and so one of pairs, as Python has maps of Arrow; None where it is another list."""
    known = [entry for entry in values if entry is not None]
    if known and isinstance(known[0], tuple):
        return {_key_text(key): value for key, value in known} if all(_key_text(key) is not None for key, _ in known) else None
    names = entry_names({member for entry in known if isinstance(entry, dict) for member in entry})
    out = {}
    for entry in known:
        if names is None or not isinstance(entry, dict) or type(key := entry.get(names[0])) not in (str, type(None)):
            return None
        if key is not None:
            out[key] = entry.get(names[1])
    return out


def _key_text(key: Any) -> Any:
    """The text by which paths name a key of a map of Arrow, as :func:`are_keys` has it; None: none does."""
    return key if isinstance(key, str) else str(key) if type(key) in (int, date) else None


def find(value: Any, path: Path, done: int = 0) -> Any:
    """What stands at a path of a value as Python has it, None for nothing; ``done`` of its steps led to the value. Raises Misplaced."""
    for number, step in enumerate(path[done:], done):
        if value is None:
            return None
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, (list, tuple)):
            value = value[step] if -len(value) <= step < len(value) else None
        elif isinstance(step, str) and isinstance(value, (list, tuple)) and (entries := entries_of(value)) is not None:
            value = entries.get(step)
        else:
            raise Misplaced(value, step_refused(path, number))
    return value


def step_refused(path: Path, number: int) -> str:
    """The end of a detail: what stands before a step of a path is of another form."""
    form = "an object" if isinstance(path[number], str) else "a list"
    return f"at {path_text(path[:number])} is not {form}, as the path {path_text(path)} needs"


class Misplaced(Refused):
    """What stands on the way is of another form."""

    def __init__(self, value: Any, detail: str) -> None:
        super().__init__(WRONG_TYPE, detail)
        self.value = value


# ---- lists as fields -----------------------------------------------------------------------------------------------------


def convert_any(column: pa.Array, dtype: str) -> Column:
    """As :func:`transforms.columns.convert`, of dtypes of lists too."""
    if dtype not in LIST_TYPES:
        return convert(column, dtype)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    n, valid = len(column), is_valid(column)
    codes = all_ok(n)
    if pa.types.is_null(column.type):
        return pa.nulls(n, target_type(dtype)), codes
    found = spans(column)
    if found is None:
        codes[valid] = CODE[WRONG_TYPE]
        return pa.nulls(n, target_type(dtype)), codes
    first, size, values = found
    codes[size > MAX_ELEMENTS] = CODE[TOO_LONG]
    size = np.where(codes == OK, size, 0)
    ends = np.concatenate([[0], np.cumsum(size)])
    at = np.repeat(first - ends[:-1], size) + np.arange(ends[-1])
    elements, own = convert(values.take(pa.array(at)), dtype[5:-1])
    own[~is_valid(elements) & (own == OK)] = CODE[WRONG_TYPE]
    if dtype == "list<float64>":
        reals = float64_values(elements)
        own[np.isnan(reals) & (own == OK)] = CODE[NAN]
        own[np.isinf(reals) & (own == OK)] = CODE[INFINITE]
    bad = np.flatnonzero(own != OK)
    rows = np.searchsorted(ends, bad, "right") - 1
    # The first element that is wrong gives the reason.
    firsts, index = np.unique(rows, return_index=True)
    codes[firsts] = own[bad[index]]
    if dtype == "list<string>":
        lengths = np.concatenate([[0], np.cumsum(pc.fill_null(pc.binary_length(elements), 0).to_numpy(zero_copy_only=False))])
        codes[(lengths[ends[1:]] - lengths[ends[:-1]] > MAX_TEXT_BYTES) & (codes == OK)] = CODE[TOO_LONG]
    out = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), elements)
    if (~valid | (codes != OK)).any():
        out = pc.if_else(pa.array(valid & (codes == OK)), out, pa.nulls(n, out.type))
    return out.cast(target_type(dtype)), codes


def from_values_any(values: list[Any], dtype: str) -> Column:
    """As :func:`transforms.columns.from_values`, of dtypes of lists too."""
    if dtype not in LIST_TYPES:
        return from_values(values, dtype)
    out, codes = [], all_ok(len(values))
    for row, value in enumerate(values):
        try:
            out.append(None if value is None else list_value(value, dtype))
        except Refused as refused:
            out.append(None)
            codes[row] = CODE[refused.reason]
    return pa.array(out, target_type(dtype)), codes


def list_value(value: Any, dtype: str) -> list[Any]:
    """A list that is not null as a list of ``dtype``. Raises Refused; its detail names the first element that is wrong."""
    if not isinstance(value, (list, tuple)):
        raise Refused(WRONG_TYPE, f"is no {dtype}")
    if len(value) > MAX_ELEMENTS:
        raise Refused(TOO_LONG, f"has {len(value)} elements, above the limit of {MAX_ELEMENTS}")
    out = []
    for number, element in enumerate(value):
        try:
            if element is None:
                raise Refused(WRONG_TYPE)
            one = value_as(element, dtype[5:-1])
        except Refused as refused:
            raise Refused(refused.reason, f"is no {dtype}: element {number} is {str(element)[:40]!r}") from None
        if isinstance(one, float) and not math.isfinite(one):
            raise Refused(NAN if math.isnan(one) else INFINITE, f"is not a list of finite numbers: element {number} is {one}")
        out.append(one)
    if dtype == "list<string>" and sum(len(one.encode()) for one in out) > MAX_TEXT_BYTES:
        raise Refused(TOO_LONG, f"is longer than {MAX_TEXT_BYTES} bytes in all")
    return out
