"""The second keyed stage: a shard's tiles in Beam state, folded by :class:`transforms.fold.Shard`.

Beam state is a cache of the log, and so are the saved tiles that a start goes on from. Memory is a cache of Beam state: a random token,
written with every change, tells whether the shard in memory is the one that the state describes, whatever the runner repeated or restored
in between. The instances of a job in one process share it, as an engine gives a key's work to any of them.

A fold costs milliseconds whatever it folds. So an element from which nothing follows yet waits in Beam's state for those after it, up to
:data:`CHECKPOINT_SECONDS`: polls that are short, or shards that are many, make no more folds. Of a partition that is far behind any element
waits for the next one, which its poll promises, up to :data:`BEHIND_SECONDS` and :data:`MOST_WAITING`; and so does the end of another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary, finalize

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from pipelines.streaming.stages.coders import GROUP, PARTITION, Element, FoldOutput, as_late, decode, decode_state, encode, encode_state
from pipelines.streaming.stages.plain_bytes import dumps, loads
from pipelines.streaming.stages.tile_saver import TileSaver
from pipelines.streaming.state.checkpoint_records import Checkpoint, PartitionCheckpoint, next_offset
from pipelines.streaming.state.initial_tiles import load_tiles, run_here
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.row_log import read_late
from pipelines.streaming.state.saved_tiles import load
from transforms.errors import TandemError
from transforms.fold import OFFSET, Folded, OffsetRange, Shard, together
from transforms.instants import instant
from transforms.lateness import NEVER

__all__ = ["BEHIND_SECONDS", "FoldShard"]

CHECKPOINT_SECONDS = 1.0
BEHIND_SECONDS = 2.0
"""Between checkpoints of a stream that is behind: what one vouches for is to be in the online store, where each key's last row alone is
written."""
MOST_WAITING = 50_000
"""Events of a shard that wait to be folded."""
TILES_PER_CELL = 100_000
"""In one value of Beam's state: one of gigabytes would be more than its messages take."""


@dataclass
class Kept:
    """A shard in memory, and the token of the state that it equals. ``pending``: elements that are not folded, as bytes and whole;
    ``waits``: where those end that only wait for what comes (source and partition -> next offset; all of them, or none is known),
    ``events``: how many events these hold; ``cells``: what is in the state beside the token."""

    token: bytes
    shard: Shard
    pending: list[tuple[bytes, Element]]
    waits: dict[tuple[str, int], int] | None = None
    events: int = 0
    cells: bytes = b""


class Memory:
    """What the instances of a job's fold in one process share: each shard is used by one of them at a time."""

    _of: ClassVar[WeakValueDictionary[tuple[Path, int], Memory]] = WeakValueDictionary()

    def __init__(self, spec: JobSpec) -> None:
        self.kept: dict[int, Kept] = {}
        self.due: dict[int, float] = {}
        self.counts: dict[int, dict[str, int]] = {}
        self.job_state = spec.job_state()
        self.saver = TileSaver(self.job_state, spec.stream.shards)
        finalize(self, self.saver.close)

    @classmethod
    def of(cls, spec: JobSpec) -> Memory:
        """That of a job, while one of its instances lives."""
        return cls._of.setdefault((spec.folder, spec.stream.shards), cls(spec))


class FoldShard(beam.DoFn):
    """(a shard's key, element) -> :class:`FoldOutput`: folds every record once, keeps what lies beyond a gap, emits rows as event time
    passes."""

    HEAD = ReadModifyWriteStateSpec("head", BytesCoder())
    TILES = BagStateSpec("tiles", BytesCoder())
    PENDING = BagStateSpec("pending", BytesCoder())

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    def setup(self) -> None:
        """The memory of this process."""
        self.memory = Memory.of(self.spec)
        self.kept, self.counts = self.memory.kept, self.memory.counts
        self.saver, self.job_state = self.memory.saver, self.memory.job_state

    def process(
        self,
        item: tuple[int, bytes],
        head: Any = beam.DoFn.StateParam(HEAD),
        tiles: Any = beam.DoFn.StateParam(TILES),
        pending: Any = beam.DoFn.StateParam(PENDING),
    ) -> Iterator[FoldOutput]:
        """Fold an element, and the pending ones that follow on it; or keep it for later."""
        key, data = item
        number, element = self.spec.shard_of(key), decode(data)
        kept = self._load(number, head, tiles, pending)
        if self._waits(number, kept, element):
            kept.pending.append((data, element))
            pending.add(data)
            self._keep(number, kept, head)
            kept.shard.prepare()
        else:
            for output in self._take(number, kept, [element], head, tiles, pending, element.more):
                yield output
                self.delivered(output)

    def _waits(self, number: int, kept: Kept, element: Element) -> bool:
        """Whether an element goes on where those end that wait, and can wait with them; then it is counted among them."""
        span, where, waits = element.span, (element.span.source, element.span.partition), kept.waits
        at = kept.shard.partitions[span.source].get(span.partition)
        if waits is None or span.first != waits.get(where, span.start if at is None else at.expected):
            return False
        events = sum(batch.num_rows for batch in element.events.values())
        promised = {(each.span.source, each.span.partition): each.more for each in (*(e for _, e in kept.pending), element)}
        more = any(promised.values())  # by the last element of each partition
        if self._due(number, more, first=False) or kept.events + events > MOST_WAITING:
            return False
        if not more and (element.flush or any(e.flush for _, e in kept.pending) or self._brings_something(kept, element)):
            return False
        self.memory.due.setdefault(number, time.monotonic())
        waits[where] = span.next
        kept.events += events
        return True

    def _brings_something(self, kept: Kept, element: Element) -> bool:
        """Whether rows or late events may follow from an element and those that wait, which somebody would miss."""
        waiting = [each for _, each in kept.pending]
        if element.late is not None or any(each.more for each in waiting):  # nobody looked at what was promised more
            return True
        before: list[tuple[OffsetRange, dict[str, pa.RecordBatch]]] = [(each.span, {}) for each in waiting]
        return kept.shard.brings_rows([*before, (element.span, element.events)])

    def can_wait(self, number: int, elements: Sequence[Element]) -> bool:
        """Whether these elements bring nothing that anybody would miss until the next ones come: no rows, and nothing late."""
        kept = self.kept.get(number)
        if kept is None or any(element.flush or element.late is not None for element in elements):
            return False
        return not kept.shard.brings_rows([(e.span, e.events) for e in elements])

    def prepare(self, number: int) -> None:
        """Do some work ahead of a shard's next rows; nothing that is to be kept changes."""
        if (kept := self.kept.get(number)) is not None:
            kept.shard.prepare()

    def take(self, number: int, elements: Sequence[Element], head: Any, tiles: Any, pending: Any, more: bool = False) -> list[FoldOutput]:
        """Fold elements, and the pending ones that follow on them: those of several partitions at once. ``more``: others follow at once,
        so the checkpoint may wait for them, up to :data:`BEHIND_SECONDS`."""
        return self._take(number, self._load(number, head, tiles, pending), elements, head, tiles, pending, more)

    def _take(
        self,
        number: int,
        kept: Kept,
        elements: Sequence[Element],
        head: Any,
        tiles: Any,
        pending: Any,
        more: bool = False,
    ) -> list[FoldOutput]:
        shard, outputs, known = kept.shard, [], kept.pending
        as_bytes = {id(element): data for data, element in known}
        queue = [*(element for _, element in known), *elements]
        kept.pending = []
        while queue:
            ready: list[Element] = []
            upto: dict[tuple[str, int], int] = {}
            rest: list[Element] = []
            for element in queue:
                span, where = element.span, (element.span.source, element.span.partition)
                accepted = span.first == upto[where] if where in upto else shard.accepts(span)
                if accepted:
                    ready.append(element)
                    upto[where] = span.next
                elif where in upto:
                    rest.append(element)
                elif accepted is None:
                    kept.pending.append((as_bytes.get(id(element)) or encode(element), element))
                else:
                    self._count(number, {f"repeated/{element.span.source}": 1})
            queue = rest
            if ready:
                outputs.append(self._fold(number, shard, ready, tiles, more))
                # Every one pending is looked at again; those that still wait go back.
                as_bytes |= {id(element): data for data, element in kept.pending}
                queue += [element for _, element in kept.pending]
                kept.pending = []
        if kept.pending[: len(known)] == known:
            new = kept.pending[len(known) :]
        else:
            new = kept.pending
            pending.clear()
        for data, _ in new:
            pending.add(data)
        kept.waits, kept.events = (None if kept.pending else {}), 0
        rows = any(output.rows for output in outputs)  # which somebody waits for
        if any(t.overlong if rows else t.long for t in shard.tiles.values()):
            folded = {n: t.compact(shard.horizon(shard.groups[n])) for n, t in shard.tiles.items()}
            tiles.clear()
            _add(tiles, folded)
        kept.cells = self._cells(shard)
        self._keep(number, kept, head)
        return outputs

    def _cells(self, shard: Shard) -> bytes:
        """What the state holds of a shard beside its tiles and what waits."""
        return dumps((shard.output_watermark, shard.partitions, shard.counted, shard.done, self._hash()))

    def _keep(self, number: int, kept: Kept, head: Any) -> None:
        """The state is what memory holds now."""
        kept.token = os.urandom(8)
        head.write(encode_state((kept.token, kept.cells)))
        self.kept[number] = kept

    def _fold(self, number: int, shard: Shard, elements: Sequence[Element], tiles: Any, more: bool) -> FoldOutput:
        before = {(s, n): (at.expected, at.done) for s, each in shard.partitions.items() for n, at in each.items()}
        folded: Folded = shard.fold_all([(e.span, e.events) for e in elements])
        if folded.tiles:
            tiles.add(dumps(folded.tiles))
            self.saver.added(number, folded.tiles)
        late: dict[str, list[pa.RecordBatch]] = {}
        for span, group, events in folded.late_of:
            late.setdefault(span.source, []).append(as_late(self.spec.sources[span.source], events, span.partition, group))
        for element in elements:
            if element.late is not None:
                span, (expected, done) = element.span, before[element.span.source, element.span.partition]
                offsets = element.late.column(element.late.num_columns - 1).to_numpy()
                fresh = (offsets >= expected) & (offsets >= done)
                if fresh.any():
                    some = element.late.filter(pa.array(fresh))
                    late.setdefault(span.source, []).append(as_late(self.spec.sources[span.source], some, span.partition, None))
        self._count(number, folded.counts)
        flush = any(element.flush for element in elements)
        due = flush or self._due(number, more)
        checkpoint: Checkpoint = {}
        if due:
            self.memory.due[number] = time.monotonic()
            checkpoint = self._checkpoint(number, shard)
            ends = flush and (self.spec.until is not None or self.job_state.requested("stop"))
            files, settled = self.saver.save(number, shard, now=ends)
            checkpoint |= {"tiles": [file.to_json() for file in files], "settled": settled}
            if ends:
                checkpoint["ends"] = True
        joined = {source: together(batches) for source, batches in late.items()}
        return FoldOutput(number, folded.rows, joined, checkpoint, dict(self.counts.get(number, {})) if due else {})

    def delivered(self, output: FoldOutput) -> None:
        """An output was delivered: the time to the next checkpoint begins after what a slow store took."""
        if output.checkpoint:
            self.memory.due[output.shard] = time.monotonic()

    def _due(self, number: int, more: bool = False, first: bool = True) -> bool:
        """Whether a shard's checkpoint is to be saved. ``first``: the first one with the first records, unless ``more`` follow."""
        now = time.monotonic()
        if more:
            return now - self.memory.due.setdefault(number, now) >= BEHIND_SECONDS
        since = self.memory.due.get(number)
        return first if since is None else now - since >= CHECKPOINT_SECONDS

    def _checkpoint(self, number: int, shard: Shard) -> Checkpoint:
        """The checkpoint: holds once everything emitted before was delivered."""
        start = self.spec.start
        needed = shard.needed()
        partitions: dict[str, dict[str, PartitionCheckpoint]] = {}
        for source, known in shard.partitions.items():
            out = partitions.setdefault(source, {})
            for n, p in known.items():
                offset, newest = needed[source][n]
                out[str(n)] = {
                    "next": shard.delivered(source, n),
                    "needed": offset,
                    "needed_newest": newest,
                    "needed_leaps": list(p.needed_leaps),
                    "newest": p.newest,
                    "judged": list(p.judged),
                }
        never = {n for n, b in shard.output_watermark.items() if b < -(2**61)}
        return {
            "shard": number,
            "shards": self.spec.stream.shards,
            "output_watermark": {n: None if n in never else b for n, b in shard.output_watermark.items()},
            "watermark": {s: shard.watermark(s) for s in shard.partitions},
            "partitions": partitions,
            "topics": dict(self.spec.topics),
            "run": start.run,
            "fingerprints": {n: g.definition_hash() for n, g in shard.groups.items()},
        }

    def _load(self, number: int, head: Any, tiles: Any, pending: Any) -> Kept:
        """The shard from memory if it is the state's, else from the state, else from where the job starts."""
        state = head.read()
        # Out of memory while it changes: should that fail half-way, the state counts.
        known = self.kept.pop(number, None)
        if state:
            token, cells = decode_state(state, self.job_state)
            if known is not None and known.token == token:
                return known
            output_watermark, partitions, counted, done, made_of = loads(cells)
            if made_of != self._hash():
                line = "the engine restored the state of other definitions; stop, and start without --from-savepoint"
                self.job_state.fail(line)
                raise TandemError(line)
            shard = Shard(self.spec.groups, output_watermark, done, dropped_late=self._dropped_late())
            shard.partitions, shard.counted = partitions, counted
            self._check_vouched(number, shard)
            for data in tiles.read():
                for name, each in loads(data).items():
                    shard.tiles[name].add(each)
            self.saver.restored(number)
            waiting = [(data, decode(data)) for data in pending.read()]
            return Kept(token, shard, waiting, None if waiting else {}, cells=cells)
        # Numbers of this process that are not of this shard's life.
        self.counts.pop(number, None)
        self.memory.due.pop(number, None)
        shard = self._started(number)
        _add(tiles, {n: part.tiles for n, t in shard.tiles.items() for part in t.parts})
        return Kept(b"", shard, [], {}, cells=self._cells(shard))

    def _check_vouched(self, number: int, shard: Shard) -> None:
        """Of a worker that shares no folder with those before it: raises TandemError, and has the job started anew, where the engine
        restored more than the checkpoint in the object store vouches for. The log may lack those rows, and nobody would make them again."""
        if (link := self.job_state.link) is None or not link.elsewhere:
            return
        if (beyond := self._beyond(shard, link.checkpoint(number) or {})) is not None:
            line = f"the engine restored shard {number} at {beyond}, beyond the stream's checkpoint"
            link.ask_anew(f"shard-{number}", line)
            raise TandemError(line)

    def _beyond(self, shard: Shard, checkpoint: Checkpoint) -> str | None:
        """Where a shard has folded, or given out, more than a checkpoint (empty: the start of the job) knows; None if nowhere."""
        start = self.spec.start
        for source, each in shard.partitions.items():
            for n, at in each.items():
                known = next_offset(checkpoint, source, n)
                if at.expected > (start.done.get(source, {}).get(n, -1) if known is None else known):
                    return f"{source}/{n} {at.expected}"
        # Time also passes without records: a partition that falls idle holds rows back no more.
        marks = checkpoint.get("output_watermark", start.output_watermark)
        for name, mark in shard.output_watermark.items():
            known = marks.get(name)
            if mark > (NEVER if known is None else known):
                return f"{name} {instant(mark):%Y-%m-%d %H:%M:%S} UTC"
        return None

    def _started(self, number: int) -> Shard:
        """The shard where the job starts: from its saved tiles, else from a batch run's, else empty."""
        start, shards = self.spec.start, self.spec.stream.shards
        saved = start.saved.get(number)
        self.saver.begins(number, saved.files if saved is not None else ())
        if saved is not None:
            shard = load(self.saver.store, self.spec.groups, number, shards, saved, self._dropped_late())
        else:
            initial_tiles = {}
            if start.run is not None:
                run = run_here(self.spec.data, start.run)
                for name, group in self.spec.groups.items():
                    initial_tiles[name] = load_tiles(run, group, number, shards)
            done = {(s, n): offset for s, each in start.done.items() for n, offset in each.items()}
            shard = Shard(self.spec.groups, start.output_watermark, done, initial_tiles, self._dropped_late())
        for source, each in start.offsets.items():
            for n, (offset, newest) in each.items():
                shard.expect(source, n, offset, newest, *start.past.get(source, {}).get(n, ((), (0, 0, 0))))
        return shard

    def _dropped_late(self) -> dict[str, dict[int, list[int]]]:
        """What earlier runs gave out as late for one group alone, by the late log: group -> partition -> offsets."""
        out: dict[str, dict[int, list[int]]] = {}
        for name, source in self.spec.sources.items():
            if not self.spec.start.done.get(name):
                continue
            late = read_late(self.spec.folder, source)
            for row in late.filter(pc.is_valid(late.column(GROUP))).select([GROUP, PARTITION, OFFSET]).to_pylist():
                out.setdefault(row[GROUP], {}).setdefault(row[PARTITION], []).append(row[OFFSET])
        return out

    def _hash(self) -> tuple[str, ...]:
        return tuple(g.definition_hash() for g in self.spec.groups.values())

    def _count(self, number: int, more: dict[str, int]) -> None:
        counts = self.counts.setdefault(number, {})
        for name, n in more.items():
            counts[name] = counts.get(name, 0) + n


def _add(cells: Any, tiles: Mapping[str, pa.RecordBatch]) -> None:
    """Put the tiles of groups into Beam's state, in pieces."""
    for name, batch in tiles.items():
        for first in range(0, batch.num_rows, TILES_PER_CELL):
            cells.add(dumps({name: batch.slice(first, TILES_PER_CELL)}))
