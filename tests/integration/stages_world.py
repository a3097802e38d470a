"""The stream's own stages (partitions, poll, fold) over a broker in memory, without graph and stores: what they emit is collected."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.batch.beam_options import options as beam_options
from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.poll import Partitions, Poll
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import newest
from pipelines.streaming.state.start_position import StartPosition, from_checkpoints, with_saved_tiles
from transforms.definitions import CREATED, TIMESTAMP, Count, Entity, EventSource, FeatureGroup, Field, Last, Sum, hours, minutes

HOUR = 3_600_000_000
T0 = 1_700_000_000_000_000 // HOUR * HOUR
"""The first hour of the tests' events (November 2023)."""


def payments(topic: str, **changes: Any) -> FeatureGroup:
    """Payments of accounts: counts, sums and the last amount of the last one and three hours."""
    source = EventSource(
        **{
            "name": "payments",
            "fields": [
                Field("id", "string", required=True),
                Field("account", "string", required=True),
                Field("amount", "float64", max=1e6),
            ],
            "event_time": "paid_at",
            "tie_breaker": "id",
            "out_of_orderness": minutes(1),
            "allowed_lateness": hours(1),
            "topic": topic,
            **changes,
        }
    )
    return FeatureGroup(
        name="accounts",
        source=source,
        entity=Entity("account"),
        hop=minutes(5),
        ttl=timedelta(hours=12),
        aggregates=[Count(over=[hours(1), hours(3)]), Sum("amount", over=hours(1)), Last("amount", over=hours(3))],
    )


def payment(number: int, at_us: int, account: str = "", amount: Any = None) -> bytes:
    """A valid record."""
    amount = number / 8 if amount is None else amount
    return json.dumps({"id": f"p{number}", "account": account or f"a{number % 3}", "amount": amount, "paid_at": at_us}).encode()


class Collect(beam.DoFn):
    """Keeps outputs in files and saves their progress, as delivery would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def settle(self) -> None:
        """Nothing waits."""

    def process(self, output: FoldOutput, more: bool = False) -> None:
        """One output, one file."""
        (self.folder / "outputs").mkdir(exist_ok=True)
        n = len(list((self.folder / "outputs").iterdir()))
        (self.folder / "outputs" / f"{n:06d}").write_bytes(pickle.dumps(output))
        if output.checkpoint:
            JobState(self.folder).save_checkpoint(output.shard, output.checkpoint)


@dataclass
class World:
    """A job over one topic; :meth:`run` reads to the end, and goes on there the next time."""

    folder: Path
    broker: MemoryBroker
    group: FeatureGroup
    stream: StreamSettings = field(default_factory=lambda: StreamSettings(shards=2))
    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    begin: int | None = None
    saved_tiles: bool = True
    """Whether a run goes on from the tiles that the one before saved; else it reads its topic again."""

    @property
    def control(self) -> JobState:
        """The job's folder."""
        return JobState(self.folder)

    def send(self, records: Sequence[bytes | None], partition: int = 0) -> None:
        """Append records to the group's topic."""
        self.broker.append(self.group.source.topic, partition, records)

    def spec(self) -> JobSpec:
        """A job to the present ends of the topic."""
        source, reader = self.group.source, self.broker.open_reader()
        try:
            count, identity = reader.partitions(source.topic), reader.identity(source.topic)
            until = {p: reader.end(source.topic, p) for p in range(count)}
        finally:
            reader.close()
        points = self.control.load_checkpoints()
        start = from_checkpoints(points.values(), self.stream.shards, -(2**62), None) or StartPosition()
        if start.offsets and self.saved_tiles:
            start = with_saved_tiles(start, {self.group.name: self.group}, self.control, points, self.stream.shards)
        if self.begin is not None and not start.output_watermark:
            start = StartPosition({self.group.name: self.begin}, begin=self.begin, why="a batch run")
        return JobSpec(
            repo=self.folder,
            data=self.folder,
            folder=self.folder,
            groups={self.group.name: self.group},
            graphs={},
            kafka=self.kafka,
            stream=self.stream,
            broker=self.broker,
            start=start,
            until={source.name: until},
            topics={source.name: identity},
            one_tick=True,
        )

    def run(self, spec: JobSpec | None = None, fails: bool = False, ticks: int = 1) -> None:
        """Run on the direct runner. ``fails``: the job is to end with a reason."""
        self.control.begin()
        spec = spec or self.spec()
        try:
            with beam.Pipeline(options=beam_options("direct", [])) as pipeline:
                _ = (
                    pipeline
                    | beam.Create([b""] * ticks)
                    | beam.ParDo(Partitions(spec)).with_output_types(tuple[str, int])
                    | beam.ParDo(Poll(spec)).with_output_types(tuple[int, bytes])
                    | beam.ParDo(FoldShard(spec)).with_output_types(Any)
                    | beam.ParDo(Collect(self.folder))
                )
        except Exception:
            if not fails:
                raise
        assert bool(self.control.failure()) == fails, self.control.failure()

    def outputs(self) -> list[FoldOutput]:
        """All of all runs, in order."""
        return [pickle.loads(p.read_bytes()) for p in sorted((self.folder / "outputs").glob("*"))]

    def rows(self) -> list[dict[str, Any]]:
        """The newest revisions of all rows, sorted by key and time."""
        batches: Iterable[pa.RecordBatch] = [e.rows[self.group.name] for e in self.outputs() if self.group.name in e.rows]
        table = pa.Table.from_batches(list(batches), schema=self.group.row_schema)
        table = table.append_column(CREATED, pa.array([0] * len(table), pa.int64()).cast(TIMESTAMP))
        kept = newest(table, self.group).drop([CREATED])
        return sorted(kept.to_pylist(), key=lambda r: (r["account"], r["event_timestamp"]))

    def report(self, partition: int = 0) -> dict[str, Any]:
        """What the poll of a partition reports."""
        return self.control.reports()[f"poll-{self.group.source.name}-{partition}"]
