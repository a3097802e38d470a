"""What the contract tests share: a view, a store with its configuration and a clock, and rows in short form."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
US = timedelta(microseconds=1)
_numbers = itertools.count()


def view(
    keys: Mapping[str, ValueType] | None = None,
    features: Sequence[Field] = (Field(name="x", dtype=Float64),),
    ttl: timedelta = timedelta(hours=36),
    name: str = "traffic",
) -> FeatureView:
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


@dataclass
class Bench:
    store: Any
    config: RepoConfig
    table: FeatureView

    @staticmethod
    def sqlite(folder: Path, table: FeatureView, **more: Any) -> Bench:
        return Bench._of(
            folder, table, {"type": "serving.online_store.sqlite.OrderedSqliteOnlineStore", "path": str(folder / "online.db"), **more}
        )

    @staticmethod
    def redis(folder: Path, table: FeatureView, connection: str, **more: Any) -> Bench:
        return Bench._of(
            folder, table, {"type": "serving.online_store.redis.OrderedRedisOnlineStore", "connection_string": connection, **more}
        )

    @staticmethod
    def _of(folder: Path, table: FeatureView, online: dict[str, Any]) -> Bench:
        config = RepoConfig(
            project=f"p{next(_numbers)}",
            registry=str(folder / "registry.db"),
            provider="local",
            online_store=online,
            offline_store="dask",
            entity_key_serialization_version=3,
        )
        store = get_online_store_from_config(config.online_store)
        store.clock = lambda: int(NOW.timestamp()) * 1_000_000
        store.update(config, [], [table], [], [], False)
        return Bench(store, config, table)

    @property
    def kind(self) -> str:
        return "redis" if "Redis" in type(self.store).__name__ else "sqlite"

    def stock(self) -> tuple[Any, RepoConfig]:
        """Feast's own class over the same data."""
        online = (
            {"type": "sqlite", "path": self.config.online_store.path}
            if self.kind == "sqlite"
            else {"type": "redis", "connection_string": self.config.online_store.connection_string}
        )
        config = RepoConfig(
            project=self.config.project,
            registry="registry.db",
            provider="local",
            online_store=online,
            offline_store="dask",
            entity_key_serialization_version=3,
        )
        return get_online_store_from_config(config.online_store), config

    def of(self, table: FeatureView) -> Bench:
        self.store.update(self.config, [], [table], [], [], False)
        return replace(self, table=table)

    def write(self, *rows: tuple[str, datetime, int, float | None], fingerprint: str = "new") -> Any:
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

    def x(self, origin: str = "EWR") -> float | None:
        rows = self.store.read_rows(self.config, self.table, [key(origin=origin)], ["x"], now=NOW)
        value = rows.values["x"][0]
        return value.double_val if value.WhichOneof("val") else None


def key(**keys: str | int) -> EntityKey:
    return EntityKey(
        join_keys=list(keys), entity_values=[Value(string_val=v) if isinstance(v, str) else Value(int64_val=v) for v in keys.values()]
    )


def batch(*rows: tuple[str, datetime, int, float | None], fingerprint: str = "new") -> pa.RecordBatch:
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
