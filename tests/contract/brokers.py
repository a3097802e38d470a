"""A real Kafka as the contract suites handle it."""

from __future__ import annotations

from collections.abc import Sequence

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewPartitions

from pipelines.services.kafka_broker import Broker as KafkaProcess
from pipelines.sources.broker import Original
from pipelines.sources.kafka.dead_letters import Value
from pipelines.sources.kafka.kafka_client import KafkaBroker
from tandem.testing.broker import BrokerHarness
from tests.integration.kafka_world import new_topic, options_of, producer


class KafkaHarness(BrokerHarness):
    def __init__(self, process: KafkaProcess) -> None:
        self.process, self.options = process, options_of(process.bootstrap)
        self.bootstrap_servers = process.bootstrap
        self.broker: KafkaBroker = KafkaBroker(self.options)
        self.admin = KafkaAdminClient(**self.options)

    def create_topic(self, name: str, partitions: int) -> None:
        new_topic(self.options, partitions, name, retention_ms="-1")

    def delete_topic(self, name: str) -> None:
        self.admin.delete_topics([name])

    def add_partitions(self, topic: str, total: int) -> None:
        self.admin.create_partitions({topic: NewPartitions(total)})

    def append(self, topic: str, partition: int, records: Sequence[Original], timestamps_us: Sequence[int] | None = None) -> None:
        stamps = [us // 1000 for us in timestamps_us] if timestamps_us is not None else [None] * len(records)
        with producer({**self.options, "value_serializer": Value()}, linger_ms=5) as sender:
            sent = [
                sender.send(topic, Value(value), key, [(n, v or b"") for n, v in headers], partition, stamp)
                for (key, value, headers), stamp in zip(records, stamps, strict=True)
            ]
            for future in sent:
                future.get(30)

    def truncate(self, topic: str, partition: int, before: int) -> None:
        self.admin.delete_records({TopicPartition(topic, partition): before})

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()
