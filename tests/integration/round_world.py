"""Random histories against real stores: event logs that lose and gain events, runs over overlapping ranges, redefinitions, streams beside
them, and materializations, by the product's own code; the oracle says what must be there after each of these."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, RepoConfig

from pipelines.feature_store.materialize import materialize_view
from serving.feast_objects import feast_objects
from serving.offline_store import connection, latest_rows
from serving.online_store.base import OrderedOnlineStore
from tests.oracle.rounds import Rounds, Row
from tests.redis_server import redis_server
from transforms.aggregates import rows_between, tile
from transforms.definitions import CREATED, FINGERPRINT, TIMESTAMP, Count, Entity, EventSource, FeatureGroup, Field, Sum, hours, minutes
from transforms.instants import EPOCH, instant, micros_of
from transforms.run_cover import Cover, write_cover

HOUR = 3_600_000_000
DAY0 = micros_of(datetime(2024, 5, 1, tzinfo=UTC))
HOURS = 12
GRAPHS = ("g1", "g2")


def group(limit: float) -> FeatureGroup:
    """Counts and sums of an hour and of four; events above the limit break the contract."""
    source = EventSource(
        name="orders",
        event_time="at",
        tie_breaker="id",
        fields=[Field("id", "string", required=True), Field("shop", "int64", required=True), Field("amount", "float64", max=limit)],
        out_of_orderness=minutes(5),
        allowed_lateness=hours(1),
        files="events/orders",
    )
    return FeatureGroup(
        "shops", source, Entity("shop"), hours(1), hours(48), [Count(over=[hours(1), hours(4)]), Sum("amount", over=hours(4))]
    )


GROUPS = {"g1": group(1000.0), "g2": group(50.0)}


def accepted(events: list[Row], graph: str) -> list[Row]:
    """Those that the graph's contract takes."""
    return [e for e in events if e["amount"] <= (1000.0 if graph == "g1" else 50.0)]


@dataclass
class World:
    """One feature repository with one view over a store; the applied graph is the registry's tag, as ``tandem apply`` leaves it."""

    path: Path
    settings: Mapping[str, Any]
    stores: dict[str, FeatureStore] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for graph in GRAPHS:
            config = RepoConfig(
                project="rounds",
                provider="local",
                registry=str(self.path / f"{graph}.db"),
                online_store=dict(self.settings),
                offline_store={"type": "tandem.serving.offline_store.AsofOfflineStore"},
                entity_key_serialization_version=3,
                repo_path=self.path,
            )
            outputs = {"shops": pa.schema([], metadata={FINGERPRINT: graph})}
            made = feast_objects([GROUPS[graph]], self.path, outputs)
            store = FeatureStore(config=config)
            store.apply([*made.entities, *made.views])
            self.stores[graph] = store
        provider: Any = self.stores["g1"]._get_provider()
        online = provider.online_store
        assert isinstance(online, OrderedOnlineStore)
        self.online, self.config = online, self.stores["g1"].config
        self.view = self.stores["g1"].get_feature_view("shops")

    def clear(self) -> None:
        """As at the beginning."""
        shutil.rmtree(self.path / "offline", ignore_errors=True)
        self.online.update(self.config, [self.view], [], [], [], False)
        self.online.update(self.config, [], [self.view], [], [], False)

    def run(self, number: int, graph: str, events: list[Row], start: int, end: int) -> None:
        """A batch run, as it becomes visible."""
        folder = self.path / "offline" / "shops" / f"run=r{number:04d}"
        delay = GROUPS[graph].delay_us
        rows = self.rows(graph, accepted(events, graph), start, end, created=DAY0 + number)
        write_cover(folder, Cover(f"r{number:04d}", DAY0 + number, start + delay, end + delay, graph))
        if rows.num_rows:
            (folder / "all").mkdir()
            pq.write_table(pa.Table.from_batches([rows]), folder / "all" / "part-0.parquet")

    def rows(self, graph: str, events: list[Row], start: int, end: int, created: int) -> pa.RecordBatch:
        """The product's feature rows of a log."""
        g = GROUPS[graph]
        columns = {f.name: pa.array([e[f.name] for e in events], f.type) for f in g.source.arrow_schema}
        made = rows_between(tile(pa.RecordBatch.from_pydict(columns, g.source.arrow_schema), g), g, start, end)
        own = {FINGERPRINT: pa.scalar(graph), CREATED: pa.scalar(created, TIMESTAMP)}
        return pa.RecordBatch.from_arrays([*made.columns, *(pa.repeat(v, made.num_rows) for v in own.values())], [*made.schema.names, *own])

    def materialize(self, graph: str, end_us: int) -> None:
        """``tandem materialize`` of the view, from the beginning."""
        store = self.stores[graph]
        materialize_view(store, self.online, store.get_feature_view("shops"), instant(DAY0 - HOUR), instant(end_us))

    def served(self) -> dict[int, Row]:
        """Per shop what is stored."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        keys = [EntityKey(join_keys=["shop"], entity_values=[Value(int64_val=shop)]) for shop in range(4)]
        names = ["count_1h", "count_4h", "amount_sum_4h", "tandem_revision"]
        found = self.online.online_read_stored(self.config, self.view, keys, names)
        out = {}
        for shop, (at, values) in enumerate(found):
            if at is not None and values is not None:
                plain = {n: getattr(v, kind) if (kind := v.WhichOneof("val")) else None for n, v in values.items()}
                out[shop] = {"shop": shop, "event_timestamp": micros_of(at), **plain}
        return out

    def trained(self, graph: str, end_us: int) -> dict[int, Row]:
        """Per shop what the offline store says."""
        view = self.stores[graph].get_feature_view("shops")
        columns = ["shop", "event_timestamp", "count_1h", "count_4h", "amount_sum_4h", "tandem_revision"]
        with connection(self.config) as db:
            from serving.offline_rows import OfflineRows

            source = OfflineRows(db, self.stores[graph].config, view.batch_source)
            found = latest_rows(db, source, ["shop"], columns, "event_timestamp", CREATED, EPOCH, instant(end_us)).to_pylist()
        return {row["shop"]: {**row, "event_timestamp": micros_of(row["event_timestamp"])} for row in found}


def history(world: World, seed: int, steps: int = 12) -> str | None:
    """Play one history; what differed first, or None."""
    rng = random.Random(seed)
    world.clear()
    oracle = Rounds(GROUPS)
    log: list[Row] = []
    graph, number, whole = "g1", 0, True

    def event() -> Row:
        # Several of one id: what a log holds twice counts twice.
        at = DAY0 + rng.randrange(HOURS * 60) * 60_000_000
        return {"at": at, "id": f"o{rng.randrange(30)}", "shop": rng.randrange(4), "amount": float(rng.choice([1, 5, 40, 60, 900]))}

    def span() -> tuple[int, int]:
        start = DAY0 + rng.randrange(HOURS) * HOUR
        return (DAY0 - HOUR, DAY0 + 24 * HOUR) if rng.random() < 0.4 else (start, start + rng.randint(1, HOURS) * HOUR)

    log = [event() for _ in range(rng.randint(1, 12))]
    for step in range(steps):
        what = rng.choice(["log", "run", "run", "apply", "stream", "stream", "materialize", "materialize"]) if step else "run"
        if what == "apply" and whole:
            continue  # away and back before anything was materialized: what a stream wrote of that graph is still there, rightly
        if what == "log":
            if log and rng.random() < 0.6:
                for _ in range(rng.randint(1, len(log))):
                    log.pop(rng.randrange(len(log)))
            else:
                log += [event() for _ in range(rng.randint(1, 5))]
            continue
        if what == "run":
            of, (start, end) = rng.choice(GRAPHS), span()
            number += 1
            world.run(number, of, log, start, end)
            oracle.run(of, accepted(log, of), start, end)
            if not step:
                graph = of
                world.online.apply_fingerprint(world.config, "shops", graph)
                oracle.apply(graph)
        elif what == "apply":
            was, graph = graph, rng.choice(GRAPHS)
            whole |= graph != was
            world.online.apply_fingerprint(world.config, "shops", graph)
            oracle.apply(graph)
        elif what == "stream":
            seen = accepted([*log, *(event() for _ in range(rng.randrange(4)))], graph)
            start, end = span()
            rows = world.rows(graph, seen, start, end, DAY0)
            if rows.num_rows:
                world.online.write_rows(world.config, world.view, rows)
                taken = rows.to_pylist()
                oracle.write([{**row, "event_timestamp": micros_of(row["event_timestamp"])} for row in taken])
        else:
            # After another graph was applied a part would leave rows of it that were there before.
            end_us = DAY0 + (30 if whole else rng.randrange(2 * HOURS)) * HOUR + 5 * 60_000_000
            whole = False
            world.materialize(graph, end_us)
            oracle.materialize(end_us)
            differs = _unlike(world.trained(graph, end_us), oracle.offline(end_us))
            if differs:
                return f"seed {seed}, step {step}, offline: {differs}"
        if oracle.upto is not None:
            differs = _unlike(world.served(), oracle.online())
            if differs:
                return f"seed {seed}, step {step} ({what}), online: {differs}"
    return None


def _unlike(found: Mapping[int, Row], expected: Mapping[Any, Row]) -> str:
    for shop in range(4):
        right, have = expected.get((shop,)), found.get(shop)
        if (right is None) != (have is None) or (right and have and any(right[n] != v for n, v in have.items() if n in right)):
            return f"shop {shop}: {have} for {right}"
    return ""


@contextmanager
def old_rule(world: World) -> Iterator[None]:
    """The negative control: the rule of before, (event timestamp, revision) alone, whatever the run, with nothing covered or dropped."""
    import tests.integration.round_world as here

    def as_before(store: Any, online: Any, view: Any, start: datetime, end: datetime) -> None:
        folder = world.path / "offline" / "shops"
        tables = [pq.read_table(p, partitioning=None) for p in sorted(folder.rglob("*.parquet"))]
        mine = [t.filter(pa.compute.equal(t.column(FINGERPRINT), online.applied_fingerprint(store.config, view.name))) for t in tables]
        for table in mine:
            upto = table.filter(pa.compute.less_equal(table.column("event_timestamp"), pa.scalar(end, TIMESTAMP)))
            if upto.num_rows:
                online.write_rows(store.config, view, upto)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here, "materialize_view", as_before)
        yield


@contextmanager
def store_world(kind: str, folder: Path) -> Iterator[World]:
    """A world on a real ``sqlite`` or ``redis``."""
    store = "tandem.serving.online_store."
    if kind == "sqlite":
        yield World(folder, {"type": f"{store}sqlite.OrderedSqliteOnlineStore", "path": str(folder / "online.db")})
    else:
        with redis_server() as server:
            yield World(folder, {"type": f"{store}redis.OrderedRedisOnlineStore", "connection_string": server.connection_string})
