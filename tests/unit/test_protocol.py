"""The encoding of a model's inputs and of request columns, as pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.models import to_model_inputs
from serving.protocol import RequestField, checked_column, format_timestamp, v1_instances, v2_instances, v2_names
from serving.request_errors import InvalidRequestError, ModelInputError


def test_numbers_become_float32_with_nan_for_null() -> None:
    table = pa.table({"i": pa.array([1, None]), "f": [0.1, None], "b": [True, None], "n": pa.nulls(2), "ignored": ["x", "y"]})
    out = to_model_inputs(table, [(n, "float32") for n in "ifbn"])
    for name, first in (("i", 1.0), ("f", np.float32(0.1)), ("b", 1.0), ("n", np.nan)):
        assert out[name].dtype == np.float32
        np.testing.assert_array_equal(out[name], np.array([[first], [np.nan]], dtype=np.float32))


def test_strings_become_bytes_and_int64_stays_exact() -> None:
    at = pa.array([2**53 + 1, None], type=pa.timestamp("us", tz="UTC"))
    table = pa.table({"s": ["ä", None], "t": at, "i": pa.array([-7, None])})
    out = to_model_inputs(table, [("s", "string"), ("t", "int64"), ("i", "int64")])
    assert out["s"].tolist() == [["ä".encode()], [b""]]
    assert out["t"].tolist() == [[2**53 + 1], [-1]]
    assert out["i"].tolist() == [[-7], [-1]]


@pytest.mark.parametrize(("column", "dtype"), [(["x"], "float32"), ([1], "string"), ([1.5], "int64"), ([[1.0]], "float32")])
def test_a_column_that_does_not_fit_is_named(column: list[object], dtype: str) -> None:
    with pytest.raises(ModelInputError, match="model input 'x'"):
        to_model_inputs(pa.table({"x": column}), [("x", dtype)])
    with pytest.raises(ModelInputError, match="no such column"):
        to_model_inputs(pa.table({"y": column}), [("x", dtype)])


def test_timestamps_need_an_offset() -> None:
    field = RequestField("at", "timestamp")
    assert checked_column(["1970-01-01T01:00:00.000001+01:00"], field, "{i}") == [1]
    for bad in ("2013-07-01T12:00:00", "soon", 5):
        with pytest.raises(InvalidRequestError, match="with its offset"):
            checked_column([bad], field, "row {i}")


def test_timestamps_are_written_as_protobuf_does() -> None:
    expected = ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01.500Z", "1970-01-01T00:00:00.000001Z"]
    assert [format_timestamp(t) for t in (0, 1_500_000, 1)] == expected


def test_what_tf_serving_and_protobufs_json_send() -> None:
    """FAULTS 14: rows whose values are lists of one, values alone for a model of one field, and numbers as text."""
    city, distance, legs = RequestField("city", "string"), RequestField("distance", "float64", True), RequestField("legs", "int64")
    rows: list[dict[str, list[object]]] = [
        {"city": ["a"], "distance": ["1.5e2"], "legs": ["7"]},
        {"city": ["b"], "distance": [2], "legs": [3.0]},
    ]
    wanted: dict[str, list[object]] = {"city": ["a", "b"], "distance": [150.0, 2.0], "legs": [7, 3]}
    assert v1_instances({"instances": rows}, [city, distance, legs], 10) == (wanted, 2)
    columns = {name: [row[name] for row in rows] for name in wanted}
    assert v1_instances({"inputs": columns}, [city, distance, legs], 10) == (wanted, 2)
    for key in ("instances", "inputs"):
        assert v1_instances({key: ["a", "b"]}, [city], 10) == ({"city": ["a", "b"]}, 2)
        assert v1_instances({key: [["a"], ["b"]]}, [city], 10) == ({"city": ["a", "b"]}, 2)
    for text in ("far", "NaN", "1e999", "0x10", " 1", "1.", "1_0", "", "Infinity", "1" * 41):
        with pytest.raises(InvalidRequestError, match=r"instances\[0\].distance"):
            v1_instances({"instances": [{"distance": text}]}, [distance], 10)
    for body in ({"instances": ["a"]}, {"inputs": ["a"]}):
        with pytest.raises(InvalidRequestError):
            v1_instances(body, [city, legs], 10)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model_name": "other"}, "model_name 'other' of the body does not match the path, 'delay'; correct one of them"),
        ({"model_version": "2"}, "model_version '2' of the body does not match the path, '1'; correct one of them"),
        ({"outputs": [{"name": "delay"}, {"name": "none"}]}, r"outputs\[1\]: unknown output 'none'; the model has 'delay'"),
        ({"outputs": "delay and more"}, r"outputs\[0\]: unknown output 'delay and more'; the model has 'delay'"),
    ],
)
def test_what_an_open_inference_body_names_must_be_there(more: dict[str, Any], said: str) -> None:
    v2_names({"model_name": "delay", "model_version": None, "outputs": [{"name": "delay"}]}, "delay", 1, "delay")
    v2_names({}, "delay", 1, "delay")
    with pytest.raises(InvalidRequestError, match=said):
        v2_names(more, "delay", 1, "delay")


def test_binary_tensors_are_refused_with_the_way_out() -> None:
    body = {"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}]}
    with pytest.raises(InvalidRequestError, match="binary_data=False"):
        v2_instances(body, [RequestField("a", "string")], 10)


@pytest.mark.parametrize(("value", "kind"), [("x", "a string"), (1.5, "a number"), (True, "a boolean")])
def test_what_is_asked_for_is_named_in_english(value: Any, kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{kind}\\); give an int64 value$"):
        checked_column([value], RequestField("shop", "int64"), "entities.shop[{i}]")
    with pytest.raises(InvalidRequestError, match=r"is null; give an int64 value$"):
        checked_column([None], RequestField("shop", "int64"), "entities.shop[{i}]")
