"""Columns of files as the events that a source makes of them: the same as their rows are as payloads, which a replay sends."""

from __future__ import annotations

import decimal
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.judged import NOW
from transforms.contract import check, check_json, encode_json
from transforms.definitions import (
    Base64,
    Decimal,
    Epoch,
    EventSource,
    Field,
    Hex,
    TimeFormat,
    TimeOfDay,
)

T = 1_714_557_660_123


def test_rows_of_files_are_the_same_events_as_payloads() -> None:
    """A row of Arrow and its JSON, as a replay sends it, are one event: a column with a unit of its own is not read in another."""
    fields = [
        Field("order_id", "string", required=True, path="orderId"), Field("shipped", "timestamp", path="s", parse=Epoch("ns")),
        Field("price", "int64", parse=Decimal(2)),
    ]  # fmt: skip
    at_ms = Field("at", "timestamp", path="ts", parse=Epoch("ms"))
    source = EventSource("orders", fields, event_time=at_ms, tie_breaker="order_id")
    at = datetime(2024, 5, 1, 10, 1, 0, 123456, tzinfo=UTC)
    for unit in ("ms", "us", "ns"):
        kind = pa.timestamp(unit, "UTC")
        rows = pa.RecordBatch.from_arrays(
            [pa.array(["a"]), *[pa.array([at]).cast(kind, safe=False)] * 2, pa.array([decimal.Decimal("1.10")])],
            ["orderId", "ts", "s", "price"],
        )
        by_row = check(rows, source, NOW, 0)
        assert by_row.valid.num_rows == 1 and check_json(encode_json(rows, source), source, NOW, 0).valid.equals(by_row.valid)


PARIS = TimeFormat("%Y-%m-%d %H:%M:%S", zone="Europe/Paris")
NOON = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.binary(), b"x\xff"), (pa.string(), b"\xff\xfe"), (pa.timestamp("us"), 10**18), (pa.timestamp("s", "UTC"), -(10**12)),
        (pa.date32(), 2**31 - 1), (pa.duration("s"), 10**15), (pa.list_(pa.binary()), [b"\xff", None]),
        (pa.map_(pa.string(), pa.binary()), [("q", b"\xff")]), (pa.struct([("t", pa.timestamp("us"))]), {"t": 10**18}),
    ],
)  # fmt: skip
def test_what_no_field_reads_spoils_no_record(kind: pa.DataType, value: Any) -> None:
    """Beside a member that one reads, and as a column of its own, of sources that map what they read and that do not; a value that is read
    is refused as it was."""
    blob = pa.array([value], pa.binary()).view(pa.string()) if kind == pa.string() else pa.array([value], kind)
    both = pa.StructArray.from_arrays([pa.array(["a"]), blob], ["k", "b"])
    inner = pa.ListArray.from_arrays([0, 1], both)
    own = [pa.array([NOON]), pa.array(["a"])]
    for path, columns in {
        "o.k": {"o": both}, "o[0].k": {"o": inner}, "o.o.k": {"o": pa.StructArray.from_arrays([both, blob], ["o", "z"])},
        "o": {"o": pa.array(["a"]), "b": blob}, None: {"v": pa.array(["a"]), "b": blob},
    }.items():  # fmt: skip
        source = EventSource("s", [Field("k", "string", required=True), Field("v", "string", path=path)], event_time="at", tie_breaker="k")
        rows = pa.RecordBatch.from_arrays([*own, *columns.values()], ["at", "k", *columns])
        by_row, by_payload = (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))
        assert by_row.valid.column("v").to_pylist() == ["a"], by_row.details.to_pylist()
        assert by_payload.valid.equals(by_row.valid), (path, encode_json(rows, source), by_payload.details.to_pylist())
    if kind in (pa.binary(), pa.string()):
        source = EventSource("s", [Field("k", "string", required=True), Field("v", "string", path="o.b")], event_time="at", tie_breaker="k")
        rows = pa.RecordBatch.from_arrays([*own, both], ["at", "k", "o"])
        assert [c.valid.num_rows for c in (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))] == [0, 0]


@pytest.mark.parametrize("parse", [None, Epoch("ns"), Epoch("ms"), PARIS])
def test_a_moment_beyond_the_calendar_is_another_ones_in_no_unit(parse: Any) -> None:
    source = EventSource(
        "s", [Field("k", "string", required=True), Field("v", "timestamp", path="o.b", parse=parse)], event_time="at", tie_breaker="k"
    )
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        both = pa.StructArray.from_arrays([pa.array(["a"]), pa.array([10**18], kind)], ["k", "b"])
        rows = pa.RecordBatch.from_arrays([pa.array([NOON]), pa.array(["a"]), both], ["at", "k", "o"])
        assert [c.valid.num_rows for c in (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))] == [0, 0]


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "parse"),
    [
        *((pa.timestamp(unit, zone), NOON if zone else NOON.replace(tzinfo=None), "timestamp", parse)
          for unit in ("s", "ns") for zone in (None, "UTC", "Europe/Paris") for parse in (None, Epoch("ms"), PARIS)),
        (pa.binary(), b"\x01\xff", "string", Hex()), (pa.large_binary(), b"\x01\xff", "string", Base64()),
        (pa.binary(), b"ab", "string", None),
        (pa.binary(2), b"\x01\xff", "int64", Decimal(2, unscaled=True)), (pa.duration("us"), timedelta(hours=25), "int64", TimeOfDay()),
        (pa.time64("us"), time(10, 15), "int64", TimeOfDay()), (pa.map_(pa.string(), pa.int64()), [("q", 5)], "int64", None),
    ],
)  # fmt: skip
def test_what_stands_within_a_column_of_a_file_is_the_same_in_its_payload(kind: pa.DataType, value: Any, dtype: Any, parse: Any) -> None:
    """As a replay sends it, and as a dead letter keeps it: in a struct, a list, a map, and alone."""
    end = ".q" if pa.types.is_map(kind) else ""
    for path, column in {
        f"o{end}": pa.array([value, None], kind),
        f"o.x{end}": pa.array([{"x": value}, None], pa.struct([("x", kind)])),
        f"o[1]{end}": pa.array([[None, value], None], pa.list_(kind)),
        f"o.m{end}": pa.array([[("m", value)], None], pa.map_(pa.string(), kind)),
    }.items():
        fields = [Field("k", "string", required=True), Field("v", dtype, path=path, parse=parse)]
        source = EventSource("s", fields, event_time="at", tie_breaker="k")
        rows = pa.RecordBatch.from_arrays([pa.array([NOON] * 2), pa.array(["a", "b"]), column], ["at", "k", "o"])
        by_row, by_payload = (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))
        assert by_row.valid.column("v").null_count == 1 and by_row.valid.num_rows == 2, (path, by_row.details.to_pylist())
        assert by_payload.valid.equals(by_row.valid) and by_payload.reasons.equals(by_row.reasons)
