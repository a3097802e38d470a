"""What crosses the shuffle of the streaming job, and what its fold stage hands on. Bytes outside, Arrow inside."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.batch.steps import from_ipc, to_ipc
from transforms.definitions import EventSource
from transforms.fold import OFFSET, Stretch

__all__ = ["GROUP", "PARTITION", "Element", "Emission", "as_late", "decode", "encode", "late_schema", "with_offsets"]

PARTITION, GROUP = "_partition", "_group"


@dataclass(frozen=True)
class Element:
    """What one poll of a partition means to one shard. ``events``: group -> the shard's events with their offsets; ``late``: the too-late
    events that this shard writes down; ``flush``: save the resume point now."""

    stretch: Stretch
    events: dict[str, pa.RecordBatch]
    late: pa.RecordBatch | None = None
    flush: bool = False


@dataclass(frozen=True)
class Emission:
    """What a shard delivers: rows (group -> ``row_schema``), too-late events (source -> :func:`late_schema`), counts, and the resume point
    that holds once all of that is delivered (empty: not now)."""

    shard: int
    rows: dict[str, pa.RecordBatch]
    late: dict[str, pa.RecordBatch]
    progress: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)


def encode(element: Element) -> bytes:
    """For the shuffle; :func:`decode` is the inverse. Trusted on both ends: only this job's own workers write it."""
    events = {name: to_ipc(batch) for name, batch in element.events.items()}
    late = None if element.late is None else to_ipc(element.late)
    return pickle.dumps((element.stretch, events, late, element.flush), protocol=5)


def decode(data: bytes) -> Element:
    """The inverse of :func:`encode`."""
    stretch, events, late, flush = pickle.loads(data)
    return Element(stretch, {n: from_ipc(b) for n, b in events.items()}, None if late is None else from_ipc(late), flush)


def with_offsets(events: pa.RecordBatch, offsets: np.ndarray[Any, np.dtype[np.int64]]) -> pa.RecordBatch:
    """Events (N) with their records' offsets (int64 [N]) as the last column."""
    return pa.RecordBatch.from_arrays([*events.columns, pa.array(offsets)], names=[*events.schema.names, OFFSET])


def late_schema(source: EventSource) -> pa.Schema:
    """Too-late events: the event, ``_partition``, ``_offset``, and ``_group`` where it was too late for that group alone."""
    return pa.schema(
        [*source.arrow_schema, pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64()), pa.field(GROUP, pa.string())],
    )


def as_late(source: EventSource, events: pa.RecordBatch, partition: int, group: str | None) -> pa.RecordBatch:
    """Events with offsets (:func:`with_offsets`) as rows of :func:`late_schema`."""
    n, schema = events.num_rows, late_schema(source)
    named = dict(zip(events.schema.names, events.columns, strict=True))
    given = {PARTITION: pa.array([partition] * n, pa.int32()), GROUP: pa.array([group] * n, pa.string())}
    return pa.RecordBatch.from_arrays([given.get(f.name, named.get(f.name)) for f in schema], schema=schema)
