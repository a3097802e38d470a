"""FAULTS 26: two nullable aggregates are subtracted and divided without knowing SparseTensors, and 0/0 is null, not NaN."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch.analysis import analyze_groups
from pipelines.batch.beam_options import options
from tests.examples import examples
from tests.unit import graph_build
from transforms.errors import DefinitionError
from transforms.graph import TransformGraph
from transforms.preprocessing import difference, ratio

A = [1.0, None, 3.0, None, 0.0, 5.0]
B = [2.0, 4.0, None, None, 0.0, 0.0]
DIFFERENCE = [-1.0, None, None, None, 0.0, 5.0]
RATIO = [0.5, None, None, None, None, None]


def sparse(values: list[Any], dtype: Any = tf.float32) -> Any:
    places = [[i, 0] for i, v in enumerate(values) if v is not None]
    known = [v for v in values if v is not None]
    return tf.SparseTensor(tf.constant(places, tf.int64, [len(places), 2]), tf.constant(known, dtype), [len(values), 1])


def listed(x: Any) -> list[Any]:
    assert isinstance(x, tf.SparseTensor)
    out: list[Any] = [None] * int(x.dense_shape[0])
    assert int(x.dense_shape[1]) == 1
    for (row, column), value in zip(x.indices.numpy().tolist(), x.values.numpy().tolist(), strict=True):
        assert column == 0
        out[row] = value
    assert x.indices[:, 0].numpy().tolist() == sorted(x.indices[:, 0].numpy().tolist())
    return out


def test_nulls_on_either_side() -> None:
    """FAULTS 26."""
    assert listed(difference(sparse(A), sparse(B))) == DIFFERENCE
    assert listed(ratio(sparse(A), sparse(B))) == RATIO
    assert listed(ratio(sparse([None, None]), sparse([1.0, None]))) == [None, None]
    assert listed(difference(sparse([]), sparse([]))) == []


def test_dense_columns_and_numbers() -> None:
    """FAULTS 26: counts come dense, of shape [rows, 1] or [rows]."""
    counts = tf.constant([[2], [0], [4]], tf.int64)
    assert listed(ratio(counts, tf.constant([4, 0, 0], tf.int64))) == [0.5, None, None]
    assert listed(ratio(sparse([1.0, None, 3.0]), counts)) == [0.5, None, 0.75]
    assert listed(difference(counts, 1)) == [1, -1, 3]
    assert listed(ratio(1, counts)) == [0.5, None, 0.25]
    assert listed(difference(counts, 0.5)) == [1.5, -0.5, 3.5]
    big = tf.constant([2**53 + 1], tf.int64)
    assert difference(big, sparse([2**53], tf.int64)).dtype == tf.int64
    assert listed(difference(big, sparse([2**53], tf.int64))) == [1]


def test_numbers_that_an_analyzer_finds_and_numbers_of_numpy() -> None:
    """FAULTS 26: ``difference(tft.mean(x), x)`` had the one row of the mean."""
    mean = tf.constant(2.0)
    assert listed(difference(mean, sparse([1.0, None, 3.0]))) == [1.0, None, -1.0]
    assert listed(difference(sparse([1.0, None, 3.0]), mean)) == [-1.0, None, 1.0]
    assert listed(ratio(mean, tf.constant([[4], [0], [1]], tf.int64))) == [0.5, None, 2.0]
    assert listed(ratio(np.float64(1), tf.constant([2, 4], tf.int64))) == [0.5, 0.25]
    assert difference(np.int64(7), tf.constant([2], tf.int64)).dtype == tf.int64
    assert listed(ratio(mean, sparse([]))) == []


def test_what_is_not_finite_is_null() -> None:
    """FAULTS 26."""
    huge = tf.constant([3e38, -3e38, float("inf"), float("nan")])
    assert listed(difference(huge, tf.constant([-3e38, 3e38, 0.0, 0.0]))) == [None] * 4
    assert listed(ratio(huge, tf.constant([1e-9, 1.0, 1.0, 1.0]))) == [None, pytest.approx(-3e38), None, None]


BORDERS = [-(2**63), -(2**63) + 1, -(2**62), -1, 0, 1, 2**53 + 1, 2**62, 2**63 - 2, 2**63 - 1]
WHOLE = st.one_of(st.sampled_from(BORDERS), st.integers(-(2**63), 2**63 - 1))


def within(x: int) -> int | None:
    return x if -(2**63) <= x < 2**63 else None


@settings(max_examples=examples(40))
@given(st.lists(st.tuples(st.one_of(st.none(), WHOLE), WHOLE), min_size=1, max_size=60), WHOLE)
def test_a_difference_beyond_int64_is_null(pairs: list[tuple[int | None, int]], number: int) -> None:
    """TensorFlow's integers wrap around in silence; Python's do not."""
    pairs = [*pairs, *product(BORDERS, BORDERS)]
    left, right = sparse([a for a, _ in pairs], tf.int64), tf.constant([b for _, b in pairs], tf.int64)
    assert listed(difference(left, right)) == [None if a is None else within(a - b) for a, b in pairs]
    assert listed(difference(right, left)) == [None if a is None else within(b - a) for a, b in pairs]
    assert listed(difference(number, right)) == [within(number - b) for _, b in pairs]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, np.uint64(2**63)])
def test_a_number_beyond_int64_is_a_mistake(number: Any) -> None:
    with pytest.raises(DefinitionError, match=r"difference: -?9223372036854775\d+ is beyond int64; write it as a float"):
        difference(tf.constant([1], tf.int64), number)


@pytest.mark.parametrize("of", [difference, ratio])
def test_what_has_no_number_per_row_is_a_mistake(of: Any) -> None:
    """FAULTS 26: one line."""
    with pytest.raises(DefinitionError, match=r"a column of texts is no number"):
        of(sparse(["a"], tf.string), 1)
    with pytest.raises(DefinitionError, match=r"lists of up to 3 values has not one value per row"):
        of(tf.SparseTensor([[0, 2]], [1.0], [1, 3]), 1)
    with pytest.raises(DefinitionError, match=r"one of both must be a column"):
        of(1, 2)
    with pytest.raises(DefinitionError, match=r"one of both must be a column"):
        of(tf.constant(1.0), 2)
    with pytest.raises(DefinitionError, match=r"list is no column of one value per row, and no number"):
        of([1.0], tf.constant([1.0]))


def test_in_a_graph_of_tf_transform(tmp_path: Any) -> None:
    """FAULTS 26: as users write it: built by the analysis, loaded, applied; a row alone has the bits it has among others."""

    def function(inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            "above": difference(inputs["fare_mean_1h"], 10.0),
            "per_trip": ratio(inputs["fare_mean_1h"], inputs["count_1h"]),
            "unpaid": difference(inputs["count_1h"], inputs["paid_last_1h"]),
            "far": difference(inputs["count_1h"], -(2**63 - 2)),
        }

    rows = graph_build.rows(400, seed=3)
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_batches([rows]), file)
    group = graph_build.GROUP
    found = analyze_groups({group.name: (group, function, [str(file)])}, tmp_path / "graphs", options("direct", []), lambda line: None)
    graph = TransformGraph.load(tmp_path / "graphs" / group.name / found[group.name])
    assert graph.plan_problem == ""
    out = graph.apply(rows)
    fare, count, paid = (rows.column(rows.schema.get_field_index(n)).to_pylist() for n in ("fare_mean_1h", "count_1h", "paid_last_1h"))
    want: dict[str, list[Any]] = {
        "above": [None if f is None else float(np.float32(f) - np.float32(10)) for f in fare],
        "per_trip": [None if f is None or c == 0 else float(np.float32(f) / np.float32(c)) for f, c in zip(fare, count, strict=True)],
        "unpaid": [None if p is None else c - p for c, p in zip(count, paid, strict=True)],
        "far": [within(c + 2**63 - 2) for c in count],
    }
    assert None in want["far"] and 2**63 - 2 in want["far"]
    got = {name: out.column(out.schema.get_field_index(name)).to_pylist() for name in want}
    assert got == want
    assert graph.apply(rows.slice(7, 1)).to_pylist() == out.slice(7, 1).to_pylist()
