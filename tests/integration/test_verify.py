"""``tandem verify``: an honest stream is explained to the last bit; every way of breaking one is found.

The stream here is the real intake, shards and delivery without Beam and Kafka (``pure_stream``), over real flights.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch import apply_run
from pipelines.verify.log import batch_rows, compose, found_graphs, run_over
from pipelines.verify.proof import Proof, prove
from pipelines.verify.record import load_record
from tests.integration.flights import World, make_logs, make_world, us
from tests.integration.pure_stream import Hooks, Log, kafka_log, stream

BEGIN = datetime(2013, 1, 7, tzinfo=UTC)
END = datetime(2013, 1, 8, 12, tzinfo=UTC)
"""History goes up to the first; the stream takes what happened between the two."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A repository with an applied batch run up to BEGIN, and the topics as Kafka would hold them from a little before it on."""

    world: World
    graphs: dict[str, str]
    history: Log
    kafka: Log

    def stream(self, folder: Path, hooks: Hooks | None = None, **options: Any) -> None:
        stream(self.world.repo(), self.kafka, folder, begin=us(BEGIN), history=self.history, graphs=self.graphs, hooks=hooks, **options)

    def prove(self, folder: Path, scratch: Path) -> Proof:
        """What verify does, with the archive given."""
        repo = self.world.repo()
        record = load_record(folder, "main", repo.groups, us(BEGIN), "run")
        upto = record.upto(repo.groups)
        read = {
            n: t.filter(pa.array([o < upto[n][p] for p, o in zip(t["_partition"].to_pylist(), t["_offset"].to_pylist())]))
            for n, t in self.kafka.items()
        }
        log = compose(repo, read, us(BEGIN), record.emitted)
        scratched, run = run_over(repo, log, scratch)
        batch = batch_rows(scratched.data, scratched.groups, run, log.start, log.end)
        return prove(record, repo.groups, batch, log.events, self.graphs, lambda n: found_graphs(repo.data, repo.groups[n]), log.start)


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
    history = {n: t.filter(pa.array(times[n] < us(BEGIN))) for n, t in events.items()}
    since = us(BEGIN) - 3_600_000_000
    live = {n: t.filter(pa.array((times[n] >= since) & (times[n] < us(END)))) for n, t in events.items()}
    sources = {n: s for n, s in repo.sources.items() if n in {g.source.name for g in repo.groups.values()}}
    kafka = kafka_log({n: live[n] for n in sources}, sources, seed=5, partitions=partitions, disorder=0.1, late=late)
    return Setting(world, graphs, history, kafka)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("logs")
    make_logs(data)
    return data


@pytest.fixture(scope="module")
def plain(logs, tmp_path_factory) -> Setting:
    """The light repository; events come disordered, some too late."""
    return setting(tmp_path_factory.mktemp("plain"), logs, light=True)


def totals(proof: Proof) -> dict[str, int]:
    out: dict[str, int] = {}
    for g in proof.groups.values():
        rows = g.rows()
        out["compared"] = out.get("compared", 0) + rows["compared"]
        out["equal"] = out.get("equal", 0) + rows["equal"]
        for kind in ("different", "missing", "extra"):
            for cause, n in rows[kind].items():
                out[f"{kind}, {cause}"] = out.get(f"{kind}, {cause}", 0) + n
    return out


def test_an_honest_stream_is_explained_to_the_last_bit(plain, tmp_path):
    plain.stream(tmp_path / "stream")
    proof = plain.prove(tmp_path / "stream", tmp_path / "scratch")
    found = totals(proof)
    print(found, proof.problems())
    assert proof.unexplained == 0 and proof.problems() == []
    assert set(found) == {"compared", "equal", "different, too late", "missing, too late", "missing, in flight"}
    assert found["equal"] > 5_000
