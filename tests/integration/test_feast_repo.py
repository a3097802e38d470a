"""The stock ``feast`` command line in a repository made of definitions: apply without files, materialize, read, on both stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FileSource
from feast.types import Array, Float32, Float64, Int64, String

from pipelines.project.repository import load_module
from serving.feast_objects import feast_objects, load_outputs
from tests.redis_server import redis_server
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, LastN, hours, minutes
from transforms.errors import DefinitionError, GraphError

ROOT = Path(__file__).resolve().parents[2]
FEATURES = """
from feast import FeatureService

from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, LastN, days, hours, minutes

source = EventSource(
    name="legs", event_time="at", tie_breaker="id",
    fields=[Field("id", "string", required=True), Field("origin", "string", required=True), Field("number", "int64", required=True),
            Field("delay", "float64")],
)
route = FeatureGroup(
    name="route", source=source, entity=Entity("origin", "number"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=hours(1)), LastN("delay", over=hours(1), n=2)],
)
views = feast_views(__name__)
everything = FeatureService(name="everything", features=views.features(without=["delay_last_2_1h"]))
"""
# The same text as a repository of 0.1 has it: our modules by their old names, and the old ending.
FEATURES_OF_BEFORE = (
    FEATURES.replace("from tandem.pipelines.feature_store.views import feast_views", "from pipelines.config import load_settings")
    .replace("tandem.", "")
    .replace(
        "views = feast_views(__name__)",
        """
from pathlib import Path
from serving.feast_objects import feast_objects, load_outputs
DATA = load_settings(Path(__file__).parent).data
views = feast_objects([route], DATA, load_outputs(DATA, [route]))
globals().update(views.named())
""",
    )
)
T = datetime(2013, 5, 1, tzinfo=UTC)


def make_repo(folder: Path, online: str) -> Path:
    repo = folder / "repo"
    repo.mkdir()
    (repo / "features.py").write_text(FEATURES)
    (repo / "feature_store.yaml").write_text(
        "project: t\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
        "offline_store:\n  type: tandem.serving.offline_store.AsofOfflineStore\n" + online
    )
    (folder / "data").mkdir()
    graph = folder / "data/graphs/route"
    (graph / "abc").mkdir(parents=True)
    (graph / "CURRENT").write_text("abc\n")
    (graph / "abc/tandem.json").write_text(json.dumps({"outputs": [["count_1h_scaled", "float"]]}))
    return repo


def feast(repo: Path, *args: str) -> str:
    """A command of Feast's, as a user starts it."""
    program = str(Path(sys.executable).with_name("feast"))
    done = subprocess.run(
        [program, *args],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEAST_USAGE": "False"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_rows(folder: Path) -> None:
    path = folder / "data/offline/route/run=1/date=2013-05-01"
    path.mkdir(parents=True)
    n = 40
    stamp = pa.timestamp("us", tz="UTC")
    pq.write_table(
        pa.table(
            {
                "origin": pa.array(["EWR"] * n),
                "number": pa.array([i % 4 for i in range(n)]),
                "event_timestamp": pa.array([T + timedelta(microseconds=i) for i in range(n)], stamp),
                "count_1h": pa.array(range(n), pa.int64()),
                "delay_last_2_1h": pa.array([[0.5] * (i % 3) for i in range(n)], pa.list_(pa.float64())),
                "tandem_revision": pa.array([1] * n, pa.int64()),
                "count_1h_scaled": pa.array([i / 4 for i in range(n)], pa.float32()),
                "tandem_fingerprint": pa.array(["abc"] * n),
                "created_timestamp": pa.array([T] * n, stamp),
            }
        ),
        path / "part-0.parquet",
    )


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_feast_apply_and_materialize_work_unmodified(tmp_path: Path, kind: str) -> None:
    with redis_server() as server:
        online = {
            "sqlite": "online_store:\n  type: tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore\n  path: ../data/online.db\n",
            "redis": "online_store:\n  type: tandem.serving.online_store.redis.OrderedRedisOnlineStore\n"
            f"  connection_string: {server.connection_string}\n",
        }[kind]
        repo = make_repo(tmp_path, online)
        assert "route" in feast(repo, "apply")
        feast(repo, "materialize", "2013-04-01T00:00:00", "2013-06-01T00:00:00")
        write_rows(tmp_path)
        feast(repo, "materialize", "2013-04-01T00:00:00", "2013-06-01T00:00:00")
        refs = ["route:count_1h", "route:delay_last_2_1h", "route:count_1h_scaled", "route:tandem_fingerprint"]
        keys = [{"origin": "EWR", "number": 3}, {"origin": "EWR", "number": 9}]
        expected = {
            "origin": ["EWR", "EWR"],
            "number": [3, 9],
            "count_1h": [39, None],
            "delay_last_2_1h": [[], None],
            "count_1h_scaled": [9.75, None],
            "tandem_fingerprint": ["abc", None],
        }
        assert FeatureStore(repo_path=str(repo)).get_online_features(refs, keys).to_dict() == expected
        # Feast's own reader class over the same store and registry.
        text = (repo / "feature_store.yaml").read_text()
        for ours, stock in (
            ("tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore", "sqlite"),
            ("tandem.serving.online_store.redis.OrderedRedisOnlineStore", "redis"),
        ):
            text = text.replace(ours, stock)
        (repo / "feature_store.yaml").write_text(text)
        assert FeatureStore(repo_path=str(repo)).get_online_features(refs, keys).to_dict() == expected


def test_names_of_before_work_and_their_registry_is_read_by_the_names_of_now(tmp_path: Path) -> None:
    online = "online_store:\n  type: tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore\n  path: ../data/online.db\n"
    repo = make_repo(tmp_path, online)
    now = {p: (repo / p).read_text() for p in ("features.py", "feature_store.yaml")}
    (repo / "features.py").write_text(FEATURES_OF_BEFORE)
    (repo / "feature_store.yaml").write_text(now["feature_store.yaml"].replace("tandem.", ""))
    write_rows(tmp_path)
    said = feast(repo, "apply")
    assert said.count("is feast_views(__name__) now") == said.count("pipelines.config is pipelines.project.config now") == 1
    feast(repo, "materialize", "2013-04-01T00:00:00", "2013-06-01T00:00:00")
    key, refs = [{"origin": "EWR", "number": 3}], ["route:count_1h", "route:tandem_fingerprint"]
    before = FeatureStore(repo_path=str(repo)).get_online_features(refs, key).to_dict()
    for path, text in now.items():
        (repo / path).write_text(text)
    store = FeatureStore(repo_path=str(repo))
    assert (
        store.get_online_features(refs, key).to_dict()
        == before
        == {**key[0], "origin": ["EWR"], "number": [3], "count_1h": [39], "tandem_fingerprint": ["abc"]}
    )
    view, service = store.get_feature_view("route"), store.get_feature_service("everything")
    assert [f.name for p in service.feature_view_projections for f in p.features] == ["count_1h", "count_1h_scaled"]
    assert "feast_views" not in feast(repo, "apply")
    store.refresh_registry()
    again: Any = store.get_feature_view("route")
    served: Any = store.get_feature_service("everything")
    assert again.batch_source.path == "../data/offline/route/run=*/*/*.parquet"  # FAULTS 12: relative to the repository now
    assert view.batch_source
    old = view.batch_source.to_proto().file_options.uri
    for source in (again.batch_source, *(p.batch_source for p in served.feature_view_projections if p.batch_source)):
        source.file_options.uri = old
    assert (again, served) == (view, service)


def test_feast_views_gives_the_module_its_objects_and_says_what_is_wrong(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, "online_store: {type: sqlite}\n")
    (repo / "tandem.yaml").write_text("data: ../data\n")
    module = load_module(repo, "features")
    assert {name for name in vars(module) if name.startswith(("entity_", "source_", "view_"))} == {
        "entity_origin", "entity_number", "source_route_rows", "view_route",
    }  # fmt: skip
    assert module.view_route is module.views.views[0]
    assert "count_1h_scaled" in [f.name for f in module.view_route.features]
    for text, why in (
        (FEATURES.replace("views = feast", "view_route = 1\nviews = feast"), "'view_route' is the name of something else in the module"),
        ("from tandem.pipelines.feature_store.views import feast_views\nfeast_views(__name__)\n", "there is no FeatureGroup above"),
    ):
        (repo / "wrong.py").write_text(text)
        sys.modules.pop("wrong", None)
        with pytest.raises(DefinitionError, match=why):
            load_module(repo, "wrong")


SOURCE = EventSource(
    name="legs",
    event_time="at",
    tie_breaker="id",
    fields=[
        Field("id", "string", required=True),
        Field("origin", "string", required=True),
        Field("number", "int64", required=True),
        Field("delay", "float64"),
    ],
)
GROUP = FeatureGroup(
    name="route",
    source=SOURCE,
    entity=Entity("origin", "number"),
    hop=minutes(5),
    ttl=hours(36),
    aggregates=[Count(over=hours(1)), LastN("delay", over=hours(1), n=2)],
)


def test_objects_follow_the_definitions() -> None:
    other = FeatureGroup(
        name="airport", source=SOURCE, entity=Entity("origin"), hop=minutes(5), ttl=hours(1), aggregates=[Count(over=hours(1))]
    )
    outputs = {"route": pa.schema([("z", pa.float32()), ("w", pa.string())], metadata={"tandem_fingerprint": "abc"})}
    made = feast_objects([GROUP, other], "data", outputs)
    assert [(e.name, e.value_type.name) for e in made.entities] == [("origin", "STRING"), ("number", "INT64")]
    view = made.views[0]
    assert {f.name: f.dtype for f in view.features} == {
        "count_1h": Int64,
        "delay_last_2_1h": Array(Float64),
        "z": Float32,
        "w": String,
        "tandem_revision": Int64,
        "tandem_fingerprint": String,
    }
    assert {c.name: c.dtype for c in view.entity_columns} == {"origin": String, "number": Int64}
    assert view.ttl == hours(36)
    assert view.tags == {"definition_hash": GROUP.definition_hash(), "tandem_fingerprint": "abc"}
    assert isinstance(view.batch_source, FileSource) and view.batch_source.path == "data/offline/route/run=*/*/*.parquet"
    assert set(made.by_name()) == {
        "entity_origin",
        "entity_number",
        "source_route_rows",
        "source_airport_rows",
        "view_route",
        "view_airport",
    }
    stale = feast_objects([GROUP], "data", {"route": pa.schema([("count_1h", pa.float32()), ("z", pa.float32())])}).views[0]
    kinds = {f.name: f.dtype for f in stale.features}  # FAULTS 19: an aggregate took the name of an output of the graph before
    assert (kinds["count_1h"], kinds["z"]) == (Int64, Float32)


def test_outputs_of_the_applied_graph(tmp_path: Path) -> None:
    assert load_outputs(tmp_path, [GROUP]) == {}
    folder = tmp_path / "graphs/route/abc"
    folder.mkdir(parents=True)
    (folder.parent / "CURRENT").write_text("abc")
    with pytest.raises(GraphError, match="run the batch job again"):
        load_outputs(tmp_path, [GROUP])
    (folder / "tandem.json").write_text(
        json.dumps(
            {"outputs": [["a", "float"], ["b", "list<item: float>"], ["c", "int64", True, None], ["d", "string"], ["e", "list<double>"]]}
        )
    )
    schema = load_outputs(tmp_path, [GROUP])["route"]
    assert schema.types == [pa.float32(), pa.list_(pa.float32()), pa.int64(), pa.string(), pa.list_(pa.float64())]
    assert schema.metadata == {b"tandem_fingerprint": b"abc"}
    (folder / "tandem.json").write_text("{}")
    assert load_outputs(tmp_path, [GROUP])["route"].names == []
