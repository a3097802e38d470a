"""A small applied repository on disk beside a broker (real or in memory), events for its topic, and the rows of one batch over them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import KafkaProducer

from pipelines.lake import shared
from pipelines.project.repository import Repo, load_repo
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.driver import running
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import read_rows
from serving.object_store.cache import data_path
from tests.checkpoints import least_boundary
from tests.integration.kafka_world import new_topic, options_of
from tests.oracle.compare import differences, to_dicts
from transforms.aggregates import rows_between, tile
from transforms.contract import check_json
from transforms.definitions import REVISION, FeatureGroup
from transforms.files import write_bytes

ROOT = Path(__file__).resolve().parents[2]
T0 = 1_700_000_000_000_000 // 3_600_000_000 * 3_600_000_000
SECOND = 1_000_000

FEATURES = """
from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import (
    Count, CountDistinct, Entity, EventSource, FeatureGroup, Field, Last, Mean, Std, days, hours, minutes,
)

trips = EventSource(
    name="trips",
    fields=[Field("trip", "string", required=True), Field("zone", "string", required=True), Field("fare", "float64")],
    event_time="at",
    tie_breaker="trip",
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
    topic="{topic}",
)
zones = FeatureGroup(
    name="zones", source=trips, entity=Entity("zone"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=hours(1)), Mean("fare", over=[hours(1), hours(2)]), Std("fare", over=hours(1)), Last("trip", over=hours(1))],
)
pairs = FeatureGroup(
    name="pairs", source=trips, entity=Entity("trip", "zone"), hop=minutes(10), ttl=days(36500),
    aggregates=[Count(over=hours(1)), CountDistinct("fare", over=hours(2))],
)
feast_views(__name__)
"""


@dataclass
class StreamWorld:
    """The repository's folder, the broker's address, and what was produced so far."""

    folder: Path
    bootstrap: str
    partitions: int
    topic: str = "trips"
    sent: dict[int, list[bytes]] = field(default_factory=dict)
    url: str | None = None
    """The object store that the data folder is a cache of."""

    @property
    def path(self) -> Path:
        return self.folder / "repo"

    @property
    def data(self) -> Path:
        return self.folder / "data" if self.url is None else data_path(self.url)

    @property
    def stream(self) -> Path:
        return self.data / "stream" / "main"

    @property
    def control(self) -> JobState:
        return JobState(self.stream)

    def repo(self) -> Repo:
        return load_repo(self.path)

    def produce(self, events: Sequence[bytes]) -> None:
        """Send events, each to the partition of its place in all that was ever sent."""
        at = sum(len(each) for each in self.sent.values())
        new: dict[int, list[bytes]] = {}
        for n, event in enumerate(events, at):
            new.setdefault(n % self.partitions, []).append(event)
        if self.bootstrap.startswith("memory://"):
            for partition, each in new.items():
                MemoryBroker.named(self.bootstrap.removeprefix("memory://")).append(self.topic, partition, each)
        else:
            with KafkaProducer(**options_of(self.bootstrap)) as producer:
                for partition, each in new.items():
                    for event in each:
                        producer.send(self.topic, event, partition=partition)
        for partition, each in new.items():
            self.sent.setdefault(partition, []).extend(each)

    def command(self, *words: str) -> list[str]:
        """A ``tandem`` command."""
        return [sys.executable, "-W", "ignore", "-m", "pipelines.cli", *words, "--repo", str(self.path)]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """``tandem stream`` as a process, its output in ``stream.out``."""
        with open(self.folder / "stream.out", "ab") as out:
            return subprocess.Popen(self.command("stream", *words), cwd=ROOT, stdout=out, stderr=out, env=environment())

    def out(self) -> str:
        """All output of the streams so far."""
        return (self.folder / "stream.out").read_text()

    def stop(self, seconds: float = 120, savepoint: bool = False) -> subprocess.CompletedProcess[str]:
        """``tandem stream stop``."""
        words = self.command("stream", "stop", *(["--savepoint"] if savepoint else []))
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds, env=environment())

    def delivered(self) -> int:
        """Records that every shard has recorded as delivered, over all partitions."""
        points = self.control.load_checkpoints()
        if not points or len(points) < next(iter(points.values()))["shards"]:
            return 0
        each = [sum(at["next"] for at in p["partitions"].get("trips", {}).values()) for p in points.values()]
        return min(each)

    def total(self) -> int:
        """Records sent."""
        return sum(len(each) for each in self.sent.values())

    def expected(self, group: FeatureGroup, upto: int) -> list[dict[str, Any]]:
        """The rows of one batch over every event, up to a boundary (microseconds)."""
        payloads = [event for each in self.sent.values() for event in each]
        valid = check_json(pa.array(payloads, pa.binary()), group.source, time.time_ns() // 1000, 10**12).valid
        return to_dicts(rows_between(tile(valid, group), group, 0, upto))

    def assert_right(self, complete: bool = True) -> int:
        """The newest revision of every row in the log is batch's, none is missing, and none is beyond; how many values were compared."""
        values = 0
        checkpoints = self.control.load_checkpoints().values()
        for name, group in self.repo().groups.items():
            boundary = least_boundary(checkpoints, name)
            rows = read_rows(self.stream, group).select(group.row_schema.names).combine_chunks()
            keys = [*group.entity.keys, "event_timestamp"]
            newest: dict[tuple[Any, ...], dict[str, Any]] = {}
            for row in to_dicts(rows):
                key = tuple(row[k] for k in keys)
                if key not in newest or row[REVISION] >= newest[key][REVISION]:
                    newest[key] = row
            got = [newest[key] for key in sorted(newest)]
            want = sorted(self.expected(group, boundary), key=lambda row: tuple(row[k] for k in keys))
            assert want, f"{name}: the test is empty"
            found = differences(got, want)
            assert not found, f"{name}: " + "; ".join(found[:5])
            values += sum(map(len, want))
            if complete:
                values += self.assert_online(group, want)
        return values

    def assert_online(self, group: FeatureGroup, rows: list[dict[str, Any]]) -> int:
        """The online store holds the last row of every key; how many values were asked."""
        from feast import FeatureStore
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        last = {tuple(row[k] for k in group.entity.keys): row for row in sorted(rows, key=lambda r: r["event_timestamp"])}
        store: Any = FeatureStore(repo_path=str(self.path))
        names = [*(f.name for f in group.features), REVISION]
        entities = [EntityKey(join_keys=list(group.entity.keys), entity_values=[Value(string_val=v) for v in key]) for key in last]
        found = store._get_provider().online_store.read_rows(store.config, store.get_feature_view(group.name), entities, names)
        got = [{"event_timestamp": at, **{n: _plain(found.values[n][i]) for n in names}} for i, at in enumerate(found.event_us)]
        want = [{"event_timestamp": row["event_timestamp"], **{n: row[n] for n in names}} for row in last.values()]
        wrong = differences(got, want)
        assert not wrong, f"{group.name} online: " + "; ".join(wrong[:5])
        return sum(map(len, want))


def _plain(value: Any) -> Any:
    """A Feast value as Python's."""
    which = value.WhichOneof("val")
    return None if which is None else getattr(value, which)


def environment() -> dict[str, str]:
    """Of a command."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def make_stream_world(
    folder: Path,
    bootstrap: str | None = None,
    partitions: int = 2,
    topic: str = "trips",
    features: str = FEATURES,
    url: str | None = None,
    online_store: str = "{type: serving.online_store.sqlite.OrderedSqliteOnlineStore, path: ../data/online.db}",
    **stream: Any,
) -> StreamWorld:
    """A repository whose graphs are applied (they compute nothing), its topic, and settings of the stream section.

    Without ``bootstrap`` the broker is one in memory: for streams that run in this process (``direct``).
    """
    from pipelines.feature_store.store import apply
    from transforms.graph import save_graph

    bootstrap = bootstrap or MemoryBroker().address
    world = StreamWorld(folder, bootstrap, partitions, topic, url=url)
    world.path.mkdir(parents=True)
    (folder / "data").mkdir(exist_ok=True)
    for name, count in ((topic, partitions), (f"{topic}.dead", 1)):
        if bootstrap.startswith("memory://"):
            MemoryBroker.named(bootstrap.removeprefix("memory://")).create_topic(name, count)
        else:
            new_topic(options_of(bootstrap), count, name)
    (world.path / "features.py").write_text(features.replace("{topic}", topic))
    (world.path / "feature_store.yaml").write_text(
        "project: trips\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
        "offline_store: {type: serving.offline_store.AsofOfflineStore}\n"
        f"online_store: {online_store}\n"
    )
    settings = {"clock": "replay", "idle_seconds": 3600, "shards": 2, "checkpoint_seconds": 2, "max_future_hours": 24, **stream}
    kafka = {"bootstrap_servers": bootstrap, "dead_letters": f"{topic}.dead"}
    (world.path / "tandem.yaml").write_text(
        json.dumps(
            {
                "data": url or "../data",
                "definitions": "features",
                "kafka": kafka,
                "stream": settings,
            }
        )
    )
    fingerprints = {}
    for name, group in world.repo().groups.items():
        path = save_graph(None, world.data / "graphs" / name / "{fingerprint}", group.definition_hash(), group.row_schema)
        shared.publish(world.data, path)
        current = path.parent / "CURRENT"
        shared.move(world.data, current, partial(write_bytes, current), f"{path.name}\n".encode())
        fingerprints[name] = path.name
    apply(world.repo(), fingerprints)
    return world


def events(n: int, seed: int = 0, start: int = 0, seconds: int = 6 * 3600) -> list[bytes]:
    """``n`` events over ``seconds`` from ``start`` (seconds after T0) in order of arrival: a fifth of them up to 30 minutes behind."""
    r = np.random.default_rng(seed)
    arrival = np.sort(r.integers(start, start + seconds, n))
    behind = np.where(r.random(n) < 0.2, r.integers(0, 1800, n), 0)
    times = T0 + np.maximum(arrival - behind, 0) * SECOND + r.integers(0, SECOND, n)
    zones, trips, fares = r.integers(0, 8, n), r.integers(0, 20, n), r.normal(10, 5, n)
    return [
        json.dumps({"at": int(t), "trip": f"t{b}", "zone": f"z{a}", "fare": None if f < 3 else f}).encode()
        for t, a, b, f in zip(times.tolist(), zones.tolist(), trips.tolist(), fares.tolist())
    ]


def parts_of(pid: int) -> dict[str, list[int]]:
    """The children of a driver: ``java`` and ``worker``."""
    found: dict[str, list[int]] = {"java": [], "worker": []}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == pid:
            if any(w.endswith(b"FlinkPipelineRunner") for w in words):
                found["java"].append(int(path.name))
            elif b"pipelines.streaming.engines.worker" in words:
                found["worker"].append(int(path.name))
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process if it runs."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


def is_running(world: StreamWorld) -> bool:
    """Whether a driver holds the stream."""
    return running(world.stream) is not None
