"""Lists as fields: the last one of a window is a feature, whatever order its events came in."""

from __future__ import annotations

import io
import itertools
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from transforms.contract import check
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, First, Last, LastN, hours
from transforms.errors import DefinitionError
from transforms.functions.aggregate import Events
from transforms.schemas import avro_schema, json_schema, source_schema

SOURCE = EventSource(
    "views",
    [Field("id", "string", required=True), Field("user", "string", required=True), Field("tags", "list<string>"),
     Field("vector", "list<float>")],
    event_time="at", tie_breaker="id",
)  # fmt: skip


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.list_(pa.float64())])
@pytest.mark.parametrize(("aggregate", "end"), [(Last, -1), (First, 0)])
def test_the_newest_or_oldest_list_in_any_order(kind: pa.DataType, aggregate: Any, end: int) -> None:
    def typed(values: list[int]) -> list[Any]:
        return [str(v) if pa.types.is_string(kind.value_type) else float(v) for v in values]

    events = [(1, "a", [1, 2]), (2, "a", None), (2, "b", [3]), (3, "a", []), (3, "a", [4, 5])]
    a = aggregate("tags" if pa.types.is_string(kind.value_type) else "vector", over=hours(1))
    [spec] = a.states()
    present = sorted((t, tie, typed(v)) for t, tie, v in events if v is not None)
    for order in itertools.permutations(events):
        values = pa.array([None if v is None else typed(v) for _, _, v in order], kind)
        made = spec.state.add_input(Events(values, np.array([t for t, _, _ in order]), pa.array([tie for _, tie, _ in order])), spec.param)
        halves = made.merge(np.array([0, 2]), np.array([2, 5]), ordered=False)
        whole = type(halves).from_arrow(halves.to_arrow(), spec.param).merge(np.array([0, 2]), np.array([2, 2]), ordered=False)
        assert a.extract_output([whole], np.array([1, 1])).to_pylist() == [present[end][2], []]


def test_features_of_lists() -> None:
    group = FeatureGroup("views", SOURCE, Entity("user"), hours(1), hours(2), [Last("tags", over=hours(1)), Last("vector", over=hours(1))])
    assert [f.arrow_field.type for f in group.features] == [pa.list_(pa.string()), pa.list_(pa.float64())]
    assert not any(f.arrow_field.nullable for f in group.features)
    for wrong in (LastN("vector", over=hours(1)), Count(over=hours(1), where=Field("tags").eq("x"))):
        with pytest.raises(DefinitionError):
            FeatureGroup("views", SOURCE, Entity("user"), hours(1), hours(2), [wrong])


def test_what_a_list_may_hold() -> None:
    lists: list[Any] = [["a"], [], None, ["a", None], ["x" * 70_000], ["a"] * 8193]
    texts = [pa.array(["i"] * 6), pa.array(["u"] * 6)]
    rows = pa.RecordBatch.from_arrays([pa.array([10**15] * 6), *texts, pa.array(lists)], ["at", "id", "user", "tags"])
    checked = check(rows, SOURCE, 2 * 10**15, 0)
    assert checked.reasons.to_pylist() == [None, None, None, "wrong_type", "too_long", "too_long"]
    assert checked.valid.column(3).to_pylist() == [["a"], [], None]


EMBEDDED = EventSource(
    "views",
    [Field("id", "string", required=True), Field("user", "string", required=True), Field("vector", "list<float>", length=2),
     Field("words", "list<string>", length=2)],
    event_time="at", tie_breaker="id",
)  # fmt: skip


@pytest.mark.parametrize("column", ["vector", "words"])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_last_lists_lie_one_after_the_other(column: str, n: int) -> None:
    """In whatever order and parts their events came; newest first, and among equals by tie-breaker and value."""
    kind = EMBEDDED.field(column).arrow_type

    def typed(values: list[int]) -> list[Any]:
        return [str(v) for v in values] if column == "words" else [float(v) for v in values]

    events = [(1, "a", [1, 2]), (2, "a", None), (2, "b", [3, 9]), (3, "a", [5, 0]), (3, "a", [4, 5])]
    [spec] = (a := LastN(column, n=n, over=hours(1))).states()
    newest = sorted(((t, tie, typed(v)) for t, tie, v in events if v is not None), reverse=True)
    for order in itertools.permutations(events):
        values = pa.array([None if v is None else typed(v) for _, _, v in order], kind)
        made = spec.state.add_input(Events(values, np.array([t for t, _, _ in order]), pa.array([tie for _, tie, _ in order])), spec.param)
        halves = made.merge(np.array([0, 2]), np.array([2, 5]), ordered=False)
        whole = type(halves).from_arrow(halves.to_arrow(), spec.param).merge(np.array([0, 2]), np.array([2, 2]), ordered=False)
        flat = [one for _, _, v in newest[:n] for one in v]
        assert a.extract_output([whole], np.array([1, 1])).to_pylist() == [flat, []]


def test_features_of_the_last_lists() -> None:
    group = FeatureGroup("views", EMBEDDED, Entity("user"), hours(1), hours(2), [LastN("vector", n=3, over=hours(1))])
    (feature,) = group.features
    assert (feature.arrow_field.type, feature.output.width) == (pa.list_(pa.float64()), 6)
    with pytest.raises(DefinitionError, match=r"give field 'vector' the length= .* or take Last, or explode"):
        FeatureGroup("views", SOURCE, Entity("user"), hours(1), hours(2), [LastN("vector", over=hours(1))])
    wide = EventSource("views", [EMBEDDED.field("id"), EMBEDDED.field("user"), Field("vector", "list<float>", length=4096)], "at", "id")
    with pytest.raises(DefinitionError, match="3 lists of 4096 are more than 8192 values; take a smaller n"):
        FeatureGroup("views", wide, Entity("user"), hours(1), hours(2), [LastN("vector", n=3, over=hours(1))])


def test_a_list_of_another_length_is_a_dead_letter() -> None:
    texts = [pa.array(["i"] * 4), pa.array(["u"] * 4)]
    lists = pa.array([[1.0, 2.0], None, [1.0], [1.0, 2.0, 3.0]])
    rows = pa.RecordBatch.from_arrays([pa.array([10**15] * 4), *texts, lists], ["at", "id", "user", "vector"])
    checked = check(rows, EMBEDDED, 2 * 10**15, 0)
    assert checked.reasons.to_pylist() == [None, None, "out_of_range", "out_of_range"]
    assert checked.details.to_pylist()[2:] == ["vector (a list) has 1 elements, not 2", "vector (a list) has 3 elements, not 2"]
    for wrong in (lambda: Field("x", "string", length=2), lambda: Field("x", "list<float>", length=0)):
        with pytest.raises(DefinitionError, match="length"):
            wrong()


def test_producers_are_told_of_lists() -> None:
    made = json_schema(EMBEDDED)["properties"]
    assert made["vector"]["anyOf"][0] == {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    avro = fastavro.parse_schema(avro_schema(SOURCE))
    event = {"at": 1, "id": "a", "user": "u", "tags": ["x"], "vector": None}
    fastavro.schemaless_writer(io.BytesIO(), avro, event)
    (vector,) = [f for f in source_schema(EMBEDDED).feature if f.name == "vector"]
    assert (vector.value_count.min, vector.value_count.max) == (2, 2)
