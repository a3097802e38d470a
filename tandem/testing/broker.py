"""The contract of a broker (:mod:`pipelines.sources.broker`): order, offsets, retention, topics made anew, outages, dead letters.

A broker of another package is tested by a :class:`BrokerHarness`, which makes topics and records the broker's own way, and::

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def harness(self):
            return MyHarness(...)
"""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipelines.sources.broker import (
    Broker,
    BrokerAway,
    FetchResult,
    OffsetGone,
    Original,
    PartitionReader,
    TopicReplaced,
    UnknownTopic,
)
from pipelines.sources.letters import Choice, Letter, find, list_letters, scan
from pipelines.sources.memory import MemoryBroker
from transforms.definitions import EventSource, Field, Header, RecordKey, RecordTimestamp
from transforms.errors import StoreError

__all__ = ["BrokerContract", "BrokerHarness", "MemoryHarness", "read_all"]

_names = itertools.count()


_BESIDE = EventSource(
    name="beside",
    fields=[
        Field("id", "string", required=True, path=RecordKey()),
        Field("tenant", "string", path=Header("tenant")),
        Field("written", "timestamp", path=RecordTimestamp()),
    ],
    event_time="at",
    tie_breaker="id",
)
"""A source whose fields stand beside the payload."""


class BrokerHarness(ABC):
    """What a test does to a broker from outside. ``broker`` is what a job would be given, ``bootstrap_servers`` the setting of
    ``tandem.yaml`` (``kafka.bootstrap_servers``) that names it."""

    broker: Broker
    bootstrap_servers: str

    @abstractmethod
    def create_topic(self, name: str, partitions: int) -> None:
        """Make an empty topic that keeps everything."""

    @abstractmethod
    def delete_topic(self, name: str) -> None:
        """Delete it; another of the same name may follow at once."""

    @abstractmethod
    def add_partitions(self, topic: str, total: int) -> None:
        """Let the topic have more partitions."""

    @abstractmethod
    def append(self, topic: str, partition: int, records: Sequence[Original], timestamps_us: Sequence[int] | None = None) -> None:
        """Append records (key, value, headers), durable and visible when this returns."""

    @abstractmethod
    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Delete the records before this offset, as retention does."""

    @abstractmethod
    def pause(self) -> None:
        """Let the broker answer nobody, until :meth:`resume`."""

    @abstractmethod
    def resume(self) -> None:
        """Let it answer again."""

    def new_topic(self, partitions: int = 1) -> str:
        """A new empty topic; its name."""
        name = f"contract.{next(_names)}"
        self.create_topic(name, partitions)
        return name

    def put(self, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
        """Append records of these values; a tombstone has a key, as it must in a compacted topic."""
        self.append(topic, partition, [(None if v is not None else b"key", v, []) for v in values])


class MemoryHarness(BrokerHarness):
    """A broker in the memory of this process."""

    def __init__(self) -> None:
        self.broker: MemoryBroker = MemoryBroker()
        self.bootstrap_servers = self.broker.address

    def create_topic(self, name: str, partitions: int) -> None:
        self.broker.create_topic(name, partitions)

    def delete_topic(self, name: str) -> None:
        self.broker.delete_topic(name)

    def add_partitions(self, topic: str, total: int) -> None:
        self.broker.add_partitions(topic, total)

    def append(self, topic: str, partition: int, records: Sequence[Original], timestamps_us: Sequence[int] | None = None) -> None:
        keys, values, headers = zip(*records, strict=True)
        self.broker.append(topic, partition, values, keys, headers, timestamps_us)

    def truncate(self, topic: str, partition: int, before: int) -> None:
        self.broker.truncate(topic, partition, before)

    def pause(self) -> None:
        self.broker.pause()

    def resume(self) -> None:
        self.broker.resume()


def read_all(reader: PartitionReader, topic: str, partition: int = 0, max_records: int = 1000) -> list[bytes | None]:
    """The values of a partition, from its first record to its end as it is now."""
    at, end, found = reader.start(topic, partition), reader.end(topic, partition), []
    while at < end:
        fetched = reader.poll(topic, partition, at, max_records, 1000)
        assert fetched.next_offset > at, f"no progress at offset {at} of {end}"
        found += fetched.payloads.to_pylist()
        at = fetched.next_offset
    return found


def _eventually(ask: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Ask until the broker answers and the answer is true."""
    until = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
        except BrokerAway:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {seconds:g} s"


class BrokerContract:
    """What every broker must hold; override :meth:`harness`."""

    @pytest.fixture
    def harness(self) -> BrokerHarness:
        """A broker that answers, with no topic of this suite's names (``contract.<number>``)."""
        raise NotImplementedError("override the fixture 'harness'")

    @pytest.fixture
    def reader(self, harness: BrokerHarness) -> Iterator[PartitionReader]:
        """A reader, closed in the end."""
        found = harness.broker.open_reader()
        yield found
        found.close()

    # ------------------------------------------------------------------------------------------------------------ what it gives

    def test_records_come_back_as_they_were_appended(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        records: list[Original] = [
            (b"k", b"v", [("h", b"1"), ("h", b"2")]),
            (None, b"", []),
            (b"", None, []),
            (b"\xff", b"x" * 300_000, [("long " * 100, b"y" * 500)]),
            (None, None, [("h", b"1")]),
        ]
        stamps = [1_357_000_000_000_000, 1_357_000_000_001_000, 1_356_999_999_999_000, 1_000, 2_000]
        harness.append(topic, 0, records, stamps)
        found: list[Original] = []
        times: list[int] = []
        tombstones: list[bool] = []
        at = 0
        while at < 5:
            fetched = reader.poll(topic, 0, at, 100, 1000)
            found += fetched.original(np.arange(len(fetched.offsets)))
            times += fetched.timestamps_us.tolist()
            assert fetched.payloads.to_pylist() == [value for _, value, _ in records[at : at + len(fetched.offsets)]]
            assert fetched.offsets.tolist() == list(range(at, at + len(fetched.offsets)))
            beside = fetched.origin(_BESIDE)
            assert beside is not None and beside.keys is not None and beside.headers is not None and beside.timestamps_us is not None
            some = slice(at, at + len(fetched.offsets))
            assert beside.keys.to_pylist() == [key for key, _, _ in records[some]]
            assert beside.headers.to_pylist() == [headers for _, _, headers in records[some]]
            assert beside.timestamps_us.to_pylist() == stamps[some]
            gone = fetched.tombstones()
            tombstones += [False] * len(fetched.offsets) if gone is None else gone.tolist()
            at = fetched.next_offset
        assert (found, times) == (records, stamps)
        assert tombstones == [False, False, True, False, False], "a key, and no value"
        assert fetched.origin(_BESIDE.plain) is None, "what no field reads is not made"
        assert (fetched.next_offset, fetched.end_offset, fetched.identity) == (5, 5, reader.identity(topic))

    def test_a_fetch_takes_no_more_than_asked_and_goes_on_there(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        values = [b"%d" % n for n in range(100)]
        harness.put(topic, values)
        first = reader.poll(topic, 0, 0, 7, 1000)
        assert first.payloads.to_pylist() == values[:7] and first.next_offset == 7 and not first.at_end
        assert reader.poll(topic, 0, 7, 7, 1000).payloads.to_pylist() == values[7:14]
        assert reader.poll(topic, 0, 3, 2, 1000).payloads.to_pylist() == values[3:5], "elsewhere"
        assert reader.poll(topic, 0, 0, 7, 1000).payloads.to_pylist() == values[:7], "again"
        for step in (1, 33, 1000):
            assert read_all(reader, topic, max_records=step) == values

    def test_what_lies_before_an_offset_can_be_taken_alone(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        harness.append(topic, 0, [(b"%d" % n, b"v%d" % n, []) for n in range(10)])
        fetched = reader.poll(topic, 0, 0, 10, 1000)
        part = fetched.before(4)
        assert (part.offsets.tolist(), part.next_offset, part.at_end) == ([0, 1, 2, 3], 4, False)
        assert part.original(np.array([3])) == [(b"3", b"v3", [])]
        assert fetched.before(10) is fetched

    def test_an_empty_partition_is_at_its_end_after_the_wait(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic(2)
        harness.put(topic, [b"0"], 0)
        assert (reader.start(topic, 1), reader.end(topic, 1)) == (0, 0)
        begun = time.monotonic()
        fetched = reader.poll(topic, 1, 0, 10, 200)
        assert time.monotonic() - begun > 0.15
        assert (len(fetched.offsets), fetched.next_offset, fetched.at_end) == (0, 0, True)

    def test_a_poll_waits_for_the_first_record(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        reader.poll(topic, 0, 0, 10, 10)
        later = threading.Timer(0.3, harness.put, (topic, [b"late"]))
        later.start()
        try:
            assert reader.poll(topic, 0, 0, 10, 20_000).payloads.to_pylist() == [b"late"]
        finally:
            later.join()
        assert reader.end(topic, 0) == 1

    def test_one_reader_serves_many_threads(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic(4)
        for partition in range(4):
            harness.put(topic, [b"%d/%d" % (partition, n) for n in range(500)], partition)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda partition: read_all(reader, topic, partition, 100), range(4)))
        assert found == [[b"%d/%d" % (partition, n) for n in range(500)] for partition in range(4)]

    def test_a_broker_is_told_to_workers_by_pickle(self, harness: BrokerHarness) -> None:
        topic = harness.new_topic(3)
        reader = pickle.loads(pickle.dumps(harness.broker)).open_reader()
        try:
            assert reader.partitions(topic) == 3
        finally:
            reader.close()

    # -------------------------------------------------------------------------------------------------- when the log is not as it was

    def test_what_retention_took_is_an_error(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        harness.put(topic, [b"%d" % n for n in range(10)])
        reader.poll(topic, 0, 0, 2, 1000)
        harness.truncate(topic, 0, 6)
        assert (reader.start(topic, 0), reader.end(topic, 0)) == (6, 10)
        other = harness.broker.open_reader()  # the first may hold what it fetched before
        try:
            with pytest.raises(OffsetGone, match=r"offset 3 is gone by retention, the log holds 6 to 10"):
                other.poll(topic, 0, 3, 10, 100)
        finally:
            other.close()
        assert reader.poll(topic, 0, 6, 10, 1000).payloads.to_pylist() == [b"6", b"7", b"8", b"9"]

    def test_an_offset_beyond_the_end_is_an_error(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        harness.put(topic, [b"0"])
        with pytest.raises(OffsetGone, match="does not exist"):
            reader.poll(topic, 0, 5, 10, 100)

    def test_a_topic_made_anew_is_another_one(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        harness.put(topic, [b"old"] * 3)
        before = reader.identity(topic)
        assert reader.poll(topic, 0, 0, 10, 1000).next_offset == 3
        harness.delete_topic(topic)
        harness.create_topic(topic, 1)
        harness.put(topic, [b"new"] * 5)
        with pytest.raises(TopicReplaced):
            _eventually(lambda: reader.poll(topic, 0, 3, 10, 100))
        assert reader.identity(topic) != before, "and who asks for it anew reads the new one"
        assert read_all(reader, topic) == [b"new"] * 5

    def test_unknown_topics_and_partitions(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic(2)
        for ask in (
            lambda: reader.partitions("contract.nowhere"),
            lambda: reader.identity("contract.nowhere"),
            lambda: reader.start("contract.nowhere", 0),
            lambda: reader.poll("contract.nowhere", 0, 0, 1, 10),
            lambda: reader.end(topic, 2),
            lambda: reader.poll(topic, 2, 0, 1, 10),
        ):
            with pytest.raises(UnknownTopic) as caught:
                ask()
            assert len(str(caught.value).splitlines()) == 1

    def test_partitions_that_are_added_are_seen(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        assert reader.partitions(topic) == 1
        harness.add_partitions(topic, 3)
        assert _eventually(lambda: reader.partitions(topic) == 3)
        harness.put(topic, [b"here"], 2)
        assert read_all(reader, topic, 2) == [b"here"]

    def test_the_ends_of_several_partitions(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic(5)
        for partition in (1, 3):
            harness.put(topic, [b"x"] * partition, partition)
        assert reader.ends(topic, range(5)) == {0: 0, 1: 1, 2: 0, 3: 3, 4: 0} == {p: reader.end(topic, p) for p in range(5)}
        assert reader.ends(topic, [3]) == {3: 3} and reader.ends(topic, []) == {}
        with pytest.raises(UnknownTopic):
            reader.ends(topic, [3, 5])

    # ------------------------------------------------------------------------------------------------------------------- outages

    def test_a_broker_that_is_away_says_so_and_comes_back(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        harness.put(topic, [b"0"])
        assert reader.poll(topic, 0, 0, 10, 1000).next_offset == 1
        harness.pause()
        try:
            begun = time.monotonic()
            with pytest.raises(BrokerAway):
                reader.poll(topic, 0, 1, 10, 100)
            assert time.monotonic() - begun < 10
        finally:
            harness.resume()
        harness.put(topic, [b"1"])

        def next_one() -> FetchResult | None:
            fetched = reader.poll(topic, 0, 1, 10, 500)
            return fetched if len(fetched.offsets) else None

        assert _eventually(next_one).payloads.to_pylist() == [b"1"]

    def test_a_closed_reader_says_so(self, harness: BrokerHarness) -> None:
        reader, topic = harness.broker.open_reader(), harness.new_topic()
        assert reader.end(topic, 0) == 0
        reader.close()
        with pytest.raises(StoreError, match="closed"):
            reader.poll(topic, 0, 0, 1, 10)

    # --------------------------------------------------------------------------------------------------------------- dead letters

    def test_dead_letters_keep_all_of_their_records(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic, letters = harness.new_topic(), f"contract.dead.{next(_names)}"
        records: list[Original] = [(b"k%d" % n, b"v%d" % n, [("h", b"%d" % n)]) for n in range(5)]
        harness.append(topic, 0, records, [1_357_000_000_000_000 + n * 1000 for n in range(5)])
        fetched = reader.poll(topic, 0, 0, 10, 1000)
        writer = harness.broker.open_dead_letters(letters, 30.0)
        try:
            writer.write(topic, 0, "trips", fetched, np.array([1, 3]), ["no_json", "too_old"], ["why", None])
        finally:
            writer.close()
        found = [letter for letter in scan(reader, letters) if letter is not None]
        assert [(a.key, a.value, a.headers) for a in found] == [records[1], records[3]]
        first = found[0]
        assert isinstance(first, Letter)
        assert (first.source, first.reason, first.detail) == ("trips", "no_json", "why")
        assert (first.topic, first.partition, first.offset, first.topic_id) == (topic, 0, 1, reader.identity(topic))
        assert first.timestamp_us == 1_357_000_000_001_000 and first.written_us > 0
        listed = list_letters(harness.broker, letters, Choice(reason="too_old"), 5)
        assert dict(listed.records) == {("trips", "too_old"): 1}
        letter, times, replayed = find(harness.broker, letters, f"{topic}/0/1")
        assert (letter.identity, times, replayed) == (first.identity, 1, False)

    def test_dead_letters_that_cannot_be_written_raise(self, harness: BrokerHarness, reader: PartitionReader) -> None:
        topic = harness.new_topic()
        harness.put(topic, [b"0"])
        fetched = reader.poll(topic, 0, 0, 10, 1000)
        writer = harness.broker.open_dead_letters("no such name!", 5.0)
        try:
            with pytest.raises(StoreError) as caught:
                writer.write(topic, 0, "trips", fetched, np.array([0]), ["no_json"], [None])
            assert not isinstance(caught.value, BrokerAway)
        finally:
            writer.close()
