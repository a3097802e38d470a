"""What the benchmarks of online reads and of HTTP run over: a Feast repository of three views, two kinds of entities and one service, and
the same numbers packed, which is what a store can give at best."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ENTITIES = 2_000
NOW = datetime(2025, 1, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
EPOCH = "1970-01-01T00:00:00Z"
SERVICE = "basket"
VIEWS = {"sellers": ("seller", 6, 3, 1), "seller_days": ("seller", 4, 2, 0), "buyers": ("buyer", 3, 1, 0)}
"""Per view: its key, and how many float64, int64 and string features it has."""


def names(view: str) -> list[str]:
    """The features of a view."""
    _, floats, ints, texts = VIEWS[view]
    return [*(f"f{i}" for i in range(floats)), *(f"n{i}" for i in range(ints)), *(f"s{i}" for i in range(texts))]


def rows(view: str) -> pa.RecordBatch:
    """One row per entity, always the same: a tenth of the floats are null, ages are between one and ten minutes."""
    key, floats, ints, texts = VIEWS[view]
    r, n = np.random.default_rng(len(view)), ENTITIES
    keys = [f"S{i:06d}" for i in range(n)] if key == "seller" else list(range(n))
    made: dict[str, Any] = {
        key: keys,
        "event_timestamp": pa.array(NOW_US - r.integers(60_000_000, 600_000_000, n), pa.timestamp("us", "UTC")),
        **{f"f{i}": pa.array(r.normal(size=n).round(2), mask=r.random(n) < 0.1) for i in range(floats)},
        **{f"n{i}": r.integers(0, 10 ** (3 * i + 1), n) for i in range(ints)},
        **{f"s{i}": [f"c{c}" for c in r.integers(0, 300, n)] for i in range(texts)},
        "tandem_revision": r.integers(1, 500, n),
        "tandem_fingerprint": ["a" * 64] * n,
    }
    return pa.RecordBatch.from_pydict(made)


def make_repo(root: Path, online_store: dict[str, Any]) -> Any:
    """``<root>/repo`` with the views and the service applied; its FeatureStore."""
    import json

    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64, String
    from feast.value_type import ValueType

    repo = root / "repo"
    repo.mkdir(parents=True)
    text = f"project: shop\nprovider: local\nregistry: {root}/registry.db\nentity_key_serialization_version: 3\n"
    (repo / "feature_store.yaml").write_text(f"{text}online_store: {json.dumps(online_store)}\noffline_store: {{type: dask}}\n")
    store = FeatureStore(repo_path=str(repo))
    source = FileSource(name="rows", path=str(root / "rows.parquet"), timestamp_field="event_timestamp")
    kinds = {"f": Float64, "n": Int64, "s": String}
    entities = {
        "seller": Entity(name="seller", join_keys=["seller"], value_type=ValueType.STRING),
        "buyer": Entity(name="buyer", join_keys=["buyer"], value_type=ValueType.INT64),
    }
    views = [
        FeatureView(
            name=view,
            entities=[entities[key]],
            ttl=timedelta(hours=6),
            source=source,
            schema=[
                Field(name=key, dtype=String if key == "seller" else Int64),
                *(Field(name=n, dtype=kinds[n[0]]) for n in names(view)),
                Field(name="tandem_revision", dtype=Int64),
                Field(name="tandem_fingerprint", dtype=String),
            ],
        )
        for view, (key, *_) in VIEWS.items()
    ]
    store.apply([*entities.values(), *views, FeatureService(name=SERVICE, features=[v[names(v.name)] for v in views])])
    return store


def fill(store: Any) -> None:
    """Write all rows by the store's own class: ours by columns, Feast's by its own entry."""
    from feast import ValueType, utils

    online = store._get_provider().online_store
    for view, (key, *_) in VIEWS.items():
        table = store.get_feature_view(view)
        if hasattr(online, "write_rows"):
            online.write_rows(store.config, table, rows(view))
            continue
        kind = ValueType.STRING if key == "seller" else ValueType.INT64
        data = utils._convert_arrow_to_proto(pa.Table.from_batches([rows(view)]), table, {key: kind})
        online.online_write_batch(store.config, table, data, None)


def asked(n: int, seed: int = 0) -> dict[str, list[Any]]:
    """The entities of one request of N."""
    r = np.random.default_rng(seed)
    some = r.permutation(ENTITIES)[:n].tolist()
    return {"seller": [f"S{i:06d}" for i in some], "buyer": r.permutation(ENTITIES)[:n].tolist()}


def packed_types() -> dict[str, np.dtype[Any]]:
    """How a row of each view is packed."""
    return {
        view: np.dtype([("at", "<i8"), ("null", "<u4"), ("f", "<f8", (floats,)), ("n", "<i8", (ints,)), ("s", "S8", (texts,))])
        for view, (_, floats, ints, texts) in VIEWS.items()
    }


@dataclass(frozen=True)
class Packed:
    """The rows as one value per entity and view: time, null bits, numbers of eight bytes each, then the texts of 8 bytes."""

    client: Any
    types: dict[str, np.dtype[Any]]

    @staticmethod
    def make(client: Any) -> Packed:
        """Write them."""
        types = packed_types()
        for view, (key, floats, ints, texts) in VIEWS.items():
            kind = types[view]
            batch, packed = rows(view), np.zeros(ENTITIES, kind)
            packed["at"] = batch.column("event_timestamp").cast(pa.int64()).to_numpy()
            for i in range(floats):
                column = batch.column(f"f{i}")
                packed["f"][:, i] = column.to_numpy(zero_copy_only=False)
                packed["null"] |= column.is_null().to_numpy(zero_copy_only=False).astype(np.uint32) << np.uint32(i)
            for i in range(ints):
                packed["n"][:, i] = batch.column(f"n{i}").to_numpy()
            for i in range(texts):
                packed["s"][:, i] = [t.encode() for t in batch.column(f"s{i}").to_pylist()]
            data, size = packed.tobytes(), kind.itemsize
            client.mset({f"packed:{view}:{k}": data[i * size : (i + 1) * size] for i, k in enumerate(batch.column(key).to_pylist())})
        return Packed(client, types)

    def read(self, entities: dict[str, list[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Per view a structured array of N rows: one MGET for all."""
        keys = [f"packed:{view}:{k}" for view, (key, *_) in VIEWS.items() for k in entities[key]]
        found, out, n = self.client.mget(keys), {}, len(entities["seller"])
        for i, (view, kind) in enumerate(self.types.items()):
            out[view] = np.frombuffer(b"".join(found[i * n : (i + 1) * n]), kind)
        return out
