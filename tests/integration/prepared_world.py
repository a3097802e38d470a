"""The repository of orders with a preprocessing function for each group: analyzers in two phases, a vocabulary under one of them, one by
weights, and what is learnt of each key."""

from __future__ import annotations

import random
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.integration.orders_world import Orders
from tests.integration.test_continued_batch import at, copied, day, write

__all__ = ["prepared", "twin"]

PREPARING = """
import functools

import tensorflow as tf
import tensorflow_transform as tft


def shop(inputs):
    mean, count = inputs["amount_mean_1h"], inputs["count_24h"]
    number = tft.compute_and_apply_vocabulary(count, vocab_filename="counts", num_oov_buckets=1)
    flat = tf.reshape(count, [-1])
    real, key = tf.cast(flat, tf.float32), tf.strings.as_string(tf.reshape(inputs["count_1h"], [-1]))
    return {
        "mean_bucket": tft.bucketize(tft.scale_to_z_score(mean), num_buckets=7),
        "number_z": tft.scale_to_z_score(tf.cast(number, tf.float32)),
        "of_key": tft.scale_to_0_1_per_key(real, key=key),
        "scaled": tft.scale_to_0_1(tf.cast(inputs["count_1h"], tf.float32)),
        "total": tf.cast(inputs["count_1h"], tf.float32) + tf.sqrt(tft.var(mean)),
        "weighed": tft.compute_and_apply_vocabulary(key, weights=real, vocab_filename="weighed", num_oov_buckets=1),
    }


def squared(function):
    @functools.wraps(function)
    def of_squares(inputs):
        return function({**inputs, "count_24h": inputs["count_24h"] * inputs["count_24h"]})

    return of_squares


def bucket(inputs):
    return {"count_bucket": tft.bucketize(inputs["count_24h"], num_buckets=4)}


city = squared(bucket)  # which says that its name is bucket
"""


def prepared(path: Path, days: int = 4, events: int = 300, **batch: Any) -> Orders:
    """Events on ``days`` days; ``batch`` are settings of tandem.yaml."""
    world, chance = Orders(path), random.Random(3)
    (world.repo_path / "preparing.py").write_text(PREPARING)
    features = world.repo_path / "features.py"
    text = features.read_text()
    for name in ("shop", "city"):
        text = text.replace(f'name="{name}_orders",', f'name="{name}_orders", preprocessing_fn="preparing:{name}",')
    features.write_text(text)
    configure(world, **batch)
    for n in range(days):
        made = [at(day(n - 1) + timedelta(days=1) * i / events, f"{n}-{i}", chance) for i in range(events)]
        write(world.data, f"date={day(n - 1):%Y-%m-%d}/all.jsonl", made)
    return world


def configure(world: Orders, **batch: Any) -> None:
    settings = {"shards": 3, "slice_days": 1, "max_reject_share": 0.9, **batch}
    written = ", ".join(f"{name}: {value}" for name, value in settings.items())
    (world.repo_path / "tandem.yaml").write_text(f"data: ../data\ndefinitions: features\nbatch: {{{written}}}\n")
    for module in ("features", "preparing"):
        sys.modules.pop(module, None)


def twin(world: Orders, path: Path, **batch: Any) -> Orders:
    """The same repository and events elsewhere, with other settings, and no runs."""
    other = copied(world, path)
    for name in ("features.py", "preparing.py"):
        (other.repo_path / name).write_text((world.repo_path / name).read_text())
    configure(other, **batch)
    return other
