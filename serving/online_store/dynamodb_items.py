"""A row as an item of DynamoDB: Feast's attributes, and ours beside them.

Feast's are ``entity_id`` (the key's hash), ``event_ts`` and ``values``. Ours are ``tandem_order`` (what decides between rows of a key),
``tandem_key`` (the key itself, which the hash does not tell) and ``tandem_packed``. Stock Feast puts whole items: where it wrote, ours are
gone, and the row's order is that of a row of no graph at its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.online_store.order import Order, Rows, StoredRow
from transforms.instants import instant, micros_of

__all__ = [
    "EVENT",
    "ID",
    "ITEM_BYTES",
    "KEY",
    "ORDER",
    "PACKED_COPY",
    "VALUES",
    "Item",
    "as_read",
    "id_of",
    "items_of",
    "order_of",
    "sizes_of",
    "stored_row",
]

Item = Mapping[str, Any]
"""An item, or a part of one, as the service's protocol has it: attribute -> {type: value}."""

ID, EVENT, VALUES = "entity_id", "event_ts", "values"
ORDER, KEY, PACKED_COPY = "tandem_order", "tandem_key", "tandem_packed"
ITEM_BYTES = 400_000
"""What an item may have, its attributes' names included: the service's 400 KB, counted small."""
_OVERHEAD = 3
"""What the service counts for each element of a map, at most, beside its name and value."""


def id_of(key: bytes) -> str:
    """The hash of an entity's serialized key, by which Feast finds its row."""
    return mmh3.hash_bytes(key).hex()


def items_of(rows: Rows, names: Sequence[str]) -> Iterator[tuple[Order, Item, int]]:
    """Each row: its order, its item, and that one's size (:func:`sizes_of`); ``names`` are those of its features. An item that is too large
    by its packed copy is without it."""
    orders = zip(rows.event_us.tolist(), rows.revision.tolist(), rows.fingerprint.to_pylist())
    cells = zip(*(column.to_pylist() for column in rows.values)) if names else iter([()] * len(rows))
    packed = [None] * len(rows) if rows.packed is None else rows.packed.to_pylist()
    sizes = sizes_of(rows, names).tolist()
    for (at, revision, fingerprint), key, values, copy, size in zip(orders, rows.keys.to_pylist(), cells, packed, sizes):
        order = (at, revision, fingerprint, rows.stamp)
        item = {
            ID: {"S": id_of(key)},
            EVENT: {"S": str(instant(at))},
            VALUES: {"M": {name: {"B": value} for name, value in zip(names, values)}},
            KEY: {"B": key},
            ORDER: _encoded(order),
        }
        if copy is None or size + len(copy) > ITEM_BYTES:
            yield order, item, size
        else:
            yield order, {**item, PACKED_COPY: {"B": copy}}, size + len(copy)


def sizes_of(rows: Rows, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The bytes that the service counts for each row's item without its packed copy, or a few more: int64 [N]."""
    sizes = np.zeros(len(rows), np.int64)
    for column in (rows.keys, rows.fingerprint, *rows.values):
        sizes += np.asarray(pc.fill_null(pc.binary_length(column), 0).cast(pa.int64()))
    # Beside the features' names: those of the attributes and of the order's elements, the hash, the time, and numbers.
    return sizes + sum(len(name.encode()) + _OVERHEAD for name in names) + 240


def order_of(item: Item) -> Order:
    """The order of a stored row: that of a row of no graph, below all of ours of its time, where another class wrote it."""
    if ORDER not in item:
        return _event_us(item), -1, "", 0
    order = item[ORDER]["M"]
    return int(order["event_us"]["N"]), int(order["revision"]["N"]), order["fingerprint"]["S"], int(order["stamp"]["N"])


def stored_row(item: Item, names: Sequence[str]) -> StoredRow:
    """The row with these features; None for each that it does not hold."""
    values = item[VALUES]["M"]
    return order_of(item)[0], [values[name]["B"] if name in values else None for name in names]


def as_read(item: Item | None) -> dict[str, Any]:
    """The condition that a row's order is the one that was read; None: that there is no row."""
    if item is None:
        return {"ConditionExpression": f"attribute_not_exists({ID})"}
    if ORDER in item:
        return {"ConditionExpression": f"{ORDER} = :order", "ExpressionAttributeValues": {":order": item[ORDER]}}
    return {
        "ConditionExpression": f"{EVENT} = :at AND attribute_not_exists({ORDER})",
        "ExpressionAttributeValues": {":at": item[EVENT]},
    }


def _encoded(order: Order) -> dict[str, Any]:
    at, revision, fingerprint, stamp = order
    numbers = {"event_us": at, "revision": revision, "stamp": stamp}
    return {"M": {**{name: {"N": str(number)} for name, number in numbers.items()}, "fingerprint": {"S": fingerprint}}}


def _event_us(item: Item) -> int:
    return micros_of(datetime.fromisoformat(item[EVENT]["S"]))
