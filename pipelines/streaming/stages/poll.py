"""The first keyed stage: polls one partition from the offset in its state, judges the records, and sends each shard its share."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipelines.sources.broker import BrokerAway, FetchResult
from pipelines.sources.formats.record_format import record_format
from pipelines.streaming.stages.coders import Element, decode_state, encode, encode_state, with_offsets
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from transforms.contract import Checked
from transforms.definitions import EventSource
from transforms.errors import DataError, StoreError, TandemError
from transforms.fold import OffsetRange
from transforms.hashing import shard_of
from transforms.lateness import NEVER, split_late, watermark_of

__all__ = ["Partitions", "Poll"]

POLL_MS = 20
"""How long one poll waits for the broker."""
DISCOVER_SECONDS = 5.0
REPORT_SECONDS = 0.5
LEAP_US = 7 * 86_400_000_000
"""How far the wall clock moves an idle partition's watermark at once: years would empty every window of a replayed history."""
BEAT_SECONDS = 1.0
"""How often the wall clock moves an idle partition's watermark."""


def now_us() -> int:
    """The wall clock in microseconds of UTC."""
    return time.time_ns() // 1000


@dataclass
class Position:
    """The state of a partition's poll: where reading began and goes on, event time so far, and what was counted."""

    start: int
    next: int
    newest: int
    watermark: int = NEVER
    idle: bool = False
    flushed: bool = True
    recent: int = 0
    recent_bad: int = 0
    paused: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, n: int) -> None:
        """Add to a counter."""
        if n:
            self.counts[name] = self.counts.get(name, 0) + n


class Partitions(beam.DoFn):
    """A tick -> ("source/partition", number of partitions) for every partition of every topic; new ones are found while running."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.known: dict[str, int] = {}
        self.looked = -DISCOVER_SECONDS

    def setup(self) -> None:
        """Connects at the first question."""
        self.reader = self.spec.broker.open_reader()
        self.job_state = JobState(self.spec.folder)

    def process(self, tick: Any) -> Iterator[tuple[str, int]]:
        """Look for partitions now and then; while nobody answers, the known ones go on."""
        if time.monotonic() - self.looked >= DISCOVER_SECONDS:
            for name, source in self.spec.sources.items():
                try:
                    self.known[name] = self.reader.partitions(source.topic)
                except BrokerAway:
                    continue
                except TandemError as error:
                    self.job_state.fail(str(error))
                    raise
            self.looked = time.monotonic()
        for name, count in self.known.items():
            for partition in range(count):
                yield f"{name}/{partition}", count

    def teardown(self) -> None:
        """Disconnect."""
        self.reader.close()


class Poll(beam.DoFn):
    """("source/partition", partitions) -> (shard, :class:`Element` as bytes), one for every shard and poll that brings something.

    Dead letters are written before anything else of a poll goes on. A broker that is away is waited for; what can never be read
    again, or dead letters that cannot be written, end the job with one line. Nothing is skipped.
    """

    POSITION = ReadModifyWriteStateSpec("position", BytesCoder())

    def __init__(self, spec: JobSpec, clock: Callable[[], int] = now_us) -> None:
        self.spec, self.clock = spec, clock

    def setup(self) -> None:
        """Prepare what a worker needs once."""
        spec = self.spec
        self.job_state = JobState(spec.folder)
        self.reader = spec.broker.open_reader()
        self.letters = spec.broker.open_dead_letters(spec.kafka.dead_letters, spec.kafka.dead_letter_seconds)
        self.decode = {n: record_format(s, spec.kafka).decode for n, s in spec.sources.items()}
        self.seen: dict[str, float] = {}
        self.beaten: dict[str, float] = {}
        self.reported: dict[str, float] = {}
        self.away: dict[str, float] = {}
        self.same: set[str] = set()

    def teardown(self) -> None:
        """Disconnect."""
        self.reader.close()
        self.letters.close()

    def process(self, item: tuple[str, int], position: Any = beam.DoFn.StateParam(POSITION)) -> Iterator[tuple[int, bytes]]:
        """One tick: one poll; up to the end where the job has one and the runner gives one tick alone."""
        key, partitions = item
        name, _, number = key.rpartition("/")
        source, partition = self.spec.sources[name], int(number)
        state = position.read()
        at: Position | None = decode_state(state, self.job_state) if state else None
        try:
            self._same_topic(source)
            if at is None:
                at = self._begin(source, partition)
            while True:
                more = yield from self._poll(source, partition, partitions, at)
                if not more:
                    break
            self._back(key)
        except BrokerAway as error:
            self._gone(key, str(error))
        except TandemError as error:
            self.job_state.fail(str(error))
            raise
        if at is not None:
            position.write(encode_state(at))

    def _same_topic(self, source: EventSource) -> None:
        """Once per worker: the topic is the one that the job began with. Raises DataError."""
        if source.name not in self.same:
            expected, present = self.spec.topics.get(source.name), self.reader.identity(source.topic)
            if expected and present != expected:
                raise DataError(
                    f"topic {source.topic!r} was deleted and made anew while the stream ran; its offsets mean other records now:"
                    " start with --from-run of a batch run that holds what came before"
                )
            self.same.add(source.name)

    def _begin(self, source: EventSource, partition: int) -> Position:
        """Where to read from without state: the checkpoint, else the first record that there is."""
        if self.spec.restored:
            self.job_state.say(f"{source.topic}/{partition}: the engine brought no state along; starting from {self.spec.start.why}")
        before, present = self.spec.start.topics.get(source.name), self.spec.topics.get(source.name)
        if before and present and before != present:
            raise DataError(
                f"topic {source.topic!r} was deleted and made anew since the last run; its offsets mean other records now:"
                " start with --from-run of a batch run that holds what came before"
            )
        found = self.spec.start.offsets.get(source.name, {}).get(partition)
        offset, newest = found if found is not None else (self.reader.start(source.topic, partition), NEVER)
        self.job_state.say(f"{source.topic}/{partition}: reading from offset {offset}, {self.spec.start.why}")
        return Position(offset, offset, newest)

    def _poll(self, source: EventSource, partition: int, partitions: int, at: Position) -> Generator[tuple[int, bytes], None, bool]:
        """Poll once; whether to poll again within this tick."""
        key = f"{source.name}/{partition}"
        end = self.spec.until.get(source.name, {}).get(partition, 0) if self.spec.until is not None else None
        stop = self.job_state.requested("stop") or (end is not None and at.next >= end)
        if at.paused and not stop and not self._resumed(key, at):
            self._report(key, at, None, stop)
            return False
        if stop:
            if end is not None and at.newest == NEVER and not at.idle:
                at.idle, at.flushed = True, False  # read to its end, and nothing was there: it holds nobody back
            if not at.flushed:
                at.flushed = True
                yield from self._send(source, self._offset_range(source, partition, partitions, at, at.next, at.newest), flush=True)
            self._report(key, at, None, stop, force=True)
            return False
        fetched = self.reader.poll(source.topic, partition, at.next, self.spec.stream.poll_records, POLL_MS)
        n = len(fetched.offsets)
        if end is not None and n and fetched.offsets[-1] >= end:
            fetched = fetched.before(end)
            n = len(fetched.offsets)
        if fetched.next_offset > at.next:
            self.seen[key] = time.monotonic()
            yield from self._take(source, partition, partitions, at, fetched)
        elif fetched.at_end:
            yield from self._quiet(source, partition, partitions, at)
        self._report(key, at, fetched, False)
        return self.spec.one_tick and not at.paused

    def _take(
        self, source: EventSource, partition: int, partitions: int, at: Position, fetched: FetchResult
    ) -> Iterator[tuple[int, bytes]]:
        """Judge the records of a poll and send them on."""
        now = self.clock()
        stamps = fetched.timestamps_us
        # A record's own time, where it has one, judges alike whenever the log is read again.
        nows = np.where(stamps > 0, np.minimum(stamps, now), now)
        checked: Checked = self.decode[source.name](fetched.payloads, nows, round(self.spec.stream.max_future_hours * 3.6e9))
        bad = checked.rejected
        if self._too_many(source, partition, at, len(fetched.offsets), checked):
            return
        if len(bad):
            try:
                reasons, details = checked.reasons.take(pa.array(bad)).to_pylist(), checked.details.take(pa.array(bad)).to_pylist()
                self.letters.write(source.topic, partition, source.name, fetched, bad, reasons, details)
            except BrokerAway:
                raise  # waited for, like any other silence: the position has not moved
            except StoreError as error:
                raise DataError(f"dead letters of {source.topic}/{partition} cannot be written, so the job stops here: {error}") from error
            for reason in reasons:
                at.count(f"rejected/{reason}", 1)
        taken = split_late(checked, fetched.offsets, source, at.newest, self.spec.start.begin)
        self._check_begin(source, partition, at, checked)
        at.count("events", len(fetched.offsets))
        at.count("late", taken.late.num_rows)
        at.count("before", taken.before)
        at.idle, at.flushed = False, False
        span = self._offset_range(source, partition, partitions, at, fetched.next_offset, taken.newest)
        at.next, at.newest, at.watermark = span.next, span.newest, span.watermark
        late = with_offsets(taken.late, taken.late_offsets) if taken.late.num_rows else None
        yield from self._send(source, span, with_offsets(taken.events, taken.offsets), late)

    def _check_begin(self, source: EventSource, partition: int, at: Position, checked: Checked) -> None:
        """A topic that lost records after the batch run's end would leave a hole between the two."""
        if at.newest != NEVER or at.start == 0 or at.next != at.start or self.spec.start.begin == NEVER or not checked.valid.num_rows:
            return
        first = checked.valid.column(0)[0].cast(pa.int64()).as_py()
        if first >= self.spec.start.begin:
            raise DataError(
                f"topic {source.topic!r}, partition {partition} begins at offset {at.start} with an event after the end of the batch run:"
                " what lies between may be gone; start from a later batch run or keep the topic longer (retention.ms)"
            )

    def _offset_range(self, source: EventSource, partition: int, partitions: int, at: Position, upto: int, newest: int) -> OffsetRange:
        mark = max(at.watermark, watermark_of(source, newest))
        return OffsetRange(source.name, partition, partitions, at.start, at.next, upto, at.newest, newest, mark, at.idle)

    def _quiet(self, source: EventSource, partition: int, partitions: int, at: Position) -> Iterator[tuple[int, bytes]]:
        """Nothing came: after a while the partition is idle, and the wall clock (or nobody) speaks for it."""
        key, now = f"{source.name}/{partition}", time.monotonic()
        quiet = now - self.seen.setdefault(key, now)
        beat, flush = False, not at.flushed
        if quiet >= self.spec.stream.idle_seconds:
            if self.spec.stream.clock == "replay":
                beat, at.idle = not at.idle, True
                self.reported.pop(key, None)  # news: to be told at once
            elif now - self.beaten.get(key, -BEAT_SECONDS) >= BEAT_SECONDS:
                mark = watermark_of(source, self.clock() - round(self.spec.stream.idle_seconds * 1e6))
                beat, self.beaten[key] = True, now
                if at.watermark == NEVER or mark - at.watermark <= LEAP_US:
                    at.watermark = max(at.watermark, mark)
                elif not at.idle:
                    at.idle = True
                    days = (mark - at.watermark) // 86_400_000_000
                    self.job_state.say(
                        f"{source.topic}/{partition}: its last event lies {days} days back; event time stands still there until more come"
                        " (for replayed history set stream.clock: replay)"
                    )
        if beat or flush:
            # What an idle partition let the others emit belongs into the checkpoint: nothing may follow that would save it.
            at.flushed = True
            yield from self._send(source, self._offset_range(source, partition, partitions, at, at.next, at.newest), flush=True)

    def _send(
        self,
        source: EventSource,
        span: OffsetRange,
        events: pa.RecordBatch | None = None,
        late: pa.RecordBatch | None = None,
        flush: bool = False,
    ) -> Iterator[tuple[int, bytes]]:
        """One element for every shard."""
        shards = self.spec.stream.shards
        mine: list[dict[str, pa.RecordBatch]] = [{} for _ in range(shards)]
        if events is not None and events.num_rows:
            for name, group in self.spec.groups.items():
                if group.source.name != source.name:
                    continue
                keys = [events.column(events.schema.get_field_index(k)) for k in group.entity.keys]
                shard = shard_of(keys, shards)
                for number in np.unique(shard).tolist():
                    here = shard == number
                    mine[number][name] = events if here.all() else events.filter(pa.array(here))
        for number in range(shards):
            writes = late if number == span.partition % shards else None
            yield number, encode(Element(span, mine[number], writes, flush))

    # ------------------------------------------------------------------------------------------ too many rejects, and outages

    def _too_many(self, source: EventSource, partition: int, at: Position, n: int, checked: Checked) -> bool:
        """Pause (and leave the position where it is) when the share of rejects among the last records is above the limit."""
        stream, bad = self.spec.stream, len(checked.rejected)
        if at.recent + n > 2 * stream.reject_window:
            at.recent, at.recent_bad = at.recent // 2, at.recent_bad // 2
        recent, recent_bad = at.recent + n, at.recent_bad + bad
        if at.paused != "resumed" and recent >= min(stream.reject_window, 100) and recent_bad > stream.max_reject_share * recent:
            most = checked.reasons.drop_null().value_counts().to_pylist()
            why = max(most, key=lambda c: c["counts"])["values"] if most else "none in this poll"
            at.paused = (
                f"{source.topic}/{partition} is paused at offset {at.next}: {recent_bad} of the last {recent} records were rejected,"
                f" most now: {why};"
                " fix the producer or the contract and restart, or take them as dead letters with 'tandem stream resume'"
            )
            self.job_state.say(at.paused)
            return True
        if at.paused == "resumed":
            at.paused, recent, recent_bad = "", 0, 0
        at.recent, at.recent_bad = recent, recent_bad
        return False

    def _resumed(self, key: str, at: Position) -> bool:
        flag = "resume-" + key.replace("/", "-")
        if at.paused == "resumed":
            return True
        if self.job_state.requested(flag):
            self.job_state.clear(flag)
            at.paused = "resumed"
            self.job_state.say(f"{key}: going on, rejects and all")
        return at.paused == "resumed"

    def _gone(self, key: str, line: str) -> None:
        if key not in self.away:
            self.away[key] = time.monotonic()
            self.job_state.say(f"{key}: {line}; waiting")
            self.job_state.report("poll-" + key.replace("/", "-"), {"away": True})

    def _back(self, key: str) -> None:
        if key in self.away:
            self.job_state.say(f"{key}: the broker answers again after {time.monotonic() - self.away.pop(key):.0f} s")

    def _report(self, key: str, at: Position, fetched: FetchResult | None, stopped: bool, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self.reported.get(key, -REPORT_SECONDS) < REPORT_SECONDS:
            return
        self.reported[key] = now
        source, _, partition = key.rpartition("/")
        values = asdict(at) | {
            "source": source,
            "partition": int(partition),
            "end": fetched.end_offset if fetched is not None else at.next,
            "at_end": fetched is None or fetched.at_end,
            "stopped": stopped,
            "paused": "" if at.paused == "resumed" else at.paused,
            "away": False,
        }
        self.job_state.report("poll-" + key.replace("/", "-"), values)
