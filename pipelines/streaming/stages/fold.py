"""The second keyed stage: a shard's tiles in Beam state, folded by :class:`transforms.fold.Shard`.

Beam state is a cache of the log. Memory is a cache of Beam state: a random token, written with every change, tells whether the shard
in memory is the one that the state describes, whatever the runner repeated or restored in between.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from pipelines.streaming.stages.coders import GROUP, PARTITION, Element, FoldOutput, as_late, decode, decode_state, encode_state
from pipelines.streaming.stages.plain_bytes import dumps, loads
from pipelines.streaming.state.initial_tiles import load_tiles
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import read_late
from transforms.errors import TandemError
from transforms.fold import OFFSET, Folded, Shard

__all__ = ["FoldShard"]

CHECKPOINT_SECONDS = 1.0


@dataclass
class Kept:
    """A shard in memory, and the token of the state that it equals."""

    token: bytes
    shard: Shard
    pending: list[bytes]


class FoldShard(beam.DoFn):
    """(shard, element) -> :class:`FoldOutput`: folds every record once, keeps what lies beyond a gap, emits rows as event time passes."""

    HEAD = ReadModifyWriteStateSpec("head", BytesCoder())
    TILES = BagStateSpec("tiles", BytesCoder())
    PENDING = BagStateSpec("pending", BytesCoder())

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    def setup(self) -> None:
        """Empty memory."""
        self.kept: dict[int, Kept] = {}
        self.saved: dict[int, float] = {}
        self.counts: dict[int, dict[str, int]] = {}
        self.job_state = JobState(self.spec.folder)

    def process(
        self,
        item: tuple[int, bytes],
        head: Any = beam.DoFn.StateParam(HEAD),
        tiles: Any = beam.DoFn.StateParam(TILES),
        pending: Any = beam.DoFn.StateParam(PENDING),
    ) -> Iterator[FoldOutput]:
        """Fold an element, and the pending ones that follow on it."""
        number, data = item
        kept = self._load(number, head, tiles, pending)
        shard, queue, outputs = kept.shard, [data], []
        was_pending = bool(kept.pending)
        while queue:
            taken = queue.pop()
            element = decode(taken)
            accepted = shard.accepts(element.span)
            if accepted is None:
                kept.pending.append(taken)
                pending.add(taken)
            elif accepted:
                outputs.append(self._fold(number, shard, element, tiles))
                # Every one pending is looked at again; those that still wait go back.
                queue += kept.pending
                kept.pending = []
            else:
                self._count(number, {f"repeated/{element.span.source}": 1})
        if was_pending:
            pending.clear()
            for waiting in kept.pending:
                pending.add(waiting)
        if any(t.long for t in shard.tiles.values()):
            folded = {n: t.compact(shard.horizon(shard.groups[n])) for n, t in shard.tiles.items()}
            tiles.clear()
            tiles.add(dumps(folded))
        kept.token = os.urandom(8)
        cells = (kept.token, shard.output_watermark, shard.partitions, shard.counted, shard.done, self._hash())
        head.write(encode_state(cells))
        self.kept[number] = kept
        yield from outputs

    def _fold(self, number: int, shard: Shard, element: Element, tiles: Any) -> FoldOutput:
        span = element.span
        at = shard.partitions[span.source][span.partition]
        expected, done = at.expected, at.done
        folded: Folded = shard.fold(span, element.events)
        if folded.tiles:
            tiles.add(dumps(folded.tiles))
        source = self.spec.sources[span.source]
        late = [as_late(source, events, span.partition, group) for group, events in folded.late.items()]
        if element.late is not None:
            offsets = element.late.column(element.late.num_columns - 1).to_numpy()
            fresh = (offsets >= expected) & (offsets >= done)
            if fresh.any():
                late.append(as_late(source, element.late.filter(pa.array(fresh)), span.partition, None))
        self._count(number, folded.counts)
        due = element.flush or time.monotonic() - self.saved.get(number, -CHECKPOINT_SECONDS) >= CHECKPOINT_SECONDS
        checkpoint: dict[str, Any] = {}
        if due:
            self.saved[number] = time.monotonic()
            checkpoint = self._checkpoint(number, shard)
        joined = {span.source: _joined(late)} if late else {}
        return FoldOutput(number, folded.rows, joined, checkpoint, dict(self.counts.get(number, {})) if due else {})

    def _checkpoint(self, number: int, shard: Shard) -> dict[str, Any]:
        """The checkpoint: holds once everything emitted before was delivered."""
        start = self.spec.start
        needed = shard.needed()
        partitions: dict[str, dict[str, dict[str, Any]]] = {}
        for source, known in shard.partitions.items():
            out = partitions.setdefault(source, {})
            for n, (offset, newest) in start.offsets.get(source, {}).items():
                if n not in known:  # not heard of yet: as the run before left it
                    leaps, judged = start.past.get(source, {}).get(n, ((), (0, 0, 0)))
                    out[str(n)] = {
                        "next": start.done.get(source, {}).get(n, offset),
                        "needed": offset,
                        "needed_newest": newest,
                        "needed_leaps": list(leaps),
                        "newest": newest,
                        "judged": list(judged),
                    }
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
            token, output_watermark, partitions, counted, done, made_of = decode_state(state, self.job_state)
            if known is not None and known.token == token:
                return known
            if made_of != self._hash():
                line = "the engine restored the state of other definitions; stop, and start without --savepoint"
                self.job_state.fail(line)
                raise TandemError(line)
            shard = Shard(self.spec.groups, output_watermark, done, dropped_late=self._dropped_late())
            shard.partitions, shard.counted = partitions, counted
            for data in tiles.read():
                for name, each in loads(data).items():
                    shard.tiles[name].add(each)
            return Kept(token, shard, list(pending.read()))
        start = self.spec.start
        initial_tiles = {}
        if start.run is not None:
            for name, group in self.spec.groups.items():
                initial_tiles[name] = load_tiles(Path(start.run), group, number, self.spec.stream.shards)
        done = {(s, n): offset for s, each in start.done.items() for n, offset in each.items()}
        shard = Shard(self.spec.groups, start.output_watermark, done, initial_tiles, self._dropped_late())
        if initial_tiles:
            tiles.add(dumps(initial_tiles))
        return Kept(b"", shard, [])

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


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
