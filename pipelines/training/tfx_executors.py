"""TFX's StatisticsGen and Transform, which work on batches in this process: the same artifacts, without Beam pipelines in between."""

# TFX declares its classes at run time or not at all.
# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call"
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_transform import TFTransformOutput
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx.components.statistics_gen import executor as statistics_executor
from tfx.components.transform import executor as transform_executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, json_utils
from tfx_bsl.tfxio import dataset_options
from tfx_bsl.tfxio.tf_example_record import TFExampleRecord

from pipelines.batch.in_process import Analysis
from pipelines.batch.operations import Unknown
from pipelines.training import user_code

__all__ = ["LearnHere", "StatisticsHere"]

ROWS = 8192
"""Rows of a batch: more than one, since memory is bounded; always as many, since a mean's last bits depend on it."""


def _batches(source: TFExampleRecord) -> Iterator[pa.RecordBatch]:
    yield from source.RecordBatches(dataset_options.RecordBatchesOptions(ROWS, num_epochs=1, shuffle=False))


def _joined(batches: Iterator[pa.RecordBatch], count: int) -> Iterator[pa.RecordBatch]:
    """``count`` batches as one. To decode as many examples at once takes twenty times the memory that their columns have: 0.8 GB."""
    while some := list(islice(batches, count)):
        yield from pa.Table.from_batches(some).combine_chunks().to_batches()


class StatisticsHere(statistics_executor.Executor):
    """Statistics of every split, as TFX's own executor with the default options: the same generators, folded batch by batch."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes ``Split-<name>/FeatureStats.pb`` for each split of the examples."""
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(input_dict[standard_component_specs.EXAMPLES_KEY])
        made = artifact_utils.get_single_instance(output_dict[standard_component_specs.STATISTICS_KEY])
        splits = artifact_utils.decode_split_names(examples.split_names)
        made.split_names, made.span = artifact_utils.encode_split_names(splits), examples.span
        made.set_string_custom_property(statistics_executor.STATS_DASHBOARD_LINK, "")
        made.set_json_value_custom_property(
            statistics_executor.SAMPLE_RATE_BY_SPLIT_PROPERTY_NAME, json_utils.dumps(dict.fromkeys(splits, 1.0))
        )
        for split in splits:
            pattern = io_utils.all_files_pattern(artifact_utils.get_split_uri([examples], split))
            source = TFExampleRecord(pattern, telemetry_descriptors=["StatisticsGen"])
            folder = Path(artifact_utils.get_split_uri([made], split))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / statistics_executor.DEFAULT_FILE_NAME).write_bytes(_statistics(_joined(_batches(source), 8)).SerializeToString())


def _statistics(batches: Iterator[pa.RecordBatch]) -> Any:
    """TFDV's statistics of all batches. Last bits depend on how the rows are cut into batches, which is always the same here."""
    options = tfdv.StatsOptions()
    generators = stats_impl.get_generators(options, in_memory=True)
    whole: list[Any] | None = None
    for batch in batches:
        parts = stats_impl.generate_partial_statistics_in_memory(batch, options, generators)
        whole = parts if whole is None else [g.merge_accumulators([a, b]) for g, a, b in zip(generators, whole, parts, strict=True)]
    return stats_impl.extract_statistics_output(whole or [g.create_accumulator() for g in generators], generators)


class LearnHere(transform_executor.Executor):
    """Learns from the train split, and writes the transform graph as TFX's own executor does; with what only Beam can do, by that."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes ``transform_fn``, ``metadata`` and ``transformed_metadata`` of the ``transform_graph`` artifact."""
        examples = artifact_utils.get_split_uris(input_dict[standard_component_specs.EXAMPLES_KEY], "train")
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict[standard_component_specs.SCHEMA_KEY]))
        )
        output = Path(artifact_utils.get_single_uri(output_dict[standard_component_specs.TRANSFORM_GRAPH_KEY]))
        config = json_utils.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        source = TFExampleRecord([io_utils.all_files_pattern(uri) for uri in examples], schema=schema, telemetry_descriptors=["Transform"])

        work = output / ".temp_path"
        try:
            analysis = Analysis(
                partial(user_code.preprocessing_fn, custom_config=config),
                source.TensorAdapterConfig(),
                lambda: _batches(source),
                work,
                metadata=True,
            )
            model = analysis.save()
        except Unknown:
            io_utils.delete_dir(str(work))
            super().Do(input_dict, output_dict, exec_properties)
            return
        self._log_startup(input_dict, output_dict, exec_properties)
        metadata_io.write_metadata(dataset_metadata.DatasetMetadata(schema), str(output / TFTransformOutput.RAW_METADATA_DIR))
        learnt = output / TFTransformOutput.TRANSFORMED_METADATA_DIR
        (model / ".tft_metadata").rename(learnt)
        if analysis.assets:
            (learnt / TFTransformOutput.ASSET_MAP).write_text(json.dumps(analysis.assets), "utf-8")
        model.rename(output / TFTransformOutput.TRANSFORM_FN_DIR)
        io_utils.delete_dir(str(work))
