"""How long a start takes after ten million events: from saved tiles, and (as before) by reading the longest window again."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.project.config import StreamSettings
from pipelines.sources.broker import FetchResult
from pipelines.sources.memory import MemoryBroker, MemoryPartitionReader
from pipelines.streaming.stages.one_step import OneStep
from pipelines.streaming.stages.ticks import now_ms
from tests.bench.report import Part
from tests.integration.stages_world import T0, World, payments
from tests.prove.small_engine import Bag, Cell
from transforms.definitions import Count, FeatureGroup, Sum, days, hours, minutes

EVENTS, QUICK = 10_000_000, 300_000
PARTITIONS, KEYS, DAYS = 2, 1000, 90
MORE = 2_000
"""Events that come after the stop: the start is over when their rows are made."""


class MadeBroker(MemoryBroker):
    """A topic of events that are made when they are read: evenly over the days, keys at random."""

    def __init__(self, events: int, end: int) -> None:
        super().__init__()
        self.step, self.end, self.read = DAYS * 86_400_000_000 // events, end, 0
        self.create_topic("payments", PARTITIONS)
        self.create_topic("tandem.dead_letters")

    def open_reader(self) -> MadeReader:
        """Of these events."""
        return MadeReader(self)


class MadeReader(MemoryPartitionReader):
    """Event ``i`` is the record ``i // PARTITIONS`` of partition ``i % PARTITIONS``."""

    def __init__(self, broker: MadeBroker) -> None:
        super().__init__(broker)
        self.made = broker

    def end(self, topic: str, partition: int) -> int:
        """Each has as many."""
        return self.made.end // PARTITIONS

    def poll(self, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int) -> FetchResult:
        """Make them."""
        offsets = np.arange(offset, min(offset + max_records, self.end(topic, partition)))
        self.made.read += len(offsets)
        number = offsets * PARTITIONS + partition
        times, mixed = T0 + number * self.made.step, (number * 2654435761) % 2**32
        parts = ('{"id":"p', number, '","account":"a', mixed % KEYS, '","amount":', mixed % 10_000 / 4, ',"paid_at":', times, "}")
        texts = [pa.array(p).cast(pa.string()) if isinstance(p, np.ndarray) else p for p in parts]
        payloads = pc.binary_join_element_wise(*texts, "").cast(pa.binary()) if len(offsets) else pa.array([], pa.binary())
        after = int(offsets[-1]) + 1 if len(offsets) else offset
        return FetchResult(payloads, offsets, times, after, self.end(topic, partition), after == self.end(topic, partition))


def group_of(window: str) -> FeatureGroup:
    """Counts and sums of accounts, over an hour or over 90 days."""
    hop, over = (minutes(5), hours(1)) if window == "1 h" else (hours(1), days(90))
    return replace(payments("payments"), hop=hop, ttl=timedelta(days=365), aggregates=[Count(over=over), Sum("amount", over=over)])


class _Count:
    """Takes the place of delivery: saves the checkpoint."""

    def __init__(self, world: World) -> None:
        self.world, self.rows = world, 0

    def setup(self) -> None:
        """Nothing."""

    def teardown(self) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing waits."""

    def process(self, output: Any, more: bool) -> None:
        """Count the rows."""
        self.rows += sum(batch.num_rows for batch in output.rows.values())
        if output.checkpoint:
            self.world.control.save_checkpoint(output.shard, output.checkpoint, durable=True)


def life(world: World, broker: MadeBroker) -> tuple[float, int, int, int]:
    """A start, to the end of the topic: seconds, records read, rows, and the record where it began."""
    world.control.begin()
    begun, read, sink = time.perf_counter(), broker.read, _Count(world)
    spec = world.spec()
    step = OneStep(spec, sink)
    step.setup()
    step.process((0, now_ms()), Cell(), Cell(), Bag(), Bag())
    seconds = time.perf_counter() - begun
    step.teardown()
    return (
        seconds,
        broker.read - read,
        sink.rows,
        min((at for at, _ in spec.start.offsets.get("payments", {0: (0, 0)}).values()), default=0),
    )


def run(quick: bool = False) -> list[Part]:
    """One table per window."""
    out, events = [], QUICK if quick else EVENTS
    for window in ("1 h", "90 d"):
        part = Part(
            f"start of a stream after {events:,} events in {DAYS} days, {KEYS:,} keys, window {window}",
            "starts",
            "cold: the stages of a new stream in a warm process; wall time, one round",
        )
        with tempfile.TemporaryDirectory() as folder:
            broker = MadeBroker(events, events)
            world = World(Path(folder), broker, group_of(window), StreamSettings(shards=1, clock="replay"))
            first = life(world, broker)
            tiles = sum(p.stat().st_size for p in world.folder.glob("tiles/*/*"))
            checkpoint = world.control.load_checkpoints()[0]
            for name, saved in (("from saved tiles", True), ("by reading again (before)", False)):
                broker.end = events + MORE
                world.control.save_checkpoint(0, checkpoint, durable=True)
                world.saved_tiles = saved
                seconds, read, rows, at = life(world, broker)
                part.add(name, seconds, 1, f"reads {read:,} records from {at:,} of {events // PARTITIONS:,} on, makes {rows:,} rows")
            files = len(checkpoint["tiles"])
            part.notes.append(f"{first[1]:,} events took {first[0]:.0f} s; saved tiles {tiles / 1e6:.1f} MB in {files} files")
        out.append(part)
    return out
