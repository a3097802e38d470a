"""TFX's Transform, whose analysis runs in this process: the same artifact, without the Beam pipelines in between."""

# TFX declares its classes at run time or not at all.
# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call"
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from tensorflow_transform import TFTransformOutput
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx.components.transform import executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, json_utils
from tfx_bsl.tfxio import dataset_options
from tfx_bsl.tfxio.tf_example_record import TFExampleRecord

from pipelines.batch.in_process import Analysis, Unknown
from pipelines.training import user_code

__all__ = ["InProcess"]

ROWS = 8192
"""Rows of a batch: more than one, since memory is bounded; always as many, since a mean's last bits depend on it."""


class InProcess(executor.Executor):
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

        def read() -> Iterator[pa.RecordBatch]:
            yield from source.RecordBatches(dataset_options.RecordBatchesOptions(ROWS, num_epochs=1, shuffle=False))

        work = output / ".temp_path"
        try:
            analysis = Analysis(partial(user_code.preprocessing_fn, custom_config=config), source.TensorAdapterConfig(), read, work)
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
