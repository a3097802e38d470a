"""A real Kafka for the suites of brokers and engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.brokers import KafkaHarness
from tests.kafka_server import kafka_server


@pytest.fixture(scope="package")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaHarness]:
    with kafka_server(tmp_path_factory.mktemp("kafka")) as process:
        harness = KafkaHarness(process)
        yield harness
        harness.admin.close()
