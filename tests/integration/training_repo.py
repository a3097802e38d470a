"""A small feature repository of another kind than flights: parcels, one Feast view, a model with a label that its feature explains."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2024, 5, 1, tzinfo=UTC)
DAYS = 20
END = START + timedelta(days=DAYS)
DEPOTS = ["north", "south", "east", "west"]
FINGERPRINT = "f" * 64

STORE = """
project: parcels
provider: local
registry: {data}/registry.db
offline_store:
  type: {offline}
online_store:
  type: sqlite
  path: {data}/online.db
entity_key_serialization_version: 3
"""

LABELS = """
from datetime import datetime
from pathlib import Path
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pipelines.training.definition import Model, Threshold
from transforms.definitions import Field

def spine(data: Path, start: datetime, end: datetime) -> pa.Table:
    table = pq.read_table(data / "events" / "requests.parquet")
    t = table.column("event_timestamp")
    typed = lambda moment: pa.scalar(moment, t.type)
    return table.filter(pc.and_(pc.greater_equal(t, typed(start)), pc.less(t, typed(end))))

def model(**changes):
    values = dict(
        name="slow_parcels", spine="labels:spine", label="slow", entity_keys=["depot"],
        request_fields=[Field("size", "string", required=True), Field("weight_kg", "float64")],
        features=["depot_load:waiting_1h", "depot_load:mean_age_1h", "depot_load:last_kind"], slices=["size"],
        thresholds=[Threshold("auc", bound=0.6, slack_to_blessed=0.02, slack_to_plain=0.0)],
    )
    return Model(**{**values, **changes})
"""

NETWORK = """
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras
from pipelines.training.training_job import TrainingJob

def preprocessing_fn(inputs):
    weight = inputs["weight_kg"]
    return {
        "size_id": tft.compute_and_apply_vocabulary(inputs["size"], num_oov_buckets=1, vocab_filename="size"),
        "weight": tf.where(tf.math.is_nan(weight), tf.zeros_like(weight), weight / 10.0),
    }

def run_fn(fn_args):
    job = TrainingJob(fn_args)
    sample, moments = job.arrays("train")[0], job.moments()
    inputs = {n: keras.Input([v.shape[1]], name=n, dtype=v.dtype) for n, v in sample.items()}
    parts = []
    for name, x in inputs.items():
        if x.dtype == tf.string:
            parts.append(keras.layers.Flatten()(keras.layers.Embedding(16, 2)(keras.layers.Hashing(16)(x))))
        elif x.dtype == tf.float32:
            m = moments[name]
            z = (x - m.mean) / m.std
            parts.append(tf.where(tf.math.is_nan(z), tf.zeros_like(z), z))
        else:
            parts.append(keras.layers.Flatten()(keras.layers.Embedding(job.vocabulary_size("size") + 1, 2)(x)))
    out = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()(parts)))
    model = keras.Model(inputs, out)
    model.compile(keras.optimizers.Adam(1e-2), loss="binary_crossentropy")
    model.fit(job.dataset("train", 128), validation_data=job.dataset("eval", 1024), epochs=3, verbose=0,
              callbacks=[keras.callbacks.TensorBoard(job.log_dir)])
    job.export(model, lambda x: model(x, training=False))
"""


def offline_store_type() -> str:
    """Our own offline store."""
    return "serving.offline_store.AsofOfflineStore"


def make(folder: Path, rows: int = 3000, seed: int = 3, offline: str | None = None) -> tuple[Path, Path]:
    """Write the repository and its data; returns (repo, data). Feast is applied."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Float64, Int64, String

    repo, data = folder / "repo", folder / "data"
    for path in (repo, data / "events", data / "offline" / "depot_load"):
        path.mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(textwrap.dedent(STORE).format(data=data, offline=offline or offline_store_type()))
    (repo / "labels.py").write_text(LABELS)
    (repo / "model.py").write_text(NETWORK)
    write_features(data / "offline" / "depot_load" / "part-0.parquet", seed)
    write_requests(data / "events" / "requests.parquet", rows, seed)
    entity = Entity(name="depot", join_keys=["depot"], value_type=ValueType.STRING)
    view = FeatureView(
        name="depot_load",
        entities=[entity],
        ttl=timedelta(hours=3),
        schema=[
            Field(name="waiting_1h", dtype=Int64),
            Field(name="mean_age_1h", dtype=Float64),
            Field(name="last_kind", dtype=String),
            Field(name="tandem_revision", dtype=Int64),
            Field(name="tandem_fingerprint", dtype=String),
        ],
        source=FileSource(
            path=str(data / "offline" / "depot_load" / "part-0.parquet"),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )
    FeatureStore(repo_path=str(repo)).apply([entity, view])
    return repo, data


def load(depot: int, hour: int) -> int:
    """How many parcels wait at a depot in an hour: known to the features, and what makes a parcel slow."""
    return int(50 + 40 * np.sin(hour / 5 + depot)) + hour * 7 % 11


def write_features(path: Path, seed: int, fingerprints: tuple[str, ...] = (FINGERPRINT,)) -> None:
    """One row per depot and hour, a null in every ninth mean; the last day has no rows of ``west``."""
    rng = np.random.default_rng(seed)
    hours = DAYS * 24
    hour, depot = (x.ravel() for x in np.meshgrid(np.arange(hours), np.arange(len(DEPOTS)), indexing="ij"))
    keep = ~((depot == 3) & (hour >= hours - 24))
    hour, depot = hour[keep], depot[keep]
    stamps = pa.array([START + timedelta(hours=int(h)) for h in hour], pa.timestamp("us", tz="UTC"))
    mean = rng.normal(30, 5, len(hour))
    pq.write_table(
        pa.table(
            {
                "depot": [DEPOTS[d] for d in depot],
                "event_timestamp": stamps,
                "waiting_1h": [load(int(d), int(h)) for d, h in zip(depot, hour, strict=True)],
                "mean_age_1h": pa.array(mean, mask=np.arange(len(hour)) % 9 == 0),
                "last_kind": pa.array(["box", "bag", None, "tube"] * len(hour))[: len(hour)],
                "tandem_revision": pa.array(np.arange(len(hour))),
                "tandem_fingerprint": [fingerprints[i % len(fingerprints)] for i in range(len(hour))],
                "created_timestamp": pa.array([END] * len(hour), pa.timestamp("us", tz="UTC")),
            }
        ),
        path,
        coerce_timestamps="us",
    )


def write_requests(path: Path, rows: int, seed: int) -> None:
    """Labelled requests at random seconds, in no order, some of them at the same instant."""
    rng = np.random.default_rng(seed + 1)
    second = rng.integers(3600, DAYS * 86_400, rows)
    second[1::50] = second[::50][: len(second[1::50])]
    depot = rng.integers(0, len(DEPOTS), rows)
    waiting = np.array([load(int(d), int(s) // 3600) for d, s in zip(depot, second, strict=True)])
    size = rng.integers(0, 3, rows)
    late = (waiting + 8 * size + rng.normal(0, 12, rows)) > 62
    weight = rng.gamma(2, 2, rows)
    pq.write_table(
        pa.table(
            {
                "event_timestamp": pa.array([START + timedelta(seconds=int(s)) for s in second], pa.timestamp("us", tz="UTC")),
                "depot": [DEPOTS[d] for d in depot],
                "size": [["s", "m", "l"][s] for s in size],
                "weight_kg": pa.array(weight, mask=np.arange(rows) % 13 == 0),
                "slow": late,
            }
        ),
        path,
        coerce_timestamps="us",
    )
