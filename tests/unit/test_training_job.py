"""What a repository's ``run_fn`` is handed, without a training."""

from __future__ import annotations

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
