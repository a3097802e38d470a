"""The second keyed stage: a shard's tiles in Beam state, folded by :class:`transforms.fold.Shard`; and the last: delivery.

Beam state is a cache of the log. Memory is a cache of Beam state: a random token, written with every change, tells whether the shard
in memory is the one that the state describes, whatever the runner repeated or restored in between.
"""

from __future__ import annotations

import os
import pickle
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

from pipelines.batch.steps import from_ipc, to_ipc
from pipelines.streaming.stages.coders import GROUP, PARTITION, Element, Emission, as_late, decode
from pipelines.streaming.stages.sink import Deliver
from pipelines.streaming.state.initial_tiles import load_tiles
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import Control
from pipelines.streaming.state.row_log import read_late
from transforms.errors import ConfigError, GraphError, TandemError
from transforms.fold import OFFSET, Folded, Shard

__all__ = ["DeliverRows", "FoldShard"]

PROGRESS_SECONDS = 1.0


@dataclass
class Kept:
    """A shard in memory, and the token of the state that it equals."""

    token: bytes
    shard: Shard
    pending: list[bytes]


class FoldShard(beam.DoFn):
    """(shard, element) -> :class:`Emission`: folds every record once, keeps what lies beyond a gap, emits rows as event time passes."""

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
        self.control = Control(self.spec.folder)

    def process(
        self,
        item: tuple[int, bytes],
        head: Any = beam.DoFn.StateParam(HEAD),
        tiles: Any = beam.DoFn.StateParam(TILES),
        pending: Any = beam.DoFn.StateParam(PENDING),
    ) -> Iterator[Emission]:
        """Fold an element, and the pending ones that follow on it."""
        number, data = item
        kept = self._load(number, head, tiles, pending)
        shard, queue, emissions = kept.shard, [data], []
        was_pending = bool(kept.pending)
        while queue:
            taken = queue.pop()
            element = decode(taken)
            accepted = shard.accepts(element.stretch)
            if accepted is None:
                kept.pending.append(taken)
                pending.add(taken)
            elif accepted:
                emissions.append(self._fold(number, shard, element, tiles))
                # Every one pending is looked at again; those that still wait go back.
                queue += kept.pending
                kept.pending = []
            else:
                self._count(number, {f"repeated/{element.stretch.source}": 1})
        if was_pending:
            pending.clear()
            for waiting in kept.pending:
                pending.add(waiting)
        if any(t.long for t in shard.tiles.values()):
            folded = {n: to_ipc(t.compact(shard.horizon(shard.groups[n]))) for n, t in shard.tiles.items()}
            tiles.clear()
            tiles.add(pickle.dumps(folded, protocol=5))
        kept.token = os.urandom(8)
        head.write(pickle.dumps((kept.token, shard.emitted, shard.partitions, shard.counted, shard.done, self._hash()), protocol=5))
        self.kept[number] = kept
        yield from emissions

    def _fold(self, number: int, shard: Shard, element: Element, tiles: Any) -> Emission:
        stretch = element.stretch
        at = shard.partitions[stretch.source][stretch.partition]
        expected, done = at.expected, at.done
        folded: Folded = shard.fold(stretch, element.events)
        if folded.tiles:
            tiles.add(pickle.dumps({n: to_ipc(t) for n, t in folded.tiles.items()}, protocol=5))
        source = self.spec.sources[stretch.source]
        late = [as_late(source, events, stretch.partition, group) for group, events in folded.late.items()]
        if element.late is not None:
            offsets = element.late.column(element.late.num_columns - 1).to_numpy()
            fresh = (offsets >= expected) & (offsets >= done)
            if fresh.any():
                late.append(as_late(source, element.late.filter(pa.array(fresh)), stretch.partition, None))
        self._count(number, folded.counts)
        due = element.flush or time.monotonic() - self.saved.get(number, -PROGRESS_SECONDS) >= PROGRESS_SECONDS
        progress: dict[str, Any] = {}
        if due:
            self.saved[number] = time.monotonic()
            progress = self._progress(number, shard)
        joined = {stretch.source: _joined(late)} if late else {}
        return Emission(number, folded.rows, joined, progress, dict(self.counts.get(number, {})) if due else {})

    def _progress(self, number: int, shard: Shard) -> dict[str, Any]:
        """The resume point: holds once everything emitted before was delivered."""
        start = self.spec.start
        needed = shard.needed()
        partitions: dict[str, dict[str, dict[str, int]]] = {}
        for source, known in shard.partitions.items():
            out = partitions.setdefault(source, {})
            for n, (offset, newest) in start.offsets.get(source, {}).items():
                if n not in known:  # not heard of yet: as the run before left it
                    out[str(n)] = {
                        "next": start.done.get(source, {}).get(n, offset),
                        "needed": offset,
                        "needed_newest": newest,
                        "newest": newest,
                    }
            for n, p in known.items():
                offset, newest = needed[source][n]
                out[str(n)] = {"next": shard.delivered(source, n), "needed": offset, "needed_newest": newest, "newest": p.newest}
        never = {n for n, b in shard.emitted.items() if b < -(2**61)}
        return {
            "shard": number,
            "shards": self.spec.stream.shards,
            "emitted": {n: None if n in never else b for n, b in shard.emitted.items()},
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
            token, emitted, partitions, counted, done, made_of = pickle.loads(state)
            if known is not None and known.token == token:
                return known
            if made_of != self._hash():
                line = "the engine restored the state of other definitions; stop, and start without --savepoint"
                self.control.fail(line)
                raise TandemError(line)
            shard = Shard(self.spec.groups, emitted, done, passed=self._passed())
            shard.partitions, shard.counted = partitions, counted
            for data in tiles.read():
                for name, each in pickle.loads(data).items():
                    shard.tiles[name].add(from_ipc(each))
            return Kept(token, shard, list(pending.read()))
        start = self.spec.start
        seeds = {}
        if start.run is not None:
            for name, group in self.spec.groups.items():
                seeds[name] = load_tiles(Path(start.run), group, number, self.spec.stream.shards)
        done = {(s, n): offset for s, each in start.done.items() for n, offset in each.items()}
        shard = Shard(self.spec.groups, start.emitted, done, seeds, self._passed())
        if seeds:
            tiles.add(pickle.dumps({n: to_ipc(t) for n, t in seeds.items()}, protocol=5))
        return Kept(b"", shard, [])

    def _passed(self) -> dict[str, dict[int, list[int]]]:
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


class DeliverRows(beam.DoFn):
    """Emission -> nothing: rows through the graph into the online store and the log, then the resume point. Runs fused with the fold,
    so a slow sink holds the whole job back and a bundle ends only when all is delivered."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    def setup(self) -> None:
        """Load graphs, open the store."""
        spec = self.spec
        control = Control(spec.folder)
        try:
            self.deliver = Deliver(spec.repo, spec.data, dict(spec.groups), dict(spec.graphs), control)
        except (ConfigError, GraphError) as error:  # trying again would not mend it
            control.fail(str(error))
            raise

    def process(self, emission: Emission) -> None:
        """Deliver one emission."""
        self.deliver.deliver(emission)

    def teardown(self) -> None:
        """Seal the log."""
        self.deliver.close()
