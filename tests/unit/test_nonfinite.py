"""FAULTS 15: a feature that is -inf was stored without a word, and came as null with status PRESENT over HTTP."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.lake.nonfinite import nonfinite
from pipelines.project.repository import load_repo
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.status import Tracker, line
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_metrics import StreamMetrics
from pipelines.streaming.stream_options import StreamOptions
from serving.feast_types import not_finite, to_json
from serving.features import ViewRows
from serving.online_answer import status_words
from tests.integration.orders_world import END, Orders, order
from transforms.instants import instant

INF, NAN = float("inf"), float("nan")
COLUMNS = [
    (pa.array([1.0, None, -INF, NAN, 0.0]), [2, 3], 2),
    (pa.array([1.0, None, INF], pa.float32()), [2], 1),
    (pa.array([[1.0, INF], [], [NAN, INF], [2.0]]), [0, 2], 3),
    (pa.array([[1.0]] * 3 + [[-INF]], pa.list_(pa.float32())).slice(2), [1], 1),
    (pa.array([1, None]), [], 0),
    (pa.array(["inf", None]), [], 0),
    (pa.array([["inf"]]), [], 0),
    (pa.array([], pa.float64()), [], 0),
]


@pytest.mark.parametrize(("column", "rows", "count"), COLUMNS)
def test_they_are_found_and_counted(column: pa.Array, rows: list[int], count: int) -> None:
    """FAULTS 15."""
    assert not_finite(column) == rows
    assert nonfinite(pa.table({"f": column, "g": [0.5] * len(column)})) == ({"f": count} if count else {})


def test_the_status_of_an_answer_is_true() -> None:
    """FAULTS 15: null stands for the value that JSON cannot carry, and is said to; what is null is NULL, what is there is PRESENT."""
    n = 5
    group = ViewRows(
        "v", {"f": COLUMNS[0][0]}, {"f": np.array([0, 1, 0, 0, 0], np.uint8)}, np.zeros(n, np.uint8), np.zeros(n, np.int64), np.zeros(n),
        [None] * n, [None] * n, 0,
    )  # fmt: skip
    assert status_words(group, "f") == ["PRESENT", "NULL", "NOT_FINITE", "NOT_FINITE", "PRESENT"]
    assert len(to_json(group.columns["f"])) == n


FEATURES = """
from transforms.definitions import *

orders = EventSource(
    name="orders", event_time="at", tie_breaker="id", files="events/orders",
    fields=[Field("id", "string", required=True), Field("shop", "int64", required=True)],
)
shops = FeatureGroup(
    name="shops", source=orders, entity=Entity("shop"), hop=hours(1), ttl=hours(9), aggregates=[Count(over=hours(1))],
    preprocessing_fn="odd_preprocessing:shops",
)
"""
PREPROCESSING = """
import tensorflow as tf


def shops(inputs):
    count = tf.cast(inputs["count_1h"], tf.float32)
    return {"log_count": tf.math.log(count), "zero": count * 0.0}
"""


def test_batch_counts_them_and_says_so(tmp_path: Path) -> None:
    """FAULTS 15: as reported, log of a count that is 0."""
    repo, log = tmp_path / "repo", tmp_path / "data" / "events" / "orders"
    repo.mkdir()
    log.mkdir(parents=True)
    (repo / "tandem.yaml").write_text("data: ../data\ndefinitions: odd_features\n")
    (repo / "odd_features.py").write_text(FEATURES)
    (repo / "odd_preprocessing.py").write_text(PREPROCESSING)
    start = 1_714_521_600_000_000
    at = [start + i * 3 * 3_600_000_000 for i in range(8)]
    pq.write_table(
        pa.table({"id": [str(i) for i in range(8)], "shop": [1] * 8, "at": pa.array(at, pa.timestamp("us", "UTC"))}), log / "a.parquet"
    )
    said: list[str] = []
    found = run_batch(load_repo(repo), instant(start), instant(start + 86_400_000_000), now=instant(start + 10**11), progress=said.append)
    odd = {"shops/log_count": 8}
    assert found.run.manifest["nonfinite"] == odd
    [line] = [line for line in said if "infinite" in line]
    assert "8 of shops/log_count" in line


def test_a_stream_counts_them_too(tmp_path: Path) -> None:
    """FAULTS 15: by feature, in its status, its metrics and once in words."""
    broker = MemoryBroker()
    broker.create_topic("orders", 1)
    broker.create_topic("orders.dead", 1)
    world = Orders(tmp_path, as_of=END + timedelta(hours=6))
    features = world.repo_path / "features.py"
    group = 'entity=Entity("shop"), hop=minutes(5)'
    features.write_text(features.read_text().replace(group, f'{group}, preprocessing_fn="odd_counts:shops"'))
    (world.repo_path / "odd_counts.py").write_text(PREPROCESSING)
    settings = {
        "data": "../data", "definitions": "features", "batch": {"shards": 1},
        "kafka": {"bootstrap_servers": broker.address, "dead_letters": "orders.dead"},
        "stream": {"clock": "replay", "shards": 1, "idle_seconds": 3600},
    }  # fmt: skip
    (world.repo_path / "tandem.yaml").write_text(json.dumps(settings))
    world.log([order("o1", "10:02"), order("o2", "23:02")])
    world.apply(world.batch())
    now = [order(f"n{n}", f"2024-05-02T{n // 3:02}:{n % 3 * 20:02}:00Z", shop=min(n, 1) + 1) for n in range(8)]  # of shop 1 the first
    broker.append("orders", 0, [json.dumps(event).encode() for event in now])
    said: list[str] = []
    result = run_stream(world.repo(), StreamOptions(runner="direct", until="latest", from_run="latest"), said.append)
    assert result["code"] == 0
    status = Tracker(JobState(world.data / "stream" / "main")).look()
    assert status.nonfinite == {"shop_orders/log_count": 1} and "NaN or infinite: 1 of shop_orders/log_count" in line(status)
    assert len([text for text in said if text.startswith("shop_orders/log_count: values that are NaN or infinite")]) == 1
    odd = next(family for family in StreamMetrics(lambda: status, lambda: 0).collect() if family.name == "tandem_stream_nonfinite")
    assert [(sample.labels, sample.value) for sample in odd.samples] == [({"group": "shop_orders", "feature": "log_count"}, 1.0)]
