"""Shared by all trials: the slice and the broker are made once."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from pipelines.services.kafka_broker import Broker
from tests.kafka_server import kafka_server
from tests.prove.report import Part
from tests.prove.reporting import PATH, REPORT, keep_outcome
from tests.prove.slice import Slice, make_slice
from tests.prove.small import Starter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            if item.path.name != "test_small_engine.py":  # kills of the real stages in forks: quick enough for every run
                item.add_marker(pytest.mark.prove)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(3 * 3600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """How each test ended is kept with its part, whether or not it has figures: one that raised has none that say so."""
    phase = yield
    if Path(__file__).parent in item.path.parents:
        keep_outcome(REPORT.part(part_of(item)).about, phase, call.excinfo.value if call.excinfo is not None else None)
        if phase.when == "teardown" and not hasattr(item.config, "workeroutput") and REPORT.plain():
            REPORT.write(PATH)  # so that what was tried is kept, however the rest ends
    return phase


def part_of(item: pytest.Item) -> str:
    """The name of a test's part."""
    return item.nodeid.removeprefix("tests/prove/")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Part]:
    """What this test finds is a part of the report."""
    name = part_of(request.node)
    REPORT.parts.pop(name, None)
    part = REPORT.part(name)
    begun = time.monotonic()
    yield part
    part.about |= {"seconds": round(time.monotonic() - begun), "load at the end": round(os.getloadavg()[0], 1)}


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int:
    """How many of each kind."""
    count: int = request.config.getoption("--trials")
    return count


@pytest.fixture(scope="session")
def slice_(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("slice"))


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with kafka_server(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture(scope="package")
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    made.close()
