"""A topic as an event log on disk: the records that the stream accepts, judged as it judges them.

A batch run over an archive sees exactly the events that a stream over the same offsets saw; :mod:`pipelines.verify` compares both.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.project.config import KafkaSettings
from pipelines.sources.broker import BrokerAway, FetchResult, PartitionReader
from pipelines.sources.formats.record_format import Decode, record_format
from pipelines.sources.record_times import judged_at
from pipelines.sources.record_verdicts import judge_some
from pipelines.sources.skips import poll_around
from transforms.contract import Checked
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.instants import now_us

__all__ = ["archive", "archive_schema", "judged", "patiently"]

POLL_RECORDS = 20_000
POLL_MS = 200
GROUP_ROWS = 65_536
AWAY_SECONDS = 0.5


def archive_schema(source: EventSource) -> pa.Schema:
    """The columns of an archive: those of the source's valid events, then where each stood in the topic. Its metadata says that these are
    events as they were read, where the source maps what it reads."""
    where = [pa.field("_partition", pa.int32(), nullable=False), pa.field("_offset", pa.int64(), nullable=False)]
    return pa.schema([*source.arrow_schema, *where], metadata=source.arrow_schema.metadata)


def archive(
    reader: PartitionReader,
    source: EventSource,
    kafka: KafkaSettings,
    upto: dict[int, int] | None,
    folder: Path,
    *,
    start: dict[int, int] | None = None,
    max_future_us: int = 360_000_000,
    clock: Callable[[], int] = now_us,
    say: Callable[[str], None] = lambda line: None,
    skip: Mapping[int, frozenset[int]] | None = None,
) -> Path:
    """Write the accepted events of a topic as event files; returns ``folder / source.files`` (``events/<name>`` where it has none).

    Of each partition the records in ``[start, upto)`` are read: from its first record and
    up to its end now, unless given. ``max_future_us`` must be the stream's, and so must ``skip``, the offsets of each partition that are
    left out. One Parquet file per partition that has events, in
    :func:`archive_schema`, rows by offset; what was in the folder before is replaced, once all is written. Memory is bounded by a poll and
    a row group. While the broker or the registry is away it waits, and says so. Raises DataError for a topic that ends before ``upto``,
    OffsetGone, UnknownTopic, ConfigError.
    """
    target = folder / (source.files or f"events/{source.name}")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    decode = record_format(source, kafka).judge
    try:
        for partition in range(patiently(lambda: reader.partitions(source.topic), say)):
            first = start[partition] if start and partition in start else patiently(lambda p=partition: reader.start(source.topic, p), say)
            end = patiently(lambda p=partition: reader.end(source.topic, p), say) if upto is None else upto.get(partition, 0)
            file = _Part(unfinished / f"part-{partition:04d}.parquet", source, partition)
            try:
                left_out = (skip or {}).get(partition, frozenset())
                for fetched, checked in judged(reader, source, partition, first, end, decode, max_future_us, clock, say, left_out):
                    file.add(checked.valid, fetched.offsets[checked.accepted])
            finally:
                file.close()
        if target.exists():
            shutil.rmtree(target)
        unfinished.replace(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def judged(
    reader: PartitionReader,
    source: EventSource,
    partition: int,
    offset: int,
    end: int,
    decode: Decode,
    max_future_us: int,
    clock: Callable[[], int],
    say: Callable[[str], None],
    skip: frozenset[int] = frozenset(),
) -> Iterator[tuple[FetchResult, Checked]]:
    """The records of a partition from ``offset`` up to ``end``, and the stream's verdict on them. Raises DataError where the topic ends
    before, OffsetGone."""
    while offset < end:
        at = offset
        fetched = patiently(lambda at=at: poll_around(reader, source.topic, partition, at, POLL_RECORDS, POLL_MS, skip), say)
        if len(fetched.offsets) and fetched.offsets[-1] >= end:
            fetched = fetched.before(end)
        nows = judged_at(fetched.timestamps_us, clock(), max_future_us)  # as the stream does
        fetched, checked = patiently(lambda p=fetched, n=nows: judge_some(decode, p, source, n, max_future_us), say)
        yield fetched, checked
        if fetched.next_offset == offset and fetched.at_end and fetched.end_offset < end:
            raise DataError(
                f"{source.topic}/{partition} ends at offset {fetched.end_offset}, before {end}: it was cut, or the offset is wrong"
            )
        offset = fetched.next_offset


def patiently(ask: Callable[..., Any], say: Callable[[str], None]) -> Any:
    """What ``ask`` answers, waiting while the broker or the registry is away."""
    said = False
    while True:
        try:
            answer = ask()
        except BrokerAway as error:
            if not said:
                say(f"{error}; waiting")
                said = True
            time.sleep(AWAY_SECONDS)
            continue
        if said:
            say("it answers again; going on")
        return answer


class _Part:
    """One Parquet file, made with its first row, written by row groups."""

    def __init__(self, path: Path, source: EventSource, partition: int) -> None:
        self.path, self.schema, self.partition = path, archive_schema(source), partition
        self.waiting: list[pa.RecordBatch] = []
        self.rows = 0
        self.writer: pq.ParquetWriter | None = None

    def add(self, valid: pa.RecordBatch, offsets: np.ndarray[Any, Any]) -> None:
        """Append N events and their offsets."""
        if valid.num_rows:
            where = [pa.array(np.full(valid.num_rows, self.partition, np.int32)), pa.array(offsets)]
            self.waiting.append(pa.RecordBatch.from_arrays([*valid.columns, *where], schema=self.schema))
            self.rows += valid.num_rows
        if self.rows >= GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if self.rows:
            if self.writer is None:
                self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd", version="2.6", coerce_timestamps="us")
            self.writer.write_table(pa.Table.from_batches(self.waiting).combine_chunks(), row_group_size=GROUP_ROWS)
            self.waiting, self.rows = [], 0

    def close(self) -> None:
        """Write what waits, and end the file."""
        self._write()
        if self.writer is not None:
            self.writer.close()
