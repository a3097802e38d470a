"""Builds graphs in a process of its own: ``python graph_build.py FOLDER NAME...``. Its functions are the tests' subjects."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Last, LastN, Mean, hours, minutes

TRIPS = EventSource(
    name="trips",
    fields=[
        Field("trip", "string", required=True),
        Field("zone", "string", required=True),
        Field("fare", "float64"),
        Field("paid", "bool"),
    ],
    event_time="at",
    tie_breaker="trip",
)
GROUP = FeatureGroup(
    name="zone_fares",
    source=TRIPS,
    entity=Entity("zone"),
    hop=minutes(5),
    ttl=hours(6),
    aggregates=[
        Count(over=hours(1)),
        Mean("fare", over=hours(1)),
        Last("trip", over=hours(1)),
        Last("paid", over=hours(1)),
        LastN("fare", over=hours(1), n=3),
    ],
    preprocessing_fn="preprocessing:zone_fares",
)


def rows(n, seed=0, words=40):
    """``n`` feature rows of GROUP, nulls and empty lists among them."""
    r = np.random.default_rng(seed)
    columns = [
        pa.array(["z"] * n),
        pa.array(np.arange(n) * 300_000_000, pa.timestamp("us", "UTC")),
        pa.array(r.integers(0, 90, n)),
        pa.array(r.normal(10, 20, n), mask=r.random(n) < 0.3),
        pa.array([f"t{i}" for i in r.integers(0, words, n)], pa.string(), mask=r.random(n) < 0.3),
        pa.array(r.random(n) < 0.5, mask=r.random(n) < 0.3),
        pa.array([r.normal(10, 20, k).tolist() for k in r.integers(0, 4, n)], pa.list_(pa.float64())),
        pa.array(r.integers(0, 900, n)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=GROUP.row_schema)


def function(constant=1.0, squash="tanh", file_format="text"):
    def zone_fares(inputs):
        import tensorflow as tf
        import tensorflow_transform as tft

        mean, count = inputs["fare_mean_1h"], tf.cast(inputs["count_1h"], tf.float32)

        def each(f):
            return tf.SparseTensor(mean.indices, f(mean.values), mean.dense_shape)

        return {
            "mean_z": tft.scale_to_z_score(mean),
            "mean_bucket": tft.bucketize(mean, num_buckets=7),
            "trip_id": tft.compute_and_apply_vocabulary(inputs["trip_last_1h"], top_k=20, num_oov_buckets=1, file_format=file_format),
            "count_log": tf.math.log1p(count),
            "count_scaled": tft.scale_to_0_1(count) + constant,
            "squashed": each(lambda v: getattr(tf, squash)(v / 7.0) + tf.sigmoid(v) + tf.math.erf(v / 9.0)),
            "grown": each(lambda v: tf.exp(v / 30.0) + tf.pow(tf.abs(v), 0.3)),
            "fares": inputs["fare_last_3_1h"],
            "trip": inputs["trip_last_1h"],
            "filled": tf.sparse.to_dense(inputs["paid_last_1h"], default_value=-1),
            "recent": tf.reduce_sum(tf.sparse.to_dense(inputs["fare_last_3_1h"]), axis=1),
        }

    return zone_fares


VARIANTS = {
    "base": (function(), 40),
    "constant": (function(constant=1.5), 40),
    "code": (function(squash="sin"), 40),
    "vocabulary": (function(), 41),
    "records": (function(file_format="tfrecord_gzip"), 40),
}


def build(folder, names):
    from pipelines.batch.analysis import analyze_groups

    groups = {}
    for name in names:
        fn, words = VARIANTS[name]
        files = []
        for part in range(2):
            files.append(f"{folder}/{name}-{part}.parquet")
            pq.write_table(pa.Table.from_batches([rows(400, seed=part, words=words)]), files[-1])
        groups[name] = (GROUP, fn, files[::-1])
    return analyze_groups(groups, Path(folder) / "graphs")


if __name__ == "__main__":
    (Path(sys.argv[1]) / "fingerprints.json").write_text(json.dumps(build(sys.argv[1], sys.argv[2:])))
