"""A small but real world to serve: a Feast repository with rows in an online store, and SavedModels of TensorFlow's own making."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.model_files import FILES, hash_files

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

NOW = datetime(2013, 7, 1, 12, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
PRINT = {"origin_traffic": "a" * 64, "aircraft": "b" * 64}
GOOD = {"origin": "JFK", "tailnum": "N1", "distance": 100.0}
ORDERED = "serving.online_store.sqlite.OrderedSqliteOnlineStore"


def ago(**kwargs: float) -> datetime:
    return NOW - timedelta(**kwargs)


def make_repo(root: Path, store: str = ORDERED, offline: str = "dask", redis: str = "", settings: dict[str, Any] | None = None) -> Any:
    """``<root>/repo`` with applied views and rows; returns its FeatureStore. ``settings``: those of another store."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Array, Float64, Int64, String
    from feast.value_type import ValueType

    repo = root / "repo"
    repo.mkdir(parents=True)
    text = f"project: flights\nprovider: local\nregistry: {root}/registry.db\nentity_key_serialization_version: 3\n"
    where = f"connection_string: '{redis}'" if redis else f"path: {root}/online.db"
    where = ", ".join(f"{name}: {value}" for name, value in settings.items()) if settings else where
    text += f"online_store: {{type: {store}, {where}}}\noffline_store: {{type: dask}}\n"
    (repo / "feature_store.yaml").write_text(text)
    feast = FeatureStore(repo_path=str(repo))
    source = FileSource(name="rows", path=str(root / "rows.parquet"), timestamp_field="event_timestamp")
    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    plane = Entity(name="tailnum", join_keys=["tailnum"], value_type=ValueType.STRING)
    own = [Field(name="tandem_revision", dtype=Int64), Field(name="tandem_fingerprint", dtype=String)]
    traffic = FeatureView(
        name="origin_traffic",
        entities=[origin],
        ttl=timedelta(hours=6),
        source=source,
        schema=[Field(name="origin", dtype=String), Field(name="count_1h", dtype=Int64), Field(name="mean_1h", dtype=Float64), *own],
    )
    aircraft = FeatureView(
        name="aircraft",
        entities=[plane],
        ttl=timedelta(0),
        source=source,
        schema=[
            Field(name="tailnum", dtype=String),
            Field(name="last_delay", dtype=Float64),
            Field(name="last_3", dtype=Array(Float64)),
            Field(name="count_1h", dtype=Int64),
            *own,
        ],
    )
    service = FeatureService(name="delay", features=[traffic[["mean_1h"]], aircraft[["last_delay"]]])
    feast.apply([origin, plane, traffic, aircraft, service])
    write_rows(
        feast,
        "origin_traffic",
        [
            {"origin": "JFK", "event_timestamp": ago(minutes=4), "count_1h": 7, "mean_1h": 12.5},
            {"origin": "LGA", "event_timestamp": ago(minutes=4, microseconds=1), "count_1h": 0, "mean_1h": None},
            {"origin": "EWR", "event_timestamp": ago(hours=7), "count_1h": 3, "mean_1h": 1.0},
        ],
    )
    write_rows(
        feast,
        "aircraft",
        [
            {"tailnum": "N1", "event_timestamp": ago(days=30), "last_delay": -3.0, "last_3": [-3.0, 4.0], "count_1h": 1},
        ],
    )
    if offline != "dask":
        path = repo / "feature_store.yaml"
        path.write_text(path.read_text().replace("{type: dask}", f"{{type: {offline}}}"))
    return feast


def write_rows(feast: Any, view: str, rows: list[dict[str, Any]], fingerprint: str | None = None, own: bool = True) -> None:
    """Write rows into the online store through its own class, ours or stock Feast's."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import DoubleList, Value

    table = feast.get_feature_view(view)
    keys = [c.name for c in table.entity_columns]

    def value(v: Any) -> Any:
        if isinstance(v, list):
            return Value(double_list_val=DoubleList(val=v))
        return Value() if v is None else Value(**{{str: "string_val", int: "int64_val", float: "double_val"}[type(v)]: v})

    data = []
    for row in rows:
        columns = {"tandem_revision": 1, "tandem_fingerprint": fingerprint or PRINT[view]} if own else {}
        values = {k: value(v) for k, v in {**row, **columns}.items() if k not in (*keys, "event_timestamp")}
        data.append((EntityKey(join_keys=keys, entity_values=[value(row[k]) for k in keys]), values, row["event_timestamp"], None))
    feast._get_provider().online_store.online_write_batch(feast.config, table, data, None)


def spec(version: int, **changes: Any) -> dict[str, Any]:
    """``tandem.json`` of a version of the model ``delay``."""
    return {
        "name": "delay",
        "version": version,
        "fingerprints": PRINT,
        "feature_service": "delay",
        "entity_keys": ["origin", "tailnum"],
        "request_fields": [["distance", "float64"], ["carrier", "string"]],
        "nullable": ["carrier"],
        "features": ["origin_traffic:mean_1h", "aircraft__last_delay"],
        "inputs": [
            ["origin", "string"],
            ["carrier", "string"],
            ["distance", "float32"],
            ["origin_traffic__mean_1h", "float32"],
            ["aircraft__last_delay", "float32"],
        ],
        "output": "probability",
        "run": f"run-{version}",
        "created": "2013-07-01T00:00:00Z",
        **changes,
    }


_SAVED: dict[str, Path] = {}


def saved_model(tmp: Path) -> Path:
    """A SavedModel: its "probability" is half a sum of its inputs, so that tests can compute it by hand."""
    if "plain" in _SAVED:
        return _SAVED["plain"]
    import tensorflow as tf

    def known(x: Any) -> Any:
        return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(0.5)

        @tf.function
        def serve(self, **x: Any) -> Any:
            name = tf.cast(tf.strings.length(x["origin"]) + tf.strings.length(x["carrier"]), tf.float32)
            read = known(x["origin_traffic__mean_1h"]) + known(x["aircraft__last_delay"])
            return {"probability": self.scale * (name + x["distance"] + read)}

    model = Model()
    signature = {n: tf.TensorSpec([None, 1], t, name=n) for n, t in spec(1)["inputs"]}
    out = tmp / "plain_saved_model"
    tf.saved_model.save(model, str(out), signatures=model.serve.get_concrete_function(**signature))
    _SAVED["plain"] = out
    return out


def push(root: Path, tmp: Path, version: int, **changes: Any) -> Path:
    """Push a version of ``delay`` as a pusher does: under another name, then renamed."""
    folder = root / "models" / "delay"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".{version}.tmp"
    shutil.copytree(saved_model(tmp), made)
    (made / "tandem.json").write_text(json.dumps({FILES: hash_files(made), **spec(version, **changes)}))
    return made.rename(folder / str(version))


def make_world(root: Path, *versions: int) -> Path:
    """``root`` with the repository and these versions of ``delay`` pushed."""
    make_repo(root)
    for version in versions:
        push(root, root, version)
    return root


def settings(root: Path, **changes: Any) -> Any:
    from serving.settings import ServingSettings

    paths = {"feature_repo": root / "repo", "models": root / "models", "graphs": root / "graphs"}
    return ServingSettings(**{**paths, "as_of": NOW, "timeout_seconds": 30.0, "poll_seconds": 3600.0, **changes})


def predict(client: TestClient, *instances: dict[str, Any], path: str = "/v1/models/delay:predict") -> dict[str, Any]:
    answer = client.post(path, json={"instances": list(instances)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body
