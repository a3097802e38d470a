"""A small applied repository for what delivers rows: two groups without preprocessing functions, on either online store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.sink import StreamSink
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import newest, read_rows
from serving.feast_objects import feast_objects
from transforms.aggregates import rows_between, tile
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Last, LastN, Mean, hours, minutes
from transforms.graph import save_graph

SOURCE = EventSource(
    name="trips",
    fields=[Field("trip", "string", required=True), Field("zone", "string", required=True), Field("fare", "float64")],
    event_time="at",
    tie_breaker="trip",
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
)
ZONE = FeatureGroup(
    name="zone_fares",
    source=SOURCE,
    entity=Entity("zone"),
    hop=minutes(5),
    ttl=timedelta(days=36500),
    aggregates=[
        Count(over=hours(1)),
        Mean("fare", over=[hours(1), hours(2)]),
        Last("trip", over=hours(1)),
        LastN("fare", over=hours(1), n=3),
    ],
)
TRIP = FeatureGroup(
    name="trip_fares",
    source=SOURCE,
    entity=Entity("trip", "zone"),
    hop=minutes(10),
    ttl=timedelta(days=36500),
    aggregates=[Count(over=hours(1))],
)
GROUPS = {g.name: g for g in (ZONE, TRIP)}
T0 = 1_700_000_000_000_000 // 600_000_000 * 600_000_000
HOP = 300_000_000


@dataclass(frozen=True)
class World:
    repo: Path
    data: Path
    graphs: dict[str, str]

    @property
    def control(self) -> JobState:
        return JobState(self.data / "stream" / "main")

    def deliver(self, **options: Any) -> StreamSink:
        return StreamSink(self.repo, self.data, GROUPS, self.graphs, self.control, **options)

    def feast(self) -> Any:
        from feast import FeatureStore

        return FeatureStore(repo_path=str(self.repo))

    def apply_fingerprint(self, group: str, fingerprint: str) -> None:
        store = self.feast()
        store._get_provider().online_store.apply_fingerprint(store.config, group, fingerprint)

    def online(self, group: FeatureGroup, keys: list[dict[str, str]]) -> list[dict[str, Any]]:
        """What stock reading gives per key: feature -> value, with the row's time in microseconds (None: nothing there)."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        store = self.feast()
        table, names = store.get_feature_view(group.name), [*(f.name for f in group.features), "tandem_revision"]
        entities = [EntityKey(join_keys=list(k), entity_values=[Value(string_val=v) for v in k.values()]) for k in keys]
        found = store._get_provider().online_store.read_rows(store.config, table, entities, names)
        return [{"at": at, **{n: found.values[n][i] for n in names}} for i, at in enumerate(found.event_us)]


def make_world(root: Path, connection: str | None = None, **options: Any) -> World:
    """On Redis at ``connection``, or SQLite; one applied graph per group. ``options``: more of the online store's configuration."""
    from feast import FeatureStore

    repo, data = root / "repo", root / "data"
    repo.mkdir(parents=True)
    online = (
        {"type": "serving.online_store.redis.OrderedRedisOnlineStore", "connection_string": connection}
        if connection
        else {"type": "serving.online_store.sqlite.OrderedSqliteOnlineStore", "path": "../data/online.db"}
    )
    (repo / "feature_store.yaml").write_text(
        "project: trips\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
        f"offline_store: {{type: serving.offline_store.AsofOfflineStore}}\nonline_store: {json.dumps({**online, **options})}\n"
    )
    graphs = {}
    for name, group in GROUPS.items():
        path = save_graph(None, data / "graphs" / name / "{fingerprint}", group.definition_hash(), group.row_schema)
        (path.parent / "CURRENT").write_text(path.name + "\n")
        graphs[name] = path.name
    made = feast_objects(GROUPS.values(), data, {n: pa.schema([]) for n in GROUPS})
    store = FeatureStore(repo_path=str(repo))
    store.apply([*made.entities, *made.sources, *made.views], partial=True)
    world = World(repo, data, graphs)
    for name, fingerprint in graphs.items():
        world.apply_fingerprint(name, fingerprint)
    return world


def events(n: int, seed: int = 0, zones: int = 20, start: int = T0, span: int = 12 * HOP) -> pa.RecordBatch:
    """``n`` valid events of SOURCE, nulls among the fares."""
    r = np.random.default_rng(seed)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.sort(r.integers(start, start + span, n)), pa.timestamp("us", "UTC")),
            pa.array([f"t{i}" for i in r.integers(0, 50, n)]),
            pa.array([f"z{i}" for i in r.integers(0, zones, n)]),
            pa.array(r.normal(10, 5, n), mask=r.random(n) < 0.2),
        ],
        schema=SOURCE.arrow_schema,
    )


def rows(group: FeatureGroup, batch: pa.RecordBatch, after: int, upto: int) -> pa.RecordBatch:
    """The feature rows of boundaries in (after, upto]."""
    return rows_between(tile(batch, group), group, after, upto)


STEPS = 36


@cache
def output(step: int, shard: int = 0, seed: int = 0) -> FoldOutput:
    """The rows of one hop of a fixed log; every third one also corrects rows of the hop before."""
    log = events(2000, seed)
    given = {}
    for name, group in GROUPS.items():
        after = T0 + step * HOP
        given[name] = rows(group, log, after - (HOP if step % 3 == 0 else 0), after + HOP)
    return FoldOutput(shard, given, {}, {"shard": step, "shards": 1})


@cache
def expected(upto: int = STEPS, seed: int = 0) -> dict[str, pa.RecordBatch]:
    return {n: rows(g, events(2000, seed), T0 - HOP, T0 + upto * HOP) for n, g in GROUPS.items()}


def check(world: World, upto: int = STEPS) -> None:
    """The log holds every row, and the store the newest of every key."""
    for name, group in GROUPS.items():
        right = expected(upto)[name]
        logged = newest(read_rows(world.control.folder, group), group).select(right.schema.names)
        assert logged.to_pylist() == right.to_pylist()
        keys = list(group.entity.keys)
        last: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in right.to_pylist():
            last[tuple(row[k] for k in keys)] = row
        found = world.online(group, [dict(zip(keys, k)) for k in last])
        assert [(f["at"], f["tandem_revision"].int64_val) for f in found] == [
            (int(pa.scalar(r["event_timestamp"], pa.timestamp("us", "UTC")).value), r["tandem_revision"]) for r in last.values()
        ]
        counts = group.features[0].name
        assert [f[counts].int64_val for f in found] == [r[counts] for r in last.values()]


def said(world: World) -> str:
    return "\n".join(world.control.said()[0])
