"""The whole stream in one step, for a job of one part: polls, folds and delivers in one call, so that no event crosses a shuffle.

What all partitions of a tick bring is folded at once, and an engine's tick may poll several times (:data:`PULSE_MS`): what an engine asks
for a bundle, and what a fold costs whatever it folds, is paid once for all partitions, not once for each. What a poll brings is folded at
once where rows follow from it; else it waits for the polls that follow, until the tick ends. So polls that are due more often, or are
behind, make rows sooner, and not more folds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from pipelines.streaming.stages.coders import Element, decode_state, encode_state
from pipelines.streaming.stages.fold_shard import BEHIND_SECONDS, FoldShard
from pipelines.streaming.stages.poll import Partitions, Poll
from pipelines.streaming.stages.position import Position
from pipelines.streaming.stages.sink import SinkRows
from pipelines.streaming.stages.ticks import TickGate, now_ms
from pipelines.streaming.state.job_spec import JobSpec

__all__ = ["PULSE_MS", "Gate", "OneStep"]

PULSE_MS = 100
"""How often an engine ticks at most. Where polls are due more often, a tick polls several times: a bundle costs milliseconds."""
MOST_RECORDS = 100_000
"""Polled before they are folded. Of a stream that is behind, a row that is followed by another one of its key is not written online: many
records at once are less to write."""
RESTS = 4
"""A poll that brings nothing rests for so many times as long as it took: many partitions are looked at less often."""


class Gate(beam.DoFn):
    """A tick -> (0, when) unless one is on its way already: a step that takes longer than a tick leaves no queue behind."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    def setup(self) -> None:
        """One gate per worker."""
        self.gate = TickGate.of(self.spec.folder)

    def process(self, tick: Any) -> Iterator[tuple[int, int]]:
        """Let it through, or not."""
        sent = now_ms()
        if self.spec.one_tick or self.gate.sent(sent):
            yield 0, sent


class OneStep(beam.DoFn):
    """(0, when) -> nothing. The steps are those of a job of several parts, and their state is as exact: one commit holds all of it.
    ``sink`` takes the outputs in the place of :class:`SinkRows`, with its ``settle``."""

    POSITIONS = ReadModifyWriteStateSpec("positions", BytesCoder())
    HEAD = ReadModifyWriteStateSpec("head", BytesCoder())
    TILES = BagStateSpec("tiles", BytesCoder())
    PENDING = BagStateSpec("pending", BytesCoder())

    def __init__(self, spec: JobSpec, sink: Any = None) -> None:
        if spec.stream.shards != 1:
            raise ValueError(f"one step is for one shard, not {spec.stream.shards}")
        self.spec = spec
        self.partitions, self.poll, self.fold, self.sink = Partitions(spec), Poll(spec), FoldShard(spec), sink or SinkRows(spec)
        self._waits_since: float | None = None

    def setup(self) -> None:
        """Prepare what a worker needs once."""
        for each in (self.partitions, self.poll, self.fold, self.sink):
            each.setup()
        self.poll.ends.seconds = 60.0  # asked for once in every pass over all partitions
        self.gate = TickGate.of(self.spec.folder)

    def teardown(self) -> None:
        """Let go of all."""
        for each in (self.poll, self.partitions, self.sink):
            each.teardown()

    def process(
        self,
        item: tuple[int, int],
        positions: Any = beam.DoFn.StateParam(POSITIONS),
        head: Any = beam.DoFn.StateParam(HEAD),
        tiles: Any = beam.DoFn.StateParam(TILES),
        pending: Any = beam.DoFn.StateParam(PENDING),
    ) -> None:
        """One tick: polls every ``tick_ms`` until the next one; or, of a runner that ticks once, until all is read."""
        begun = now_ms()
        if not self.spec.one_tick and not self.gate.begins(item[1], begun):
            return  # it waited, and the step before has done what it is for
        state = positions.read()
        at: dict[str, Position | None] = decode_state(state, self.poll.job_state) if state else {}
        every = self.spec.stream.tick_ms
        waiting: list[Element] = []
        while True:
            start = time.monotonic()
            more, behind = self._round(at, waiting, head, tiles, pending)
            if not behind:
                self._settle()
                self.fold.prepare(0)
            took = time.monotonic() - start
            until = begun + (1000 * BEHIND_SECONDS if behind else PULSE_MS - every // 2)
            if self.spec.one_tick and not more:
                break
            rest = 0.0 if self.spec.one_tick else max(every / 1000 - took, 0.0 if more else RESTS * took)
            if not self.spec.one_tick and now_ms() + rest * 1000 >= until:
                break
            time.sleep(rest)
        self._deliver(waiting, head, tiles, pending)
        self._settle()
        known = {key: each for key, each in at.items() if each is not None}
        if known and (kept := encode_state(known)) != state:
            positions.write(kept)

    def _round(self, at: dict[str, Position | None], waiting: list[Element], head: Any, tiles: Any, pending: Any) -> tuple[bool, bool]:
        """Poll every partition, those that are far behind several times; fold and deliver what came, unless it can wait, then it is left
        in ``waiting``. (Whether anything came, whether the stream is behind.)"""
        self.partitions.look()
        todo = [(f"{name}/{n}", count) for name, count in self.partitions.known.items() for n in range(count)]
        records, came, full = _records(waiting), False, False
        while todo:
            self.poll.ends.renew()
            behind = []
            for key, count in todo:
                at[key], found, again = self.poll.once(key, count, at.get(key))
                if self._waits_since is not None and time.monotonic() - self._waits_since >= BEHIND_SECONDS:
                    self._settle()  # polls may take long, of a broker that is slow or away, and no fold may follow
                elements = [element for _, element in found]
                n = _records(elements)
                waiting += elements
                records += n
                came |= again or bool(found)
                if 2 * n > self.spec.stream.poll_records:
                    behind.append((key, count))
                if records >= MOST_RECORDS:
                    self._deliver(waiting, head, tiles, pending, True)
                    records, behind, full = 0, [], True
            todo = behind
        if not self.fold.can_wait(0, waiting):
            self._deliver(waiting, head, tiles, pending, full)
        return came, full

    def _deliver(self, elements: list[Element], head: Any, tiles: Any, pending: Any, more: bool = False) -> None:
        """Fold them and deliver what follows; none is left. ``more``: it need not be in the online store before what follows on it is,
        for :data:`BEHIND_SECONDS`."""
        if elements:
            if more and self._waits_since is None:
                self._waits_since = time.monotonic()
            for output in self.fold.take(0, elements, head, tiles, pending, more):
                self.sink.process(output, more)
                self.fold.delivered(output)
            elements.clear()

    def _settle(self) -> None:
        self.sink.settle()
        self._waits_since = None


def _records(elements: list[Element]) -> int:
    return sum(element.span.next - element.span.first for element in elements)
