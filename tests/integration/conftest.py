"""What the tests of reading and writing Kafka start from; a module with other needs has fixtures of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.services.kafka_broker import Broker
from pipelines.sources.broker import PartitionReader
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from tests.integration.kafka_world import options_of
from tests.kafka_server import kafka_server


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker, for the tests of one module."""
    with kafka_server(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="module")
def options(broker: Broker) -> dict[str, Any]:
    """Client options for it, as a job gets them."""
    return options_of(broker.bootstrap)


@pytest.fixture
def reader(options: dict[str, Any]) -> Iterator[PartitionReader]:
    """A reader of it, closed in the end."""
    found = KafkaPartitionReader(options)
    yield found
    found.close()
