"""One row of a batch becomes the arrays that its columns become."""

from __future__ import annotations

from itertools import cycle, islice, product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from transforms.graph_columns import GraphColumn, to_arrow, with_width
from transforms.graph_row import ROWS, RowReader

TIME = pa.timestamp("us", tz="UTC")
VALUES: dict[pa.DataType, list[Any]] = {
    pa.float64(): [1.5, -0.0, float("nan"), 1e300, 5e-324, None],
    pa.float32(): [0.25, float("-inf"), None],
    pa.int64(): [-(2**63), 2**63 - 1, 0, None],
    pa.bool_(): [True, False, None],
    TIME: [0, -1, 1_700_000_000_123_456, None],
    pa.string(): ["", "\u00e4\u0000b", "x" * 200, None],
}


def columns_of(fields: list[pa.Field], deep: bool) -> list[GraphColumn]:
    import tensorflow as tf

    kinds = {pa.string(): tf.string, pa.float32(): tf.float32, pa.float64(): tf.float32}
    made = []
    for field in fields:
        dtype = kinds.get(field.type.value_type if pa.types.is_list(field.type) else field.type, tf.int64)
        spec = tf.SparseTensorSpec([None, 1], dtype) if field.nullable else tf.TensorSpec([None, 1] if deep else [None], dtype)
        made.append(GraphColumn(field, spec, tf))
    return made


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and (a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes())


@pytest.mark.parametrize("deep", [True, False])
def test_a_row_is_read_as_its_columns_are(deep: bool) -> None:
    fields = [pa.field(f"{kind}_{nullable}", kind, nullable=nullable) for kind in VALUES for nullable in (True, False)]
    lists = [pa.field(f"list_{kind}_{width}", pa.list_(kind)) for kind in VALUES for width in (0, 20)]
    fields += [with_width(field, 20) if field.name.endswith("20") else field for field in lists]
    columns = columns_of(fields, deep)
    reader = RowReader(columns)
    seen: dict[tuple[int, ...], list[Any]] = {}
    for place, extra in product(range(6), (False, True)):
        arrays = []
        for field in fields:
            if pa.types.is_list(field.type):
                values = [v for v in VALUES[field.type.value_type] if v is not None]
                length = (1, 0, 17, len(values), 16, 3)[place]
                arrays.append(pa.array([None if extra else list(islice(cycle(values), length))], field.type))
                continue
            values = [v for v in VALUES[field.type] if field.nullable or v is not None]
            arrays.append(pa.array([None if extra and field.nullable else values[place % len(values)]], field.type))
        # Others' columns before ours, and a batch that begins in the middle of its buffers.
        whole = [pa.array(["other"] * 3), *(pa.concat_arrays([a.take(pa.array([0])), a, a]) for a in arrays)]
        batch = pa.RecordBatch.from_arrays(whole, names=["other", *(f.name for f in fields)]).slice(1, 1)
        found = reader.read(batch)
        assert found is not None
        with np.errstate(over="ignore"):
            expected = [array for column, values in zip(columns, arrays, strict=True) for array in column.arrays(values, ROWS)]
        assert all(map(same, found[0], expected)) and len(found[0]) == len(expected)
        fixed = [found[0][i].tolist() for i in reader.fixed]
        assert seen.setdefault(found[1], fixed) == fixed
    assert len(seen) > 1


def test_what_is_not_as_the_graph_takes_it_is_left_to_who_reads_columns() -> None:
    (column,) = columns_of([pa.field("n", pa.int64(), nullable=False)], deep=True)
    reader = RowReader([column])
    batch = pa.RecordBatch.from_arrays
    assert reader.read(batch([pa.array([None], pa.int64())], names=["n"])) is None
    assert reader.read(batch([pa.array([1], pa.int32())], names=["n"])) is None
    assert reader.read(batch([pa.array([1], pa.int64())], names=["m"])) is None
    found = reader.read(batch([pa.array([7], pa.int64())], names=["n"]))
    assert found is not None and np.all(found[0][0] == 7)


def test_a_list_that_the_graph_does_not_take_is_left_to_who_reads_columns() -> None:
    (column,) = columns_of([with_width(pa.field("l", pa.list_(pa.int64())), 2)], deep=True)
    reader = RowReader([column])

    def read(value: list[int | None] | None) -> Any:
        return reader.read(pa.RecordBatch.from_arrays([pa.array([value], column.kind)], names=["l"]))

    assert read([1, 2, 3]) is None
    assert read([1, None]) is None
    assert read([1, 2])[1] == (0, 2)
    assert read(None)[1] == read([])[1] == (0, 0)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int64(), pa.int32()], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("step", [1, 2])
def test_numbers_leave_as_their_type_whatever_they_are_kept_in(kind: pa.DataType, dtype: type[Any], step: int) -> None:
    numbers = np.array([3, 1, 2, 5] * 8, dtype)[::step]
    found = to_arrow("n", [numbers], 2, kind)
    found.validate(full=True)
    assert found.type == kind and found.to_pylist() == numbers[:2].tolist()
