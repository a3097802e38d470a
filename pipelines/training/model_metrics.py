"""TFMA's metrics of a model per slice, computed in this process: its own computations, on columns instead of row by row in a Beam pipeline.

Which metrics there are, what they mean and how they are derived from one another is TFMA's to say (``metric_specs.to_computations``). What
is done here is to call the model on the rows, to find each slice's rows, and to hand them to TFMA's combiners.
"""

# TFX and TFMA declare their classes at run time or not at all.
# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call"
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.metrics import calibration_histogram, metric_specs, metric_types, tf_metric_wrapper
from tensorflow_model_analysis.slicer import slicer_lib as slicer

from pipelines.batch.operations import Unknown
from pipelines.training import saved_models
from pipelines.training.keras_speed import leave_keras_as_it_is

__all__ = ["Rows", "Sliced", "metrics_by_slice", "read_rows", "with_differences"]

Sliced = dict[Any, dict[Any, Any]]
"""TFMA's metrics (``MetricKey`` to value) by its slice keys; ``()`` are all rows."""

BATCH = 8192
"""Rows per call of a model."""


@dataclass(frozen=True)
class Rows:
    """Labelled rows: ``serialized`` tf.Examples in batches, read anew each time; labels and weights, [n, 1]; row numbers by slice key."""

    serialized: Iterable[Any]
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None
    slices: Mapping[Any, npt.NDArray[np.int64]]


def read_rows(files: Sequence[str], config: Any, dtypes: Mapping[str, Any]) -> Rows:
    """The rows of GZIP-compressed TFRecord ``files``, in their order, with the slices that TFMA's ``config`` names.

    ``dtypes`` says the type of each feature that is sliced by. Raises Unknown if ``config`` asks for what only TFMA's pipeline does.
    """
    spec = config.model_specs[0]
    if not spec.label_key or any(
        (s.label_key, s.example_weight_key) != (spec.label_key, spec.example_weight_key) for s in config.model_specs
    ):
        raise Unknown("labels or weights that differ by model")
    extra = [spec.label_key, *([spec.example_weight_key] if spec.example_weight_key else [])]
    by = sorted({key for s in config.slicing_specs for key in s.feature_keys})
    if unknown := [n for n in by if n not in dtypes]:
        raise Unknown(f"slices of {', '.join(unknown)}")
    wanted = {n: tf.io.FixedLenFeature([1], tf.float32) for n in extra} | {n: tf.io.FixedLenFeature([1], dtypes[n]) for n in by}
    serialized = tf.data.TFRecordDataset(list(files), compression_type="GZIP").batch(BATCH)
    parsed = [tf.io.parse_example(part, wanted) for part in serialized]
    column = {
        n: np.concatenate([p[n].numpy() for p in parsed]) if parsed else np.zeros((0, 1), f.dtype.as_numpy_dtype) for n, f in wanted.items()
    }
    return Rows(
        serialized,
        column[spec.label_key],
        column[spec.example_weight_key] if spec.example_weight_key else None,
        _slices({n: column[n] for n in by}, len(column[spec.label_key]), [slicer.SingleSliceSpec(spec=s) for s in config.slicing_specs]),
    )


def _slices(columns: Mapping[str, npt.NDArray[Any]], rows: int, specs: Sequence[Any]) -> dict[Any, npt.NDArray[np.int64]]:
    """Row numbers by slice key. TFMA says once per combination of values which slices it belongs to."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for row, values in enumerate(zip(*(c[:, 0].tolist() for c in columns.values()), strict=True) if columns else [()] * rows):
        places.setdefault(values, []).append(row)
    found: dict[Any, list[int]] = {}
    for values, numbers in places.items():
        features = {name: np.array([value]) for name, value in zip(columns, values, strict=True)}
        for key in slicer.get_slices_for_features_dicts([], features, list(specs)):
            found.setdefault(key, []).extend(numbers)
    return {key: np.sort(np.array(numbers, np.int64)) for key, numbers in found.items()}


def _predictions(model: Path, signature: str, output: str, rows: Rows) -> npt.NDArray[np.float32]:
    """The model's answers, of shape [n, 1]."""
    function = saved_models.signature(model, signature)
    inputs = {name: tf.io.FixedLenFeature([1], t.dtype) for name, t in function.structured_input_signature[1].items()}
    parts = [function(**tf.io.parse_example(part, inputs))[output].numpy() for part in rows.serialized]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def metrics_by_slice(model: Path, config: Any, rows: Rows) -> Sliced:
    """The metrics of a SavedModel, as TFMA's ``config`` of one model asks for them; the keys name no model."""
    (spec,) = config.model_specs
    computations = list(dict.fromkeys(metric_specs.to_computations(list(config.metrics_specs), eval_config=config)))
    folds = [c for c in computations if type(c) is metric_types.MetricComputation]
    derived = [c for c in computations if type(c) is metric_types.DerivedMetricComputation]
    standard = metric_types.StandardMetricInputsPreprocessor
    if len(folds) + len(derived) < len(computations) or any(type(p) is not standard for c in folds for p in c.preprocessors or ()):
        raise Unknown("a metric that needs more than labels, predictions and weights")
    leave_keras_as_it_is()
    for each in folds:
        each.combiner.setup()
    predictions = _predictions(model, spec.signature_name, spec.prediction_key, rows)
    found: Sliced = {}
    for key, numbers in rows.slices.items():
        inputs = {constants.LABELS_KEY: rows.labels[numbers], constants.PREDICTIONS_KEY: predictions[numbers]}
        if rows.weights is not None:
            inputs[constants.EXAMPLE_WEIGHTS_KEY] = rows.weights[numbers]
        metrics: dict[Any, Any] = {}
        for each in folds:
            metrics.update(_folded(each, inputs, len(numbers)))
        for each in derived:
            metrics.update(each.result(metrics))
        found[key] = {k: v for k, v in metrics.items() if not k.name.startswith("_") and type(k) is metric_types.MetricKey}
    return found


def _folded(computation: Any, inputs: Mapping[str, npt.NDArray[Any]], rows: int) -> dict[Any, Any]:
    """What one of TFMA's combiners makes of the rows, in their order.

    TFMA hands each row to each combiner, which finds its label, prediction and weight by the configuration anew: nearly all of its time.
    A histogram takes columns as they are, and a Keras metric's accumulator the three numbers of each row; others get rows.
    """
    combiner = computation.combiner
    whole = combiner.create_accumulator()
    if isinstance(combiner, _private(calibration_histogram, "_CalibrationHistogramCombiner")):
        whole = combiner.add_input(whole, metric_types.StandardMetricInputs(dict(inputs)))
    elif isinstance(combiner, _private(tf_metric_wrapper, "_CompilableMetricsCombiner")):
        weighted = computation.keys[0].example_weighted and constants.EXAMPLE_WEIGHTS_KEY in inputs
        weights = inputs[constants.EXAMPLE_WEIGHTS_KEY] if weighted else np.ones((rows, 1), np.float32)
        for label, prediction, weight in zip(inputs[constants.LABELS_KEY], inputs[constants.PREDICTIONS_KEY], weights, strict=True):
            whole.add_input(0, label, prediction, weight)
            if whole.should_flush():
                whole = combiner.compact(whole)
    else:
        for row in range(rows):
            whole = combiner.add_input(whole, metric_types.StandardMetricInputs({name: values[row] for name, values in inputs.items()}))
    return combiner.extract_output(combiner.compact(whole))  # type: ignore[no-any-return]


def _private(module: Any, name: str) -> Any:
    """A class of TFMA that has no public name; no class where a release has it no more."""
    return getattr(module, name, ())


def with_differences(models: Mapping[str, Sliced], baseline: str | None) -> Sliced:
    """The metrics of all models in one, under the models' names, with how far each number lies above that of the model ``baseline``."""
    out: Sliced = {}
    for name, of_model in models.items():
        for key, metrics in of_model.items():
            out.setdefault(key, {}).update({k._replace(model_name=name): value for k, value in metrics.items()})
    for metrics in out.values() if baseline is not None else ():
        for key, value in list(metrics.items()):
            other = None if key.model_name == baseline or key.is_diff else metrics.get(key.make_baseline_key(baseline))
            if other is not None and isinstance(value, (int, float, np.number)):
                metrics[key.make_diff_key()] = value - other
    return out
