"""A log in partitions, and a runner that polls it and delivers what it polled in the worst order it may: the ground of the fold's tests.

Nothing here decides anything about events: which are too late is said by :func:`judged`, plain Python that follows the words of the
specification, and the rows by :mod:`tests.oracle`.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tests.oracle.compare import differences, to_dicts
from tests.oracle.strategies import to_batch
from tests.oracle.stream_time import IN_A_ROW, reached, verdicts
from transforms.aggregates import merge, tile
from transforms.contract import Checked
from transforms.definitions import EventSource, FeatureGroup, micros
from transforms.fold import OFFSET, Folded, OffsetRange, Shard
from transforms.hashing import shard_of
from transforms.lateness import NEVER, split_late, watermark_of

Event = dict[str, Any]
Row = dict[str, Any]


@dataclass
class Partition:
    """Records of one partition: (offset, event or None for a bad one), ascending, with holes; ``end`` may lie beyond the last."""

    start: int
    records: list[tuple[int, Event | None]]
    end: int
    limit: int | None = None
    """How far an event may lie ahead and move event time alone; None: however far."""

    def times(self, source: EventSource, before: int | None = None) -> list[int]:
        """The times of the good records, of those before an offset."""
        return [e[source.event_time] for o, e in self.records if e is not None and (before is None or o < before)]

    def reached(self, source: EventSource, before: int) -> tuple[int, tuple[int, ...]]:
        """Event time before an offset (NEVER: it has not begun), and the leaps that it does not believe."""
        slack, late = micros(source.out_of_orderness), micros(source.allowed_lateness)
        now, row = reached(self.times(source, before), None if self.limit is None else max(self.limit, slack + late))
        return NEVER if now is None else now, tuple(row)


Logs = dict[str, list[Partition]]
"""Source name -> its partitions."""


def judged(partition: Partition, source: EventSource, begin: int | None = None) -> list[tuple[int, Event, str]]:
    """(offset, event, "in", "late" or "before") of each good record, word by word as specified."""
    slack, late = micros(source.out_of_orderness), micros(source.allowed_lateness)
    said = verdicts(partition.times(source), slack, late, partition.limit, begin)
    good = [(o, e) for o, e in partition.records if e is not None]
    return [(o, e, verdict) for (o, e), verdict in zip(good, said, strict=True)]


def in_time(
    partitions: list[Partition], source: EventSource, begin: int | None = None, without: Collection[tuple[int, int]] = ()
) -> list[Event]:
    """All events of a source's partitions that count; ``without`` those at these (partition, offset)."""
    found = [(n, *each) for n, p in enumerate(partitions) for each in judged(p, source, begin)]
    return [event for n, offset, event, verdict in found if verdict == "in" and (n, offset) not in without]


def newest_time(partition: Partition, source: EventSource, before: int) -> int:
    """The event time that the records before an offset reach; NEVER if there is none."""
    return partition.reached(source, before)[0]


def boundary(partitions: list[Partition], group: FeatureGroup) -> int | None:
    """Up to where rows are out when every partition was read to its end; None: no partition may be without events."""
    newest = [newest_time(p, group.source, p.end) for p in partitions]
    if NEVER in newest:
        return None
    return (min(newest) - micros(group.source.out_of_orderness)) // group.hop_us * group.hop_us


def checked(records: list[tuple[int, Event | None]], source: EventSource) -> tuple[Checked, np.ndarray]:
    """What the contract would say of these records, and their offsets."""
    reasons = pa.array([None if e is not None else "malformed" for _, e in records], pa.string())
    valid = to_batch([e for _, e in records if e is not None], source)
    times = pa.array([None if e is None else e[source.event_time] for _, e in records], pa.timestamp("us", tz="UTC"))
    return Checked(valid, reasons, reasons, times), np.array([o for o, _ in records], np.int64)


def disordered(rng: random.Random, log: list[Event], source: EventSource, reach: int) -> list[Event]:
    """The log as it may arrive: most of it in order, some a little late, some very."""
    slack, late, hop = micros(source.out_of_orderness), micros(source.allowed_lateness), max(reach // 4, 1)
    shifts = [0, 0, 0, 0, slack, slack + 1, rng.randrange(slack + 1), slack + late, slack + late + 1, rng.randrange(late + 1), hop, reach]
    return sorted(log, key=lambda e: e[source.event_time] + rng.choice(shifts))


def partitioned(
    rng: random.Random, log: list[Event], source: EventSource, count: int, closing: int | None, limit: int | None = None
) -> list[Partition]:
    """The log over ``count`` partitions, with bad records and missing offsets; ``closing``: each ends with an event of that time, and with
    a ``limit`` with so many that it is believed."""
    hands: list[list[Event | None]] = [[] for _ in range(count)]
    for event in log:
        hands[rng.randrange(count)].append(event)
    if closing is not None and log:
        for hand in hands:
            hand += [{**rng.choice(log), source.event_time: closing} for _ in range(1 if limit is None else IN_A_ROW)]
    out = []
    for hand in hands:
        for _ in range(rng.randrange(3)):
            hand.insert(rng.randrange(len(hand) + 1), None)
        start = at = rng.choice([0, 0, 7, 1000])
        records: list[tuple[int, Event | None]] = []
        for record in hand:
            at += rng.choice([0, 0, 0, 1, 3])
            records.append((at, record))
            at += 1
        out.append(Partition(start, records, at + rng.choice([0, 0, 1, 2]), limit))
    return out


@dataclass
class Element:
    """What a poll brings one shard."""

    shard: int
    span: OffsetRange
    events: dict[str, pa.RecordBatch]


@dataclass
class Poller:
    """Reads a partition from ``next`` on; ``idle``: tell that nothing holds back at the end; ``boost``: a clock's watermark."""

    source: EventSource
    partition: Partition
    number: int
    partitions: int
    start: int
    next: int
    newest: int
    begin: int = NEVER
    leaps: tuple[int, ...] = ()

    def poll(self, groups: Mapping[str, FeatureGroup], shards: int, upto: int, idle: bool = False, watermark: int = NEVER) -> list[Element]:
        """An element for each shard with the records before ``upto``."""
        records = [(o, e) for o, e in self.partition.records if self.next <= o < upto]
        verdict, offsets = checked(records, self.source)
        taken = split_late(verdict, offsets, self.source, self.newest, self.begin, self.leaps, self.partition.limit)
        mark = max(watermark, watermark_of(self.source, taken.newest))
        span = OffsetRange(
            self.source.name, self.number, self.partitions, self.start, self.next, upto, self.newest, taken.newest, mark, idle,
            self.leaps, taken.leaps, taken.greatest,
        )  # fmt: skip
        self.next, self.newest, self.leaps = upto, taken.newest, taken.leaps
        out = []
        events = pa.RecordBatch.from_arrays([*taken.events.columns, pa.array(taken.offsets)], names=[*taken.events.schema.names, OFFSET])
        for shard in range(shards):
            mine = {}
            for name, group in groups.items():
                if group.source.name == self.source.name:
                    keys = [events.column(events.schema.get_field_index(k)) for k in group.entity.keys]
                    mine[name] = events.filter(pa.array(shard_of(keys, shards) == shard))
            out.append(Element(shard, span, mine))
        return out


@dataclass
class Stop:
    """What a run leaves behind: the least over its shards."""

    output_watermark: dict[str, int | None]
    needed: dict[tuple[str, int], tuple[int, int]]
    done: dict[tuple[str, int], int]
    leaps: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)


@dataclass
class Emitted:
    """What came out, over all runs: rows in the order of their emission, and where the late events lie (partition, offset), per group."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    late: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    folds: int = 0


class Stream:
    """One run of the job over some shards: pollers, what is under way, and the shards, all under the hand of ``rng``."""

    def __init__(
        self,
        rng: random.Random,
        groups: Mapping[str, FeatureGroup],
        logs: Logs,
        shards: int,
        out: Emitted,
        *,
        stop: Stop | None = None,
        initial_tiles: Mapping[str, pa.RecordBatch] | None = None,
        begin: int | None = None,
        hidden: int = 0,
    ) -> None:
        self.rng, self.groups, self.logs, self.out, self.begin = rng, dict(groups), logs, out, begin
        self.under_way: list[Element] = []
        self.hidden = hidden
        stop = stop or Stop({n: None if begin is None else begin // g.hop_us * g.hop_us for n, g in groups.items()}, {}, {})
        self.stop_before = stop
        self.sources = {g.source.name: g.source for g in groups.values()}
        self.count = shards
        self.pollers: list[Poller] = []
        for name in self.sources:
            self.show(name, len(logs[name]) - (hidden if len(logs[name]) > hidden else 0))
        dropped_late: dict[str, dict[int, list[int]]] = {}
        for name, late in out.late.items():
            for number, offset in late:
                dropped_late.setdefault(name, {}).setdefault(number, []).append(offset)
        self.shards = [
            Shard(
                groups,
                stop.output_watermark,
                stop.done,
                {n: of_shard(t, groups[n], i, shards) for n, t in (initial_tiles or {}).items()},
                dropped_late,
            )
            for i in range(shards)
        ]

    def show(self, source: str, count: int) -> None:
        """The topic now has ``count`` partitions."""
        for poller in self.pollers:
            if poller.source.name == source:
                poller.partitions = count
        for number, partition in enumerate(self.logs[source][:count]):
            if not any(p.number == number and p.source.name == source for p in self.pollers):
                start, newest = self.stop_before.needed.get((source, number), (partition.start, NEVER))
                leaps = self.stop_before.leaps.get((source, number), ())
                at = NEVER if self.begin is None else self.begin
                self.pollers.append(Poller(self.sources[source], partition, number, count, start, start, newest, at, leaps))

    def poll(self, poller: Poller, **more: Any) -> None:
        """Read on a random span, perhaps none."""
        ahead = [o for o, _ in poller.partition.records if o >= poller.next]
        taken = ahead[: self.rng.choice([0, 1, 1, 2, 3, 5, 30])]
        upto = taken[-1] + 1 if taken else poller.next
        beyond = ahead[len(taken)] if len(ahead) > len(taken) else poller.partition.end
        upto = self.rng.choice([upto, upto, self.rng.randint(upto, max(beyond, upto)), max(beyond, upto)])
        self.under_way += poller.poll(self.groups, self.count, upto, **more)

    def rewind(self, poller: Poller) -> None:
        """A restart reads again from anywhere behind, in other pieces."""
        at = self.rng.randint(poller.start, poller.next)
        poller.next = at
        poller.newest, poller.leaps = poller.partition.reached(poller.source, at)

    def deliver(self, element: Element) -> Folded | None:
        """Hand an element to its shard: folded, dropped, or kept under way when a gap lies before it."""
        shard = self.shards[element.shard]
        verdict = shard.accepts(element.span)
        if verdict is None:
            return None
        self.under_way.remove(element)
        if verdict is False:
            return None
        before = dict(shard.output_watermark)
        may = shard.brings_rows([(element.span, element.events)])
        folded = shard.fold(element.span, element.events)
        assert may or not (folded.rows or folded.late), "it was said that nothing follows"
        self.out.folds += 1
        for name, group in self.groups.items():
            assert shard.output_watermark[name] >= before[name]
            assert shard.output_watermark[name] == NEVER or shard.output_watermark[name] % group.hop_us == 0
        for name, batch in folded.rows.items():
            batch.validate(full=True)
            assert batch.schema.equals(self.groups[name].row_schema)
            got = to_dicts(batch)
            assert got, "an empty batch of rows"
            keys = [[_key(r[k]) for k in self.groups[name].entity.keys] + [r["event_timestamp"]] for r in got]
            assert all(a < b for a, b in itertools.pairwise(keys)), "rows are not sorted by keys and time, or twice"
            self.out.rows.setdefault(name, []).extend(got)
        for name, batch in folded.late.items():
            got = to_dicts(batch)
            assert got and batch.schema.names == [*self.groups[name].source.arrow_schema.names, OFFSET]
            places = self.out.late.setdefault(name, set())
            lies = dict(self.logs[element.span.source][element.span.partition].records)
            for event in got:
                offset = event.pop(OFFSET)
                lay = lies[offset]
                assert lay is not None and differences([event], to_dicts(to_batch([lay], self.groups[name].source))) == []
                places.add((element.span.partition, offset))
        return folded

    def disturb(self) -> None:
        """Anything that must not matter: compaction, a worker that lost its memory, elements twice."""
        what = self.rng.random()
        number = self.rng.randrange(self.count)
        shard = self.shards[number]
        if what < 0.25:
            for name, tiles in shard.tiles.items():
                tiles.compact(shard.horizon(self.groups[name]))
        elif what < 0.4:
            self.shards[number] = pickle.loads(pickle.dumps(shard))
        elif what < 0.55:
            compacted = {n: t.compact(shard.horizon(self.groups[n])) for n, t in shard.tiles.items()}
            output_watermark, done, known, counted = pickle.loads(
                pickle.dumps((shard.output_watermark, shard.done, shard.partitions, shard.counted))
            )
            self.shards[number] = Shard(self.groups, output_watermark, done, compacted)
            self.shards[number].partitions, self.shards[number].counted = known, counted
        elif what < 0.75 and self.under_way:
            self.under_way.append(copy.copy(self.rng.choice(self.under_way)))
        elif what < 0.9:
            self.rewind(self.rng.choice(self.pollers))

    def mood(self, poller: Poller) -> dict[str, Any]:
        """At times a partition is said to be idle, or a wall clock moves its watermark."""
        hop = max(g.hop_us for g in self.groups.values() if g.source is poller.source)
        ahead = poller.newest + self.rng.choice([0, 1, 3, 10]) * hop
        return self.rng.choice([{}, {}, {"idle": True}, {"watermark": ahead if poller.newest != NEVER else NEVER}])

    def steps(self, count: int, moody: bool = False) -> None:
        """Some random steps."""
        for _ in range(count):
            if self.rng.random() < 0.4:
                poller = self.rng.choice(self.pollers)
                self.poll(poller, **(self.mood(poller) if moody else {}))
            elif self.under_way:
                self.deliver(self.rng.choice(self.under_way))
            if self.rng.random() < 0.2:
                self.disturb()
            if self.hidden and self.rng.random() < 0.05:
                self.hidden = 0
                for name in self.sources:
                    self.show(name, len(self.logs[name]))

    def snapshot(self) -> bytes:
        """All of the run's state, as an engine's checkpoint holds it."""
        return pickle.dumps((self.pollers, self.under_way, self.shards, self.hidden))

    def restore(self, state: bytes) -> None:
        """Back to the checkpoint; what was emitted since stays emitted."""
        self.pollers, self.under_way, self.shards, self.hidden = pickle.loads(state)

    def finish(self) -> None:
        """Read everything to its end, and deliver everything."""
        for name in self.sources:
            self.show(name, len(self.logs[name]))
        self.hidden = 0
        for _ in range(10_000):
            short = [p for p in self.pollers if p.next < p.partition.end]
            if not short:
                break
            self.poll(self.rng.choice(short))
            if self.under_way and self.rng.random() < 0.7:
                self.deliver(self.rng.choice(self.under_way))
        # The count of partitions may have come with records that nobody polls again: a last, empty poll of each.
        for poller in self.pollers:
            self.under_way += poller.poll(self.groups, self.count, poller.next)
        self.drain()

    def drain(self) -> None:
        """Deliver all that is under way."""
        for _ in range(10_000):
            if not self.under_way:
                return
            left = len(self.under_way)
            for element in self.rng.sample(self.under_way, left):
                self.deliver(element)
            assert len(self.under_way) < left, "elements wait for ever"

    def stop(self) -> Stop:
        """The least over the shards, as the checkpoints tell it (pipelines.streaming.state.start_position)."""
        output_watermark: dict[str, int | None] = {}
        for name in self.groups:
            least = min(s.output_watermark[name] for s in self.shards)
            output_watermark[name] = None if least == NEVER else least
        before = self.stop_before
        needed: dict[tuple[str, int], tuple[int, int]] = {}
        done: dict[tuple[str, int], int] = {}
        leaps: dict[tuple[str, int], tuple[int, ...]] = {}
        for source in self.sources:
            points = []
            for shard in self.shards:
                # What a shard has not heard of yet is as the run before left it.
                point = {n: (before.needed[s, n], before.done[s, n], before.leaps[s, n]) for s, n in before.done if s == source}
                known = shard.partitions[source]
                point |= {n: (at, shard.delivered(source, n), known[n].needed_leaps) for n, at in shard.needed()[source].items()}
                points.append(point)
            for number in set.intersection(*(set(p) for p in points)):
                needed[source, number], _, leaps[source, number] = min((p[number] for p in points), key=lambda p: p[0][0])
                done[source, number] = min(p[number][1] for p in points)
        return Stop(output_watermark, needed, done, leaps)


def _key(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def of_shard(tiles: pa.RecordBatch, group: FeatureGroup, shard: int, shards: int) -> pa.RecordBatch:
    """The tiles of one shard's keys."""
    keys = [tiles.column(i) for i in range(len(group.entity.keys))]
    return tiles.filter(pa.array(shard_of(keys, shards) == shard))


def seeds_of(events: Mapping[str, list[Event]], groups: Mapping[str, FeatureGroup]) -> dict[str, pa.RecordBatch]:
    """The tiles that a batch run leaves of these events (source -> events)."""
    return {n: merge([tile(to_batch(events[g.source.name], g.source), g)], g) for n, g in groups.items()}


def rank(row: Row) -> tuple[int, int]:
    """What an ordered store compares."""
    return row["event_timestamp"], row["tandem_revision"]


def newest_revisions(rows: list[Row], group: FeatureGroup) -> list[Row]:
    """Of each (key, event timestamp) the row of the greatest revision, sorted as the oracle's rows are."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        at = (*(_key(row[k]) for k in group.entity.keys), row["event_timestamp"])
        if at not in best or row["tandem_revision"] > best[at]["tandem_revision"]:
            best[at] = row
    return [best[at] for at in sorted(best)]


def ordered_store(rows: list[Row], group: FeatureGroup) -> dict[tuple[Any, ...], Row]:
    """What a store holds that takes a row iff its (event timestamp, revision) is greater than the one it has."""
    held: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[k] for k in group.entity.keys)
        if key not in held or rank(row) > rank(held[key]):
            held[key] = row
    return held
