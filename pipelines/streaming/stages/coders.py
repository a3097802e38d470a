"""What crosses the shuffle of the streaming job, and what its fold stage hands on. Bytes outside, Arrow inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from pipelines.streaming.stages.plain_bytes import dumps, loads
from pipelines.streaming.state.checkpoint_records import Checkpoint
from pipelines.streaming.state.job_state import JobState
from transforms.definitions import EventSource
from transforms.errors import DataError, TandemError
from transforms.fold import OFFSET, OffsetRange

__all__ = [
    "GROUP",
    "PARTITION",
    "Element",
    "FoldOutput",
    "FoldOutputCoder",
    "as_late",
    "decode",
    "decode_state",
    "encode",
    "encode_state",
    "late_schema",
    "with_offsets",
]

PARTITION, GROUP = "_partition", "_group"
STATE_FORMAT = 4
"""Of what the steps keep in Beam's state; 1 had no number, 1 and 2 were pickles, without leaps, 3 had no bytes of their own for a shard."""


@dataclass(frozen=True)
class Element:
    """What one poll of a partition means to one shard. ``events``: group -> the shard's events with their offsets; ``late``: the too-late
    events that this shard writes down; ``flush``: save the checkpoint now; ``more``: the partition is far behind, and another element of
    it follows at once, whatever it brings."""

    span: OffsetRange
    events: dict[str, pa.RecordBatch]
    late: pa.RecordBatch | None = None
    flush: bool = False
    more: bool = False


@dataclass(frozen=True)
class FoldOutput:
    """What a shard delivers: rows (group -> ``row_schema``), too-late events (source -> :func:`late_schema`), counts, and the checkpoint
    that holds once all of that is delivered (empty: not now)."""

    shard: int
    rows: dict[str, pa.RecordBatch]
    late: dict[str, pa.RecordBatch]
    checkpoint: Checkpoint
    counts: dict[str, int] = field(default_factory=dict)


def encode(element: Element) -> bytes:
    """For the shuffle; :func:`decode` is the inverse."""
    return dumps((element.span, element.events, element.late, element.flush, element.more))


def decode(data: bytes) -> Element:
    """The inverse of :func:`encode`. Raises DataError for foreign bytes."""
    return Element(*loads(data))


def encode_state(value: Any) -> bytes:
    """A step's own state for Beam; :func:`decode_state` is the inverse."""
    return dumps((STATE_FORMAT, value))


def decode_state(data: bytes, job_state: JobState) -> Any:
    """The inverse of :func:`encode_state`. Raises TandemError, and ends the job, for state that another version of Tandem kept (in a
    savepoint): the stream's own checkpoint is right in any case."""
    try:
        kept, value = loads(data)
        if kept == STATE_FORMAT:
            return value
    except (DataError, TypeError, ValueError):  # other bytes, or another value
        pass
    line = "the engine restored state of another version of Tandem; stop, and start without --from-savepoint: at the stream's checkpoint"
    job_state.fail(line)
    raise TandemError(line)


class FoldOutputCoder(Coder):
    """Fold and sink are one fused stage, so this is hardly ever used; without it a runner that separates them would take a pickle."""

    def encode(self, value: FoldOutput) -> bytes:
        """The output as bytes."""
        return dumps((value.shard, value.rows, value.late, value.checkpoint, value.counts))

    def decode(self, encoded: bytes) -> FoldOutput:
        """The inverse."""
        return FoldOutput(*loads(encoded))

    def is_deterministic(self) -> bool:
        """Equal outputs are equal bytes."""
        return True


registry.register_coder(FoldOutput, FoldOutputCoder)


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
