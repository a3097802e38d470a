"""Feature services that use a view under other names and keys: training and server answer as Feast itself does (FAULTS 4)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from starlette.testclient import TestClient

from pipelines.demo.scaffold import scaffold
from pipelines.training.definition import Model
from pipelines.training.train_job import model_spec
from pipelines.training.training_set import SPLITS, build_training_set
from serving.app import create_app
from serving.models import ModelSpec
from serving.projections import FeatureSet, Projection
from serving.request_log import read_requests
from serving.request_rows import view_answers
from serving.settings import ServingSettings
from transforms import definitions
from transforms.errors import DataError, DefinitionError

ROOT = Path(__file__).parents[2]
T0 = datetime(2024, 5, 1, tzinfo=UTC)
NOW = T0 + timedelta(days=3)
PRINT = "f" * 64
CITIES = ["a", "b", "c", "d"]
OURS = {"online_store": "serving.online_store.sqlite.OrderedSqliteOnlineStore", "offline_store": "serving.offline_store.AsofOfflineStore"}
STOCK = {"online_store": "sqlite", "offline_store": "dask"}
OWN = [Field(name="tandem_revision", dtype=Int64), Field(name="tandem_fingerprint", dtype=String)]


def opened(folder: Path, online_store: str, offline_store: str) -> FeatureStore:
    """The repository with stores of some kind: the same registry, the same files."""
    text = f"project: trips\nprovider: local\nregistry: {folder}/registry.db\nentity_key_serialization_version: 3\n"
    text += f"online_store: {{type: {online_store}, path: {folder}/online.db}}\noffline_store: {{type: {offline_store}}}\n"
    where = folder / offline_store.rpartition(".")[2]
    where.mkdir(exist_ok=True)
    (where / "feature_store.yaml").write_text(text)
    return FeatureStore(repo_path=str(where))


def services(city: FeatureView, route: FeatureView) -> list[FeatureService]:
    """Each way in which Feast lets a service use a view."""
    counts = city[["count_24h"]]
    return [
        FeatureService(name="mapped", features=[counts.with_join_key_map({"city": "from_city"})]),
        FeatureService(name="named", features=[city[["mean_1h", "count_24h"]].with_name("place")]),
        FeatureService(
            name="both_ends",
            features=[
                counts.with_name("origin").with_join_key_map({"city": "from_city"}),
                city[["count_24h", "mean_1h"]].with_name("destination").with_join_key_map({"city": "to_city"}),
            ],
        ),
        FeatureService(name="base_half", features=[city[["mean_1h"]]]),
        FeatureService(name="to_half", features=[counts.with_name("to").with_join_key_map({"city": "to_city"})]),
        FeatureService(name="and_base", features=[city[["mean_1h"]], counts.with_name("to").with_join_key_map({"city": "to_city"})]),
        FeatureService(
            name="pairs",
            features=[
                route[["trips_1h"]].with_name("there").with_join_key_map({"city": "from_city", "shop": "seller"}),
                route[["trips_1h"]].with_name("back").with_join_key_map({"city": "to_city", "shop": "buyer"}),
                route[["trips_1h"]].with_name("half").with_join_key_map({"shop": "buyer"}),
            ],
        ),
    ]


NAMES = ["mapped", "named", "both_ends", "and_base", "pairs"]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trips")
    rng = random.Random(4)
    rows: dict[str, list[dict[str, Any]]] = {"city": [], "route": []}
    for hour in range(48):
        own = {"event_timestamp": T0 + timedelta(hours=hour), "tandem_revision": 1, "tandem_fingerprint": PRINT}
        for city in CITIES[:3]:  # nothing is known of the last one
            mean = rng.choice([None, rng.random()])
            rows["city"].append({"city": city, "count_24h": rng.randrange(100), "mean_1h": mean, **own})
            rows["route"] += [{"city": city, "shop": shop, "trips_1h": rng.randrange(100), **own} for shop in range(3)]
    for name, some in rows.items():
        table = pa.Table.from_pylist(some)
        stamp = table.column("event_timestamp").cast(pa.timestamp("us", tz="UTC"))
        pq.write_table(table.set_column(table.column_names.index("event_timestamp"), "event_timestamp", stamp), folder / f"{name}.parquet")
    place = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
    kind: dict[str, Any] = {"timestamp_field": "event_timestamp", "file_format": ParquetFormat()}
    sources = {name: FileSource(name=name, path=str(folder / f"{name}.parquet"), **kind) for name in rows}
    cities = FeatureView(
        name="city_orders",
        entities=[place],
        ttl=timedelta(days=2),
        source=sources["city"],
        schema=[Field(name="city", dtype=String), Field(name="count_24h", dtype=Int64), Field(name="mean_1h", dtype=Float64), *OWN],
    )
    routes = FeatureView(
        name="routes",
        entities=[place, shop],
        ttl=timedelta(days=2),
        source=sources["route"],
        schema=[Field(name="city", dtype=String), Field(name="shop", dtype=Int64), Field(name="trips_1h", dtype=Int64), *OWN],
    )
    store = opened(folder, **OURS)
    store.apply([place, shop, cities, routes, *services(cities, routes)])
    store.materialize(T0 - timedelta(days=1), NOW)
    return folder


def spine() -> pa.Table:
    rng = random.Random(5)
    n = 120
    return pa.table(
        {
            "event_timestamp": pa.array([T0 + timedelta(minutes=30 * i) for i in range(n)], pa.timestamp("us", tz="UTC")),
            **{key: [rng.choice(CITIES) for _ in range(n)] for key in ("city", "from_city", "to_city")},
            **{key: pa.array([rng.randrange(4) for _ in range(n)], pa.int64()) for key in ("buyer", "seller")},
            "label": [i % 2 for i in range(n)],
            "number": pa.array(range(n), pa.int64()),
        }
    )


def model(features: Any, **changes: Any) -> Model:
    values: dict[str, Any] = {
        "name": "late",
        "spine": "labels:spine",
        "label": "label",
        "entity_keys": ["city", "from_city", "to_city", "buyer", "seller"],
        "request_fields": [definitions.Field("number", "int64", required=True)],
        "features": features,
        **changes,
    }
    return Model(**values)


def alone(stock: FeatureStore, name: str) -> list[Any]:
    """The service as Feast can be asked for it: one with a view under its own and under another name, Feast 0.48 fails to compare with
    itself (``TypeError: '<' not supported between instances of 'str' and 'NoneType'``), so services with its halves are asked."""
    return [stock.get_feature_service(one) for one in (("base_half", "to_half") if name == "and_base" else (name,))]


@pytest.mark.parametrize("name", NAMES)
def test_the_training_set_is_what_feast_joins(repo: Path, tmp_path: Path, name: str) -> None:
    """FAULTS 4: the join is on the columns that the service names, for each of its projections."""
    built = build_training_set(model(name), spine(), opened(repo, **OURS), tmp_path, NOW)
    stock = opened(repo, **STOCK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = spine().drop(["label"]).to_pandas()
        parts = [stock.get_historical_features(frame, s, full_feature_names=True).to_df() for s in alone(stock, name)]
    theirs = pd.concat([part.set_index("number").sort_index() for part in parts], axis=1)
    ours = pd.concat([built.read(split).to_pandas() for split in SPLITS]).set_index("number").sort_index()
    wanted = [f"{c.view}__{c.feature}" for c in built.columns if not c.is_request]
    assert wanted and set(wanted) == {c for c in theirs.columns if "__" in c}
    for column in wanted:
        pd.testing.assert_series_equal(ours[column].astype(float), theirs[column].astype(float), check_index_type=False)
    assert any(ours[c].notna().any() for c in wanted)
    view = "routes" if name == "pairs" else "city_orders"
    assert built.fingerprints == {view: PRINT}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("full", [True, False])
def test_the_server_answers_as_feast(repo: Path, name: str, full: bool) -> None:
    """FAULTS 4: POST /get-online-features with such a service is no 404, and its values, names and keys are Feast's."""
    stock = opened(repo, **STOCK)
    keys = {"mapped": ["from_city"], "named": ["city"], "both_ends": ["from_city", "to_city"], "and_base": ["city", "to_city"]}
    # The view's own key first: of two columns that are the same key to some projection, Feast's server takes the later one.
    asked = {key: [key_of(key, i) for i in range(8)] for key in keys.get(name, ["city", "from_city", "to_city", "buyer", "seller"])}
    rows = [dict(zip(asked, values, strict=True)) for values in zip(*asked.values(), strict=True)]
    refused = not full and name in ("both_ends", "pairs")  # features of one name: Feast refuses as well
    with TestClient(create_app(server_settings(repo))) as client:
        got = client.post("/get-online-features", json={"feature_service": name, "entities": asked, "full_feature_names": full})
    if refused:
        with pytest.raises(Exception, match=r"[Cc]onflict|collision|full_feature_names"):
            stock.get_online_features(features=stock.get_feature_service(name), entity_rows=rows)
        assert got.status_code == 422 and "full_feature_names" in got.json()["error"]
        return
    theirs: dict[str, Any] = {}
    for service in alone(stock, name):
        theirs |= stock.get_online_features(features=service, entity_rows=rows, full_feature_names=full).to_dict()
    assert got.status_code == 200, got.text
    body = got.json()
    ours = {n: r["values"] for n, r in zip(body["metadata"]["feature_names"], body["results"], strict=True)}
    assert ours == theirs


def server_settings(repo: Path, **changes: Any) -> ServingSettings:
    folders = {"feature_repo": repo / "AsofOfflineStore", "models": repo / "models", "graphs": repo / "graphs"}
    return ServingSettings(**{**folders, "as_of": NOW, "poll_seconds": 3600.0, **changes})


def key_of(column: str, i: int) -> Any:
    return i % 4 if column in ("buyer", "seller") else CITIES[(i * 7 + len(column)) % 4]


def test_a_model_and_its_log_keep_what_the_names_mean(repo: Path, tmp_path: Path) -> None:
    """FAULTS 4: the exported specification and the request log say what a name stands for, so that monitor, verify and trace compare the
    right rows though the service may have changed."""
    built = build_training_set(model("both_ends"), spine(), opened(repo, **OURS), tmp_path, NOW)
    raw = {**model_spec(model("both_ends"), built, "r"), "version": 1}
    spec = ModelSpec.parse(json.dumps(raw).encode(), "here")
    assert spec.read == FeatureSet(
        (("origin", "count_24h"), ("destination", "count_24h"), ("destination", "mean_1h")),
        {
            "origin": Projection("city_orders", {"city": "from_city"}),
            "destination": Projection("city_orders", {"city": "to_city"}),
        },
    )
    assert spec.fingerprint("origin") == spec.fingerprint("destination") == PRINT
    settings = server_settings(repo, request_log=tmp_path / "log", request_log_seconds=0.1)
    body = {"feature_service": "both_ends", "entities": {"from_city": ["a", "d"], "to_city": ["b", "a"]}, "full_feature_names": True}
    with TestClient(create_app(settings)) as client:
        answer = client.post("/get-online-features", json=body).json()
    log = read_requests(tmp_path / "log")
    answers = view_answers(log, "city_orders", ("city",))
    assert answers is not None and answers.column("city").to_pylist() == ["a", "d", "b", "a"]
    values = {n: r["values"] for n, r in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)}
    assert answers.column("city_orders__count_24h").to_pylist() == [*values["origin__count_24h"], *values["destination__count_24h"]]
    assert answers.column("city_orders__mean_1h").to_pylist() == [None, None, *values["destination__mean_1h"]]
    assert answers.column("city_orders__mean_1h__status").to_pylist()[:2] == [None, None]
    assert view_answers(log, "routes", ("city", "shop")) is None


def test_what_cannot_be_told_apart_or_found_is_one_line(repo: Path, tmp_path: Path) -> None:
    """FAULTS 4 and 11: two uses of one name, a key that the model does not have, a feature that is not there."""
    store = opened(repo, **OURS)
    city = store.get_feature_view("city_orders")
    twice = FeatureService(name="twice", features=[city[["mean_1h"]], city[["count_24h"]].with_join_key_map({"city": "to_city"})])
    with pytest.raises(DefinitionError, match="two of its views are called 'city_orders'"):
        FeatureSet.of_service(twice)
    both = store.get_feature_view("routes").with_join_key_map({"city": "place", "shop": "place"})
    with pytest.raises(DefinitionError, match="'one': two keys of 'routes' are mapped to one column"):
        FeatureSet.of_service(FeatureService(name="one", features=[both]))
    with pytest.raises(DataError, match="'origin' are found by 'from_city', which is none of its entity_keys"):
        build_training_set(model("both_ends", entity_keys=["city"]), spine(), store, tmp_path, NOW)
    with pytest.raises(DataError, match="has no feature 'typo'; it has count_24h, mean_1h"):
        build_training_set(model(["city_orders:typo"]), spine(), store, tmp_path, NOW)
    with pytest.raises(DataError, match="feature view 'nothing' is not in the registry; it has city_orders, routes"):
        build_training_set(model(["nothing:typo"]), spine(), store, tmp_path, NOW)


@pytest.mark.parametrize(("needs", "status"), [(False, 200), (True, 503)])
def test_a_project_without_models_is_ready(repo: Path, needs: bool, status: int) -> None:
    """FAULTS 22: ``models`` may be left out of tandem.yaml; who has some is not ready before one is pushed."""
    with TestClient(create_app(server_settings(repo, needs_model=needs))) as client:
        assert client.get("/v2/health/ready").status_code == status
        assert client.post(
            "/get-online-features", json={"features": ["routes:trips_1h"], "entities": {"city": ["a"], "shop": [1]}}
        ).is_success


def test_monitor_and_watch_say_what_they_can_do_without_models(tmp_path: Path) -> None:
    """FAULTS 22: they were refused."""
    shop = tmp_path / "shop"
    scaffold(shop)
    text = (shop / "tandem.yaml").read_text()
    (shop / "tandem.yaml").write_text("".join(line for line in text.splitlines(True) if not line.startswith("models:")))
    for words, said in (
        (["monitor"], "tandem.yaml lists no models, so there are no predictions to monitor"),
        (["watch", "--dry-run"], "would watch jobs only: tandem.yaml lists no models"),
        (["watch", "--once"], "watching jobs only: tandem.yaml lists no models"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words, "--repo", str(shop)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and said in done.stderr, done.stderr


def test_on_demand_views_are_refused_in_words(repo: Path, tmp_path: Path) -> None:
    """FAULTS 30: 404 "unknown feature view" said nothing; neither server nor training runs a view's Python code."""
    from feast.on_demand_feature_view import on_demand_feature_view

    store = opened(repo, **OURS)

    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["count_24h"] * 2})

    fields = [Field(name="twice", dtype=Int64)]
    view: Any = on_demand_feature_view(sources=[store.get_feature_view("city_orders")], schema=fields, mode="pandas")(doubled)
    store.apply([view])
    with TestClient(create_app(server_settings(repo))) as client:
        got = client.post("/get-online-features", json={"features": ["doubled:twice"], "entities": {"city": ["a"]}})
    assert got.status_code == 422
    assert "feature view 'doubled' is an on-demand view" in got.json()["error"] and "preprocessing_fn" in got.json()["error"]
    with pytest.raises(DataError, match="on-demand view 'doubled': a model is not trained on what is computed on demand"):
        build_training_set(model(["doubled:twice"]), spine(), store, tmp_path, NOW)


def test_one_column_for_keys_of_two_types_is_one_line() -> None:
    """FAULTS 4: two views mapped onto a column, one with text and one with numbers as keys: an internal error before."""
    from feast.value_type import ValueType

    from serving.catalog import Catalog, View
    from serving.request_errors import InvalidRequestError

    kinds = {"cities": ("city", ValueType.STRING), "shops": ("shop", ValueType.INT64)}
    views = {name: View(name, None, {key: kind}, (key,), {"n": None}, 0) for name, (key, kind) in kinds.items()}  # type: ignore[arg-type]
    catalog = Catalog(views, {})
    pairs = (("cities", "n"), ("shops", "n"))
    mapped = FeatureSet(pairs, {"cities": Projection("cities", {"city": "x"}), "shops": Projection("shops", {"shop": "x"})})
    with pytest.raises(InvalidRequestError, match="take 'x' as a key of string and of int64; map their keys to columns of their own"):
        catalog.key_fields(mapped)
    assert [f.name for f in catalog.key_fields(FeatureSet(pairs, {}))] == ["city", "shop"]
