"""What the stream's benchmark runs over: sales in a topic, an applied repository over Redis, and the rows that are right."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaProducer

from pipelines.project.repository import Repo, load_repo
from tests.bench.rivals.entity_windows import HOUR, NAMES, OVERS
from tests.integration.kafka_world import new_topic, options_of
from transforms.aggregates import rows_between, tile
from transforms.contract import check_json
from transforms.definitions import FeatureGroup

T0 = 1_700_006_400_000_000 // (24 * HOUR) * 24 * HOUR
STEP = 216_000
"""Microseconds from an event to the next, on average."""
SLACK_US = 60_000_000
"""How long Tandem waits for events out of order; its rows bear the time from which they can be known: boundary and slack."""
FAR = T0 + 1000 * HOUR
SELLERS = 500
PARTITIONS = 2
TOPIC = "sales"

FEATURES = """
from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import (
    Count, Entity, EventSource, FeatureGroup, Field, Max, Mean, Min, Std, days, hours, minutes, seconds,
)

OVER = [{over}]
sales = EventSource(
    name="sales",
    fields=[Field("sale_id", "string", required=True), Field("seller", "string", required=True), Field("amount", "float64")],
    event_time="sold_at",
    tie_breaker="sale_id",
    out_of_orderness=seconds({slack}),
    allowed_lateness={lateness},
    topic="sales",
)
sellers = FeatureGroup(
    name="sellers", source=sales, entity=Entity("seller"), hop={hop}, ttl=days(36500),
    aggregates=[Count(over=OVER), *(kind("amount", over=OVER) for kind in (Mean, Std, Min, Max))],
    preprocessing_fn="preprocessing:sellers",
)
feast_views(__name__)
"""
PREPROCESSING = """
def sellers(inputs):
    import tensorflow as tf

    def spread(over):
        low, high, std = (inputs[f"amount_{m}_{over}"] for m in ("min", "max", "std"))
        dense = [tf.sparse.to_dense(x) if isinstance(x, tf.SparseTensor) else x for x in (low, high, std)]
        return (dense[1] - dense[0]) / (dense[2] + 1.0)

    return {f"spread_{over}": spread(over) for over in (OVERS)}
"""


@dataclass(frozen=True)
class Sales:
    """N sales in order of time: ``times`` int64 [N] (microseconds), ``sellers`` int [N], ``amounts`` float64 [N]."""

    times: npt.NDArray[np.int64]
    sellers: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.float64]

    @classmethod
    def made(cls, n: int) -> Sales:
        """The same ones every time, eight in each seller's hop. Sums of the amounts, in quarters, are exact in any order."""
        r = np.random.default_rng(7)
        return cls(T0 + np.sort(r.integers(0, n * STEP, n)), r.integers(0, SELLERS, n), r.integers(4, 4000, n) / 4)

    @cached_property
    def payloads(self) -> list[bytes]:
        """As JSON."""
        each = zip(self.times.tolist(), self.sellers.tolist(), self.amounts.tolist())
        return [
            json.dumps({"sale_id": f"sale-{i:09d}", "seller": f"s{s:04d}", "amount": x, "sold_at": t}).encode()
            for i, (t, s, x) in enumerate(each)
        ]

    def before(self, boundary: int) -> int:
        """Events before a time."""
        return int(np.searchsorted(self.times, boundary))

    def produce(self, bootstrap: str) -> None:
        """Send all of them; a seller's go to one partition, in order."""
        new_topic(options_of(bootstrap), PARTITIONS, TOPIC)
        new_topic(options_of(bootstrap), 1, "tandem.dead_letters")
        with KafkaProducer(**options_of(bootstrap), linger_ms=50, batch_size=1 << 17) as producer:
            for payload, seller in zip(self.payloads, self.sellers.tolist()):
                producer.send(TOPIC, payload, partition=seller % PARTITIONS)
            producer.flush()

    def offsets(self, n: int) -> list[int]:
        """How many of the first ``n`` lie in each partition."""
        return np.bincount(self.sellers[:n] % PARTITIONS, minlength=PARTITIONS).tolist()

    def rows(self, group: FeatureGroup, n: int | None = None) -> pa.RecordBatch:
        """Every row of one batch over the first ``n`` events, without the transform."""
        checked = check_json(pa.array(self.payloads[:n], pa.binary()), group.source, FAR, 10**12)
        return rows_between(tile(checked.valid, group), group, 0, FAR)


def expected(rows: pa.RecordBatch) -> dict[tuple[str, int], dict[str, Any]]:
    """(seller, boundary) -> features by the names of ``entity_windows.NAMES``, the transform's outputs included."""
    columns: dict[str, list[Any]] = {}
    for over in OVERS:
        columns[f"count_{over}"] = rows.column(f"count_{over}").to_pylist()
        for m in ("mean", "std", "min", "max"):
            columns[f"{m}_{over}"] = rows.column(f"amount_{m}_{over}").to_pylist()
        parts = zip(*(columns[f"{m}_{over}"] for m in ("max", "min", "std")))
        columns[f"spread_{over}"] = [0.0 if high is None else (high - low) / (std + 1.0) for high, low, std in parts]
    at = [t - SLACK_US for t in rows.column("event_timestamp").cast(pa.int64()).to_pylist()]
    values = zip(*(columns[n] for n in NAMES))
    return {(s, t): dict(zip(NAMES, v)) for s, t, v in zip(rows.column("seller").to_pylist(), at, values)}


def check_rows(got: dict[tuple[str, int], dict[str, Any]], want: dict[tuple[str, int], dict[str, Any]], what: str) -> None:
    """Raise ValueError unless every row of ``got`` is right to 1e-6 (TFT computes in float32)."""
    for key, row in got.items():
        right = want.get(key)
        if right is None:
            raise ValueError(f"{what}: there is no row at {key}")
        for name, value in right.items():
            mine = row.get(name)
            if (mine is None) != (value is None) or (value is not None and not math.isclose(mine, value, rel_tol=1e-5, abs_tol=1e-6)):  # type: ignore[arg-type]
                raise ValueError(f"{what}: {name} at {key} is {mine}, not {value}")
    if not got:
        raise ValueError(f"{what}: no row was written")


def make_repo(
    folder: Path, bootstrap: str, redis: str, rows: Callable[[FeatureGroup], pa.RecordBatch] | None, *, slack: float = SLACK_US / 1e6,
    hop: str = "minutes(15)",
    overs: tuple[str, ...] = tuple(OVERS), lateness: str = "hours(1)", **stream: Any,
) -> Repo:  # fmt: skip
    """A repository whose graph (a real TF-Transform one where ``rows`` gives what to analyze) is applied."""
    from pipelines.batch.analysis import analyze_groups
    from pipelines.feature_store.store import apply

    path, data = folder / "repo", folder / "data"
    path.mkdir(parents=True)
    units = {"s": "seconds", "m": "minutes", "h": "hours"}
    over = ", ".join(f"{units[o[-1]]}({o[:-1]})" for o in overs)
    features = FEATURES.replace("{over}", over).replace("{slack}", str(slack)).replace("{hop}", hop).replace("{lateness}", lateness)
    (path / "features.py").write_text(
        features if rows is not None else features.replace('    preprocessing_fn="preprocessing:sellers",\n', "")
    )
    (path / "preprocessing.py").write_text(PREPROCESSING.replace("OVERS", repr(overs)))
    (path / "feature_store.yaml").write_text(
        "project: sales\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
        "offline_store: {type: serving.offline_store.AsofOfflineStore}\n"
        f"online_store: {{type: serving.online_store.redis.OrderedRedisOnlineStore, connection_string: '{redis}'}}\n"
    )
    settings = {"clock": "replay", **stream}
    (path / "tandem.yaml").write_text(
        json.dumps({"data": "../data", "definitions": "features", "kafka": {"bootstrap_servers": bootstrap}, "stream": settings})
    )
    for module in ("features", "preprocessing"):  # of another repository in this process
        sys.modules.pop(module, None)
    repo = load_repo(path)
    group = repo.groups["sellers"]
    function = None
    if rows is not None:
        scope: dict[str, Any] = {}
        exec(PREPROCESSING.replace("OVERS", repr(overs)), scope)
        function = scope["sellers"]
    data.mkdir(exist_ok=True)
    files = []
    if rows is not None:
        pq.write_table(pa.Table.from_batches([rows(group)]).slice(0, 2000), data / "rows.parquet")
        files = [str(data / "rows.parquet")]
    prints = analyze_groups({"sellers": (group, function, files)}, data / "graphs")
    (data / "graphs" / "sellers" / "CURRENT").write_text(prints["sellers"] + "\n")
    apply(repo, prints)
    return repo
