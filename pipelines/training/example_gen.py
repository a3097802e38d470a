"""ExampleGen of a Feast feature service: a training set's splits become tf.Examples, whole Parquet files at a time."""

# TFX and Beam declare their classes at run time or not at all.
# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call"
import json
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
from google.protobuf import wrappers_pb2
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from pipelines.training.definition import Column
from pipelines.training.training_set import SPLITS

__all__ = ["FeatureServiceExampleGen"]


def read_examples(path: str, columns: list[list[str]], label: str, weight: str | None) -> list[bytes]:
    """The serialized tf.Examples of a Parquet file, in the file's order."""
    from pipelines.training.encode import to_examples

    return to_examples(pq.read_table(path), [Column(*c) for c in columns], label, weight)  # type: ignore[arg-type]


def write_shard(item: tuple[str, str], columns: list[list[str]], label: str, weight: str | None) -> int:
    """Turns one Parquet file into one TFRecord file; written anew if Beam repeats it. Returns the number of rows."""
    import tensorflow as tf

    source, target = item
    examples = read_examples(source, columns, label, weight)
    tf.io.gfile.makedirs(target.rpartition("/")[0])
    with tf.io.TFRecordWriter(target, tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)) as writer:
        for example in examples:
            writer.write(example)
    return len(examples)


class Executor(BaseExampleGenExecutor):
    """Writes each split's examples in the order of the training set.

    TFX's own writing step shuffles rows by random keys, and then two trainings on the same rows differ; hence ``Do``.
    """

    def GetInputSourceToExamplePTransform(self) -> Any:
        """A PTransform from (exec_properties, split pattern) to serialized tf.Examples."""
        return _ReadSplit

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes every split as TFRecords beside a count check."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = _config(exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        artifact.split_names = artifact_utils.encode_split_names(list(SPLITS))
        with self._make_beam_pipeline() as pipeline:
            for split in SPLITS:
                uri = artifact_utils.get_split_uri([artifact], split)
                files = beam.io.filesystems.FileSystems.match([f"{exec_properties['input_base']}/{split}/*.parquet"])[0].metadata_list
                shards = [
                    (m.path, f"{uri}/data_tfrecord-{i:05d}-of-{len(files):05d}.gz")
                    for i, m in enumerate(sorted(files, key=lambda m: m.path))
                ]
                (
                    pipeline
                    | f"Files[{split}]" >> beam.Create(shards, reshuffle=False)
                    | f"WriteExamples[{split}]" >> beam.Map(write_shard, *config)
                )
        artifact.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
        artifact.set_string_custom_property("file_format", "tfrecords_gzip")


def _config(exec_properties: dict[str, Any]) -> tuple[list[list[str]], str, str | None]:
    message, text = example_gen_pb2.CustomConfig(), wrappers_pb2.StringValue()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], message)
    message.custom_config.Unpack(text)
    config = json.loads(text.value)
    return config["columns"], config["label"], config["weight"]


@beam.ptransform_fn
def _ReadSplit(pipeline: Any, exec_properties: dict[str, Any], split_pattern: str) -> Any:
    files = beam.io.filesystems.FileSystems.match([f"{exec_properties['input_base']}/{split_pattern}"])[0].metadata_list
    return pipeline | beam.Create(sorted(m.path for m in files), reshuffle=False) | beam.FlatMap(read_examples, *_config(exec_properties))


class FeatureServiceExampleGen(FileBasedExampleGen):
    """Reads ``data/training/<id>`` of a Feast feature service; outputs ``examples`` with the splits train, eval and test by time."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, training_set: str, columns: list[list[str]], label: str, weight: str | None) -> None:
        custom = example_gen_pb2.CustomConfig()
        custom.custom_config.Pack(wrappers_pb2.StringValue(value=json.dumps({"columns": columns, "label": label, "weight": weight})))
        super().__init__(
            input_base=training_set,
            input_config=example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name=s, pattern=f"{s}/*.parquet") for s in SPLITS]),
            custom_config=custom,
        )
