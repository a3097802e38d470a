"""Records for the tests of the contract: a source, a good record, and every kind of bad one."""

from __future__ import annotations

import json
import math
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.contract import Checked, check_json
from transforms.definitions import EventSource, Field

NOW = 1_700_000_000_000_000
AHEAD = 3_600_000_000
T = NOW - 1_000_000
SIXTY_DAYS = 60 * 86_400_000_000
SOURCE = EventSource(
    name="departures",
    fields=[
        Field("flight_id", "string", required=True),
        Field("origin", "string", required=True, domain=["EWR", "JFK"]),
        Field("delay", "float64", min=-120, max=3000),
        Field("legs", "int64", min=-5.5, max=40.5),
        Field("big", "int64"),
        Field("real", "float64"),
        Field("diverted", "bool"),
        Field("landed_at", "timestamp"),
    ],
    event_time="departed_at",
    tie_breaker="flight_id",
)
NAMES = SOURCE.arrow_schema.names
GOOD: dict[str, Any] = {
    "departed_at": T,
    "flight_id": "Fé",
    "origin": "EWR",
    "delay": 1.5,
    "legs": 3,
    "big": 2**63 - 1,
    "real": -1e300,
    "diverted": False,
    "landed_at": T + 5,
}


def payload(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v is not ...}).encode()


def judge(*payloads: bytes | None) -> Checked:
    return check_json(list(payloads), SOURCE, NOW, AHEAD)


def arrow(**columns: pa.Array) -> pa.RecordBatch:
    """Rows like GOOD, with other columns in place of, or beside, its own."""
    n = len(next(iter(columns.values())))
    fields = {f.name: pa.array([GOOD[f.name]] * n, f.type) for f in SOURCE.arrow_schema}
    fields.update(columns)
    return pa.RecordBatch.from_arrays(list(fields.values()), names=list(fields))


def verdicts(checked: Checked) -> list[str | None]:
    assert checked.valid.schema.equals(SOURCE.arrow_schema)
    assert checked.valid.num_rows == len(checked.accepted) == checked.reasons.null_count
    assert checked.details.is_valid().equals(checked.reasons.is_valid())
    return checked.reasons.to_pylist()


BAD_JSON: list[tuple[str, bytes | None, str]] = [
    ("malformed", None, "no payload"),
    ("malformed", b"", "empty"),
    ("malformed", b"   ", "not JSON"),
    ("malformed", payload()[:-5], "not JSON"),
    ("malformed", payload() + b"{}", "Extra data"),
    ("malformed", b"[]", "list"),
    ("malformed", b"null", "NoneType"),
    ("malformed", b"17", "int"),
    ("malformed", b"\xef\xbb\xbf" + payload(), "not JSON"),
    ("malformed", b"\x00\x01\x02", "not JSON"),
    ("malformed", payload()[:-1] + b',"legs":3}', "'legs' is there more than once"),
    ("malformed", payload()[:-1] + b',"extra":{"a":1,"a":1}}', "'a' is there more than once"),
    ("malformed", payload()[:-1] + b',"extra":' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
    ("malformed", b"[" * 500_000, "deeper than 64"),
    ("malformed", b'{"a":"' + b'\\"[' * 100_000, "not JSON"),
    ("invalid_utf8", payload()[:-1] + b',"extra":"\xff"}', "0xff"),
    ("invalid_utf8", payload(flight_id="F\ud800"), "flight_id"),
    ("missing_timestamp", payload(departed_at=...), "departed_at"),
    ("missing_timestamp", payload(departed_at=None), "departed_at"),
    ("wrong_type_timestamp", payload(departed_at="yesterday"), "'yesterday'"),
    ("wrong_type_timestamp", payload(departed_at="2023-11-14T00:00:00"), "2023"),
    ("wrong_type_timestamp", payload(departed_at="2023-02-30T00:00:00Z"), "02-30"),
    ("wrong_type_timestamp", payload(departed_at="2023-11-14T00:00:00.Z"), "text with a zone such as 2024-05-01T10:00:00.123456Z"),
    ("wrong_type_timestamp", payload(departed_at="2023-11-14T00:00:00+1"), "+1"),
    ("wrong_type_timestamp", payload(departed_at="2023-11-14T00:00:00-24:00"), "-24"),
    ("wrong_type_timestamp", payload(departed_at="2023-11-14 00:00:00Z"), "2023"),
    ("wrong_type_timestamp", payload(departed_at="2023-11-14T23:59:60Z"), ":60"),
    ("wrong_type_timestamp", payload(departed_at=float(T)), "."),
    ("wrong_type_timestamp", payload(departed_at=True), "True"),
    ("wrong_type_timestamp", payload(departed_at=math.nan), "nan"),
    ("nonpositive_timestamp", payload(departed_at=0), "=0"),
    ("nonpositive_timestamp", payload(departed_at=-(10**30)), "not after 1970"),
    ("nonpositive_timestamp", payload(departed_at="1969-12-31T23:59:59Z"), "1969"),
    ("wrong_unit_timestamp", payload(departed_at=T // 10**6), "looks like seconds or milliseconds"),
    ("wrong_unit_timestamp", payload(departed_at=T // 10**3), "looks like seconds or milliseconds"),
    ("wrong_unit_timestamp", payload(departed_at=SIXTY_DAYS - 1), "looks like seconds or milliseconds"),
    ("wrong_unit_timestamp", payload(departed_at="1970-01-01T00:00:01Z"), "1970"),
    ("future_timestamp", payload(departed_at=NOW + AHEAD + 1), "1:00:00"),
    ("future_timestamp", payload(departed_at=T * 1000), "departed_at"),
    ("future_timestamp", payload(departed_at=10**30), "departed_at"),
    ("missing_field", payload(origin=...), "origin"),
    ("missing_field", payload(flight_id=None), "flight_id"),
    ("wrong_type", payload(flight_id=5), "flight_id=5 is no string; the field's parse=Text() reads it"),
    ("wrong_type", payload(delay="5"), "delay='5' is no float64"),
    ("wrong_type", payload(delay=True), "delay"),
    ("wrong_type", payload(legs=True), "legs"),
    ("wrong_type", payload(legs=2.5), "legs=2.5"),
    ("wrong_type", payload(legs=[3]), "a list"),
    ("wrong_type", payload(delay={"x": 1}), "an object"),
    ("wrong_type", payload(diverted=0), "diverted=0"),
    ("wrong_type", payload(landed_at="soon"), "landed_at"),
    ("overflow", payload(big=2**63), "big"),
    ("overflow", payload(big=-(2**63) - 1), "big"),
    ("overflow", payload(big=2.0**63), "big"),
    ("overflow", payload(big=float(2**53 + 1)), "big"),  # FAULTS 10: it is ...992 by now
    ("overflow", payload(big=-(2.0**63)), "big"),
    ("overflow", payload(real=2**53 + 1), "real"),
    ("overflow", payload()[:-1].replace(b'"big": 9223372036854775807', b'"big": ' + b"9" * 9_000) + b"}", "big=1000"),
    ("too_long", payload(flight_id="x" * 65_537), "longer than 65536 bytes"),
    ("too_long", payload(flight_id="é" * 32_769), "longer than 65536 bytes"),
    ("nan", payload(delay=math.nan), "delay=nan"),
    ("nan", payload(legs=math.nan), "legs"),
    ("infinite", payload(real=math.inf), "real=inf"),
    ("infinite", payload(real=-math.inf), "real=-inf"),
    ("infinite", payload(big=math.inf), "big"),
    ("infinite", payload()[:-1].replace(b"-1e+300", b"1e999") + b"}", "real=inf"),
    ("out_of_range", payload(delay=3000.0000000000005), "outside of -120 to 3000"),
    ("out_of_range", payload(delay=-121), "delay=-121"),
    ("out_of_range", payload(legs=41), "legs=41"),
    ("out_of_range", payload(legs=-6), "legs=-6"),
    ("out_of_range", payload(landed_at=10**30), "the years 1 to 9999"),
    ("not_in_domain", payload(origin="LGA"), "'LGA' is none of 'EWR', 'JFK'"),
    ("not_in_domain", payload(origin="ewr"), "'ewr'"),
]


def bad_bytes(kind: pa.DataType, *values: bytes | None) -> pa.Array:
    large = pa.types.is_large_string(kind)
    raw = pa.array(list(values), pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(kind, len(raw), raw.buffers())


US = pa.timestamp("us", tz="UTC")
ARROW_CASES: list[tuple[str, pa.Array, list[str | None]]] = [
    ("departed_at", pa.array([T, None, 0, -1, NOW + AHEAD, NOW + AHEAD + 1], US),
     [None, "missing_timestamp", "nonpositive_timestamp", "nonpositive_timestamp", None, "future_timestamp"]),
    ("departed_at", pa.array([T, 2**63 - 1, -(2**63)], pa.int64()).cast(US), [None, "future_timestamp", "nonpositive_timestamp"]),
    ("departed_at", pa.array([T // 10**6, 2**62, -(2**62)], pa.int64()).cast(pa.timestamp("s")),
     [None, "future_timestamp", "nonpositive_timestamp"]),
    ("departed_at", pa.array([T // 1000, 2**62], pa.int64()).cast(pa.timestamp("ms", tz="America/New_York")), [None, "future_timestamp"]),
    ("departed_at", pa.array([T * 1000 + 999, 999], pa.int64()).cast(pa.timestamp("ns")), [None, "nonpositive_timestamp"]),
    ("departed_at", pa.array([T // 10**6, T // 10**3, SIXTY_DAYS]), ["wrong_unit_timestamp", "wrong_unit_timestamp", None]),
    ("departed_at", pa.array([T, 2**64 - 1], pa.uint64()), [None, "future_timestamp"]),
    ("departed_at", pa.array([float(T)]), ["wrong_type_timestamp"]),
    ("departed_at", pa.array([True, None]), ["wrong_type_timestamp", "missing_timestamp"]),
    ("departed_at", pa.array(["2023-11-14T22:13:19Z", "x", None]), [None, "wrong_type_timestamp", "missing_timestamp"]),
    ("departed_at", pa.nulls(2), ["missing_timestamp"] * 2),
    ("flight_id", pa.array(["a", None], pa.large_string()), [None, "missing_field"]),
    ("flight_id", pa.array(["a", None, "a"]).dictionary_encode(), [None, "missing_field", None]),
    ("flight_id", pa.array(["é".encode(), b"\xff", None]), [None, "invalid_utf8", "missing_field"]),
    ("flight_id", bad_bytes(pa.string(), b"ok", b"\xc3", None, "é".encode()), [None, "invalid_utf8", "missing_field", None]),
    ("flight_id", bad_bytes(pa.large_string(), b"x", b"ok", b"\xff")[1:], [None, "invalid_utf8"]),
    ("flight_id", pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), bad_bytes(pa.string(), b"a", b"\xff")), [None, "invalid_utf8", None]),
    ("flight_id", pa.array([1, None]), ["wrong_type", "missing_field"]),
    ("flight_id", pa.array([["a"], None]), ["wrong_type", "missing_field"]),
    ("flight_id", pa.array(["x" * 65_536, "x" * 65_537], pa.large_string()), [None, "too_long"]),
    ("flight_id", pa.array(["x" * 65_537, "x"]).dictionary_encode(), ["too_long", None]),
    ("origin", pa.array(["EWR", "XXX", ""]), [None, "not_in_domain", "not_in_domain"]),
    ("delay", pa.array([1.5, math.nan, math.inf, -math.inf, 3001, -120, None], pa.float64()),
     [None, "nan", "infinite", "infinite", "out_of_range", None, None]),
    ("delay", pa.array([1.5, math.nan], pa.float32()), [None, "nan"]),
    ("delay", pa.array([7, -121, None], pa.int8()), [None, "out_of_range", None]),
    ("delay", pa.array(["1.5", None]), ["wrong_type", None]),
    ("delay", pa.array([True, None]), ["wrong_type", None]),
    ("delay", pa.array([Decimal("1.5"), None]), ["wrong_type", None]),
    ("real", pa.array([2**53, 2**53 + 1, -(2**53) - 1]), [None, "overflow", "overflow"]),
    ("real", pa.array([5, 2**64 - 1], pa.uint64()), [None, "overflow"]),
    ("big", pa.array([2**63 - 1, 2**63, None], pa.uint64()), [None, "overflow", None]),
    ("big", pa.array([3.0, 2.5, math.nan, math.inf, 2.0**63, -(2.0**63), 1e300, None]),
     [None, "wrong_type", "nan", "infinite", "overflow", "overflow", "overflow", None]),
    ("big", pa.array([2.0**53 - 1, float(2**53 + 1), 1 - 2.0**53, -(2.0**53)]), [None, "overflow", None, "overflow"]),  # FAULTS 10
    # A narrow float: 16777216 is also what 16777217 becomes in 32 bits, and 2048 what 2049 becomes in 16.
    ("big", pa.array([2.0**24 - 1, 2.0**24, 1 - 2.0**24, -(2.0**30), 0.5, math.nan, None], pa.float32()),
     [None, "overflow", None, "overflow", "wrong_type", "nan", None]),
    ("big", pa.array(np.array([2047, 2048, -2047, -2048], np.float16)), [None, "overflow", None, "overflow"]),
    ("delay", pa.array(np.array([1.5, np.nan], np.float16)), [None, "nan"]),
    ("flight_id", pa.array([date(2024, 5, 1), None]), ["wrong_type", "missing_field"]),
    ("big", pa.array([1, -1], pa.int16()), [None, None]),
    ("legs", pa.array([40, 41, -5, -6]), [None, "out_of_range", None, "out_of_range"]),
    ("diverted", pa.array([1, None]), ["wrong_type", None]),
    ("landed_at", pa.array([-1, 2**62, None], pa.int64()).cast(pa.timestamp("us")), [None, "out_of_range", None]),
    ("landed_at", pa.array([1.0]), ["wrong_type"]),
    ("another", pa.array([math.nan, 1.0]), [None, None]),
]  # fmt: skip
