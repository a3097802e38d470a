"""From a table of requests with features to serialized tf.Examples. Columnar; nulls are encoded where serving encodes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.training.definition import Column
from serving.models import to_model_inputs

__all__ = ["to_examples"]

_ARROW = {"string": pa.binary(), "int64": pa.int64(), "float32": pa.float32()}


def to_examples(table: pa.Table, columns: Sequence[Column], label: str, weight: str | None = None) -> list[bytes]:
    """Serialized tf.Examples, one per row in the table's order; every feature has exactly one value.

    The values are exactly those of :func:`serving.models.to_model_inputs`: null is NaN or b"". Label and weight are floats.
    """
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    dtypes = [(c.name, str(c.dtype)) for c in columns] + [(name, "float32") for name in (label, weight) if name is not None]
    values = to_model_inputs(table, dtypes)
    offsets = pa.array(np.arange(table.num_rows + 1, dtype=np.int32))
    arrays = [pa.ListArray.from_arrays(offsets, pa.array(values[name][:, 0], _ARROW[dtype])) for name, dtype in dtypes]
    return list(RecordBatchToExamplesEncoder().encode(pa.RecordBatch.from_arrays(arrays, [name for name, _ in dtypes])))
