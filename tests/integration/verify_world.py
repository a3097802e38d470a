"""A repository with a batch run, the topics that a stream goes on from it with, and what verify does with both."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.verify.log import EventLog, batch_rows, compose, found_graphs, run_over
from pipelines.verify.stream_record import load_record
from tests.applied import apply_run
from tests.integration.flights import World, make_world, us
from tests.integration.pure_stream import Hooks, Log, kafka_log, stream
from tests.whole_proof import Proof, prove

BEGIN = datetime(2013, 1, 7, tzinfo=UTC)
END = datetime(2013, 1, 8, 0, tzinfo=UTC)
"""History goes up to the first; the stream takes what happened between the two."""


@dataclasses.dataclass(frozen=True)
class Expected:
    log: EventLog
    rows: dict[str, pa.Table]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A repository with an applied batch run up to BEGIN, and the topics as Kafka would hold them from a little before it on."""

    world: World
    graphs: dict[str, str]
    run: Path
    kafka: Log

    def stream(self, folder: Path, hooks: Hooks | None = None, **options: Any) -> None:
        stream(self.world.repo(), self.kafka, folder, begin=us(BEGIN), run=self.run, graphs=self.graphs, hooks=hooks, **options)

    def expected(self, folder: Path, scratch: Path) -> Expected:
        """The log that a stream's rows are made of, and the batch rows over it; the archive is given here."""
        repo = self.world.repo()
        record = load_record(folder, "main", repo.groups)
        upto = record.upto(repo.groups)
        read = {}
        for name, table in self.kafka.items():
            limit = np.array([upto[name][p] for p in sorted(upto[name])])
            read[name] = table.filter(pa.array(table["_offset"].to_numpy() < limit[table["_partition"].to_numpy()]))
        log = compose(repo, read, us(BEGIN), record.output_watermark)
        scratched, run = run_over(repo, log, scratch)
        return Expected(log, {n: batch_rows(scratched.data, g, run, log.start, log.end) for n, g in scratched.groups.items()})

    def prove(self, folder: Path, expected: Expected) -> Proof:
        """What verify does with them."""
        repo = self.world.repo()
        record = load_record(folder, "main", repo.groups)
        log = expected.log
        return prove(
            record, repo.groups, expected.rows, log.events, self.graphs, lambda n: found_graphs(repo.data, repo.groups[n]), log.start
        )


def all_events(data: Path, world: World) -> Log:
    out = {}
    for name, source in world.repo().sources.items():
        files = sorted((data / source.files).rglob("*.parquet"))
        out[name] = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files]).select(source.arrow_schema.names)
    return out


def setting(folder: Path, logs: Path, *, light: bool, late: float = 0.03, partitions: int = 3) -> Setting:
    world = make_world(folder, logs, light=light)
    result = world.run(BEGIN - timedelta(days=1), BEGIN)
    repo = world.repo()
    graphs = apply_run(repo, result.run)
    events = all_events(logs, world)
    times = {n: t.column(repo.sources[n].event_time).cast(pa.int64()).to_numpy() for n, t in events.items()}
    since = us(BEGIN) - 3_600_000_000
    live = {n: t.filter(pa.array((times[n] >= since) & (times[n] < us(END)))) for n, t in events.items()}
    sources = {n: s for n, s in repo.sources.items() if n in {g.source.name for g in repo.groups.values()}}
    kafka = kafka_log({n: live[n] for n in sources}, sources, seed=5, partitions=partitions, disorder=0.1, late=late)
    return Setting(world, graphs, result.run.folder, kafka)
