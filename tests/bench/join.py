"""The point-in-time join of a training set: Tandem's offline store against Feast's DuckDB store and pandas, same rows, same spine."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.bench.report import Part, best_of
from tests.bench.windows import departures, feature_group, tandem
from transforms.definitions import EVENT_TIMESTAMP, TIMESTAMP

WANTED = ["count_3h", "dep_delay_mean_3h", "dep_delay_max_24h"]
TTL = timedelta(hours=24)


def _store(folder: Path, offline: dict[str, str]) -> Any:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.data_format import ParquetFormat
    from feast.types import Float64, Int64, String
    from feast.value_type import ValueType

    folder.mkdir()
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            registry=str(folder / "registry.db"),
            provider="local",
            repo_path=folder,
            entity_key_serialization_version=3,
            offline_store=offline,
        )
    )
    carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    source = FileSource(
        name="rows",
        file_format=ParquetFormat(),
        path=str(folder.parent / "rows.parquet"),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column="created_timestamp",
    )
    types = {"count_3h": Int64}
    view = FeatureView(
        name="traffic",
        entities=[carrier],
        ttl=TTL,
        source=source,
        schema=[Field(name="carrier", dtype=String), *(Field(name=n, dtype=types.get(n, Float64)) for n in WANTED)],
    )
    store.apply([carrier, source, view])
    return store


def run(quick: bool = False) -> list[Part]:
    """A year of one group's rows, joined to flights one hour before they leave."""
    group = feature_group("carrier", 15)
    rows = pa.Table.from_batches([tandem(departures(), group)]).select(["carrier", EVENT_TIMESTAMP, *WANTED])
    rows = rows.append_column("created_timestamp", pa.array(np.zeros(rows.num_rows, np.int64)).cast(TIMESTAMP))
    size = 5_000 if quick else 50_000
    flights = departures()
    picked = pa.array(np.sort(np.random.default_rng(1).choice(flights.num_rows, size, replace=False)))
    at = pc.subtract(flights.column("departed_at").take(picked), pa.scalar(timedelta(hours=1)))
    spine = pd.DataFrame({"carrier": flights.column("carrier").take(picked).to_pandas(), EVENT_TIMESTAMP: at.to_pandas()})
    frame, refs = rows.to_pandas(), [f"traffic:{w}" for w in WANTED]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp:
        folder = Path(temp)
        pq.write_table(rows, folder / "rows.parquet")
        ours = _store(folder / "ours", {"type": "serving.offline_store.AsofOfflineStore"})
        stock = _store(folder / "stock", {"type": "duckdb"})

        def asof() -> pd.DataFrame:
            left, right = (f.sort_values(EVENT_TIMESTAMP, kind="stable") for f in (spine, frame))
            return pd.merge_asof(left, right, on=EVENT_TIMESTAMP, by="carrier", tolerance=pd.Timedelta(TTL)).loc[:, WANTED]

        def joined(store: Any) -> pd.DataFrame:
            out: pd.DataFrame = store.get_historical_features(entity_df=spine, features=refs).to_df()
            return out

        mine = joined(ours)
        if not np.allclose(mine[WANTED].to_numpy(float), asof().to_numpy(float), equal_nan=True):
            raise ValueError("Tandem's join and pandas' differ")
        ways = {
            "tandem, ASOF": lambda: joined(ours),
            "feast, duckdb": lambda: joined(stock),
            "pandas merge_asof": asof,
        }
        took = best_of(1 if quick else 2, ways)
        lost = size - len(joined(stock))
    part = Part(
        f"point-in-time join: {size:,} spine rows x {rows.num_rows:,} feature rows, {len(WANTED)} features",
        "spine rows",
        f"warm; wall time, {'one round' if quick else 'two rounds'}",
    )
    part.add("tandem, ASOF", took["tandem, ASOF"], size, "every spine row, in order")
    part.add("feast, duckdb", took["feast, duckdb"], size, f"{lost:,} spine rows lost" if lost else "")
    part.add("pandas merge_asof", took["pandas merge_asof"], size, "rows in memory already, no reading")
    return [part]
