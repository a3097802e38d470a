"""The events that a stream refused when it read them, and that batch takes now: by the contract, or by the settings of the format.

A contract that only accepts more costs no new graph, and the stream goes on with it. What it refused before is in none of its rows, and is
a dead letter still, so batch is to have the same events. Each run of the stream has its definitions and the offsets where it began on
record: the contract that judged a record is that of the last run which began at or before it.

What another format or reader's schema made of a record cannot be found out afterwards. Where the run that judged it had other settings, its
own dead letters say what it refused. Those of other runs and other streams say nothing: this one may have taken, or lost, the same record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.broker import PartitionReader
from pipelines.sources.letters import scan
from pipelines.verify.causes import OFFSET, PARTITION
from transforms.definitions import EventSource

__all__ = ["Ints", "Manifests", "Mask", "judged_by", "lettered", "read_otherwise", "taken_then"]

Manifests = Sequence[Mapping[str, Any]]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def judged_by(manifests: Manifests, source: str, events: pa.Table) -> Ints:
    """Of N events (with ``_partition`` and ``_offset``) which run judged each: its place among the stream's; -1: none did."""
    partitions, offsets = (events.column(name).to_numpy() for name in (PARTITION, OFFSET))
    out = np.full(events.num_rows, -1)
    for number, manifest in enumerate(manifests):
        begun = ((manifest.get("start") or {}).get("offsets") or {}).get(source, {})
        first = np.zeros(events.num_rows, np.int64)
        for partition, at in begun.items():
            first[partitions == int(partition)] = at[0]
        out[offsets >= first] = number
    return out


def taken_then(manifests: Manifests, source: str, events: pa.Table) -> Mask:
    """Which of N valid events (with ``_partition`` and ``_offset``) the stream took, by the manifests of its runs in order.

    Of fields that the definitions do not have any more the rules of then are not known to hold, and are left out.
    """
    judges = judged_by(manifests, source, events)
    taken = np.ones(events.num_rows, np.bool_)
    for number in np.unique(judges[judges >= 0]).tolist():
        mine = judges == number
        taken[mine] = _accepted(_fields(manifests[number], source), events.filter(pa.array(mine)))
    return taken


def read_otherwise(manifests: Manifests, source: str, now: Mapping[str, str], judges: Ints) -> Mask:
    """Which of N events (with the run that judged each, see :func:`judged_by`) were read by another format, or other settings of it, than
    ``now``. Of runs that do not say how they read, none."""
    readings = [(manifest.get("reading") or {}).get(source) for manifest in manifests]
    return np.isin(judges, [number for number, then in enumerate(readings) if then is not None and then != now])


def lettered(manifests: Manifests, reader: PartitionReader, letters: str, source: EventSource, events: pa.Table, judges: Ints) -> Mask:
    """Which of N events (with ``_partition`` and ``_offset``) the run that judged them made dead letters, as far as the topic ``letters``
    goes back."""
    topic_id = reader.identity(source.topic)
    found = {
        (each.run, each.partition, each.offset)
        for each in scan(reader, letters)
        if each is not None and (each.source, each.topic) == (source.name, source.topic) and each.topic_id in ("", topic_id)
    }
    places = zip(judges.tolist(), *(events.column(name).to_pylist() for name in (PARTITION, OFFSET)), strict=True)
    return np.array([run >= 0 and (manifests[run]["id"], partition, offset) in found for run, partition, offset in places], np.bool_)


def _fields(manifest: Mapping[str, Any], source: str) -> list[list[Any]]:
    """The source's fields in their canonical form, as the run had them; none where it did not read the source."""
    found = (definition.get("source", {}) for definition in (manifest.get("definitions") or {}).values())
    return next((own.get("fields", []) for own in found if own.get("name") == source), [])


def _accepted(fields: Sequence[Sequence[Any]], events: pa.Table) -> Mask:
    out = np.ones(events.num_rows, np.bool_)
    for name, _, required, low, high, domain, *_ in fields:
        if name not in events.schema.names:
            continue
        column = events.column(name)
        rules = [column.is_valid()] if required else []
        rules += [pc.greater_equal(column, low)] if low is not None else []
        rules += [pc.less_equal(column, high)] if high is not None else []
        if domain is not None:
            rules.append(pc.or_(column.is_null(), pc.is_in(column, value_set=pa.array(domain, column.type))))
        for rule in rules:
            out &= pc.fill_null(rule, True).to_numpy()
    return out
