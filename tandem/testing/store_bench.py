"""A bench for online stores: one store with its configuration, a view and a clock that stands, and histories to write into it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from serving.online_store.base import Covered, Order, OrderedOnlineStore, WriteResult, row_wins
from transforms.instants import micros_of

__all__ = [
    "ROUNDS",
    "configuration",
    "DAY",
    "NOW",
    "US",
    "EVERY",
    "MINUTE",
    "ORDERS",
    "RACERS",
    "STEPS",
    "T",
    "Bench",
    "at_us",
    "batch",
    "every_type",
    "key",
    "race_in_threads",
    "race_rounds",
    "random_history",
    "view",
]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
US = timedelta(microseconds=1)
_numbers = itertools.count()

T = NOW - timedelta(hours=1)
ORDERS = list(itertools.permutations(range(3)))


def view(
    keys: Mapping[str, ValueType] | None = None,
    features: Sequence[Field] = (Field(name="x", dtype=Float64),),
    ttl: timedelta = timedelta(hours=36),
    name: str = "traffic",
) -> FeatureView:
    """A feature view of Feast's, as Tandem declares them: with revision and fingerprint among the features."""
    keys = keys or {"origin": ValueType.STRING}
    types = {ValueType.STRING: String, ValueType.INT64: Int64}
    return FeatureView(
        name=name,
        entities=[Entity(name=k, join_keys=[k], value_type=t) for k, t in keys.items()],
        ttl=ttl,
        schema=[
            *(Field(name=k, dtype=types[t]) for k, t in keys.items()),
            *features,
            Field(name="tandem_revision", dtype=Int64),
            Field(name="tandem_fingerprint", dtype=String),
        ],
        source=FileSource(path=f"offline/{name}.parquet", timestamp_field="event_timestamp"),
    )


def configuration(project: str, settings: Mapping[str, Any]) -> RepoConfig:
    """Feast's configuration of a repository of this name over a store with these settings."""
    return RepoConfig(
        project=project,
        registry="registry.db",
        provider="local",
        online_store=dict(settings),
        offline_store="dask",
        entity_key_serialization_version=3,
    )


@dataclass
class Bench:
    """A store, its configuration and one view that is applied to it; a project of its own, so it is empty at first."""

    store: OrderedOnlineStore
    config: RepoConfig
    table: FeatureView
    stock_settings: Mapping[str, Any] | None = None

    @staticmethod
    def open(settings: Mapping[str, Any], table: FeatureView, stock_settings: Mapping[str, Any] | None = None) -> Bench:
        """``settings``: what stands below ``online_store`` in feature_store.yaml; ``stock_settings``: those of Feast's own store there."""
        config = configuration(f"p{next(_numbers)}", settings)
        store: Any = get_online_store_from_config(config.online_store)
        store.clock = lambda: int(NOW.timestamp()) * 1_000_000
        store.update(config, [], [table], [], [], False)
        return Bench(store, config, table, stock_settings)

    def stock(self) -> tuple[Any, RepoConfig]:
        """Feast's own class over the same data."""
        assert self.stock_settings is not None
        config = configuration(self.config.project, self.stock_settings)
        return get_online_store_from_config(config.online_store), config

    def of(self, table: FeatureView) -> Bench:
        """The same store, with this view applied to it as well."""
        self.store.update(self.config, [], [table], [], [], False)
        return replace(self, table=table)

    def write(self, *rows: tuple[str, datetime, int, float | None], fingerprint: str = "new") -> WriteResult:
        """Rows of (origin, event time, revision, x)."""
        return self.store.write_rows(self.config, self.table, batch(*rows, fingerprint=fingerprint))

    def write_protos(self, *rows: tuple[str, datetime, int, float], fingerprint: str = "new") -> None:
        """The same through Feast's own entry."""
        self.store.online_write_batch(
            self.config,
            self.table,
            [
                (
                    key(origin=o),
                    {"x": Value(double_val=x), "tandem_revision": Value(int64_val=r), "tandem_fingerprint": Value(string_val=fingerprint)},
                    at,
                    None,
                )
                for o, at, r, x in rows
            ],
            None,
        )

    def materialize(self, covered: Covered, *rows: tuple[str, datetime, int, float | None], fingerprint: str = "new") -> None:
        """Rows of (origin, event time, revision, x) as those of a materialization that covers ``covered``."""
        self.store.cover(self.config, self.table.name, covered)
        if rows:
            self.store.write_rows(self.config, self.table, batch(*rows, fingerprint=fingerprint), covered)

    def covered(self) -> Covered | None:
        """What the store says is materialized."""
        return self.store.covered(self.config, self.table.name)

    def drop(self, start_us: int, covered: Covered, count_only: bool = False) -> int:
        """Drop what the materialization left; the number."""
        return self.store.drop_superseded(self.config, self.table, start_us, covered, count_only)

    def x(self, origin: str = "EWR") -> float | None:
        """The value of feature x; None where it is null or there is no row."""
        rows = self.store.read_rows(self.config, self.table, [key(origin=origin)], ["x"], now=NOW)
        value = rows.values["x"][0]
        return value.double_val if value.WhichOneof("val") else None


def key(**keys: str | int) -> EntityKey:
    """An entity's key."""
    return EntityKey(
        join_keys=list(keys), entity_values=[Value(string_val=v) if isinstance(v, str) else Value(int64_val=v) for v in keys.values()]
    )


def batch(*rows: tuple[str, datetime, int, float | None], fingerprint: str = "new") -> pa.RecordBatch:
    """Feature rows of (origin, event time, revision, x)."""
    origins, times, revisions, xs = zip(*rows)
    return pa.RecordBatch.from_pydict(
        {
            "origin": pa.array(origins),
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            "x": pa.array(xs, pa.float64()),
            "tandem_revision": pa.array(revisions, pa.int64()),
            "tandem_fingerprint": pa.array([fingerprint] * len(rows)),
        }
    )


EVERY: dict[str, tuple[Any, pa.DataType, Any, Value | None]] = {
    "f64": (Float64, pa.float64(), 0.1, Value(double_val=0.1)),
    "zero": (Float64, pa.float64(), 0.0, Value(double_val=0.0)),
    "f32": (Float32, pa.float32(), 0.25, Value(float_val=0.25)),
    "i64": (Int64, pa.int64(), 2**53 + 1, Value(int64_val=2**53 + 1)),
    "s": (String, pa.string(), "naïve ✈ \x00", Value(string_val="naïve ✈ \x00")),
    "b": (Bool, pa.bool_(), False, Value(bool_val=False)),
    "ts": (UnixTimestamp, pa.timestamp("us", tz="UTC"), NOW, Value(unix_timestamp_val=1893456000)),
    "lf": (Array(Float64), pa.list_(pa.float64()), [0.5, 0.1], None),
    "lf32": (Array(Float32), pa.list_(pa.float32()), [0.5], None),
    "li": (Array(Int64), pa.list_(pa.int64()), [2**60, 1], None),
    "ls": (Array(String), pa.list_(pa.string()), ["a", ""], None),
    "lb": (Array(Bool), pa.list_(pa.bool_()), [True, False], None),
    "le": (Array(Float64), pa.list_(pa.float64()), [], None),
    "lt": (Array(UnixTimestamp), pa.list_(pa.timestamp("us", tz="UTC")), [NOW], None),
}


def every_type(bench: Bench) -> tuple[Bench, list[EntityKey]]:
    """Two rows with a feature of each type: all values there, and none; their keys, one of them otherwise ordered, and an unknown one."""
    table = view(
        {"origin": ValueType.STRING, "number": ValueType.INT64}, [Field(name=n, dtype=t[0]) for n, t in EVERY.items()], name="every"
    )
    every = bench.of(table)
    columns = {
        "number": pa.array([-5, 2**40]),
        "origin": pa.array(["EWR", "EWR"]),
        "event_timestamp": pa.array([T, T], pa.timestamp("us", tz="UTC")),
        "tandem_revision": pa.array([1, 1]),
        "tandem_fingerprint": pa.array(["f", "f"]),
        "extra": pa.array([1, 2]),
        **{n: pa.array([v, None], kind) for n, (_, kind, v, _) in EVERY.items()},
    }
    assert every.store.write_rows(every.config, table, pa.table(columns)).written == 2
    keys = [key(origin="EWR", number=-5), key(origin="EWR", number=2**40), key(number=-5, origin="EWR"), key(origin="JFK", number=-5)]
    return every, keys


ROUNDS, RACERS, STEPS = 100, 3, 6
"""A store that writes a row in two steps is found out within a dozen rounds (``tests/contract`` holds it to that)."""


def race_rounds(bench: Bench, seed: int, barrier: Any) -> None:
    """In every round all racers write the same rows of one new key, each in an order and in batches of its own, at the same time."""
    rng = random.Random(seed)
    for number in range(ROUNDS):
        steps, best = rng.sample(range(STEPS), STEPS), -1
        barrier.wait(30)
        while steps:
            size = rng.randint(1, 3)
            some, steps = steps[:size], steps[size:]
            write: Any = bench.write if rng.random() < 0.5 else bench.write_protos
            write(*((f"K{number}", T + s // 2 * US, s % 2, float(s)) for s in some))
            best = max(best, *some)
            seen = bench.x(f"K{number}")
            assert seen is not None
            assert seen >= best, "an older value won"


def race_in_threads(bench: Bench) -> list[BaseException]:
    """The racers of :func:`race_rounds` as threads of this process; what went wrong, in its order."""
    barrier = threading.Barrier(RACERS)
    wrong: list[BaseException] = []

    def race(seed: int) -> None:
        try:
            race_rounds(bench, seed, barrier)
        except BaseException as error:
            wrong.append(error)
            barrier.abort()

    races = [threading.Thread(target=race, args=(seed,)) for seed in range(RACERS)]
    for t in races:
        t.start()
    for t in races:
        t.join(120)
    return wrong


def at_us(at: datetime) -> int:
    """Microseconds since 1970."""
    return micros_of(at)


def random_history(bench: Bench, rng: random.Random) -> None:
    """Write at random and compare each key with a plain dictionary that follows :func:`row_wins`."""
    held: dict[str, tuple[Order, float]] = {}
    applied: str | None = None
    covered: Covered | None = None
    keys = [f"K{n}" for n in range(6)]
    for step in range(60):
        what = rng.random()
        if what < 0.1:
            fingerprint = rng.choice(["f", "g"])
            bench.store.apply_fingerprint(bench.config, "traffic", fingerprint)
            applied, covered = fingerprint, covered if applied == fingerprint else None
            continue
        fingerprint = applied or rng.choice(["f", "g"])
        rows = [(rng.choice(keys), T + rng.randrange(8) * US, rng.randrange(3), float(step)) for _ in range(rng.randint(1, 4))]
        rows = list({row[0]: row for row in rows}.values())
        part: Covered | None = None
        if what < 0.4:
            part = Covered(step + 1, at_us(T + rng.randrange(8) * US))
            rows = [row for row in rows if at_us(row[1]) <= part.upto_us]
            bench.materialize(part, *rows, fingerprint=fingerprint)
            covered = part
        else:
            bench.write(*rows, fingerprint=fingerprint)
        for name, at, revision, x in rows:
            order = (at_us(at), revision, fingerprint, part.stamp if part else 0)
            stored = held.get(name)
            if row_wins(order, stored[0] if stored else None, applied, covered, part.upto_us if part else None):
                held[name] = (order, x)
        if part is not None and rng.random() < 0.5:
            start = at_us(T + rng.randrange(4) * US)
            gone = {
                name
                for name, (order, _) in held.items()
                if (start <= order[0] <= part.upto_us and order[3] < part.stamp) or (applied is not None and order[2] != applied)
            }
            assert bench.drop(start, part) == len(gone)
            held = {name: row for name, row in held.items() if name not in gone}
        assert {k: bench.x(k) for k in keys} == {k: held[k][1] if k in held else None for k in keys}, f"after step {step}"
