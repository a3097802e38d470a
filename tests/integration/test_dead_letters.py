"""Dead letters in a real broker: what is kept of a record, and when a write counts as done."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from pipelines.services.kafka_broker import Broker
from pipelines.sources.broker import BrokerAway, FetchResult, LetterRefused, PartitionReader
from pipelines.sources.kafka.dead_letters import KafkaDeadLetters, Value, producer_options
from pipelines.sources.kafka.record_batches import Columns
from pipelines.sources.letters import Letter
from tests.integration.kafka_world import drain, new_topic, produce, producer, range_of
from transforms.errors import DataError, StoreError


def polled_of(
    options: dict[str, Any], reader: PartitionReader, records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]
) -> FetchResult:
    """A poll that brought these records."""
    topic = new_topic(options)
    with producer({**options, "value_serializer": Value()}) as p:
        for key, value, headers in records:
            p.send(topic, Value(value), key, headers).get(30)
    return reader.poll(topic, 0, 0, 10_000, 5000)


def letters(reader: PartitionReader, topic: str) -> list[Letter]:
    return [Letter.read(record, 0) for record in drain(reader, topic)]


def write_one(options: dict[str, Any], topic: str, polled: FetchResult) -> None:
    writer = KafkaDeadLetters(options, topic)
    writer.write("t", 0, "s", polled, np.array([0]), ["r"], [None])
    writer.close()


def test_a_letter_keeps_all_of_its_record(options: dict[str, Any], reader: PartitionReader) -> None:
    records: list[Any] = [
        (b"key", b'{"a": 1}', [("trace", b"1"), ("trace", b"2")]),
        (None, b"\xff\x00", []),
        (b"", b"", [("", b"")]),
        (b"k", None, []),
        (None, None, [("tandem.reason", b"of another"), ("tandem.headers", b"9")]),  # our own names, as a replayed letter has them
        ("grüße".encode(), b"x" * 900_000, [("größe", b"y" * 10_000)]),
    ]
    polled = polled_of(options, reader, records)
    writer = KafkaDeadLetters(options, "dlq.all")
    rows = np.array([0, 1, 2, 3, 4, 5])
    writer.write("events", 3, "departures", polled, rows, [f"reason {i}" for i in rows], [None, *["detail é"] * 4, "x" * 5000])
    found = letters(reader, "dlq.all")
    assert [(a.key, a.value, a.headers) for a in found] == records
    assert [(a.topic, a.partition, a.offset, a.source) for a in found] == [("events", 3, i, "departures") for i in range(6)]
    assert [a.timestamp_us for a in found] == polled.timestamps_us.tolist()
    assert [a.reason for a in found] == [f"reason {i}" for i in rows]
    assert [a.detail for a in found] == ["", *["detail é"] * 4, "x" * 1000]
    assert {a.topic_id for a in found} == {polled.identity} != {""}
    assert found[2].identity == f"events/3/2@{polled.identity}"
    writer.write("events", 3, "departures", polled, np.array([4]), ["again"], [None])
    assert [a.identity for a in letters(reader, "dlq.all")].count(found[4].identity) == 2, "written again: the same identity"
    writer.close()


def test_a_header_without_a_value_stays_one(options: dict[str, Any], reader: PartitionReader) -> None:
    polled = polled_of(options, reader, [(b"k", b"v", [("a", b""), ("b", b"")])])
    assert isinstance(polled.columns, Columns)
    data = bytes(polled.columns.data.tobytes()).replace(b"\x02b\x00", b"\x02b\x01")  # what kafka-python cannot send: length -1
    columns = type(polled.columns)(**{**polled.columns.__dict__, "data": np.frombuffer(data, np.uint8)})
    polled = FetchResult(**{**polled.__dict__, "columns": columns})
    assert polled.original(np.array([0]))[0][2] == [("a", b""), ("b", None)]
    writer = KafkaDeadLetters(options, "dlq.null")
    writer.write("t", 0, "s", polled, np.array([0]), ["r"], ["d"])
    writer.close()
    assert letters(reader, "dlq.null")[0].headers == [("a", b""), ("b", None)]


def test_the_topic_is_made_for_ever_and_left_as_it_is(options: dict[str, Any], reader: PartitionReader) -> None:
    polled = polled_of(options, reader, [(None, b"v", [])])
    admin = KafkaAdminClient(**options)

    def config(topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = admin.describe_configs([resource], config_filter="all")
        return {name: value["value"] for name, value in found[ConfigResourceType.TOPIC.name.lower()][topic].items()}

    try:
        write_one(options, "dlq.made", polled)
        made = config("dlq.made")
        assert (made["retention.ms"], made["retention.bytes"], made["cleanup.policy"]) == ("-1", "-1", "delete")
        new_topic(options, 3, "dlq.there", retention_ms="1234567")
        write_one(options, "dlq.there", polled)
        assert config("dlq.there")["retention.ms"] == "1234567"
        assert sum(len(drain(reader, "dlq.there", p)) for p in range(3)) == 1
    finally:
        admin.close()


def test_nothing_to_write_asks_nobody() -> None:
    polled = FetchResult(pa.array([b"v"]), np.array([0]), np.array([0]), 1, 1, True)
    KafkaDeadLetters({"bootstrap_servers": ["127.0.0.1:1"]}, "dlq").write("t", 0, "s", polled, np.array([], np.int64), [], [])


def test_many_letters_by_many_threads(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"%d" % i for i in range(5000)], linger_ms=20)
    polled = reader.poll(topic, 0, 0, 5000, 5000)
    rows = range_of(polled.offsets)
    writer = KafkaDeadLetters(options, "dlq.many")
    begun = time.monotonic()
    threads = [
        threading.Thread(target=writer.write, args=(topic, 0, "s", polled, rows[i::4], ["bad"] * len(rows[i::4]), [None] * len(rows[i::4])))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    writer.close()
    assert time.monotonic() - begun < 20
    assert sorted(a.offset for a in letters(reader, "dlq.many")) == rows.tolist()


def test_what_is_too_large_or_no_letter_says_so(options: dict[str, Any], reader: PartitionReader) -> None:
    new_topic(options, 1, "dlq.small", max_message_bytes="2000")
    polled = polled_of(options, reader, [(None, b"v" * 5000, []), (None, b"ok", [])])
    writer = KafkaDeadLetters(options, "dlq.small")
    with pytest.raises(StoreError, match=r"dead letters cannot be written to topic 'dlq.small': .* raise its max\.message\.bytes"):
        writer.write("t", 0, "s", polled, np.array([0]), ["r"], [None])
    writer.write("t", 0, "s", polled, np.array([1]), ["r"], [None])
    writer.close()
    assert [a.value for a in letters(reader, "dlq.small")] == [b"ok"]
    produce(options, "dlq.small", [b"foreign"])
    with pytest.raises(DataError, match="is no dead letter"):
        letters(reader, "dlq.small")


@pytest.mark.parametrize("how", ["frozen", pytest.param("killed", marks=pytest.mark.slow)])
def test_a_write_is_done_only_when_it_is_acknowledged(broker: Broker, options: dict[str, Any], reader: PartitionReader, how: str) -> None:
    """While the broker is away a write fails within its time; afterwards the same writer goes on. Nothing acknowledged is lost."""
    polled = polled_of(options, reader, [(None, b"%d" % i, []) for i in range(3)])
    writer = KafkaDeadLetters(options, f"dlq.{how}", delivery_seconds=2)
    writer.write("t", 0, "s", polled, np.array([0]), ["r"], [None])
    if how == "frozen":
        broker.pause()
    else:
        broker.kill()
    try:
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(BrokerAway, match=rf"dead letters cannot be written to topic 'dlq\.{how}'|no response from Kafka"):
                writer.write("t", 0, "s", polled, np.array([1]), ["r"], [None])
            assert time.monotonic() - begun < 10
    finally:
        if how == "frozen":
            broker.resume()
        else:
            broker.restart()
    deadline = time.monotonic() + 30
    while True:
        try:
            writer.write("t", 0, "s", polled, np.array([2]), ["r"], [None])
            break
        except BrokerAway:
            assert time.monotonic() < deadline
    writer.close()
    found = [a.offset for a in letters(reader, f"dlq.{how}")]
    assert found[0] == 0 and found[-1] == 2 and set(found) <= {0, 1, 2}


def test_the_time_to_deliver_bounds_all_parts(options: dict[str, Any]) -> None:
    found = producer_options(options, 3)
    assert (found["delivery_timeout_ms"], found["max_block_ms"], found["acks"], found["enable_idempotence"]) == (3000, 3000, "all", True)
    assert found["request_timeout_ms"] + found["linger_ms"] <= found["delivery_timeout_ms"]


def test_a_record_that_expands_to_forty_megabytes(options: dict[str, Any], reader: PartitionReader) -> None:
    """SECURITY H1: its dead letter is cut, with length and hash, and what comes after it is read."""
    topic = new_topic(options)
    with producer({**options, "max_request_size": 64 << 20}, compression_type="gzip") as p:
        for value in (b"before", b" " * (40 << 20), b"after"):
            p.send(topic, value, b"k").get(60)
    polled = reader.poll(topic, 0, 0, 10_000, 5000)
    while polled.next_offset < 3 and 1 not in polled.refused:
        polled = reader.poll(topic, 0, polled.next_offset, 10_000, 5000)
    assert list(polled.refused) == [1] and polled.offsets[-1] == 2 and polled.payloads[-1].as_py() == b"after"
    row = int(np.flatnonzero(polled.offsets == 1)[0])
    writer = KafkaDeadLetters(options, "dlq.large")
    writer.write(topic, 0, "s", polled, np.array([row]), ["too_long"], [polled.refused[1]])
    writer.close()
    (found,) = letters(reader, "dlq.large")
    assert (found.whole, found.key, found.value) == (False, b"k", b" " * (16 << 10))
    assert f"41,943,040 bytes, SHA-256 {hashlib.sha256(b' ' * (40 << 20)).hexdigest()}" in found.detail


def test_a_letter_is_made_as_short_as_its_topic_wants(options: dict[str, Any], reader: PartitionReader) -> None:
    """SECURITY H1: a dead-letter topic that was made with the broker's usual limit, or a smaller one."""
    value = b"x" * 300_000
    polled = polled_of(options, reader, [(b"key", value, [("trace", b"y" * 30_000)]), (b"small", b"{}", [])])
    topic = new_topic(options, max_message_bytes="100000")
    writer = KafkaDeadLetters(options, topic)
    for _ in range(2):
        writer.write("t", 0, "s", polled, np.array([0, 1]), ["r", "r"], ["why", "why"])
    found = letters(reader, topic)[-2:]
    assert [(a.whole, a.key, len(a.value or b""), len(a.headers)) for a in found] == [(False, b"key", 16 << 10, 0), (True, b"small", 2, 0)]
    assert found[0].detail.startswith("why; the record's value of 300,000 bytes (SHA-256 ") and found[1].detail == "why"
    tiny = new_topic(options, max_message_bytes="300")
    with pytest.raises(LetterRefused, match=r"larger than the topic takes; raise its max\.message\.bytes"):
        KafkaDeadLetters(options, tiny).write("t", 0, "s", polled, np.array([1]), ["r"], ["why"])
    # Several at once: the client sends their batch again in halves, which is no answer yet.
    many = polled_of(options, reader, [(b"small", b"{}", [])] * 7)
    with pytest.raises(LetterRefused, match=r"larger than the topic takes; raise its max\.message\.bytes"):
        KafkaDeadLetters(options, tiny).write("t", 0, "s", many, np.arange(7), ["r"] * 7, ["why"] * 7)
