"""What serves a batch of one row was held against TensorFlow when the graph was loaded: its programs, its memory and its way of reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from transforms.graph_columns import LANES, GraphColumn, with_width
from transforms.graph_plan import checked_plan
from transforms.graph_row import RowReader
from transforms.plan import Plan, compiler, settled
from transforms.plan.flush import can_flush
from transforms.plan.kernels import as_tensor
from transforms.tensors import tensors_of

pytestmark = pytest.mark.skipif(not can_flush(), reason="this machine's float arithmetic cannot be set as TensorFlow's is")
SCHEMA = pa.schema(
    [
        with_width(pa.field("l", pa.list_(pa.int64())), 3),
        pa.field("x", pa.float64()),
        pa.field("y", pa.int64(), nullable=False),
        pa.field("z", pa.string()),
    ]
)


def loaded() -> tuple[Plan | None, str]:
    """A graph of nullable and other inputs, checked as it is at a load."""
    import tensorflow as tf

    kinds: dict[str, Any] = {"l": tf.int64, "x": tf.float32, "y": tf.int64, "z": tf.string}
    columns, arguments = [], []
    for field in SCHEMA:
        dtype = kinds[field.name]
        sparse = tf.SparseTensorSpec([None, None if field.name == "l" else 1], dtype)
        columns.append(GraphColumn(field, sparse if field.nullable else tf.TensorSpec([None, 1], dtype), tf))
        parts = [tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None], dtype), tf.TensorSpec([2], tf.int64)]
        arguments += parts if field.nullable else [tf.TensorSpec([None, 1], dtype)]

    def run(*flat: Any) -> list[Any]:
        many, x, z = (tf.SparseTensor(*flat[at : at + 3]) for at in (0, 3, 7))
        dense = tf.sparse.to_dense(x, default_value=-1.0)
        shifted = dense * 2.0 + tf.cast(flat[6], tf.float32)
        return [tf.math.log1p(tf.abs(dense)), shifted, tf.sparse.to_dense(many), tf.sparse.to_dense(z, default_value="none")]

    function = tf.function(run, input_signature=arguments, autograph=False).get_concrete_function()

    def arrays_of(batch: pa.RecordBatch) -> list[Any]:
        rows = batch.num_rows + LANES + -batch.num_rows % LANES
        with np.errstate(over="ignore"):
            return [a for column, values in zip(columns, batch.columns, strict=True) for a in column.arrays(values, rows)]

    def call(arrays: list[Any]) -> list[Any]:
        return [t.numpy() for t in function(*tensors_of(arrays))]

    return checked_plan(function, SCHEMA, arrays_of, call, RowReader(columns))


def test_rows_of_several_kinds_and_values_are_read_alone() -> None:
    """Of each kind, what is null and how long lists are, more than one with other values: the second is not its program's own."""
    seen: list[Any] = []
    read = RowReader.read

    def noted(self: RowReader, batch: pa.RecordBatch) -> Any:
        found = read(self, batch)
        seen.append((found, batch.to_pylist()[0]))
        return found

    with mock.patch.object(RowReader, "read", noted):
        plan, why = loaded()
    assert plan is not None and why == ""
    alike = [found[1] for found, _ in seen]
    assert len(set(alike)) >= 3 and all(alike.count(kind) >= 3 for kind in alike)
    rows = [row for _, row in seen]
    assert any(row["x"] is row["z"] is None and not row["l"] for row in rows)  # none there that may be missing
    assert any(row["x"] is not None and row["z"] is not None and len(row["l"]) == 3 for row in rows)


def all_fixed(steps: Any, before: Any, after: Any, fixed: Any, inputs: Any) -> Any:
    return settled.settled(steps, before, after, inputs, inputs)


def by_step_alone(function: Callable[..., Any], slot: int, memory: dict[Any, Any]) -> Callable[..., Any]:
    def call(*arrays: Any) -> Any:
        if slot not in memory:
            memory[slot] = function(*map(as_tensor, arrays)).numpy()
        return memory[slot]

    return call


def changed(self: RowReader, batch: pa.RecordBatch, read: Any = RowReader.read) -> Any:
    flat, alike = read(self, batch)
    return [a + 1 if a.shape == (2 * LANES, 1) else a for a in flat], alike


def always_alike(self: RowReader, batch: pa.RecordBatch, read: Any = RowReader.read) -> Any:
    return read(self, batch)[0], (0,)


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (compiler, "settled", all_fixed),
        (settled, "_remembered", by_step_alone),
        (RowReader, "read", changed),
        (RowReader, "read", always_alike),
    ],
    ids=["values count as shapes", "memory of other values", "values read wrong", "rows that differ are alike"],
)
def test_a_plan_that_is_wrong_of_one_row_alone_is_not_used(where: Any, name: str, wrong: Any) -> None:
    """Each of these was found in unit tests only: what serves every request of one row was held against nothing at a load."""
    with mock.patch.object(where, name, wrong):
        plan, why = loaded()
    assert plan is None and why.startswith("rows read alone: ")
