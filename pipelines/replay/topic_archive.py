"""Topics into event files, for training: what was sent since the last time is added to each source's log, once.

Records are judged by the contract, as the stream judges them; what it takes lies in ``date=YYYY-MM-DD`` folders by the event's own day, and
each file's name says which offsets it is of (:mod:`pipelines.sources.archived_files`). How far the archive is stands in
``data/archive/<source>.json``, written after the files it tells of: a process that is killed in between leaves files beyond it, which the
next one removes and makes again. Small files are merged, at no moment of which an event is there twice or missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import layout, shared
from pipelines.lake.data_files import read_json, write_json
from pipelines.project.config import KafkaSettings
from pipelines.replay.archive_merge import merge_files, remove_covered, write_file
from pipelines.sources.archive import archive_schema, judged, patiently
from pipelines.sources.archived_files import PREFIX, ArchivedFile
from pipelines.sources.broker import PartitionReader
from pipelines.sources.event_files import list_files
from pipelines.sources.formats.record_format import record_format
from transforms.definitions import EventSource
from transforms.errors import ConfigError, DataError
from transforms.instants import instant, now_us

__all__ = ["Archived", "archive_topic"]

ROWS = 500_000
"""So many events of a partition are held before they are written."""
_DAY_US = 86_400_000_000


@dataclass
class Archived:
    """What one call added: records read, events written, what the contract refused by reason, events left out as before ``begin``, those
    that the source's ``where`` does not take, ``tombstones`` (records that have a key and no value); ``lag``: the records that came
    meanwhile; ``missing``: what was gone before it was archived, as (partition, first offset, offset behind)."""

    source: str
    topic: str
    records: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    passed_over: int = 0
    tombstones: int = 0
    files: int = 0
    merged: int = 0
    lag: int = 0
    missing: list[tuple[int, int, int]] = field(default_factory=list)

    def followed_by(self, now: Archived) -> Archived:
        """What this pass and the next one of the same topic did; the lag is the last one's."""
        return replace(
            now,
            records=self.records + now.records,
            events=self.events + now.events,
            rejected=self.rejected + now.rejected,
            left_out=self.left_out + now.left_out,
            passed_over=self.passed_over + now.passed_over,
            tombstones=self.tombstones + now.tombstones,
            files=self.files + now.files,
            merged=self.merged + now.merged,
            missing=self.missing + now.missing,
        )

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
    overwrite: bool = False,
    max_future_us: int = _DAY_US,
    clock: Callable[[], int] = now_us,
    say: Callable[[str], None] = lambda line: None,
    skip: Mapping[int, frozenset[int]] = MappingProxyType({}),
    accept_missing: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Archived:
    """Add what the source's topic holds since the last time, up to its end now, to ``data / source.files``.

    ``begin`` (microseconds of event time) leaves out the events before it: those that the log has from elsewhere. ``overwrite`` forgets
    how far the archive is, and removes what it wrote. ``skip``: the offsets of each partition that streams were told to leave out.
    ``accept_missing`` goes on behind records that retention took before they were archived; they are kept in the archive's state.
    ``progress`` hears how many of how many offsets are done.

    Raises ConfigError for a source without topic or files, DataError for a log that holds events that were not archived (they may be the
    topic's own, and would count twice) where no ``begin`` is given, for a topic that was made anew (before or meanwhile), and for records
    that are gone.
    """
    if not source.topic or not source.files:
        lacks = "files" if source.topic else "topic"
        raise ConfigError(f"source {source.name!r} has no {lacks}; give it both: topic='...', files='events/...'")
    with shared.try_alone(data, layout.archive(data) / f".{source.name}.lock") as free:
        if not free:
            raise DataError(f"source {source.name!r} is being archived by another process; wait until it ends")
        shared.have_files(data, [source.files, "archive"], strict=False)  # what a killed one left is made anew, and sent
        archive = _Archive(reader, source, kafka, data, begin, max_future_us, clock, say, skip, progress)
        archive.begin(overwrite)
        archive.pass_missing(accept_missing)
        archive.copy()
        archive.end()
        return archive.done


@dataclass
class _Archive:
    """One call of :func:`archive_topic`, by one who holds the archive: what it was asked, what it goes on from, and what it added."""

    reader: PartitionReader
    source: EventSource
    kafka: KafkaSettings
    data: Path
    since: int | None
    max_future_us: int
    clock: Callable[[], int]
    say: Callable[[str], None]
    skip: Mapping[int, frozenset[int]]
    progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        self.topic = str(self.source.topic)
        self.done = Archived(self.source.name, self.topic)
        self.target = self.data / str(self.source.files)
        self.place = layout.archive(self.data) / f"{self.source.name}.json"
        self.offsets: dict[int, int] = {}
        """partition -> the offset before which all is archived."""

    def begin(self, overwrite: bool) -> None:
        """Go on from what was archived before, and look at the topic. Raises DataError for another topic, and for events of elsewhere."""
        known = {} if overwrite else dict(read_json(self.place) or {})
        self.identity = patiently(lambda: self.reader.identity(self.topic), self.say)
        if known and (known.get("topic"), known.get("identity")) != (self.topic, self.identity):
            raise DataError(
                f"topic {self.topic!r} is not the topic that was archived before (it was recreated); --overwrite starts over and"
                " deletes the earlier archive"
            )
        own = set(self.target.rglob(f"{PREFIX}*.parquet")) if self.target.is_dir() else set()
        if not known and self.since is None:
            _check_foreign(self.data, self.source, own)
        self.offsets = {int(p): int(o) for p, o in dict(known.get("next", {})).items()}
        self.missing: list[list[int]] = list(known.get("missing", []))
        for path in own:
            if (file := ArchivedFile.of(path.name)) is not None and file.upto > self.offsets.get(file.partition, 0):
                path.unlink()  # of a process that was killed, or of an archive that is begun anew
        self.partitions = range(patiently(lambda: self.reader.partitions(self.topic), self.say))
        self.starts = {p: patiently(lambda p=p: self.reader.start(self.topic, p), self.say) for p in self.partitions}
        self.ends = patiently(lambda: self.reader.ends(self.topic, self.partitions), self.say)

    def pass_missing(self, accept: bool) -> None:
        """Go on behind what retention took before it was archived, and note it. Raises DataError unless that is accepted."""
        for partition in self.partitions:
            expected, first = self.offsets.get(partition), self.starts[partition]
            if expected is not None and first > expected:
                self.done.missing.append((partition, expected, first))
        if self.done.missing:
            line = _missing(self.source, self.done.missing)
            if not accept:
                raise DataError(f"{line}; --accept-missing continues after them, and records the gap")
            self.say(line)
            self.offsets |= {partition: behind for partition, _, behind in self.done.missing}
            self.missing += [list(gap) for gap in self.done.missing]
            self._keep()

    def copy(self) -> None:
        """Write the events of all partitions, up to their ends as they were."""
        begun = {p: self.offsets.get(p, self.starts[p]) for p in self.partitions}
        total = sum(max(0, self.ends[p] - begun[p]) for p in self.partitions)
        for partition in self.partitions:
            for upto in self._copy(partition, begun[partition]):
                self.offsets[partition] = upto
                self._keep()
                self.progress(sum(self.offsets.get(p, begun[p]) - begun[p] for p in self.partitions), total)

    def end(self) -> None:
        """Send what was written where the data lies in an object store, merge small files, and look how much came meanwhile."""
        files = str(self.source.files)
        shared.send_files(self.data, [files])
        shared.send_files(self.data, ["archive"])  # before files are merged: none ever reaches beyond what is told here
        for folder in sorted(self.target.glob("date=*")):
            self.done.merged += merge_files(folder)
            remove_covered(folder)
        shared.send_files(self.data, [files], removals=True)
        ends = patiently(lambda: self.reader.ends(self.topic, self.partitions), self.say)
        self.done.lag = sum(max(0, end - self.offsets[p]) for p, end in ends.items())

    def _keep(self) -> None:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        done = {str(p): o for p, o in sorted(self.offsets.items())}
        write_json(self.place, {"topic": self.topic, "identity": self.identity, "missing": self.missing, "next": done}, durable=True)

    def _copy(self, partition: int, offset: int) -> Iterator[int]:
        """Writes the events of a partition; yields the offset up to which all is written, whenever something is."""
        done, source, schema, end = self.done, self.source, archive_schema(self.source), self.ends[partition]
        judge, skip = record_format(source, self.kafka).judge, self.skip.get(partition, frozenset())
        waiting: list[pa.RecordBatch] = []
        first = offset
        for fetched, checked in judged(self.reader, source, partition, offset, end, judge, self.max_future_us, self.clock, self.say, skip):
            done.records += len(fetched.offsets)
            done.rejected.update(checked.reasons.drop_null().to_pylist())
            done.passed_over += checked.passed_over
            done.tombstones += checked.tombstones
            valid, offsets = checked.valid, fetched.offsets[checked.accepted]
            times = valid.column(valid.schema.get_field_index(source.event_time)).cast(pa.int64()).to_numpy(zero_copy_only=False)
            keep = np.ones(len(times), bool) if self.since is None else times >= self.since
            done.left_out += int((~keep).sum())
            where = [pa.array(np.full(valid.num_rows, partition, np.int32)), pa.array(offsets)]
            waiting.append(pa.RecordBatch.from_arrays([*valid.columns, *where], schema=schema).filter(pa.array(keep)))
            offset = fetched.next_offset
            if sum(b.num_rows for b in waiting) >= ROWS:
                self._write(pa.Table.from_batches(waiting, schema), ArchivedFile(partition, first, offset))
                waiting, first = [], offset
                yield offset
        self._write(pa.Table.from_batches(waiting, schema), ArchivedFile(partition, first, offset))
        yield offset

    def _write(self, table: pa.Table, file: ArchivedFile) -> None:
        """One file per day of the events; each appears whole."""
        days = pc.cast(table.column(self.source.event_time), pa.int64()).to_numpy() // _DAY_US
        for day in np.unique(days).tolist():
            folder = self.target / f"date={instant(int(day) * _DAY_US):%Y-%m-%d}"
            write_file(folder, file.name, [table.filter(pa.array(days == day)).combine_chunks()], table.schema)
        self.done.files += len(np.unique(days))
        self.done.events += table.num_rows


def _missing(source: EventSource, gaps: list[tuple[int, int, int]]) -> str:
    parts = ", ".join(f"{source.topic}/{p} from offset {first:,} to before {behind:,}" for p, first, behind in gaps)
    total = sum(behind - first for _, first, behind in gaps)
    return f"{total:,} records were deleted by retention before they were archived: {parts}; archive more often or raise the retention"


def _check_foreign(data: Path, source: EventSource, own: set[Path]) -> None:
    if not (data / str(source.files)).is_dir():
        return
    foreign = [f.name for f in list_files(data, source, None, None, hashes=False) if Path(f.path) not in own]
    if foreign:
        raise DataError(
            f"{source.files} holds {len(foreign):,} files that were not archived from topic {source.topic!r} ({foreign[0]}...), and events"
            " that are in both would count twice; say with --since from which event time on the topic is to be archived"
        )
