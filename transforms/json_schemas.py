"""The columns by which the JSON payloads of a source that maps what it reads are read at once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.columns import target_type
from transforms.event_source import EventSource
from transforms.fields import EVENT_MARK, Field
from transforms.json_payload import Refused, parse_json
from transforms.nested import Misplaced, entry_names, find
from transforms.parsing import Date, Decimal, Enum, Epoch, Number, Parse, Text, TimeFormat
from transforms.places import EACH, ElementIndex

__all__ = ["columns_of"]

_LOOKED_AT = 8
_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()


def columns_of(payloads: pa.Array, source: EventSource, beside: bool) -> pa.Schema | None:
    """The columns to read these payloads by: the paths of the source's fields, and for those that may be written in more than one way how
    they are in some of the payloads. A guess: what it does not fit is read record by record. None where there is no way by columns.

    ``beside``: keys, headers and timestamps are known, so their fields stand in no payload.
    """
    some = []
    for row in np.unique(np.linspace(0, len(payloads) - 1, _LOOKED_AT).astype(int)).tolist():
        try:
            some.append(parse_json(payloads[row].as_py()))
        except Refused:
            continue
    root: dict[str, Any] = {EVENT_MARK: _TEXT}
    for f in source.all_fields:
        if f.value is not None or isinstance(f.path, ElementIndex):
            continue
        path: Any = f.place
        if not isinstance(path, tuple):
            if beside:
                continue
            path, f = (f.name,), Field(f.name, f.dtype)
        kind = target_type(f.dtype or "") if f.parse is None else _stands_as(f.parse, _values(some, path))
        if kind is None or not all(_put(root, *one) for one in _standing(some, path, kind)):
            return None
    made = _type(root)
    if source.explode is not None and not pa.types.is_list(_at(made, source.explode_path)):
        return None
    return pa.schema(list(made))


def _standing(records: list[dict[str, Any]], path: Any, kind: pa.DataType) -> list[tuple[Any, pa.DataType]]:
    """The paths of what is read for one, and their types: of a map that stands as a list of entries both its keys and its values."""
    for number, step in enumerate(path[1:], 1):
        lists = [v for v in _values(records, path[:number]) if isinstance(v, list)] if isinstance(step, str) and step != EACH else []
        if lists:
            members = {name for each in lists for entry in each if isinstance(entry, dict) for name in entry}
            key, value = entry_names(members) or ("key", "value")
            entry = (*path[:number], EACH)
            return [((*entry, key), _TEXT), *_standing(records, (*entry, value, *path[number + 1 :]), kind)]
    return [(path, kind)]


def _values(records: list[dict[str, Any]], path: Any) -> list[Any]:
    found: list[Any] = list(records)
    ends = [-1, *(number for number, step in enumerate(path) if step == EACH), len(path)]
    parts = [path[before + 1 : end] for before, end in itertools.pairwise(ends)]
    for number, part in enumerate(parts):
        following = []
        for value in found:
            try:
                following.append(find(value, part))
            except Misplaced:
                continue
        found = following if number == len(parts) - 1 else [e for v in following if isinstance(v, list) for e in v[:_LOOKED_AT]]
    return found


def _stands_as(parse: Parse, values: list[Any]) -> pa.DataType | None:
    kinds = {type(v) for v in values} - {type(None)}
    if kinds > {str} or (kinds - {str, int, float} and not isinstance(parse, Enum)):
        return None
    if isinstance(parse, Enum):
        keys = {type(key) for key, _ in parse.mapping}
        return {str: _TEXT, int: _WHOLE, bool: pa.bool_()}[keys.pop()] if len(keys) == 1 else None
    if isinstance(parse, Epoch):
        return _TEXT if kinds == {str} else _REAL if float in kinds else _WHOLE
    if isinstance(parse, (Date, Text, TimeFormat)):
        return _WHOLE if kinds == {int} else _TEXT
    if isinstance(parse, (Decimal, Number)):
        return _TEXT if kinds == {str} else _REAL
    return _TEXT


def _put(node: dict[Any, Any], path: Any, kind: pa.DataType) -> bool:
    """Add a path to the tree; False where another field has something else there."""
    for step in path[:-1]:
        node = node.setdefault(EACH if isinstance(step, int) else step, {})
        if not isinstance(node, dict):
            return False
    last = EACH if isinstance(path[-1], int) else path[-1]
    return bool(node.setdefault(last, kind) == kind)


def _type(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if EACH in node:
        return pa.list_(_type(node[EACH])) if len(node) == 1 else pa.null()
    return pa.struct([(name, _type(inner)) for name, inner in node.items()])


def _at(made: Any, path: Any) -> pa.DataType:
    for step in path:
        if pa.types.is_list(made) and (isinstance(step, int) or step == EACH):
            made = made.value_type
        elif pa.types.is_struct(made) and made.get_field_index(step) >= 0:
            made = made[made.get_field_index(step)].type
        else:
            return pa.null()
    return made
