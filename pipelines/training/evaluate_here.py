"""TFX's Evaluator without its Beam pipeline: the same verdict and the same files, for ``tfma.load_eval_result`` and its like.

A training judges its model twice, against two baselines. Each model's metrics are computed once and kept for the next comparison of this
process (:mod:`pipelines.training.model_metrics`); what follows of them, differences, thresholds and files, is TFMA's.
"""

# TFX and TFMA declare their classes at run time or not at all.
# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call"
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tensorflow_model_analysis import constants as names
from tensorflow_model_analysis.evaluators import metrics_validator
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import config_util
from tensorflow_model_analysis.writers import metrics_plots_and_validations_writer as writer
from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as evaluator_executor
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import io_utils, json_utils, path_utils, proto_utils

from pipelines.batch.operations import Unknown
from pipelines.training.model_metrics import Sliced, metrics_by_slice, read_rows, with_differences

__all__ = ["EvaluateHere"]

_KINDS = {1: tf.string, 2: tf.int64, 3: tf.float32}
"""TensorFlow's type by that of TensorFlow Metadata: BYTES, INT, FLOAT."""


class EvaluateHere(evaluator_executor.Executor):
    """Judges ``model`` against ``baseline_model`` as TFX's own executor does; what only TFMA's pipeline can do, by that."""

    _known: dict[Any, Sliced] = {}  # noqa: RUF012  (of this process)

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the ``evaluation`` artifact's files, and into the ``blessing`` artifact what became of the thresholds."""
        try:
            ok = self._evaluate(input_dict, output_dict, exec_properties)
        except Unknown:
            super().Do(input_dict, output_dict, exec_properties)
            return
        verdict = artifact_utils.get_single_instance(output_dict[specs.BLESSING_KEY])
        named = (
            (specs.MODEL_KEY, constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY),
            (
                specs.BASELINE_MODEL_KEY,
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY,
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY,
            ),
        )
        for key, uri, number in named:
            for model in input_dict.get(key) or ():
                verdict.set_string_custom_property(uri, model.uri)
                verdict.set_int_custom_property(number, model.id)
        if "current_component_id" in exec_properties:
            verdict.set_string_custom_property("component_id", exec_properties["current_component_id"])
        io_utils.write_string_file(str(Path(verdict.uri) / (constants.BLESSED_FILE_NAME if ok else constants.NOT_BLESSED_FILE_NAME)), "")
        verdict.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.BLESSED_VALUE if ok else constants.NOT_BLESSED_VALUE
        )

    def _evaluate(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> bool:
        """Write the evaluation; whether all thresholds hold."""
        asked = config_pb2.EvalConfig()
        proto_utils.json_to_proto(exec_properties[specs.EVAL_CONFIG_KEY], asked)
        has_baseline = bool(input_dict.get(specs.BASELINE_MODEL_KEY))
        config = config_util.update_eval_config_with_defaults(asked, has_baseline=has_baseline, rubber_stamp=True)
        config_util.verify_eval_config(config)
        if config.options.ByteSize() or config.cross_slicing_specs:
            raise Unknown("options, or slices against slices")
        self._log_startup(input_dict, output_dict, exec_properties)

        splits = json_utils.loads(exec_properties[specs.EXAMPLE_SPLITS_KEY])
        found = [artifact_utils.get_split_uris(input_dict[specs.EXAMPLES_KEY], split) for split in splits]
        files = sorted(f for uris in found for uri in uris for f in tf.io.gfile.glob(io_utils.all_files_pattern(uri)))
        schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict[specs.SCHEMA_KEY])))
        dtypes = {f.name: _KINDS[f.type] for f in schema.feature if f.type in _KINDS}
        rows = None
        places: dict[str, str] = {}
        models: dict[str, Sliced] = {}
        for spec in config.model_specs:
            key = specs.BASELINE_MODEL_KEY if spec.is_baseline else specs.MODEL_KEY
            artifact = artifact_utils.get_single_instance(input_dict[key])
            path = places[spec.name] = path_utils.serving_model_path(artifact.uri, path_utils.is_old_model_artifact(artifact))
            alone = _of_one(config, spec)
            state = (*_state([*files, path, f"{path}/saved_model.pb"]), alone.SerializeToString(deterministic=True))
            if state not in self._known:
                rows = read_rows(files, config, dtypes) if rows is None else rows
                self._known[state] = metrics_by_slice(Path(path), alone, rows)
                for old in list(self._known)[:-4]:
                    del self._known[old]
            models[spec.name] = self._known[state]
        baseline = next((s.name for s in config.model_specs if s.is_baseline), None)
        metrics = with_differences(models, baseline)
        return _write(Path(artifact_utils.get_single_uri(output_dict[specs.EVALUATION_KEY])), config, places, metrics)


def _of_one(config: Any, spec: Any) -> Any:
    """What ``config`` asks of the model of ``spec`` alone, without thresholds: the same for whatever it is compared with."""
    alone = config_pb2.EvalConfig(model_specs=[spec], slicing_specs=config.slicing_specs, metrics_specs=config.metrics_specs)
    alone.model_specs[0].name, alone.model_specs[0].is_baseline = "", False
    for each in alone.metrics_specs:
        each.model_names[:] = [""]
        for kind in ("thresholds", "per_slice_thresholds", "cross_slice_thresholds"):
            each.ClearField(kind)
            for metric in each.metrics:
                metric.ClearField(kind if kind != "thresholds" else "threshold")
    return alone


def _state(files: Iterable[str]) -> tuple[Any, ...]:
    """What says whether files are still the same."""
    found = ((f, Path(f).stat()) for f in files)
    return tuple((f, s.st_ino, s.st_size, s.st_mtime_ns) for f, s in found)


def _write(folder: Path, config: Any, places: dict[str, str], metrics: Sliced) -> bool:
    """Write TFMA's files of an evaluation; whether all thresholds hold."""
    combine = writer.CombineValidations(config)
    verdict = combine.create_accumulator()
    for item in metrics.items():
        verdict = combine.add_input(verdict, metrics_validator.validate_metrics(item, config))
    verdict = combine.extract_output(verdict)
    run = config_pb2.EvalRun(
        eval_config=config,
        version=tfma.version.VERSION,
        data_location="<user provided PCollection>",  # TFMA's words; only shown
        file_format="<unknown>",
        model_locations=places,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval_config.json").write_text(json_format.MessageToJson(run) + "\n", "utf-8")
    shard = "-00000-of-00001.tfrecord"
    _records(folder / (names.METRICS_KEY + shard), (writer.convert_slice_metrics_to_proto(item, None) for item in metrics.items()))
    _records(folder / (names.PLOTS_KEY + shard), (writer.convert_slice_plots_to_proto((key, {}), None) for key in metrics))
    _records(folder / (names.ATTRIBUTIONS_KEY + shard), (writer.convert_slice_attributions_to_proto((key, {})) for key in metrics))
    _records(folder / f"{names.VALIDATIONS_KEY}.tfrecord", [verdict])
    return bool(verdict.validation_ok)


def _records(file: Path, messages: Iterable[Any]) -> None:
    with tf.io.TFRecordWriter(str(file)) as out:
        for message in messages:
            out.write(message.SerializeToString())
