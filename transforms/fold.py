"""One shard of the stream: folds every record of every partition exactly once and says which feature rows follow.

Input are ranges of partitions' records (:class:`OffsetRange`) in any order, repeated and cut anywhere: the shard knows the next offset
that it expects of each partition, drops what it has, and keeps what lies beyond a gap until the gap is filled. Rows follow from tiles by
:mod:`transforms.tile_tiers`, to the bit as in batch. Nothing here knows a clock, a broker or a runner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.aggregates import keyed, tiles_of
from transforms.definitions import FeatureGroup, micros
from transforms.lateness import NEVER
from transforms.tile_tiers import Tiles, column_of, hashes_of

__all__ = ["OFFSET", "Folded", "Needed", "OffsetRange", "PartitionState", "Shard", "together"]

Int = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

OFFSET = "_offset"
"""The column of event rows that numbers their records (int64)."""
SEGMENTS = 16
"""How many places a partition's past is remembered at, over the longest reach: a resume reads at most one such part too much."""


@dataclass(frozen=True)
class OffsetRange:
    """The records of a partition with ``first <= offset < next``, none if they are equal.

    ``partitions`` is how many the topic has, ``start`` where the reading began, ``newest_before`` and ``newest`` the event time reached
    before ``first`` and before ``next``; ``watermark`` holds after them (microseconds). An ``idle`` partition holds nothing back.
    ``leaps_before`` and ``leaps``: what event time had not believed then (:mod:`transforms.lateness`); ``greatest``: the greatest
    time of these records' events, ``newest`` unless it lies further ahead. ``judged``: how many of the last
    records before ``next`` the shares of rejects and of late events are taken of, and how many of these they were; only carried along.
    """

    source: str
    partition: int
    partitions: int
    start: int
    first: int
    next: int
    newest_before: int
    newest: int
    watermark: int
    idle: bool = False
    leaps_before: tuple[int, ...] = ()
    leaps: tuple[int, ...] = ()
    greatest: int = NEVER
    judged: tuple[int, int, int] = (0, 0, 0)


class Segment(NamedTuple):
    """A part of a partition's past: its first offset, the event time before it, the greatest event time in it, the event time after its
    first range, and the leaps before it."""

    first: int
    before: int
    greatest: int
    anchor: int
    leaps: tuple[int, ...] = ()


class Needed(NamedTuple):
    """The first offset of a partition that may hold an event of an open window, event time before it, and the leaps before it."""

    offset: int
    newest: int
    leaps: tuple[int, ...] = ()


@dataclass
class PartitionState:
    """What a shard knows of a partition: the next offset it expects, the offset before which an earlier run delivered everything, the
    offsets per group that an earlier run found too late, and the corrections that its events owe (group -> hashes of keys, since when)."""

    expected: int
    done: int
    newest: int = NEVER
    leaps: tuple[int, ...] = ()
    watermark: int = NEVER
    idle: bool = False
    judged: tuple[int, int, int] = (0, 0, 0)
    segments: list[Segment] = field(default_factory=list)
    dropped_late: dict[str, Int] = field(default_factory=dict)
    pending_corrections: dict[str, tuple[U64, int]] = field(default_factory=dict)

    def onward(self, needed: Needed | None) -> PartitionState:
        """As it is, or at the first record ``needed`` where that lies further on."""
        if needed is None or needed.offset <= self.expected:
            return self
        return replace(self, expected=needed.offset, newest=max(self.newest, needed.newest), leaps=needed.leaps)

    def note(self, first: int, newest: int, greatest: int, granule: int) -> None:
        """Records from ``first`` on were folded, took event time to ``newest`` and hold events up to ``greatest``: remember, coarsely."""
        if self.segments and newest - self.segments[-1].anchor <= granule:
            last = self.segments[-1]
            self.segments[-1] = last._replace(greatest=max(last.greatest, greatest))
        else:
            self.segments.append(Segment(first, self.newest, greatest, newest, self.leaps))

    def needed(self, horizon: int) -> tuple[int, int]:
        """(first offset that may hold an event at or after ``horizon``, event time before it); forgets what lies before."""
        while self.segments and self.segments[0].greatest < horizon:
            self.segments.pop(0)
        return (self.segments[0].first, self.segments[0].before) if self.segments else (self.expected, self.newest)

    @property
    def needed_leaps(self) -> tuple[int, ...]:
        """The leaps that go with what :meth:`needed` told."""
        return self.segments[0].leaps if self.segments else self.leaps


@dataclass(frozen=True)
class Folded:
    """What a range of records brought about. ``rows``: group -> rows in ``row_schema``; ``late``: group -> events that came after the rows
    that they belong to were final (only behind an idle partition), with their offsets; ``tiles``: group -> tiles that were added;
    ``counts``: what happened how often; ``late_of``: the late events again, by range and group."""

    rows: dict[str, pa.RecordBatch]
    late: dict[str, pa.RecordBatch]
    tiles: dict[str, pa.RecordBatch]
    counts: dict[str, int]
    late_of: Sequence[tuple[OffsetRange, str, pa.RecordBatch]] = ()


class Shard:
    """The state of a shard: tiles and output watermark per group, :class:`PartitionState` per partition.

    ``output_watermark`` maps groups to the boundary up to which rows are out (None: nothing yet). ``done`` maps (source, partition) to the
    offset before which everything was delivered by an earlier run: such records are folded without correcting rows again, and nothing
    is emitted before all of them are in, as rows that lack some would never be corrected. ``dropped_late`` maps groups to partitions and
    these to the offsets that an earlier run gave out as late (:class:`Folded`): they stay so.
    """

    def __init__(
        self,
        groups: Mapping[str, FeatureGroup],
        output_watermark: Mapping[str, int | None],
        done: Mapping[tuple[str, int], int],
        initial_tiles: Mapping[str, pa.RecordBatch] | None = None,
        dropped_late: Mapping[str, Mapping[int, Sequence[int] | Int]] | None = None,
    ) -> None:
        self.groups = dict(groups)
        self.output_watermark = {n: NEVER if output_watermark.get(n) is None else int(output_watermark[n] or 0) for n in groups}
        self.done = dict(done)
        self.dropped_late = {n: {p: np.asarray(o, np.int64) for p, o in each.items()} for n, each in (dropped_late or {}).items()}
        self.partitions: dict[str, dict[int, PartitionState]] = {g.source.name: {} for g in groups.values()}
        self.counted: dict[str, int] = {}
        self.tiles = {n: Tiles(g) for n, g in groups.items()}
        for name, tiles in (initial_tiles or {}).items():
            self.tiles[name].add(tiles)

    def resume(
        self,
        partitions: Mapping[str, Mapping[int, PartitionState]],
        counted: Mapping[str, int],
        needed: Mapping[tuple[str, int], Needed],
    ) -> None:
        """Go on with the tiles that this shard was given and what a shard that held them knew of its partitions: nothing before
        ``expected`` is folded again. They may be older than ``done``: what lies between is folded as after any restart, but for what lies
        before ``needed``, the first record that an open window needs."""
        self.counted = dict(counted)
        for source, known in partitions.items():
            for number, at in known.items():
                at = at.onward(needed.get((source, number)))
                dropped = {n: o[o >= at.expected] for n, o in self._dropped_late(source, number).items()}
                done = max(at.done, self.done.get((source, number), at.done))
                # Whether a partition brings something is to be seen anew: until then it holds its source back.
                self.partitions[source][number] = replace(at, done=done, idle=False, dropped_late=dropped)

    def expect(
        self, source: str, partition: int, offset: int, newest: int, leaps: tuple[int, ...] = (), judged: tuple[int, int, int] = (0, 0, 0)
    ) -> None:
        """A partition is read from ``offset`` on, where event time was ``newest`` and ``leaps`` not believed: known before its first range
        comes, if it is not known already."""
        if partition not in self.partitions[source]:
            done = max(self.done.get((source, partition), offset), offset)
            self.partitions[source][partition] = PartitionState(
                offset, done, newest, leaps, judged=judged, dropped_late=self._dropped_late(source, partition)
            )

    def _dropped_late(self, source: str, partition: int) -> dict[str, Int]:
        return {n: p[partition] for n, p in self.dropped_late.items() if partition in p and self.groups[n].source.name == source}

    def horizon(self, group: FeatureGroup) -> int:
        """Tiles that start before it are in no row that can still come (microseconds)."""
        return self.output_watermark[group.name] - micros(group.source.allowed_lateness) - group.longest_us - group.hop_us

    def watermark(self, source: str) -> int:
        """The least watermark of the source's partitions that hold something back; NEVER until all were heard of and are caught up."""
        known = self.partitions[source]
        if not known or len(known) < self.counted.get(source, 1) or self.catching_up(source):
            return NEVER
        active = [p.watermark for p in known.values() if not p.idle]
        return min(active) if active else max(p.watermark for p in known.values())

    def catching_up(self, source: str) -> bool:
        """Whether records that an earlier run delivered are still to come: until they are all in, no row would be whole."""
        known = self.partitions[source]
        return any(s == source and (n not in known or known[n].expected < known[n].done) for s, n in self.done)

    def delivered(self, source: str, partition: int) -> int:
        """The offset before which everything that follows from the partition's records was given out: by an earlier run, or by
        :meth:`fold`. What a checkpoint calls done."""
        at = self.partitions[source][partition]
        return at.done if self.catching_up(source) else max(at.expected, at.done)

    def accepts(self, span: OffsetRange) -> bool | None:
        """True: ``span`` goes on where its partition stands. False: it is all known. None: a gap lies before it."""
        at = self.partitions[span.source].get(span.partition)
        expected = span.start if at is None else at.expected
        if span.next < expected or (span.next == expected and span.first < span.next):
            return False
        if span.first > expected:
            return None
        self._partition(span)
        return True

    def fold(self, span: OffsetRange, events: Mapping[str, pa.RecordBatch]) -> Folded:
        """:meth:`fold_all` of one range."""
        return self.fold_all([(span, events)])

    def fold_all(self, taken: Sequence[tuple[OffsetRange, Mapping[str, pa.RecordBatch]]]) -> Folded:
        """Fold the records of ranges that :meth:`accepts`, and then say which rows follow. ``events`` of each: group -> this shard's events
        with their :data:`OFFSET`. Of ranges of one partition each goes on where the one before ends.

        Records before the expected offset are left out, so a range may overlap what came before. What is folded at once costs a little
        more than one range does, and what follows is the same in whatever portions it comes.
        """
        fresh, late, counts = self._cut(taken)
        added = {}
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, batches in fresh.items():
            alike.setdefault(tuple(map(id, batches)), []).append(name)  # of the same events: those of one source, most of the time
        for names in alike.values():
            for name, tiles in zip(names, tiles_of(together(fresh[names[0]]), [self.groups[n] for n in names]), strict=True):
                added[name] = tiles
                self.tiles[name].add(tiles)
        for span, _ in taken:
            self._advance(self.partitions[span.source][span.partition], span)
        rows: dict[str, pa.RecordBatch] = {}
        for source in dict.fromkeys(span.source for span, _ in taken):
            if not self.catching_up(source):
                rows |= self._emit(source)
        by_group = {n: together([b for _, name, b in late if name == n]) for n in dict.fromkeys(name for _, name, _ in late)}
        return Folded(rows, by_group, added, counts, late)

    def brings_rows(self, taken: Sequence[tuple[OffsetRange, Mapping[str, pa.RecordBatch]]]) -> bool:
        """Whether rows or late events may follow from folding these ranges now. If not, they can as well wait and be folded with what
        comes next: the rows then are the same."""
        marks = {source: {n: p.watermark for n, p in known.items() if not p.idle} for source, known in self.partitions.items()}
        counted = dict(self.counted)
        for span, events in taken:
            at = self.partitions[span.source].get(span.partition)
            if (at is not None and at.idle) or span.idle or self.catching_up(span.source):
                return True
            mark = marks[span.source]
            mark[span.partition] = max(mark.get(span.partition, NEVER), span.watermark)
            counted[span.source] = max(counted.get(span.source, 1), span.partitions)
            for name, batch in events.items():
                if batch.num_rows and column_of(batch, self.groups[name].source.event_time).min() < self.output_watermark[name]:
                    return True
        # As :meth:`watermark` has it, no rows follow before all partitions were heard of.
        touched = {span.source for span, _ in taken}
        heard = {s for s in touched if len(self.partitions[s].keys() | marks[s].keys()) >= counted[s]}
        return any(
            min(marks[g.source.name].values()) >= self.output_watermark[n] + g.hop_us
            for n, g in self.groups.items()
            if g.source.name in heard
        )

    def _cut(
        self, taken: Sequence[tuple[OffsetRange, Mapping[str, pa.RecordBatch]]]
    ) -> tuple[dict[str, list[pa.RecordBatch]], list[tuple[OffsetRange, str, pa.RecordBatch]], dict[str, int]]:
        """(group -> the events to fold, those whose rows are final, what happened how often)."""
        out: dict[str, list[pa.RecordBatch]] = {}
        late: list[tuple[OffsetRange, str, pa.RecordBatch]] = []
        counts: dict[str, int] = {}

        def count(what: str, n: int) -> None:
            counts[what] = counts.get(what, 0) + n

        for span, events in taken:
            at = self._partition(span)
            for name, batch in events.items():
                group = self.groups[name]
                batch = keyed(batch, group)
                offsets = column_of(batch, OFFSET)
                if len(offsets) and offsets.min() < at.expected:
                    batch = batch.filter(pa.array(offsets >= at.expected))
                    count(f"repeated/{name}", len(offsets) - batch.num_rows)
                    offsets = column_of(batch, OFFSET)
                if name in at.dropped_late and np.isin(offsets, at.dropped_late[name]).any():
                    keep = ~np.isin(offsets, at.dropped_late[name])
                    batch, offsets = batch.filter(pa.array(keep)), offsets[keep]
                if not batch.num_rows:
                    continue
                times, fresh = column_of(batch, group.source.event_time), offsets >= at.done
                final = fresh & (times < self.output_watermark[name] - micros(group.source.allowed_lateness))
                if final.any():
                    late.append((span, name, batch.filter(pa.array(final))))
                    batch, times, fresh = batch.filter(pa.array(~final)), times[~final], fresh[~final]
                    count(f"late/{name}", int(final.sum()))
                behind = fresh & (times < self.output_watermark[name])
                if behind.any():
                    keys = hashes_of([batch.column(batch.schema.get_field_index(k)) for k in group.entity.keys])
                    known, since = at.pending_corrections.get(name, (keys[:0], -NEVER))
                    at.pending_corrections[name] = np.concatenate([known, keys[behind]]), min(since, int(times[behind].min()))
                    count(f"corrected/{name}", int(behind.sum()))
                count(f"folded/{name}", batch.num_rows)
                out.setdefault(name, []).append(batch)
        return out, late, counts

    def _emit(self, source: str) -> dict[str, pa.RecordBatch]:
        """The rows that the watermark has passed, and the corrected ones."""
        out, mark = {}, self.watermark(source)
        for name, group in self.groups.items():
            if group.source.name != source:
                continue
            known = self.partitions[source].values()
            corrections = [p.pending_corrections.pop(name) for p in known if name in p.pending_corrections]
            before = self.output_watermark[name]
            self.output_watermark[name] = boundary = max(before, mark - mark % group.hop_us) if mark != NEVER else before
            if corrections or boundary > before:
                late = np.concatenate([keys for keys, _ in corrections]) if corrections else None
                rows = self.tiles[name].rows(before, boundary, late, min((since for _, since in corrections), default=0))
                if rows.num_rows:
                    out[name] = rows
        return out

    def prepare(self) -> None:
        """Do some work ahead of the next rows, while nothing waits; see :meth:`Tiles.prepare`."""
        for name, tiles in self.tiles.items():
            tiles.prepare(self.output_watermark[name])

    def needed(self) -> dict[str, dict[int, tuple[int, int]]]:
        """source -> partition -> (first offset that rows to come may need, event time before it)."""
        out: dict[str, dict[int, tuple[int, int]]] = {}
        for source, known in self.partitions.items():
            horizon = min(self.horizon(g) for g in self.groups.values() if g.source.name == source)
            out[source] = {n: p.needed(horizon) for n, p in known.items()}
        return out

    def _partition(self, span: OffsetRange) -> PartitionState:
        """The partition's state; new with the first range that is accepted, which tells the event time before it."""
        self.expect(span.source, span.partition, span.start, span.newest_before, span.leaps_before, span.judged)
        return self.partitions[span.source][span.partition]

    def _advance(self, at: PartitionState, span: OffsetRange) -> None:
        if span.next > at.expected:
            groups = [g for g in self.groups.values() if g.source.name == span.source]
            reach = max(g.longest_us + g.hop_us for g in groups) + micros(groups[0].source.allowed_lateness)
            newest = max(at.newest, span.newest)
            at.note(at.expected, newest, max(newest, span.greatest), reach // SEGMENTS)
            at.expected, at.leaps, at.judged = span.next, span.leaps, span.judged
        at.newest = max(at.newest, span.newest)
        at.watermark = max(at.watermark, span.watermark)
        at.idle = span.idle
        self.counted[span.source] = max(self.counted.get(span.source, 1), span.partitions)


def together(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches of one schema as one."""
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
