"""The point-in-time join against a brute-force one, and what Feast's stores get wrong: order, duplicates, TTLs, types, leaks."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from transforms.errors import DataError, StoreError

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


def brute_force(spine: pa.Table, rows: list[dict[str, Any]], ttl: timedelta) -> list[dict[str, Any]]:
    out = []
    for s in spine.to_pylist():
        best = None
        for r in rows:
            if (r["origin"], r["number"]) == (s["origin"], s["number"]) and s["event_timestamp"] - ttl <= r["event_timestamp"] <= s[
                "event_timestamp"
            ]:
                order = (r["event_timestamp"], r["created_timestamp"])
                if best is None or order > (best["event_timestamp"], best["created_timestamp"]):
                    best = r
        out.append({**s, **{f: best[f] if best else None for f in FEATURES}})
    return out


@pytest.mark.parametrize("ttl", [TTL, timedelta(minutes=7, microseconds=3), timedelta(days=3)])
def test_equals_a_brute_force_join_on_random_data(tmp_path: Path, ttl: timedelta) -> None:
    rng = random.Random(7)
    repo = Repo(tmp_path, ttl=ttl)
    rows = [
        row(
            rng.choice("ABC"),
            rng.randrange(4),
            T0 + timedelta(minutes=rng.randrange(6000)) + rng.randrange(2) * US,
            rng.choice([None, rng.randrange(99)]),
            created=T0 + i * US,
        )
        for i in range(600)
    ]
    repo.write(rows)
    spine = spine_of(
        *((rng.choice(["A", "B", "C", "X", None]), rng.randrange(5), T0 + timedelta(minutes=rng.randrange(7000))) for _ in range(500))
    )
    spine = pa.concat_tables([spine, spine.slice(0, 50)])
    got = repo.join(spine)
    assert got.to_pylist() == brute_force(spine, rows, ttl)
    assert sum(v is not None for v in got["f32"].to_pylist()) >= 5
    for name, kind in {
        "f32": pa.float32(),
        "n": pa.int64(),
        "s": pa.string(),
        "b": pa.bool_(),
        "at": STAMP,
        "l": pa.list_(pa.float64()),
        "ls": pa.list_(pa.string()),
        "label": pa.int32(),
        "event_timestamp": STAMP,
    }.items():
        assert got.schema.field(name).type == kind


def test_a_planted_future_value_does_not_leak(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1), row("A", 1, T0 + timedelta(hours=1, microseconds=1), 666)])
    got = repo.join(spine_of(("A", 1, T0 + timedelta(hours=1)), ("A", 1, T0 + timedelta(hours=1, microseconds=1)), ("A", 1, T0 - US)))
    assert got["n"].to_pylist() == [1, 666, None]


def test_ttl_of_mixed_units_holds_to_the_microsecond(tmp_path: Path) -> None:
    repo = Repo(tmp_path, ttl=TTL)
    repo.write([row("A", 1, T0, 1)])
    assert repo.join(spine_of(("A", 1, T0 + TTL), ("A", 1, T0 + TTL + US)))["n"].to_pylist() == [1, None]


def test_the_newest_created_counts_and_runs_may_differ_in_columns(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1, created=T0)], run="1", files=1)
    repo.write([row("A", 1, T0, 2, created=T0 + timedelta(days=1))], run="2", files=1)
    path = tmp_path / "data/offline/legs/run=3/date=2013-05-01"
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row("B", 1, T0, 3)], schema=SCHEMA).drop(["s", "l"]), path / "part-0.parquet")
    got = repo.join(spine_of(("A", 1, T0), ("B", 1, T0)))
    assert got["n"].to_pylist() == [2, 3]
    assert got["s"].to_pylist() == ["s2", None]


def test_rows_of_another_graph_are_not_mixed_in(tmp_path: Path) -> None:
    repo = Repo(tmp_path, tags={"tandem_fingerprint": "new"})
    repo.write([row("A", 1, T0, 1, fingerprint="new"), row("A", 1, T0 + US, 2, fingerprint="old")])
    assert repo.join(spine_of(("A", 1, T0 + US)))["n"].to_pylist() == [1]
    latest = (
        repo.store._get_provider()
        .offline_store.pull_latest_from_table_or_query(
            repo.store.config, repo.view.batch_source, ["origin", "number"], ["n"], "event_timestamp", "created_timestamp", T0, T0 + TTL
        )
        .to_arrow()
    )
    assert latest["n"].to_pylist() == [1]


def test_a_view_without_rows_gives_nulls_of_the_right_type(tmp_path: Path) -> None:
    got = Repo(tmp_path, tags={"definition_hash": "of a group"}).join(spine_of(("A", 1, T0)))
    assert got.num_rows == 1
    assert got["f32"].to_pylist() == [None]
    assert got.schema.field("l").type == pa.list_(pa.float64())


def test_pandas_sql_full_names_services_and_an_alias(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1)])
    frame = pd.DataFrame(
        {"origin": ["A", "B"], "number": [1, 1], "event_timestamp": pd.to_datetime(["2013-05-01", "2013-05-01"]), "word": ["x", "y"]}
    )
    got = repo.store.get_historical_features(entity_df=frame, features=repo.service, full_feature_names=True)
    table = got.to_arrow()
    assert table["legs__n"].to_pylist() == [1, None]
    assert table["word"].to_pylist() == ["x", "y"]
    assert "legs__tandem_fingerprint" in table.column_names
    assert list(got.to_df()["legs__s"]) == ["s1", None]
    query = (
        "SELECT 'A' AS origin, 1 AS number, TIMESTAMPTZ '2013-05-01 02:00:00+02' - INTERVAL (i) DAY AS event_timestamp FROM range(2) t(i)"
    )
    assert repo.join(query)["n"].to_pylist() == [1, None]
    strings = frame.assign(event_timestamp=["2013-05-01T00:00:00Z", "2013-04-30T23:59:59.999999Z"], origin="A")
    assert repo.store._get_provider().get_historical_features(
        repo.store.config, [repo.view], ["legs:n"], strings, repo.store.registry, "t", False
    ).to_arrow()["n"].to_pylist() == [1, None]
    alias = repo.view.with_name("inbound").with_join_key_map({"origin": "dest"})
    service = FeatureService(name="aliased", features=[alias[["n"]], repo.view.with_name("outbound")[["n"]]])
    repo.store.apply([service])
    both = repo.store.get_historical_features(
        entity_df=pa.table({"dest": ["A"], "origin": ["Q"], "number": [1], "event_timestamp": pa.array([T0], STAMP)}),
        features=service,
        full_feature_names=True,
    ).to_arrow()
    assert (both["inbound__n"].to_pylist(), both["outbound__n"].to_pylist()) == ([1], [None])


def test_mistakes_are_one_clear_error(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1)])
    with pytest.raises(DataError, match="the spine has no column 'number'"):
        repo.join(spine_of(("A", 1, T0)).drop(["number"]))
    with pytest.raises(DataError, match="needs a column 'event_timestamp'"):
        repo.join(spine_of(("A", 1, T0)).drop(["event_timestamp"]))
    with pytest.raises(DataError, match="the spine cannot be read"):
        repo.join("SELECT nonsense FROM nowhere")
    with pytest.raises(StoreError, match="check the types of the spine's keys"):
        repo.join(spine_of(("A", 1, T0)).set_column(1, "number", pa.array(["one"])))
    with pytest.raises(DataError, match="two columns would be called 'n'"):
        repo.join(spine_of(("A", 1, T0)).append_column("n", pa.array([1])))


def test_the_latest_row_is_the_greatest_by_time_and_of_equals_the_one_created_last(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write(
        [
            row("A", 1, T0, 1, revision=9),
            row("A", 1, T0 + US, 2, revision=3, created=T0),
            row("A", 1, T0 + US, 3, revision=2, created=T0 + 9 * US),
            row("A", 2, T0, 4, created=T0),
            row("A", 2, T0, 5, created=T0 + US),
            row("A", 2, T0 + 2 * US, 6),
            row("B", 1, T0 - US, 7),
        ]
    )
    offline, source = repo.store._get_provider().offline_store, repo.view.batch_source
    latest = offline.pull_latest_from_table_or_query(
        repo.store.config, source, ["origin", "number"], ["n", "l"], "event_timestamp", "created_timestamp", T0, T0 + US
    ).to_arrow()
    assert sorted(zip(*(latest[c].to_pylist() for c in ("origin", "number", "n")))) == [("A", 1, 3), ("A", 2, 5)]
    assert len(latest.to_batches()) == 1
    assert latest.schema.field("l").type == pa.list_(pa.float64())
    everything = offline.pull_all_from_table_or_query(
        repo.store.config, source, ["origin", "number"], ["n"], "event_timestamp", start_date=T0, end_date=T0 + US
    ).to_arrow()
    assert sorted(everything["n"].to_pylist()) == [1, 2, 3, 4, 5]


def test_materialize_keeps_every_row_and_every_bit(tmp_path: Path) -> None:
    repo = Repo(tmp_path, ttl=timedelta(days=36_500))
    rows = [row("A", i, T0 + i * US, None if i % 3 == 1 else 2**60 + i) for i in range(120)]
    for r in rows:
        r["l"], r["ls"] = [0.1] * (r["number"] % 3), None
    repo.write(rows)
    repo.store.materialize(T0 - TTL, T0 + TTL)
    view = repo.store.get_feature_view("legs")
    from tandem.testing.online_store import key

    got = repo.store._get_provider().online_store.read_rows(repo.store.config, view, [key(origin="A", number=i) for i in range(120)])
    assert [v.int64_val if v.WhichOneof("val") else None for v in got.values["n"]] == [r["n"] for r in rows]
    assert [v.WhichOneof("val") for v in got.values["at"]] == ["unix_timestamp_val"] * 120
    assert [list(v.double_list_val.val) for v in got.values["l"]] == [r["l"] for r in rows]
    assert got.statuses["ls"] == ["NULL"] * 120
    assert got.event_us == [int(T0.timestamp()) * 1_000_000 + i for i in range(120)]
    answer = repo.store.get_online_features(["legs:n", "legs:s"], [{"origin": "A", "number": 3}, {"origin": "Z", "number": 0}]).to_dict()
    assert answer["n"] == [2**60 + 3, None]


def test_time_of_a_large_join_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo, rng, n = Repo(tmp_path), np.random.default_rng(1), 100_000
    micros = rng.integers(0, 30 * 86_400, n) * 1_000_000 + int(T0.timestamp()) * 1_000_000
    path = tmp_path / "data/offline/legs/run=1/date=2013-05-01"
    path.mkdir(parents=True)
    times = pa.array(micros).cast(pa.timestamp("us")).cast(pa.int64()).cast(STAMP)
    columns = {f.name: pa.nulls(n, f.type) for f in SCHEMA} | {
        "origin": pa.array(rng.choice(["A", "B"], n)),
        "number": pa.array(rng.integers(0, 500, n)),
        "event_timestamp": times,
        "n": pa.array(micros),
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path / "part-0.parquet")
    m = 50_000
    spine = pa.table(
        {"origin": pa.array(rng.choice(["A", "B"], m)), "number": pa.array(rng.integers(0, 500, m)), "event_timestamp": times.slice(0, m)}
    )
    start = time.perf_counter()
    got = repo.join(spine)
    with capsys.disabled():
        print(f"\npoint-in-time join of {m:,} x {n:,} rows: {time.perf_counter() - start:.2f} s")
    assert got.num_rows == m


def test_a_registry_is_moved_with_its_folder(tmp_path: Path) -> None:
    """FAULTS 12: a path in the registry that was given relative to the repository stays so."""
    from pipelines.demo.scaffold import scaffold
    from pipelines.feature_store.materialize import materialize
    from pipelines.feature_store.store import apply
    from pipelines.project.repository import load_repo

    scaffold(tmp_path / "a")
    apply(load_repo(tmp_path / "a"), {})
    (tmp_path / "a").rename(tmp_path / "b")
    repo = load_repo(tmp_path / "b")
    group = repo.groups["card_reports"]
    rows = {"card_id": [1, 2, 2], "event_timestamp": [T0, T0, T0 + timedelta(hours=1)], "created_timestamp": [T0] * 3}
    values = {f.name: pa.array([3] * 3).cast(f.type) for f in group.row_schema if f.name not in (*rows, "tandem_revision")}
    path = repo.data / "offline" / "card_reports" / "run=1" / "date=2013-05-01"
    path.mkdir(parents=True)
    table = pa.table({**rows, **values, "tandem_revision": [1, 1, 1], "tandem_fingerprint": ["f"] * 3})
    schema = pa.schema([f.with_type(STAMP) if f.name.endswith("timestamp") else f for f in table.schema])
    pq.write_table(table.cast(schema), path / "part-0.parquet")
    assert {m.view: m.rows for m in materialize(repo, T0 - timedelta(days=1), T0 + timedelta(days=1))} == {
        "card_activity": 0, "terminal_activity": 0, "card_reports": 2,
    }  # fmt: skip


def test_a_path_of_a_users_own_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """FAULTS 12: stock Feast raises over a FileSource with a wrong path; nulls would pass for values."""
    repo = Repo(tmp_path)
    with pytest.raises(StoreError, match=r"source 'rows': there is no Parquet file at .*run=.*; correct its path"):
        repo.join(spine_of(("JFK", 1, T0)), ["legs:n"])
    with pytest.raises(StoreError, match="there is no Parquet file"):
        repo.store.materialize(T0, T0 + timedelta(days=1))


@pytest.mark.parametrize(("odd", "beside"), [("data[1]", "data1"), ("data*", "data5"), ("d?ta", "dxta")])
def test_a_folder_whose_name_is_a_pattern_is_read_as_it_stands(tmp_path: Path, odd: str, beside: str) -> None:
    """SECURITY low (patterns in paths): DuckDB read the files of data1 for those of data[1]."""
    for name, value in ((beside, 1), (odd, 2)):
        (tmp_path / name).mkdir()
        Repo(tmp_path / name, ttl=timedelta(0)).write([row("JFK", 1, T0, value)], files=1)
    for name, value in ((odd, 2), (beside, 1)):
        repo = Repo(tmp_path / name, ttl=timedelta(0))
        assert repo.join(spine_of(("JFK", 1, T0)), ["legs:n"]).column("n").to_pylist() == [value]
        repo.store.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))
        online = repo.store.get_online_features(["legs:s"], [{"origin": "JFK", "number": 1}]).to_dict()
        assert online["s"] == [f"s{value}"]


@pytest.mark.parametrize("wrong", ["time", "key", "feature", "type", "no Parquet", "file://"])
def test_a_column_of_a_users_own_file_that_is_not_there_is_an_error(tmp_path: Path, wrong: str) -> None:
    """FAULTS 12: a view that names a column which no file has gave nulls, in joins and online; damage was an error of the database's."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    path = tmp_path / "stock.parquet"
    pq.write_table(pa.table({"shop": pa.array([1, 2]), "at": pa.array([T0] * 2, STAMP), "rate": [1.5, 2.5]}), path)
    text = f"project: t\nprovider: local\nregistry: {tmp_path}/registry.db\nentity_key_serialization_version: 3\n"
    text += "offline_store: {type: tandem.serving.offline_store.AsofOfflineStore}\nonline_store: {type: sqlite, path: online.db}\n"
    (tmp_path / "feature_store.yaml").write_text(text)
    store = FeatureStore(repo_path=str(tmp_path))
    key, rate = "shoop" if wrong == "key" else "shop", "ratte" if wrong == "feature" else "rate"
    entity = Entity(name=key, join_keys=[key], value_type=ValueType.INT64)
    source = FileSource(
        name="own", path=f"file://{path}" if wrong == "file://" else str(path), timestamp_field="when" if wrong == "time" else "at"
    )
    fields = [Field(name=key, dtype=Int64), Field(name=rate, dtype=Int64 if wrong == "type" else Float64)]
    store.apply([entity, FeatureView(name="rates", entities=[entity], ttl=timedelta(days=1), schema=fields, source=source)])
    if wrong == "no Parquet":
        path.write_text("shop,at,rate")
    spine = pd.DataFrame({key: [1], "event_timestamp": [T0]})
    if wrong == "file://":
        assert store.get_historical_features(spine, [f"rates:{rate}"]).to_df()[rate].tolist() == [1.5]
        return
    words = {
        "time": r"source 'own': no file at .* has a column 'when'; it has at, rate, shop: correct the view",
        "key": "has a column 'shoop'",
        "feature": "has a column 'ratte'",
        "type": "feature 'rates:rate' is declared int64 and its files hold double: .*truncated.*; correct the view",  # FAULTS 11
        "no Parquet": "source 'own': its rows cannot be read: .*; mend or remove that file",
    }[wrong]
    with pytest.raises(StoreError, match=words) as error:
        store.get_historical_features(spine, [f"rates:{rate}"]).to_df()
    assert "\n" not in str(error.value)
    if wrong == "type":
        return  # Feast's own code makes the values of a materialization
    with pytest.raises(StoreError, match=words):
        store.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))


def test_stock_views_beside_ours_answer_as_stock_stores_do(tmp_path: Path) -> None:
    """FAULTS 13: a Bytes feature, a view without our columns, one without an entity: offline, online and over HTTP."""
    import base64

    from feast.types import Bytes
    from starlette.testclient import TestClient

    from serving.app import create_app
    from serving.settings import ServingSettings

    table = pa.table(
        {
            "shop": pa.array([1, 2], pa.int64()),
            "at": pa.array([T0, T0 + timedelta(hours=1)], STAMP),
            "picture": pa.array([b"\x00\xff", None], pa.binary()),
            "pictures": pa.array([[b"a"], [b"b", b"\xff"]], pa.list_(pa.binary())),
            "rate": pa.array([1.5, 2.5], pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "stock.parquet")
    text = f"project: t\nprovider: local\nregistry: {tmp_path}/registry.db\nentity_key_serialization_version: 3\n"
    ordered = "serving.online_store.sqlite.OrderedSqliteOnlineStore"
    stores = {"ours": (ordered, "serving.offline_store.AsofOfflineStore"), "stock": ("sqlite", "dask")}
    opened = {}
    for name, (online, offline) in stores.items():
        (tmp_path / name).mkdir()
        config = f"online_store: {{type: {online}, path: {tmp_path}/{name}.db}}\noffline_store: {{type: {offline}}}\n"
        (tmp_path / name / "feature_store.yaml").write_text(text + config)
        opened[name] = FeatureStore(repo_path=str(tmp_path / name))
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
    source = FileSource(name="stock", path=str(tmp_path / "stock.parquet"), timestamp_field="at")
    fields = [Field(name="picture", dtype=Bytes), Field(name="pictures", dtype=Array(Bytes)), Field(name="rate", dtype=Float64)]
    view = FeatureView(name="shops", entities=[shop], ttl=timedelta(0), source=source, schema=[Field(name="shop", dtype=Int64), *fields])
    world = FeatureView(name="world", entities=[], ttl=timedelta(0), source=source, schema=[fields[2]])
    names = ["shops:picture", "shops:pictures", "shops:rate"]
    spine = pd.DataFrame({"shop": [2, 1], "event_timestamp": [T0 + timedelta(hours=2)] * 2})
    for name in stores:
        opened[name].apply([shop, source, view, world])
        opened[name].materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))
    ours, stock = (
        opened[n].get_historical_features(spine, names).to_df().sort_values("shop").reset_index(drop=True) for n in ("ours", "stock")
    )
    assert [list(v) for v in ours["pictures"]] == [list(v) for v in stock["pictures"]] == [[b"a"], [b"b", b"\xff"]]
    assert ours["picture"].tolist() == stock["picture"].tolist() == [b"\x00\xff", None]
    rows = [{"shop": 1}, {"shop": 2}, {"shop": 3}]
    theirs = opened["stock"].get_online_features(names, rows).to_dict()
    assert opened["ours"].get_online_features(names, rows).to_dict() == theirs
    everywhere = opened["stock"].get_online_features(["world:rate"], rows).to_dict()["rate"]
    settings = ServingSettings(feature_repo=tmp_path / "ours", models=tmp_path / "models", graphs=tmp_path / "graphs", poll_seconds=3600.0)
    with TestClient(create_app(settings)) as client:
        got = client.post("/get-online-features", json={"features": names, "entities": {"shop": [1, 2, 3]}}).json()
        values = dict(zip(got["metadata"]["feature_names"], (r["values"] for r in got["results"]), strict=True))
        assert values["picture"] == [base64.b64encode(b"\x00\xff").decode(), None, None]
        assert values["pictures"][1] == [base64.b64encode(b"b").decode(), base64.b64encode(b"\xff").decode()]
        assert values["rate"] == theirs["rate"]
        body = {"features": ["world:rate", "shops:picture"], "entities": {"shop": [1, 2, 3]}}
        both = client.post("/get-online-features", json=body).json()
        assert both["results"][both["metadata"]["feature_names"].index("rate")]["values"] == everywhere


@pytest.mark.parametrize("applied", [True, False])
def test_rows_of_another_store_class_are_not_none_without_a_word(tmp_path: Path, applied: bool) -> None:
    """FAULTS 30: a SQLite file that stock Feast wrote, read by the ordered class, before and after an apply: it says what to do."""
    repo = Repo(tmp_path, online="sqlite")
    repo.write([row("JFK", 1, T0, 5)])
    repo.store.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))
    store = FeatureStore(config=config_of(tmp_path))
    if applied:
        store.apply([repo.view])
    asked: dict[str, Any] = {"features": ["legs:n"], "entity_rows": [{"origin": "JFK", "number": 1}]}
    for _ in range(2):
        with pytest.raises(StoreError, match="view 'legs': its rows were written by another online store class") as error:
            store.get_online_features(**asked)
        assert "; materialize the view again" in str(error.value)
    store.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))
    store.config.online_store.as_of = T0
    assert store.get_online_features(**asked).to_dict()["n"] == [5]
    asked["entity_rows"] = [{"origin": "nowhere", "number": 1}]
    assert store.get_online_features(**asked).to_dict()["n"] == [None]
