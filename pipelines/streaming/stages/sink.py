"""The end of the stream: what a shard emits goes through the transform graph to the online store and the row log, then counts as done.

**What holds.** When :meth:`Deliver.deliver` returns, the emission's rows are in the online store (unless greater ones were there), its
rows and late events are in the row log, and only then was its resume point saved. When it raises, or its process dies anywhere within, the
resume point is the one before: the same rows come again, and ordered writes make that harmless. Nothing is dropped: a store that is
down or slow is waited for.

**Power loss.** Every few seconds the row log and an embedded online store are forced to disk, and then the resume point of that moment
(:mod:`pipelines.streaming.state.job_state`). How much Redis loses is its own configuration; what it lost is found (below).

**A store that forgot.** Before each resume point a rising generation marker is left in the online store. A store that lost the one before
it, or has an older one (Redis restarted empty or from an old snapshot, a file put back), lost rows too: it is given those of the row log
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.feature_store.online_sink import FeastStore
from pipelines.streaming.state.job_state import Control
from pipelines.streaming.state.row_log import RowLog, logged, seal_leftovers
from transforms.definitions import CREATED, FINGERPRINT, TIMESTAMP, FeatureGroup
from transforms.errors import FingerprintError, StoreError, TandemError
from transforms.graph import TransformGraph

if TYPE_CHECKING:
    from pipelines.streaming.stages.coders import Emission

__all__ = ["Deliver", "StopRequested", "stamped"]

_SYNC_SECONDS = 5.0
_REPORT_SECONDS = 0.5
_SLOW_SECONDS = 5.0
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
_LOOK_SECONDS = 0.1
"""How soon a stop request is seen while waiting."""


class StopRequested(TandemError):
    """The job was asked to stop while a store was away; the emission at hand was not delivered and comes again at the next start."""


def stamped(rows: pa.RecordBatch, graph: TransformGraph, created_us: int) -> pa.RecordBatch:
    """Feature rows with the graph's outputs, its fingerprint and the creation time: as batch's offline rows, bit for bit."""
    made = graph.apply(rows) if len(graph.output_schema) else None
    outputs = dict(zip(made.schema.names, made.columns, strict=True)) if made is not None else {}
    own = {FINGERPRINT: pa.scalar(graph.fingerprint), CREATED: pa.scalar(created_us, TIMESTAMP)}
    columns = [*rows.columns, *outputs.values(), *(pa.repeat(value, rows.num_rows) for value in own.values())]
    return pa.RecordBatch.from_arrays(columns, [*rows.schema.names, *outputs, *own])


@dataclass
class _Counts:
    """Numbers of one shard since this worker began."""

    emissions: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    written: int = 0
    stale: int = 0
    refused: int = 0
    restored: int = 0
    late: dict[str, int] = field(default_factory=dict)
    seconds_graph: float = 0.0
    seconds_store: float = 0.0
    seconds_log: float = 0.0
    seconds_waiting: float = 0.0
    outages: int = 0
    reported: float = float("-inf")
    synced: float = float("-inf")

    def values(self) -> dict[str, Any]:
        """As reported."""
        out = {k: v for k, v in vars(self).items() if k not in ("reported", "synced")}
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in out.items()}


class Deliver:
    """Built in the worker, used by one thread; serves any number of shards.

    ``graphs`` is group -> fingerprint of the graph below ``data/graphs/<group>``. ``online=False`` leaves the online store out.
    ``clock`` gives now in microseconds, for the rows' creation time; what is too far in the future is judged by the store's clock.
    Raises GraphError for a graph that is missing or damaged and ConfigError for a repository that is not applied.
    """

    def __init__(
        self,
        repo_path: Path,
        data: Path,
        groups: dict[str, FeatureGroup],
        graphs: dict[str, str],
        control: Control,
        online: bool = True,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.groups, self.control, self.clock = groups, control, clock
        self.graphs = {n: TransformGraph.load(Path(data) / "graphs" / n / graphs[n], graphs[n]) for n in groups}
        self.store = FeastStore(Path(repo_path), Path(data), groups) if online else None
        self.log = RowLog(control.folder)
        with suppress(StoreError):  # a full disk: they stay as they are, readable
            seal_leftovers(control.folder)
        self._counts: dict[int, _Counts] = {}
        points = control.load_progress()
        # A resume point taken over from another shard holds that one's mark.
        self._marks = {n: int(p["mark"][1]) for n, p in points.items() if p.get("mark", [""])[0] == self._mark_name(n)}

    def _mark_name(self, shard: int) -> str:
        return f"{self.control.folder.name}/{shard}"

    def deliver(self, emission: Emission) -> None:
        """Deliver all of an emission, however long the store takes; see the module for what holds then.

        Raises StopRequested if the job is to stop while a store is away. Any other TandemError is also the job's ``failure``:
        FingerprintError (another graph was applied), GraphError, DataError.
        """
        try:
            self._deliver(emission)
        except StopRequested:
            raise
        except TandemError as error:
            self.control.fail(str(error))
            raise

    def _deliver(self, emission: Emission) -> None:
        shard = emission.shard
        counts = self._counts.setdefault(shard, _Counts())
        created = self.clock()
        for name, rows in emission.rows.items():
            if not rows.num_rows:
                continue
            start = time.perf_counter()
            full = stamped(rows, self.graphs[name], created)
            counts.seconds_graph += time.perf_counter() - start
            if self.store is not None:
                self._online(counts, shard, name, full)
            self._append(counts, shard, f"rows/{name}", full)
            counts.rows[name] = counts.rows.get(name, 0) + full.num_rows
        for name, events in emission.late.items():
            self._append(counts, shard, f"late/{name}", events)
            counts.late[name] = counts.late.get(name, 0) + events.num_rows
        counts.emissions += 1
        now = time.monotonic()
        if emission.progress:
            self._report(shard)  # who sees the resume point sees what it cost
            progress = emission.progress if self.store is None else {**emission.progress, "mark": self._mark(counts, emission)}
            durable = now - counts.synced >= _SYNC_SECONDS
            if durable:
                self._persist(counts, shard)
                counts.synced = now
            self._patiently(counts, shard, "disk", lambda: self._save(shard, progress, durable))
        if now - counts.reported >= _REPORT_SECONDS:
            self._report(shard)

    def _online(self, counts: _Counts, shard: int, name: str, rows: pa.RecordBatch) -> None:
        store = self.store
        assert store is not None
        start, waited = time.perf_counter(), counts.seconds_waiting
        result = self._patiently(counts, shard, "online store", lambda: store.write(name, rows))
        took = time.perf_counter() - start - (counts.seconds_waiting - waited)
        counts.seconds_store += took
        counts.written += result.written
        counts.stale += result.stale
        if result.refused:
            counts.refused += result.refused
            self.control.say(
                f"{name}: {result.refused} of {rows.num_rows} rows lie too far in the future and were refused by the online store;"
                " mend the events' times or raise max_future_seconds"
            )
        if took > _SLOW_SECONDS:
            self.control.say(f"online store is slow: {took:.1f} s for {rows.num_rows} rows of {name}; the stream waits for it")

    def _mark(self, counts: _Counts, emission: Emission) -> list[Any]:
        """Leave the next generation marker, and mend a store that forgot the one before; what to keep of it in the resume point."""
        store, shard = self.store, emission.shard
        assert store is not None
        name, before = self._mark_name(shard), self._marks.get(shard)
        mark = max(time.time_ns() // 1000, (before or 0) + 1)
        if not self._patiently(counts, shard, "online store", lambda: store.mark_generation(name, mark, before)):
            self.control.say(
                f"the online store lost rows that shard {shard} had written (restarted empty, or from an old copy?): writing those of the"
                " row log again; 'tandem materialize' brings back what batch wrote"
            )
            for group, graph in ((self.groups[n], g) for n, g in self.graphs.items()):
                self._patiently(counts, shard, "online store", partial(store.reapply, group.name, graph.fingerprint))
                for rows in logged(self.control.folder, group, graph.fingerprint, shard, emission.progress.get("shards")):
                    result = self._patiently(counts, shard, "online store", partial(store.write, group.name, rows))
                    counts.restored += result.written
            self.control.say(f"shard {shard}: the online store has {counts.restored} rows of the row log again")
            self._patiently(counts, shard, "online store", lambda: store.mark_generation(name, mark))
            self._report(shard)
        self._marks[shard] = mark
        return [name, mark]

    def _append(self, counts: _Counts, shard: int, place: str, batch: pa.RecordBatch) -> None:
        start = time.perf_counter()
        self._patiently(counts, shard, "row log", lambda: self.log.append(place, shard, batch))
        counts.seconds_log += time.perf_counter() - start

    def _persist(self, counts: _Counts, shard: int) -> None:
        """Force to disk what the next durable progress vouches for."""
        start = time.perf_counter()
        self._patiently(counts, shard, "row log", self.log.seal_old)
        self._patiently(counts, shard, "row log", self.log.sync)
        counts.seconds_log += time.perf_counter() - start
        if self.store is not None:
            self._patiently(counts, shard, "online store", self.store.sync)

    def _save(self, shard: int, progress: dict[str, Any], durable: bool) -> None:
        try:
            self.control.save_progress(shard, progress, durable)
        except OSError as error:
            raise StoreError(
                f"progress in {self.control.folder}: {error.strerror or error}; free its disk or mend its permissions"
            ) from None

    def _patiently(self, counts: _Counts, shard: int, what: str, action: Callable[[], Any]) -> Any:
        """``action``, repeated with growing pauses while it raises StoreError; says so once, and when it is over."""
        since, pause = 0.0, _FIRST_WAIT
        while True:
            try:
                result = action()
            except FingerprintError:
                raise
            except StoreError as error:
                if not since:
                    since = time.monotonic()
                    counts.outages += 1
                    self.control.say(f"shard {shard} waits: {error}")
                    self._report(shard, waiting_for=what)
                begun = time.monotonic()
                self._pause(pause, what)
                counts.seconds_waiting += time.monotonic() - begun
                pause = min(pause * 2, _LONGEST_WAIT)
                self._report(shard, waiting_for=what)
                continue
            if since:
                self.control.say(f"shard {shard} goes on: {what} is back after {time.monotonic() - since:.1f} s, nothing was dropped")
                self._report(shard)
            return result

    def _pause(self, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            if self.control.requested("stop") or self.control.failure() is not None:
                raise StopRequested(
                    f"stopped while the {what} was away: what it was to take is not counted as done and comes again at the next start"
                )

    def _report(self, shard: int, waiting_for: str = "") -> None:
        counts = self._counts[shard]
        counts.reported = time.monotonic()
        self.control.report(f"deliver-{shard}", {**counts.values(), "waiting_for": waiting_for})

    def close(self) -> None:
        """Report, and seal the row log."""
        for shard in self._counts:
            self._report(shard)
        self.log.close()
