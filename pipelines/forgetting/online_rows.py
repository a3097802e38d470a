"""A subject's rows in the online store: of every entity that has its keys, and of every other one whose features hold its values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from pipelines.forgetting.subject import Subject
from serving.online_store.base import OrderedOnlineStore
from serving.online_store.keys import key_part, key_parts, part_value
from transforms.definitions import FINGERPRINT, REVISION
from transforms.errors import StoreError

__all__ = ["without_online_rows"]

_AT_ONCE = 1000
_NUMBERS = (ValueType.INT32, ValueType.INT64)
_KEPT = {
    ValueType.STRING: pa.string(),
    ValueType.BYTES: pa.binary(),
    ValueType.INT32: pa.int32(),
    ValueType.INT64: pa.int64(),
    ValueType.FLOAT: pa.float32(),
    ValueType.DOUBLE: pa.float64(),
}
"""What a feature of a type may hold that is a key's value; lists of it, too."""
_KEPT |= {ValueType[f"{kind.name}_LIST"]: pa.list_(arrow) for kind, arrow in _KEPT.items()}


def without_online_rows(store: OrderedOnlineStore, config: RepoConfig, view: FeatureView, subject: Subject, dry_run: bool = False) -> int:
    """Delete a view's rows about the subject; how many there were. What the store holds decides, and no file: the other keys of a row may
    be nowhere else any more. ``dry_run`` deletes nothing. Raises StoreError; where a store could not name all of its rows, those that it
    named are deleted before."""
    failed: list[StoreError] = []
    kinds = {c.name: c.dtype.to_value_type() for c in view.entity_columns}
    if {name for name, _ in subject.keys} <= set(kinds):
        keys = _with_its_keys(store, config, view, subject, kinds, failed)
    else:
        keys = _with_its_values(store, config, view, subject, kinds, failed)
    if keys and not dry_run:
        store.delete_keys(config, view, keys)
    if failed:
        raise failed[0]
    return len(keys)


def _with_its_keys(
    store: OrderedOnlineStore,
    config: RepoConfig,
    view: FeatureView,
    subject: Subject,
    kinds: dict[str, ValueType],
    failed: list[StoreError],
) -> list[bytes]:
    """The keys of rows of which all of the subject's keys are keys."""
    try:
        values = {name: int(value) if kinds[name] in _NUMBERS else value for name, value in subject.keys}
        wanted = {name: key_part(value, kinds[name]) for name, value in values.items()}
    except (ValueError, OverflowError):  # of such a type there is no such value
        return []
    if len(wanted) == len(kinds):
        protos = [_message(value, kinds[name]) for name, value in values.items()]
        return _stored(store, config, view, [store.entity_key(config, EntityKey(join_keys=list(values), entity_values=protos))])
    _check_layout(config, view)
    found = _named(store.stored_keys(config, view, max(wanted.values(), key=len)), failed)
    return _stored(store, config, view, (key for key in found if wanted.items() <= key_parts(key, list(kinds))[0].items()))


def _named(found: Iterator[bytes], failed: list[StoreError]) -> Iterator[bytes]:
    """The keys, up to where the store fails, which is noted."""
    try:
        yield from found
    except StoreError as error:
        failed.append(error)


def _message(value: str | int, kind: ValueType) -> Value:
    if isinstance(value, str):
        return Value(string_val=value)
    return Value(int32_val=value) if kind == ValueType.INT32 else Value(int64_val=value)


def _check_layout(config: RepoConfig, view: FeatureView) -> None:
    if config.entity_key_serialization_version != 3:
        raise StoreError(
            f"view {view.name!r}: entity_key_serialization_version is {config.entity_key_serialization_version}, whose keys cannot be gone"
            " through; set it to 3 in feature_store.yaml, and materialize again"
        )


def _stored(store: OrderedOnlineStore, config: RepoConfig, view: FeatureView, keys: Any) -> list[bytes]:
    """Those of the keys that have a row, each once."""
    unique = iter(dict.fromkeys(keys))
    out: list[bytes] = []
    while some := list(islice(unique, _AT_ONCE)):
        out += [key for key, row in zip(some, store.read_stored(config, view, some, [])) if row is not None]
    return out


def _with_its_values(
    store: OrderedOnlineStore,
    config: RepoConfig,
    view: FeatureView,
    subject: Subject,
    kinds: dict[str, ValueType],
    failed: list[StoreError],
) -> list[bytes]:
    """The keys of rows whose features hold the subject's values, as the last one or among the most frequent ones: by the rule for files."""
    types = {f.name: _KEPT.get(f.dtype.to_value_type()) for f in view.features if f.name not in (REVISION, FINGERPRINT)}
    may = {name: kind for name, kind in types.items() if kind is not None and subject.may_hold(name, kind)}
    if not may:
        return []
    _check_layout(config, view)
    out: dict[bytes, None] = {}
    for keys, rows in _rows(store, config, view, list(may), failed):
        columns = {name: pa.array([_plain(cells[i]) for cells in rows], kind) for i, (name, kind) in enumerate(may.items())}
        for name in kinds:
            columns[name] = pa.array([part_value(key_parts(key, list(kinds))[0][name]) for key in keys])
        found = subject.rows(pa.table(columns))
        out |= dict.fromkeys(key for key, mine in zip(keys, found.tolist()) if mine)
    return list(out)


def _rows(
    store: OrderedOnlineStore, config: RepoConfig, view: FeatureView, names: list[str], failed: list[StoreError]
) -> Iterator[tuple[list[bytes], list[list[bytes | None]]]]:
    """All rows of a view, some at a time: keys, and what each has of some features."""
    found = _named(store.stored_keys(config, view), failed)
    while some := list(islice(found, _AT_ONCE)):
        rows = [(key, row[1]) for key, row in zip(some, store.read_stored(config, view, some, names)) if row is not None]
        yield [key for key, _ in rows], [list(cells) for _, cells in rows]


def _plain(cell: bytes | None) -> Any:
    """The value that a stored feature is."""
    if cell is None:
        return None
    value = Value.FromString(cell)
    slot = value.WhichOneof("val")
    if slot in (None, "null_val"):
        return None
    held = getattr(value, slot)
    return list(held.val) if slot.endswith("list_val") else held
