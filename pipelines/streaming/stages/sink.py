"""The end of the stream: what a shard emits goes through the transform graph to the online store and the row log, then counts as done.

**What holds.** When :meth:`StreamSink.deliver` returns, the output's rows are in the online store (unless greater ones were there), its
rows and late events are in the row log, and only then was its checkpoint saved. When it raises, or its process dies anywhere within, the
checkpoint is the one before: the same rows come again, and ordered writes make that harmless. Nothing is dropped: a store that is
down or slow is waited for.

**Behind.** Where more outputs of a shard follow at once (``more``), rows wait for those of the same keys: they are in the online store
when a checkpoint vouches for them, at :meth:`StreamSink.settle` at the latest, which ends the bundle. They are stamped alike, as one
output's are.

**Power loss.** Every few seconds the row log and an embedded online store are forced to disk, and then the checkpoint of that moment
(:mod:`pipelines.streaming.state.job_state`); where the data folder is a cache of an object store, that is when both go there, and a
worker of another machine than the driver's saves no other checkpoint. How much Redis loses is its own configuration; what it lost is
found (below).

**A store that forgot.** Before each checkpoint a rising generation marker is left in the online store. A store that lost the one before
it, or has an older one (Redis restarted empty or from an old snapshot, a file put back), lost rows too: it is given those of the row log
again.

**A clock that was set back.** A stream makes no row ahead of the clock, so a row that the store refuses as ahead was made by a clock that
has been set back since, and is due. It waits in the row log, the checkpoint says up to when, and the store is given the log's rows again
once the clock is there.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.feature_store.online_sink import FeastStore
from pipelines.lake import layout
from pipelines.lake.graphs import have_graph
from pipelines.lake.nonfinite import nonfinite
from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.held_rows import HeldRows
from pipelines.streaming.stages.part_reports import SinkReport
from pipelines.streaming.stages.shard_delivery import REPORT_SECONDS, ShardDelivery, StopRequested
from pipelines.streaming.state.checkpoint_records import Checkpoint
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.log_segments import seal_leftovers
from pipelines.streaming.state.row_log import RowLog, logged
from pipelines.streaming.state.stream_objects import Superseded
from transforms.definitions import CREATED, EVENT_TIMESTAMP, FINGERPRINT, TIMESTAMP, FeatureGroup
from transforms.errors import ConfigError, GraphError, StoreError, TandemError
from transforms.graph import TransformGraph
from transforms.instants import instant, now_us

__all__ = ["SinkRows", "StopRequested", "StreamSink", "stamped"]

_SYNC_SECONDS = 5.0
_SLOW_SECONDS = 5.0


def stamped(rows: pa.RecordBatch, graph: TransformGraph, created_us: int) -> pa.RecordBatch:
    """Feature rows with the graph's outputs, its fingerprint and the creation time: as batch's offline rows, bit for bit."""
    made = graph.apply(rows) if len(graph.output_schema) else None
    outputs = dict(zip(made.schema.names, made.columns, strict=True)) if made is not None else {}
    own = {FINGERPRINT: pa.scalar(graph.fingerprint), CREATED: pa.scalar(created_us, TIMESTAMP)}
    columns = [*rows.columns, *outputs.values(), *(pa.repeat(value, rows.num_rows) for value in own.values())]
    return pa.RecordBatch.from_arrays(columns, [*rows.schema.names, *outputs, *own])


class StreamSink:
    """Built in the worker; safe for many threads, each shard being used by one at a time. The instances of a job's last stage in one
    process share one (:meth:`of`), as an engine gives a shard's work to any of them: what a checkpoint vouches for may have come by
    another one.

    ``graphs`` is group -> fingerprint of the graph below ``data/graphs/<group>``. ``online=False`` leaves the online store out.
    ``clock`` gives now in microseconds, for the rows' creation time; what is too far in the future is judged by the store's clock.
    Raises GraphError for a graph that is missing or damaged and ConfigError for a repository that is not applied.
    """

    _of: ClassVar[weakref.WeakValueDictionary[tuple[Any, ...], StreamSink]] = weakref.WeakValueDictionary()
    _sharing: ClassVar[threading.Lock] = threading.Lock()
    users = 0

    @classmethod
    def of(cls, spec: JobSpec, job_state: JobState) -> StreamSink:
        """That of a job in this process; who got it closes it by :meth:`release`."""
        key = (spec.folder, spec.attempt, *sorted(spec.graphs.items()))
        with cls._sharing:
            out = cls._of.get(key)
            if out is None or out._closed.is_set():
                out = cls._of[key] = cls(
                    spec.repo, spec.data, dict(spec.groups), dict(spec.graphs), job_state, views=spec.views, owner=spec.owner
                )
            out.users += 1
            return out

    def release(self) -> None:
        """One instance has ended; the last one closes."""
        with self._sharing:
            self.users -= 1
            if self.users:
                return
        self.close()

    def __init__(
        self,
        repo_path: Path,
        data: Path,
        groups: dict[str, FeatureGroup],
        graphs: dict[str, str],
        job_state: JobState,
        online: bool = True,
        clock: Callable[[], int] = now_us,
        views: Mapping[str, bytes] | None = None,
        owner: str = "",
    ) -> None:
        self.groups, self.job_state, self.clock = groups, job_state, clock
        for name, fingerprint in graphs.items():
            have_graph(Path(data), name, fingerprint)
        self.graphs = {n: TransformGraph.load(layout.graph(Path(data), n, graphs[n]), graphs[n]) for n in groups}
        self.store = FeastStore(Path(repo_path), Path(data), groups, views, owner) if online else None
        self._held = HeldRows(self.store.decisive) if self.store is not None else None
        self.log = RowLog(job_state.folder)
        with suppress(StoreError):  # a full disk: they stay as they are, readable
            seal_leftovers(job_state.folder)
        self._shards: dict[int, ShardDelivery] = {}
        self._closed = threading.Event()
        if job_state.link is not None:
            threading.Thread(target=_catch_up_with_store, args=(weakref.ref(self), self._closed), name="checkpoints", daemon=True).start()
        job_state.have_checkpoints()
        points = job_state.load_checkpoints()
        self._early = max((int(p.get("early", 0)) for p in points.values()), default=0)
        """At the start, of any shard: the number of shards may be another one now."""
        # A checkpoint taken over from another shard holds that one's marker.
        self._generations = {n: int(p["generation"][1]) for n, p in points.items() if p.get("generation", [""])[0] == self._marker(n)}

    def _marker(self, shard: int) -> str:
        return f"{self.job_state.folder.name}/{shard}"

    def deliver(self, output: FoldOutput, more: bool = False) -> None:
        """Deliver all of an output, however long the store takes; see the module for what holds then. ``more``: others of the shard follow
        at once, and then :meth:`settle`.

        Raises StopRequested if the job is to stop while a store is away. Any other TandemError is also the job's ``failure``:
        FingerprintError (another graph was applied), GraphError, DataError.
        """
        shard = self._shard(output.shard)
        with self._failing(), shard.lock:
            self._deliver(shard, output, more)

    def settle(self) -> None:
        """Have all rows in the online store that wait for it. Raises as :meth:`deliver` does."""
        if self._held is not None:
            for shard in map(self._shard, self._held.shards()):
                with self._failing(), shard.lock:
                    self._settle(shard)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What goes wrong within is the job's failure."""
        try:
            yield
        except (StopRequested, Superseded):  # what a worker that was cut off has to say is nothing to the job of now
            raise
        except TandemError as error:
            self.job_state.fail(str(error))
            raise

    def _shard(self, number: int) -> ShardDelivery:
        found = self._shards.get(number)
        if found is None:
            made = ShardDelivery(
                shard=number, job_state=self.job_state, closed=self._closed, generation=self._generations.get(number), early=self._early
            )
            found = self._shards.setdefault(number, made)
        return found

    def _deliver(self, shard: ShardDelivery, output: FoldOutput, more: bool) -> None:
        counts = shard.counts
        if self._held is None or not self._held.any(shard.shard):
            # Rows that go online together are stamped alike: what bears an earlier stamp than others of its shard was in the store
            # before these were stamped, and by that 'tandem verify' knows what a server could have read.
            shard.created = self.clock()
        for name, rows in output.rows.items():
            if not rows.num_rows:
                continue
            start = time.perf_counter()
            full = stamped(rows, self.graphs[name], shard.created)
            self._count_nonfinite(counts, name, full)
            counts.seconds_graph += time.perf_counter() - start
            if self._held is not None and (more or self._held.of(shard.shard, name)):
                counts.stale += self._held.add(shard.shard, name, full)
            elif self.store is not None:
                self._online(shard, name, full)
            self._append(shard, f"rows/{name}", full)
            counts.rows[name] = counts.rows.get(name, 0) + full.num_rows
        if self._held is not None and (output.checkpoint or not more or self._held.full(shard.shard)):
            self._settle(shard)
        for name, events in output.late.items():
            self._append(shard, f"late/{name}", events)
            counts.late[name] = counts.late.get(name, 0) + events.num_rows
        counts.outputs += 1
        if output.checkpoint:
            link = self.job_state.link
            durable = time.monotonic() - shard.synced >= _SYNC_SECONDS or (link is not None and bool(output.checkpoint.get("ends")))
            if link is not None and not durable:
                shard.waiting = output
            if durable or link is None or not link.elsewhere:
                self._vouch(shard, output, durable)
        shard.report_in_time()

    def _count_nonfinite(self, counts: SinkReport, name: str, rows: pa.RecordBatch) -> None:
        """As batch does; the first ones of a feature are told."""
        for feature, n in nonfinite(rows).items():
            if (place := f"{name}/{feature}") not in counts.nonfinite:
                self.job_state.say(f"{place}: values that are NaN or infinite; they are stored as they are, and null over HTTP")
            counts.nonfinite[place] = counts.nonfinite.get(place, 0) + n

    def _vouch(self, shard: ShardDelivery, output: FoldOutput, durable: bool) -> None:
        """Save an output's checkpoint; all that came with it is delivered."""
        shard.report()  # who sees the checkpoint sees what it cost
        checkpoint = output.checkpoint
        if self.store is not None:
            self._catch_up(shard, output)
            checkpoint = {**checkpoint, "generation": self._generation(shard, output), "early": shard.early}
        if durable:
            self._persist(shard)
            shard.synced = time.monotonic()
        shard.patiently("disk", lambda: self._save(shard.shard, checkpoint, durable))
        if durable:
            shard.waiting = None

    def vouch_for_waiting(self) -> bool:
        """Save durably the last checkpoints before a pause, which have waited long enough. False: nothing is to be saved any more."""
        for shard in [each for each in list(self._shards.values()) if each.waiting is not None]:
            with shard.lock:
                output = shard.waiting
                if output is None or time.monotonic() - shard.synced < _SYNC_SECONDS:
                    continue
                try:
                    self._vouch(shard, output, True)
                except (StopRequested, Superseded):
                    return False
                except TandemError as error:
                    self.job_state.fail(str(error))
                    return False
        return True

    def _settle(self, shard: ShardDelivery) -> None:
        held = self._held
        while held is not None and (waiting := held.first(shard.shard)) is not None:
            name, rows = waiting
            self._online(shard, name, rows)
            held.done(shard.shard, name)

    def _online(self, shard: ShardDelivery, name: str, rows: pa.RecordBatch | pa.Table) -> None:
        store, counts = self.store, shard.counts
        assert store is not None
        start, waited = time.perf_counter(), counts.seconds_waiting
        result = shard.patiently("online store", lambda: store.write(name, rows))
        took = time.perf_counter() - start - (counts.seconds_waiting - waited)
        counts.seconds_store += took
        counts.written += result.written
        counts.stale += result.stale
        if result.refused:
            counts.refused += result.refused
            latest = pc.max(rows.column(rows.schema.get_field_index(EVENT_TIMESTAMP))).cast(pa.int64()).as_py()
            shard.early = max(shard.early, latest)
            self.job_state.say(
                f"{name}: {result.refused} of {rows.num_rows} rows lie too far in the future and were refused by the online store: was the"
                f" clock set back? They wait in the row log until it is {instant(latest):%Y-%m-%d %H:%M:%S} UTC"
            )
        if result.too_large:
            counts.refused += result.too_large
            self.job_state.say(
                f"{name}: {result.too_large} of {rows.num_rows} rows are larger than the online store takes and were refused: keep fewer or"
                " shorter features in the group"
            )
        if took > _SLOW_SECONDS:
            self.job_state.say(f"online store is slow: {took:.1f} s for {rows.num_rows} rows of {name}; the stream is waiting for it")

    def _generation(self, shard: ShardDelivery, output: FoldOutput) -> tuple[str, int]:
        """Leave the next generation marker, and restore a store that forgot the one before; what to keep of it in the checkpoint."""
        store = self.store
        assert store is not None
        name, before = self._marker(shard.shard), shard.generation
        generation = max(now_us(), (before or 0) + 1)
        if not shard.patiently("online store", lambda: store.mark_generation(name, generation, before)):
            self.job_state.say(
                f"the online store lost rows that shard {shard.shard} had written (restarted empty, or from an old copy?): writing those of"
                " the row log again; 'tandem materialize' brings back what batch wrote"
            )
            for group, graph in ((self.groups[n], g) for n, g in self.graphs.items()):
                shard.patiently("online store", partial(store.reapply, group.name, graph.fingerprint))
                self._again(shard, output, group, graph.fingerprint)
            self.job_state.say(f"shard {shard.shard}: the online store has {shard.counts.restored} rows of the row log again")
            shard.patiently("online store", lambda: store.mark_generation(name, generation))
            shard.report()
        shard.generation = generation
        return name, generation

    def _catch_up(self, shard: ShardDelivery, output: FoldOutput) -> None:
        """Once the clock is where it was when rows were refused as ahead of it: write those of the row log again."""
        store = self.store
        assert store is not None
        if 0 < shard.early <= store.latest_us():
            for name, graph in self.graphs.items():
                self._again(shard, output, self.groups[name], graph.fingerprint)
            shard.early = 0
            self.job_state.say(f"shard {shard.shard}: the clock is there: rows that lay ahead of it are in the online store now")

    def _again(self, shard: ShardDelivery, output: FoldOutput, group: FeatureGroup, fingerprint: str) -> None:
        """Give the store the rows of the row log of a shard again."""
        store = self.store
        assert store is not None
        for rows in logged(self.job_state.folder, group, fingerprint, shard.shard, output.checkpoint.get("shards")):
            result = shard.patiently("online store", partial(store.write, group.name, rows))
            shard.counts.restored += result.written

    def _append(self, shard: ShardDelivery, place: str, batch: pa.RecordBatch) -> None:
        start = time.perf_counter()
        shard.patiently("row log", lambda: self.log.append(place, shard.shard, batch))
        shard.counts.seconds_log += time.perf_counter() - start

    def _persist(self, shard: ShardDelivery) -> None:
        """Force to disk what the next durable checkpoint vouches for."""
        start = time.perf_counter()
        shard.patiently("row log", lambda: self.log.seal_old(shard.shard))
        shard.patiently("row log", lambda: self.log.sync(shard.shard))
        shard.counts.seconds_log += time.perf_counter() - start
        if self.store is not None:
            shard.patiently("online store", self.store.sync)

    def _save(self, shard: int, checkpoint: Checkpoint, durable: bool) -> None:
        try:
            self.job_state.save_checkpoint(shard, checkpoint, durable)
        except OSError as error:
            raise StoreError(
                f"checkpoint in {self.job_state.folder}: {error.strerror or error}; free its disk or correct its permissions"
            ) from None

    def close(self) -> None:
        """Report, and seal the row log. Nothing is delivered any more."""
        self._closed.set()
        for shard in list(self._shards.values()):
            with shard.lock:  # a checkpoint that is being saved is left to its end
                shard.report()
        self.log.close()


def _catch_up_with_store(sink: weakref.ref[StreamSink], closed: threading.Event) -> None:
    """Of an object store: the last checkpoint before a pause, after which nothing comes that would save it durably."""
    while not closed.wait(REPORT_SECONDS):
        if (at := sink()) is None or not at.vouch_for_waiting():
            return
        del at


class SinkRows(beam.DoFn):
    """FoldOutput -> nothing: rows through the graph into the online store and the log, then the checkpoint. Runs fused with the fold,
    so a slow sink holds the whole job back and a bundle ends only when all is delivered."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    def setup(self) -> None:
        """Have the job's sink of this process: graphs, online store, row log."""
        job_state = self.spec.job_state()
        try:
            self.sink = StreamSink.of(self.spec, job_state)
        except (ConfigError, GraphError) as error:  # trying again would not help
            job_state.fail(str(error))
            raise

    def process(self, output: FoldOutput, more: bool = False) -> None:
        """Deliver one output. ``more``: others follow in this bundle, and then :meth:`settle`."""
        self.sink.deliver(output, more)

    def settle(self) -> None:
        """All that was given is delivered."""
        self.sink.settle()

    def teardown(self) -> None:
        """Let go of it; the last one seals the log."""
        self.sink.release()
