"""Event logs into topics, in the order of a simulated arrival, at N times real speed.

:func:`schedule` puts the planned records of all sources into one order of arrival; :func:`run_replay` sends them. Record
timestamps are the simulated arrival in event time (broker and contract see replayed time); the record key is the event's
tie-breaker, which every source has and which spreads well, and the partition Kafka's murmur2 of it: all copies of an event
lie in one partition. No feature depends on the choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.project.extensions import FORMATS
from pipelines.project.repository import Repo
from pipelines.replay.event_log import EventLog
from pipelines.replay.producer import Outbox, prepare_topics
from pipelines.replay.schedule import CORRUPT, DELAYED, DUPLICATE, LATE, ORIGINAL, Alterations, partitions_of, plan
from pipelines.sources.event_files import passed_over_line, passed_over_record
from pipelines.sources.formats.record_format import RecordFormat, record_format
from pipelines.sources.kafka.kafka_client import client_options
from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.instants import now_us

__all__ = ["ReplayOptions", "Reached", "run_replay", "schedule", "write_clock"]

SEND_AT_ONCE = 2_000
"""Records between two looks at the clock."""
LINGER_MS, FAST_LINGER_MS = 20, 250
"""How long a batch waits for more records: at a speed they should be there soon, without one it should be full."""
SLIP_SECONDS = 2.0
"""Further behind than this, the replay gives up catching up and tells the clock."""

SENDS = pa.schema([
    pa.field("source", pa.int8()),
    pa.field("arrival", pa.int64()),
    pa.field("kind", pa.uint8()),
    pa.field("role", pa.uint8()),
    pa.field("id", pa.uint64()),
    pa.field("payload", pa.large_binary()),
    pa.field("key", pa.large_binary()),
])  # fmt: skip
"""A record to send: number of its source, arrival in microseconds of event time, PLAIN/DELAYED/LATE, ORIGINAL/DUPLICATE/CORRUPT."""


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay and how. Times are microseconds of UTC (None: open); ``speed`` in event seconds per second, None: no waiting."""

    start_us: int | None = None
    end_us: int | None = None
    speed: float | None = None
    sources: tuple[str, ...] = ()
    partitions: int | None = None
    format: str | None = None
    how: Alterations = field(default_factory=Alterations)

    def __post_init__(self) -> None:
        if self.format is not None:
            try:
                FORMATS.find(self.format)
            except ConfigError as error:
                raise ConfigError(f"--format {error}") from None
        if self.speed is not None and not 0 < self.speed < float("inf"):
            raise ConfigError(f"--speed {self.speed}: give a number above 0, such as 3600, or max")
        if self.partitions is not None and self.partitions < 1:
            raise ConfigError(f"--partitions {self.partitions}: a topic has at least 1")
        if self.start_us is not None and self.end_us is not None and self.start_us >= self.end_us:
            raise ConfigError("--start is not before --end; correct the range")


@dataclass(frozen=True)
class Reached:
    """How far a replay is: records sent, the arrival of the last one, the range (None: unknown) and seconds behind its clock."""

    sent: int
    event_us: int
    start_us: int | None
    end_us: int | None
    behind: float


def schedule(log: EventLog, how: Alterations, formats: Mapping[str, RecordFormat]) -> Iterator[pa.Table]:
    """All records of a log in order of arrival, as tables in :data:`SENDS`; each table lies wholly after the one before.

    Equal arrivals are ordered by source, then identity; a copy follows its original. Payloads of CORRUPT records are broken
    here, by ``formats``, source -> its format. In memory are one slice of the log and the records delayed beyond it.
    """
    waiting = _table(SENDS)
    for piece in log.slices():
        parts = [waiting]
        for number, source in enumerate(log.sources):
            if source.name in piece.events:
                parts.append(_planned(piece.events[source.name], number, source, how, formats[source.name], piece.start_us))
        whole = pa.concat_tables(parts)
        due = whole.column("arrival").to_numpy() < piece.end_us
        waiting = whole.filter(pa.array(~due)).combine_chunks()
        if due.any():
            yield _ordered(whole.filter(pa.array(due)))
    if waiting.num_rows:
        yield _ordered(waiting)


def _planned(events: pa.Table, number: int, source: EventSource, how: Alterations, form: RecordFormat, start_us: int) -> pa.Table:
    times, ids = events.column("time").to_numpy(), events.column("id").to_numpy()
    made = plan(times, ids, source, how)
    rows = pa.array(made.row)
    payloads, keys = events.column("payload").take(rows).combine_chunks(), events.column("key").take(rows).combine_chunks()
    broken = np.flatnonzero(made.role == CORRUPT)
    if len(broken):
        payloads = _break(payloads, keys, broken, made.dice, form)
    # What lies in the folder of a later day than its own comes with that day.
    arrival = np.maximum(made.arrival_us, start_us)
    columns = [np.full(len(rows), number, np.int8), arrival, made.kind, made.role, ids[made.row]]
    return _table(SENDS, *(pa.array(c) for c in columns), payloads, keys)


def _break(payloads: pa.Array, keys: pa.Array, broken: npt.NDArray[np.int64], dice: npt.NDArray[np.uint64], form: RecordFormat) -> pa.Array:
    # Without a payload it would be a tombstone, as it has a key, and no fault.
    made = [form.damaged(payloads[row].as_py(), keys[row].as_py(), int(dice[row])) or b"" for row in broken.tolist()]
    place = np.arange(len(payloads))
    place[broken] = len(payloads) + np.arange(len(broken))
    return pa.concat_arrays([payloads, pa.array(made, pa.large_binary())]).take(pa.array(place))


def _ordered(table: pa.Table) -> pa.Table:
    keys = [table.column(name).to_numpy() for name in ("role", "id", "source", "arrival")]
    return table.take(pa.array(np.lexsort(keys))).combine_chunks()


def _table(schema: pa.Schema, *columns: Any) -> pa.Table:
    return pa.Table.from_arrays(list(columns) or [pa.array([], f.type) for f in schema], schema=schema)


def write_clock(data: Path, event_us: int, wall_us: int, speed: float) -> None:
    """Tell the replay's clock: event time = ``event_us0 + (wall - wall_us0) * speed``; speed 0 is a clock that stands still."""
    path = layout.replay_clock(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"event_us0": event_us, "wall_us0": wall_us, "speed": speed}, indent=None)


class ReplayCounts(TypedDict):
    """How many records of a source were sent; of its log's ``events`` how many were delayed and how many late; how many records were
    copies, or corrupted."""

    sent: int
    events: int
    delayed: int
    late: int
    duplicated: int
    corrupted: int


class ReplayedSource(ReplayCounts):
    """What was sent of a source. ``last_offsets``: partition (decimal) -> the last record's offset."""

    topic: str
    format: str
    last_offsets: dict[str, int]


class ReplaySummary(TypedDict):
    """What a replay did. ``reached_us``: the event time of the last record that was sent (microseconds; None: none was)."""

    interrupted: bool
    sent: int
    unacknowledged: int
    seconds: float
    records_per_second: int
    reached_us: int | None
    seed: int
    passed_over: dict[str, Any]
    sources: dict[str, ReplayedSource]


def run_replay(
    repo: Repo,
    options: ReplayOptions,
    *,
    progress: Callable[[Reached], None] = lambda reached: None,
    say: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> ReplaySummary:
    """Send the logs of the repository's sources into their topics; returns the summary that ``tandem replay --json`` prints.

    Returns when every record is acknowledged by all replicas, or, what was sent being so, soon after ``stopped()``. While no
    broker answers it waits, and says so. Raises ConfigError for sources, topics and settings that do not fit.
    """
    sources = _chosen(repo, options.sources)
    kafka, how = repo.settings.kafka, options.how
    formats = {s.name: record_format(s, kafka, options.format) for s in sources}
    for form in formats.values():
        form.prepare_to_encode()
    connection = client_options(kafka, repo.data)
    future_us = int(repo.settings.batch.max_future_hours * 3.6e9)
    log = EventLog(repo.data, sources, options.start_us, options.end_us, now_us=now_us(), max_future_us=future_us, formats=formats)
    passed = {n: len(entries) for n, entries in log.passed_over.items()}
    if line := passed_over_line(log.passed_over):
        say(line)
    partitions = prepare_topics(connection, [s.topic for s in sources], options.partitions, say, stopped)
    counts = {s.name: ReplayCounts(sent=0, events=0, delayed=0, late=0, duplicated=0, corrupted=0) for s in sources}
    begun, sent, reached = time.monotonic(), 0, options.start_us
    span = log.span()
    pace = _Pace(repo.data, options.speed)
    with Outbox(connection, say, stopped, LINGER_MS if options.speed else FAST_LINGER_MS) as outbox:
        for table in schedule(log, how, formats):
            for part in table.to_batches(SEND_AT_ONCE):
                times = part.column(1).to_numpy()
                if reached is None:
                    reached = int(times[0])
                pace.begin(reached)
                done = 0
                while done < len(times) and not stopped():
                    upto = len(times) if options.speed is None else int(np.searchsorted(times, pace.event_now(), "right"))
                    if upto <= done:
                        progress(Reached(sent, pace.event_now(), *span, 0.0))
                        pace.wait_for(int(times[done]))
                        continue
                    now = part.slice(done, upto - done)
                    outbox.send_all(*_records(now, sources, partitions))
                    _count(counts, now, sources)
                    done, sent, reached = upto, sent + now.num_rows, int(times[upto - 1])
                    behind = pace.keep(reached)
                    progress(Reached(sent, reached, *span, behind))
                if stopped():
                    break
            if stopped():
                break
        offsets = outbox.finish()
    if line := passed_over_line({n: entries[passed[n] :] for n, entries in log.passed_over.items()}):  # found out on the way
        say(line)
    if reached is not None:
        write_clock(repo.data, reached, now_us(), 0.0)
    took = time.monotonic() - begun
    return {
        "interrupted": stopped(),
        "sent": sent,
        "unacknowledged": outbox.unacknowledged,
        "seconds": round(took, 3),
        "records_per_second": round(sent / took) if took else 0,
        "reached_us": reached,
        "seed": how.seed,
        "passed_over": passed_over_record(log.passed_over),
        "sources": {
            s.name: {
                "topic": s.topic,
                "format": options.format or kafka.format_of(s.name),
                **counts[s.name],
                "last_offsets": {str(p): o for (topic, p), o in sorted(offsets.items()) if topic == s.topic},
            }
            for s in sources
        },
    }


def _chosen(repo: Repo, names: tuple[str, ...]) -> list[EventSource]:
    known = {name: s for name, s in repo.sources.items() if s.topic}
    for name in names:
        if name not in known:
            problem = "has no topic" if name in repo.sources else "is not known"
            raise ConfigError(f"--source {name} {problem}; sources with a topic: {', '.join(sorted(known)) or 'none'}")
    chosen = [s for name, s in sorted(known.items()) if (s.files and not names) or name in names]
    if not chosen:
        raise ConfigError(f"{repo.path.name} has no source with files and topic; set both in a source")
    for topic in (s.topic for s in chosen):
        if len(of := [s.name for s in repo.sources.values() if s.topic == topic]) > 1:
            raise ConfigError(
                f"sources {', '.join(of)} read one topic, {topic!r}: a replayed event is a record of one source, which the others could"
                " not read; produce the records as they were, or give each source a topic"
            )
    return chosen


def _records(
    part: pa.RecordBatch, sources: list[EventSource], partitions: dict[str, int]
) -> tuple[list[str], list[int], list[bytes | None], list[bytes], list[int]]:
    """Topics, partitions, values, keys and timestamps (ms) of some records, as lists for the client."""
    number = part.column(0).to_numpy()
    place = np.zeros(len(number), dtype=np.int32)
    keys = part.column(6).cast(pa.binary())
    for i, source in enumerate(sources):
        mine = number == i
        if mine.any():
            place[mine] = partitions_of(keys.filter(pa.array(mine)), partitions[source.topic])
    topics = [sources[i].topic for i in number.tolist()]
    values = part.column(5).to_numpy(zero_copy_only=False).tolist()
    return topics, place.tolist(), values, keys.to_numpy(zero_copy_only=False).tolist(), (part.column(1).to_numpy() // 1000).tolist()


def _count(counts: dict[str, ReplayCounts], part: pa.RecordBatch, sources: list[EventSource]) -> None:
    number, kind, role = (part.column(i).to_numpy() for i in (0, 2, 3))
    for i, source in enumerate(sources):
        mine = number == i
        original, into = mine & (role == ORIGINAL), counts[source.name]
        into["sent"] += int(mine.sum())
        into["events"] += int(original.sum())
        into["delayed"] += int((original & (kind == DELAYED)).sum())
        into["late"] += int((original & (kind == LATE)).sum())
        into["duplicated"] += int((mine & (role == DUPLICATE)).sum())
        into["corrupted"] += int((mine & (role == CORRUPT)).sum())


class _Pace:
    """The replay's clock: when the next records are due, and the file that tells others."""

    def __init__(self, data: Path, speed: float | None) -> None:
        self.data, self.speed = data, speed
        self.event_us = self.wall_us = self.told = 0

    def begin(self, event_us: int) -> None:
        """Start the clock at an event time, once."""
        if not self.wall_us:
            self._set(event_us)

    def _set(self, event_us: int) -> None:
        self.event_us, self.wall_us = event_us, now_us()
        self.told = self.wall_us
        write_clock(self.data, event_us, self.wall_us, self.speed or 0.0)

    def event_now(self) -> int:
        """The event time now, at a speed."""
        return self.event_us + int((now_us() - self.wall_us) * (self.speed or 0.0))

    def wait_for(self, event_us: int) -> None:
        """Sleep until an event time is due, but not long: somebody may want to stop."""
        time.sleep(min(max((event_us - self.event_now()) / 1e6 / (self.speed or 1.0), 0.0005), 0.1))

    def keep(self, reached_us: int) -> float:
        """After sending up to ``reached_us``: the seconds that the replay is behind; a clock too far ahead of it is set back."""
        if self.speed is None:  # no pace: the clock stands where the replay is
            if now_us() - self.told > 1_000_000:
                self._set(reached_us)
            return 0.0
        behind = (self.event_now() - reached_us) / 1e6 / self.speed
        if behind > SLIP_SECONDS:
            self._set(reached_us)
        return behind
