"""What tests with a real broker share: topics, records, transactions, and reading all that a reader of committed records sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer

from pipelines.project.config import KafkaSettings
from pipelines.sources.broker import Original, PartitionReader
from pipelines.sources.kafka.kafka_client import client_options

_number = itertools.count()


def options_of(bootstrap: str) -> dict[str, Any]:
    """Client options as a job gets them."""
    return client_options(KafkaSettings(bootstrap_servers=bootstrap), Path("."))


def new_topic(options: dict[str, Any], partitions: int = 1, name: str | None = None, **config: str) -> str:
    """A new topic; its name."""
    topic = name or f"t{next(_number)}"
    admin = KafkaAdminClient(**options)
    try:
        configs = {key.replace("_", "."): value for key, value in config.items()}
        admin.create_topics({topic: {"num_partitions": partitions, "configs": configs}}, wait_for_metadata=True)
    finally:
        admin.close()
    return topic


def producer(options: dict[str, Any], **more: Any) -> KafkaProducer:
    """A producer for tests, to be used as a context."""
    return KafkaProducer(**options, **more)


def produce(options: dict[str, Any], topic: str, values: Iterable[bytes | None], partition: int = 0, **more: Any) -> None:
    """Records without keys (tombstones have one, as they must) in one partition, acknowledged."""
    with producer(options, **more) as p:
        for sent in [p.send(topic, value, None if value is not None else b"key", partition=partition) for value in values]:
            sent.get(30)


def drain(reader: PartitionReader, topic: str, partition: int = 0, offset: int | None = None, max_records: int = 1000) -> list[Original]:
    """All committed records from an offset (default: the first there is) to the end."""
    at = reader.start(topic, partition) if offset is None else offset
    end, found = reader.end(topic, partition), []
    while at < end:
        polled = reader.poll(topic, partition, at, max_records, 1000)
        found += polled.original(range_of(polled.offsets))
        assert polled.next_offset > at, "no progress"
        at = polled.next_offset
    return found


def range_of(offsets: Any) -> Any:
    """Every row."""
    import numpy as np

    return np.arange(len(offsets))


class KafkaTopics:
    """Topics of a real broker, by the calls that one in memory has. Records of the topics ``aborted`` are sent in transactions, and behind
    each hundred of them one that is aborted repeats some."""

    def __init__(self, bootstrap: str, aborted: frozenset[str] = frozenset()) -> None:
        self.address, self.options, self._aborted = bootstrap, options_of(bootstrap), aborted

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """A new topic."""
        new_topic(self.options, partitions, name, **config)

    def append(
        self, topic: str, partition: int, values: Sequence[bytes | None], keys: Sequence[bytes | None],
        headers: Sequence[list[tuple[str, bytes | None]]], timestamps_us: Sequence[int],
    ) -> None:  # fmt: skip
        """Acknowledged records, with times in whole milliseconds, as Kafka has them."""
        records = list(zip(values, keys, headers, timestamps_us, strict=True))
        more: dict[str, Any] = {"max_request_size": 16 << 20}
        if topic in self._aborted:
            more["transactional_id"] = f"{topic}-{partition}-{next(_number)}"
        with producer(self.options, **more) as p:

            def send(some: Iterable[Any]) -> None:
                sent = [p.send(topic, v, k, headers=h, partition=partition, timestamp_ms=us // 1_000) for v, k, h, us in some]
                p.flush()
                for each in sent:
                    each.get(30)

            if topic not in self._aborted:
                send(records)
                return
            p.init_transactions()
            for first in range(0, len(records), 100):
                for some, done in ((records[first : first + 100], p.commit_transaction), (records[:7], p.abort_transaction)):
                    p.begin_transaction()
                    send(some)
                    done()
