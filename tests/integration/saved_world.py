"""A stream that is stopped, killed, set back and damaged, stage by stage and without an engine: what it delivers is kept in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.project.config import StreamSettings
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.poll import Poll
from pipelines.streaming.stages.ticks import packed
from pipelines.streaming.state.row_log import RowLog, newest
from pipelines.streaming.state.tile_store import TileFile
from tests.integration.stages_world import World, payments
from tests.prove.small_engine import Bag, Cell
from transforms.definitions import CREATED, TIMESTAMP


def world_of(folder: Path, partitions: int = 3, shards: int = 1, **changes: Any) -> World:
    """An empty topic, and a stream that has not begun."""
    broker = MemoryBroker()
    broker.create_topic("payments", partitions)
    broker.create_topic("tandem.dead_letters")
    return World(folder, broker, payments("payments", **changes), StreamSettings(clock="replay", idle_seconds=1e6, shards=shards))


@dataclass
class Run:
    """One life of a job: polls and folds as they are called, each shard's output delivered before the next. ``every``: seconds between
    files of a shard; ``until``: whether it ends with the topic, when its last checkpoint is of that end."""

    world: World
    every: float = 0.0
    until: bool = False
    out: list[pa.RecordBatch] = field(default_factory=list)
    before_save: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.world.control.begin()
        spec = self.world.spec()
        self.spec = spec if self.until else replace(spec, until=None)
        self.spec = replace(self.spec, one_tick=False)
        self.poll, self.fold = Poll(self.spec), FoldShard(self.spec)
        self.poll.setup()
        self.poll.ends.seconds = 0.0
        self.fold.setup()
        self.fold.saver.every = self.every
        self.fold.memory.due = _Always()
        self.log = RowLog(self.world.folder)
        self.positions: dict[int, Cell] = {}
        self.cells: dict[int, tuple[Cell, Bag, Bag]] = {}

    def poll_once(self, partition: int) -> list[tuple[int, bytes]]:
        """What a poll sends to the shards."""
        self.poll.begun.clear()
        topic = self.world.group.source.topic
        tick = packed(self.world.broker.open_reader().partitions(topic), 0)
        return list(self.poll.process((f"{self.world.group.source.name}/{partition}", tick), self.positions.setdefault(partition, Cell())))

    def give(self, number: int, data: bytes) -> None:
        """Fold an element, and deliver what follows."""
        for output in self.fold.process((number, data), *self.cells.setdefault(number, (Cell(), Bag(), Bag()))):
            self.deliver(output)

    def deliver(self, output: FoldOutput) -> None:
        """As the sink does: rows and late events, then the checkpoint."""
        self.out += output.rows.values()
        for source, events in output.late.items():
            self.log.append(f"late/{source}", output.shard, events)
        if output.checkpoint:
            self.before_save()
            self.world.control.save_checkpoint(output.shard, output.checkpoint, durable=True)

    def read(self, partition: int | None = None) -> Run:
        """To the end of a partition, or of all."""
        for number in range(self.world.broker.open_reader().partitions("payments")) if partition is None else (partition,):
            while sent := self.poll_once(number):
                for shard, data in sent:
                    self.give(shard, data)
        return self

    def stop(self) -> None:
        """In order: what was polled is delivered, and the checkpoint saved."""
        self.world.control.request("stop")
        self.read()
        self.log.close()

    def state(self) -> Any:
        """What an engine's checkpoint has."""
        return copy.deepcopy((self.positions, self.cells))

    def set_back(self, state: Any) -> None:
        """The engine brings a checkpoint back."""
        self.positions, self.cells = copy.deepcopy(state)

    def wait(self) -> None:
        """Until what is being saved is, and the next checkpoint names it."""
        for own in self.fold.saver._of.values():
            if own.job is not None:
                own.job.exception()


class _Always(dict[int, float]):
    """Every output has a checkpoint."""

    def get(self, key: int, default: Any = None) -> Any:
        return float("-inf")


def rows_of(world: World, runs: list[Run]) -> list[dict[str, Any]]:
    """The newest revisions of all rows of all lives, sorted by key and time."""
    batches = [batch for run in runs for batch in run.out]
    table = pa.Table.from_batches(batches, schema=world.group.row_schema)
    table = table.append_column(CREATED, pa.array([0] * len(table), pa.int64()).cast(TIMESTAMP))
    return sorted(newest(table, world.group).drop([CREATED]).to_pylist(), key=lambda r: (r["account"], r["event_timestamp"]))


def named(world: World, shard: int = 0) -> list[TileFile]:
    """The files that a shard's checkpoint names."""
    return [TileFile.from_json(value) for value in world.control.load_checkpoints()[shard]["tiles"]]


def path_of(world: World, file: TileFile, shard: int = 0) -> Path:
    """Where a file lies."""
    return world.folder / "tiles" / f"shard-{shard:04d}" / file.name
