"""``google.protobuf.Any``: fields of what is packed, by the types of the same schema; what is packed of no known type is said."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import RecordFormat, record_format
from tests.protobuf_types import classes, descriptor_set, file_of
from tests.schema_registry import schema_registry
from tests.unit.test_protobuf import NOW, framed
from transforms.contract import Checked, check_json
from transforms.definitions import Decimal, EventSource, Field, col
from transforms.errors import ConfigError

AT = NOW - 1_000_000
# As in a real set, nothing that is packed is imported by what packs it.
PACKED = file_of(
    "shop/packed.proto",
    {
        "Order": {
            "id": "int64",
            "amount": "string",
            "buyer": ".shop.Order.Buyer",
            "sent": ".google.protobuf.Timestamp",
            "more": ".shop.Order",
        },
        "Order.Buyer": {"name": "string"},
        "Refund": {"id": "string", "amount": "string", "why": "repeated string", "attrs": ".google.protobuf.Struct"},
        "Ping": {},
    },
    imports=("google/protobuf/timestamp.proto", "google/protobuf/struct.proto"),
)
OUTER = file_of(
    "shop/outer.proto",
    {
        "Event": {"event_id": "string", "at": "int64", "payload": ".google.protobuf.Any", "extras": "repeated .google.protobuf.Any"},
    },
    imports=("google/protobuf/any.proto",),
)  # fmt: skip
MADE = classes(PACKED, OUTER)
FIELDS = [
    Field("event_id", "string", required=True),
    Field("type", "string", path=["payload", "@type"]),
    Field("url", "string", path="payload.type_url"),
    Field("order", "int64", path=["payload", "shop.Order", "id"]),
    Field("buyer", "string", path=["payload", "shop.Order", "buyer", "name"]),
    Field("sent", "timestamp", path=["payload", "shop.Order", "sent"]),
    Field("refund", "string", path=["payload", "shop.Refund", "id"]),
    Field("why", "list<string>", path=["payload", "shop.Refund", "why"]),
    Field("colour", "string", path=["payload", "shop.Refund", "attrs", "colour"]),
    Field("moment", "timestamp", path=["payload", "google.protobuf.Timestamp"]),
    Field("first", "int64", path=["extras", 0, "shop.Order", "id"]),
]
ANYHOW = [
    Field("event_id", "string", required=True),
    Field("cents", "int64", path="payload.amount", parse=Decimal(2)),
    Field("id", "string", path="payload.id"),
    Field("inner", "string", path="payload.more.buyer.name"),
    Field("colour", "string", path="payload.attrs.colour"),
]


def source(fields: list[Field], **more: Any) -> EventSource:
    return EventSource(name="things", fields=fields, event_time="at", tie_breaker="event_id", topic="things", **more)


@pytest.fixture(params=["descriptor", "registry"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """What makes the reader of a source."""
    if request.param == "descriptor":
        (tmp_path / "shop.desc").write_bytes(descriptor_set(PACKED, OUTER))
        settings = KafkaSettings(formats={"things": "protobuf"}, format_options={"things": {"descriptor": "shop.desc"}})
        settings.within(tmp_path)
        yield lambda of: record_format(of, settings)
        return
    with schema_registry() as running:
        text = [base64.b64encode(file.SerializeToString()).decode() for file in (PACKED, OUTER)]
        running.register("packed", text[0], "PROTOBUF")
        reference = {"name": PACKED.name, "subject": "packed", "version": 1}
        running.register("things-value", text[1], "PROTOBUF", [reference])
        yield lambda of: record_format(of, KafkaSettings(schema_registry=running.url, formats={"things": "protobuf"}))


def event(n: int, packed: Any = None, url: str = "type.googleapis.com/", **more: Any) -> bytes:
    made = MADE["shop.Event"](event_id=f"e{n}", at=AT)
    if packed is not None:
        made.payload.type_url, made.payload.value = url + packed.DESCRIPTOR.full_name, packed.SerializeToString()
    for name, value in more.items():
        setattr(made.payload, name, value)
    return framed(2, made.SerializeToString())


def judged(form: RecordFormat, payloads: list[bytes]) -> Checked:
    """The verdicts, which are those of each record alone."""
    found = form.decode(pa.array(payloads, pa.binary()), NOW, 0)
    alone = [form.decode(pa.array([p], pa.binary()), NOW, 0) for p in payloads]
    assert found.reasons.to_pylist() == [a.reasons[0].as_py() for a in alone]
    assert found.details.to_pylist() == [a.details[0].as_py() for a in alone]
    assert found.valid.to_pylist() == [row for a in alone for row in a.valid.to_pylist()]
    return found


def order(n: int, **more: Any) -> Any:
    made = MADE["shop.Order"](id=n, amount="12.50", **more)
    made.buyer.name = f"b{n}"
    made.sent.seconds = 1_700_000_000
    return made


def refund(n: int, **attrs: Any) -> Any:
    made = MADE["shop.Refund"](id=f"r{n}", amount="7", why=["late"])
    made.attrs.update(attrs)
    return made


def test_fields_of_the_type_that_is_named(opened: Any) -> None:
    moment = MADE["shop.Order"]().sent
    moment.seconds = 1_600_000_000
    payloads = [
        event(0, order(5)),
        event(1, refund(6, colour="red")),
        event(2),
        event(3, MADE["shop.Ping"](), url="x.y/"),
        event(4, moment),
    ]
    found = judged(opened(source(FIELDS)), payloads)
    assert found.reasons.null_count == 5
    rows = [{k: v for k, v in row.items() if v is not None and k not in ("event_id", "at", "type")} for row in found.valid.to_pylist()]
    urls = [row.pop("url", None) for row in rows]
    at = "type.googleapis.com/"
    assert urls == [at + "shop.Order", at + "shop.Refund", None, "x.y/shop.Ping", at + "google.protobuf.Timestamp"]
    assert (rows[0]["order"], rows[0]["buyer"], rows[0]["sent"].timestamp()) == (5, "b5", 1_700_000_000) and "refund" not in rows[0]
    assert rows[1] == {"refund": "r6", "why": ["late"], "colour": "red"}
    assert rows[4]["moment"].timestamp() == 1_600_000_000 and not rows[2] and not rows[3]
    assert found.valid.column("url").to_pylist() == found.valid.column("type").to_pylist()


def test_a_type_that_is_not_known_is_not_the_one_that_is_named(opened: Any) -> None:
    """So events of foreign types may be passed over by ``where``, and are no dead letters."""
    of = source(FIELDS, where=col("type") == "type.googleapis.com/shop.Order")
    payloads = [event(0, order(1)), event(1, type_url="type.googleapis.com/other.Thing", value=b"\xff"), event(2, refund(2))]
    found = judged(opened(of), payloads)
    assert found.reasons.null_count == 3 and found.valid.column("order").to_pylist() == [1] and found.passed_over == 2


def test_fields_of_whatever_is_packed(opened: Any) -> None:
    outer = order(3)
    outer.more.buyer.name = "inside"
    payloads = [event(0, outer), event(1, refund(4, colour="red")), event(2, MADE["shop.Ping"]()), event(3), event(4, refund(5, colour=7))]
    found = judged(opened(source(ANYHOW)), payloads)
    assert found.reasons.to_pylist() == ["wrong_type", None, None, None, "wrong_type"]
    assert found.details.to_pylist()[::4] == [
        "id=3 is no string; the field's parse=Text() reads it",
        "colour=7 is no string; the field's parse=Text() reads it",
    ]
    rows = [[row[name] for name in ("cents", "id", "inner", "colour")] for row in found.valid.to_pylist()]
    assert rows == [[700, "r4", None, "red"], [None] * 4, [None] * 4]
    without = source([f for f in ANYHOW if f.name != "id"])
    assert judged(opened(without), payloads[:1]).valid.to_pylist()[0]["inner"] == "inside"


def test_what_cannot_be_read_is_told(opened: Any) -> None:
    unknown, broken = event(0, type_url="type.googleapis.com/other.Thing"), event(1, type_url="a/shop.Order", value=b"\xff\xff")
    found = judged(opened(source(ANYHOW)), [unknown, event(2, refund(1)), broken])
    assert found.reasons.to_pylist() == ["unknown_schema", None, "malformed"]
    assert found.details[0].as_py() == "a google.protobuf.Any packs a other.Thing, which none of the schema's files has"
    assert found.details[2].as_py() == "a google.protobuf.Any packs no shop.Order, as its type_url says: its bytes are none"


def test_lists_of_packed_messages(opened: Any) -> None:
    made = MADE["shop.Event"](event_id="e", at=AT)
    for packed in (order(1), refund(2), order(3)):
        made.extras.add(type_url=f"t/{packed.DESCRIPTOR.full_name}", value=packed.SerializeToString())
    path = ["extras", "[]", "shop.Order", "id"]
    each = source([Field("event_id", "string", required=True), Field("order", "int64", path=path)], explode="extras")
    found = judged(opened(each), [framed(2, made.SerializeToString())])
    assert found.valid.column("order").to_pylist() == [1, None, 3]


def test_json_inside_of_nested_messages_is_judged_as_json(opened: Any) -> None:
    """A value of another kind, however deep its message lies, is judged by itself."""
    fields = [Field("event_id", "string", required=True), Field("size", "string", path=["payload", "shop.Refund", "attrs", "size"])]
    found = judged(opened(source(fields)), [event(0, refund(1, size=3)), event(1, refund(1, size="3"))])
    record = json.dumps({"event_id": "e0", "at": AT, "size": 3}).encode()
    plain = EventSource("s", [fields[0], Field("size", "string")], event_time="at", tie_breaker="event_id")
    assert found.details.to_pylist() == [check_json([record], plain, NOW, 0).details[0].as_py(), None]
    assert found.valid.column("size").to_pylist() == ["3"]


@pytest.mark.parametrize(("key", "value", "more"), [("key", "value", {}), ("Key", "Value", {}), ("name", "value", {"type": "string"})])
def test_a_map_that_is_a_list_of_entries(key: str, value: str, more: dict[str, str]) -> None:
    """As in JSON: the parts of ``repeated`` messages of a key and a value are those of a map."""
    file = file_of(
        "shop/hit.proto",
        {
            "Hit": {"event_id": "string", "at": "int64", "params": "repeated .shop.Hit.Param"},
            "Hit.Param": {key: "string", value: ".shop.Hit.Value", **more},
            "Hit.Value": {"text": "optional string", "number": "optional int64"},
        },
    )
    made = classes(file)["shop.Hit"](event_id="e", at=AT)
    getattr(made.params.add(**{key: "page"}), value).text = "a"
    getattr(made.params.add(**{key: "session"}), value).number = 7
    fields = [
        Field("event_id", "string", required=True), Field("page", "string", path="params.page.text"),
        Field("session", "int64", path="params.session.number"), Field("none", "string", path="params.other.text"),
    ]  # fmt: skip
    with schema_registry() as running:
        running.register("things-value", base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF")
        form = record_format(source(fields), KafkaSettings(schema_registry=running.url, formats={"things": "protobuf"}))
        found = judged(form, [framed(1, made.SerializeToString())])
    assert [found.valid.column(f.name)[0].as_py() for f in fields] == ["e", "a", 7, None]


PAIRS = file_of(
    "shop/pairs.proto",
    {
        "Pairs": {
            "event_id": "string", "at": "int64", "two": "repeated .shop.Pairs.Entry", "ds": "repeated .shop.Pairs.Timed",
            "real": "map string .google.protobuf.Duration", "es": "repeated .shop.Pairs.Named", "more": "repeated .shop.Pairs.More",
            "words": "repeated string", "d": ".google.protobuf.Duration",
            "e": "enum .shop.State", "states": "repeated enum .shop.State", "attrs": ".google.protobuf.Struct",
        },
        "Pairs.Entry": {"key": "string", "value": "optional string"},
        "Pairs.Timed": {"key": "optional string", "value": ".google.protobuf.Duration"},
        "Pairs.Named": {"key": "string", "value": "enum .shop.State"},
        "Pairs.More": {"key": "string", "value": "string", "more": "string"},
    },
    enums={"State": ["NEW", "PAID"]},
    imports=("google/protobuf/duration.proto", "google/protobuf/struct.proto"),
)  # fmt: skip
PAIR = classes(PAIRS)["shop.Pairs"]


def read_pairs(tmp_path: Path, made: Any, *fields: Field, **more: Any) -> tuple[Any, dict[str, Any]]:
    """The reason, and the values of the fields."""
    (tmp_path / "pairs.desc").write_bytes(descriptor_set(PAIRS))
    options = {"things": {"descriptor": "pairs.desc", "message": "shop.Pairs"}}
    settings = KafkaSettings(formats={"things": "protobuf"}, format_options=options)
    settings.within(tmp_path)
    form = record_format(source([Field("event_id", "string", required=True), *fields], **more), settings)
    found = judged(form, [framed(2, made.SerializeToString())])
    return found.reasons[0].as_py(), {f.name: found.valid.column(f.name).to_pylist() for f in fields}


def test_a_list_that_is_asked_by_place_and_by_key(tmp_path: Path) -> None:
    """Whatever of the list is asked for beside: a key gives what it gives in JSON."""
    pairs = [{"key": "page", "value": "home"}, {"key": "none"}, {"key": "page", "value": "last"}]
    made = PAIR(event_id="e", at=AT)
    for pair in pairs:
        made.two.add(**pair)
        made.more.add(**pair, more="x")
        made.words.append("w")
    record = {"event_id": "e", "at": AT, "two": pairs, "more": [{**p, "more": "x"} for p in pairs], "words": ["w"] * 3}
    by_key = [Field("page", "string", path="two.page"), Field("none", "string", path="two.none"), Field("gone", "string", path="two.gone")]
    by_place = [Field("key", "string", path="two[0].key"), Field("value", "string", path="two[-1].value")]
    odd = [
        [Field("key", "string", path="more[0].key"), Field("page", "string", path="more.page")],
        [Field("key", "string", path="more[0].value"), Field("page", "string", path="more.page")],
        [Field("word", "string", path="words[0]"), Field("page", "string", path="words.page")],
        [Field("page", "string", path="words.page")],
    ]
    for fields in (by_key, [*by_place, *by_key], [*by_key, *by_place], [by_place[0], by_key[0]], [by_key[0], by_place[1]], *odd):
        of = source([Field("event_id", "string", required=True), *fields])
        plain = check_json([json.dumps(record).encode()], of, NOW, 0)
        want = {f.name: plain.valid.column(f.name).to_pylist() for f in fields}
        assert read_pairs(tmp_path, made, *fields) == (plain.reasons[0].as_py(), want)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_order_of_fields_changes_no_value(tmp_path: Path, turn: int) -> None:
    """Each key of a list of entries is made as its own field asks, as of a map."""
    made = PAIR(event_id="e", at=AT)
    for key in ("a", "b", "a"):
        made.ds.add(key=key).value.seconds = 2
        made.real[key].seconds = 2
        made.es.add(key=key, value=1)
    made.ds.add().value.seconds = 9
    made.ds.add(key="none")
    for name in ("ds", "real"):
        fields = [Field("a", "float64", path=f"{name}.a"), Field("b", "int64", path=f"{name}.b"), Field("n", "int64", path=f"{name}.none")]
        assert read_pairs(tmp_path, made, *fields[::turn]) == (None, {"a": [2.0], "b": [2_000_000], "n": [None]})
    names = [Field("a", "string", path="es.a"), Field("b", "int64", path="es.b")]
    assert read_pairs(tmp_path, made, *names[::turn]) == (None, {"a": ["PAID"], "b": [1]})


SECONDS, MICROS = 2.5, 2_500_000
TWICE: list[tuple[str, str, str, Any, Any]] = [  # a path and another, the dtype of the second, and what both are
    ("d", "d", "int64", SECONDS, MICROS),
    ("ds[0].value", "ds[-1].value", "int64", SECONDS, MICROS),
    ("ds[0].value", "ds.b", "int64", SECONDS, MICROS),
    ("real.a", "real.a", "int64", SECONDS, MICROS),
    ("es[0].value", "es.b", "int64", "PAID", 1),
    ("es.b", "es.b", "int64", "PAID", 1),
    ("e", "e", "int64", "PAID", 1),
    ("states", "states", "list<int64>", ["PAID", "NEW"], [1, 0]),
    ("states[0]", "states", "list<int64>", "PAID", [1, 0]),
]


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize(("one", "other", "dtype", "first", "second"), TWICE)
def test_one_value_is_asked_as_two(tmp_path: Path, one: str, other: str, dtype: Any, first: Any, second: Any, turn: int) -> None:
    """What a Duration or an enum becomes follows from its field's dtype, whatever other fields ask it as."""
    made = PAIR(event_id="e", at=AT, d={"seconds": 2, "nanos": 500_000_000}, e=1, states=[1, 0])
    for key in ("a", "b"):
        made.ds.add(key=key).value.FromMicroseconds(MICROS)
        made.real[key].FromMicroseconds(MICROS)
        made.es.add(key=key, value=1)
    kind: Any = "float64" if first == SECONDS else "list<string>" if isinstance(first, list) else "string"
    fields = [Field("x", kind, path=one), Field("y", dtype, path=other)][::turn]
    assert read_pairs(tmp_path, made, *fields) == (None, {f.name: [first if f.name == "x" else second] for f in fields})


def test_values_of_json_within_a_message_are_asked_as_two(tmp_path: Path) -> None:
    """Whatever kind they have: another one is the field's own reject."""
    fields = [Field("x", "float64", path="attrs.n"), Field("y", "int64", path="attrs.n"), Field("z", "list<float64>", path="attrs.l")]
    more = [Field("l", "int64", path="attrs.l[0]"), Field("k", "string", path="attrs.l.k")]
    made = PAIR(event_id="e", at=AT)
    made.attrs.update({"n": 3, "l": [1]})
    assert read_pairs(tmp_path, made, *fields, more[0]) == (None, {"x": [3.0], "y": [3], "z": [[1.0]], "l": [1]})
    assert read_pairs(tmp_path, made, *more)[0] == "wrong_type"
    made.attrs.update({"n": 2.5, "l": {"k": "v"}})
    assert read_pairs(tmp_path, made, *fields[:2])[0] == "wrong_type"
    assert read_pairs(tmp_path, made, more[1]) == (None, {"k": ["v"]})


def test_elements_that_are_events_have_one_dtype(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'y' and 'x' read one value of Protobuf, shop.State, as string and as int64; give both one"):
        read_pairs(tmp_path, PAIR(), Field("x", "string", path="states[]"), Field("y", "int64", path="states[]"), explode="states")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("payload.shop.Order.id", """write path='payload["shop.Order"].id'"""),
        ("extras[0].shop.Order.buyer.name", """write path='extras[0]["shop.Order"].buyer.name'"""),
        ("payload.idd", "correct its path"),
        ('payload["shop.Order"].idd', "correct its path"),
        ('payload["shop.Order"].buyer.nam', "correct its path"),
        ("eventId", "write 'event_id'"),
        ("order.id", "it has event_id, at, payload, extras"),
    ],
)
def test_a_path_that_leads_to_nothing_is_said_at_once(tmp_path: Path, path: str, advice: str) -> None:
    (tmp_path / "shop.desc").write_bytes(descriptor_set(PACKED, OUTER))
    settings = KafkaSettings(formats={"things": "protobuf"}, format_options={"things": {"descriptor": "shop.desc"}})
    settings.within(tmp_path)
    fields = [Field("event_id", "string", required=True), Field("x", "string", path=path)]
    with pytest.raises(ConfigError) as error:
        record_format(source(fields), settings)
    assert str(error.value).startswith("source 'things': field 'x' stands at ")
    assert str(error.value).endswith(f", where no shop.Event can have anything; {advice}")


def test_paths_that_may_lead_to_something_are_left_alone(tmp_path: Path) -> None:
    made = PAIR(event_id="e", at=AT)
    paths = ["ds.whoever", "ds[3].value", "real.whatever", "attrs.a.b[0].c", "two[0].key", "words[1]", "d.seconds", "states[0]"]
    fields = [Field(f"x_{n}", "string", path=path) for n, path in enumerate(paths)]
    assert read_pairs(tmp_path, made, *fields, Field("elsewhere", "string"))[0] is None
