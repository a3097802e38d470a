"""The network behind ``late_flights``: TFX's ``preprocessing_fn`` (request fields) and ``run_fn``.

Heavy (TensorFlow): listed in .feastignore, loaded by ``tandem train`` alone.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras

from tandem.pipelines.training.training_job import TrainingJob

VOCABULARIES = ("carrier", "origin", "dest")
OUT_OF_VOCABULARY = 1
BATCH = 1024


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """What is known in the request alone. Every input has shape [n, 1]."""
    outputs = {
        f"{name}_id": tft.compute_and_apply_vocabulary(inputs[name], num_oov_buckets=OUT_OF_VOCABULARY, vocab_filename=name)
        for name in VOCABULARIES
    }
    day = tf.cast(inputs["departure_minute"], tf.float32) * (2 * math.pi / 1440)
    outputs["day_sin"], outputs["day_cos"] = tf.sin(day), tf.cos(day)
    outputs["hour_id"] = tf.clip_by_value(inputs["departure_minute"] // 60, 0, 23)
    outputs["weekday_id"] = tf.clip_by_value(inputs["weekday"], 0, 6)
    outputs["distance_scaled"] = tft.scale_to_z_score(tf.math.log1p(inputs["distance"]))
    return outputs


def _categories(job: TrainingJob) -> dict[str, int]:
    sizes = {f"{name}_id": job.vocabulary_size(name) + OUT_OF_VOCABULARY for name in VOCABULARIES}
    return {**sizes, "hour_id": 24, "weekday_id": 7}


def build(job: TrainingJob) -> Any:
    """Embeddings of the categories; numbers standardised, null masked to zero with an indicator beside it; two layers."""
    categories, moments = _categories(job), job.moments()
    sample = job.arrays("train")[0]
    inputs = {name: keras.Input([value.shape[1]], name=name, dtype=value.dtype) for name, value in sample.items()}
    deep, wide, numbers, means, scales = [], [], [], [], []
    for name, tensor in inputs.items():
        if name in categories:
            size = categories[name]
            deep.append(keras.layers.Flatten()(keras.layers.Embedding(size, min(12, 2 + size // 4))(tensor)))
            wide.append(keras.layers.Flatten()(keras.layers.Embedding(size, 1, embeddings_initializer="zeros")(tensor)))
        elif tensor.dtype == tf.string:
            ids = keras.layers.Hashing(1024)(tensor)
            deep.append(keras.layers.Flatten()(keras.layers.Embedding(1024, 8)(ids)))
        else:
            m = moments.get(name)
            mean, std = (m.mean, m.std) if m else (0.0, 1.0)
            numbers.append(tf.cast(tensor, tf.float32))
            means.append(mean)
            scales.append(1.0 / std)
    value = keras.layers.Concatenate()(numbers)  # one wide tensor: a step then costs a few operations, not a few per column
    missing = tf.math.is_nan(value)
    known = tf.where(missing, tf.zeros_like(value), tf.clip_by_value((value - tf.constant(means)) * tf.constant(scales), -8.0, 8.0))
    deep += [known, tf.cast(missing, tf.float32)]
    wide.append(known)
    x = keras.layers.Concatenate()(deep)
    units = job.params.get("units", 96)
    for width in (units, units // 2):
        x = keras.layers.Dropout(job.params.get("dropout", 0.15))(keras.layers.Dense(width, activation="relu")(x))
    logit = keras.layers.Dense(1)(keras.layers.Concatenate()([x, *wide]))
    return keras.Model(inputs, keras.layers.Activation("sigmoid", name="probability")(logit))


def run_fn(fn_args: Any) -> None:
    """Train until the log loss on the eval split stops falling, keep the best weights, export."""
    job = TrainingJob(fn_args)
    keras.utils.set_random_seed(job.seed)
    model = build(job)
    optimizer = keras.optimizers.Adam(job.params.get("learning_rate", 1e-3))
    model.compile(optimizer, loss="binary_crossentropy", weighted_metrics=[])
    model.fit(
        job.dataset("train", BATCH),
        validation_data=job.dataset("eval", 8192),
        epochs=job.params.get("epochs", 12),
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
            keras.callbacks.TensorBoard(job.log_dir, write_graph=False),
        ],
    )
    job.export(model, lambda inputs: model(inputs, training=False))
