"""The same events lose the same records to ``tandem erase`` whichever format they lie in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.forgetting import parquet_parts
from pipelines.forgetting.json_files import without_json
from pipelines.forgetting.key_names import has_key
from pipelines.forgetting.other_formats import without_records
from pipelines.forgetting.subject import Subject, without_rows
from tests.examples import examples
from transforms.contract import DEAD_LETTER_SCHEMA
from transforms.definitions import EventSource, Field

SOURCE = EventSource("s", [Field("id", "string", required=True)], event_time="at", tie_breaker="id", files="events/s")
NAMES, TEXTS = (
    ["channel", "shop", "items", "note"],
    ["web", "webby", "a web\nb", '{"channel": "web"}', ' [{"shop": 7, "channel": "x"}]', "{web}"],
)
KEYS = [("channel=web",), ("shop=7",), ("channel=web", "shop=7")]

LEAVES = st.sampled_from([pa.string(), pa.large_string(), pa.int64(), pa.int16(), pa.float64(), pa.bool_()])


def several(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Lists of each kind, maps and records of a type."""
    fields = st.lists(st.tuples(st.sampled_from(NAMES), inner), min_size=1, max_size=3, unique_by=lambda f: f[0])
    lists = [inner.map(pa.list_), inner.map(pa.large_list)]
    return st.one_of(*lists, inner.map(lambda kind: pa.map_(pa.string(), kind)), fields.map(pa.struct))


KINDS = st.recursive(LEAVES, several, max_leaves=4)
KINDS |= KINDS.map(lambda kind: pa.list_(kind, 2))  # in a record that may be null this pyarrow cannot read its own Parquet of them


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a type as JSON has them."""
    if pa.types.is_struct(kind):
        some: st.SearchStrategy[Any] = st.fixed_dictionaries({kind[i].name: values(kind[i].type) for i in range(kind.num_fields)})
    elif pa.types.is_map(kind):
        some = st.dictionaries(st.sampled_from(NAMES), values(kind.item_type), max_size=2)
    elif kind.num_fields:
        fixed = pa.types.is_fixed_size_list(kind)
        some = st.lists(values(kind.value_type), min_size=2 if fixed else 0, max_size=2)
        return some if fixed else st.none() | some  # of a null this pyarrow makes as many as it wants
    else:
        some = {"string": st.sampled_from(TEXTS), "bool": st.booleans(), "double": st.sampled_from([7.0, 7.5])}.get(
            str(kind).removeprefix("large_"), st.sampled_from([7, 8])
        )
    return st.none() | some


@st.composite
def logs(draw: st.DrawFn) -> tuple[pa.Schema, list[dict[str, Any]]]:
    """A schema, and events of it."""
    fields = draw(st.lists(st.tuples(st.sampled_from(NAMES), KINDS), min_size=1, max_size=3, unique_by=lambda f: f[0]))
    rows = draw(st.lists(st.fixed_dictionaries({name: values(kind) for name, kind in fields}), min_size=1, max_size=4))
    return pa.schema([("id", pa.string()), *fields]), [{"id": f"e{n}", **row} for n, row in enumerate(rows)]


def as_arrow(value: Any, kind: pa.DataType) -> Any:
    """Maps as lists of pairs."""
    if value is None or not kind.num_fields:
        return value
    if pa.types.is_struct(kind):
        return {kind[i].name: as_arrow(value[kind[i].name], kind[i].type) for i in range(kind.num_fields)}
    if pa.types.is_map(kind):
        return [(name, as_arrow(each, kind.item_type)) for name, each in value.items()]
    return [as_arrow(each, kind.value_type) for each in value]


def table_of(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    columns = [pa.array([as_arrow(row[f.name], f.type) for row in rows], f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def avro_type(kind: pa.DataType, numbers: Iterator[int]) -> Any:
    if pa.types.is_struct(kind):
        fields = [{"name": kind[i].name, "type": avro_type(kind[i].type, numbers)} for i in range(kind.num_fields)]
        return ["null", {"type": "record", "name": f"r{next(numbers)}", "fields": fields}]
    if pa.types.is_map(kind):
        return ["null", {"type": "map", "values": avro_type(kind.item_type, numbers)}]
    if kind.num_fields:
        return ["null", {"type": "array", "items": avro_type(kind.value_type, numbers)}]
    plain = {"bool": "boolean", "double": "double", "int64": "long", "int16": "int"}
    return ["null", plain.get(str(kind), "string")]


def is_about(value: Any, keys: dict[str, str]) -> bool:
    """The rule, as the documentation tells it."""

    def one(found: Any, wanted: str) -> bool:
        if isinstance(found, list):
            return any(one(each, wanted) for each in found if not isinstance(each, list))
        number = isinstance(found, int | float) and not isinstance(found, bool) and found == float(wanted) if wanted.isdigit() else False
        return number or found == wanted

    if isinstance(value, str):
        try:
            return value.lstrip()[:1] in ("{", "[") and is_about(json.loads(value), keys)
        except ValueError:
            return False
    if isinstance(value, list):
        return any(is_about(each, keys) for each in value)
    if isinstance(value, dict):
        own = all(name in value and one(value[name], wanted) for name, wanted in keys.items())
        return own or any(is_about(each, keys) for each in value.values())
    return False


def has_name(value: Any, name: str) -> bool:
    if isinstance(value, str):
        return f'"{name}":' in value
    if isinstance(value, list):
        return any(has_name(each, name) for each in value)
    return isinstance(value, dict) and (name in value or any(has_name(each, name) for each in value.values()))


@settings(max_examples=examples(100))
@given(log=logs(), keys=st.sampled_from(KEYS))
def test_each_format_loses_the_same_events(tmp_path_factory: pytest.TempPathFactory, log: tuple[Any, Any], keys: tuple[str, ...]) -> None:
    """Of lists of two, maps, payloads of long texts and records beside a column of the key's name Parquet kept what JSON lost."""
    schema, rows = log
    folder = tmp_path_factory.mktemp("events")
    subject, table, wanted = Subject.parse([*keys]), table_of(schema, rows), dict(key.split("=") for key in keys)
    stays = [row["id"] for row in rows if not is_about(row, wanted)]
    lines, parquet, stream, avro = (folder / f"a.{kind}" for kind in ("jsonl", "parquet", "arrows", "avro"))
    by_row = folder / "b.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(table, parquet)
    pq.write_table(table, by_row)
    with pa.ipc.new_stream(stream, schema) as out:
        out.write_table(table)
    numbers = iter(range(100))
    fields = [{"name": f.name, "type": avro_type(f.type, numbers)} for f in schema]
    packed = io.BytesIO()
    fastavro.writer(packed, {"type": "record", "name": "top", "fields": fields}, rows)
    avro.write_bytes(packed.getvalue())
    for name in wanted:
        there = [has_key(path, (), name, SOURCE, False) for path in (lines, parquet)]
        assert there[0] == has_name(rows, name) and there[1] >= there[0]
    without_json(lines, subject)
    without_rows(parquet, subject, made=False)
    with mock.patch.object(parquet_parts, "PART_BYTES", 1):
        without_rows(by_row, subject, made=False)
    without_records(stream, subject, SOURCE)
    without_records(avro, subject, SOURCE)
    assert [json.loads(line)["id"] for line in lines.read_text().splitlines()] == stays
    for path in (parquet, by_row):
        assert pq.ParquetFile(path).read().to_pylist() == table.filter(pa.array([row["id"] in stays for row in rows])).to_pylist()
    with pa.ipc.open_stream(stream) as found:
        assert found.read_all()["id"].to_pylist() == stays
    assert [row["id"] for row in fastavro.reader(io.BytesIO(avro.read_bytes()))] == stays  # type: ignore[index,call-overload]


@pytest.mark.parametrize("name", ["source", "topic", "reason", "detail", "file"])
def test_dead_letters_are_told_by_their_payload_whatever_a_key_is_called(tmp_path: Path, name: str) -> None:
    """``source=orders`` took every letter of the source orders, and of no payload was anything asked."""
    payloads = [{name: "orders"}, {name: "other"}, {"x": {name: "orders"}}, {"note": "orders"}]
    rows = [{f.name: "orders" for f in DEAD_LETTER_SCHEMA if f.type == pa.string()} | {"payload": json.dumps(p).encode()} for p in payloads]
    path = tmp_path / "l.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=DEAD_LETTER_SCHEMA), path)
    assert has_key(path, (), name, None, False) and not has_key(path, (), "row", None, False)
    gone = without_rows(path, Subject.parse([f"{name}=orders"]))
    assert gone == 2
    assert [json.loads(p) for p in pq.ParquetFile(path).read()["payload"].to_pylist()] == [{name: "other"}, {"note": "orders"}]


def test_bytes_are_texts_or_payloads(tmp_path: Path) -> None:
    """Texts without their type are as texts; framed payloads are bytes."""
    path = tmp_path / "a.parquet"
    values = [b"about mobile", b"{mobile", b"a\tb\nmobile", b'{"channel": "mobile"}', b"\x00\x00\x01\x0cmobile", b"\xff mobile", None]
    for kind in (pa.binary(), pa.large_binary()):
        pq.write_table(pa.table({"n": range(7), "body": pa.array(values, kind), "channel": ["x"] * 7}), path)
        without_rows(path, Subject.parse(["channel=mobile"]), made=False)
        assert pq.ParquetFile(path).read()["n"].to_pylist() == [0, 1, 2, 6]
