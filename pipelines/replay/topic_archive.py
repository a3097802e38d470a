"""Topics into event files, for training: what was sent since the last time is added to each source's log, once.

Records are judged by the contract, as the stream judges them; what it takes lies in ``date=YYYY-MM-DD`` folders by the event's own day.
How far the archive is stands in ``data/archive/<source>.json``, written after the files it tells of: a process that is killed in between
leaves files beyond it, which the next one removes and makes again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.lake.files import read_json, write_json
from pipelines.project.config import KafkaSettings
from pipelines.sources.archive import archive_schema, judged, patiently
from pipelines.sources.broker import PartitionReader
from pipelines.sources.event_files import list_files
from pipelines.sources.formats.record_format import record_format
from transforms.definitions import EventSource
from transforms.errors import ConfigError, DataError
from transforms.instants import instant, now_us
from transforms.locks import try_lock

__all__ = ["Archived", "archive_topic"]

ROWS = 500_000
"""So many events of a partition are held before they are written."""
_DAY_US = 86_400_000_000
_PREFIX = "topic-"


@dataclass
class Archived:
    """What one call added: records read, events written, what the contract refused by reason, events left out as before ``begin``."""

    source: str
    topic: str
    records: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    files: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {**vars(self), "rejected": dict(sorted(self.rejected.items()))}


def archive_topic(
    reader: PartitionReader,
    source: EventSource,
    kafka: KafkaSettings,
    data: Path,
    *,
    begin: int | None = None,
    anew: bool = False,
    max_future_us: int = _DAY_US,
    clock: Callable[[], int] = now_us,
    say: Callable[[str], None] = lambda line: None,
    skip: Mapping[int, frozenset[int]] = MappingProxyType({}),
) -> Archived:
    """Add what the source's topic holds since the last time, up to its end now, to ``data / source.files``.

    ``begin`` (microseconds of event time) leaves out the events before it: those that the log has from elsewhere. ``anew`` forgets how far
    the archive is, and removes what it wrote. ``skip``: the offsets of each partition that streams were told to leave out.

    Raises ConfigError for a source without topic or files, DataError for a log that holds events that were not archived (they may be the
    topic's own, and would count twice) where no ``begin`` is given, for a topic that was made anew, and for records that are gone,
    OffsetGone.
    """
    if not source.topic or not source.files:
        lacks = "files" if source.topic else "topic"
        raise ConfigError(f"source {source.name!r} has no {lacks}; give it both: topic='...', files='events/...'")
    target, place = data / source.files, layout.archive(data) / f"{source.name}.json"
    with try_lock(layout.archive(data) / f".{source.name}.lock") as free:
        if not free:
            raise DataError(f"source {source.name!r} is being archived by another process; wait for it to end")
        known = {} if anew else dict(read_json(place) or {})
        identity = patiently(lambda: reader.identity(source.topic), say)
        if known and (known.get("topic"), known.get("identity")) != (source.topic, identity):
            raise DataError(
                f"topic {source.topic!r} is not the one that was archived before; --anew begins again, and removes what it wrote"
            )
        own = set(target.rglob(f"{_PREFIX}*.parquet")) if target.is_dir() else set()
        if not known and begin is None:
            _check_foreign(data, source, own)
        offsets = {int(p): int(o) for p, o in dict(known.get("next", {})).items()}
        for path in own:
            partition, first = (int(word) for word in path.stem.removeprefix(_PREFIX).split("-")[:2])
            if first >= offsets.get(partition, 0):
                path.unlink()  # of a process that was killed, or of an archive that is begun anew
        done = Archived(source.name, source.topic)
        state = {"topic": source.topic, "identity": identity}
        for partition in range(patiently(lambda: reader.partitions(source.topic), say)):
            first = offsets[partition] if partition in offsets else patiently(lambda p=partition: reader.start(source.topic, p), say)
            around = skip.get(partition, frozenset())
            for upto in _copy(reader, source, kafka, partition, first, target, begin, max_future_us, clock, done, say, around):
                offsets[partition] = upto
                place.parent.mkdir(parents=True, exist_ok=True)
                write_json(place, {**state, "next": {str(p): o for p, o in sorted(offsets.items())}}, durable=True)
        return done


def _check_foreign(data: Path, source: EventSource, own: set[Path]) -> None:
    if not (data / str(source.files)).is_dir():
        return
    foreign = [f.name for f in list_files(data, source, None, None, hashes=False) if Path(f.path) not in own]
    if foreign:
        raise DataError(
            f"{source.files} holds {len(foreign):,} files that were not archived from topic {source.topic!r} ({foreign[0]}...), and events"
            " that are in both would count twice; say with --since from which event time on the topic is to be archived"
        )


def _copy(
    reader: PartitionReader,
    source: EventSource,
    kafka: KafkaSettings,
    partition: int,
    offset: int,
    target: Path,
    begin: int | None,
    max_future_us: int,
    clock: Callable[[], int],
    done: Archived,
    say: Callable[[str], None],
    skip: frozenset[int],
) -> Any:
    """Writes the events of a partition up to its end now; yields the offset up to which all is written, whenever something is."""
    decode, schema = record_format(source, kafka).judge, archive_schema(source)
    end = patiently(lambda: reader.end(source.topic, partition), say)
    waiting: list[pa.RecordBatch] = []
    first = offset
    for fetched, checked in judged(reader, source, partition, offset, end, decode, max_future_us, clock, say, skip):
        done.records += len(fetched.offsets)
        done.rejected.update(checked.reasons.drop_null().to_pylist())
        valid, offsets = checked.valid, fetched.offsets[checked.accepted]
        times = valid.column(valid.schema.get_field_index(source.event_time)).cast(pa.int64()).to_numpy(zero_copy_only=False)
        keep = np.ones(len(times), bool) if begin is None else times >= begin
        done.left_out += int((~keep).sum())
        where = [pa.array(np.full(valid.num_rows, partition, np.int32)), pa.array(offsets)]
        waiting.append(pa.RecordBatch.from_arrays([*valid.columns, *where], schema=schema).filter(pa.array(keep)))
        offset = fetched.next_offset
        if sum(b.num_rows for b in waiting) >= ROWS:
            done.files += _write(pa.Table.from_batches(waiting, schema), source, target, partition, first, offset)
            done.events += sum(b.num_rows for b in waiting)
            waiting, first = [], offset
            yield offset
    done.files += _write(pa.Table.from_batches(waiting, schema), source, target, partition, first, offset)
    done.events += sum(b.num_rows for b in waiting)
    yield offset


def _write(table: pa.Table, source: EventSource, target: Path, partition: int, first: int, upto: int) -> int:
    """One file per day of the events; each appears whole. The number of files."""
    days = pc.cast(table.column(source.event_time), pa.int64()).to_numpy() // _DAY_US
    for day in np.unique(days).tolist():
        folder = target / f"date={instant(int(day) * _DAY_US):%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{_PREFIX}{partition:05d}-{first:020d}-{upto:020d}.parquet"
        with open(folder / f".{name}.tmp", "wb") as sink:
            pq.write_table(table.filter(pa.array(days == day)), sink, compression="zstd", coerce_timestamps="us")
            sink.flush()
            os.fsync(sink.fileno())
        os.rename(folder / f".{name}.tmp", folder / name)
    return len(np.unique(days))
