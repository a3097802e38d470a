"""What a repository's ``run_fn`` works with: the training data as tensors, and the export that serving understands.

Imports TensorFlow: use it in model code only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from pipelines.training.definition import Column
from pipelines.training.keras_speed import leave_keras_as_it_is

__all__ = ["Moments", "TrainingJob"]

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (1.0 where nothing varies) of a column over the train split, nulls left out."""

    mean: float
    std: float


class TrainingJob:
    """One call of ``run_fn``: the raw inputs, the request-field graph, the splits, and the export.

    ``columns`` are the model's raw inputs: all of them, or the request fields alone when the plain model is trained.
    ``request_outputs`` maps each output of the repository's ``preprocessing_fn`` to its dtype. ``log_dir`` is for TensorBoard.
    ``params`` are the experiment's (``tandem train --set epochs=3``); a model reads its constants as ``job.params.get("epochs", 12)``.
    """

    def __init__(self, fn_args: Any) -> None:
        config = fn_args.custom_config
        leave_keras_as_it_is()
        tf_keras.backend.clear_session()  # layers are numbered from one, whatever this process trained before
        tf_keras.utils.set_random_seed(int(config["seed"]))
        tf.config.experimental.enable_op_determinism()  # the same seed on the same machine: the same weights, bit by bit
        self.columns = tuple(Column(*c) for c in json.loads(config["columns"]))
        self.label: str = config["label"]
        self.weight: str | None = config["weight"] or None
        self.seed = int(config["seed"])
        self.params: dict[str, Any] = json.loads(config.get("params") or "{}")
        self.log_dir: str = fn_args.model_run_dir
        self.transform = tft.TFTransformOutput(fn_args.transform_output)  # type: ignore[attr-defined, unused-ignore]
        self._files = {"train": fn_args.train_files, "eval": fn_args.eval_files}
        self._export_dir: str = fn_args.serving_model_dir
        self._layer = self.transform.transform_features_layer()
        self.request_outputs = {name: spec.dtype.name for name, spec in sorted(self.transform.transformed_feature_spec().items())}
        self._cache: dict[str, tuple[Tensors, Any, Any]] = {}

    @property
    def features(self) -> tuple[Column, ...]:
        """The inputs that come from Feast; empty when the plain model is trained."""
        return tuple(c for c in self.columns if not c.is_request)

    @property
    def request_fields(self) -> tuple[Column, ...]:
        """The inputs that come with the request."""
        return tuple(c for c in self.columns if c.is_request)

    def vocabulary_size(self, name: str) -> int:
        """The size of a TF-Transform vocabulary written with ``vocab_filename=name``."""
        return int(self.transform.vocabulary_size_by_name(name))

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def prepare(self, raw: Mapping[str, Any]) -> Tensors:
        """Raw inputs of shape [n, 1] to what the network sees: transformed request fields and raw features, each [n, k].

        In an order of names: layers that are made in another order start from other random numbers.
        """
        requests = self._layer({c.name: raw[c.name] for c in self.request_fields})  # in the order of a protobuf map: any, in each process
        wide = {name: value if value.shape.rank == 2 else tf.reshape(value, [-1, 1]) for name, value in sorted(requests.items())}
        return {**wide, **{c.name: raw[c.name] for c in self.features}}

    def arrays(self, split: str) -> tuple[Tensors, Any, Any]:
        """The prepared inputs, labels [n, 1] and weights [n, 1] of ``"train"`` or ``"eval"``, in order of time, in memory.

        A row costs four bytes per number; 10 million rows of 50 features need 2 GB.
        """
        if split not in self._cache:
            spec = {c.name: tf.io.FixedLenFeature([1], tf.as_dtype(c.dtype)) for c in self.columns}
            extra = [self.label, *([self.weight] if self.weight else [])]
            spec |= {name: tf.io.FixedLenFeature([1], tf.float32) for name in extra}
            files = sorted(f for pattern in self._files[split] for f in tf.io.gfile.glob(pattern))
            data = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(8192)

            @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
            def example(serialized: Any) -> tuple[Tensors, Any, Any]:
                parsed = tf.io.parse_example(serialized, spec)
                label = parsed[self.label]
                return self.prepare(parsed), label, parsed[self.weight] if self.weight else tf.ones_like(label)

            parts: list[tuple[Tensors, Any, Any]] = []
            for batch in data.map(example):
                parts.append(batch)
            names = parts[0][0].keys()
            inputs = {name: tf.concat([p[0][name] for p in parts], 0) for name in names}
            self._cache[split] = (inputs, tf.concat([p[1] for p in parts], 0), tf.concat([p[2] for p in parts], 0))
        return self._cache[split]

    def dataset(self, split: str, batch_size: int) -> Any:
        """A ``tf.data.Dataset`` of (inputs, label, weight); ``train`` is shuffled anew in every epoch, by the seed."""
        inputs, label, weight = self.arrays(split)
        rows = tf.data.Dataset.range(int(label.shape[0]))
        if split == "train":
            rows = rows.shuffle(int(label.shape[0]), seed=self.seed, reshuffle_each_iteration=True)

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def gather(index: Any) -> tuple[Tensors, Any, Any]:  # whole batches by row number: slicing row by row costs 100x
            return {name: tf.gather(value, index) for name, value in inputs.items()}, tf.gather(label, index), tf.gather(weight, index)

        return rows.batch(batch_size).map(gather, num_parallel_calls=2, deterministic=True).prefetch(2)

    def moments(self) -> dict[str, Moments]:
        """Moments of every float32 column that ``prepare`` gives with one value per row, over the train split."""
        out = {}
        for name, value in self.arrays("train")[0].items():
            if value.dtype == tf.float32 and value.shape[1] == 1:
                values = value.numpy().astype(np.float64)
                known = values[np.isfinite(values)]
                std = float(known.std()) if known.size else 0.0
                out[name] = Moments(float(known.mean()) if known.size else 0.0, std if std > 1e-12 else 1.0)
        return out

    def export(self, model: Any, predict: Callable[[Tensors], Any]) -> None:
        """Write the SavedModel: raw inputs [n, 1] in, ``probability`` [n, 1] out, the request-field graph inside.

        ``model`` holds the variables (a tf_keras model); ``predict`` maps prepared inputs to probabilities of shape [n, 1].
        Its Keras layers are no part of the SavedModel, unless one of them holds more than variables (a lookup table).
        """
        signature = [tf.TensorSpec([None, 1], tf.as_dtype(c.dtype), name=c.name) for c in self.columns]
        names = [c.name for c in self.columns]

        @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
        def serve(*values: Any) -> dict[str, Any]:
            return {"probability": predict(self.prepare(dict(zip(names, values, strict=True))))}

        # Where a Keras layer is tracked, each of its functions is traced, saved, and built again by every load: two thirds of both, for
        # nothing, as the signature is all that is called. The variables and the graph's own objects are what the signature needs.
        variables, graph = getattr(model, "variables", None), getattr(self._layer, "_saved_model_loader_tracked_dict", None)
        module = tf.Module()
        module.model, module.request_graph = model if variables is None else list(variables), self._layer if graph is None else graph
        module.serve = serve
        try:
            tf.saved_model.save(module, self._export_dir, signatures={"serving_default": serve})
        except AssertionError:  # "an 'untracked' resource": the function refers to what is neither
            module = tf.Module()
            module.model, module.request_graph, module.serve = model, self._layer, serve
            tf.saved_model.save(module, self._export_dir, signatures={"serving_default": serve})
