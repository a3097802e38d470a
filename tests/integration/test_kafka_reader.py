"""The reader of a real broker: what it gives, and how it behaves when the log, the topic or the broker is not as it was."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaAdminClient, TopicPartition

from pipelines.project.config import KafkaSettings
from pipelines.services import jars
from pipelines.services.kafka_broker import Broker
from pipelines.sources.broker import BrokerAway, FetchResult, OffsetGone, PartitionReader, TopicReplaced, UnknownTopic
from pipelines.sources.kafka import connection
from pipelines.sources.kafka.connection import KafkaConnection, TopicInfo
from pipelines.sources.kafka.kafka_client import client_options
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from tests.integration.kafka_world import drain, new_topic, produce, producer, range_of
from tests.waiting import until
from transforms.errors import ConfigError, StoreError


@pytest.fixture
def admin(options: dict[str, Any]) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(**options)
    yield client
    client.close()


def values(polled: FetchResult) -> list[bytes | None]:
    return polled.payloads.to_pylist()


# ---------------------------------------------------------------------------------------------------------------- what it gives


def test_records_come_back_as_they_were_sent(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    sent = [
        (b"k", b"v", [("h", b"1"), ("h", b"2")], 1_357_000_000_000),
        (None, b"", [], 1_357_000_000_001),
        (b"", None, [], 1_356_999_999_999),
        (b"\xff", b"x" * 300_000, [("long " * 100, b"y" * 500)], 1),
    ]
    with producer(options) as p:
        for key, value, headers, stamp in sent:
            p.send(topic, value, key=key, headers=headers, timestamp_ms=stamp).get(30)
    polled = reader.poll(topic, 0, 0, 100, 1000)
    polled = polled if len(polled.offsets) == 4 else pytest.fail(f"{polled}")
    assert polled.original(range_of(polled.offsets)) == [(k, v, h) for k, v, h, _ in sent]
    assert values(polled) == [v for _, v, _, _ in sent]
    assert polled.timestamps_us.tolist() == [1000 * t for *_, t in sent]
    assert (polled.offsets.tolist(), polled.next_offset, polled.end_offset, polled.at_end) == ([0, 1, 2, 3], 4, 4, True)


def test_reading_on_and_elsewhere(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    sent = [f"{i}".encode() for i in range(500)]
    produce(options, topic, sent)
    assert (reader.start(topic, 0), reader.end(topic, 0)) == (0, 500)
    at, found, ends = 0, [], []
    while at < 500:
        polled = reader.poll(topic, 0, at, 7, 1000)
        assert polled.offsets[0] == at and len(polled.offsets) <= 7
        found += values(polled)
        ends.append(polled.at_end)
        at = polled.next_offset
    assert found == sent
    last = reader.poll(topic, 0, 500, 7, 0)
    assert (values(last), last.next_offset, last.at_end) == ([], 500, True)
    for offset in (250, 3, 499, 0, 251):  # anywhere, and back
        assert values(reader.poll(topic, 0, offset, 2, 1000)) == sent[offset : offset + 2]
    before = reader.poll(topic, 0, 10, 20, 1000).before(15)
    assert (values(before), before.next_offset, before.at_end) == (sent[10:15], 15, False)
    assert before.original(np.array([4])) == [(None, b"14", [])]


def test_an_empty_partition_and_new_records(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    begun = time.monotonic()
    empty = reader.poll(topic, 0, 0, 10, 300)
    assert (values(empty), empty.next_offset, empty.at_end) == ([], 0, True)
    assert time.monotonic() - begun >= 0.25, "it waits for the first record as long as it may"
    threading.Timer(0.3, produce, (options, topic, [b"new"])).start()
    begun = time.monotonic()
    assert values(reader.poll(topic, 0, 0, 10, 20_000)) == [b"new"]
    assert time.monotonic() - begun < 10, "and no longer than that"


def test_nothing_old_is_called_the_end(options: dict[str, Any], reader: PartitionReader) -> None:
    """A fetch sent ahead says nothing about now: ``at_end`` comes from a fetch of this poll alone."""
    topic = new_topic(options)
    for i in range(200):
        produce(options, topic, [b"%d" % i]) if i % 50 == 0 else None
        polled = reader.poll(topic, 0, i // 50, 1, 1000)
        assert values(polled) == [b"%d" % (i - i % 50)]
        assert reader.poll(topic, 0, i // 50 + 1, 1, 0).at_end


def test_several_partitions_by_several_threads(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options, partitions=4)
    for partition in range(4):
        produce(options, topic, [b"%d/%d" % (partition, i) for i in range(2000)], partition, linger_ms=20)
    found: dict[int, list[Any]] = {}
    threads = [threading.Thread(target=lambda p=p: found.update({p: drain(reader, topic, p, max_records=300)})) for p in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {p: [(None, b"%d/%d" % (p, i), []) for i in range(2000)] for p in range(4)}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_by_kafka_itself(broker: Broker, options: dict[str, Any], reader: PartitionReader, codec: str) -> None:
    """Every codec of Kafka's own producer (kafka-python has two of them here)."""
    topic = new_topic(options)
    sent = [f"record {i} " + "abc" * (i % 50) for i in range(5000)]
    command = [jars.java(), "-cp", jars.classpath("kafka", print), "kafka.tools.ConsoleProducer", "--bootstrap-server", broker.bootstrap]
    command += ["--topic", topic, "--compression-codec", codec]
    subprocess.run(command, input="\n".join(sent).encode(), check=True, capture_output=True, timeout=120)
    assert [v for _, v, _ in drain(reader, topic)] == [s.encode() for s in sent]


# ------------------------------------------------------------------------------------------------------------------ transactions


def test_aborted_records_are_never_seen_and_markers_never_block(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    kept = []
    with producer(options, transactional_id=f"{topic}-a") as p, producer(options) as plain:
        p.init_transactions()
        for i in range(12):
            p.begin_transaction()
            for j in range(5):
                p.send(topic, b"%d.%d" % (i, j), partition=0)
                p.flush()
                if j == 2:  # between them
                    plain.send(topic, b"plain %d" % i, partition=0).get(30)
            if i % 3 == 1:
                p.commit_transaction()
                kept += [b"%d.%d" % (i, j) for j in range(5)]
            else:
                p.abort_transaction()
    end = reader.end(topic, 0)
    assert end == 12 * 7, "a marker per transaction takes an offset"
    for size in (1, 4, 1000):
        found = [v or b"" for _, v, _ in drain(reader, topic, max_records=size)]
        assert [v for v in found if not v.startswith(b"plain")] == kept
        assert [v for v in found if v.startswith(b"plain")] == [b"plain %d" % i for i in range(12)]
    last = reader.poll(topic, 0, end, 10, 0)
    assert (last.next_offset, last.at_end) == (end, True)


def test_only_markers_still_move_on(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    with producer(options, transactional_id=f"{topic}-a") as p:
        p.init_transactions()
        for _ in range(3):
            p.begin_transaction()
            p.send(topic, b"never", partition=0)
            p.flush()
            p.abort_transaction()
    polled = reader.poll(topic, 0, 0, 10, 1000)
    assert (values(polled), polled.next_offset, polled.at_end) == ([], 6, True)


def test_an_open_transaction_is_the_end_for_now(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"before"])
    with producer(options, transactional_id=f"{topic}-a") as p:
        p.init_transactions()
        p.begin_transaction()
        p.send(topic, b"inside", partition=0)
        p.flush()
        produce(options, topic, [b"after"])
        assert reader.end(topic, 0) == 1
        polled = reader.poll(topic, 0, 0, 10, 1000)
        assert (values(polled), polled.next_offset, polled.end_offset, polled.at_end) == ([b"before"], 1, 1, True)
        assert reader.poll(topic, 0, 1, 10, 100).at_end
        p.commit_transaction()
    assert values(reader.poll(topic, 0, 1, 10, 5000)) == [b"inside", b"after"]


# ----------------------------------------------------------------------------------------------------- the log is not as it was


def test_an_offset_that_retention_took(options: dict[str, Any], reader: PartitionReader, admin: KafkaAdminClient) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"%d" % i for i in range(10)])
    assert values(reader.poll(topic, 0, 0, 2, 1000)) == [b"0", b"1"]
    admin.delete_records({TopicPartition(topic, 0): 6})
    with Reader_of(options) as fresh:
        for offset in (0, 5):
            with pytest.raises(OffsetGone, match=rf"^{topic}/0: offset {offset} is gone by retention, the log holds 6 to 10; "):
                fresh.poll(topic, 0, offset, 10, 100)
        assert fresh.start(topic, 0) == 6
        assert values(fresh.poll(topic, 0, 6, 10, 1000)) == [b"6", b"7", b"8", b"9"]


def test_an_offset_beyond_the_end(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"0"])
    with pytest.raises(OffsetGone, match="offset 2 does not exist"):
        reader.poll(topic, 0, 2, 10, 100)
    assert values(reader.poll(topic, 0, 0, 10, 1000)) == [b"0"], "the reader goes on"


def test_a_log_that_was_cut_and_grew_again(options: dict[str, Any], reader: KafkaPartitionReader) -> None:
    """After an unclean leader election: what a single broker answers when the reader knows records of a leader that it never had."""
    topic = new_topic(options)
    produce(options, topic, [b"0", b"1"])
    assert reader.poll(topic, 0, 0, 1, 1000).next_offset == 1
    part = reader._held[topic, 0]
    part.held, part.pending, part.epoch = None, None, part.epoch + 7
    with pytest.raises(OffsetGone, match="offset 1 follows records that were lost since they were read, the log holds 0 to 2"):
        reader.poll(topic, 0, 1, 1, 1000)


def test_brokers_without_topic_ids(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Kafka 2.8 a fetch names the topic alone."""
    describe = KafkaConnection._describe
    monkeypatch.setattr(KafkaConnection, "_describe", lambda self, name, until: replace(describe(self, name, until), id=None))
    topic = new_topic(options)
    produce(options, topic, [b"0", b"1"])
    with Reader_of(options) as reader:
        assert reader.identity(topic) == ""
        polled = reader.poll(topic, 0, 0, 10, 1000)
        assert (values(polled), polled.identity) == ([b"0", b"1"], "")
        with pytest.raises(OffsetGone):
            reader.poll(topic, 0, 9, 10, 1000)


def test_a_partition_without_a_leader_is_waited_for(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"0"])
    describe, led = KafkaConnection._describe, [False]

    def leaderless(self: KafkaConnection, name: str, until_: float) -> TopicInfo:
        found = describe(self, name, until_)
        return found if led[0] else replace(found, leaders={0: -1})

    monkeypatch.setattr(KafkaConnection, "_describe", leaderless)
    with Reader_of(options, answer_seconds=0.5) as reader:
        assert away_for(lambda: reader.poll(topic, 0, 0, 1, 0)) < 2
        assert away_for(lambda: reader.end(topic, 0)) < 2
        led[0] = True
        assert values(reader.poll(topic, 0, 0, 1, 1000)) == [b"0"]


def test_a_topic_made_anew_is_noticed_whatever_its_offsets(
    options: dict[str, Any], reader: PartitionReader, admin: KafkaAdminClient
) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"old"] * 5)
    before = reader.identity(topic)
    polled = reader.poll(topic, 0, 0, 3, 1000)
    assert polled.next_offset == 3 and polled.identity == before != ""
    admin.delete_topics([topic])
    with pytest.raises(UnknownTopic):
        until(lambda: reader.poll(topic, 0, 5, 10, 100).offsets.tolist() == "never")
    until(lambda: topic not in admin.list_topics())
    new_topic(options, name=topic)
    produce(options, topic, [b"new"] * 50)
    for offset in (0, 4, 5, 50, 99):
        with pytest.raises(TopicReplaced, match=f"Kafka topic '{topic}' was made anew"):
            reader.poll(topic, 0, offset, 10, 100)
    assert reader.identity(topic) not in (before, "")
    assert values(reader.poll(topic, 0, 0, 1, 1000)) == [b"new"], "whoever asked for its identity has taken note"


def test_unknown_topics_and_partitions(options: dict[str, Any], reader: PartitionReader) -> None:
    topic = new_topic(options, partitions=2)
    for call in (
        lambda: reader.partitions("nope"),
        lambda: reader.identity("nope"),
        lambda: reader.start("nope", 0),
        lambda: reader.end("nope", 0),
        lambda: reader.poll("nope", 0, 0, 1, 10),
        lambda: reader.partitions("no/name"),
    ):
        with pytest.raises(UnknownTopic, match="there is no Kafka topic 'no"):
            call()
    for call in (lambda: reader.start(topic, 2), lambda: reader.end(topic, 2), lambda: reader.poll(topic, 2, 0, 1, 10)):
        with pytest.raises(UnknownTopic, match="has 2 partitions and no partition 2"):
            call()
    with pytest.raises(UnknownTopic):  # asking does not make a topic
        reader.partitions("nope")


def test_partitions_added_while_running(options: dict[str, Any], reader: PartitionReader, admin: KafkaAdminClient) -> None:
    topic = new_topic(options)
    produce(options, topic, [b"0"])
    assert reader.partitions(topic) == 1 and len(reader.poll(topic, 0, 0, 10, 1000).offsets) == 1
    admin.create_partitions({topic: 3})
    until(lambda: reader.partitions(topic) == 3)
    admin.wait_for_topics([topic])
    produce(options, topic, [b"1"], partition=2)
    assert values(reader.poll(topic, 2, 0, 10, 5000)) == [b"1"]


# ------------------------------------------------------------------------------------------------------------- the broker is away


def away_for(call: Any) -> float:
    """Seconds until BrokerAway came."""
    begun = time.monotonic()
    with pytest.raises(BrokerAway, match=r"no response from Kafka at 127\.0\.0\.1"):
        call()
    return time.monotonic() - begun


@pytest.mark.slow
def test_a_broker_that_is_killed_and_comes_back(broker: Broker, options: dict[str, Any]) -> None:
    topic = new_topic(options, partitions=2)
    produce(options, topic, [b"%d" % i for i in range(10)])
    with Reader_of(options) as reader:
        assert len(reader.poll(topic, 0, 0, 4, 1000).offsets) == 4
        broker.kill()
        try:
            taken = reader.poll(topic, 0, 4, 4, 100)  # what was fetched before is there still
            assert values(taken) == [b"4", b"5", b"6", b"7"]
            assert away_for(lambda: reader.poll(topic, 1, 0, 4, 100)) < 7
            assert away_for(lambda: reader.poll(topic, 1, 0, 4, 100)) < 2, "while it is known to be away, nobody waits long"
            assert away_for(lambda: reader.start(topic, 0)) < 2
            assert away_for(lambda: reader.partitions(topic)) < 2
            with Reader_of(options, 1.0) as late:  # a reader that never saw it
                assert away_for(lambda: late.poll(topic, 0, 0, 4, 100)) < 3
        finally:
            broker.restart()
        found = until(lambda: patient(lambda: reader.poll(topic, 0, 8, 4, 1000)), 30)
        assert values(found) == [b"8", b"9"]
        produce(options, topic, [b"more"])
        assert values(reader.poll(topic, 0, 10, 4, 5000)) == [b"more"]


def patient(call: Any) -> Any:
    """The answer, None while nobody answers."""
    try:
        return call()
    except BrokerAway:
        return None


@pytest.mark.slow
def test_a_broker_that_is_away_for_long(broker: Broker, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as six connections are given up and made anew: a minute, in a third of the time."""
    monkeypatch.setattr(connection, "_RENEW_SECONDS", connection._RENEW_SECONDS / 3)
    topic = new_topic(options)
    produce(options, topic, [b"0"])
    with Reader_of(options) as reader:
        assert len(reader.poll(topic, 0, 0, 4, 1000).offsets) == 1
        threads = threading.active_count()
        broker.kill()
        try:
            deadline, waits = time.monotonic() + 20, []
            while time.monotonic() < deadline:
                waits.append(away_for(lambda: reader.poll(topic, 0, 1, 4, 100)))
            assert max(waits) < 7 and np.median(waits) < 1.5
            assert threading.active_count() <= threads + 1, "connections that failed are closed"
        finally:
            broker.restart()
        produce(options, topic, [b"1"])
        begun = time.monotonic()
        assert values(until(lambda: patient(lambda: reader.poll(topic, 0, 1, 4, 1000)), 30)) == [b"1"]
        assert time.monotonic() - begun < 6


@pytest.mark.parametrize("seconds", [1.5, pytest.param(8, marks=pytest.mark.slow)])
def test_a_frozen_broker(broker: Broker, options: dict[str, Any], seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: connections stand, nobody answers; the longer time sees two connections given up."""
    monkeypatch.setattr(connection, "_RENEW_SECONDS", connection._RENEW_SECONDS / 3)
    topic = new_topic(options)
    produce(options, topic, [b"0"])
    with Reader_of(options, answer_seconds=1.0) as reader:
        assert len(reader.poll(topic, 0, 0, 4, 1000).offsets) == 1
        broker.pause()
        try:
            until_ = time.monotonic() + seconds
            while time.monotonic() < until_:
                assert away_for(lambda: reader.poll(topic, 0, 1, 4, 100)) < 2
        finally:
            broker.resume()
        produce(options, topic, [b"1"])
        begun = time.monotonic()
        assert values(until(lambda: patient(lambda: one(reader, topic, 1)), 30)) == [b"1"]
        assert time.monotonic() - begun < 8


def one(reader: PartitionReader, topic: str, offset: int) -> FetchResult | None:
    """A poll that brought something."""
    polled = reader.poll(topic, 0, offset, 4, 200)
    return polled if len(polled.offsets) else None


@pytest.mark.slow
def test_nothing_is_lost_or_repeated_over_outages(broker: Broker, options: dict[str, Any]) -> None:
    """Records flow while the broker is killed twice; what is polled is what was acknowledged, in order."""
    topic = new_topic(options)
    ended = threading.Event()
    sent: list[bytes] = []

    def keep_producing() -> None:
        with producer(options, linger_ms=5) as p:
            n = 0
            while not ended.is_set():
                batch = [b"%d" % i for i in range(n, n + 50)]
                for future in [p.send(topic, v, partition=0) for v in batch]:
                    future.get(60)
                sent.extend(batch)
                n += 50

    thread = threading.Thread(target=keep_producing)
    thread.start()
    found: list[bytes | None] = []
    with Reader_of(options) as reader:
        at = 0

        def read() -> bool:
            nonlocal at
            polled = patient(lambda: reader.poll(topic, 0, at, 300, 50))
            if polled is not None:
                found.extend(values(polled))
                at = polled.next_offset
            return polled is not None and bool(len(polled.offsets))

        try:
            for _ in range(2):
                until(read)
                broker.kill()
                until(lambda: not read())
                broker.restart()
                until(read)
        finally:
            ended.set()
            thread.join(90)
        until(lambda: not read() and len(found) >= len(sent))
    assert found == sent


class Reader_of:
    """A reader as a context."""

    def __init__(self, options: dict[str, Any], answer_seconds: float = 5.0) -> None:
        self.reader = KafkaPartitionReader(options, answer_seconds)

    def __enter__(self) -> PartitionReader:
        return self.reader

    def __exit__(self, *error: object) -> None:
        self.reader.close()


def test_a_closed_reader_says_so(options: dict[str, Any]) -> None:
    before = set(threading.enumerate())
    reader = KafkaPartitionReader(options)
    topic = new_topic(options)
    assert reader.end(topic, 0) == 0
    (thread,) = [t for t in threading.enumerate() if t.name == "kafka-io-tandem" and t not in before]
    reader.close()
    until(lambda: not thread.is_alive())
    with pytest.raises(StoreError, match="closed"):
        reader.poll(topic, 0, 0, 1, 10)


# ---------------------------------------------------------------------------------------------------------------------- options


def test_options_are_checked(tmp_path: Path) -> None:
    def options(**kafka: Any) -> dict[str, Any]:
        return client_options(KafkaSettings(**kafka), tmp_path)

    with pytest.raises(ConfigError, match="no local broker is running"):
        options()
    with pytest.raises(ConfigError, match="'broker' has no port"):
        options(bootstrap_servers="a:1, broker")
    assert options(bootstrap_servers="a:1, b:2")["bootstrap_servers"] == ["a:1", "b:2"]
    with pytest.raises(ConfigError, match=r"kafka\.sasl_password is missing"):
        options(bootstrap_servers="a:1", security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="me")
    secure = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "me", "sasl_password": "secret"}
    found = options(bootstrap_servers="a:1", **secure)
    assert (found["sasl_plain_username"], found["sasl_plain_password"]) == ("me", "secret")
    with pytest.raises(ConfigError, match=r"kafka\.ssl_cafile: there is no file"):
        options(bootstrap_servers="a:1", ssl_cafile=tmp_path / "no", **secure)
