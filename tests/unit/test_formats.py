"""Bytes of a topic to verdicts: JSON, and Avro by a registry over real HTTP."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.fault_injection import AVRO_KINDS, UNKNOWN_ID, break_avro
from pipelines.sources.formats.record_format import Decode, record_format
from tests.examples import examples
from tests.schema_registry import SchemaRegistry, schema_registry
from tests.unit.format_messages import AHEAD, GOOD, NOW, OWN, SOURCE, T, message, settings_of, verdict, written
from transforms.contract import check_json, encode_json
from transforms.definitions import EventSource


def test_json_is_the_contracts() -> None:
    judge = record_format(SOURCE, KafkaSettings()).decode
    payloads = pa.array([json.dumps(GOOD).encode(), b"", None, b"\xff", json.dumps({**GOOD, "at": T + 7}).encode()], pa.binary())
    nows = np.array([T, T, T, T, T + 6])
    found, expected = judge(payloads, nows, 0), check_json(payloads, SOURCE, nows, 0)
    assert found.reasons.to_pylist() == [None, "malformed", "malformed", "invalid_utf8", "future_timestamp"] == expected.reasons.to_pylist()
    assert found.valid.equals(expected.valid)


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BAD_JSON = {
    "empty value": b"",
    "no payload": None,
    "truncated": line()[:-9],
    "invalid utf-8": line().replace(b"EWR", b"E\xffR"),
    "random bytes": bytes(range(256)),
    "a schema id": b"\0\0\0\0\1" + line(),
    "wrong type": line(legs="3"),
    "missing field": json.dumps({"at": T, "flight": "x"}).encode(),
    "overflow": line(legs=2**63),
    "nan": line(delay=math.nan),
    "huge value": line(flight="x" * 10_000_000),
    "deep nesting": b'{"x":' * 100_000,
    "duplicate keys": line()[:-1] + b',"flight":"other"}',
    "seconds": line(at=T // 10**6),
    "milliseconds": line(at=T // 10**3),
    "far future": line(at=T + 10**15),
}


@pytest.mark.parametrize("copies", [1, 50])
def test_a_batch_of_nothing_but_bad_json(copies: int) -> None:
    judge = record_format(SOURCE, KafkaSettings()).decode
    kinds = {name: payload for name, payload in BAD_JSON.items() if copies == 1 or name != "huge value"}
    checked = judge(pa.array(list(kinds.values()) * copies, pa.binary()), NOW, AHEAD)
    assert checked.valid.num_rows == 0
    expected = {
        "invalid utf-8": "invalid_utf8", "random bytes": "invalid_utf8", "wrong type": "wrong_type", "missing field": "missing_field",
        "overflow": "overflow", "nan": "nan", "huge value": "too_long", "seconds": "wrong_unit_timestamp",
        "milliseconds": "wrong_unit_timestamp", "far future": "future_timestamp",
    }  # fmt: skip
    assert checked.reasons.to_pylist() == [expected.get(name, "malformed") for name in kinds] * copies
    assert all(0 < len(d) < 250 for d in checked.details.to_pylist())


def test_what_the_encoder_writes_the_checker_reads_exactly(registry: SchemaRegistry, judge: Decode) -> None:
    rows = [GOOD, {**GOOD, "delay": None, "legs": None, "diverted": None, "landed_at": None}, {**GOOD, "legs": -(2**63), "delay": 5e-324}]
    batch = pa.RecordBatch.from_arrays(
        [pa.array([r[f.name] for r in rows], f.type) for f in SOURCE.arrow_schema], schema=SOURCE.arrow_schema
    )
    payloads = pa.concat_arrays([encode_json(batch), pa.array([b'{"at":3}'])])
    writer = record_format(SOURCE, settings_of(registry))
    sent = writer.from_log(check_json(payloads, SOURCE, NOW, AHEAD), payloads)
    assert [p[:5].hex() for p in sent.to_pylist()[:3]] == ["0000000001"] * 3
    checked = judge(sent, NOW, AHEAD)
    assert checked.valid.equals(batch)
    assert checked.reasons.to_pylist() == [None] * 3 + ["malformed"]  # what the contract refuses stays JSON, and is refused again
    assert registry.requests == ["POST /subjects/departures-value/versions", "GET /schemas/ids/1"]
    other = EventSource(name="other", fields=SOURCE.fields, event_time="at", tie_breaker="flight", topic="other")
    plain = record_format(other, settings_of(registry))
    assert plain.from_log(check_json(payloads, other, NOW, AHEAD), payloads) is payloads


@pytest.mark.parametrize(
    ("payload", "reason", "says"),
    [
        (b"", "malformed", "empty"),
        (None, "malformed", "no payload"),
        (b"\0", "malformed", "not a Confluent message"),
        (b"\0\0\0\0", "malformed", "not a Confluent message"),
        (b'{"at":1}', "malformed", "0x7b22617422"),
        (bytes(range(1, 200)), "malformed", "not a Confluent message"),
        (b"\xff" * 50, "malformed", "not a Confluent message"),
        (b"\0\0\0\0\7", "unknown_schema", "schema 7 is not known"),
        (struct.pack(">bI", 0, UNKNOWN_ID) + b"xyz", "unknown_schema", "not known"),
        (b"\0\xff\xff\xff\xff", "unknown_schema", "schema 4294967295 is not known"),
        (b"\0\0\0\0\1", "malformed", "schema 1: EOFError"),
        (b"\0\0\0\0\1" + b"\xff" * 40, "malformed", "schema 1"),
    ],
)
def test_bad_framing(registry: SchemaRegistry, judge: Decode, payload: bytes | None, reason: str, says: str) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    found = verdict(judge, good, payload, good)
    assert [r for r, _ in found] == [None, reason, None]
    assert says in (found[1][1] or "")
    assert verdict(judge, payload) == [found[1]]


def test_every_broken_avro_copy_is_refused(registry: SchemaRegistry, judge: Decode) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    for kind in AVRO_KINDS:
        broken = [break_avro(kind, good, "Fé".encode(), dice) for dice in range(60)]
        found = verdict(judge, *broken)
        assert all(r for r, _ in found), (kind, found)
        assert len(set(found)) <= len(set(broken))
    assert verdict(judge, break_avro("invalid_utf8", good, "Fé".encode(), 0))[0][0] == "invalid_utf8"
    assert break_avro("truncated", b"{}", b"", 0)  # what is no Avro becomes noise


def test_values_are_judged_as_json_is(registry: SchemaRegistry, judge: Decode) -> None:
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({}, None), ({"delay": math.nan}, "nan"), ({"delay": -math.inf}, "infinite"), ({"delay": 3001.0}, "out_of_range"),
        ({"origin": "LGA"}, "not_in_domain"), ({"at": 0}, "nonpositive_timestamp"), ({"at": T // 10**6}, "wrong_unit_timestamp"),
        ({"at": T // 1000}, "wrong_unit_timestamp"), ({"at": T + 10**15}, "future_timestamp"), ({"flight": "x" * 10_000_000}, "too_long"),
        ({"landed_at": 2**62}, "out_of_range"), ({"delay": None}, None),
    ]  # fmt: skip
    for changes, reason in cases:
        assert written(registry, judge, OWN, **changes).reasons.to_pylist() == [reason], changes


any_message = st.one_of(
    st.binary(max_size=30),
    st.binary(max_size=60).map(lambda b: b"\0\0\0\0\1" + b),
    st.tuples(st.integers(5, 70), st.integers(0, 255)).map(lambda change: (*change,)),
)


@settings(max_examples=examples(60))  # over real HTTP, and the first example imports the format
@given(st.lists(st.one_of(any_message, st.none(), st.just(b"\0\0\0\0\1")), min_size=1, max_size=12), st.integers(0, 12))
def test_the_verdict_on_avro_is_that_of_any_split(items: list[Any], cut: int) -> None:
    good = bytearray(message(1, OWN, GOOD))
    payloads: list[bytes | None] = []
    for item in items:
        if isinstance(item, tuple):  # a byte of a good record changed
            at, byte = item
            changed = bytearray(good)
            changed[at % len(good)] = byte
            payloads.append(bytes(changed))
        else:
            payloads.append(item)
    judge = record_format(SOURCE, settings_of(SHARED)).decode
    whole = verdict(judge, *payloads)
    assert whole == [v for p in payloads for v in verdict(judge, p)]
    assert whole == verdict(judge, *payloads[:cut]) + verdict(judge, *payloads[cut:])


@pytest.fixture(scope="module", autouse=True)
def _shared() -> Iterator[None]:
    """One registry for the property test, whose examples cannot each have their own."""
    with schema_registry() as running:
        running.register("departures-value", OWN)
        global SHARED
        SHARED = running
        yield


SHARED: SchemaRegistry
