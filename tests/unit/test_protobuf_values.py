"""``google.protobuf.Struct``, ``Value`` and ``ListValue`` are the JSON that they hold: a record is judged as the same record of JSON is."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.protobuf_columns import everything
from pipelines.sources.formats.record_format import RecordFormat, record_format
from tests.examples import examples
from tests.protobuf_types import classes, file_of
from tests.schema_registry import SchemaRegistry, schema_registry
from tests.unit.test_protobuf import NOW, framed
from transforms.contract import check_json
from transforms.definitions import Decimal, Epoch, EventSource, Field

AT = NOW - 1_000_000
VISIT = {
    "id": "string", "at": "int64", "attrs": ".google.protobuf.Struct", "any": ".google.protobuf.Value",
    "tags": ".google.protobuf.ListValue",
}  # fmt: skip
FILE = file_of("shop/visit.proto", {"Visit": VISIT}, imports=("google/protobuf/struct.proto",))
Visit = classes(FILE)["shop.Visit"]
VISITS = EventSource(
    name="visits",
    fields=[
        Field("id", "string", required=True),
        Field("color", "string", path="attrs.color"),
        Field("size", "float64", path="attrs.size"),
        Field("count", "int64", path="attrs.count"),
        Field("sold", "bool", path="attrs.flags.sold"),
        Field("sent", "timestamp", path="attrs.sent", parse=Epoch("ms")),
        Field("price", "float64", path="attrs.price", parse=Decimal(scale=2)),
        Field("names", "list<string>", path="attrs.names"),
        Field("first", "float64", path="attrs.points[0]"),
        Field("any", "string"),
        Field("tags", "list<float>"),
    ],
    event_time="at",
    tie_breaker="id",
    topic="visits",
)


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


@pytest.fixture(scope="module")
def form(registry: SchemaRegistry) -> RecordFormat:
    registry.register("visits-value", base64.b64encode(FILE.SerializeToString()).decode(), "PROTOBUF")
    return record_format(VISITS, KafkaSettings(schema_registry=registry.url, formats={"visits": "protobuf"}))


def visit(record: dict[str, Any]) -> bytes:
    return framed(1, json_format.ParseDict(record, Visit()).SerializeToString())


def as_double(value: Any) -> Any:
    """As a double tells it: 2.0 and 2 are one number."""
    if isinstance(value, dict):
        return {key: as_double(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_double(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def same_as_json(form: RecordFormat, records: list[dict[str, Any]]) -> list[str | None]:
    """The reasons; values, reasons and details are those of JSON."""
    found = form.decode(pa.array([visit(r) for r in records], pa.binary()), NOW, 0)
    want = check_json([json.dumps(as_double(r)).encode() for r in records], VISITS, NOW, 0)
    assert found.reasons.to_pylist() == want.reasons.to_pylist()
    assert found.details.to_pylist() == want.details.to_pylist()
    assert found.valid.to_pylist() == want.valid.to_pylist()
    reasons: list[str | None] = found.reasons.to_pylist()
    return reasons


WHOLE: dict[str, Any] = {
    "id": "v1", "at": AT, "any": "text", "tags": [1.5, 2.0],
    "attrs": {
        "color": "red", "size": 2.5, "count": 7, "flags": {"sold": True}, "sent": AT // 1000, "price": "12.50", "names": ["a", "b"],
        "points": [0.25, 9.0],
    },
}  # fmt: skip


def test_what_json_holds(form: RecordFormat) -> None:
    empty = {"id": "v2", "at": AT}
    nulls = {"id": "v3", "at": AT, "any": None, "attrs": dict.fromkeys(WHOLE["attrs"])}
    assert same_as_json(form, [WHOLE, empty, nulls]) == [None, None, None]


ODD: dict[str, dict[str, Any]] = {
    "a number for a text": {"attrs": {"color": 5}},
    "a text for a number": {"attrs": {"size": "big"}},
    "a half for a whole number": {"attrs": {"count": 1.5}},
    "an object for a truth value": {"attrs": {"flags": {"sold": {"x": 1}}}},
    "a list for an object": {"attrs": {"flags": [1]}},
    "a text for a list": {"attrs": {"names": "a"}},
    "a list of another kind": {"attrs": {"names": [1]}},
    "a truth value for a text": {"any": True},
}


@pytest.mark.parametrize("name", ODD)
def test_another_kind_is_a_reject_of_this_record_alone(form: RecordFormat, name: str) -> None:
    records = [WHOLE, {"id": "v2", "at": AT, **ODD[name]}, {**WHOLE, "id": "v3"}]
    assert same_as_json(form, records) == [None, "wrong_type", None]


KINDS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(-1e6, 1e6, allow_subnormal=False), st.sampled_from(["red", "1.5"]),
    st.just([]), st.just(["a"]), st.just([1.5]), st.just({}), st.just({"sold": True}),
)  # fmt: skip


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["color", "size", "flags", "sent", "names", "points", "other"]), KINDS), min_size=1, max_size=6
    )
)
def test_records_are_judged_as_json_is(form: RecordFormat, attrs: list[dict[str, Any]]) -> None:
    same_as_json(form, [{"id": f"v{n}", "at": AT, "attrs": each} for n, each in enumerate(attrs)])


def test_infer_takes_no_keys_that_nobody_knows() -> None:
    assert set(everything(Visit.DESCRIPTOR)) == {"id", "at"}
