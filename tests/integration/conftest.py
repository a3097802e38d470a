"""What several modules start from and none changes, made once in each process; a module with other needs has fixtures of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.services.kafka_broker import Broker
from pipelines.sources.broker import PartitionReader
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from tests.integration.kafka_world import options_of
from tests.kafka_server import kafka_server

if TYPE_CHECKING:
    from tests.integration.verify_world import Expected, Setting


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


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the event logs of a few days of flights."""
    from tests.integration.flights import make_logs

    data = tmp_path_factory.mktemp("logs")
    make_logs(data)
    return data


@pytest.fixture(scope="session")
def plain(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """For the tests of verify: the light repository; events come disordered, some too late."""
    from tests.integration.verify_world import setting

    return setting(tmp_path_factory.mktemp("plain"), logs, light=True)


@pytest.fixture(scope="session")
def honest(plain: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stream over it that does as it should."""
    folder = tmp_path_factory.mktemp("honest") / "stream"
    plain.stream(folder)
    return folder


@pytest.fixture(scope="session")
def expected(plain: Setting, honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The events that it read, and the rows that batch makes of them."""
    return plain.expected(honest, tmp_path_factory.mktemp("scratch"))
