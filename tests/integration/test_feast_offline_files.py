"""Files and stores of a user's own: moved, not there, without a column, beside ours, or written by another store's class."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Array, Float64, Int64, UnixTimestamp
from feast.value_type import ValueType

from tests.integration.offline_world import STAMP, T0, Repo, config_of, row, spine_of
from transforms.errors import StoreError


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
        "no Parquet": "source 'own': its rows cannot be read: .*; correct or remove that file",
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


@pytest.mark.parametrize("kind", ["bytes", "bool", "double", "unix_timestamp"])
def test_a_stock_view_with_keys_that_no_request_can_name_is_told_and_stops_nothing(tmp_path: Path, kind: str) -> None:
    """FAULTS 13: a view with a key of bytes was answered NOT_FOUND, whatever was asked; one of bool kept the whole server from being ready.
    A list of times has its moments."""
    from feast.types import from_value_type
    from starlette.testclient import TestClient

    from serving.app import create_app
    from serving.settings import ServingSettings

    times = pa.array([[T0, T0 + timedelta(hours=1)], []], pa.list_(STAMP))
    table = pa.table({"shop": pa.array([1, 2]), "at": pa.array([T0] * 2, STAMP), "times": times})
    pq.write_table(table, tmp_path / "stock.parquet")
    text = f"project: t\nprovider: local\nregistry: {tmp_path}/registry.db\nentity_key_serialization_version: 3\n"
    online = "tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore"
    (tmp_path / "feature_store.yaml").write_text(text + f"online_store: {{type: {online}, path: {tmp_path}/online.db}}\n")
    store = FeatureStore(repo_path=str(tmp_path))
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
    odd = Entity(name="odd", join_keys=["odd"], value_type=ValueType[kind.upper()])
    source = FileSource(name="stock", path=str(tmp_path / "stock.parquet"), timestamp_field="at")
    held = Field(name="times", dtype=Array(UnixTimestamp))
    views = [
        FeatureView(
            name=f"{entity.name}s", entities=[entity], ttl=timedelta(0), source=source, schema=[Field(name=entity.name, dtype=key), held]
        )
        for entity, key in ((shop, Int64), (odd, from_value_type(odd.value_type)))
    ]
    store.apply([shop, odd, source, *views])
    store.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1), feature_views=["shops"])
    settings = ServingSettings(
        feature_repo=tmp_path, models=tmp_path / "models", graphs=tmp_path / "graphs", poll_seconds=3600.0, needs_model=False
    )
    with TestClient(create_app(settings)) as client:
        assert client.get("/v2/health/ready").status_code == 200
        asked = client.post("/get-online-features", json={"features": ["shops:times"], "entities": {"shop": [1, 2]}}).json()
        assert asked["results"][-1]["values"] == [[f"{T0 + timedelta(hours=h):%Y-%m-%dT%H:%M:%S}+00:00" for h in (0, 1)], []]
        refused = client.post("/get-online-features", json={"features": ["odds:times"], "entities": {"odd": ["x"]}})
        assert refused.status_code == 422 and f"'odds' has the key 'odd' of {kind}, by which no request can ask" in refused.json()["error"]


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
