"""What several modules start from and none changes, made once in each run; a module with other needs has fixtures of its own."""

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
from tests.made_once import made_once

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

    def make(data: Path) -> Path:
        make_logs(data)
        return data

    return made_once(tmp_path_factory, "logs", make)


@pytest.fixture(scope="session")
def plain(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """For the tests of verify: the light repository; events come disordered, some too late."""
    from tests.integration.verify_world import setting

    return made_once(tmp_path_factory, "plain", lambda folder: setting(folder, logs, light=True))


@pytest.fixture(scope="session")
def honest(plain: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stream over it that does as it should."""

    def make(folder: Path) -> Path:
        plain.stream(folder / "stream")
        return folder / "stream"

    return made_once(tmp_path_factory, "honest", make)


@pytest.fixture(scope="session")
def expected(plain: Setting, honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The events that it read, and the rows that batch makes of them."""
    return made_once(tmp_path_factory, "expected", lambda scratch: plain.expected(honest, scratch))
