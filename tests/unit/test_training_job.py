"""What a repository's ``run_fn`` is handed, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.training.definition import Column


@pytest.mark.parametrize("order", [("b_id", "a", "c"), ("c", "b_id", "a")])
def test_the_inputs_of_a_network_have_one_order(order: tuple[str, ...]) -> None:
    """TF-Transform's layer gives its outputs in the order of a protobuf map, which newer protobufs mix anew in every process: a model built
    in that order started from other weights, and a training could not be made again."""
    import tensorflow as tf

    from pipelines.training.training_job import TrainingJob

    job: Any = TrainingJob.__new__(TrainingJob)
    job.columns = (Column("raw", "int64"), Column("view__mean", "float32", "view", "mean"))
    job._layer = lambda raw: {name: tf.cast(raw["raw"][:, 0], tf.float32) for name in order}
    made = job.prepare({"raw": tf.constant([[1], [2]], tf.int64), "view__mean": tf.constant([[0.5], [0.25]])})
    assert list(made) == ["a", "b_id", "c", "view__mean"]
    assert all(np.array_equal(made[n].numpy(), [[1.0], [2.0]]) for n in order)


@pytest.mark.parametrize("lookup", [False, True])
def test_an_exported_model_is_its_signature_and_what_that_needs(lookup: bool, tmp_path: Path) -> None:
    """No Keras layer comes along, unless it holds more than variables, as a lookup's table is; the answers are the model's own."""
    import tensorflow as tf
    import tf_keras as keras

    from pipelines.training.training_job import TrainingJob

    job: Any = TrainingJob.__new__(TrainingJob)
    job.columns = (Column("kind", "string"), Column("size", "float32"))
    job._layer, job._export_dir = lambda raw: raw, str(tmp_path / "model")
    inputs = {"kind": keras.Input([1], name="kind", dtype="string"), "size": keras.Input([1], name="size")}
    to_number: Any = keras.layers.StringLookup(vocabulary=["a", "b"]) if lookup else keras.layers.Hashing(8)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(8, 3)(to_number(inputs["kind"])))
    hidden = keras.layers.BatchNormalization()(keras.layers.Concatenate()([embedded, inputs["size"]]))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    rows = {"kind": tf.constant([["a"], ["b"], ["c"]]), "size": tf.constant([[0.5], [-1.0], [7.25]])}
    expected = model(rows, training=False).numpy()
    job.export(model, lambda made: model(made, training=False))
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    loaded = tf.saved_model.load(str(tmp_path / "elsewhere"))
    # A graph fuses what runs op by op where the model is called: the last bit may differ.
    np.testing.assert_allclose(loaded.signatures["serving_default"](**rows)["probability"].numpy(), expected, rtol=1e-6)
    assert isinstance(loaded.model, list) != lookup  # the variables alone
