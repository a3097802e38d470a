"""JSON behind Confluent's framing, and plain JSON beside it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.framing import frames
from pipelines.sources.formats.record_format import record_format
from tandem.testing.formats import AHEAD, NOW, SOURCES, events
from tests.schema_registry import SchemaRegistry, schema_registry
from transforms.contract import encode_json
from transforms.errors import ConfigError

FEW = SOURCES["a number identifies"]


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def framed(number: int, body: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", number) + body


def test_framed_and_plain_records_of_one_topic(registry: SchemaRegistry) -> None:
    sent = events(FEW, 100)
    plain = encode_json(sent).to_pylist()
    number = registry.register("few-value", {"type": "object"}, "JSON")
    other = registry.register("few-value", {"type": "string"})
    mixed = [framed(number, p) if i % 3 else p for i, p in enumerate(plain)]
    broken = [
        framed(77, plain[0]),
        framed(other, plain[0]),
        b"\x00\x00",
        framed(number, b""),
        None,
        b"",
        framed(number, b"\x00" + plain[0]),
    ]
    form = record_format(FEW, KafkaSettings(schema_registry=registry.url), "json_schema")
    checked = form.decode(pa.array(broken + mixed, pa.binary()), NOW, AHEAD)
    assert checked.valid.equals(sent) and checked.accepted.tolist() == list(range(len(broken), 100 + len(broken)))
    assert checked.reasons.to_pylist()[: len(broken)] == ["unknown_schema"] * 2 + ["malformed"] * 5
    assert checked.details.to_pylist()[:3] == [
        "schema 77 is not known to the registry",
        f"schema {other}: it is AVRO, not JSON",
        "a zero byte at its beginning and no schema id behind it",
    ]
    without = record_format(FEW, KafkaSettings(), "json_schema")  # nobody to ask: the ids are not looked at
    assert without.decode(pa.array(broken[:2] + mixed, pa.binary()), NOW, AHEAD).valid.num_rows == 102
    with pytest.raises(ConfigError, match=r"kafka\.schema_registry is missing"):
        without.encode(sent)


@given(
    st.lists(st.none() | st.binary(max_size=8) | st.binary(max_size=12).map(lambda b: b"\x00" + b)), st.integers(0, 3), st.integers(0, 3)
)
def test_frames_are_those_of_each_payload_alone(payloads: list[bytes | None], before: int, behind: int) -> None:
    whole = pa.array([b"\x00xxxxxx"] * before + payloads + [b"\x00yyyyyy"] * behind, pa.binary())
    found = frames(whole.slice(before, len(payloads)))
    for row, payload in enumerate(payloads):
        value = payload or b""
        is_framed = value[:1] == b"\x00" and len(value) >= 5
        assert bool(found.framed[row]) == is_framed
        assert bool(found.cut[row]) == (value[:1] == b"\x00" and not is_framed)
        assert found.ids[row] == (struct.unpack_from(">I", value, 1)[0] if is_framed else -1)
        assert found.bodies[row].as_py() == (value[5:] if is_framed else payload)
