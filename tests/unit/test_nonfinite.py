"""FAULTS 15: a feature that is -inf was stored without a word, and came as null with status PRESENT over HTTP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.batch.steps import nonfinite
from pipelines.project.repository import load_repo
from serving.feast_types import not_finite, to_json
from serving.features import ViewRows
from serving.online_answer import status_words
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
