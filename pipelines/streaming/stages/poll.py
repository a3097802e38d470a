"""The first keyed stage: polls one partition from the offset in its state, judges the records, and sends each shard its share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipelines.sources.broker import WAITED_FOR, FetchResult
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.letter_spool import SpooledLetters
from pipelines.sources.null_fields import NullFields
from pipelines.sources.record_times import judged_at, said_of
from pipelines.sources.record_verdicts import judge_some
from pipelines.sources.skips import nothing, poll_around
from pipelines.streaming.stages.coders import Element, decode_state, encode, encode_state, with_offsets
from pipelines.streaming.stages.idle import Idleness
from pipelines.streaming.stages.log_ends import LogEnds
from pipelines.streaming.stages.part_reports import PartitionsReport
from pipelines.streaming.stages.poll_reports import PollReports
from pipelines.streaming.stages.position import Position
from pipelines.streaming.stages.reject_limit import RejectLimit
from pipelines.streaming.stages.ticks import now_ms, packed, partitions_in, passed_over
from pipelines.streaming.state.job_spec import JobSpec
from transforms.aggregates import keyed
from transforms.contract import Checked
from transforms.definitions import EventSource, FeatureGroup
from transforms.errors import DataError, StoreError, TandemError
from transforms.fold import OffsetRange
from transforms.hashing import shard_of
from transforms.instants import now_us
from transforms.lateness import NEVER, split_late, watermark_of

__all__ = ["Partitions", "Poll"]

POLL_MS = 20
"""How long one poll waits for the broker."""
DISCOVER_SECONDS = 5.0


class Partitions(beam.DoFn):
    """A tick -> ("source/partition", number of partitions and when, as of :mod:`~pipelines.streaming.stages.ticks`) for every partition of
    every topic; new ones are found while running, within :data:`DISCOVER_SECONDS` and a tick."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.known: dict[str, int] = {}
        self.looked = -DISCOVER_SECONDS

    def setup(self) -> None:
        """Connects at the first question."""
        self.reader = self.spec.broker.open_reader()
        self.job_state = self.spec.job_state()

    def process(self, tick: Any) -> Iterator[tuple[str, int]]:
        """Look for partitions now and then; while nobody answers, the known ones go on."""
        self.look()
        sent = now_ms()
        for name, count in self.known.items():
            for partition in range(count):
                yield f"{name}/{partition}", packed(count, sent)

    def look(self) -> None:
        """Ask how many partitions there are, unless that was asked just now."""
        if time.monotonic() - self.looked < DISCOVER_SECONDS:
            return
        for name, source in self.spec.sources.items():
            try:
                self.known[name] = count = self.reader.partitions(source.topic)
                ends = self.reader.ends(source.topic, range(count))
                done = self.spec.start.done.get(name, {})
                # What a partition holds that no poll has reported of yet is lag.
                unread = PartitionsReport(source=name, unread={p: max(0, end - done.get(p, 0)) for p, end in ends.items()})
                self.job_state.report(unread.part, unread.to_dict())
            except WAITED_FOR:
                continue
            except TandemError as error:
                self.job_state.fail(str(error))
                raise
        self.looked = time.monotonic()

    def teardown(self) -> None:
        """Disconnect."""
        self.reader.close()


class Poll(beam.DoFn):
    """("source/partition", tick) -> (a shard's key, :class:`Element` as bytes), one for every shard and poll that brings something.

    Dead letters are written before anything else of a poll goes on. A broker that is away, or no longer lets in, is waited for; what can
    never be read again, or dead letters that cannot be written, end the job with one line. Nothing is skipped.
    """

    POSITION = ReadModifyWriteStateSpec("position", BytesCoder())

    def __init__(self, spec: JobSpec, clock: Callable[[], int] = now_us) -> None:
        self.spec, self.clock = spec, clock

    def setup(self) -> None:
        """Prepare what a worker needs once."""
        spec = self.spec
        self.job_state = spec.job_state()
        self.reader = spec.broker.open_reader()
        patience = spec.kafka.dead_letter_seconds
        open_letters = partial(spec.broker.open_dead_letters, spec.kafka.dead_letters, patience)
        self.letters = SpooledLetters(open_letters(), spec.folder / "letters", patience, self.job_state.say, again=open_letters)
        self.judge = {n: record_format(s, spec.kafka).judge for n, s in spec.sources.items()}
        self.idleness = Idleness(spec.stream, self.job_state, self.clock)
        self.limit = RejectLimit(spec.stream, self.job_state)
        self.nulls: dict[str, NullFields] = {}
        self.reports = PollReports(self.job_state, spec.stream.max_late_share)
        self.ends = LogEnds(self.reader, spec.stream.tick_ms / 2000)
        self.same: set[str] = set()
        self.begun: dict[str, int] = {}
        self.ended: set[str] = set()
        self.told: set[str] = set()
        self.promised: set[str] = set()
        """Partitions whose last element said that another one follows at once."""

    def teardown(self) -> None:
        """Disconnect."""
        self.reader.close()
        self.letters.close()

    def process(self, item: tuple[str, int], position: Any = beam.DoFn.StateParam(POSITION)) -> Iterator[tuple[int, bytes]]:
        """One tick: one poll; up to the end where the job has one and the runner gives one tick alone."""
        key, tick = item
        if not self.spec.one_tick and passed_over(tick, self.begun.get(key)):
            return
        self.begun[key] = now_ms()
        state = position.read()
        at: Position | None = decode_state(state, self.job_state) if state else None
        again = True
        while again:
            at, elements, again = self.once(key, partitions_in(tick), at)
            yield from ((self.spec.key_of(number), encode(element)) for number, element in elements)
        if at is not None and (kept := encode_state(at)) != state:
            position.write(kept)

    def once(self, key: str, partitions: int, at: Position | None) -> tuple[Position | None, list[tuple[int, Element]], bool]:
        """One poll of ``source/partition``, which stands ``at`` (None: nowhere yet): where it stands then, what goes to which shard, and
        whether the tick is to poll again. ``at`` is not to be used afterwards. A broker that does not answer, or no longer lets in, is
        reported and no error."""
        name, _, number = key.rpartition("/")
        source, partition = self.spec.sources[name], int(number)
        elements: list[tuple[int, Element]] = []
        again = False
        try:
            self._same_topic(source)
            if at is None:
                at = self._begin(source, partition)
            elif key not in self.told:
                # The engine may have brought it back. A shard whose state came with it asks for nothing as long as nothing comes: it is to
                # look at once whether the stream's checkpoint vouches for that, and to save it.
                elements += self._send(source, at.here(source, partition, partitions), flush=True)
            self.told.add(key)
            again = self._poll(source, partition, partitions, at, elements)
            self.letters.flush()
            self.reports.back(key)
        except WAITED_FOR as error:
            self.reports.away(key, str(error))
        except TandemError as error:
            self.job_state.fail(str(error))
            raise
        if at is not None and key in self.promised and not elements:  # nothing came: away, or paused
            self.promised.discard(key)
            elements += self._send(source, at.here(source, partition, partitions))
        return at, elements, again

    def _same_topic(self, source: EventSource) -> None:
        """Once per worker: the topic is the one that the job began with. Raises DataError."""
        if source.name not in self.same:
            expected, present = self.spec.topics.get(source.name), self.reader.identity(source.topic)
            if expected and present != expected:
                raise DataError(
                    f"topic {source.topic!r} was recreated while the stream was running; its offsets now refer to other records:"
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
                f"topic {source.topic!r} was recreated since the last run; its offsets now refer to other records:"
                " start with --from-run of a batch run that holds what came before"
            )
        found = self.spec.start.offsets.get(source.name, {}).get(partition)
        offset, newest = found if found is not None else (self.reader.start(source.topic, partition), NEVER)
        self.job_state.say(f"{source.topic}/{partition}: reading from offset {offset}, {self.spec.start.why}")
        done = self.spec.start.done.get(source.name, {}).get(partition, offset)
        leaps, judged = self.spec.start.past.get(source.name, {}).get(partition, ((), (0, 0, 0)))
        return Position(offset, offset, newest, leaps, done, NEVER, False, True, *judged)

    def _poll(self, source: EventSource, partition: int, partitions: int, at: Position, out: list[tuple[int, Element]]) -> bool:
        """Poll once, into ``out``; whether to poll again within this tick."""
        key = f"{source.name}/{partition}"
        end = self.spec.until.get(source.name, {}).get(partition, 0) if self.spec.until is not None else None
        stop = self.job_state.requested("stop") or (end is not None and at.next >= end)
        if at.paused and not stop and not self.limit.resumed(key, at):
            if self.reports.due(key):  # what waits behind it grows
                self._report(key, at, self.reader.end(source.topic, partition), False, stop)
            return False
        if stop:
            if end is not None and at.newest == NEVER and not at.idle:
                at.idle, at.flushed = True, False  # read to its end, and nothing there begins its time: it holds nobody back
            if not at.flushed or key not in self.ended:
                at.flushed = True
                out += self._send(source, at.here(source, partition, partitions), flush=True)
            self.ended.add(key)
            self._report(key, at, None, True, stop, force=True)
            return False
        skip = self.job_state.skips().get((source.topic, partition), frozenset())
        log_end = self.ends.end(source.topic, partition, partitions)
        if at.next == log_end:  # nothing came: no request is made for this
            fetched = nothing(at.next)
        else:
            fetched = poll_around(self.reader, source.topic, partition, at.next, self.spec.stream.poll_records, POLL_MS, skip)
        n = len(fetched.offsets)
        if end is not None and n and fetched.offsets[-1] >= end:
            fetched = fetched.before(end)
            n = len(fetched.offsets)
        came, filtered = False, False
        if fetched.next_offset > at.next:
            now, limit = self.clock(), round(self.spec.stream.max_future_hours * 3.6e9)
            stamps = judged_at(fetched.timestamps_us, now, limit)
            fetched, checked = judge_some(self.judge[source.name], fetched, source, stamps, limit)
            n = len(fetched.offsets)
            behind = 2 * n > self.spec.stream.poll_records and fetched.next_offset < (fetched.end_offset if end is None else end)
            came = self._take(source, partition, partitions, at, fetched, checked, now, out, behind and self.spec.stream.shards > 1)
            filtered = not came
        if came:
            self.idleness.records_came(key)
        elif fetched.at_end:
            before = at.watermark
            news = self.idleness.nothing_came(key, source, at)
            if news and at.idle:
                self.reports.news(key)
            if news or not (at.flushed or filtered):
                # What an idle partition let the others emit belongs into the checkpoint: nothing may follow that would save it. But where
                # the clock speaks for it, it will speak again. Where the clock lets rows out of what was read, it does so until it is
                # there, poll by poll: that is saved once.
                reached = before < at.watermark <= watermark_of(source, at.newest)
                flush, at.flushed = at.idle or not (at.flushed or reached), not reached
                out += self._send(source, at.here(source, partition, partitions), flush=flush)
        # Once its shards have delivered what was read up to the end, a stream that is to end there ends: no later report would be heard.
        self._report(key, at, fetched.end_offset, fetched.at_end, False, force=end is not None and at.next >= end)
        return self.spec.one_tick and not at.paused

    def _report(self, key: str, at: Position, end: int | None, at_end: bool, stopped: bool, force: bool = False) -> None:
        late_share, came_late = self.limit.late_share(at), self.limit.came_late.get(key, "")
        self.reports.report(key, at, end, at_end, stopped, late_share, came_late, force, self._nulls(key))

    def _nulls(self, key: str) -> NullFields:
        """Those of a partition: one for all instances of this job in this process, of which now one and now another polls it."""
        if key not in self.nulls:
            source = self.spec.sources[key.rpartition("/")[0]]
            self.nulls[key] = NullFields.of(source, (self.spec.folder, self.spec.attempt, key))
        return self.nulls[key]

    def _take(
        self,
        source: EventSource,
        partition: int,
        partitions: int,
        at: Position,
        fetched: FetchResult,
        checked: Checked,
        now: int,
        out: list[tuple[int, Element]],
        more: bool,
    ) -> bool:
        """Send the records of a poll, ``checked`` at ``now``, on into ``out``; whether there was one of the source. ``more``: others follow
        at once.

        Records that are all passed over by its ``where``, have no element to explode or are tombstones move the offset, and nothing else:
        to event time and idleness they are not there.
        """
        limit = round(self.spec.stream.max_future_hours * 3.6e9)
        taken = split_late(checked, fetched.offsets, source, at.newest, self.spec.start.begin, at.leaps, limit)
        bad = checked.rejected
        key = f"{source.name}/{partition}"
        if self.limit.exceeded(key, f"{source.topic}/{partition}", at, fetched.offsets, checked, taken.late_offsets):
            self.reports.news(key)
            return True
        if len(bad):
            try:
                reasons, details, times = (
                    a.take(pa.array(bad)).to_pylist() for a in (checked.reasons, checked.details, _us(checked.times))
                )
                details = said_of(reasons, details, times, fetched.timestamps_us[bad], now, limit)
                own = replace(fetched, run=self.spec.run)
                self.letters.write(source.topic, partition, source.name, own, bad, reasons, details)
            except WAITED_FOR:
                raise  # waited for, like any other silence: the position has not moved
            except StoreError as error:
                raise DataError(f"dead letters of {source.topic}/{partition} cannot be written, so the job stops here: {error}") from error
            for reason in reasons:
                at.count(f"rejected/{reason}", 1)
        self._check_begin(source, partition, at, checked)
        self._nulls(key).see(checked.valid)
        at.count("events", len(fetched.offsets))
        at.count("late", taken.late.num_rows)
        at.count("before", taken.before)
        at.count("filtered", checked.passed_over)
        at.count("empty", checked.empty)
        at.count("tombstones", checked.tombstones)
        alone = checked.passed_over + checked.empty + checked.tombstones > 0 and not len(bad) and not checked.valid.num_rows
        at.idle, at.flushed = at.idle and alone, False
        span = at.upto(source, partition, partitions, fetched.next_offset, taken, now)
        at.next, at.newest, at.leaps, at.watermark = span.next, span.newest, span.leaps, span.watermark
        late = with_offsets(taken.late, taken.late_offsets) if taken.late.num_rows else None
        out += self._send(source, span, with_offsets(taken.events, taken.offsets), late, more=more)
        if more:
            self.promised.add(key)
        return not alone

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

    def _send(
        self,
        source: EventSource,
        span: OffsetRange,
        events: pa.RecordBatch | None = None,
        late: pa.RecordBatch | None = None,
        flush: bool = False,
        more: bool = False,
    ) -> list[tuple[int, Element]]:
        """One element for every shard."""
        shards = self.spec.stream.shards
        mine: list[dict[str, pa.RecordBatch]] = [{} for _ in range(shards)]
        if events is not None and events.num_rows:
            parts: dict[Any, dict[int, pa.RecordBatch]] = {}  # groups that agree in keys get the same batches
            for name, group in self.spec.groups.items():
                if group.source.name != source.name:
                    continue
                alike = group.entity.keys, repr(group.null_keys)
                if alike not in parts:
                    parts[alike] = _by_shard(keyed(events, group), group, shards)
                for number, own in parts[alike].items():
                    mine[number][name] = own
        writer = span.partition % shards
        return [(n, Element(span, mine[n], late if n == writer else None, flush, more)) for n in range(shards)]


def _by_shard(events: pa.RecordBatch, group: FeatureGroup, shards: int) -> dict[int, pa.RecordBatch]:
    """The events of each shard that has some."""
    if shards == 1:
        return {0: events}
    shard = shard_of([events.column(events.schema.get_field_index(k)) for k in group.entity.keys], shards)
    numbers = np.unique(shard).tolist()
    if len(numbers) == 1:
        return {numbers[0]: events}
    return {number: events.filter(pa.array(shard == number)) for number in numbers}


def _us(times: pa.Array) -> pa.Array:
    return times.cast(pa.int64())
