"""A Feast repository with one view over runs of Parquet, and rows for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

T0 = datetime(2013, 5, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
STAMP = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        ("number", pa.int64()),
        ("event_timestamp", STAMP),
        ("f32", pa.float32()),
        ("n", pa.int64()),
        ("s", pa.string()),
        ("b", pa.bool_()),
        ("at", STAMP),
        ("l", pa.list_(pa.float64())),
        ("ls", pa.list_(pa.string())),
        ("tandem_revision", pa.int64()),
        ("tandem_fingerprint", pa.string()),
        ("created_timestamp", STAMP),
    ]
)
FEATURES: dict[str, Any] = {
    "f32": Float32,
    "n": Int64,
    "s": String,
    "b": Bool,
    "at": UnixTimestamp,
    "l": Array(Float64),
    "ls": Array(String),
}
TTL = timedelta(hours=36)


ORDERED = "serving.online_store.sqlite.OrderedSqliteOnlineStore"


def config_of(folder: Path, online: str = ORDERED) -> RepoConfig:
    return RepoConfig(
        project="t",
        registry=str(folder / "registry.db"),
        provider="local",
        repo_path=folder,
        entity_key_serialization_version=3,
        online_store={"type": online, "path": str(folder / "online.db")},
        offline_store={"type": "serving.offline_store.AsofOfflineStore", "memory_limit": "500MB"},
    )


class Repo:
    """A Feast repository with one view ``legs`` by (origin, number) over runs of Parquet."""

    def __init__(self, folder: Path, ttl: timedelta = TTL, tags: dict[str, str] | None = None, online: str = ORDERED) -> None:
        self.folder = folder
        self.store: Any = FeatureStore(config=config_of(folder, online))
        origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
        number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
        source = FileSource(
            name="rows",
            path="data/offline/legs/run=*/*/*.parquet",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            file_format=ParquetFormat(),
            tags=tags or {},
        )
        self.view = FeatureView(
            name="legs",
            entities=[origin, number],
            ttl=ttl,
            source=source,
            schema=[
                Field(name="origin", dtype=String),
                Field(name="number", dtype=Int64),
                *(Field(name=n, dtype=t) for n, t in FEATURES.items()),
                Field(name="tandem_revision", dtype=Int64),
                Field(name="tandem_fingerprint", dtype=String),
            ],
        )
        self.service = FeatureService(name="all", features=[self.view])
        self.store.apply([origin, number, source, self.view, self.service])

    def write(self, rows: list[dict[str, Any]], run: str = "1", files: int = 3) -> None:
        for i in range(files):
            path = self.folder / f"data/offline/legs/run={run}/date=2013-05-0{i + 1}"
            path.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows[i::files], schema=SCHEMA), path / "part-0.parquet")

    def join(self, spine: Any, features: list[str] | None = None, **more: Any) -> pa.Table:
        return self.store.get_historical_features(entity_df=spine, features=features or [f"legs:{f}" for f in FEATURES], **more).to_arrow()


def row(
    origin: str, number: int, at: datetime, n: int | None, created: datetime = T0, revision: int = 1, fingerprint: str = "f"
) -> dict[str, Any]:
    return {
        "origin": origin,
        "number": number,
        "event_timestamp": at,
        "f32": None if n is None else n / 8,
        "n": n,
        "s": None if n is None else f"s{n}",
        "b": None if n is None else n % 2 == 0,
        "at": at,
        "l": None if n is None else [0.5] * (n % 3),
        "ls": None if n is None else [str(n)] * (n % 2),
        "tandem_revision": revision,
        "tandem_fingerprint": fingerprint,
        "created_timestamp": created,
    }


def spine_of(*rows: tuple[str | None, int, datetime]) -> pa.Table:
    origins, numbers, times = zip(*rows)
    return pa.table(
        {
            "event_timestamp": pa.array(times, STAMP),
            "number": pa.array(numbers, pa.int64()),
            "label": pa.array(range(len(rows)), pa.int32()),
            "origin": pa.array(origins, pa.string()),
        }
    )
