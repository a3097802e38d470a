"""Shared by all trials: the slice and the broker are made once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.services.kafka_broker import Broker
from tests.kafka_server import kafka_server
from tests.prove.report import Part
from tests.prove.reporting import PATH, REPORT
from tests.prove.slice import Slice, make_slice
from tests.prove.small import Starter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            if item.path.name != "test_small_engine.py":  # kills of the real stages in forks: quick enough for every run
                item.add_marker(pytest.mark.prove)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(3 * 3600))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Part]:
    """What this test finds is a part of the report."""
    name = request.node.nodeid.removeprefix("tests/prove/")
    REPORT.parts.pop(name, None)
    part = REPORT.part(name)
    begun = time.monotonic()
    yield part
    part.about |= {"seconds": round(time.monotonic() - begun), "load at the end": round(os.getloadavg()[0], 1)}
    if not hasattr(request.config, "workeroutput"):  # so that what was tried is kept, however the rest ends
        REPORT.write(PATH)


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int:
    """How many of each kind."""
    count: int = request.config.getoption("--trials")
    return count


@pytest.fixture(scope="session")
def slice_(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("slice"))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with kafka_server(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    made.close()
