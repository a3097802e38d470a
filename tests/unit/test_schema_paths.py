"""A path that leads to nothing is told by the schema alone: of Avro and JSON Schema, as their writers nest, refer and leave open."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastavro import parse_schema

from pipelines.sources.formats.schema_paths import AvroPlaces, JsonPlaces, Places, check_fields
from transforms.definitions import EventSource, Field, Header, RecordKey, RecordTimestamp
from transforms.errors import ConfigError, DefinitionError


def avro(fields: list[dict[str, Any]]) -> Places:
    named: dict[str, Any] = {}
    return AvroPlaces(parse_schema({"type": "record", "name": "shop.Envelope", "fields": fields}, named), named)


ROW = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}, {"name": "amount", "type": ["null", "double"]}]}
ENTRY = {"type": "record", "name": "Entry", "fields": [{"name": "key", "type": "string"}, {"name": "value", "type": "Row"}]}
AVRO = avro(
    [
        {"name": "before", "type": ["null", ROW]},
        {"name": "after", "type": ["null", "shop.Row"]},
        {"name": "items", "type": {"type": "array", "items": "shop.Row"}},
        {"name": "by_name", "type": {"type": "map", "values": ["null", "shop.Row"]}},
        {"name": "entries", "type": {"type": "array", "items": ENTRY}},
        {"name": "either", "type": ["string", "shop.Row"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "dotted_name", "type": "string"},
    ]
)
JSON = JsonPlaces(
    {
        "type": "object",
        "additionalProperties": False,
        "definitions": {
            "Row": {"type": "object", "properties": {"id": {"type": "integer"}, "amount": {}}, "additionalProperties": False},
            "Entry": {"properties": {"key": {}, "value": {"$ref": "#/definitions/Row"}}, "additionalProperties": False},
            "Node": {"type": "object", "properties": {"next": {"$ref": "#/definitions/Node"}}, "additionalProperties": False},
        },
        "properties": {
            "before": {"oneOf": [{"type": "null"}, {"$ref": "#/definitions/Row"}]},
            "after": {"oneOf": [{"type": "null"}, {"$ref": "#/definitions/Row"}]},
            "items": {"type": "array", "items": {"$ref": "#/definitions/Row"}},
            "by_name": {"type": "object", "additionalProperties": {"$ref": "#/definitions/Row"}},
            "entries": {"type": "array", "items": {"$ref": "#/definitions/Entry"}},
            "either": {"type": ["string", "object"], "properties": {"id": {}}},
            "at": {"type": "integer"},
            "dotted_name": {"type": "string"},
            "free": {"type": "object"},
            "node": {"$ref": "#/definitions/Node"},
            "far": {"$ref": "other.json#/Row"},
            "both": {"allOf": [{"$ref": "#/definitions/Row"}, {"properties": {"note": {}}, "additionalProperties": False}]},
        },
    }
)


@pytest.mark.parametrize("places", [AVRO, JSON], ids=["avro", "json"])
@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("after.amount", None),
        ("after.amuont", "write path='after.amount'"),
        ("after.Amount", "write path='after.amount'"),
        ("aftr.amount", "write path='after.amount'"),
        ("after.zzz", "there is id, amount"),
        ("items[0].amount", None),
        ("items[-1].ammount", "write path='items[-1].amount'"),
        ("by_name.any.amount", None),
        ("by_name.any.sum", "there is id, amount"),
        ("entries.any.amount", None),
        ("entries.any.amont", "write path='entries.any.amount'"),
        ("entries[0].val", "write path='entries[0].value'"),
        ("either.id", None),
        ("at.year", None),
        ("dotted.name", "write path='dotted_name'"),
        ("items.amount", None),
    ],
)
def test_paths(places: Places, path: str, fix: str | None) -> None:
    """What a schema has is fine, and so is what each record says for itself (a name within a number, or a list)."""
    source = made(Field("f", "string", path=path))
    heard: list[str] = []
    if fix is None:
        check_fields(source, places, "the newest schema of t-value", heard.append)
        assert heard == []
        return
    with pytest.raises(ConfigError) as error:
        check_fields(source, places, "the newest schema of t-value", heard.append)
    assert str(error.value) == (
        f"source 'orders': field 'f' stands at {path}, where no record of the newest schema of t-value can have anything; {fix}"
    )


def made(*fields: Field) -> EventSource:
    identity = Field("id", "string", required=True, path=RecordKey())
    return EventSource(name="orders", topic="t", fields=[identity, *fields], event_time="at", tie_breaker="id")


def test_fields_under_their_own_names_and_those_beside_records() -> None:
    beside = [
        Field("k", "string", path=RecordKey()),
        Field("h", "string", path=Header("x")),
        Field("r", "timestamp", path=RecordTimestamp()),
    ]
    check_fields(made(Field("f", "string", path="dotted_name"), *beside), AVRO, "it", pytest.fail)
    with pytest.raises(ConfigError, match=r"field 'f' stands at f, where no record of it can have anything; there is before, after"):
        check_fields(made(Field("f", "string")), AVRO, "it", pytest.fail)


@pytest.mark.parametrize("path", ["free.x.y", "far.x", "node.next.next.next", "both.id", "both.note"])
def test_what_a_json_schema_leaves_open(path: str) -> None:
    check_fields(made(Field("f", "string", path=path)), JSON, "it", pytest.fail)


@pytest.mark.parametrize(("path", "fix"), [("both.nte", "write path='both.note'"), ("node.next.nxt", "write path='node.next.next'")])
def test_branches_and_references_that_are_closed(path: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"{fix}$"):
        check_fields(made(Field("f", "string", path=path)), JSON, "it", pytest.fail)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"at": {}}, "unevaluatedProperties": False, "if": {}, "then": {"properties": {"f": {}}}},
        {"properties": {"at": {}}, "unevaluatedProperties": False, "dependentSchemas": {"at": {"properties": {"f": {}}}}},
        {"properties": {"at": {}}, "additionalProperties": False, "$defs": {"a": {"$anchor": "row"}}, "allOf": [{"$ref": "#row"}]},
    ],
)
def test_what_may_be_named_elsewhere_in_a_json_schema_is_no_mistake(schema: dict[str, Any]) -> None:
    check_fields(made(Field("f", "string")), JsonPlaces(schema), "it", lambda line: None)


@pytest.mark.parametrize("more", [{}, {"patternProperties": {}}])
def test_an_object_that_may_have_other_members_is_told_as_that(more: dict[str, Any]) -> None:
    places = JsonPlaces({"type": "object", "properties": {"at": {}, "amount": {}}, **more})
    heard: list[str] = []
    check_fields(made(Field("f", "string", path="amuont")), places, "the schema", heard.append)
    assert heard == [
        "source 'orders': field 'f' stands at amuont, where the schema names nothing; write path='amount', where it is no member that its"
        " writers add"
    ]


@pytest.mark.parametrize(
    "schema",
    [True, {}, {"additionalProperties": True, "properties": {"x": {}}}, {"patternProperties": {"^f": {}}, "properties": {}}, 7, None],
)
def test_a_json_schema_that_says_nothing(schema: Any) -> None:
    check_fields(made(Field("f", "string")), JsonPlaces(schema), "it", pytest.fail)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#/definitions/a"}}},
    ],
)
def test_references_in_a_circle_end(schema: Any) -> None:
    with pytest.raises(ConfigError, match=r"there is nothing$"):
        check_fields(made(Field("f", "string", path="a.b.c")), JsonPlaces(schema), "it", pytest.fail)


def chain(n: int, link: dict[str, Any]) -> Places:
    """A schema of so many definitions, each ``link`` to the next one (``"?"``); the last one has a member ``a`` alone."""
    last = {"properties": {"a": {"type": "string"}}, "additionalProperties": False}
    links = {str(i): json.loads(json.dumps(link).replace("?", f"#/d/{i + 1}")) for i in range(n)}
    return JsonPlaces({"$ref": "#/d/0", "d": {**links, str(n): last}})


@pytest.mark.parametrize("n", [1, 50, 2_000, 20_000])
def test_references_and_branches_of_any_depth(n: int) -> None:
    """Each was a call within the last one: a few hundred ended in a RecursionError."""
    straight = chain(n, {"$ref": "?"})
    assert straight.lost(("a",)) is None and straight.lost(("b",)) is not None
    branched = chain(n, {"anyOf": [{"$ref": "?"}]})
    assert branched.lost(("a",)) is None
    assert (branched.lost(("b",)) is not None) == (n <= 50), "so deep anything may be"


@pytest.mark.parametrize("n", [128, 129, 5_000])
def test_a_path_has_a_limit(n: int) -> None:
    """What is made for a path goes as deep as it: some hundreds of steps ended in a RecursionError."""
    for path in (".".join(["a"] * n), ["a"] * n):
        if n <= 128:
            assert len(Field("x", "string", path=path).place) == n  # type: ignore[arg-type]
        else:
            with pytest.raises(DefinitionError, match=f"path of {n:,} steps; no record is read deeper than 128; end it at a value above"):
                Field("x", "string", path=path)
