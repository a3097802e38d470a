"""Protobuf's messages as events: every kind of field, schemas that change, and bytes that attack."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import json_format

from pipelines.inference.schema_words import protobuf_words
from pipelines.project.config import KafkaSettings
from pipelines.sources.formats import protobuf_schemas
from pipelines.sources.formats.protobuf_columns import columns_of, everything
from pipelines.sources.formats.protobuf_wants import Want, wanted
from pipelines.sources.formats.record_format import RecordFormat, record_format
from pipelines.sources.formats.schema_registry import RegistryAway
from tests.protobuf_types import File, classes, descriptor_set, file_of
from tests.schema_registry import SchemaRegistry, schema_registry
from transforms.contract import Checked
from transforms.definitions import EventSource, Field, RecordKey
from transforms.errors import ConfigError

NOW = 1_700_000_000_000_000
AT = NOW - 1_000_000
CLICKS = EventSource(
    name="clicks",
    fields=[
        Field("id", "string", required=True),
        Field("kind", "string"),
        Field("amount", "float64"),
        Field("big", "int64"),
        Field("huge", "int64"),
        Field("flag", "bool"),
        Field("seen", "timestamp"),
    ],
    event_time="at",
    tie_breaker="id",
    topic="clicks",
)
CLICK = {
    "id": "string", "at": ".google.protobuf.Timestamp", "kind": "enum .shop.Kind", "amount": "optional double", "big": "int64",
    "huge": "uint64", "flag": ".google.protobuf.BoolValue", "seen": "int64",
}  # fmt: skip
IMPORTS = ("google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto")
FILE = file_of("shop/click.proto", {"Click": CLICK}, enums={"Kind": ["UNKNOWN", "VIEW", "BUY"]}, imports=IMPORTS)
Click = classes(FILE)["shop.Click"]


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def put(registry: SchemaRegistry, file: File, subject: str = "clicks-value", references: Any = None) -> int:
    return registry.register(subject, base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF", references)


def reader_of(registry: SchemaRegistry | None, folder: Path | None = None, source: EventSource = CLICKS, **options: Any) -> RecordFormat:
    given = {source.name: options} if options else {}
    settings = KafkaSettings(schema_registry=registry.url if registry else "", formats={source.name: "protobuf"}, format_options=given)
    if folder is not None:
        settings.within(folder)
    return record_format(source, settings)


def framed(number: int, body: bytes, indexes: bytes = b"\x00") -> bytes:
    return b"\x00" + struct.pack(">I", number) + indexes + body


def click(**changes: Any) -> Any:
    made = Click(id="c1", kind=2, amount=0.0, big=2**53 + 1, huge=5, seen=AT)
    made.at.FromMicroseconds(AT)
    made.flag.value = False
    for name, value in changes.items():
        made.ClearField(name) if value is None else setattr(made, name, value)
    return made


def judged(form: RecordFormat, *payloads: bytes | None) -> Checked:
    return form.decode(pa.array(payloads, pa.binary()), NOW, 0)


def verdicts(form: RecordFormat, *payloads: bytes | None) -> list[tuple[str | None, str | None]]:
    checked = judged(form, *payloads)
    return list(zip(checked.reasons.to_pylist(), checked.details.to_pylist(), strict=True))


def test_every_kind_of_field(registry: SchemaRegistry) -> None:
    number = put(registry, FILE)
    form = reader_of(registry)
    bare = Click(id="c2")
    bare.at.seconds, bare.at.nanos = AT // 10**6, 999_999_999
    checked = judged(form, framed(number, click().SerializeToString()), framed(number, bare.SerializeToString()))
    assert checked.reasons.to_pylist() == [None, None]
    first, second = checked.valid.to_pylist()
    assert {k: v for k, v in first.items() if k not in ("at", "seen")} == {
        "id": "c1", "kind": "BUY", "amount": 0.0, "big": 2**53 + 1, "huge": 5, "flag": False,
    }  # fmt: skip
    assert {k: v for k, v in second.items() if k not in ("at", "seen")} == {
        "id": "c2", "kind": "UNKNOWN", "amount": None, "big": 0, "huge": 0, "flag": None,
    }  # fmt: skip
    assert checked.times.cast(pa.int64()).to_pylist() == [AT, AT // 10**6 * 10**6 + 999_999]


def test_of_an_enums_aliases_the_first_is_its_name() -> None:
    """As Protobuf's own JSON has it, whichever comes last in the schema."""
    file = file_of("shop/a.proto", {"E": {"id": "string", "at": "int64", "state": "enum .shop.State"}}, enums={"State": ["NEW", "PAID"]})
    file.enum_type[0].options.allow_alias = True
    file.enum_type[0].value.add(name="SETTLED", number=1)
    made = classes(file)["shop.E"](id="e", at=1, state=1)
    (column,) = columns_of(made.DESCRIPTOR, {"state": Want(dtype="string")})
    assert column.get(made) == json_format.MessageToDict(made)["state"] == "PAID"
    assert protobuf_words([made.DESCRIPTOR]) == {("state",): ("NEW", "PAID")}


def test_what_does_not_fit_is_said(registry: SchemaRegistry) -> None:
    number = put(registry, FILE)
    form = reader_of(registry)
    bodies = [click(huge=2**64 - 1), click(amount=float("nan")), click(at=None), click(id=""), click(kind=9)]
    assert [reason for reason, _ in verdicts(form, *(framed(number, b.SerializeToString()) for b in bodies))] == [
        "overflow", "nan", "missing_timestamp", None, None,
    ]  # fmt: skip
    assert judged(form, framed(number, bodies[4].SerializeToString())).valid.column("kind").to_pylist() == ["9"], "no name: its number"


def test_nested_messages_lists_and_maps() -> None:
    file = file_of(
        "shop/order.proto",
        {
            "Order": {
                "user": ".shop.Order.User", "items": "repeated .shop.Order.Item", "tags": "repeated string", "price": ".shop.Decimal",
                "labels": "map string string", "counts": "map int32 .shop.Decimal", "card": "oneof pay string", "cash": "oneof pay int64",
                "took": ".google.protobuf.Duration", "parent": ".shop.Order", "raw": "bytes", "ratio": "float",
                "kinds": "repeated enum .shop.Kind", "nick": ".google.protobuf.StringValue",
            },
            "Order.User": {"id": "string", "home": ".shop.Order.Address"}, "Order.Address": {"city": "optional string"},
            "Order.Item": {"sku": "string", "n": "int32"}, "Decimal": {"value": "string"},
        },
        enums={"Kind": ["A", "B"]},
        imports=("google/protobuf/duration.proto", "google/protobuf/wrappers.proto"),
    )  # fmt: skip
    Order = classes(file)["shop.Order"]
    order = Order(
        user={"id": "u", "home": {"city": "Oslo"}}, items=[{"sku": "a", "n": 2}, {"sku": "b"}], tags=["x", "y"], price={"value": "1.20"},
        labels={"colour": "red"}, cash=5, parent={"parent": {"user": {"id": "deep"}}}, raw=b"\xff",
        ratio=0.5, kinds=[1, 0, 7], nick={"value": ""},
    )  # fmt: skip
    order.took.FromMilliseconds(1500)
    order.counts[7].value = "9"
    asked = {
        "user": Want(parts={"id": Want("string"), "home": Want(parts={"city": Want("string")})}),
        "items": Want(items=Want(parts={"sku": Want("string"), "n": Want("int64")})),
        "tags": Want(), "price": Want(parts={"value": Want("string")}), "labels": Want(parts={"colour": Want(), "size": Want()}),
        "counts": Want(parts={"7": Want(parts={"value": Want()}), "x": Want()}), "card": Want(), "cash": Want(), "took": Want("float64"),
        "parent": Want(parts={"parent": Want(parts={"user": Want(parts={"id": Want()})})}), "raw": Want(), "ratio": Want("float64"),
        "kinds": Want(), "nick": Want("string"), "none": Want(),
    }  # fmt: skip
    columns = columns_of(Order.DESCRIPTOR, asked)
    row, empty = (
        {c.name: pa.array([c.get(Order.FromString(message.SerializeToString()))], c.type)[0].as_py() for c in columns}
        for message in (order, Order())
    )
    assert row == {
        "user": {"id": "u", "home": {"city": "Oslo"}}, "items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 0}], "tags": ["x", "y"],
        "price": {"value": "1.20"}, "labels": {"colour": "red", "size": None}, "counts": {"7": {"value": "9"}}, "card": None, "cash": 5,
        "took": 1.5, "parent": {"parent": {"user": {"id": "deep"}}}, "raw": b"\xff", "ratio": 0.5, "kinds": ["B", "A", "7"], "nick": "",
    }  # fmt: skip
    assert {k for k, v in empty.items() if v is None} == {"user", "price", "card", "cash", "took", "parent", "nick"}
    assert columns_of(Order.DESCRIPTOR, {"took": Want("int64")})[0].get(order) == 1_500_000


def test_each_record_is_read_by_the_schema_it_was_written_with(registry: SchemaRegistry) -> None:
    """A later version adds, renames and widens fields; a name that the source does not have is dropped, and one that it has is read."""
    old = file_of("click.proto", {"Click": {"id": "string", "at": "int64"}})
    new = file_of("click.proto", {"Meta": {"n": "int64"}, "Click": {"id": "string", "at": "int64", "extra": ".shop.Meta", "big": "sint32"}})
    first, second = put(registry, old), put(registry, new)
    form = reader_of(registry)
    Old, New = classes(old)["shop.Click"], classes(new)["shop.Click"]
    sent = [
        framed(first, Old(id="a", at=AT).SerializeToString()),
        framed(second, New(id="b", at=AT, extra={"n": 1}, big=-7).SerializeToString(), b"\x02\x02"),
        framed(first, New(id="c", at=AT, extra={"n": 1}, big=-7).SerializeToString()),  # a field that its schema does not know
        framed(99, b"x"),
        framed(second, b"", b"\x02\x08"),
        framed(second, b"\x08\x01"),  # Meta: no event
    ]
    checked = judged(form, *sent)
    assert checked.valid.column("id").to_pylist() == ["a", "b", "c"] and checked.valid.column("big").to_pylist() == [None, -7, None]
    told = list(zip(checked.reasons.to_pylist(), checked.details.to_pylist(), strict=True))[3:]
    assert told == [
        ("unknown_schema", "schema 99 is not known to the registry"),
        ("unknown_schema", f"schema {second}: it has no message at index 4"),
        ("missing_timestamp", "at is missing or null"),
    ]
    assert len([r for r in registry.requests if r.startswith("GET")]) == 3, "each schema is asked for once"


def test_imports_of_the_registry(registry: SchemaRegistry) -> None:
    base = file_of("common/money.proto", {"Money": {"text": "string"}}, package="common")
    file = file_of("click.proto", {"Click": {"id": "string", "at": "int64", "price": ".common.Money"}}, imports=("common/money.proto",))
    put(registry, base, "money")
    number = put(registry, file, references=[{"name": "common/money.proto", "subject": "money", "version": 1}])
    made = classes(base, file)["shop.Click"](id="a", at=AT, price={"text": "1"})
    assert verdicts(reader_of(registry), framed(number, made.SerializeToString())) == [(None, None)]
    lost = put(registry, file, references=[{"name": "common/money.proto", "subject": "gone", "version": 1}])
    alone = put(registry, file_of("click.proto", {"Click": {"id": ".common.Money"}}, imports=("common/money.proto",)))
    assert verdicts(reader_of(registry), framed(lost, b""), framed(alone, b"")) == [
        ("unknown_schema", f"schema {lost}: it imports version 1 of gone, which the registry does not know"),
        ("unknown_schema", f"schema {alone}: it imports common/money.proto, which is not there"),
    ]


def test_schemas_that_are_none(registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a registry holds was written by others: it costs a line, and no more."""
    circle = file_of("a.proto", {"A": {"x": "string"}}, imports=("b.proto",))
    back = file_of("b.proto", {"B": {"x": "string"}}, imports=("a.proto",))
    put(registry, back, "b")
    put(registry, circle, "a", [{"name": "b.proto", "subject": "b", "version": 1}])
    numbers = {
        "it is AVRO": registry.register("x", {"type": "string"}),
        "no description": registry.register("x", base64.b64encode(b"\xff\xff").decode(), "PROTOBUF"),
        "no valid Protobuf schema": put(registry, file_of("c.proto", {"C": {"x": ".no.Such"}})),
        "in a circle": put(registry, circle, "c", [{"name": "b.proto", "subject": "b2", "version": 1}]),
    }
    put(registry, file_of("b.proto", {"B": {"x": "string"}}, imports=("schema.proto",)), "b2")
    form = reader_of(registry)
    for words, number in numbers.items():
        ((reason, detail),) = verdicts(form, framed(number, b"\x0a\x01a"))
        assert reason == "unknown_schema" and words in str(detail) and "\n" not in str(detail), (words, detail)
    monkeypatch.setattr(protobuf_schemas, "MOST_FILES", 10)
    many = [{"name": f"f{i}.proto", "subject": f"f{i}", "version": 1} for i in range(12)]
    for reference in many:
        put(registry, file_of(str(reference["name"]), {"M": {"x": "string"}}, package=str(reference["subject"])), str(reference["subject"]))
    number = put(registry, FILE, "d", many)
    assert "it imports more than 10 files" in str(verdicts(form, framed(number, b"\x0a\x01a"))[0][1])


def test_a_registry_that_gives_text_alone_or_nothing(registry: SchemaRegistry) -> None:
    number = registry.register("clicks-value", 'syntax = "proto3"; message Click { string id = 1; }', "PROTOBUF")
    with pytest.raises(ConfigError, match=r"gives a Protobuf schema as text, .* kafka\.format_options\.<source>\.descriptor"):
        judged(reader_of(registry), framed(number, b"\x0a\x01a"))
    registry.broken = 503
    with pytest.raises(RegistryAway):
        judged(reader_of(registry), framed(77, b"\x0a\x01a"))
    with pytest.raises(ConfigError, match=r"kafka\.schema_registry is missing"):
        reader_of(None)


def test_a_file_of_descriptors(tmp_path: Path) -> None:
    (tmp_path / "shop.desc").write_bytes(descriptor_set(FILE))
    form = reader_of(None, tmp_path, descriptor="shop.desc")
    body = click().SerializeToString()
    assert verdicts(form, body, framed(4711, body), framed(4711, body, b"\x02\x06"), b"") == [
        (None, None), (None, None), (None, None), ("malformed", "the payload is empty"),
    ]  # fmt: skip
    sent = judged(form, body).valid
    assert judged(form, form.encode(sent)[0].as_py()).valid.equals(sent), "written as it is read"
    two = file_of("two.proto", {"A": {"id": "string", "at": "int64"}, "B": {"id": "string"}})
    (tmp_path / "two.desc").write_bytes(descriptor_set(two))
    with pytest.raises(ConfigError, match=r"kafka\.format_options\.clicks\.message is missing; two\.desc has several .*: shop\.A, shop\.B"):
        reader_of(None, tmp_path, descriptor="two.desc")
    with pytest.raises(ConfigError, match=r"message: 'shop\.C' is not in two\.desc; it has shop\.A, shop\.B"):
        reader_of(None, tmp_path, descriptor="two.desc", message="shop.C")
    form = reader_of(None, tmp_path, descriptor="two.desc", message="shop.A")
    assert verdicts(form, classes(two)["shop.A"](id="x", at=AT).SerializeToString()) == [(None, None)]
    (tmp_path / "bad.desc").write_bytes(b"\xff\xfe")
    for name, words in (("bad.desc", "holds no descriptors"), ("none.desc", "cannot be read: No such file")):
        with pytest.raises(ConfigError, match=words):
            reader_of(None, tmp_path, descriptor=name)


def test_one_message_of_a_topic_of_several(registry: SchemaRegistry) -> None:
    file = file_of("two.proto", {"A": {"id": "string", "at": "int64"}, "B": {"id": "string"}})
    number = put(registry, file)
    form = reader_of(registry, message="shop.A")
    made = classes(file)
    assert verdicts(form, framed(number, made["shop.A"](id="a", at=AT).SerializeToString()), framed(number, b"", b"\x02\x02")) == [
        (None, None), ("unknown_schema", f"schema {number}: a record of shop.B, not of shop.A"),
    ]  # fmt: skip


def test_bytes_that_attack_cost_little(registry: SchemaRegistry) -> None:
    """Huge lengths, depth, headers that go on for ever: a dead letter each, in a time that their bytes explain."""
    tree = file_of("tree.proto", {"Tree": {"id": "string", "at": "int64", "child": ".shop.Tree", "many": "repeated .shop.Tree"}})
    number = put(registry, tree)
    form = reader_of(registry)
    deep = b""
    for _ in range(20_000):
        deep = b"\x1a" + _varint(len(deep)) + deep
    attacks = [
        framed(number, deep),
        framed(number, b"\x0a\xff\xff\xff\xff\x07"),
        framed(number, b"\x0a" + b"\xff" * 11),
        framed(number, b"\x1b" * 100_000),
        framed(number, b"", b"\xfe\xff\xff\xff\x0f" * 50),
        framed(number, b"", b"\x7e" + b"\x00" * 40),
        framed(number, b"", b"\x02"),
        framed(number, b"", b"\x02\x01"),
        b"\x00\x00",
        b"\x00" * 100_000,
        framed(number, b"\x00" * 1000),
    ]
    good = framed(number, classes(tree)["shop.Tree"](id="a", at=AT).SerializeToString())
    began = time.process_time()
    checked = judged(form, good, *attacks, good)
    assert time.process_time() - began < 5
    assert checked.accepted.tolist() == [0, len(attacks) + 1]
    assert set(checked.reasons.to_pylist()[1:-1]) <= {"malformed", "unknown_schema"}
    assert all(len(d) < 300 for d in checked.details.to_pylist()[1:-1])
    wide = framed(number, b"\x22\x00" * 1_000_000 + b"\x0a\x01a\x10" + _varint(AT))  # a million empty messages, which nobody asked for
    began = time.process_time()
    assert verdicts(form, wide) == [(None, None)]
    assert time.process_time() - began < 5


def test_texts_of_proto2_are_looked_at(registry: SchemaRegistry) -> None:
    file = file_of("old.proto", {"Old": {"id": "string", "at": "int64", "kind": "string"}}, syntax="proto2")
    file.message_type[0].field[2].default_value = "none said"
    number = put(registry, file)
    Old = classes(file)["shop.Old"]
    good = framed(number, Old(id="a", at=AT).SerializeToString())
    form = reader_of(registry)
    bad = framed(number, b"\x0a\x01\xff\x10" + _varint(AT))
    checked = judged(form, good, bad, good)
    assert checked.reasons.to_pylist() == [None, "invalid_utf8", None]
    assert checked.valid.column("kind").to_pylist() == ["none said"] * 2, "the default that its schema declares"
    assert judged(form, framed(number, Old(id="a").SerializeToString())).reasons.to_pylist() == ["missing_timestamp"]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_what_fields_ask_for_by_their_paths() -> None:
    """No more of a message is read than paths lead to, however deep they go; what stands beside the payload is no part of it."""
    source = EventSource(
        name="orders",
        fields=[
            Field("id", "string", required=True, path="order.id"),
            Field("city", "string", path="order.user.home.city"),
            Field("sku", "string", path="order.items[].sku"),
            Field("first", "string", path="tags[0]"),
            Field("tags", "list<string>"),
            Field("key", "string", path=RecordKey()),
        ],
        event_time=Field("at", "timestamp", path="meta.at"),
        tie_breaker="id",
        explode="order.items",
    )
    home = Want(parts={"city": Want("string")})
    order = {"id": Want("string"), "user": Want(parts={"home": home}), "items": Want(items=Want(parts={"sku": Want("string")}))}
    assert wanted(source) == {
        "meta": Want(parts={"at": Want("timestamp")}),
        "order": Want(parts=order),
        "tags": Want("list<string>", items=Want("string")),
    }


def test_a_message_of_messages_of_its_own_kind_has_a_bounded_number_of_columns() -> None:
    """What ``infer`` looks at: of three hundred such fields four deep there are eight thousand million."""
    file = file_of("shop/tree.proto", {"Tree": {f"branch_{i}": ".shop.Tree" for i in range(300)}})
    (tree,) = (each.DESCRIPTOR for each in classes(file).values())

    def size(wants: dict[str, Want]) -> int:
        return sum(1 + size(want.parts) for want in wants.values())

    assert 1_000 < size(everything(tree)) <= 2_000
    columns_of(tree, everything(tree))
